"""What a queue may be called. A module of its own: processes that only parse documents load no tables for it."""

DEFAULT_QUEUE = "default"
QUEUE_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # the same to Python and to PostgreSQL
