"""Every setting of a process, in one object, read from the environment and ``.env``.

A malformed variable stops the process with a message that names it; ``worker settings`` shows what is in effect, and
``.env.example`` documents each one (a test keeps the two in step).
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import NoDecode, SettingsConfigDict

from repositories.queue_names import DEFAULT_QUEUE
from repositories.schemas import QueueName
from repositories.settings import CacheSettings, DatabaseSettings, blank_is_unset
from worker.document_settings import MIB, DocumentSettings, split
from worker.engine_settings import EngineSettings


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important line that is written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Settings(DatabaseSettings, CacheSettings, EngineSettings, DocumentSettings):
    """What a worker, a client and the command line need to know."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        hide_input_in_errors=True,
        validate_default=True,
        populate_by_name=True,
    )

    worker_concurrency: int = Field(
        default=10,
        ge=1,
        le=500,
        validation_alias=AliasChoices("WORKER_CONCURRENCY", "MAX_CONCURRENT_JOBS"),
        description="Jobs that one worker process runs at a time.",
    )
    worker_queues: Annotated[tuple[QueueName, ...], NoDecode, BeforeValidator(split)] = Field(
        default=(DEFAULT_QUEUE,),
        min_length=1,
        max_length=64,
        description="The queues whose jobs this worker runs, separated by commas.",
    )
    item_concurrency: int = Field(default=12, ge=1, le=64, description="Documents or questions of one job at a time.")
    job_timeout_seconds: int = Field(
        default=3600, ge=1, le=604_800, description="How long one attempt at a job may run, unless the job says."
    )
    job_max_attempts: int = Field(
        default=3, ge=1, le=100, description="How many errors of the work end a job, unless the job says."
    )
    lease_seconds: float = Field(
        default=4.0, gt=0, le=3600, description="How long a silent worker keeps its jobs before others may take them."
    )
    heartbeat_seconds: float = Field(default=1.0, gt=0, le=600, description="How often a worker extends its leases.")
    rescue_seconds: float = Field(default=0.5, gt=0, le=600, description="How often lost leases are looked for.")
    reconcile_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="How often Redis is compared with PostgreSQL."
    )
    shutdown_grace_seconds: int = Field(
        default=20, ge=0, le=3600, description="How long running jobs may go on after SIGTERM before they are put back."
    )
    max_rss_bytes: Annotated[int | None, BeforeValidator(blank_is_unset)] = Field(
        default=None,
        ge=64 * MIB,
        description=(
            "`worker run` with several processes replaces one that holds more memory than this, in bytes. "
            "A worker takes about 120 MiB from the start. Unset: no bound."
        ),
    )
    job_cleanup_days: int = Field(
        default=7, ge=1, le=3650, description="Retention: how many days finished jobs stay on the record."
    )
    data_dir: Annotated[Path | None, BeforeValidator(blank_is_unset)] = Field(
        default=None,
        description="Where the embedded servers keep their data. Unset: a folder of the user's.",
    )
    log_level: LogLevel = Field(default=LogLevel.INFO, description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(
        default=LogFormat.AUTO, description="text, json, or auto: text on a terminal and JSON otherwise."
    )

    @model_validator(mode="after")
    def _leases_outlive_their_heartbeat(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS, or a late one loses every job")
        return self


class SettingsError(ValueError):
    """The environment or ``.env`` holds a value that cannot be used; the message names each variable."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        overrides: values that win over the environment, by field name.

    Raises:
        SettingsError: a variable is malformed; the message names it and its rule, never its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_told, error.errors(include_input=False)))) from None


def require(value: SecretStr | None, variable: str) -> str:
    """Return the text of a setting that must be set.

    Raises:
        SettingsError: it is not; the message says what to do.
    """
    if value is None:
        raise SettingsError(f"{variable} is not set: export it or put it into .env (`worker dev` needs neither)")
    return value.get_secret_value()


def variable_name(field: str) -> str:
    """The environment variable of a field."""
    return field.upper()


def _told(problem: ErrorDetails) -> str:
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{variable_name(str(problem['loc'][0]))}: {rule}" if problem["loc"] else rule
