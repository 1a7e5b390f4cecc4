"""Bytes to text: by their byte order mark, as UTF-8, or else by the encoding they fit best."""

import codecs
import re

from charset_normalizer import from_bytes

SAMPLE_BYTES = 64 * 1024
"""How much of a file's beginning a guess is made from."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Windows-1252 is not among them: it was looked at before.
_GUESSES = [
    "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "cp932", "shift_jis", "euc_jp",
    "gb18030", "big5", "euc_kr", "utf_16_le", "utf_16_be",
]  # fmt: skip
_MOST_BEYOND_ASCII = 0.15
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_WIDE_BYTES = 4096
# Signs that Western European text never has inside a word; in other encodings their bytes are letters.
_SIGN_IN_WORD = re.compile(
    "[\0\ufffd]|(?<=[^\\W\\d_])[\xa1-\xa9\xab\xac\xae-\xb6\xb8\xb9\xbb-\xbf\u201a\u201e\u2020-\u2022\u02c6\u02dc\u2030\u2039\u203a\u2122]"
    "(?=[^\\W\\d_])"
)


def decode(content: bytes) -> str:
    """Return the text of a file; what cannot be decoded becomes U+FFFD, never an error."""
    if (encoding := marked_encoding(content)) is not None:
        return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode(guessed_encoding(content[:SAMPLE_BYTES]), "replace")


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that a file's beginning gives away: by a mark, or as UTF-16 without one."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    return wide_encoding(head[:_WIDE_BYTES])


def wide_encoding(head: bytes) -> str | None:
    """Return ``utf-16-le`` or ``utf-16-be`` for UTF-16 without a mark, ``None`` for anything else.

    Every second byte of Latin text is zero then, and nothing else is out of order.
    """
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if min(even, odd) > 0 or max(even, odd) <= len(head) // 4 or _CONTROL.search(head) is not None:
        return None
    return "utf-16-be" if even else "utf-16-le"


def guessed_encoding(sample: bytes) -> str:
    """Return the encoding that text fits best which is not UTF-8.

    Western European text in an old encoding is by far the commonest, and a statistical guess is wrong about it as soon
    as the text is short. So it is read as Windows-1252, which holds ISO 8859-1, unless that puts signs inside words or
    has too many bytes beyond ASCII: other scripts do, and there the guess is good.
    """
    western = sample.decode("cp1252", "replace")
    beyond = sum(not character.isascii() for character in western)
    if beyond < len(sample) * _MOST_BEYOND_ASCII and _SIGN_IN_WORD.search(western) is None:
        return "cp1252"
    guesses = from_bytes(sample, cp_isolation=_GUESSES)
    best = next((guess for guess in guesses if _SIGN_IN_WORD.search(str(guess)) is None), guesses.best())
    return best.encoding if best else "cp1252"
