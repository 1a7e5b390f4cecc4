"""URLs in texts from outside: scheme, host, port and path are shown, whatever stands around them, and nothing else.

Also without a scheme (``//user:password@host``) and with ``%3A%2F%2F`` in place of ``://``, as a URL is spelled within
another one.
"""

import re
from typing import Final

_LONGEST_SCHEME: Final = 30
_SCHEME = re.compile(r"[A-Za-z0-9+.\-]{0,30}\Z")
_URL = re.compile(r":?//\S*")
_BEHIND_PATH = re.compile(r"[?#;]")
_BEHIND_HOST = re.compile(r"[/?#;\\]")
_PORT = re.compile(r"[^:]*(?::[0-9]*)?|\[[^\]]*\](?::[0-9]*)?")
# Spelled within a URL once or several times: % is then %25.
_SPELLED = "%(?:25){0,4}"
_SPELLED_URL = re.compile(rf"((?:{_SPELLED}3A|:)?(?:{_SPELLED}2F){{2}}|{_SPELLED}3A//)(\S*)", re.IGNORECASE)
_SPELLED_AT = re.compile(rf"{_SPELLED}40|@", re.IGNORECASE)
_BEHIND_SPELLED_PATH = re.compile(rf"{_SPELLED}(?:3F|23|3B)|[?#;&]", re.IGNORECASE)
# Behind these a host ends at the first slash, so an @ in a path is only an @. Behind all others stands a server's URL,
# whose password people write with @, / and ? unescaped.
_OF_LINKS: Final = frozenset({"http", "https", "ws", "wss", "ftp", "sftp", "file", "s3", "gs", "az", "abfs", "data"})
_HARMLESS: Final = frozenset({"db", "ssl", "sslmode", "ssl_cert_reqs", "protocol", "timeout", "socket_timeout"})


def urls_masked(text: str, *, parameters: bool) -> str:
    """Return ``text`` with ``***`` in place of user, password, query and fragment of every URL.

    Args:
        text: any.
        parameters: whether a server's URL shows the names of its parameters, and the values that hold no secret.
    """
    if "%" in text:
        text = _SPELLED_URL.sub(_of_spelled, text)
    if "//" in text:
        text = _URL.sub(lambda found: _of_word(text, found, parameters=parameters), text)
    return text


def _of_spelled(found: re.Match[str]) -> str:
    opening, rest = found.groups()
    end = 0
    for at in _SPELLED_AT.finditer(rest):
        end = at.end()
    user, rest = "***@" if end else "", rest[end:]
    behind = _BEHIND_SPELLED_PATH.search(rest)
    return opening + user + (rest if behind is None else f"{rest[: behind.start()]}{behind[0]}***")


def _of_word(text: str, found: re.Match[str], *, parameters: bool) -> str:
    word = found[0]
    if word[0] == ":":
        return _word(_scheme(text, found.start()), word[3:], parameters=parameters)
    if "@" in word:
        return "//" + _of_server(word[2:], parameters=False)
    path, url, rest = word.partition("://")
    return path + _word(_scheme(path, len(path)), rest, parameters=parameters) if url else word


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
