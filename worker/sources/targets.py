"""What a link may look like, before any name is resolved: its scheme, user, port and host.

Accepted are ``http`` and ``https`` without a user, at port 80, 443 or 1024 and above: below 1024 other ports belong to
mail, databases and the like, which answer to nobody's document; above, document servers do live (8080, 8443).
"""

import re

import httpx

from worker.lengths import LONGEST_URL
from worker.sources.errors import SourceError, shown

_PORTS = {"http": 80, "https": 443}
_FIRST_FREE_PORT = 1024
# As inet_aton reads them: 2130706433, 0x7f.1, 0177.0.0.1, 127.1. The plain form has four decimal parts without zeros.
_NUMBER = re.compile(r"(0x[0-9a-f]*|\d+)", re.IGNORECASE)
_PLAIN_IPV4 = re.compile(r"((0|[1-9]\d{0,2})\.){3}(0|[1-9]\d{0,2})")


def target(link: str) -> httpx.URL:
    """Return a link as a URL that may be asked for, without its fragment.

    Raises:
        SourceError: ``link_invalid`` if it is no URL, ``link_forbidden`` if it is one that must not be followed.
    """
    if len(link) > LONGEST_URL:
        raise SourceError("link_invalid", f"{shown(link)} is longer than {LONGEST_URL:,} characters: shorten it")
    if any(not character.isprintable() or character.isspace() for character in link):
        raise SourceError("link_invalid", "the link holds spaces or control characters: encode them as %20 and so on")
    try:
        url = httpx.URL(link).copy_with(fragment=None)
    except httpx.InvalidURL as error:
        raise SourceError("link_invalid", "the link is not a URL: write it as https://host/path") from error
    check(url)
    return url


def check(url: httpx.URL) -> None:
    """Return if a URL may be asked for.

    Raises:
        SourceError: as of :func:`target`.
    """
    if url.scheme not in _PORTS:
        scheme = url.scheme[:20] or "no scheme"
        raise SourceError("link_forbidden", f"{shown(url)} has {scheme}: only http and https links are followed")
    if url.userinfo:
        raise SourceError("link_forbidden", f"{shown(url)} holds a user or password: links are followed without any")
    if not url.host or "%" in url.host or "\\" in url.host:
        raise SourceError("link_invalid", f"{shown(url)} names no host: write it as https://host/path")
    port = url.port if url.port is not None else _PORTS[url.scheme]
    if port not in _PORTS.values() and port < _FIRST_FREE_PORT:
        raise SourceError("link_forbidden", f"{shown(url)} is at port {port}: only 80, 443 and from 1024 on are used")
    host = url.host.rstrip(".")
    if _NUMBER.fullmatch(host.rpartition(".")[2]) and not _PLAIN_IPV4.fullmatch(host):
        # Resolvers differ in what they make of it; whoever writes it so hides something.
        raise SourceError("link_forbidden", f"{shown(url)} has a number for a host: write a name, or four decimals")
