"""Which documents AnythingLLM reads, and what they must be called so that it does.

It decides by the ending of the name alone, and takes what it does not know for text: a ``.doc`` becomes garbage that is
stored with ``success: true``. So what is not in this list must not be sent. The numbers are sections of
ANYTHINGLLM_API.md, where each line was observed on a running server.
"""

from pathlib import PurePosixPath

from worker.documents.extract import sniffing

SUPPORTED_BY_ANYTHINGLLM = {
    sniffing.PDF: ".pdf",  # 3.1; one without text: 3.4
    sniffing.DOCX: ".docx",  # 3.1
    sniffing.PPTX: ".pptx",  # 3.1
    sniffing.XLSX: ".xlsx",  # 3.1: one document a sheet
    sniffing.ODT: ".odt",  # 3.1
    sniffing.EPUB: ".epub",  # 3.1, not observed: 10
    sniffing.TEXT: ".txt",  # 3.1
    sniffing.MARKDOWN: ".md",  # 3.1
    sniffing.RST: ".rst",  # 3.1
    sniffing.HTML: ".html",  # 3.1: stored with its tags
    sniffing.JSON: ".json",  # 3.1: stored as it is
    sniffing.CSV: ".csv",  # 3.1: stored as it is
    # 3.1: endings that it does not know are read as text if its table of media types does not forbid it: not left to
    # that table.
    sniffing.XML: ".txt",
    sniffing.TSV: ".txt",
}
"""The media types that AnythingLLM reads, each with the ending (lower-case, with the dot) that makes it do so.

Not among them, though the local engine reads them: RTF, mail and the formats of old office programs are stored as
garbage (3.1), ODS is refused as a binary file (3.4).
"""

# 3.1: texts of another kind that it knows by name; to us they are plain text.
_TEXTS_BY_NAME = frozenset({".org", ".adoc", ".txt"})


def accepted_by_anythingllm(media_type: str) -> bool:
    """Say whether AnythingLLM reads documents of this type; others must be refused with ``unsupported_type``."""
    return media_type in SUPPORTED_BY_ANYTHINGLLM


def extension_for(media_type: str, name: str) -> str:
    """Return the ending that a document must have for AnythingLLM, lower-case, with the dot.

    For a type that it does not read this is the ending of ``name``, or ``.bin`` if there is none.
    """
    ending = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if media_type == sniffing.TEXT and ending in _TEXTS_BY_NAME:
        return ending
    return SUPPORTED_BY_ANYTHINGLLM.get(media_type, ending or ".bin")
