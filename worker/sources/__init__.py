"""Where documents come from besides a disk: links and object storage, each fetched without trusting it."""

from worker.sources.errors import SourceError
from worker.sources.globs import Globs, GlobsError
from worker.sources.links import Fetched, LinkFetcher
from worker.sources.objects import ObjectEntry, ObjectSources

__all__ = [
    "Fetched",
    "Globs",
    "GlobsError",
    "LinkFetcher",
    "ObjectEntry",
    "ObjectSources",
    "SourceError",
]
