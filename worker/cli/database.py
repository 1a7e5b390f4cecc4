"""``worker db``: bring the schema up to date, and say where it is."""

import typer

from repositories.database import DatabaseManager
from repositories.migrations import current, head, upgrade
from worker.cli.context import connected_settings, exit_with, out, run
from worker.cli.exits import Exit
from worker.settings import require

app = typer.Typer(
    help="Bring the schema up to date, and say where it is.", no_args_is_help=True, rich_markup_mode="markdown"
)


@app.command("upgrade")
def upgrade_database() -> None:
    """Apply the migrations that are missing. Safe to run at every start, and from several machines at once."""
    before, after = run(_upgrade())
    done = "nothing to do" if before == after else f"migrated from {before or 'nothing'}"
    out.print(f"schema {after}: {done}")


@app.command("current")
def current_revision() -> None:
    """Say which migration the database is at. Exit status 1 if newer ones are missing."""
    found = run(_current())
    newest = head()
    out.print(f"{found or 'nothing'} (newest {newest})" + ("" if found == newest else ": run `worker db upgrade`"))
    exit_with(Exit.OK if found == newest else Exit.FAILED)


def _database() -> DatabaseManager:
    return DatabaseManager(require(connected_settings().migration_url, "DATABASE_DIRECT_URL"), pool_size=2)


async def _upgrade() -> tuple[str | None, str | None]:
    async with _database() as database:
        before = await current(database.engine)
        await upgrade(database.engine)
        return before, await current(database.engine)


async def _current() -> str | None:
    async with _database() as database:
        return await current(database.engine)
