"""The bars: what is asked of the figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from benchmarks.measure import BY_HAND, EVERY_BATCH, FIT, FLUXKERAS, SCAN, THROTTLED, Row

FASTER = {
    "MLP 784-32-10, batch 1": {BY_HAND: 10, FIT: 8},
    "MLP 784-32-10, batch 32": {BY_HAND: 3, FIT: 3},
}


@dataclass(frozen=True)
class Bar:
    """Something asked of each of some figures.

    Attributes:
        figures: by the name of what they were measured on.
        is_floor: whether they are to be at least the limit, or at most.
    """

    text: str
    limit: float
    is_floor: bool
    figures: dict[str, float]
    unit: str = "x"

    def holds(self, figure: float) -> bool:
        return figure >= self.limit if self.is_floor else figure <= self.limit

    @property
    def passed(self) -> bool:
        return all(map(self.holds, self.figures.values()))

    @property
    def worst(self) -> tuple[str, float]:
        return (min if self.is_floor else max)(self.figures.items(), key=lambda item: item[1])

    @property
    def missed(self) -> dict[str, float]:
        return {name: figure for name, figure in self.figures.items() if not self.holds(figure)}


@dataclass
class Results:
    """All that was measured.

    Attributes:
        cold: the time of a short run in times of the loop by hand, for each model.
        calls: what many calls of `train` left.
        guard: the time with the guard in times of that without, for each model and form.
    """

    rows: list[Row] = field(default_factory=list)
    cold: dict[str, float] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)
    guard: dict[str, float] = field(default_factory=dict)


def bars_of(results: Results) -> list[Bar]:
    """Those for which something was measured."""
    rows, calls = results.rows, results.calls
    bars = [
        *_speed(rows),
        *_callbacks(rows),
        Bar("1.15 times the loop by hand: 20 steps, compiling included", 1.15, False, results.cold),
        Bar("1.10 times the unguarded step", 1.10, False, results.guard),
    ]
    if calls:
        grown = {"1,000 calls": calls["growth"]}
        bars.append(Bar("10 MiB more memory", 10, False, grown, " MiB"))
        bars.append(Bar("1 run of the objective by Python", 1, False, {"all calls": calls["runs"]}))
    return [bar for bar in bars if bar.figures]


def speedup(row: Row) -> float:
    """How many times as fast as the faster of Keras's `fit` and the loop written by hand."""
    return min(row.ratio(BY_HAND, FLUXKERAS), row.ratio(FIT, FLUXKERAS))


def _speed(rows: list[Row]) -> Iterator[Bar]:
    figures = {row.name: speedup(row) for row in rows}
    yield Bar("as fast as the better loop on TensorFlow (0.95 counts)", 0.95, True, figures)
    for model, factors in FASTER.items():
        for peer, factor in factors.items():
            figures = {row.name: row.ratio(peer, FLUXKERAS) for row in rows if row.model == model}
            yield Bar(f"{factor} times as fast as {peer}", factor, True, figures)
    figures = {row.name: row.ratio(FLUXKERAS, SCAN) for row in rows if SCAN in row.seconds}
    yield Bar("1.25 times the time of JAX's lax.scan", 1.25, False, figures)


def _callbacks(rows: list[Row]) -> Iterator[Bar]:
    figures = {
        row.name: row.ratio(EVERY_BATCH, BY_HAND) for row in rows if EVERY_BATCH in row.seconds
    }
    yield Bar("0.7 times the loop by hand, with a callback on every batch", 0.7, False, figures)
    ratios = [row.ratio(THROTTLED, FLUXKERAS) for row in rows]
    # Noise is larger than what is asked for, so the rows are taken together.
    together = {f"median of {len(rows)} rows": median(ratios)} if rows else {}
    yield Bar("1.01 times the time without the throttled callback", 1.01, False, together)
