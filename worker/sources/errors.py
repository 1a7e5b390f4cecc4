"""Why a link or an object could not be read; and how a URL is shown to people without its secrets."""

import httpx

from repositories.schemas import JobError

_LONGEST_SHOWN = 200


class SourceError(Exception):
    """A link or an object could not be read; the others of its job can.

    Codes of links: ``link_invalid`` (no usable URL, or no usable answer), ``link_forbidden`` (a place that must not be
    reached), ``link_not_found``, ``link_too_large``, ``link_too_slow``, ``link_unreachable``. Codes of objects:
    ``object_forbidden``, ``object_not_found``, ``object_unreachable``, ``too_many_objects``, ``source_changed``.

    Attributes:
        error: the code, and one or two sentences that name the URL without its secrets.
        transient: the same call may work later.
        retry_after: seconds after which that is, where whoever refused it said so.
    """

    def __init__(self, code: str, message: str, *, transient: bool = False, retry_after: float | None = None) -> None:
        super().__init__(code, message, transient, retry_after)
        self.error = JobError(code=code, message=message)
        self.transient = transient
        self.retry_after = retry_after

    @property
    def code(self) -> str:
        """Stable, lower-case, for machines and reports."""
        return self.error.code

    def lasting(self, *, is_last_attempt: bool) -> JobError:
        """Return what is to be told of it; raise it again if it may pass and another attempt comes."""
        if self.transient and not is_last_attempt:
            raise self
        return self.error

    def __str__(self) -> str:
        return self.error.message


def shown(url: str | httpx.URL) -> str:
    """Return a URL as messages may show it: no user, password, query or fragment; at most 200 characters."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        # Whatever this is, a secret may be anywhere in it.
        return "the link"
    if not parsed.host:
        return "the link"
    bare = str(parsed.copy_with(username=None, password=None, query=None, fragment=None))
    text = bare if len(bare) <= _LONGEST_SHOWN else f"{bare[: _LONGEST_SHOWN - 1]}…"
    return f"{text}?…" if parsed.query else text
