"""The results as a page of tables. The ratio comes first, because absolute figures are those of one machine."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.figures import Results, Spread, as_ratio
from benchmarks.systems import OURS, RAW_LIMIT

NONE = "-"


def as_markdown(results: Mapping[str, Any]) -> str:
    """Write the page ``latest.md``."""
    read = Results(results)
    parts = [_head(results)]
    for title, note, table in (
        (
            "Drain: jobs per second, queue prefilled",
            "From the first start to the moment when the record says that all are over.",
            _drain,
        ),
        ("Bulk enqueue: jobs per second", "Committed and handed over, a thousand a call.", _enqueue),
        (
            "Latency: `enqueue` returned to task started, ms",
            "Half load: at half of the system's own drain rate, a bulk call each 10 ms.",
            _latency,
        ),
        (
            "Cost of a drained job, one worker",
            "CPU in milliseconds. Statements: what reached PostgreSQL, BEGIN and COMMIT included.",
            _cost,
        ),
        (
            "Recovery: kill -9 of a worker to its job running elsewhere, seconds",
            "Every system with the settings named in the README.",
            _recovery,
        ),
        (
            "Loss: Redis flushed with 1,000 jobs queued; Redis killed, and back with its data after 5 s",
            "Systems without Redis have nothing to lose there.",
            _loss,
        ),
    ):
        rows = table(read)
        if len(rows) > 1:
            parts += [f"## {title}", note, _table(rows)]
    return "\n\n".join(parts) + "\n"


def _head(results: Mapping[str, Any]) -> str:
    machine, plan = results["machine"], results["plan"]
    durable = "durable" if machine["durable"] else "not durable"
    return (
        "# Benchmark results\n\n"
        f"{results['began_at']}, {results['seconds']} s; {plan['rounds']} interleaved round(s), medians with "
        f"the range. {plan['jobs']:,} jobs at the fast systems.\n"
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, PostgreSQL "
        f"{machine['postgresql']}, Redis {machine['redis']}, arq {machine['arq']}, {durable}. Others used "
        f"{machine['foreign_cores_mean']} cores in the mean, {machine['foreign_cores_max']} at the most.\n\n"
        "`ratio` is ours to theirs, turned so that more than 1 is better for us."
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ratio(ours: Spread | None, theirs: Spread | None, *, less_is_better: bool = False) -> str:
    if ours is None or theirs is None or min(ours.median, theirs.median) <= 0:
        return NONE
    ratio = theirs.median / ours.median if less_is_better else ours.median / theirs.median
    return f"**{as_ratio(ratio)}**"


def _text(spread: Spread | None, digits: int = 0) -> str:
    return NONE if spread is None else spread.text(digits)


def _drain(read: Results) -> list[list[str]]:
    rows = [["system", "ratio", "1 worker", "2 workers", "2 to 1", "1 worker, start-up included", "on the record"]]
    ours = read.spread("drain-1", OURS.name, "jobs_per_second")
    for system in read.systems:
        one, two = (read.spread(f"drain-{workers}", system, "jobs_per_second") for workers in (1, 2))
        if one is None and two is None and not read.failed("drain-1", system):
            continue
        rows.append(
            [
                read.title(system),
                _ratio(ours, one),
                "failed" if read.failed("drain-1", system) else _text(one),
                "failed" if read.failed("drain-2", system) else _text(two),
                f"{two.median / one.median:.2f}x" if one and two else NONE,
                _text(read.spread("drain-1", system, "jobs_per_second_from_go")),
                read.about(system, "records"),
            ]
        )
    if limit := read.spread("drain", RAW_LIMIT, "jobs_per_second"):
        rows.append(
            ["*raw limit*", _ratio(ours, limit), limit.text(), NONE, NONE, NONE, "the same rows, no worker around them"]
        )
    return rows


def _enqueue(read: Results) -> list[list[str]]:
    rows = [["system", "ratio", "jobs/s"]]
    ours = read.spread("enqueue", OURS.name, "jobs_per_second")
    for system in read.systems:
        rate = read.spread("enqueue", system, "jobs_per_second")
        if rate is not None:
            rows.append([read.title(system), _ratio(ours, rate), rate.text()])
    return rows


def _latency(read: Results) -> list[list[str]]:
    rows = [["system", "ratio p50", "idle p50", "idle p95", "half load p50", "half load p95", "load asked, reached"]]
    ours = read.spread("latency-idle", OURS.name, "p50_ms")
    for system in read.systems:
        idle = read.spread("latency-idle", system, "p50_ms")
        if idle is None:
            continue
        asked = read.spread("latency-loaded", system, "asked_per_second")
        reached = read.spread("latency-loaded", system, "reached_per_second")
        rows.append(
            [
                read.title(system),
                _ratio(ours, idle, less_is_better=True),
                idle.text(1),
                _text(read.spread("latency-idle", system, "p95_ms"), 1),
                _text(read.spread("latency-loaded", system, "p50_ms"), 1),
                _text(read.spread("latency-loaded", system, "p95_ms"), 1),
                f"{asked.median:,.0f}/s, {reached.median:,.0f}/s" if asked and reached else NONE,
            ]
        )
    return rows


def _cost(read: Results) -> list[list[str]]:
    columns: dict[str, Callable[[str], Spread | None]] = {
        "worker CPU": lambda system: read.spread("drain-1", system, "cpu_worker_ms_per_job"),
        "PostgreSQL CPU": lambda system: read.spread("drain-1", system, "cpu_postgresql_ms_per_job"),
        "Redis CPU": lambda system: read.spread("drain-1", system, "cpu_redis_ms_per_job"),
        "statements": lambda system: read.spread("statements", system, "statements_per_job"),
        "transactions": lambda system: read.spread("drain-1", system, "transactions_per_job"),
        "rows written": lambda system: read.spread("drain-1", system, "rows_written_per_job"),
        "Redis commands": lambda system: read.spread("drain-1", system, "redis_commands_per_job"),
        "peak RSS, MiB": lambda system: read.spread("drain-1", system, "peak_rss_mib"),
    }
    rows = [["system", *columns]]
    for system in read.systems:
        cells = [column(system) for column in columns.values()]
        if any(cells):
            rows.append([read.title(system), *(NONE if cell is None else f"{cell.median:.3g}" for cell in cells)])
    return rows


def _recovery(read: Results) -> list[list[str]]:
    rows = [["system", "ratio p50", "p50", "worst", "tries"]]
    ours = _recovered(read, OURS.name)
    for system in read.systems:
        values = read.values("recovery", system)
        if values is None:
            continue
        spread = _recovered(read, system)
        missed = f"not within {values['cap_seconds']:.0f} s" if values["missed"] else None
        rows.append(
            [
                read.title(system),
                _ratio(ours, spread, less_is_better=True),
                f"{spread.median:.1f}" if spread else missed or NONE,
                missed or (f"{spread.most:.1f}" if spread else NONE),
                str(len(values["seconds"]) + int(values["missed"])),
            ]
        )
    return rows


def _recovered(read: Results, system: str) -> Spread | None:
    seconds = sorted((read.values("recovery", system) or {}).get("seconds", []))
    return Spread(statistics.median(seconds), seconds[0], seconds[-1], len(seconds)) if seconds else None


def _loss(read: Results) -> list[list[str]]:
    rows = [["system", "lost by the flush", "worker exits", "jobs not done after the outage", "done after its end, s"]]
    for system in read.systems:
        flushed, after = read.values("flush", system), read.values("outage", system)
        if flushed is None and after is None:
            continue
        rows.append(
            [
                read.title(system),
                NONE if flushed is None else f"{flushed['lost']:,.0f} of 1,000",
                NONE if after is None else ("yes" if after["exited"] else "no"),
                NONE if after is None else f"{after['not_done']:,.0f} of {after['jobs']:,.0f}",
                NONE if after is None or after["not_done"] else f"{after['seconds']:.1f}",
            ]
        )
    return rows
