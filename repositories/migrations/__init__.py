"""The schema, as numbered steps (Alembic), and the calls that apply and read them.

They run without ``alembic.ini``; the ``alembic`` command works too, with ``DATABASE_URL`` set.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from repositories.errors import SchemaOutdatedError, connecting, translated

# Any number; everybody who migrates this schema takes the same advisory lock, so two of them do not race.
_LOCK = 7_202_611_240_001


def config() -> Config:
    """The Alembic configuration of this package."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    return settings


def head() -> str:
    """The newest revision that this code knows."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:  # pragma: no cover - there is at least one file beside this one
        raise RuntimeError("there are no migrations")
    return revision


async def upgrade(engine: AsyncEngine, revision: str = "head") -> None:
    """Bring the schema to ``revision``, in one transaction; a second caller waits for the first and finds it done.

    Raises:
        DatabaseUnavailableError: PostgreSQL does not answer.
    """

    def run(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)

    async with _connection(engine) as connection, connection.begin():
        await connection.run_sync(run)


async def current(engine: AsyncEngine) -> str | None:
    """Return the revision the database is at; ``None`` if it was never migrated.

    Raises:
        DatabaseUnavailableError: PostgreSQL does not answer.
    """

    def read(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    async with _connection(engine) as connection:
        return await connection.run_sync(read)


async def check(engine: AsyncEngine) -> None:
    """Return if the schema is the newest this code knows, or newer: steps are safe while older code runs.

    Raises:
        SchemaOutdatedError: steps are missing.
        DatabaseUnavailableError: PostgreSQL does not answer.
    """
    found = await current(engine)
    older = {step.revision for step in ScriptDirectory.from_config(config()).walk_revisions()} - {head()}
    if found is None or found in older:
        raise SchemaOutdatedError


@asynccontextmanager
async def _connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    with translated():
        async with AsyncExitStack() as stack:
            with connecting():
                connection = await stack.enter_async_context(engine.connect())
            yield connection
