"""The local engine: documents in PostgreSQL, found by full text and vectors, answered by quoting."""

from worker.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
