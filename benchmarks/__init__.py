"""``python -m benchmarks``: this project and its peers side by side, on the same servers, in one run.

Nothing here is part of the product. ``benchmarks/README.md`` says what is measured and how to read it.
"""
