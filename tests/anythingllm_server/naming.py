"""Slugs as the real server makes them, of file names and of workspaces."""

import random
import re
import unicodedata
from collections.abc import Container
from uuid import uuid4

_LETTERS = "абвгдежзийклмнопрстуфхцчшщъыьэюяё"
_SOUNDS = "a b v g d e zh z i j k l m n o p r s t u f h c ch sh sh u y  e yu ya yo"
_CYRILLIC = dict(zip(_LETTERS, re.split(" ", _SOUNDS), strict=True))
_WORDS = {"$": "dollar", "%": "percent", "&": "and", "<": "less", ">": "greater", "|": "or", "¢": "cent", "£": "pound"}
_WORKSPACE_WORDS = {
    "+": " plus ",
    "!": " bang ",
    "@": " at ",
    "*": " splat ",
    ".": " dot ",
    ":": "",
    "~": "",
    "(": "",
    ")": "",
    "'": "",
    '"': "",
    "|": "",
}
_FORBIDDEN = re.compile(r"[^\w\s$*+~.()'\"!\-:@]", re.ASCII)
_BLANKS = re.compile(r"\s+")
_FILE_NAME_FORBIDDEN = re.compile('[<>:"/\\\\|?*\u201c\u201d\u2018\u2019]')


def file_name(sent: str) -> str:
    """Return the name that an upload is known by (§3.1): no folders, no characters that some system forbids."""
    return _FILE_NAME_FORBIDDEN.sub("", re.split(r"[/\\]", sent)[-1])


def slugify(text: str, words: dict[str, str] | None = None) -> str:
    """Return ``text`` with blanks as ``-`` and in ASCII; case, dots and parentheses stay (§3.1)."""
    meanings = _WORDS | (words or {})
    plain = "".join(_FORBIDDEN.sub("", meanings.get(character, _in_ascii(character))) for character in text)
    return _BLANKS.sub("-", plain.strip())


def workspace_slug(name: str, taken: Container[str], chance: random.Random) -> str:
    """Return a new workspace's slug (§2): unique, and a UUID where nothing of the name is left."""
    slug = re.sub("-+", "-", slugify(name, _WORKSPACE_WORDS).lower()).strip("-") or str(uuid4())
    if slug in taken:
        slug = f"{slug}-{chance.randrange(10_000_000, 100_000_000)}"
    return slug


def _in_ascii(character: str) -> str:
    if (letters := _CYRILLIC.get(character.lower())) is not None:
        return letters.capitalize() if character.isupper() else letters
    return "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
