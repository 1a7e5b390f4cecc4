"""Values whose name or form says that they are secret: masked in log lines and in errors, never for long."""

import io
import json
import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from worker.masking import LONGEST_VALUE, mask, safe_text, safe_value
from worker.settings import LogFormat, LogLevel
from worker.telemetry import configure_logging, together

SECRET = "hunter2"
SECRETS = [
    f"password={SECRET}",
    f"connection to h failed: password: {SECRET}",
    f"PGPASSWORD={SECRET} psql -h h",
    f"host=h user=u password='a b\\' {SECRET}' dbname=d",
    f"password = {SECRET}",
    f"pwd={{a;{SECRET}}};uid=me",
    f'password="{SECRET}',
    f'{{"api_key":"x {SECRET}","other":1}}',
    f'{{\\"api_key\\": \\"x \\\\\\"{SECRET}\\", \\"other\\": 1}}',
    f"{{'apiKey': b'{SECRET}'}}",
    f"clientSecret={SECRET};tenant=x",
    f"AccountName=x;AccountKey={SECRET}==;EndpointSuffix=y",
    f"x-api-key: {SECRET}",
    f"X-Amz-Security-Token={SECRET}",
    f"access_token={SECRET}&expires_in=60",
    f"token%3D{SECRET}",
    f"%7B%22secret%22%3A%22{SECRET}%22%7D",
    f"Authorization: Bearer {SECRET}",
    f"proxy-authorization: Basic {SECRET}==",
    f"{{'Authorization': 'Bearer {SECRET}', 'Accept': '*/*'}}",
    f'curl -H "Authorization: Bearer {SECRET}" http://h/',
    f'Authorization: Digest username="me", response="{SECRET}"',
    f"Authorization: token {SECRET}",
    f"the server says: invalid bearer {SECRET}",
    f"Cookie: a=1; session={SECRET}",
    f"<Error><Password>{SECRET}</Password></Error>",
    f"[(b'x-api-key', b'{SECRET}')]",
    f"psql --password {SECRET}",
    f"['worker', '--api-key', '{SECRET}']",
    f"Incorrect API key provided: {SECRET}. You can find yours",
    f"//me:{SECRET}@h:5432/db",
    f"cannot resolve //me:pa/{SECRET}@h",
    f"https%3A%2F%2Fme%3A{SECRET}%40h%2Fx%3Fcode%3D{SECRET}",
    f"https%253A%252F%252Fme%253A{SECRET}%2540h",
    f"https%3a//me:{SECRET}@h/",
    f"//proxy/https%3A%2F%2Fme%3A{SECRET}%40h",
    f"%2F%2Fme%3A{SECRET}%40h",
]
FORMS = [
    "sk-proj-0123456789abcdefghij",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "ABCDEFG-1234567-HIJKLMN-7654321",
    "Basic bWU6aHVudGVyMg==",
]
HARMLESS = [
    "ANYTHINGLLM_API_KEY: should be set",
    "token: expired at noon",
    "max_tokens=500, prompt_tokens: 3",
    "the bearer token is invalid",
    "Basic authentication failed",
    "no valid API key found",
    "the document is locked with a password",
    "pump//seals/a@b".replace("@", "-"),
    "100 % of 20%",
    "task-0123456789abcdefghij",
    "a password > 8 characters, or none",
]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("around", ["{}", "ValueError: {}", "first\n{}\nlast"])
def test_a_named_secret_is_shown_to_nobody(text: str, around: str) -> None:
    for masked in (mask, safe_text):
        shown = masked(around.format(text))

        assert SECRET not in shown
        assert "***" in shown
        assert masked(shown) == shown


@pytest.mark.parametrize("text", FORMS)
def test_a_secret_is_known_by_its_form(text: str) -> None:
    assert text.rpartition(" ")[2] not in mask(f"the server says {text} is wrong")
    assert text.rpartition(" ")[2] not in safe_text(f"'{text}'")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_speaks_of_secrets_stays(text: str) -> None:
    assert mask(text) == safe_text(text) == text


