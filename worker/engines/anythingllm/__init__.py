"""The engine for AnythingLLM: documents, questions and workspaces over its developer API."""

from worker.engines.anythingllm.engine import AnythingLLMEngine

__all__ = ["AnythingLLMEngine"]
