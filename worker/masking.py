"""What a line may say of a URL, and how long it may be: text from outside is masked and cut in linear time.

A URL shows scheme, host, port and path, whatever stands around it. :func:`mask` is for messages to people,
:func:`safe_value` for every value of a log line. Both look at each character a fixed number of times: log lines are
made on the event loop, and the text in them is chosen by others.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

LONGEST_VALUE: Final = 8_000
"""Characters of one value of a log line; of a longer one the two ends are kept."""

_MOST_VALUES: Final = 200  # of one list or mapping
_DEEPEST: Final = 8
_LONGEST_SCHEME: Final = 30
_SCHEME = re.compile(r"[A-Za-z0-9+.\-]{0,30}\Z")
_URL = re.compile(r"://\S*")
_ESCAPED = ":\\/\\/"  # as some JSON writers spell it
_BEHIND_PATH = re.compile(r"[?#;]")
_BEHIND_HOST = re.compile(r"[/?#;\\]")
_QUERY = re.compile(r"\?[^\s=?&]{1,100}=\S*")
_PORT = re.compile(r"[^:]*(?::[0-9]*)?|\[[^\]]*\](?::[0-9]*)?")
# Behind these a host ends at the first slash, so an @ in a path is only an @. Behind all others stands a server's URL,
# whose password people write with @, / and ? unescaped.
_OF_LINKS: Final = frozenset({"http", "https", "ws", "wss", "ftp", "sftp", "file", "s3", "gs", "az", "abfs", "data"})
_HARMLESS: Final = frozenset({"db", "ssl", "sslmode", "ssl_cert_reqs", "protocol", "timeout", "socket_timeout"})


def mask(text: str) -> str:
    """Return ``text`` with user, password, query and fragment of every URL replaced by ``***``.

    Of a server's URL (PostgreSQL, Redis) the parameters are named, and those that hold no secret are shown; of any
    other URL nothing behind the path is.
    """
    return _masked(text, parameters=True) if "://" in text else text


def safe_value(value: Any, depth: int = 0) -> Any:
    """Return a log line's value without secrets of URLs and of bounded length, to the last nested text.

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
            pairs = [(key, value[key]) for key, _ in zip(value, range(_MOST_VALUES), strict=False)]
            found = {safe_text(str(key)): safe_value(inner, depth + 1) for key, inner in pairs}
            return found | {"…": f"{left:,} more"} if left > 0 else found
        values = [safe_value(inner, depth + 1) for inner, _ in zip(value, range(_MOST_VALUES), strict=False)]
        return [*values, f"… {left:,} more"] if left > 0 else values
    return safe_text(str(value))


def safe_text(text: str) -> str:
    """Return ``text`` as a log line may hold it: cut, then masked."""
    text = cut(text)
    if _ESCAPED in text:
        text = text.replace("\\/", "/")
    if "://" in text:
        text = _masked(text, parameters=False)
    if "?" in text:  # a relative link: redirects and requests are often told without their host
        text = _QUERY.sub("?***", text)
    return text


def cut(text: str, most: int = LONGEST_VALUE) -> str:
    """Return ``text``, or its two ends with the number of characters left out between them.

    No half of a URL is kept: what stands behind its cut end, or before it, cannot be told from a password.
    """
    if len(text) <= most:
        return text
    half = most // 2
    head, tail = text[:half], text[-half:]
    word = max(head.rfind(blank) for blank in " \t\n") + 1
    if (url := head.find("://", word)) >= 0:
        head = f"{head[: url + 3]}***"
    blanks = [at for at in map(tail.find, " \t\n") if at >= 0]
    tail = tail[min(blanks) :] if blanks else ""
    return f"{head}… [{len(text) - len(head) - len(tail):,} characters cut] …{tail}"


def _masked(text: str, *, parameters: bool) -> str:
    return _URL.sub(lambda found: _word(_scheme(text, found.start()), found[0][3:], parameters=parameters), text)


def _scheme(text: str, end: int) -> str:
    found = _SCHEME.search(text[max(0, end - _LONGEST_SCHEME) : end])
    return found[0].lower() if found else ""


def _word(scheme: str, rest: str, *, parameters: bool) -> str:
    """What is shown of one word from its first ``://`` on: it may hold several URLs."""
    pieces, shown = rest.split("://"), list[str]()
    for number, piece in enumerate(pieces):
        authority = _upto(_BEHIND_HOST, piece)
        odd = "@" not in authority and not _PORT.fullmatch(authority)  # a password with a slash may have begun
        if odd or scheme not in _OF_LINKS:
            whole = "://".join(pieces[number:])
            shown.append(_of_server(whole, parameters=parameters and scheme not in _OF_LINKS))
            break
        path = _upto(_BEHIND_PATH, piece)
        ends = len(path) < len(piece)  # the rest of the word belongs to its query
        if "@" in authority:
            path = "***@" + path[path.rindex("@") + 1 :]
        shown.append(path + _mark(piece))
        if ends:
            break
        scheme = _scheme(piece, len(piece))
    return "".join(f"://{piece}" for piece in shown)


def _of_server(rest: str, *, parameters: bool) -> str:
    """Up to the last @ all is user and password. Rather too much than too little."""
    at = rest.rfind("@")
    if at < 0:
        return _bare(rest, parameters=parameters)
    if _BEHIND_PATH.search(rest, 0, at):
        return "***"  # a password with a ?, or a parameter with an @: the host cannot be told
    return "***@" + _bare(rest[at + 1 :], parameters=parameters)


def _bare(rest: str, *, parameters: bool) -> str:
    path = _upto(_BEHIND_PATH, rest)
    if len(path) == len(rest):
        return path
    if not parameters or rest[len(path)] != "?":
        return path + _mark(rest)
    told = (part.partition("=") for part in rest[len(path) + 1 :].split("&"))
    return f"{path}?" + "&".join(name + sign + (value if name in _HARMLESS else "***") for name, sign, value in told)


def _mark(piece: str) -> str:
    found = _BEHIND_PATH.search(piece)
    return f"{found[0]}***" if found else ""


def _upto(end: re.Pattern[str], text: str) -> str:
    found = end.search(text)
    return text if found is None else text[: found.start()]
