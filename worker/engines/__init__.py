"""The RAG systems that a job can work against, behind one protocol (:mod:`worker.engines.base`)."""
