"""A server that answers as AnythingLLM's developer API does, its quirks, races and outages included.

It keeps documents, embeds them with real vectors and answers from them, so a client cannot tell it from the real server
by what it stores, lists or finds. ``POST /_control`` changes how it behaves while it runs, ``GET /_control`` tells what
happened. Its answers come from quotation, not from a language model. Sections (§) in its comments are those of the
observations of the real server, version 1.16.0.

``python -m tests.anythingllm_server`` runs it by hand; :func:`anythingllm_server` runs it for a test.
"""

from tests.anythingllm_server.behaviour import Behaviour, Fault, FaultKind, ModelTrouble
from tests.anythingllm_server.counters import Counters
from tests.anythingllm_server.server import Server, anythingllm_server, running_server

__all__ = [
    "Behaviour",
    "Counters",
    "Fault",
    "FaultKind",
    "ModelTrouble",
    "Server",
    "anythingllm_server",
    "running_server",
]
