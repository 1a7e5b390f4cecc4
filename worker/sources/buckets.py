"""Objects in a bucket that obstore opens (S3, GCS, Azure)."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import ObjectStore

from worker.sources.errors import SourceError
from worker.sources.places import Listed, Location
from worker.storage.errors import MISSING
from worker.storage.reading import open_object

if TYPE_CHECKING:
    from obstore import ObjectMeta  # it is in the stubs alone

_PAGE = 1_000


class Bucket:
    """A place of objects; see :class:`worker.sources.places.Place`.

    Args:
        store: the whole bucket.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def look(self, location: Location) -> Listed:
        """Return what is known of one object.

        Raises:
            SourceError: ``object_not_found``, ``object_unreachable``.
        """
        with translated(location):
            return _listed(location, await obstore.head_async(self._store, location.path))

    async def walk(self, location: Location, most: int) -> AsyncGenerator[Listed, None]:
        """Give every object below a folder, a page in memory at a time.

        Raises:
            SourceError: ``too_many_objects``, ``object_unreachable``.
        """
        pages, seen = obstore.list(self._store, location.path or None, chunk_size=_PAGE).__aiter__(), 0
        while True:
            with translated(location):
                page = await anext(pages, None)
            if page is None:
                return
            for meta in page:
                found = location._replace(parts=tuple(meta["path"].split("/")), folder=False)
                if not location.holds(found):
                    continue  # a store may also list the folder's own marker
                seen += 1
                if seen > most:
                    raise SourceError("too_many_objects", f"{location} holds more than {most:,} objects: split it")
                yield _listed(found, meta)

    def open(self, listed: Listed) -> BinaryIO:
        """Open an object that is still as it was listed; reading it raises the same errors.

        Raises:
            SourceError: ``source_changed``, ``object_not_found``, ``object_unreachable``.
        """
        location = listed.location
        with translated(location):
            now = _listed(location, obstore.head(self._store, location.path))
        if not _same(now, listed):
            raise changed(location)
        return open_object(self._store, location.path, listed.size, partial(translated, location), listed.etag)


def changed(location: Location) -> SourceError:
    """The object is another than was listed."""
    return SourceError("source_changed", f"{location} has changed since it was listed: enqueue it again")


def missing(location: Location) -> SourceError:
    """The object is not there."""
    return SourceError("object_not_found", f"{location} is not there: check the spelling (a folder ends with /)")


@contextmanager
def translated(location: Location) -> Iterator[None]:
    """Turn what a store raises into a :class:`SourceError`; its own text may hold a secret and is left out.

    Raises:
        SourceError: ``object_not_found``, ``source_changed``, ``object_unreachable``.
    """
    try:
        yield
    except MISSING as error:
        raise missing(location) from error
    except PreconditionError as error:
        raise changed(location) from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        message = f"{location} may not be read with the worker's credentials: grant them read and list"
        raise SourceError("object_unreachable", message) from error
    except (BaseError, OSError, ValueError) as error:
        message = f"{location} cannot be reached ({type(error).__name__}): try again later"
        raise SourceError("object_unreachable", message, transient=True) from error


def _same(now: Listed, listed: Listed) -> bool:
    if now.size != listed.size:
        return False
    if now.etag is not None and listed.etag is not None:
        return now.etag == listed.etag
    # Some stores list milliseconds, and tell seconds of a single object.
    return now.modified.replace(microsecond=0) == listed.modified.replace(microsecond=0)


def _listed(location: Location, meta: "ObjectMeta") -> Listed:
    return Listed(location, meta["size"], meta["e_tag"], meta["last_modified"])
