"""JSON with its long strings cut, while it streams in.

AnythingLLM answers an upload with the whole text of the document (63 MB for a file of 60 MB), which nobody wants. An
:class:`Abridger` copies JSON from one stream of bytes to another and leaves out what a string holds beyond its first
characters: parsing what comes out gives what parsing first and cutting then would. It never holds more than one
beginning of a string, whatever arrives. Names of members are strings too, and cut like them.
"""

import re
from typing import Final

_LONGEST_CHARACTER: Final = 12  # bytes: a pair of surrogates, each written as an escape

# One character of a string. A pair of escaped surrogates is one, as it is for whoever parses the JSON.
_CHARACTER: Final = (
    rb"(?:[\x00-\x21\x23-\x5b\x5d-\x7f]|[\x80-\xff][\x80-\xbf]*"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[^u])"
)
# What is left out: whole escapes only, so that an escaped quote does not end the string.
_LEFT_OUT: Final = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)


class Abridger:
    """One JSON text on its way through.

    Args:
        keep: characters that are kept of each string, 1 or more.
    """

    def __init__(self, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"at least one character of a string is kept, not {keep}")
        self._enough = keep * _LONGEST_CHARACTER + 2
        # Anything but strings, and strings that cannot be too long: of so few bytes, or of so few runs of eight bytes
        # and escapes. All in one match, so that Python sees only the long ones.
        short = rb'"[^"\\]{0,%d}+"|"(?:[^"\\]{1,8}+|\\.){0,%d}+"' % (keep, keep // 8)
        self._short = re.compile(rb'(?:[^"]++|' + short + rb")*+", re.DOTALL)
        self._head = re.compile(rb'"%s{0,%d}+' % (_CHARACTER, keep), re.DOTALL)
        self._held = b""
        self._leaving_out = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return those that may be passed on."""
        return self._pass_on(chunk, is_last=False)

    def finish(self) -> bytes:
        """Return what was held back; the text is over."""
        rest = self._pass_on(b"", is_last=True) + self._held
        self._held = b""
        return rest

    def _pass_on(self, chunk: bytes, *, is_last: bool) -> bytes:
        text, at, out = self._held + chunk, 0, list[bytes]()
        while at < len(text):
            if self._leaving_out:
                at = _end(_LEFT_OUT, text, at)
                if text[at : at + 1] != b'"':
                    break  # the string goes on in the next chunk; at most a lone backslash is held
                self._leaving_out = False
                out.append(b'"')
                at += 1
                continue
            end = _end(self._short, text, at)
            out.append(text[at:end])
            at = end
            if at == len(text) or (len(text) - at < self._enough and not is_last):
                break
            end = _end(self._head, text, at)
            if is_last and end == len(text):
                break  # it was never closed: it stays as it is, and the parser will say so
            out.append(text[at:end])
            at = end
            self._leaving_out = True
        self._held = text[at:]
        return b"".join(out)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
