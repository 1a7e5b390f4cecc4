"""The page of a report: one self-contained HTML file.

Promise: the page asks nothing of the network and runs nothing but its own script: every text is escaped, and a content
security policy admits only the style and the script in it, by their hashes. It works without that script, which only
filters and searches. The figures are :mod:`worker.questions.report_model`'s; the page itself is in ``templates``.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from math import ceil
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from worker.questions.report_model import Report, ReportRow, UploadedFile

MAX_BARS = 120
"""Bars in the picture of times; with more questions than that, a bar stands for several in a row."""
CHART_HEIGHT = 100.0
_ORDER_OF_FILES = {"failed": 0, "skipped": 1, "pending": 2, "done": 3}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Bar:
    """A question, or several in a row, in the picture of times.

    Attributes:
        position: of the (slowest) question, to link to it.
        height, y: its length and where it begins, in hundredths of the picture, y counted from the top.
        kind: the verdict, which colours it; ``many`` for a bar of several questions.
        title: what it says when pointed at.
    """

    position: int
    height: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class Chart:
    """The picture of times.

    Attributes:
        bars: in the order of the questions; empty if no time was measured.
        questions_a_bar: how many questions a bar stands for.
        median_y: where the line of the median lies, in hundredths from the top; ``None`` if there is no median.
    """

    bars: tuple[Bar, ...]
    questions_a_bar: int
    median_y: float | None


def render_html(report: Report) -> str:
    """Return the page; the same report gives the same page."""
    pages = _environment()
    style, script = (_source(pages, name) for name in ("report.css", "report.js"))
    return pages.get_template("report.html.j2").render(
        report=report,
        totals=report.totals,
        verdicts={kind: sum(row.verdict == kind for row in report.rows) for kind in ("passed", "failed", "error")},
        files=files_in_order(report.upload.files) if report.upload else (),
        chart=chart_of(report),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def chart_of(report: Report) -> Chart:
    """Draw the measured times; a bar of several questions shows the slowest, so that no slow one is averaged away.

    The slowest answer fills the height. A question that ended without one is cut there: a time-out of 30 s would press
    every answer flat.
    """
    timed = [(row.latency_seconds, row) for row in report.rows if row.latency_seconds is not None]
    each = max(1, ceil(len(timed) / MAX_BARS))
    latency = report.totals.latency
    longest = (latency.max if latency else max((seconds for seconds, _ in timed), default=0)) or 1
    return Chart(
        bars=tuple(_bar(timed[start : start + each], longest) for start in range(0, len(timed), each)),
        questions_a_bar=each,
        median_y=None if latency is None else round(CHART_HEIGHT * (1 - latency.p50 / longest), 2),
    )


def _bar(group: Sequence[tuple[float, ReportRow]], longest: float) -> Bar:
    seconds, row = max(group, key=lambda pair: pair[0])
    # The fastest is still to be seen.
    height = min(CHART_HEIGHT, max(1.5, round(CHART_HEIGHT * seconds / longest, 2)))
    title, kind = f"{row.id}: {duration(seconds)}", str(row.verdict)
    if len(group) > 1:
        title, kind = f"{group[0][1].id} to {group[-1][1].id}, slowest {title}", "many"
    return Bar(row.position, height, round(CHART_HEIGHT - height, 2), kind, title)


def files_in_order(files: Sequence[UploadedFile]) -> list[UploadedFile]:
    """Return files with those first that a person must look at: failed, then skipped, then what is left."""
    return sorted(files, key=lambda file: _ORDER_OF_FILES[file.status])


def kind(file: UploadedFile) -> str:
    """Return what a person calls the type of a file: its extension, or the media type if it has none."""
    return PurePosixPath(file.name).suffix[1:].upper() or file.media_type or "–"  # noqa: RUF001 - a dash for no figure


def percent(share: float | None) -> str:
    """Return a share as a whole per cent; only all is 100 % and only none is 0 %."""
    if share is None:
        return "–"  # noqa: RUF001 - a dash for no figure
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(99, max(1, round(share * 100)))}%"


def duration(seconds: float | None) -> str:
    """Return a time in the unit a person would say it in."""
    if seconds is None:
        return "–"  # noqa: RUF001 - a dash for no figure
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if round(seconds * 1000) < 1000 else "1.00 s"  # noqa: PLR2004
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"  # noqa: PLR2004
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(count: int | None) -> str:
    """Return a number of bytes in binary units."""
    if count is None:
        return "–"  # noqa: RUF001 - a dash for no figure
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - four digits are one too many to read
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 or amount >= 10 else f"{amount:.1f} {_UNITS[unit]}"  # noqa: PLR2004


def number(count: int | None) -> str:
    """Return a count with its thousands set apart."""
    return "–" if count is None else f"{count:,}"  # noqa: RUF001 - a dash for no figure


def moment(at: datetime | None) -> str:
    """Return a time to the minute, in UTC."""
    return "–" if at is None else f"{at.astimezone(UTC):%-d %B %Y, %H:%M} UTC"  # noqa: RUF001 - a dash for no figure


def marked(text: str, fragments: Sequence[str]) -> Markup:
    """Return ``text`` with the fragments marked that stand in it as they are spelled.

    White space, case, dashes and the marks inside numbers may differ. What scoring finds beyond that (``1200`` in
    ``1,200``) is listed under the answer, not marked in it.
    """
    spellings = [_spelling(part) for part in sorted(fragments, key=len, reverse=True) if part.strip()]
    if not spellings:
        return escape(text)
    pieces: list[Markup] = []
    end = 0
    for match in re.finditer("|".join(spellings), text, re.IGNORECASE):
        pieces += [escape(text[end : match.start()]), Markup("<mark>{}</mark>").format(match[0])]
        end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])


def _spelling(fragment: str) -> str:
    """Return a pattern for the spellings of a fragment that are marked."""
    parts: list[str] = []
    for part in re.findall(r"(?<=\d)[\s.,'](?=\d)|\s+|[-\u2010-\u2015\u2212]|.", fragment.strip()):
        if re.fullmatch(r"[\s.,']", part) and parts and parts[-1].isdigit():
            parts.append(r"[\s.,']?")
        elif part.isspace():
            parts.append(r"\s*")
        else:
            parts.append(r"[-\u2010-\u2015\u2212]" if re.match(r"[-\u2010-\u2015\u2212]", part) else re.escape(part))
    return (r"(?<![\w.,])" if parts[0].isalnum() else "") + "".join(parts) + r"(?!\w)"


@cache
def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("worker.questions"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for form in (kind, percent, duration, size, number, moment, marked):
        pages.filters[form.__name__] = form
    return pages


def _source(pages: Environment, name: str) -> str:
    assert pages.loader is not None
    return pages.loader.get_source(pages, name)[0]


def _hash(text: str) -> str:
    """Return what a content security policy calls this exact text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
