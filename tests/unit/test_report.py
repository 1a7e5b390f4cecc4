"""The report: figures counted from the rows, and files that are whole, safe to open and the same thing three times."""

import base64
import csv
import hashlib
import io
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.engines.base import Source
from worker.questions.report import (
    CSV_COLUMNS,
    Report,
    ReportRow,
    UploadedFile,
    UploadSummary,
    render_csv,
    render_html,
    totals,
    write_report,
)
from worker.questions.report_html import MAX_BARS, chart_of, duration, files_in_order, marked, percent, size
from worker.questions.scoring import Reason

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&{{ 7 * 7 }}"


def row(position: int = 0, **fields: Any) -> ReportRow:
    given: dict[str, Any] = {
        "position": position,
        "id": f"q{position}",
        "question": "Which oil?",
        "status": "answered",
        "answer": "ISO VG 220.",
        "passed": True,
        "score": 1.0,
        "reason": Reason.ANSWERED,
        "latency_seconds": 1.0,
    }
    return ReportRow.model_validate(given | fields)


def failed_row(position: int = 0, **fields: Any) -> ReportRow:
    given = {"status": "failed", "answer": "", "passed": False, "score": 0.0, "reason": None}
    return row(position, **(given | {"error_code": "engine_unavailable", "error": "It did not answer."} | fields))


def report(*rows: ReportRow, **fields: Any) -> Report:
    given: dict[str, Any] = {
        "title": "Kestrel questions",
        "generated_at": NOON,
        "job_id": UUID(int=1),
        "workspace": "kestrel",
        "engine": "local",
        "question_set": "kestrel.csv",
        "status": "completed",
        "attempts": 1,
        "created_at": NOON - timedelta(seconds=100),
        "started_at": NOON - timedelta(seconds=90),
        "completed_at": NOON,
        "rows": rows,
    }
    return Report.model_validate(given | fields)


def upload(*files: UploadedFile) -> UploadSummary:
    done, failed, skipped = (sum(file.status == status for file in files) for status in ("done", "failed", "skipped"))
    return UploadSummary(
        job_id=UUID(int=2),
        workspace="kestrel",
        items_total=len(files),
        items_done=done,
        items_failed=failed,
        items_skipped=skipped,
        bytes=sum(file.bytes or 0 for file in files),
        files=files,
    )


def records(report: Report) -> list[list[str]]:
    """The CSV as a program reads it, header first."""
    return list(csv.reader(io.StringIO(render_csv(report), newline="")))


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the text outside script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.text = ""
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag in {"script", "style"} else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open] = self.inside.get(self._open, "") + data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_totals_are_counted_from_the_rows() -> None:
    counted = totals(
        [
            row(0, latency_seconds=1),
            row(1, passed=False, score=0.5, latency_seconds=2),
            row(2, status="refused", passed=False, score=0, latency_seconds=3),
            row(3, answerable=False, status="refused", latency_seconds=4),
            row(4, answerable=False, passed=False, latency_seconds=None),
            failed_row(5, latency_seconds=30),
        ],
        NOON,
        NOON + timedelta(seconds=75),
    )

    assert (counted.questions, counted.answered, counted.refused, counted.failed) == (6, 3, 2, 1)
    assert counted.passed == 2
    assert counted.pass_rate == pytest.approx(1 / 3)
    assert (counted.answerable.total, counted.answerable.passed, counted.answerable.rate) == (4, 1, 0.25)
    assert (counted.unanswerable.total, counted.unanswerable.refused, counted.unanswerable.rate) == (2, 1, 0.5)
    assert counted.latency is not None
    assert counted.latency.model_dump() == {"p50": 2, "p95": 4, "max": 4, "mean": 2.5}  # the 30 s are no answer
    assert counted.duration_seconds == 75


def test_totals_of_nothing_have_no_rates() -> None:
    counted = totals([])

    assert (counted.pass_rate, counted.answerable.rate, counted.unanswerable.rate) == (None, None, None)
    assert (counted.latency, counted.duration_seconds) == (None, None)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_percentiles_are_times_that_some_question_took(seconds: list[float]) -> None:
    latency = totals([row(n, latency_seconds=took) for n, took in enumerate(seconds)]).latency

    assert latency is not None
    assert {latency.p50, latency.p95, latency.max} <= set(seconds)
    for share, value in ((0.5, latency.p50), (0.95, latency.p95)):
        assert sum(took <= value for took in seconds) >= share * len(seconds)
        assert sum(took < value for took in seconds) < share * len(seconds)


