"""The speaker notes of a presentation, read from its package.

Kreuzberg gives notes to the wrong slide as soon as some slide has none, so they are not taken from it.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

_MAX_BYTES = 1_000_000  # of one part; notes and slides are far smaller
_DECK = "ppt/presentation.xml"
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_PRESENTATION = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_RELATION_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def speaker_notes(content: bytes) -> dict[int, list[str]]:
    """Return the paragraphs of the notes by slide, from 1; empty for a package that is not of the newer kind."""
    notes: dict[int, list[str]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as package:
            targets = {entry.attrib["Id"]: _target(_DECK, entry) for entry in _relations(package, _DECK)}
            for number, slide in enumerate(_xml(package, _DECK).iter(f"{_PRESENTATION}sldId"), start=1):
                part = targets[slide.attrib[_RELATION_ID]]
                for relation in _relations(package, part):
                    if relation.attrib["Type"].endswith("/notesSlide"):
                        notes[number] = list(_body(_xml(package, _target(part, relation))))
    except (KeyError, ValueError, RuntimeError, NotImplementedError, OSError, ET.ParseError, zipfile.BadZipFile):
        return {}  # an older or a damaged presentation: its slides are read all the same
    return notes


def _relations(package: zipfile.ZipFile, part: str) -> list[ET.Element]:
    path = PurePosixPath(part)
    relations = f"{path.parent}/_rels/{path.name}.rels"
    return list(_xml(package, relations)) if relations in package.namelist() else []


def _target(part: str, relation: ET.Element) -> str:
    """Return the name in the package of what ``part`` relates to."""
    target = relation.attrib["Target"]
    if target.startswith("/"):
        return target.lstrip("/")
    steps = list(PurePosixPath(part).parent.parts)
    for step in PurePosixPath(target).parts:
        if step == ".." and steps:
            steps.pop()
        else:
            steps.append(step)
    return "/".join(steps)


def _xml(package: zipfile.ZipFile, part: str) -> ET.Element:
    if package.getinfo(part).file_size > _MAX_BYTES:
        raise ValueError(f"{part} is larger than any slide")
    return ET.fromstring(package.read(part))  # noqa: S314 - expat bounds what entities grow to, and the size is bounded


def _body(notes: ET.Element) -> Iterator[str]:
    """Yield the paragraphs that the speaker wrote; page numbers and the picture of the slide are other shapes."""
    for shape in notes.iter(f"{_PRESENTATION}sp"):
        placeholder = shape.find(f".//{_PRESENTATION}ph")
        if placeholder is not None and placeholder.attrib.get("type") == "body":
            for paragraph in shape.iter(f"{_DRAWING}p"):
                yield "".join(run.text or "" for run in paragraph.iter(f"{_DRAWING}t"))
