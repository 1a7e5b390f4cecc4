"""How texts and values are masked and cut: each kind of secret in its turn."""

import re
from collections.abc import Mapping
from typing import Any, Final

from repositories.schemas import JobError
from worker.masking.named import is_secret_name, may_be_cut_off, names_masked
from worker.masking.urls import urls_masked

LONGEST_VALUE: Final = 8_000
"""Characters of one value of a log line; of a longer one the two ends are kept."""

_MOST_VALUES: Final = 200  # of one list or mapping
_DEEPEST: Final = 8
_ESCAPED: Final = ":\\/\\/"  # as some JSON writers spell it
_QUERY: Final = re.compile(r"\?[^\s=?&]{1,100}=\S*")


def mask(text: str) -> str:
    """Return ``text`` with ``***`` in place of what is secret: for messages to people.

    Of a server's URL (PostgreSQL, Redis) the parameters are named, and those that hold no secret are shown; of any
    other URL nothing behind the path is.
    """
    return names_masked(urls_masked(text, parameters=True))


def without_secrets(error: JobError) -> JobError:
    """Return an error as the record may hold it: servers quote in their answers what they were asked with."""
    return error.model_copy(update={"message": mask(error.message)})


def safe_field(name: str, value: Any, depth: int = 0) -> Any:
    """Return the value of a field: ``***`` if its name says that it is secret, else as :func:`safe_value` does."""
    if value and not isinstance(value, bool | int | float) and is_secret_name(name):
        return "***"
    return safe_value(value, depth)


def safe_value(value: Any, depth: int = 0) -> Any:
    """Return a log line's value without secrets and of bounded length, to the last nested text.

    Args:
        value: text is masked and cut to :data:`LONGEST_VALUE`; of lists and mappings 200 values are kept, eight levels
            deep; numbers, booleans and ``None`` stay; anything else becomes text.
        depth: how deep it stands in another value.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth == _DEEPEST:
            return "…"
        left = len(value) - _MOST_VALUES
        if isinstance(value, Mapping):
            # The key in its spelling: two that differ behind the cut must not become one without a word.
            pairs = [(str(key), value[key]) for key, _ in zip(value, range(_MOST_VALUES), strict=False)]
            found = {safe_text(key): safe_field(key, inner, depth + 1) for key, inner in pairs}
            return found | {"…": f"{left:,} more"} if left > 0 else found
        values = [safe_value(inner, depth + 1) for inner, _ in zip(value, range(_MOST_VALUES), strict=False)]
        return [*values, f"… {left:,} more"] if left > 0 else values
    return safe_text(str(value))


def safe_text(text: str) -> str:
    """Return ``text`` as a log line may hold it: cut, then masked."""
    text = cut(text)
    if _ESCAPED in text:
        text = text.replace("\\/", "/")
    text = urls_masked(text, parameters=False)
    if "?" in text:  # a relative link: redirects and requests are often told without their host
        text = _QUERY.sub("?***", text)
    return names_masked(text)


def cut(text: str, most: int = LONGEST_VALUE) -> str:
    """Return ``text``, or its two ends with the number of characters left out between them.

    No half of a secret is kept: what stands behind its cut end, or before it, cannot be told from a password.
    """
    if len(text) <= most:
        return text
    half = most // 2
    head, tail = text[:half], text[-half:]
    word = max(head.rfind(blank) for blank in " \t\n") + 1
    if (url := head.find("//", word)) >= 0:
        head = f"{head[: url + 2]}***"
    ends = "\n" if may_be_cut_off(text[-half - 300 : -half]) else " \t\n"
    blanks = [at for at in map(tail.find, ends) if at >= 0]
    tail = tail[min(blanks) :] if blanks else ""
    return f"{head}… [{len(text) - len(head) - len(tail):,} characters cut] …{tail}"