def test_totals_cannot_be_passed_in() -> None:
    forged = report(row()).model_dump() | {"totals": {"questions": 500, "passed": 500}}

    assert Report.model_validate(forged).totals.questions == 1


def test_rows_out_of_order_or_twice_are_refused() -> None:
    for rows in ((row(1), row(0)), (row(1), row(1))):
        with pytest.raises(ValidationError, match="order of their positions"):
            report(*rows)


@pytest.mark.parametrize("wrong", [{"passed": True}, {"error_code": None}])
def test_a_failed_row_names_its_error_and_has_not_passed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="error_code"):
        failed_row(**wrong)


def test_the_three_files_are_written_and_the_json_reads_back_the_same(tmp_path: Path) -> None:
    written = report(row(0, sources=[Source(document="a.pdf", page=3, text="ISO", score=0.5)]), failed_row(1))

    files = write_report(tmp_path / "new" / "folder", written)

    assert [path.name for path in files] == ["report.html", "report.json", "report.csv"]
    assert Report.model_validate_json(files.json.read_bytes()) == written
    assert files.html.read_text(encoding="utf-8") == render_html(written)
    assert files.csv.read_bytes().decode() == render_csv(written)
    assert sorted(path.name for path in files.html.parent.iterdir()) == ["report.csv", "report.html", "report.json"]


def test_a_later_report_replaces_the_earlier_also_under_a_reader(tmp_path: Path) -> None:
    first = report(row(), title="First")
    files = write_report(tmp_path, first)

    with files.html.open(encoding="utf-8", newline="") as reading:
        second = report(row(), title="Second")
        write_report(tmp_path, second)

        assert reading.read() == render_html(first)  # whole, not the beginning of one and the end of the other
    assert files.html.read_text(encoding="utf-8") == render_html(second)


def test_a_write_that_fails_leaves_the_earlier_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_report(tmp_path, report(row(), title="First"))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, report(row(), title="Second"))

    assert "First" in files.html.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.html", "report.json"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_place_of_the_folder_is_refused_and_left_alone(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("mine")

    with pytest.raises(NotADirectoryError, match="choose another folder"):
        write_report(tmp_path / "taken" / below, report(row()))

    assert (tmp_path / "taken").read_text() == "mine"


def test_the_csv_begins_with_the_columns_of_the_older_service() -> None:
    text = render_csv(
        report(
            row(
                0,
                expected_fragments=("45 Nm", "M8"),
                found=("45 Nm",),
                missing=("M8",),
                passed=False,
                score=0.5,
                reason=Reason.FRAGMENTS_MISSING,
                sources=[
                    Source(document="a.pdf", page=3, text="x", score=1),
                    Source(document="b.md", text="y", score=0),
                ],
            ),
            failed_row(1, latency_seconds=None, attempt=2),
        )
    )

    header = text.split("\r\n", 1)[0]
    first, second = csv.DictReader(text.splitlines())
    assert header.startswith(
        "question_id,question_text,response,confidence_score,processing_time,success,error,fragments_found,"
    )
    assert first == {
        "question_id": "q0",
        "question_text": "Which oil?",
        "response": "ISO VG 220.",
        "confidence_score": "0.5",
        "processing_time": "1.000",
        "success": "true",
        "error": "",
        "fragments_found": "45 Nm",
        "expected_fragments": "45 Nm; M8",
        "fragments_missing": "M8",
        "answerable": "true",
        "status": "answered",
        "passed": "false",
        "reason": "fragments_missing",
        "sources": "a.pdf p. 3; b.md",
        "attempt": "1",
        "error_code": "",
    }
    assert (second["success"], second["error_code"], second["processing_time"]) == ("false", "engine_unavailable", "")
    assert (second["error"], second["attempt"]) == ("It did not answer.", "2")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_cell_of_the_csv_begins_like_a_formula(start: str) -> None:
    formula = f"{start}HYPERLINK(1)"
    source = Source(document=formula, text="x", score=0)
    rows = (
        row(0, id=formula, question=formula, answer=formula, found=(formula,), missing=(formula,), sources=[source]),
        failed_row(1, error=formula, error_code=formula, expected_fragments=(formula,)),
    )
    cells = [cell for record in records(report(*rows))[1:] for cell in record]
    assert not [cell for cell in cells if cell.startswith(start)]
    assert cells.count(f"'{formula}") == 9


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_comes_back_from_the_csv(text: str) -> None:
    (_, record) = records(report(row(answer=text)))

    assert len(record) == len(CSV_COLUMNS)
    assert record[2] in (text, f"'{text}")


