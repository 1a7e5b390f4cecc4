"""Alembic's entry: runs the steps on the connection it was handed, or on one to ``DATABASE_URL``."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.types import UserDefinedType

from repositories.models import Base
from repositories.settings import DatabaseSettings

# What the models do not map on purpose: the vector column and its index, where pgvector is there.
UNMAPPED = {("column", "embedding"), ("index", "ix_passages_embedding")}


class Vector(UserDefinedType[object]):
    """Names pgvector's type when the tables are compared, so that SQLAlchemy does not warn of one it does not know."""

    cache_ok = True

    def __init__(self, dimensions: str | None = None) -> None:
        self.dimensions = dimensions


def run(connection: Connection) -> None:
    """Run each step in a transaction of its own; a step may leave it to build an index concurrently.

    The connection must not be in a transaction. Its statement timeout is off meanwhile: an index of a big table takes
    as long as it takes.
    """
    connection.dialect.ischema_names["vector"] = Vector  # type: ignore[attr-defined]  # PostgreSQL's dialect has it
    connection.exec_driver_sql("SET statement_timeout = 0")
    connection.commit()
    try:
        _run_steps(connection)
    finally:
        connection.rollback()
        connection.exec_driver_sql("RESET statement_timeout")
        connection.commit()


def _run_steps(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        include_object=lambda _, name, kind, *__: (kind, name) not in UNMAPPED,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    """For the ``alembic`` command: connect to ``DATABASE_DIRECT_URL``, or else to ``DATABASE_URL``."""
    url = DatabaseSettings().migration_url
    if url is None:
        raise SystemExit(
            "DATABASE_URL (behind PgBouncer: DATABASE_DIRECT_URL) is not set: export it, or use `worker db`"
        )
    engine = create_async_engine(url.get_secret_value())
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline mode (--sql) is not supported: the first step asks the server whether it has pgvector")
handed = context.config.attributes.get("connection")
if handed is None:
    asyncio.run(connect_and_run())
else:
    run(handed)
