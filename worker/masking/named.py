"""Values whose name, or whose form, says that they are secret: ``password=…``, ``"api_key": "…"``, ``Bearer …``.

The name stays, the value is ``***``. Where a value ends cannot always be known; then rather too much is masked.
"""

import re
from collections.abc import Callable
from typing import Final

# What a name ends in. Names of what is counted (`max_tokens`) end otherwise.
_WORD: Final = (
    r"(?:pass(?:word|wd|phrase|code)|secret|token|credentials?|signature"
    r"|(?:api|access|account|secret|private|shared|signing|encryption|master|auth)[-_. ]?key"
    r"|session[-_]?(?:id|key)|(?<![a-z])(?:pwd|pw|pass|sig|jwt))"
    r"(?:[-_]?(?:id|value|hash|text|base64|[0-9]{1,3}))?"
)
# What a line of a protocol begins with: its value is the rest of the line.
_HEADER: Final = r"(?:authorization|(?<![a-z])(?:set-)?cookie)"
_CLOSED: Final = r"(?:\\{0,6}[\"'`]|%(?:25){0,4}22)?"
_SIGN: Final = r"[ \t]{0,4}(?:=>|:=|[:=]|%(?:25){0,4}3[ad])[ \t]{0,4}(?:[bru]{1,2}(?=[\"']))?"
# All of these are tried on text in small letters, and only where one of _STARTS stands: searching for plain words takes
# a tenth of what searching for a pattern without regard to case does.
_STARTS: Final = (
    "pass", "pw", "secret", "token", "credential", "signature", "sig", "jwt", "api", "access", "account", "private",
    "shared", "signing", "encryption", "master", "auth", "session", "cookie", "set-cookie", "bearer", "basic", "eyj",
    "sk-", "pk-", "rk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "akia", "asia",
)  # fmt: skip
_START = re.compile("|".join(_STARTS))
_START_IN_BYTES = re.compile("|".join(_STARTS).encode())
_NAMED = re.compile(
    rf"(?P<header>{_HEADER}{_CLOSED}{_SIGN})"
    rf"|(?P<tag>{_WORD}>)(?=[^<\s])"
    rf"|(?P<name>{_WORD}(?:\s(?:provided|given|supplied|used))?{_CLOSED}{_SIGN})"
    rf"|(?P<pair>{_WORD}[\"'],[ \t]{{0,4}}b?)(?=[\"'])"
    rf"|(?P<option>{_WORD}[ \t]{{1,4}})(?=[\"'\w])"
    # What is said of such a value in a sentence is none.
    r"|(?P<form>(?<![a-z])bearer\s{1,4})(?!(?:auth\w*|headers?|is|of|or|scheme|tokens?|realm|was|error)\b)(?=[\w.~+/\-])"
)
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][A-Za-z-]*[ \t]+\Z")
_NAME = re.compile(rf"(?:{_WORD}|{_HEADER})\Z")
_BEGUN = re.compile(rf"{_WORD}|{_HEADER}|bearer|basic")
# Secrets that no name announces are known by their form.
_FORM = re.compile(
    r"(?<![\w-])(?:eyJ[\w-]{8,}+\.[\w.-]++|[spr]k-[\w-]{16,}+|gh[pousr]_\w{20,}+|github_pat_\w{20,}+|xox[abeprs]-[\w-]{10,}+"
    r"|A[KS]IA[0-9A-Z]{12,}+|[Bb]asic (?=[A-Za-z0-9+/]{0,80}(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9+/]{6,}+={0,2})"
)
_FOUR_GROUPS = re.compile(r"(?<![\w-])[0-9A-Z]{7}(?:-[0-9A-Z]{7}){3}(?![\w-])")  # as AnythingLLM makes them
_GROUPS_IN_BYTES = re.compile(b"[0-9A-Z]{7}-[0-9A-Z]{7}-")

_QUOTE = re.compile(r"\\{0,6}[\"'`]")
_END_OF_QUOTED: Final = {
    f"{slashes}{quote}": re.compile(rf"(?<!\\){re.escape(slashes)}{quote}")
    for slashes in ("\\" * number for number in range(7))
    for quote in "\"'`"
}
_BRACKETS: Final = {"{": "}", "[": "]", "(": ")"}
_PLAIN = re.compile(r"(?:[^\s&]|&(?![\w.\-]{1,40}=))*+")
_LINE = re.compile(r"(?:[^\n\"']|(?<==)\"[^\"\n]*+\")*+")
_SENTENCE = re.compile(r"[A-Za-z][a-z']{0,11},?\s[a-z]{1,12}\b(?![=:@])")
_LONGEST_IN_TAG: Final = 8_000
_CLOSING: Final = "\"'`)]}>,;.\\"


