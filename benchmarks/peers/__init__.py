"""One script a system: how it is enqueued to and worked with its own documented means.

Each runs in its system's own environment, so these modules import nothing but that system, the standard library and
``wire``.
"""
