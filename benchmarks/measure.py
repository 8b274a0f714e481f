"""Timing: loops in turn, so that what disturbs the machine disturbs them all."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

FLUXKERAS, BY_HAND, FIT = "fluxkeras", "by hand", "fit"
THROTTLED, EVERY_BATCH = "throttled callback", "callback on every batch"
JIT, SCAN, PYTORCH = "JAX jit", "JAX scan", "PyTorch"

LEAST_TRAINED, MOST_ELAPSED, SAME_ROUNDS = 3.0, 12.0, 3
# XLA compiles for one length after the other, each once training on it has taken as long.
LEAST_RAGGED, MOST_RAGGED = 120.0, 300.0

Run = Callable[[], Any]
Clock = Callable[[], float]


@dataclass
class Row:
    """What the loops took to train one model on one kind of data.

    Attributes:
        model: its name and the size of a batch.
        seconds: of each loop's runs, in the order of the rounds.
        notes: how a loop ran, or why it did not.
    """

    model: str
    data: str
    steps: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}, {self.data}"

    def microseconds(self, loop: str) -> float:
        """A step's, in the median of the rounds."""
        return median(self.seconds[loop]) / self.steps * 1e6

    def ratio(self, loop: str, other: str) -> float:
        """The time of a loop in times of another's, in the median of the rounds."""
        pairs = zip(self.seconds[loop], self.seconds[other], strict=True)
        return median(a / b for a, b in pairs)


def seconds_of(run: Run, clock: Clock = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def interleaved(
    loops: dict[str, Run], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """The seconds of each loop's runs: a run of each, then another of each, and so on.

    Each round has an order of its own, the same in each benchmark, since a loop may slow down the
    next: threads of PyTorch's go on for a while.
    """
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(repeats):
        for name in random.Random(number).sample(list(loops), len(loops)):
            seconds[name].append(seconds_of(loops[name], clock))
    return seconds


def settle(
    run: Callable[[], tuple[str, float]],
    least: float = LEAST_TRAINED,
    most: float = MOST_ELAPSED,
    clock: Clock = time.perf_counter,
) -> None:
    """Run until it has trained for long enough, and in the same form for some rounds.

    Args:
        run: returns the form, and the seconds of training.
        least: seconds of training.
        most: seconds, after which it is as settled as it will be.
    """
    start = clock()
    forms, trained = [], 0.0
    while True:
        form, seconds = run()
        forms.append(form)
        trained += seconds
        is_steady = len(forms) >= SAME_ROUNDS and len(set(forms[-SAME_ROUNDS:])) == 1
        if (is_steady and trained >= least) or clock() - start >= most:
            return


def fastest(
    ways: dict[str, Callable[[], Run]], runs: int = 2, clock: Clock = time.perf_counter
) -> tuple[str, Run]:
    """The way that turns out fastest once it is compiled; one that fails is left out."""
    best: tuple[float, str, Run] | None = None
    errors = []
    for name, way in ways.items():
        try:
            run = way()
            run()
            seconds = min(seconds_of(run, clock) for _ in range(runs))
        except Exception as error:
            errors.append(error)
            continue
        if best is None or seconds < best[0]:
            best = seconds, name, run
    if best is None:
        raise errors[0]
    return best[1:]
