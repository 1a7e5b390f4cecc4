"""The text of documents: what a file is (:func:`sniff`), and what it says (:mod:`.reading`, which needs ``local``)."""

from worker.documents.extract.blocks import Block, Extracted
from worker.documents.extract.sniffing import SUPPORTED_EXTENSIONS, sniff

__all__ = ["SUPPORTED_EXTENSIONS", "Block", "Extracted", "sniff"]
