"""Names of objects: a URL taken apart, so strictly that two spellings of a place are one or are refused."""

import re
from collections.abc import AsyncGenerator, Collection
from datetime import datetime
from typing import BinaryIO, NamedTuple, Protocol
from urllib.parse import quote, unquote, urlsplit

from worker.sources.errors import SourceError

_LONGEST_URL = 4_096
_SCHEMES = frozenset({"s3", "gs", "az", "file"})
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")
_UNSAFE = frozenset({"", ".", ".."})


class Location(NamedTuple):
    """An object, or a folder of objects.

    Attributes:
        scheme: ``s3``, ``gs``, ``az`` or ``file``.
        bucket: its bucket or container; empty for files.
        parts: of its path, decoded; a name that is no UTF-8 holds surrogates, as :func:`os.fsdecode` makes them.
        folder: it stands for everything below it.
    """

    scheme: str
    bucket: str
    parts: tuple[str, ...]
    folder: bool

    def __str__(self) -> str:
        path = "/".join(quote(part.encode("utf-8", "surrogateescape"), safe="") for part in self.parts)
        return f"{self.root}/{path}{'/' if self.folder and path else ''}"

    @property
    def root(self) -> str:
        """The URL of its bucket."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def path(self) -> str:
        """Its key within the bucket."""
        return "/".join(self.parts)

    def holds(self, other: "Location") -> bool:
        """Whether ``other`` is below this folder, or is it."""
        same = (self.scheme, self.bucket, self.parts) == (other.scheme, other.bucket, other.parts[: len(self.parts)])
        return same and (len(other.parts) > len(self.parts) or other.folder)

    def below(self, parts: Collection[str]) -> "Location":
        """The object under this folder with these further parts."""
        return self._replace(parts=(*self.parts, *parts), folder=False)


class Listed(NamedTuple):
    """An object as its store tells of it: ``size`` in bytes, ``etag`` where there is one, ``modified`` in UTC."""

    location: Location
    size: int
    etag: str | None
    modified: datetime


class Place(Protocol):
    """Reads from one bucket or folder; every call may raise :class:`SourceError`."""

    async def look(self, location: Location) -> Listed:
        """Return what is known of one object."""
        ...

    def walk(self, location: Location, most: int) -> AsyncGenerator[Listed, None]:
        """Give every object below a folder; more than ``most`` are an error (``too_many_objects``)."""
        ...

    def open(self, listed: Listed) -> BinaryIO:
        """Open an object that is still as it was listed. Blocks."""
        ...


def parse(url: str) -> Location:
    """Take a URL apart; one whose path ends with a slash, or is empty, is a folder.

    Raises:
        SourceError: ``object_forbidden``; nothing that is not spelled plainly is looked at.
    """
    if len(url) > _LONGEST_URL or not url.isprintable() or any(character.isspace() for character in url):
        raise _odd("it is too long, or holds spaces or control characters; encode them as %20 and so on")
    try:
        scheme, bucket, path, query, fragment = urlsplit(url)
        errors = "surrogateescape" if scheme == "file" else "strict"
        parts = [unquote(part, errors=errors) for part in path.split("/")[1:]]
    except ValueError as error:
        raise _odd("it is not a URL in UTF-8") from error
    if scheme not in _SCHEMES or not url.startswith(f"{scheme}://"):
        raise _odd(f"it must begin with {', '.join(f'{known}://' for known in sorted(_SCHEMES))}")
    if query or fragment or "?" in url or "#" in url:
        raise _odd("it has a query or a fragment; write ? as %3F and # as %23 in a name")
    if bool(bucket) == (scheme == "file") or not _BUCKET.fullmatch(bucket or "file"):
        raise _odd("its bucket is not one (file:/// has three slashes, and nothing has a user or a port)")
    folder = not parts or parts[-1] == ""
    parts = parts[:-1] if folder else parts
    if any(part in _UNSAFE or "/" in part or "\x00" in part for part in parts):
        raise _odd("its path has a part that is empty, . or .., or an encoded slash; name folders from the top down")
    return Location(scheme, bucket, tuple(parts), folder)


def _odd(why: str) -> SourceError:
    return SourceError("object_forbidden", f"the object URL cannot be used: {why}")
