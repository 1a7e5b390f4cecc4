"""The reasons why a document has no text for us, each with what to do about it."""

from pathlib import PurePosixPath

from worker.engines.base import DocumentRejectedError


def locked(name: str) -> DocumentRejectedError:
    """Return the refusal of a document that needs a password (code ``encrypted``)."""
    return DocumentRejectedError("encrypted", f"{name} is locked with a password; remove it and upload the file again")


def damaged(name: str, why: str = "it is damaged or cut short") -> DocumentRejectedError:
    """Return the refusal of a document that cannot be parsed (code ``corrupt``)."""
    kind = PurePosixPath(name).suffix.lstrip(".").upper() or "a document"
    return DocumentRejectedError(
        "corrupt", f"{name} cannot be read as {kind}: {why}; open it, save it again and upload that"
    )


def without_text(name: str, *, has_pages: bool) -> DocumentRejectedError:
    """Return the refusal of a document with nothing to search in it (code ``no_text``)."""
    if has_pages:
        message = f"{name} holds no text, only pictures of it; run text recognition (OCR) and upload the result"
    else:
        message = f"{name} holds no text, so there is nothing to search in it; check the file and upload it again"
    return DocumentRejectedError("no_text", message)


def too_large(name: str, why: str) -> DocumentRejectedError:
    """Return the refusal of a document beyond a bound (code ``too_large``); ``why`` says which."""
    return DocumentRejectedError("too_large", f"{name} is too large: {why}; split it into smaller files")


def unsupported(name: str, what: str) -> DocumentRejectedError:
    """Return the refusal of a file of another kind (code ``unsupported_type``); ``what`` says what it is."""
    return DocumentRejectedError(
        "unsupported_type", f"{name} is {what}; upload text, PDF, office documents, web pages, mail or tables instead"
    )
