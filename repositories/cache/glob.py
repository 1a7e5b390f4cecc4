r"""Glob patterns exactly as Redis reads them, so that a pattern means the same in memory.

Redis compares bytes, not characters: ``?`` and a class match one byte of UTF-8. ``*`` is any run, ``[ab]``, ``[a-c]``
and ``[^a]`` are classes, ``\`` takes the next byte as it is. The standard library's ``fnmatch`` differs in each of the
last three, hence this translation (of ``stringmatchlen`` in Redis's ``util.c``, odd corners included). One thing is not
the same everywhere: where a range ends beyond ASCII (``[a-é]``), Redis's answer depends on the machine it is built for.
"""

import re
from functools import lru_cache
from typing import Final

_STAR, _ANY, _OPEN, _CLOSE, _NOT, _RANGE, _ESCAPE = (ord(sign) for sign in "*?[]^-\\")
_SPECIAL: Final = re.compile(r"[*?\[\]^\\]")
_NOTHING: Final = rb"(?!)"


def escape_glob(text: str) -> str:
    """Return a pattern that matches ``text`` and nothing else."""
    return _SPECIAL.sub(lambda sign: "\\" + sign[0], text)


@lru_cache(maxsize=256)
def compile_glob(pattern: str) -> re.Pattern[bytes]:
    """Return a regular expression whose ``match`` on a key's UTF-8 bytes is what Redis would answer.

    Its time grows with pattern length times key length, never faster: after each ``*`` the first place where the next
    part fits is taken for good, which is enough for globs.
    """
    runs = _runs(pattern.encode())
    if len(runs) == 1:
        return re.compile(runs[0] + rb"\Z", re.DOTALL)
    first, *middle, last = runs
    inner = b"".join(rb"(?>.*?" + run + rb")" for run in middle if run)
    return re.compile(first + inner + rb".*" + last + rb"\Z", re.DOTALL)


def _runs(pattern: bytes) -> list[bytes]:
    """Return what stands between the stars, each as a regular expression of fixed length."""
    runs = [b""]
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == _STAR:
            runs.append(b"")
        elif sign == _ANY:
            runs[-1] += b"."
        elif sign == _OPEN:
            members, at = _class(pattern, at + 1)
            runs[-1] += members
        else:
            if sign == _ESCAPE and at + 1 < len(pattern):
                at += 1
            runs[-1] += _byte(pattern[at])
        at += 1
    return runs


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Return the class that starts at ``at`` and where its last sign stands; an unclosed one ends with the pattern."""
    negated = at < len(pattern) and pattern[at] == _NOT
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at] != _CLOSE:
        if pattern[at] == _ESCAPE and at + 1 < len(pattern):
            at += 1
            members.add(pattern[at])
        elif at + 2 < len(pattern) and pattern[at + 1] == _RANGE:
            low, high = sorted((pattern[at], pattern[at + 2]))
            members.update(range(low, high + 1))
            at += 2
        else:
            members.add(pattern[at])
        at += 1
    if negated:
        members = set(range(256)) - members
    return (b"[" + b"".join(map(_byte, sorted(members))) + b"]" if members else _NOTHING), at


def _byte(value: int) -> bytes:
    return rb"\x%02x" % value
