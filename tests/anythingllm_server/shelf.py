"""What outlives a restart: models by key, in SQLite as the real server's rows are.

A killed process loses nothing that was put; a machine that loses its power may.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


class Shelf:
    """The file behind every :class:`Kept`; in memory where no folder is given."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(
            ":memory:" if folder is None else folder / "state.sqlite", isolation_level=None
        )
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = OFF")  # the process is killed in tests, not the machine
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS things (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL,"
            " body TEXT NOT NULL, UNIQUE (kind, key))"
        )

    def close(self) -> None:
        """Give the file back."""
        self.connection.close()


class Kept(Generic[Model]):
    """Models of one kind by key, in the order they were first put."""

    def __init__(self, shelf: Shelf, model: type[Model]) -> None:
        self._connection, self._kind = shelf.connection, model.__name__
        found = self._connection.execute(
            "SELECT key, body FROM things WHERE kind = ? ORDER BY number", (self._kind,)
        ).fetchall()
        self._things: dict[str, Model] = {key: model.model_validate_json(body) for key, body in found}

    def put(self, key: str, thing: Model) -> None:
        """Keep it, in place of what had the same key."""
        self._things[key] = thing
        self._connection.execute(
            "INSERT INTO things (kind, key, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
            (self._kind, key, thing.model_dump_json()),
        )

    def pop(self, key: str) -> Model | None:
        """Forget it and return it, if it was there."""
        self._connection.execute("DELETE FROM things WHERE kind = ? AND key = ?", (self._kind, key))
        return self._things.pop(key, None)

    def get(self, key: str) -> Model | None:
        """Return what is kept under this key."""
        return self._things.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._things

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._things.values()))

    def __len__(self) -> int:
        return len(self._things)
