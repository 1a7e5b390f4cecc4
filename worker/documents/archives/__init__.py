"""Opening archives without trusting them: zip, tar, tar.gz and tar.zst, one inside the other to a bound.

Promise: nothing is ever unpacked to a path that an archive names. Entries become temporary files without a name, so
``../../etc/passwd`` cannot reach a file; it is still refused, because whoever wrote it meant harm or made a mistake.
Neither memory nor disk nor time grows beyond :class:`ArchiveBounds`, whatever the bytes are.
"""

from worker.documents.archives.archive import Archive, Entry
from worker.documents.archives.bounds import ArchiveBounds
from worker.documents.archives.errors import ArchiveError, EntryError
from worker.documents.archives.kinds import is_archive

__all__ = ["Archive", "ArchiveBounds", "ArchiveError", "Entry", "EntryError", "is_archive"]
