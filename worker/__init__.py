"""Carries jobs out: the client that enqueues, the worker that runs, and the two tasks.

``worker`` imports ``repositories``, never the other way.
"""
