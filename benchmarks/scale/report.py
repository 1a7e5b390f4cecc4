"""The report: a table for people, JSON for machines, plans beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.scale.cleaning import Cleaning
from benchmarks.scale.measuring import Timing

MIB = 1 << 20


@dataclass
class AtSize:
    """What was measured with so many finished and live jobs. ``sizes``: bytes of the table and of each index."""

    finished: int
    live: int
    fill_seconds: float
    roll_up_seconds: float
    roll_up_rows: tuple[int, int]
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
        f"Clean-up of {found.deleted:,} of {at.finished:,} finished jobs: {found.seconds:.0f} s in batches of 1,000 "
        f"(p95 {found.batch_ms_p95:.0f} ms a batch), while others wrote, claimed and finished."
    )
    lines = [
        first,
        "",
        "| moment | table MiB | indexes MiB |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {moment} | {table / MIB:,.0f} | {index / MIB:,.0f} |" for moment, (table, index) in found.sizes.items()
    ]
    lines += ["", "| operation | apart: median (p95) ms | during the clean-up |", "| --- | ---: | ---: |"]
    lines += [
        f"| {one.operation} | {one.median:.1f} ({one.p95:.1f}) | {other.median:.1f} ({other.p95:.1f}) |"
        for one, other in zip(found.apart, found.during, strict=True)
    ]
    return lines


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
                "roll_up_rows": {"statistics": at.roll_up_rows[0], "statistics_created": at.roll_up_rows[1]},
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
