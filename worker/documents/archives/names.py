"""The names of entries: how they are read, which are left out, and which are refused."""

import unicodedata
from pathlib import PurePosixPath

from repositories.schemas import JobError
from worker.lengths import LONGEST_PATH, problem_of_path

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
_SHOWN = 60


def readable(raw: bytes, fallback: str) -> str:
    """Return a name as text: most writers mean UTF-8, whether they say so or not; the others mean ``fallback``."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(fallback, "replace")


def inner_path(name: str) -> str:
    """Return an entry's name with ``/`` between its parts and without ``.``; what leads outside is kept, to be seen."""
    parts = name.replace("\\", "/").split("/")
    return ("/" if name.startswith(("/", "\\")) else "") + "/".join(part for part in parts if part not in {"", "."})


def reason_to_skip(path: str) -> str | None:
    """Say why a file is left out: ``hidden``, ``macos`` or ``system``; ``None`` if it is not."""
    parts = PurePosixPath(path).parts
    if "__MACOSX" in parts:
        return "macos"
    if any(part.startswith(".") and part != ".." for part in parts):
        return "hidden"
    return "system" if parts and parts[-1].lower() in _SYSTEM_FILES else None


class NamesSeen:
    """The names of a tree, so that each file has one of its own on every kind of disk."""

    def __init__(self) -> None:
        self._by_key: dict[str, str] = {}

    def problem(self, path: str, full: str) -> JobError | None:
        """Say why an entry cannot have its name; ``None`` if it can, and then no other one can have it.

        Args:
            path: inside its archive, as :func:`inner_path` gives it.
            full: the archive's name and ``path``.
        """
        if (too_long := problem_of_path(full)) is not None:
            message = f"the archive holds a name that {too_long}: {full[:_SHOWN]}…; shorten it"
            return JobError(code="name_too_long", message=message)
        drive = path[1:2] == ":"
        if not path or path.startswith("/") or ".." in path.split("/") or drive or "\0" in path:
            message = f"the archive names a path outside itself: {path!r}; rename it and pack it anew"
            return JobError(code="unsafe_name", message=message)
        key = unicodedata.normalize("NFC", full.casefold())
        first = self._by_key.setdefault(key, full)
        if first is full:
            return None
        if first == full:
            message = f"{full} stands in the archive twice; the first one is taken"
            return JobError(code="duplicate_name", message=message)
        message = f"{full} and {first} differ only in case or accents' form; rename one and pack it anew"
        return JobError(code="name_clash", message=message)


def shown(full: str) -> str:
    """Return a refused entry's name as the record may hold it: short, and without NULs."""
    return full.replace("\0", "\ufffd")[:LONGEST_PATH]
