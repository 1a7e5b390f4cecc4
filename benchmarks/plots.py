"""The plots of one run: drain, latency, recovery, as SVG and PNG. The ratio stands at each bar."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.figures import Results, as_ratio
from benchmarks.systems import OURS, RAW_LIMIT

# Okabe and Ito's palette: told apart by colour-blind eyes, and by brightness in grey.
_OURS, _THEIRS, _LIMIT = "#0072B2", "#E69F00", "#999999"
_INK = "#222222"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#888888",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
}


class Bar(NamedTuple):
    """One bar: its label, length, error to both sides, text at its end, and colour."""

    label: str
    value: float
    less: float
    more: float
    text: str
    colour: str


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write those plots for which the run has figures, and return their files."""
    read = Results(results)
    machine = results["machine"]
    foot = (
        f"{machine['cores']} cores shared with the servers; PostgreSQL {machine['postgresql']}, Redis "
        f"{machine['redis']}; {results['plan']['rounds']} round(s). "
        "3.0x: ours is three times better"
    )
    written: list[Path] = []
    drain, latency, recovery = _drain(read), _latency(read), _recovery(read)
    if drain:
        axis = "jobs per second, median, whiskers from least to most"
        title = "Jobs per second, one worker process, no-op jobs"
        written += _bars(folder / "drain", title, axis, foot, drain, log=False)
    if latency:
        axis = "milliseconds, p50, whisker to p95 (log scale)"
        title = "Idle worker: enqueue returned to task started"
        written += _bars(folder / "latency", title, axis, foot, latency, log=True)
    if recovery:
        axis = "seconds, p50, whiskers from best to worst (log scale)"
        title = "kill -9 of a worker to its job running elsewhere"
        written += _bars(folder / "recovery", title, axis, foot, recovery, log=True)
    return written


def _bars(target: Path, title: str, axis: str, foot: str, bars: list[Bar], *, log: bool) -> list[Path]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 1.5 + 0.5 * len(bars)), layout="constrained")
        axes = figure.subplots()
        places = range(len(bars))
        if log:  # a bar's length says nothing where the axis has no zero: a point does
            axes.grid(visible=True, axis="x", color="#dddddd", linewidth=0.8)
            axes.scatter([bar.value for bar in bars], list(places), c=[bar.colour for bar in bars], s=90, zorder=3)
        else:
            axes.barh(places, [bar.value for bar in bars], color=[bar.colour for bar in bars], height=0.62)
        axes.errorbar(
            [bar.value for bar in bars],
            list(places),
            xerr=[[bar.less for bar in bars], [bar.more for bar in bars]],
            fmt="none",
            ecolor=_INK,
            elinewidth=1,
            capsize=3,
        )
        axes.set_yticks(list(places), [bar.label for bar in bars])
        axes.invert_yaxis()
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.margins(y=0.12)
        longest = max(bar.value + bar.more for bar in bars)
        least = min(bar.value for bar in bars)
        axes.set_xlim(least / 3 if log else 0, longest * 3 * longest / least if log else longest * 1.45)
        for place, bar in zip(places, bars, strict=True):
            axes.annotate(
                bar.text, (bar.value + bar.more, place), (7, 0), textcoords="offset points", va="center", color=_INK
            )
        axes.set_xlabel(axis)
        axes.set_title(title, loc="left", fontweight="bold")
        figure.supxlabel(foot, fontsize=8, color="#555555")
        files = [target.with_suffix(".svg"), target.with_suffix(".png")]
        figure.savefig(files[0], metadata={"Date": None})
        figure.savefig(files[1], dpi=130)
    return files


def _colour(system: str) -> str:
    return _OURS if system == OURS.name else _THEIRS


def _told(ratio: float | None, figure: str) -> str:
    """The ratio first: how many times better ours is."""
    return figure if ratio is None else f"{as_ratio(ratio)}  ({figure})"


def _drain(read: Results) -> list[Bar]:
    ours = read.spread("drain-1", OURS.name, "jobs_per_second")
    bars = []
    for system in read.systems:
        if (rate := read.spread("drain-1", system, "jobs_per_second")) is None:
            continue
        ratio = ours.median / rate.median if ours and system != OURS.name else None
        text = _told(ratio, f"{rate.median:,.0f}/s")
        label = f"{read.title(system)}\n(records {_recorded(read, system)})"
        less, more = rate.median - rate.least, rate.most - rate.median
        bars.append(Bar(label, rate.median, less, more, text, _colour(system)))
    bars.sort(key=lambda bar: -bar.value)
    if bars and (limit := read.spread("drain", RAW_LIMIT, "jobs_per_second")):
        less, more = limit.median - limit.least, limit.most - limit.median
        share = f"  (ours: {ours.median / limit.median:.0%} of it)" if ours else ""
        bars.insert(0, Bar("raw limit\n(no worker)", limit.median, less, more, f"{limit.median:,.0f}/s{share}", _LIMIT))
    return bars


def _recorded(read: Results, system: str) -> str:
    return str(read.about(system, "records")).split(":")[0].split(",")[0]


def _latency(read: Results) -> list[Bar]:
    ours = read.spread("latency-idle", OURS.name, "p50_ms")
    bars = []
    for system in read.systems:
        half, most = (read.spread("latency-idle", system, name) for name in ("p50_ms", "p95_ms"))
        # A log scale has no place for a job that started before enqueue had returned.
        if half is None or most is None or half.median <= 0:
            continue
        ratio = half.median / ours.median if ours and ours.median > 0 and system != OURS.name else None
        text = _told(ratio, f"p50 {half.median:.1f} ms, p95 {most.median:.1f} ms")
        reach = max(0.0, most.median - half.median)
        bars.append(Bar(read.title(system), half.median, 0, reach, text, _colour(system)))
    return sorted(bars, key=lambda bar: bar.value)


def _recovery(read: Results) -> list[Bar]:
    ours = sorted((read.values("recovery", OURS.name) or {}).get("seconds", []))
    bars = []
    for system in read.systems:
        values = read.values("recovery", system)
        if values is None:
            continue
        seconds = sorted(values["seconds"])
        if values["missed"] or not seconds:
            cap = float(values["cap_seconds"])
            bars.append(Bar(read.title(system), cap, 0, 0, f"not within {cap:.0f} s", _LIMIT))
            continue
        half = statistics.median(seconds)
        ratio = half / statistics.median(ours) if ours and system != OURS.name else None
        text = _told(ratio, f"p50 {half:.1f} s, worst {seconds[-1]:.1f} s, tries: {len(seconds)}")
        label = read.title(system)
        bars.append(Bar(label, half, half - seconds[0], seconds[-1] - half, text, _colour(system)))
    return sorted(bars, key=lambda bar: bar.value)
