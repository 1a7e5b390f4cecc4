"""Log lines: text on a terminal, JSON otherwise, each with the job it is about.

Events are ``noun.verb`` with a closed set of fields. What is bound with :func:`structlog.contextvars.bind_contextvars`
(``job_id``, ``job_type``, ``attempt``, ``worker_id``) stands on every line of that task. Secrets never reach a line:
settings hold them as ``SecretStr``, and every value is masked and cut (:mod:`worker.masking`) in case a library prints
one. On a terminal no value is obeyed (:mod:`worker.visible`).
"""

import json
import logging
import select
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import NoneType
from typing import Any, TextIO

import orjson
import structlog

from worker.masking import LONGEST_VALUE, safe_field
from worker.masking.named import may_hold_secrets
from worker.settings import LogFormat, LogLevel
from worker.visible import block, one_line

_SIGNS_OF_URLS = (b"//", b"?", b"%", b":\\\\/")  # the last as some JSON writers spell the first, spelled as JSON
_SEVERAL_LINES = frozenset({"exception", "stack"})
_OURS = frozenset({"timestamp", "level"})


def _clean_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key not in _OURS:
            event[key] = safe_field(key, value)
    return event


def _visible_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: nothing in a line is obeyed by it, and only a traceback has several lines."""
    for key, value in event.items():
        if not isinstance(value, bool | int | float | NoneType):
            text = value if isinstance(value, str) else repr(value)
            event[key] = block(text) if key in _SEVERAL_LINES else one_line(text)
    return event


def _as_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    line = {
        "timestamp": event.pop("timestamp", None) or datetime.now(UTC),
        "level": event.pop("level", None),
        "event": event.pop("event", None),
        **event,
    }
    return _dumped(line).decode()


def _dumped(line: dict[str, Any]) -> bytes:
    """One line. A worker writes one a job, so this is a part of what a job costs."""
    try:
        text = orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z)
    except TypeError:  # a number of more than 64 bits, a file's name that is no text, what is nested too deep
        text = b""
    if text and len(text) <= LONGEST_VALUE and not _may_need_masking(text):
        return text
    told = {"timestamp": str(line["timestamp"]).replace(" ", "T").replace("+00:00", "Z")}
    return json.dumps(_clean_values(None, "", line | told)).encode()


def _may_need_masking(text: bytes) -> bool:
    return any(sign in text for sign in _SIGNS_OF_URLS) or may_hold_secrets(text)


_JSON = [structlog.processors.format_exc_info, _as_json]


class Lines:
    """Takes lines as a logger does, and writes them all at once: see :func:`together`."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Take a line of the level INFO."""
        self.taken.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Take a line of the level WARNING."""
        self.taken.append(("warning", event, fields))


@contextmanager
def together(log: Any) -> Iterator[Lines]:
    """Lines that are written when the block ends. A thousand of them cost a fifth of what they cost one by one.

    Args:
        log: the logger that would have written them.
    """
    lines = Lines()
    try:
        yield lines
    finally:
        if structlog.get_config()["processors"][-2:] == _JSON:
            _write_together(log.bind(), lines)
        else:  # text on a terminal, or a test that listens
            for level, event, fields in lines.taken:
                getattr(log, level)(event, **fields)


def _write_together(log: Any, lines: Lines) -> None:
    names = logging.getLevelNamesMapping()
    taken = {level for level, _, _ in lines.taken}
    written = {level for level in taken if log.is_enabled_for(names[level.upper()])}
    of_all = {"timestamp": datetime.now(UTC), "level": None, "event": None} | structlog.contextvars.get_contextvars()
    out, gathered, size = structlog.get_config()["logger_factory"](), list[bytes](), 0
    for level, event, fields in lines.taken:
        if level not in written:
            continue
        line = _dumped({**of_all, "level": level, "event": event, **fields})
        # Several processes may write to one pipe: what is longer than this is not written in one piece.
        if gathered and size + len(line) >= select.PIPE_BUF:
            out.msg(b"\n".join(gathered).decode())
            gathered, size = [], 0
        gathered.append(line)
        size += len(line) + 1
    if gathered:
        out.msg(b"\n".join(gathered).decode())


def configure_logging(level: LogLevel, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's lines to ``stream`` (standard error by default) in one format."""
    out = stream or sys.stderr
    pretty = log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and out.isatty())
    shared: list[Any] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]
    rendering: list[Any] = (
        [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            _clean_values,
            _visible_values,
            # The default shows local variables with a traceback: passwords and documents among them.
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), pad_event_to=18, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if pretty
        else [*_JSON]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(str(level))
    # The arq command gives its logger a handler of its own; with ours, every line would stand twice.
    logging.getLogger("arq").handlers.clear()
    # What these say at INFO, our own events say once, with the job's fields.
    # Each request of an HTTP client is a line of theirs, with the whole URL.
    for name in ("arq.worker", "alembic", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        # Our own lines do not go through the standard library's logging, which costs more than the rest together.
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[str(level)]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
