"""The process that parses documents: reads one from standard input, writes its passages to standard output, again.

``python -m worker.documents.extract.parser_process BYTES`` (bound on its memory); started and stopped by
:mod:`worker.documents.parsing`, which tells the format of what passes between them. It ends when its standard input
does, so it never outlives its parent.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from worker.documents.extract.exchange import LENGTH, Parsed, Refused, Rendered, Reply, Request
from worker.documents.extract.reading import extract
from worker.documents.passages import passages
from worker.documents.rendering import as_markdown
from worker.engines.base import DocumentRejectedError

_PART = 500  # passages: reading that many takes the worker's event loop about a millisecond
_PIECE = 200_000  # characters of Markdown: so does this


def parse(content: bytes, request: Request) -> Reply:
    """Return the passages of a document, or its text as Markdown, or why there is none."""
    try:
        extracted = extract(content, request.name, request.media_type, max_characters=request.max_characters)
    except DocumentRejectedError as error:
        return Reply(refused=Refused(code=error.code, message=error.message))
    if request.as_markdown:
        return Reply(rendered=Rendered(pages=extracted.pages, texts=[as_markdown(extracted)]))
    found = passages(extracted)
    return Reply(
        parsed=Parsed(
            pages=extracted.pages,
            words=extracted.words,
            texts=[passage.text for passage in found],
            on_pages=[passage.page for passage in found],
            headings=[passage.heading for passage in found],
        )
    )


def parts(reply: Reply) -> Iterator[Reply]:
    """Yield a reply in parts that are small enough to be read one at a time."""
    if (rendered := reply.rendered) is not None:
        text = "".join(rendered.texts)
        starts = range(0, max(len(text), 1), _PIECE)
        for start in starts:
            piece = Rendered(pages=rendered.pages, texts=[text[start : start + _PIECE]])
            yield Reply(rendered=piece, more=start != starts[-1])
        return
    whole = reply.parsed
    if whole is None:
        yield reply
        return
    starts = range(0, max(len(whole.texts), 1), _PART)
    for start in starts:
        rows = slice(start, start + _PART)
        part = Parsed(
            pages=whole.pages,
            words=whole.words,
            texts=whole.texts[rows],
            on_pages=whole.on_pages[rows],
            headings=whole.headings[rows],
        )
        yield Reply(parsed=part, more=start != starts[-1])


def limit_memory(most_bytes: int) -> None:
    """Have the kernel refuse more memory than this, beyond what this process has now.

    Where it cannot (macOS), the time bound has to do.
    """
    import resource  # noqa: PLC0415 - not on Windows, where only this function would fail

    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + most_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Say that all is loaded (a length of 0), then answer requests until the source ends."""
    sink.write(LENGTH.pack(0))
    sink.flush()
    while head := source.read(2 * LENGTH.size):
        (request_length,), (content_length,) = LENGTH.unpack(head[: LENGTH.size]), LENGTH.unpack(head[LENGTH.size :])
        request = Request.model_validate_json(source.read(request_length))
        content = source.read(content_length)
        signal.alarm(request.seconds)
        reply = parse(content, request)
        signal.alarm(0)
        for part in parts(reply):
            told = part.model_dump_json().encode()
            sink.write(LENGTH.pack(len(told)) + told)
        sink.flush()


if __name__ == "__main__":
    limit_memory(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
