"""The report: a table for people, JSON for machines, plans beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.scale.cleaning import BEFORE, WRITTEN, Cleaning
from benchmarks.scale.measuring import Timing

MIB = 1 << 20


class RolledUp(NamedTuple):
    """Rows of the statistics: of hours, of days, and by hour of creation; and the jobs that ended since."""

    hours: int
    days: int
    created: int
    since: int


@dataclass
class AtSize:
    """What was measured with so many finished and live jobs. ``sizes``: bytes of the table and of each index."""

    finished: int
    live: int
    fill_seconds: float
    roll_up_seconds: float
    rolled_up: RolledUp
    sizes: Mapping[str, int]
    timings: list[Timing] = field(default_factory=list)
    exempt: list[Timing] = field(default_factory=list)
    cleaning: Cleaning | None = None

    @property
    def label(self) -> str:
        """Finished / live, shortened."""
        return f"{_short(self.finished)} / {_short(self.live)}"


def _short(number: int) -> str:
    return f"{number // 1_000_000}M" if number % 1_000_000 == 0 else f"{number // 1_000}k"


def rows(measured: Sequence[AtSize], which: str = "timings") -> list[list[str]]:
    """The lines of the table: operation, statements, then milliseconds at each size and the ratio to the first."""
    lines = []
    for place, first in enumerate(getattr(measured[0], which)):
        line = [first.operation, str(first.statements)]
        for at in measured:
            timing = getattr(at, which)[place]
            line += [f"{timing.median:.1f} ({timing.p95:.1f})"]
        line += [f"{getattr(at, which)[place].median / first.median:.1f}" for at in measured[1:]]
        lines.append(line)
    return lines


def heads(measured: Sequence[AtSize]) -> list[str]:
    """The head of the table."""
    return ["operation", "statements", *(at.label for at in measured), *(f"x at {at.label}" for at in measured[1:])]


def show(measured: Sequence[AtSize], console: Console) -> None:
    """Print the tables."""
    for title, which in (("Median (p95), milliseconds", "timings"), ("Exempt: these read what they count", "exempt")):
        table = Table(title=title)
        for place, head in enumerate(heads(measured)):
            table.add_column(head, justify="left" if place == 0 else "right")
        for line in rows(measured, which):
            table.add_row(*line)
        console.print(table)
    for at in measured:
        if at.cleaning is not None:
            console.print("\n".join(cleaning_lines(at)))


def cleaning_lines(at: AtSize) -> list[str]:
    """What the clean-up took and left, as Markdown."""
    found = at.cleaning
    if found is None:
        return []
    first = (
        f"The first clean-up, of {found.deleted:,} of {at.finished:,} finished jobs, took {found.seconds:.0f} s in "
        f"batches of 1,000 (p95 {found.batch_ms_p95:.0f} ms a batch), while others wrote, claimed and finished."
    )
    rest = (
        "Each round deletes a third of the jobs that were there at first, the oldest, runs one VACUUM and writes as "
        "many new ones; after the last none of the first is left."
    )
    lines = [
        first,
        "",
        rest,
        "",
        "| moment | table MiB | indexes MiB |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {moment} | {sizes['jobs'] / MIB:,.0f} | {_of_indexes(sizes) / MIB:,.0f} |"
        for moment, sizes in found.sizes.items()
    ]
    rounds = [moment for moment in found.sizes if moment == BEFORE or moment.endswith(WRITTEN)]
    lines += ["", f"| index, MiB | {' | '.join(rounds)} |", f"| --- |{' ---: |' * len(rounds)}"]
    lines += [
        f"| {name} | {' | '.join(f'{found.sizes[moment][name] / MIB:,.1f}' for moment in rounds)} |"
        for name in sorted(found.sizes[BEFORE])
        if name != "jobs"
    ]
    lines += ["", "| operation | apart: median (p95) ms | during the first clean-up |", "| --- | ---: | ---: |"]
    lines += [
        f"| {one.operation} | {one.median:.1f} ({one.p95:.1f}) | {other.median:.1f} ({other.p95:.1f}) |"
        for one, other in zip(found.apart, found.during, strict=True)
    ]
    return lines


def _of_indexes(sizes: Mapping[str, int]) -> int:
    return sum(size for name, size in sizes.items() if name != "jobs")


def markdown(measured: Sequence[AtSize], about: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    lines = ["# The repository at scale", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    for title, which in (("Median (p95) in milliseconds", "timings"), ("Exempt: these read what they count", "exempt")):
        head = heads(measured)
        lines += [f"## {title}", "", f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(line)} |" for line in rows(measured, which)]
        lines.append("")
    lines += [
        "## Sizes",
        "",
        f"| MiB | {' | '.join(at.label for at in measured)} |",
        f"| --- |{' ---: |' * len(measured)}",
    ]
    for name in measured[-1].sizes:
        lines.append(f"| {name} | {' | '.join(f'{at.sizes[name] / MIB:,.1f}' for at in measured)} |")
    lines.append("")
    for at in measured:
        if at.cleaning is not None:
            lines += [f"## Clean-up at {at.label}", "", *cleaning_lines(at), ""]
    return "\n".join(lines)


def plain(measured: Sequence[AtSize], about: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report as JSON has it."""
    return {
        "about": dict(about),
        "sizes": [
            {
                "finished": at.finished,
                "live": at.live,
                "fill_seconds": round(at.fill_seconds, 1),
                "roll_up_seconds": round(at.roll_up_seconds, 1),
                "rolled_up": at.rolled_up._asdict(),
                "bytes": dict(at.sizes),
                "operations": [timing.plain() for timing in at.timings],
                "exempt": [timing.plain() for timing in at.exempt],
                "cleaning": None if at.cleaning is None else at.cleaning.plain(),
            }
            for at in measured
        ],
    }


def write(folder: Path, measured: Sequence[AtSize], about: Mapping[str, Any]) -> None:
    """Write ``repository_scale.json`` and ``repository_scale.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(measured, about), indent=1, ensure_ascii=False)
    (folder / "repository_scale.json").write_text(text + "\n", encoding="utf-8")
    (folder / "repository_scale.md").write_text(markdown(measured, about), encoding="utf-8")


def write_plans(folder: Path, finished: int, plans: Mapping[str, Sequence[str]]) -> None:
    """Write the plans of each operation to ``<operation>.<rows>.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    for operation, texts in plans.items():
        name = "".join(letter if letter.isalnum() else "_" for letter in operation.lower()).strip("_")
        while "__" in name:
            name = name.replace("__", "_")
        (folder / f"{name}.{finished}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
