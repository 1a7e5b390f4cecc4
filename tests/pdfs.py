"""PDFs by hand: with text, locked, or of nothing but a picture, as scanners and printers make them."""

import hashlib
import zlib

_PAD = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_ID = bytes(range(16))
_PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << %b >> >>"
_RIGHTS = -44 & 0xFFFFFFFF


def text_pdf(text: str, *, password: str | None = None) -> bytes:
    """A PDF of one page; with a password (``""``: it opens without, but may not be changed) it is encrypted."""
    page = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    entry, key = b"", None
    if password is not None:
        owner = _rc4(_md5(_padded("owner"))[:5], _padded(password))
        rights = _RIGHTS.to_bytes(4, "little")
        key = _md5(_padded(password) + owner + rights + _ID)[:5]
        entry = (
            b"<< /Filter /Standard /V 1 /R 2 /P -44 /O <"
            + owner.hex().encode()
            + b"> /U <"
            + _rc4(key, _PAD).hex().encode()
            + b"> >>"
        )
        page = _rc4(_md5(key + b"\x04\0\0\0\0")[:10], page)
    return _pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            _PAGE % b"/Font << /F1 5 0 R >>",
            _stream(b"", page),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            *([entry] if entry else []),
        ],
        b" /Encrypt 6 0 R" if entry else b"",
    )


def scanned_pdf(*, packed: bytes = b"<< /Resources 9 0 R >>") -> bytes:
    """A page that is one grey picture; ``packed`` are objects that stand in a packed stream beside it."""
    picture = b" /Type /XObject /Subtype /Image /Width 8 /Height 8 /ColorSpace /DeviceGray /BitsPerComponent 8"
    held = zlib.compress(packed)
    return _pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            _PAGE % b"/XObject << /I1 5 0 R >>",
            _stream(b"", b"q 612 0 0 792 0 0 cm /I1 Do Q"),
            _stream(picture, bytes(range(64))),
            _stream(b" /Type /ObjStm /N 1 /First 0 /Filter /FlateDecode", held),
        ],
        b"",
    )


def _stream(entries: bytes, content: bytes) -> bytes:
    return b"<<" + entries + b" /Length %d >>\nstream\n" % len(content) + content + b"\nendstream"


def _pdf(objects: list[bytes], trailer: bytes) -> bytes:
    made, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", list[int]()
    for number, content in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size, start = len(objects) + 1, len(made)
    name = _ID.hex().encode()
    return (
        made
        + b"xref\n0 %d\n0000000000 65535 f \n" % size
        + table
        + b"trailer\n<< /Size %d /Root 1 0 R /ID [<%b> <%b>]%b >>\n" % (size, name, name, trailer)
        + b"startxref\n%d\n%%%%EOF\n" % start
    )


def _padded(password: str) -> bytes:
    return (password.encode() + _PAD)[:32]


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _rc4(key: bytes, content: bytes) -> bytes:
    state, at = list(range(256)), 0
    for place in range(256):
        at = (at + state[place] + key[place % len(key)]) % 256
        state[place], state[at] = state[at], state[place]
    made, first, second = bytearray(), 0, 0
    for byte in content:
        first = (first + 1) % 256
        second = (second + state[first]) % 256
        state[first], state[second] = state[second], state[first]
        made.append(byte ^ state[(state[first] + state[second]) % 256])
    return bytes(made)
