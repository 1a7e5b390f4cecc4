"""Where PostgreSQL and Redis are, read from the environment and ``.env``.

``worker.settings.Settings`` inherits both classes, so that one object holds all settings of a process.
"""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio.connection import parse_url
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_DRIVER = "postgresql+asyncpg"


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
    return SecretStr(parts.render_as_string(hide_password=False))


def _redis_url(url: SecretStr) -> SecretStr:
    if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must begin with redis://, rediss:// (TLS) or unix://")
    try:
        parse_url(url.get_secret_value())
    except ValueError:
        raise ValueError("must be like redis://:password@host:6379/0") from None
    return url


def blank_is_unset(value: object) -> object:
    """An empty variable means the same as none: compose files and shells often set one."""
    return None if value == "" else value


class DatabaseSettings(BaseSettings):
    """How to reach PostgreSQL."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", hide_input_in_errors=True, validate_default=True
    )

    database_url: Annotated[
        Annotated[SecretStr, AfterValidator(_postgresql_url)] | None, BeforeValidator(blank_is_unset)
    ] = Field(
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
