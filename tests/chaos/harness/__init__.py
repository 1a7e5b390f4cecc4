"""The chaos suite's parts: a seeded schedule and workload, servers behind a proxy, workers, a record, its invariants.

``run.chaos_run`` puts them together; everything reaches the product through its public surface only: worker processes,
``JobClient``, the database and Redis.
"""