def hostile() -> Report:
    source = Source(document=ATTACK, heading=ATTACK, text=ATTACK, score=0)
    file = UploadedFile(name=ATTACK, status="failed", error=ATTACK, error_code=ATTACK, media_type=ATTACK)
    return report(
        row(
            0,
            id=ATTACK,
            question=ATTACK,
            answer=ATTACK,
            sources=[source],
            expected_fragments=(ATTACK,),
            found=(ATTACK,),
        ),
        failed_row(1, id=ATTACK, error=ATTACK, error_code=ATTACK, expected_fragments=(ATTACK,), missing=(ATTACK,)),
        title=ATTACK,
        workspace=ATTACK,
        engine=ATTACK,
        question_set=ATTACK,
        status=ATTACK,
        warnings=(ATTACK,),
        upload=upload(file),
    )


def test_no_text_of_a_document_becomes_markup() -> None:
    tame = report(
        row(0, sources=[Source(document="d", heading="h", text="t", score=0)], expected_fragments=("f",)),
        failed_row(1, expected_fragments=("f",)),
    )
    page = Page(render_html(hostile()))

    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert {name for _, attributes in page.elements for name in attributes if name.startswith("on")} == set()
    assert page.text.count("alert(1)") >= 15
    assert "49" not in page.text  # 7 * 7: no text is run as a template
    assert {tag for tag, _ in page.elements} - {tag for tag, _ in Page(render_html(tame)).elements} <= {
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "mark", "code", "b")
    }


def test_the_policy_admits_only_the_style_and_script_of_the_page_itself() -> None:
    page = Page(render_html(hostile()))

    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    for part in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inside[part].encode()).digest()).decode()
        assert allowed[f"{part}-src"] == f"'sha256-{digest}'"
    assert not [attributes for _, attributes in page.elements if "style" in attributes]  # the policy would drop it


def test_the_page_refers_to_nothing_outside_itself() -> None:
    html = render_html(report(row(), upload=upload(UploadedFile(name="a.pdf", status="done"))))
    page = Page(html)

    references = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in {"src", "href"}
    ]
    assert references
    assert all(value is not None and value.startswith("#q-") for value in references)
    assert not re.search(r"https?:|url\(|@import", html)


def test_without_its_script_the_page_shows_every_question_and_no_dead_controls() -> None:
    page = Page(render_html(report(row(0), failed_row(1), row(2, status="refused", passed=False))))

    articles = page.all("article")
    assert [article["id"] for article in articles] == ["q-0", "q-1", "q-2"]
    assert not [article for article in articles if "hidden" in article]
    (tools,) = [div for div in page.all("div") if div.get("id") == "tools"]
    assert "hidden" in tools


def test_each_question_is_under_the_filters_that_name_it() -> None:
    page = Page(
        render_html(
            report(
                row(0),
                row(1, passed=False),
                row(2, status="refused", passed=False),
                row(3, status="refused", answerable=False),
                failed_row(4),
            )
        )
    )

    assert [article["data-show"] for article in page.all("article")] == [
        *("passed", "failed", "failed refused", "passed refused", "failed")
    ]


def test_a_question_is_told_with_its_answer_fragments_sources_and_time() -> None:
    told = row(
        answer="It takes 45Nm.",
        expected_fragments=("45 Nm", "crosswise"),
        found=("45 Nm",),
        missing=("crosswise",),
        passed=False,
        latency_seconds=1.25,
        sources=[Source(document="service.pdf", page=42, heading="Torques", text="Flange bolts: 45 Nm.", score=1)],
    )
    page = Page(render_html(report(told)))
    text = " ".join(page.text.split())

    for part in ("Which oil?", "It takes 45Nm.", "crosswise", "service.pdf", "page 42", "Torques", "1.25 s", "Failed"):
        assert part in text
    assert "Flange bolts: 45 Nm." in text
    assert [sign["aria-label"] for sign in page.all("span") if sign.get("class") == "sign"] == ["found", "missing"]


