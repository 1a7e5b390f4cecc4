"""Documents in object storage and shared folders: listed, checked and read, only below places an operator allowed.

A URL is taken apart into a place (``s3://bucket``) and the names of a path before anything is compared, so that no
spelling (``..``, ``%2e%2e``, ``//``, a look-alike host) leads out of an allowed prefix. What was listed is what is
read: an object that changed since is refused, also in the middle of reading.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO

from obstore.store import ObjectStore, from_url

from worker.sources.buckets import Bucket, translated
from worker.sources.errors import SourceError
from worker.sources.folders import Folder
from worker.sources.globs import Globs
from worker.sources.places import Listed, Location, Place, parse

if TYPE_CHECKING:
    from obstore.store import RetryConfig  # it is in the stubs alone

# Of the objects that are looked at, those that the patterns leave out included.
_LISTED_FOR_EACH_ENTRY = 100
# obstore gives a request 30 s by itself; options of ours would replace those of the environment (AWS_ALLOW_HTTP).
_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}


def _open_store(url: str) -> ObjectStore:
    return from_url(url, retry_config=_RETRIES)


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object, as it was listed.

    Attributes:
        name: its path below the prefix it was found under; of a single object, its last part.
        url: where it is; it can be given to :meth:`ObjectSources.expand` again.
        size: in bytes.
        etag: its version, where the store tells one.
        modified: when it was written, UTC.
    """

    name: str
    url: str
    size: int
    etag: str | None = field(repr=False)
    modified: datetime


class ObjectSources:
    """The places that documents may be read from.

    Args:
        allowed: URL prefixes (``s3://bucket/inbox/``, ``gs://…``, ``az://container/…``, ``file:///srv/inbox/``), each
            a whole folder: ``s3://bucket/inbox`` does not allow ``s3://bucket/inbox-2/``. With none, nothing is.
        max_entries: that one URL may stand for, 1 or more.
        open_store: opens a bucket by its URL; credentials come from the environment, as obstore reads them.

    Raises:
        ValueError: a prefix is no such URL; the message says why.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        *,
        max_entries: int = 10_000,
        open_store: Callable[[str], ObjectStore] = _open_store,
    ) -> None:
        if max_entries < 1:
            raise ValueError("max_entries must be 1 or more")
        try:
            self._allowed = [parse(url) for url in allowed]
        except SourceError as error:
            raise ValueError(f"an allowed prefix cannot be used: {error}") from None
        self._max_entries, self._open_store = max_entries, open_store
        self._stores: dict[str, ObjectStore] = {}

    async def expand(
        self, url: str, include: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> AsyncGenerator[ObjectEntry, None]:
        """List what a URL stands for: one object, or everything below a prefix, whose URL ends with a slash.

        Args:
            url: below an allowed prefix.
            include: patterns of names below the prefix (:class:`Globs`); without any, all are meant.
            exclude: patterns of names that are not meant.

        Raises:
            SourceError: ``object_forbidden``, ``object_not_found`` (also where nothing is below the prefix, or nothing
                fits), ``object_unreachable``, ``too_many_objects``.
            GlobsError: a pattern cannot be used.
        """
        globs, location = Globs(include, exclude), parse(url)
        place = self._place(location)
        if not location.folder:
            yield _entry(await place.look(location), location.parts[-1:])
            return
        count = 0
        async with aclosing(place.walk(location, self._max_entries * _LISTED_FOR_EACH_ENTRY)) as found:
            async for listed in found:
                below = listed.location.parts[len(location.parts) :]
                if not globs.matches("/".join(below)):
                    continue
                count += 1
                if count > self._max_entries:
                    most = f"{self._max_entries:,}"
                    raise SourceError("too_many_objects", f"{location} stands for more than {most} objects: split it")
                yield _entry(listed, below)
        if count == 0:
            raise SourceError("object_not_found", f"nothing in {location} fits: check the URL and the patterns")

    def open(self, entry: ObjectEntry) -> BinaryIO:
        """Return an object as a seekable file. Blocks: use a thread.

        Reading a bucket's object asks the store for a megabyte at a time and may raise the same errors.

        Raises:
            SourceError: ``source_changed``, it is not what was listed; ``object_forbidden``, ``object_not_found``,
                ``object_unreachable``.
        """
        location = parse(entry.url)
        return self._place(location).open(Listed(location, entry.size, entry.etag, entry.modified))

    def _place(self, location: Location) -> Place:
        root = next((allowed for allowed in self._allowed if allowed.holds(location)), None)
        if root is None:
            raise SourceError("object_forbidden", f"{location} is not below a place that is allowed: ask an operator")
        if root.scheme == "file":
            return Folder(root)
        with translated(location):
            if root.root not in self._stores:
                self._stores[root.root] = self._open_store(root.root)
        return Bucket(self._stores[root.root])


def _entry(listed: Listed, below: Sequence[str]) -> ObjectEntry:
    readable = "/".join(below).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = "".join(character if character.isprintable() else "\ufffd" for character in readable)
    return ObjectEntry(name, str(listed.location), listed.size, listed.etag, listed.modified)
