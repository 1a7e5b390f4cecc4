"""What every command needs before it can begin: settings, servers, a console; and how its errors look."""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer
from pydantic import SecretStr, ValidationError

from repositories.embedded import (
    EmbeddedServersError,
    Servers,
    default_data_dir,
    embedded_servers,
    running_servers,
)
from repositories.errors import DatabaseRefusedError, DatabaseStateError, RepositoryError, SchemaOutdatedError
from worker.cli.console import PlainConsole
from worker.cli.exits import Exit
from worker.client import JobClient, WorkspaceNotFoundError, open_client
from worker.ending import end_all
from worker.files import NoFilesError
from worker.masking import mask
from worker.questions.question_set import QuestionSetError
from worker.queue import QueueUnavailableError
from worker.settings import Settings, SettingsError, load_settings
from worker.sources import GlobsError
from worker.storage import StorageUnavailableError
from worker.telemetry import configure_logging
from worker.visible import one_line

T = TypeVar("T")

_OF_SEVERAL_LINES = (SettingsError, EmbeddedServersError)  # a line for each setting; the end of a log

_PIPED_WIDTH = 240  # a table that goes to a file or a pipe is not squeezed into 80 columns

# Without markup: what is printed comes from files and other services, and [brackets] in it are only text.
out = PlainConsole(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = PlainConsole(stderr=True, width=None if sys.stderr.isatty() else _PIPED_WIDTH)

_STATUS_OF_ERROR: dict[type[Exception], Exit] = {
    SettingsError: Exit.USAGE,
    NoFilesError: Exit.USAGE,
    GlobsError: Exit.USAGE,
    QuestionSetError: Exit.USAGE,
    WorkspaceNotFoundError: Exit.USAGE,
    SchemaOutdatedError: Exit.USAGE,
    DatabaseRefusedError: Exit.USAGE,
    DatabaseStateError: Exit.UNAVAILABLE,
    QueueUnavailableError: Exit.UNAVAILABLE,
    StorageUnavailableError: Exit.UNAVAILABLE,
    EmbeddedServersError: Exit.UNAVAILABLE,
    RepositoryError: Exit.FAILED,
}

UNAVAILABLE = tuple(kind for kind, status in _STATUS_OF_ERROR.items() if status is Exit.UNAVAILABLE)
"""The errors of a server that is away: the same may work later."""


@contextmanager
def reported(debug: bool) -> Iterator[None]:  # noqa: FBT001 - the value of --debug
    """Turn an error that a person can mend into a line or two on stderr and an exit status, unless ``debug``."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    except ValidationError as error:
        if debug:
            raise
        problem = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        rule = problem["msg"].removeprefix("Value error, ")
        fail(f"{place}: {rule}" if place else rule, Exit.USAGE)
    except tuple(_STATUS_OF_ERROR) as error:
        if debug:
            raise
        status = next(code for kind, code in _STATUS_OF_ERROR.items() if isinstance(error, kind))
        fail(str(error), status, lines=isinstance(error, _OF_SEVERAL_LINES))


def fail(message: str, status: Exit, *, lines: bool = False) -> None:
    """Say what is wrong on stderr, and end with ``status``.

    Args:
        message: what is wrong; the names in it may be anything.
        status: what it ends with.
        lines: line breaks in the message are ours, and stay.

    Raises:
        SystemExit: always.
    """
    shown = mask(message)
    err.print(f"worker: {shown if lines else one_line(shown)}", style="red", markup=False, highlight=False)
    raise SystemExit(status)


def note(text: str, style: str = "dim") -> None:
    """Say something in passing on stderr, on one line whatever names are in it."""
    err.print(one_line(mask(text)), style=style, highlight=False)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C ends it, whatever a library does with the cancellation."""
    try:
        return asyncio.run(_interruptible(_ending(work)))
    except _EndedError as ended:
        raise SystemExit(ended.status) from None
    except asyncio.CancelledError:  # only Ctrl-C cancels a command; a library may cancel it once more for that
        raise KeyboardInterrupt from None


class _EndedError(Exception):
    def __init__(self, status: Any) -> None:
        super().__init__(status)
        self.status = status


async def _ending(work: Coroutine[Any, Any, T]) -> T:
    """As ``work``; a ``SystemExit`` in a task would leave the loop at once, and asyncio would report the task later."""
    try:
        return await work
    except SystemExit as ended:
        raise _EndedError(ended.code) from None


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await end_all([task])
        raise
    return task.result()


def data_dir(settings: Settings) -> Path:
    """Where the embedded servers keep their data: a folder for each working folder, unless DATA_DIR says."""
    return settings.data_dir or default_data_dir(Path.cwd())


@contextmanager
def own_servers(settings: Settings) -> Iterator[Settings]:
    """Embedded servers in place of those that are not set, for as long as the block lasts."""
    with embedded_servers(
        data_dir(settings),
        database_url=None if settings.database_url is None else settings.database_url.get_secret_value(),
        redis_url=None if settings.redis_url is None else settings.redis_url.get_secret_value(),
    ) as servers:
        yield with_servers(settings, servers)


def with_servers(settings: Settings, servers: Servers) -> Settings:
    """The settings, with the servers and the storage folder that belong to them."""
    changes: dict[str, Any] = {
        "database_url": SecretStr(servers.database_url),
        "redis_url": SecretStr(servers.redis_url),
    }
    if "storage_url" not in settings.model_fields_set:
        changes["storage_url"] = str(data_dir(settings) / "storage")
    return settings.model_copy(update=changes)


def environment(settings: Settings) -> dict[str, str]:
    """What worker processes must be told to use the same servers."""
    values = {"STORAGE_URL": settings.storage_url}
    if settings.anythingllm_url is not None and settings.anythingllm_api_key is not None:
        values["ANYTHINGLLM_URL"] = settings.anythingllm_url
        values["ANYTHINGLLM_API_KEY"] = settings.anythingllm_api_key.get_secret_value()
    if settings.database_url is not None:
        values["DATABASE_URL"] = settings.database_url.get_secret_value()
    if settings.redis_url is not None:
        values["REDIS_URL"] = settings.redis_url.get_secret_value()
    return values


def connected_settings() -> Settings:
    """The settings, with the servers of a running `worker dev` in place of those that are not set.

    Raises:
        SettingsError: a server is not set and no `worker dev` runs here.
    """
    settings = load_settings()
    if settings.database_url is not None and settings.redis_url is not None:
        return settings
    servers = running_servers(
        data_dir(settings),
        database_url=None if settings.database_url is None else settings.database_url.get_secret_value(),
        redis_url=None if settings.redis_url is None else settings.redis_url.get_secret_value(),
    )
    if servers is None:
        missing = "DATABASE_URL" if settings.database_url is None else "REDIS_URL"
        raise SettingsError(
            f"{missing} is not set and no `worker dev` runs here: start it in another terminal, or set it"
        )
    return with_servers(settings, servers)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[JobClient, Settings]]:
    """A client for one command."""
    settings = connected_settings()
    configure_logging(settings.log_level, settings.log_format)
    async with open_client(settings) as client:
        yield client, settings


def exit_with(status: Exit) -> None:
    """End the command with ``status`` if it is not OK.

    Raises:
        typer.Exit: it is not.
    """
    if status is not Exit.OK:
        raise typer.Exit(code=int(status))