def test_a_report_of_a_job_that_is_not_over_says_so() -> None:
    unfinished = Page(render_html(report(row(), status="cancelled", questions_in_set=500))).text
    finished = Page(render_html(report(row(), questions_in_set=1))).text

    assert "1 of its 500 questions" in " ".join(unfinished.split())
    assert "of its" not in finished


def test_a_report_without_rows_has_a_page() -> None:
    assert "No question has been answered yet." in Page(render_html(report())).text


def test_files_that_a_person_must_look_at_come_first() -> None:
    files = [
        UploadedFile(name=f"{n}-{status}", status=status)
        for n, status in enumerate(("done", "pending", "skipped", "failed", "done", "failed"))
    ]

    names = [file.name for file in files_in_order(files)]

    assert names == ["3-failed", "5-failed", "2-skipped", "1-pending", "0-done", "4-done"]
    text = Page(render_html(report(row(), upload=upload(*files)))).text
    assert sorted(names, key=text.index) == names


def test_the_picture_has_a_bar_for_each_timed_question() -> None:
    chart = chart_of(report(row(0, latency_seconds=1), row(1, latency_seconds=None), row(2, latency_seconds=4)))

    assert [(bar.position, bar.height, bar.y, bar.kind) for bar in chart.bars] == [
        (0, 25, 75, "passed"),
        (2, 100, 0, "passed"),
    ]
    assert chart.median_y == 75


def test_a_time_out_does_not_press_the_answers_flat() -> None:
    chart = chart_of(report(row(0, latency_seconds=2), failed_row(1, latency_seconds=30)))

    assert [(bar.height, bar.kind) for bar in chart.bars] == [(100, "passed"), (100, "error")]


def test_the_picture_of_many_questions_shows_the_slowest_of_each_group() -> None:
    chart = chart_of(report(*(row(n, latency_seconds=9.0 if n == 700 else 1.0) for n in range(1000))))

    assert len(chart.bars) <= MAX_BARS
    assert chart.questions_a_bar == 9
    (tallest,) = [bar for bar in chart.bars if bar.height == 100]
    assert tallest.position == 700
    assert "q700: 9.00 s" in tallest.title


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(None), "\u2013"),
        (percent(0.0), "0%"),
        (percent(0.0001), "1%"),
        (percent(0.9999), "99%"),
        (percent(1.0), "100%"),
        (duration(0.0344), "34 ms"),
        (duration(0.9999), "1.00 s"),
        (duration(1.236), "1.24 s"),
        (duration(41.23), "41.2 s"),
        (duration(192), "3 min 12 s"),
        (duration(7500), "2 h 05 min"),
        (size(999), "999 B"),
        (size(1023), "1.0 KiB"),
        (size(4_812_332), "4.6 MiB"),
        (size(48_211_000), "46 MiB"),
    ],
)
def test_figures_are_written_as_a_person_would_say_them(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize(
    ("text", "fragment", "expected"),
    [
        ("to 45Nm, in", "45 Nm", "to <mark>45Nm</mark>, in"),
        ("every 2,000 hours", "2 000 hours", "every <mark>2,000 hours</mark>"),
        ("takes 1.2 l", "1,2 l", "takes <mark>1.2 l</mark>"),
        ("from \u221220 °C", "-20", "from <mark>\u221220</mark> °C"),
        ("a & <b> & B", "<b>", "a &amp; <mark>&lt;b&gt;</mark> &amp; B"),
        ("45 and 5", "5", "45 and <mark>5</mark>"),
        ("a < b", " ", "a &lt; b"),
    ],
)
def test_found_fragments_are_marked_and_the_rest_is_escaped(text: str, fragment: str, expected: str) -> None:
    assert marked(text, (fragment,)) == expected


@given(st.text(), st.lists(st.text(max_size=5), max_size=3))
def test_marking_changes_no_character_of_the_answer(text: str, fragments: list[str]) -> None:
    assert (
        marked(text, fragments).replace("<mark>", "").replace("</mark>", "").unescape() == marked(text, ()).unescape()
    )


def test_a_report_goes_where_a_link_leads_when_it_is_written_and_replaces_links_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "victim.html").write_text("not to be written")
    (tmp_path / "real" / "report.html").symlink_to(tmp_path / "victim.html")
    (tmp_path / "link").symlink_to(tmp_path / "real")

    files = write_report(tmp_path / "link", report(row()))

    assert {path.parent for path in files} == {tmp_path / "real"}
    assert (tmp_path / "victim.html").read_text() == "not to be written"
    assert not files.html.is_symlink()
