"""What can be wrong with an archive, and with one file in it: both carry a :class:`JobError` for the record."""

from repositories.schemas import JobError


class _RefusedError(Exception):
    """Something was refused.

    Attributes:
        error: the code for machines, and a sentence that names the archive or the file.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.error = JobError(code=code, message=message)

    def __str__(self) -> str:
        return self.error.message


class ArchiveError(_RefusedError):
    """A whole archive was refused.

    Codes: ``corrupt``, ``empty``, ``archive_too_large``, ``archive_too_deep``, ``archive_too_slow``, ``encrypted``,
    ``unsupported_compression``.
    """


class BoundExceededError(ArchiveError):
    """A bound of the whole tree was reached (``archive_too_large``, ``archive_too_slow``): nothing goes on."""


class EntryError(_RefusedError):
    """One file of an archive cannot be had; the others can.

    Codes: ``corrupt``, ``too_large``, ``unsafe_name``, ``name_too_long``, ``duplicate_name``, ``name_clash``,
    ``encrypted``, ``unsupported_compression``, ``not_a_file``, and those of :class:`ArchiveError` for an archive
    inside another one.
    """


def without_files(name: str) -> ArchiveError:
    """Return the refusal of an archive in which there is no file."""
    return ArchiveError("empty", f"{name} holds no files: there is nothing to store")


def corrupt(name: str, why: str) -> ArchiveError:
    """Return the refusal of an archive that cannot be read; ``why`` follows its name."""
    return ArchiveError("corrupt", f"{name} {why}: make it again and upload that")
