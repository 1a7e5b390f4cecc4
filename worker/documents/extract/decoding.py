"""Bytes to text: by their byte order mark, as UTF-8, or else by the encoding they fit best."""

import codecs
import re

from charset_normalizer import from_bytes

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
_SAMPLE = 64 * 1024
_MOST_BEYOND_ASCII = 0.15
# Signs that Western European text never has inside a word; in other encodings their bytes are letters.
_SIGN_IN_WORD = re.compile(
    "[\0\ufffd]|(?<=[^\\W\\d_])[\xa1-\xa9\xab\xac\xae-\xb6\xb8\xb9\xbb-\xbf\u201a\u201e\u2020-\u2022\u02c6\u02dc\u2030\u2039\u203a\u2122]"
    "(?=[^\\W\\d_])"
)


def decode(content: bytes) -> str:
    """Return the text of a file; what cannot be decoded becomes U+FFFD, never an error.

    Western European text in an old encoding is by far the commonest that is not UTF-8, and a statistical guess is wrong
    about it as soon as the text is short. So it is read as Windows-1252, which holds ISO 8859-1, unless that puts signs
    inside words or has too many bytes beyond ASCII: other scripts do, and there the guess is good.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    sample = content[:_SAMPLE]
    western = sample.decode("cp1252", "replace")
    beyond = sum(not character.isascii() for character in western)
    if beyond < len(sample) * _MOST_BEYOND_ASCII and _SIGN_IN_WORD.search(western) is None:
        return content.decode("cp1252", "replace")
    guesses = from_bytes(sample, cp_isolation=_GUESSES)
    best = next((guess for guess in guesses if _SIGN_IN_WORD.search(str(guess)) is None), guesses.best())
    return content.decode(best.encoding if best else "cp1252", "replace")
