"""Where PostgreSQL and Redis are, read from the environment and ``.env``.

``worker.settings.Settings`` inherits both classes, so that one object holds all settings of a process.
"""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio.connection import parse_url
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from repositories.engine import leads_to_pgbouncer, through_pgbouncer

_DRIVER = "postgresql+asyncpg"


def blank_is_unset(value: object) -> object:
    """An empty variable means the same as none: compose files and shells often set one."""
    return None if value == "" else value


def without_credentials(url: str, instead: str) -> str:
    """Return a URL that is shown, logged and passed on as it is: it may hold no user, password or query.

    Args:
        url: an address, or a path.
        instead: where the secret belongs.

    Raises:
        ValueError: it holds one; the message does not repeat it.
    """
    parts = urlsplit(url)
    if "://" in url and ("@" in parts.netloc or parts.query or parts.fragment):
        raise ValueError(f"must hold no user, password or query: put secrets into {instead}")
    return url


def _postgresql_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    scheme = text.split("://", 1)[0]
    if scheme not in {"postgresql", "postgres", _DRIVER}:
        raise ValueError("must begin with postgresql+asyncpg:// (PostgreSQL is the only database)")
    try:
        # Whatever spelling a host or a platform gives, asyncpg is the driver, and it calls libpq's sslmode ssl.
        parts = make_url(text.replace(scheme, _DRIVER, 1))
    except (ArgumentError, ValueError):
        raise ValueError("must be like postgresql+asyncpg://user:password@host:5432/name") from None
    if "sslmode" in parts.query:
        parts = parts.update_query_dict({"ssl": parts.query["sslmode"]}).difference_update_query(["sslmode"])
    leads_to_pgbouncer(parts)
    return SecretStr(parts.render_as_string(hide_password=False))


PostgresqlUrl = Annotated[Annotated[SecretStr, AfterValidator(_postgresql_url)] | None, BeforeValidator(blank_is_unset)]
"""A URL of PostgreSQL, spelled for the driver; an empty one is none."""


def _redis_url(url: SecretStr) -> SecretStr:
    if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must begin with redis://, rediss:// (TLS) or unix://")
    try:
        parse_url(url.get_secret_value())
    except ValueError:
        raise ValueError("must be like redis://:password@host:6379/0") from None
    return url


class DatabaseSettings(BaseSettings):
    """How to reach PostgreSQL."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", hide_input_in_errors=True, validate_default=True
    )

    database_url: PostgresqlUrl = Field(
        default=None,
        description=(
            "PostgreSQL 14 or newer, as postgresql+asyncpg://user:password@host:5432/name. "
            "Unset: the embedded server of `worker dev`."
        ),
    )
    database_pool_size: int = Field(default=10, ge=1, le=500, description="Connections kept open in each process.")
    database_max_overflow: int = Field(
        default=20, ge=0, le=500, description="Connections opened beyond the pool under load, and closed again."
    )
    database_replica_url: PostgresqlUrl = Field(
        default=None,
        description=(
            "A streaming replica of DATABASE_URL, for lists and statistics; what decides or writes never reads there. "
            "Unset, or while it does not answer: the primary."
        ),
    )
    database_pgbouncer: bool = Field(
        default=False,
        description=(
            "Whether DATABASE_URL and DATABASE_REPLICA_URL lead to PgBouncer in transaction mode. "
            "One URL alone: pgbouncer=true in its query."
        ),
    )
    database_direct_url: PostgresqlUrl = Field(
        default=None,
        description="The server of DATABASE_URL without PgBouncer, for migrations. Unset: DATABASE_URL.",
    )

    @model_validator(mode="after")
    def _mark_pgbouncer(self) -> Self:
        """Put the flag into the URLs, where whoever opens one finds it."""
        if self.database_pgbouncer:
            for name in ("database_url", "database_replica_url"):
                if (url := getattr(self, name)) is not None:
                    marked = through_pgbouncer(make_url(url.get_secret_value()))
                    setattr(self, name, SecretStr(marked.render_as_string(hide_password=False)))
        return self

    @property
    def migration_url(self) -> SecretStr | None:
        """Where migrations run: a connection of their own; ``None`` if only PgBouncer is known."""
        url = self.database_direct_url or self.database_url
        return None if url is None or leads_to_pgbouncer(make_url(url.get_secret_value())) else url


class CacheSettings(BaseSettings):
    """How to reach Redis. The queue always needs it; ``redis_enabled`` governs only the cache."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", hide_input_in_errors=True, validate_default=True
    )

    redis_url: Annotated[Annotated[SecretStr, AfterValidator(_redis_url)] | None, BeforeValidator(blank_is_unset)] = (
        Field(
            default=None,
            description=(
                "Redis 6.2 or newer, as redis://:password@host:6379/0. Unset: the embedded server of `worker dev`."
            ),
        )
    )
    redis_enabled: bool = Field(default=True, description="Whether the cache uses Redis; false keeps it in memory.")
    redis_pool_size: int = Field(default=10, ge=1, le=500, description="Redis connections of each process.")
