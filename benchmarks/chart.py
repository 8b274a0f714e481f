"""The chart: horizontal bars, a panel for each model and a group for each kind of data."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import BY_HAND, FIT, FLUXKERAS, JIT, PYTORCH, SCAN, Row

COLOURS = {
    FLUXKERAS: "#c0392b",
    BY_HAND: "#e59866",
    FIT: "#f5cba7",
    JIT: "#7fb3d5",
    SCAN: "#2e86c1",
    PYTORCH: "#b2babb",
}
COLUMNS = 3
INCHES_A_BAR, INCHES_AROUND = 0.17, 1.0


def draw(rows: list[Row], path: Path) -> None:
    """Needs matplotlib."""
    from matplotlib.figure import Figure

    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(row.model, []).append(row)
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    tallest = max(sum(len(row.seconds) + 1 for row in panel) for panel in panels.values())
    height = lines * (tallest * INCHES_A_BAR + INCHES_AROUND) + 0.6
    figure = Figure((5.2 * columns, height), layout="constrained")
    axes = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles = {h.get_label(): h for axis in axes for h in axis.get_legend_handles_labels()[0]}
    figure.legend(
        handles=[handles[loop] for loop in COLOURS if loop in handles],
        loc="outside upper center",
        ncols=len(COLOURS),
        frameon=False,
        title="time of a training step, logarithmic: shorter is faster",
    )
    figure.savefig(path, dpi=110)


def _draw_panel(axis: Any, title: str, rows: list[Row]) -> None:
    place, ticks = 0.0, {}
    for row in rows:
        loops = [loop for loop in COLOURS if loop in row.seconds]
        for i, loop in enumerate(loops):
            microseconds = row.microseconds(loop)
            axis.barh(place + i, microseconds, 0.9, color=COLOURS[loop], label=loop)
            axis.annotate(
                f" {_time(microseconds)}", (microseconds, place + i), va="center", fontsize=7
            )
        ticks[place + (len(loops) - 1) / 2] = row.data
        place += len(loops) + 1
    axis.set_yticks(list(ticks), ticks.values())
    axis.set_xscale("log")
    shown = [row.microseconds(loop) for row in rows for loop in COLOURS if loop in row.seconds]
    axis.set_xlim(min(shown) / 3, max(shown) * 2)
    axis.xaxis.set_major_formatter(lambda microseconds, _: _time(microseconds))
    axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params("y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _time(microseconds: float) -> str:
    return f"{microseconds:.3g} µs" if microseconds < 999.5 else f"{microseconds / 1000:.3g} ms"