def is_secret_name(name: str) -> bool:
    """Return whether a value of this name is secret: ``api_key``, ``PGPASSWORD``, ``clientSecret``, ``Cookie``."""
    return _NAME.search(_small(name[-80:])) is not None


def may_be_cut_off(text: str) -> bool:
    """Return whether a secret may begin in ``text``, a few hundred characters, and go on behind it."""
    return _BEGUN.search(_small(text)) is not None


def may_hold_secrets(line: bytes) -> bool:
    """Return whether :func:`names_masked` might change a line; a fraction of the time that it takes."""
    return _START_IN_BYTES.search(line.lower()) is not None or _GROUPS_IN_BYTES.search(line) is not None


def names_masked(text: str) -> str:
    """Return ``text`` with ``***`` in place of every value whose name or form says that it is secret."""
    small, shown, at, look = _small(text), list[str](), 0, 0
    while (start := _START.search(small, look)) is not None:
        begin, end = _value(text, small, start.start())
        if end > begin:
            shown += (text[at:begin], _hidden(text, begin, end))
            at = look = end
        else:
            look = max(begin, start.start() + 1)
    text = "".join([*shown, text[at:]]) if shown else text
    return _FOUR_GROUPS.sub("***", text)


def _small(text: str) -> str:
    """The text in small letters, and no longer than before: one letter has two in its place."""
    return text.replace("\u0130", "i").lower()


def _value(text: str, small: str, start: int) -> tuple[int, int]:
    """Where the value lies that a name or a form at ``start`` announces; empty if there is none."""
    named = _NAMED.match(small, start)
    if named is not None:
        return named.end(), _ENDS[str(named.lastgroup)](text, named.end())
    form = _FORM.match(text, start)
    if form is None:
        return start, start
    return start + (len("basic ") if form[0][:6].lower() == "basic " else 0), form.end()


def _hidden(text: str, begin: int, end: int) -> str:
    """What is shown in a value's place: its quotes and brackets stay, so that masking again finds the same."""
    quote = _QUOTE.match(text, begin, end)
    opening = quote[0] if quote else text[begin] if text[begin] in _BRACKETS else ""
    closing = _BRACKETS.get(opening, opening)
    return f"{opening}***{closing if text.endswith(closing, begin + len(opening), end) else ''}"


def _end_of_value(text: str, begin: int) -> int:
    quote = _QUOTE.match(text, begin)
    if quote is not None:
        closed = _END_OF_QUOTED[quote[0]].search(text, quote.end())
        return len(text) if closed is None else closed.end()
    if closing := _BRACKETS.get(text[begin : begin + 1]):
        end = text.find(closing, begin)
        return len(text) if end < 0 else end + 1
    plain = _PLAIN.match(text, begin)
    word = plain[0] if plain else ""
    return begin + len(word.rstrip(_CLOSING))


def _end_of_named(text: str, begin: int) -> int:
    sign = text[max(0, begin - 6) : begin]
    said = sign[-1:].isspace() and sign.rstrip().endswith(":") and _SENTENCE.match(text, begin)
    return begin if said else _end_of_value(text, begin)


def _end_of_option(text: str, begin: int) -> int:
    option = _OPTION.search(text[max(0, begin - 60) : begin])
    return _end_of_value(text, begin) if option and not _SENTENCE.match(text, begin) else begin


def _end_of_tag(text: str, begin: int) -> int:
    end = text.find("<", begin, begin + _LONGEST_IN_TAG)
    return end if text.startswith("</", end) else begin  # else it is only a sign for greater


def _end_of_header(text: str, begin: int) -> int:
    if _QUOTE.match(text, begin):
        return _end_of_value(text, begin)
    line = _LINE.match(text, begin)
    return line.end() if line else begin


_ENDS: Final[dict[str, Callable[[str, int], int]]] = {
    "header": _end_of_header,
    "tag": _end_of_tag,
    "name": _end_of_named,
    "pair": _end_of_value,
    "option": _end_of_option,
    "form": _end_of_value,
}
