"""The rows: what each loop takes to train a model on a kind of data."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.loops import ways_by_hand, ways_to_fit, ways_to_train
from benchmarks.measure import (
    BY_HAND,
    FIT,
    LEAST_RAGGED,
    LEAST_TRAINED,
    MOST_ELAPSED,
    MOST_RAGGED,
    THROTTLED,
    Row,
    fastest,
    interleaved,
    settle,
)
from benchmarks.peers import is_installed, peers_of
from benchmarks.workloads import WORKLOADS, Data, Workload, data_of, kinds_of

QUICK_ROWS = ("MLP 784-32-10, batch 32, list", "LSTM(32), 12 lengths, batch 16, tf.data")
QUICK_STEPS, QUICK_LEAST = 48, 1.0

Run = Callable[[], Any]


@dataclass
class Rows:
    """Measures row after row.

    Attributes:
        only: a part of the names of those that are measured.
        repeats: rounds.
        quick: whether a few steps of two rows will do.
    """

    only: str = ""
    repeats: int = 7
    quick: bool = False
    _fits: dict[tuple[str, str], str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        for workload in WORKLOADS:
            for kind in kinds_of(workload):
                name = f"{workload.title}, {kind}"
                if self.only in name and (not self.quick or name in QUICK_ROWS):
                    print(name, file=sys.stderr, flush=True)
                    yield self._row(
                        workload.of_steps(QUICK_STEPS) if self.quick else workload, kind
                    )

    def _row(self, workload: Workload, kind: str) -> Row:
        row = Row(workload.title, kind, workload.steps)
        data = data_of(workload, kind)
        ours = ways_to_train(workload, data)
        for name, run in ours.items():
            # What is throttled runs in the forms that have settled without a callback.
            settle(run, *((0.0,) if name == THROTTLED else self._patience(workload)))
        runs = {**ours, **self._in_tensorflow(row, workload, data), **_others(row, workload, data)}
        interleaved(runs, 1)
        row.seconds = interleaved(runs, self.repeats)
        row.notes |= {name: run.note for name, run in ours.items()}
        return row

    def _patience(self, workload: Workload) -> tuple[float, float]:
        """The seconds of training after which forms have settled, and at most of all."""
        if self.quick:
            return QUICK_LEAST, MOST_ELAPSED
        if workload.is_ragged:
            return LEAST_RAGGED, MOST_RAGGED
        return LEAST_TRAINED, MOST_ELAPSED

    def _in_tensorflow(self, row: Row, workload: Workload, data: Data) -> dict[str, Run]:
        row.notes[BY_HAND], by_hand = fastest(ways_by_hand(workload, data))
        known = workload.title, data.source
        ways = ways_to_fit(workload, data)
        if known in self._fits:
            ways = {self._fits[known]: ways[self._fits[known]]}
        row.notes[FIT], fit = fastest(ways)
        self._fits[known] = row.notes[FIT]
        return {BY_HAND: by_hand, FIT: fit}


def _others(row: Row, workload: Workload, data: Data) -> dict[str, Run]:
    runs = {}
    for name, (module, make) in peers_of(workload).items():
        if is_installed(module):
            runs[name] = make(workload, data)
        else:
            row.notes[name] = "not installed"
    return runs
