"""What a log line says of URLs: never a secret, never for long."""

import io
import json
import logging
import time
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from worker.masking import LONGEST_VALUE, cut, mask, safe_text, safe_value
from worker.settings import LogFormat, LogLevel
from worker.telemetry import configure_logging, together

SECRET = "hunter2"
LINKS = [
    f"https://files.example/a/b.pdf?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
    f"https://files.example/a/b.pdf?code={SECRET}",
    f"https://files.example/a/b.pdf?jwt={SECRET}#{SECRET}",
    f"https://files.example/a/b.pdf#access_token={SECRET}",
    f"https://me:{SECRET}@files.example/a/b.pdf",
    f"https://{SECRET}@files.example/a/b.pdf",
    f"https://me:pa/{SECRET}@files.example/a/b.pdf",
    f"HTTPS://me:{SECRET}@files.example/a/b.pdf?me@example.org",
    f"s3://files.example/a/b.pdf?versionId={SECRET}",
    f"ftp://me:{SECRET}@files.example/a/b.pdf;type={SECRET}",
    f"https://files.example/a/b.pdf?next=https://x:{SECRET}@h/?{SECRET}",
    f"https:\\/\\/me:{SECRET}@files.example\\/a\\/b.pdf?x={SECRET}",
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("around", ["{}", "got '{}' (404)", '{{"url":"{}","next":"{}"}}', "<{}>,{}"])
def test_a_link_in_a_line_shows_host_and_path_and_nothing_else(link: str, around: str) -> None:
    line = safe_text(around.format(link, link))

    assert SECRET not in line
    assert "files.example/a/b.pdf" in line


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:pa/s@w:o{SECRET}@h/db",
        f"postgresql+asyncpg://u:{SECRET}@h/db?options={SECRET}@x",
        f"redis://:a?{SECRET}@h:6379/0",
        f"redis://h/0?password={SECRET}",
        f"jdbc:sqlserver://h;password={SECRET}",
        f"amqp://u:p://{SECRET}@h",
    ],
)
def test_a_servers_url_never_shows_its_password(url: str) -> None:
    assert SECRET not in mask(url)
    assert SECRET not in safe_text(url)


def test_a_relative_link_loses_its_query() -> None:
    assert safe_text(f"redirected to /login?code={SECRET}&x=1 twice") == "redirected to /login?*** twice"


@given(st.text(alphabet=":/?#@;ab.1 [", max_size=60))
def test_masking_again_changes_nothing_and_no_user_is_shown(text: str) -> None:
    once = safe_text(text)

    assert safe_text(once) == once
    for word in once.split():
        for url in word.split("://")[1:]:
            assert "@" not in url.partition("/")[0].removeprefix("***@")


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
def test_values_in_values_and_tracebacks_are_masked(log_format: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, log_format, stream)
    url = LINKS[0]

    class Odd:
        def __str__(self) -> str:
            return url

        __repr__ = __str__

    structlog.get_logger("test").info("test.nested", a=[url], b={"c": ({url: url},)}, d=Odd(), e=ValueError(url))

    def fails() -> None:
        try:
            raise OSError(url)  # noqa: TRY301 - the cause is the subject
        except OSError as error:
            raise ValueError(f"because of {url}") from error

    try:
        fails()
    except ValueError:
        structlog.get_logger("test").exception("test.error")
        logging.getLogger("other").exception("other %s", url)
    with together(structlog.get_logger("test")) as lines:
        lines.info("test.together", url=url)

    assert SECRET not in stream.getvalue()
    assert stream.getvalue().count("files.example/a/b.pdf") >= 10
    configure_logging(LogLevel.INFO, LogFormat.JSON, io.StringIO())


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
def test_a_line_has_a_bounded_length_and_says_what_was_cut(log_format: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, log_format, stream)
    deep: list[Any] = []
    for _ in range(3_000):
        deep = [deep]

    structlog.get_logger("test").info("test.long", text="x" * 5_000_000, many=["y"] * 100_000, deep=deep)
    logging.getLogger("other").warning("z" * 5_000_000)

    assert len(stream.getvalue()) < 6 * LONGEST_VALUE
    assert "4,996,000 characters cut" in stream.getvalue()
    assert "99,800 more" in stream.getvalue()


def test_a_cut_leaves_no_half_of_a_url() -> None:
    half = LONGEST_VALUE // 2
    before, after = "b " * half, " a" * half

    for place in range(30):
        text = f"{before[: half - place]} redis://me:{SECRET}@h/0 {after}"
        assert "hunt" not in safe_text(text)
        text = f"{before} https://h/?code={'c' * 50}{SECRET} {after[: half - place]}"
        assert SECRET not in safe_text(text)
    assert cut("x" * (LONGEST_VALUE + 1)).startswith("x" * half)


@pytest.mark.parametrize(
    "piece", ["://", "http://", "@", "a@", "http://a@", "http://a:b/", "?a=", "/", ":", "http://h/?", "[", "http://[:"]
)
def test_masking_is_linear(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    for prefix in ("", "://", "https://"):
        started = time.process_time()
        safe_value(prefix + text[:20_000])
        mask(prefix + text[:20_000])
        assert time.process_time() - started < 0.1
    started = time.process_time()
    safe_value({"a": [text]})
    mask(text)
    assert time.process_time() - started < 3  # a thousand thousand characters; quadratic would be hours


def test_a_line_of_a_job_is_not_taken_apart() -> None:
    """The fast path: a line without URLs is written as it was dumped."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.JSON, stream)

    structlog.get_logger("test").info("job.done", items=3, name="é")

    assert '"name":"é"' in stream.getvalue()
    assert json.loads(stream.getvalue())["items"] == 3


def test_requests_of_http_clients_are_no_lines_and_their_warnings_are() -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.JSON, stream)

    for name in ("httpx", "httpcore", "httpcore.http11"):
        logging.getLogger(name).info("HTTP Request: GET https://h/")
        logging.getLogger(name).warning("odd answer of %s", name)

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "odd answer of httpx",
        "odd answer of httpcore",
        "odd answer of httpcore.http11",
    ]


def test_a_terminal_obeys_no_value_of_a_line() -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.TEXT, stream)

    structlog.get_logger("test").info("\x1b]52;c;aGk=\x07", name="a\x1b[2Jb\u202ec\nd\x9b", other=["\x1b"])
    logging.getLogger("other").warning("line\n\x1b[31m12:00:00 forged")
    try:
        int("\x1b[2J\x1b")
    except ValueError:
        structlog.get_logger("test").exception("test.error")

    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(stream.getvalue())
    assert "\n12:00:00 forged" not in stream.getvalue()
    assert "\\u001b[2J" in stream.getvalue()
