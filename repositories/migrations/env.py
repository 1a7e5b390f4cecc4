"""Alembic's entry: runs the steps on the connection it was handed, or on one to ``DATABASE_URL``."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from repositories.models import Base
from repositories.settings import DatabaseSettings

# What the models do not map on purpose: the vector column and its index, where pgvector is there.
UNMAPPED = {("column", "embedding"), ("index", "ix_passages_embedding")}


def run(connection: Connection) -> None:
    """Run the steps in the caller's transaction, or in one of their own."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=lambda _, name, kind, *__: (kind, name) not in UNMAPPED,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    """For the ``alembic`` command: connect to ``DATABASE_URL``."""
    url = DatabaseSettings().database_url
    if url is None:
        raise SystemExit("DATABASE_URL is not set: export it, or use `worker db upgrade`")
    engine = create_async_engine(url.get_secret_value())
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline mode (--sql) is not supported: the first step asks the server whether it has pgvector")
handed = context.config.attributes.get("connection")
if handed is None:
    asyncio.run(connect_and_run())
else:
    run(handed)
