"""Bytes to text: by their byte order mark, as UTF-8, or else by the encoding they fit best."""

import codecs

from charset_normalizer import from_bytes

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64 * 1024
_GUESSES = [
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "cp932", "shift_jis", "euc_jp",
    "gb18030", "big5", "euc_kr", "utf_16_le", "utf_16_be",
]  # fmt: skip


def decode(content: bytes) -> str:
    """Return the text of a file; what cannot be decoded becomes U+FFFD, never an error.

    Western European text in an old encoding is by far the commonest that is not UTF-8, and a statistical guess is wrong
    about it as soon as the text is short. So where less than a tenth of the bytes are beyond ASCII it is read as
    Windows-1252, which holds ISO 8859-1; other scripts have far more of them, and there the guess is good.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    sample = content[:_SAMPLE]
    beyond = sum(byte > 0x7F for byte in sample)  # noqa: PLR2004 - the end of ASCII
    if 0 not in sample and beyond < len(sample) / 10:
        return content.decode("cp1252", "replace")
    best = from_bytes(sample, cp_isolation=_GUESSES).best()
    return content.decode(best.encoding if best else "cp1252", "replace")
