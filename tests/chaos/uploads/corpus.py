"""Five hundred files of mixed types in nested archives, and what is to become of each."""

import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook"
BROKEN = "vibration-survey-harbour-works.pdf"  # on purpose: the examples need one
GOOD = 440
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


class File(NamedTuple):
    """A file, and the code that it must fail with; ``None`` if it must be stored."""

    name: str
    content: bytes
    code: str | None = None


def make_corpus(seed: int = 1) -> list[File]:
    """Five hundred files: most are texts of several kinds and encodings, some real documents, and sixty are bad."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    documents = [
        File(f"real/{path.name}", path.read_bytes(), "corrupt" if path.name == BROKEN else None)
        for path in sorted(HANDBOOK.rglob("*"))
        if path.suffix in {".pdf", ".docx", ".xlsx", ".pptx", ".html", ".csv", ".md", ".txt"}
    ]
    texts = [_text(number, chance) for number in range(GOOD - len(documents))]
    bad = [_bad(number) for number in range(500 - GOOD)]
    files = documents + texts + bad
    chance.shuffle(files)
    return files


def _text(number: int, chance: random.Random) -> File:
    machine = f"pump-{number:04}"
    sentence = f"The machine {machine} needs {number * 7 + 3} litres of oil. Its colour is {chance.choice(_COLOURS)}."
    match number % 6:
        case 0:
            return File(f"texts/{machine}.txt", sentence.encode())
        case 1:
            return File(f"texts/{machine}.md", f"# {machine}\n\n{sentence}\n".encode())
        case 2:
            return File(
                f"texts/{machine}.html", f"<html><body><h1>{machine}</h1><p>{sentence}</p></body></html>".encode()
            )
        case 3:
            return File(f"texts/{machine}.csv", f"machine,note\n{machine},{sentence}\n".encode())
        case 4:
            return File(f"texts/{machine}-latin.txt", f"{sentence} Größe: groß.".encode("latin-1"))
        case _:
            return File(f"texts/{machine}-utf16.txt", sentence.encode("utf-16"))


_COLOURS = ("red", "green", "blue", "grey", "yellow", "black")


def _bad(number: int) -> File:
    match number % 6:
        case 0:
            return File(f"bad/{number}-empty.txt", b"", "empty")
        case 1:
            return File(f"bad/{number}-blank.txt", b" \n\t \n" * (number + 1), "no_text")
        case 2:
            return File(f"bad/{number}-program.txt", b"\x7fELF" + bytes(number + 200), "unsupported_type")
        case 3:
            return File(f"bad/{number}-broken.pdf", b"%PDF-1.7\n" + b"broken %d" % number, "corrupt")
        case 4:
            return File(f"bad/{number}-picture.png", PNG + b"%d" % number, "unsupported_type")
        case _:
            return File(f"bad/{number}-blank.rtf", b"{\\rtf1 {\\*\\generator w %d;}}" % number, "no_text")


def pack(files: list[File]) -> dict[str, bytes]:
    """Put the files into three archives: a zip with a tar.gz in it, a tar with a zip in it, and a flat zip."""
    third = len(files) // 3
    first, second, rest = files[:third], files[third : 2 * third], files[2 * third :]
    half = third // 2
    return {
        "first.zip": _zip([*first[:half], File("inner/more.tar.gz", _tar(first[half:], "w:gz"))]),
        "second.tar": _tar([*second[:half], File("deep/more.zip", _zip(second[half:]))], "w"),
        "third.zip": _zip(rest),
    }


def names(files: list[File]) -> dict[str, File]:
    """By the names that :func:`pack` gives them."""
    third = len(files) // 3
    half = third // 2
    found: dict[str, File] = {}
    for at, file in enumerate(files):
        if at < third:
            place = "first.zip" if at < half else "first.zip/inner/more.tar.gz"
        elif at < 2 * third:
            place = "second.tar" if at - third < half else "second.tar/deep/more.zip"
        else:
            place = "third.zip"
        found[f"{place}/{file.name}"] = file
    return found


def _zip(files: list[File]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(file.name, file.content)
    return packed.getvalue()


def _tar(files: list[File], mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]  # modes are literals to it
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.size = len(file.content)
            archive.addfile(entry, io.BytesIO(file.content))
    return packed.getvalue()
