"""The report: tables for a page of documentation, the bars, and everything as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, Results, speedup
from benchmarks.measure import (
    BY_HAND,
    EVERY_BATCH,
    FIT,
    FLUXKERAS,
    JIT,
    PYTORCH,
    SCAN,
    THROTTLED,
    Row,
)

LOOPS = (FLUXKERAS, THROTTLED, EVERY_BATCH, BY_HAND, FIT, JIT, SCAN, PYTORCH)


def table(rows: list[Row]) -> str:
    """A line for each row, in microseconds a step."""
    lines = [
        [row.name, *(_cell(row, loop) for loop in LOOPS), f"{speedup(row):.2f}"] for row in rows
    ]
    return markdown(["µs a step", *LOOPS, "of the better on TensorFlow"], lines)


def bars_list(bars: list[Bar]) -> str:
    """Each bar with its worst figure, and what misses it."""
    lines = []
    for bar in bars:
        name, figure = bar.worst
        held = len(bar.figures) - len(bar.missed)
        bound = "at least" if bar.is_floor else "at most"
        lines.append(
            f"{'PASS' if bar.passed else 'MISS'}  {bound} {bar.text}: {short(figure)}{bar.unit} "
            f"({name}), {held} of {len(bar.figures)}"
        )
        lines += [f"      - {short(f)}{bar.unit} {name}" for name, f in bar.missed.items()]
    return "\n".join(lines)


def write_json(path: Path, machine: dict[str, Any], results: Results, bars: list[Bar]) -> None:
    everything = {
        "machine": machine,
        **dataclasses.asdict(results),
        "rows": [
            {
                "name": row.name,
                **dataclasses.asdict(row),
                "microseconds": {loop: row.microseconds(loop) for loop in row.seconds},
            }
            for row in results.rows
        ],
        "bars": [{**dataclasses.asdict(bar), "passed": bar.passed} for bar in bars],
    }
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", "utf-8")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table of which the first column is text and the others are figures."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]
        for cells in (head, rule, *lines)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in aligned)


def short(figure: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def _cell(row: Row, loop: str) -> str:
    note = row.notes.get(loop, "")
    if loop not in row.seconds:
        return note or "–"
    figure = short(row.microseconds(loop))
    return f"{figure} ({note})" if note and loop in (FLUXKERAS, BY_HAND, FIT) else figure
