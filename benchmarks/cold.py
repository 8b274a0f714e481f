"""What a short run takes in a fresh process, compiling included, and what many of them leave.

`python -m benchmarks.cold TITLE LOOP` prints the seconds of 20 steps over a list;
`python -m benchmarks.cold calls` what 1,000 calls of `train` leave behind.
"""

import json
import os
import queue
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.loops import Train, by_hand
from benchmarks.measure import BY_HAND, FLUXKERAS, seconds_of
from benchmarks.workloads import data_of, titled

TITLES = (
    "MLP 784-32-10, batch 32",
    "MLP 784-512-512-10, batch 32",
    "LeNet, batch 32",
    "LSTM(128), 50 steps, batch 32",
    "LSTM(32), 12 lengths, batch 16",
)
STEPS, REPEATS = 20, 3
CALLS_BEFORE, CALLS = 1500, 1000  # those before let the tuner compile what it will


def cold_ratios() -> dict[str, float]:
    """The seconds of fluxkeras in times of those of the loop written by hand, for each model."""
    return {title: _cold_ratio(title) for title in TITLES}


def _cold_ratio(title: str) -> float:
    print(f"{title}, fresh processes", file=sys.stderr, flush=True)
    seconds: dict[str, list[float]] = {FLUXKERAS: [], BY_HAND: []}
    for _ in range(REPEATS):
        for loop, of_loop in seconds.items():
            of_loop.append(in_fresh_process(title, loop))
    return median(seconds[FLUXKERAS]) / median(seconds[BY_HAND])


def in_fresh_process(*arguments: str) -> Any:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.cold", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(result.stdout)


def seconds_of_short_run(title: str, loop: str) -> float:
    import tensorflow as tf

    workload = titled(title).of_steps(STEPS)
    data = data_of(workload, "list")
    run = Train(workload, data) if loop == FLUXKERAS else by_hand(workload, data, jit=False)
    tf.function(lambda: tf.constant(0) + 1)()  # what TensorFlow sets up once for all
    return seconds_of(run)


def calls() -> dict[str, float]:
    """The growth of memory in MiB, and how often Python ran the objective."""
    workload = titled(TITLES[0]).of_steps(3)
    train = Train(workload, data_of(workload, "list"))
    objective, ran = train.objective, queue.SimpleQueue()

    def counted(x: Any, y: Any) -> Any:
        ran.put(1)
        return objective(x, y)

    train.objective = counted
    sizes = []
    for call in range(1, CALLS_BEFORE + CALLS + 1):
        train()
        if call in (CALLS_BEFORE, CALLS_BEFORE + CALLS):
            sizes.append(_resident_mib())
    return {"growth": sizes[1] - sizes[0], "runs": ran.qsize()}


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    print(json.dumps(calls() if sys.argv[1:] == ["calls"] else seconds_of_short_run(*sys.argv[1:])))
