"""Which of many files are meant: include and exclude patterns, the same for folders and for object storage.

They read like those of ``.gitignore``. ``*``, ``?`` and ``[a-z]`` (``[!a-z]``: none of these) stay within one folder
name, ``**`` stands for any number of folders. A pattern without a slash, but for one at its end, fits a name in any
folder; one with a slash is anchored at the top. What fits a folder fits everything below it. Case matters.
"""

import fnmatch
import re
from collections.abc import Sequence

_MOST_PATTERNS = 100
_LONGEST_PATTERN = 500
_MOST_ANY_FOLDERS = 10

# An expression for each part of the path; None stands for **.
_Pattern = tuple[re.Pattern[str] | None, ...]


class GlobsError(ValueError):
    """A pattern cannot be used; the message names it and says why."""


class Globs:
    """Patterns, compiled once.

    Args:
        include: a path must fit one of these; with none, every path does.
        exclude: a path must fit none of these; they win over ``include``.

    Raises:
        GlobsError: there are more than 100 patterns of a kind, or one is empty, longer than 500 characters, begins with
            ``!`` (say it with ``exclude``), steps up with ``..`` or holds ``**`` more than 10 times.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        for patterns in (include, exclude):
            if len(patterns) > _MOST_PATTERNS:
                raise GlobsError(f"there are {len(patterns)} patterns: at most {_MOST_PATTERNS}")
        self._include = [_compiled(pattern) for pattern in include]
        self._exclude = [_compiled(pattern) for pattern in exclude]

    def matches(self, relative_path: str) -> bool:
        """Whether a file is meant.

        Args:
            relative_path: its path with ``/`` between folders, without one at the start (``manuals/kestrel.pdf``).
        """
        parts = tuple(relative_path.split("/"))
        if any(_fits(pattern, parts) for pattern in self._exclude):
            return False
        return not self._include or any(_fits(pattern, parts) for pattern in self._include)


def _compiled(pattern: str) -> _Pattern:
    if not pattern.strip("/") or len(pattern) > _LONGEST_PATTERN:
        raise GlobsError(f"the pattern {pattern[:50]!r} cannot be used: 1 to {_LONGEST_PATTERN} characters, not only /")
    if pattern.startswith("!"):
        raise GlobsError(f"the pattern {pattern!r} begins with !: put {pattern[1:]!r} on the other list instead")
    parts = pattern.strip("/").split("/")
    if ".." in parts or "." in parts or "" in parts:
        raise GlobsError(f"the pattern {pattern!r} has a part that is empty, . or ..: name folders from the top down")
    if "/" not in pattern.rstrip("/") and parts != ["**"]:
        parts = ["**", *parts]
    if parts.count("**") > _MOST_ANY_FOLDERS:
        raise GlobsError(f"the pattern {pattern[:50]!r} holds ** more than {_MOST_ANY_FOLDERS} times: once is enough")
    # fnmatch writes expressions that cannot backtrack for ever; a part never sees a slash, so * cannot cross one.
    return tuple(None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts)


def _fits(pattern: _Pattern, parts: tuple[str, ...]) -> bool:
    """Whether the pattern fits the path or one of its folders.

    ``reached`` holds every place in the pattern that the parts so far can lead to, so no path takes longer than its
    parts times the pattern's.
    """
    reached = _skipping(pattern, {0})
    for part in parts:
        following = set[int]()
        for at in reached:
            if at == len(pattern):
                continue
            expression = pattern[at]
            if expression is None:
                # At the end ** means what is in the folder, not the folder: it stands for one part at least.
                following.update((at, at + 1) if at == len(pattern) - 1 else (at,))
            elif expression.match(part):
                following.add(at + 1)
        reached = _skipping(pattern, following)
        if len(pattern) in reached:
            return True
    return False


def _skipping(pattern: _Pattern, places: set[int]) -> set[int]:
    """The places, and those behind a ``**`` that stands for no folder."""
    reached = set(places)
    for place in places:
        at = place
        while at < len(pattern) - 1 and pattern[at] is None:
            at += 1
            reached.add(at)
    return reached
