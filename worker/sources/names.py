"""What a fetched document is called: as its server says, or as the last part of its link does.

The name comes from outside and goes into records, reports and other systems: it is one part of a path, of printable
characters, and not too long. An engine may decide by the ending what a file is, so one that is missing, or that names
the program that made the page (``.php``), is completed from the content type.
"""

import hashlib
import mimetypes
import re
import unicodedata
from email.message import Message
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from worker.sources.errors import shown

_LONGEST_NAME = 200  # bytes of UTF-8: file systems and engines take 255, and some add an ending or a number
_LONGEST_HEADER = 2_000
_ENDING = re.compile(r"\.(?=[a-z0-9]*[a-z])[a-z0-9]{1,8}", re.IGNORECASE)
# Of S3, GCS and CloudFront; of Azure, whose short names mean something else where no ``sig`` is among them.
_OF_A_SIGNATURE = re.compile(
    "(x-amz|x-goog)-.*|awsaccesskeyid|googleaccessid|expires|signature|policy|key-pair-id", re.IGNORECASE
)
_OF_AZURE = re.compile("sig|s[eiprtv]|spr|sk(oid|tid|t|e|s|v)", re.IGNORECASE)
_PROGRAMS = frozenset({".asp", ".aspx", ".cfm", ".cgi", ".do", ".jsp", ".php", ".pl"})
# Where the system's table is silent, differs from machine to machine, or offers an ending that nobody uses.
_ENDINGS = {
    "application/gzip": ".gz",
    "application/xhtml+xml": ".html",
    "application/xml": ".xml",
    "application/yaml": ".yaml",
    "image/jpeg": ".jpg",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/xml": ".xml",
    "application/octet-stream": "",
}


def name_of(url: httpx.URL, content_disposition: str | None, content_type: str | None) -> str:
    """Return the name of what was fetched, with an ending where one can be told.

    Args:
        url: where it was found in the end.
        content_disposition: the header (RFC 6266), ``None`` if there is none.
        content_type: the header, ``None`` if there is none.
    """
    ending = _ending_for(content_type)
    for offered in (_offered(content_disposition), unquote(url.path.rpartition("/")[2])):
        if name := _safe(offered):
            suffix = PurePosixPath(name).suffix
            missing = not _ENDING.fullmatch(suffix) or (suffix.lower() in _PROGRAMS and ending != "")
            return _cut(name, ending if missing else "")
    return _cut(_safe(url.host) or "document", ending)


def name_of_link(link: str) -> str:
    """Return what the document behind a link is called: the link without its secrets.

    What that hides is told apart by a short digest after the ``…``, so that two links have two names and one link has
    the same name always; parts that a signed link gets anew each time are left out of it.
    """
    name = shown(link)
    return f"{name}{mark_of_link(link)}" if name.endswith("…") else name


def mark_of_link(link: str) -> str:
    """Return a short digest of what :func:`shown` hides of a link; ``""`` if that is nothing.

    It tells links apart and protects nothing: who knows the rest of a link can find out a short number by trying.
    """
    try:
        url = httpx.URL(link)
    except (httpx.InvalidURL, TypeError, ValueError):
        return ""
    signed = _OF_AZURE if "sig" in url.params else _OF_A_SIGNATURE
    said = sorted(part for part in url.params.multi_items() if not signed.fullmatch(part[0]))  # the order says nothing
    bare = url.copy_with(username=None, password=None, query=None, fragment=None)
    if not said and str(bare) == shown(bare):
        return ""
    return hashlib.sha256(repr((str(bare), said)).encode()).hexdigest()[:8]


def _offered(header: str | None) -> str:
    if header is None or len(header) > _LONGEST_HEADER:
        return ""
    message = Message()
    # Reads both forms; where the older one is given as well, the extended one must win (RFC 6266, 4.3).
    message["Content-Disposition"] = re.sub(r"[\r\n]", " ", header)
    extended = re.search(r"filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s]+)", header, re.IGNORECASE)
    if extended is not None:
        return unquote(extended[2], encoding=extended[1], errors="replace")
    return message.get_filename("") or ""


def _ending_for(content_type: str | None) -> str:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return _ENDINGS[kind] if kind in _ENDINGS else mimetypes.guess_extension(kind) or ""


def _safe(name: str) -> str:
    """The last part of a path, without what cannot be seen or turns the writing direction."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    seen = "".join(" " if character.isspace() else character for character in last)
    printable = "".join(character for character in seen if character.isprintable())
    return " ".join(printable.split()).strip(". ")


def _cut(name: str, ending: str) -> str:
    """The name with its ending added, shortened in the middle: what it ends with tells what it is."""
    suffix = ending or (PurePosixPath(name).suffix if _ENDING.fullmatch(PurePosixPath(name).suffix) else "")
    stem = name if ending else name.removesuffix(suffix)
    room = _LONGEST_NAME - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore") + suffix
