"""How long names and URLs may be that come from outside: one rule for every way in.

What is longer is refused where it comes in, by name: behind that, file systems, engines and indexes would each refuse
it in their own way, and what looks through a text takes longer for a longer one.
"""

from typing import Final

from worker.masking import mask

LONGEST_URL: Final = 2_048
"""Of a link, or of an object that a person names, in characters."""

LONGEST_PATH: Final = 1_024
"""Of a file or document, folders included, in characters."""

LONGEST_PART: Final = 255
"""Of each part of such a path, in bytes of UTF-8: what file systems and engines take."""

_SHOWN = 80


def problem_of_path(path: str) -> str | None:
    """Say in what a path is too long to be taken (``has …``); ``None`` if it is not."""
    if len(path) > LONGEST_PATH:
        return f"has {len(path):,} characters, of which {LONGEST_PATH:,} are taken"
    if any(len(part.encode("utf-8", "replace")) > LONGEST_PART for part in path.split("/")):
        return f"has a part of more than {LONGEST_PART} bytes"
    return None


def checked_url(url: str) -> str:
    """Return the URL of a link or an object.

    Raises:
        ValueError: it is longer than :data:`LONGEST_URL`; the message names it, without its secrets.
    """
    if len(url) <= LONGEST_URL:
        return url
    raise ValueError(
        f"{mask(url)[:_SHOWN]}… has {len(url):,} characters, of which {LONGEST_URL:,} are taken: shorten it"
    )