def test_what_stands_around_a_secret_stays() -> None:
    assert mask(f"host=h password='{SECRET}' port=1") == "host=h password='***' port=1"
    assert mask(f'{{"token":"{SECRET}","other":1}}') == '{"token":"***","other":1}'
    assert mask(f"//me:{SECRET}@h:5432/db") == "//***@h:5432/db"
    assert mask(f"https%3A%2F%2Fme%3A{SECRET}%40h%2Fx%3Fa%3D1") == "https%3A%2F%2F***@h%2Fx%3F***"


def test_a_field_with_a_secret_name_is_masked_wherever_it_stands() -> None:
    assert safe_value({"api_key": SECRET, "a": [{"Authorization": f"x {SECRET}"}], "tokens": 3, "token": 4}) == {
        "api_key": "***",
        "a": [{"Authorization": "***"}],
        "tokens": 3,
        "token": 4,
    }
    assert SECRET not in str(safe_value({"credentials": [SECRET], "secret": {"a": SECRET}}))


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
def test_no_line_shows_a_named_secret(log_format: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, log_format, stream)
    log = structlog.get_logger("test")

    log.info("test.fields", api_key=SECRET, headers={"Cookie": SECRET}, said="ok")
    for text in SECRETS:
        log.info("test.text", said=text)
    with together(log) as lines:
        lines.info("test.together", token=SECRET)
        lines.warning("test.together", reason=f"password={SECRET}")
    log.error("test.error", exc_info=ValueError(f"Authorization: Bearer {SECRET}"))

    assert SECRET not in stream.getvalue()
    assert stream.getvalue().count("test.text") == len(SECRETS)
    configure_logging(LogLevel.INFO, LogFormat.JSON, io.StringIO())


def test_a_line_that_is_masked_is_still_json() -> None:
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, LogFormat.JSON, stream)

    structlog.get_logger("test").info("test.text", said='{"password":"a\\"b"}', number=3)

    line = json.loads(stream.getvalue())
    assert (line["said"], line["number"]) == ('{"password":"***"}', 3)


def test_a_cut_leaves_no_half_of_a_named_secret() -> None:
    half = LONGEST_VALUE // 2
    for place in range(60):
        text = f"Authorization: Bearer {SECRET} tail"
        assert SECRET not in safe_text(f"{'b ' * half}{text}{'c' * (half - place)}")
        assert SECRET not in safe_text(f"{'b' * (half - place)} {text}{' c' * half}")


PIECES = [
    *("password=", "token>", "<token>a", "--a", "token ", 'password="', 'password="a" ', "password={", "password=a&b="),
    *("bearer ", "bearer a", "authorization:", "cookie: a\n", "eyJ", "eyJa", "sk-", "AAAAAAA-", "Basic ", "Basic a"),
    *(
        "key:",
        "api key provided",
        'token","',
        "token: a a ",
        "%25",
        "%2F",
        "%2F%2F",
        "%253A%252F%252F",
        "%3A//",
        "//a ",
    ),
    *("//a@", '\\"', "\\", '"', "\n", "&a", "\u0130"),
]


@pytest.mark.parametrize("piece", PIECES)
def test_masking_named_secrets_is_linear(piece: str) -> None:
    for prefix in ("", "password=", "Bearer ", "<token>", "//"):
        text = f"{prefix}{piece * (20_000 // len(piece))}\x00"
        for masked in (mask, safe_text):
            began = time.process_time()
            masked(text)
            assert time.process_time() - began < 0.05, (masked, prefix)
    began = time.process_time()
    mask(piece * (400_000 // len(piece)))
    assert time.process_time() - began < 1  # twenty times as long; quadratic would be four hundred times


@given(
    st.lists(st.sampled_from([*PIECES, "=", ":", "@", "?", " ", "a", "%40", "***", "'", "{", "}", "</"]), max_size=9)
)
def test_masking_again_changes_nothing(pieces: list[str]) -> None:
    for masked in (mask, safe_text):
        once = masked("".join(pieces))

        assert masked(once) == once
