"""Long runs: memory, the time of a step, traces, threads and files stay as they are."""

import gc
import os
import queue
import statistics
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ADAM,
    Chain,
    DataLoader,
    Dense,
    Dropout,
    mse,
    params,
    prefetch,
    repeated,
    throttle,
    train,
)

STEPS, CALLS = 100_000, 1000
PARTS = 20  # of a run, whose times are compared
MIB = 2**20
COMPILED = 4  # of them, at most, in which XLA compiles


of_linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")

rng = np.random.default_rng(0)
X, Y = rng.random((32, 4)).astype("float32"), rng.random((32, 2)).astype("float32")


class Traced:
    """A model and its objective, which counts how often Python runs it."""

    def __init__(self):
        self.model = Chain(Dense(4, 8, "tanh"), Dropout(0.1), Dense(8, 2))
        self.opt = ADAM(params(self.model), 1e-3)
        self.traces = queue.SimpleQueue()  # a list or number would be a capture that changes

    def loss(self, x, y):
        self.traces.put(1)
        error = mse(self.model(x), y)
        return error, {"rmse": tf.sqrt(error)}


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def threads():
    """Those of Python's, without those of TensorFlow in which Python's functions run.

    The one that copies comes and goes, and there is one at most.
    """
    names = [t.name for t in threading.enumerate() if not t.name.startswith("Dummy")]
    copying = names.count("fluxkeras.feed")
    assert copying <= 1
    return len(names) - copying


def files():
    return len(list(Path("/proc/self/fd").iterdir()))


class Steady:
    """Within it, nothing grows with the number of steps, but what the history holds.

    A callback of `train`, too, that marks the parts which are compared: in memory and time, of
    this process alone.
    """

    def __init__(self, traced, steps):
        self.traced = traced
        self.every = steps / PARTS
        self.most = 16 * MIB + 64 * steps

    def __enter__(self):
        self.before = self.traced.traces.qsize(), threads(), files()
        self.steps, self.memory, self.times = [], [], []
        self.mark(0)
        return self

    def __call__(self, state):
        if state.step >= self.steps[-1] + self.every:
            self.mark(state.step)

    def mark(self, step):
        self.steps.append(step)
        self.memory.append(resident_bytes())
        self.times.append(time.process_time())

    def __exit__(self, kind, *_):
        if kind is None:
            traces, of_python, open_files = self.before
            assert len(self.steps) > PARTS // 2
            # XLA keeps memory that it compiles in, and does so in few parts.
            assert sum(sorted(np.diff(self.memory))[:-COMPILED]) < self.most
            assert self.traced.traces.qsize() == traces
            assert threads() <= of_python
            assert files() <= open_files
            is_flat(np.diff(self.times) / np.diff(self.steps))


def stays_steady(traced, call, calls):
    call()
    with Steady(traced, calls) as steady:
        for done in range(1, calls + 1):
            call()
            if done % (calls // PARTS) == 0:
                steady.mark(done)


def is_flat(times):
    """Whether the last ones are like those after the first few, in which forms are compared."""
    early, late = times[len(times) // 4 : len(times) // 2], times[-len(times) // 4 :]
    assert statistics.median(late) < 1.5 * statistics.median(early)


def generator(n):
    for _ in range(n):
        yield X, Y


DATA = {
    "list": lambda n: [(X, Y)] * n,
    "generator": generator,
    "prefetch": lambda n: prefetch(generator(n), 4),
    "repeated": lambda n: repeated((X, Y), n),
    "DataLoader": lambda n: DataLoader((np.tile(X, (n, 1)), np.tile(Y, (n, 1))), 32, shuffle=True),
    "dicts": lambda n: ({"x": X, "y": Y} for _ in range(n)),
    "tf.data": lambda n: tf.data.Dataset.from_tensors((X, Y)).repeat(n),
    "changing lengths": lambda n: ((X[: 1 + i % 32], Y[: 1 + i % 32]) for i in range(n)),
}
WHOLE = "list", "generator", "DataLoader"  # of the others, a quarter


def objective_of(kind, traced):
    if kind == "dicts":
        return lambda batch: traced.loss(batch["x"], batch["y"])
    return traced.loss


@of_linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
def test_many_steps_are_steady(kind):
    traced = Traced()
    loss = objective_of(kind, traced)
    steps = STEPS if kind in WHOLE else STEPS // 4
    train(loss, DATA[kind](100), traced.opt, progress=False)

    with Steady(traced, steps) as steady:
        cb = throttle(steady, 0)
        assert len(train(loss, DATA[kind](steps), traced.opt, cb=cb, progress=False)) == steps


@of_linux
@pytest.mark.slow
@pytest.mark.parametrize("form", ["single", "graph", "xla", "auto"])
def test_many_steps_are_steady_in_every_form(form):
    traced = Traced()
    options = {"form": form, "cb": throttle(lambda: None, 0.1), "progress": False}
    data = DATA["list"](STEPS // PARTS)
    train(traced.loss, data, traced.opt, **options)

    with Steady(traced, STEPS) as steady:
        for part in range(PARTS):
            train(traced.loss, data, traced.opt, **options)
            steady.mark((part + 1) * len(data))


@of_linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
def test_many_calls_are_steady(kind):
    traced = Traced()

    def call():
        train(objective_of(kind, traced), DATA[kind](40), traced.opt, progress=False)

    stays_steady(traced, call, CALLS if kind in WHOLE else CALLS // 4)


@of_linux
@pytest.mark.slow
def test_many_calls_that_are_broken_off_are_steady():
    traced = Traced()

    def call():
        with pytest.raises(OverflowError):
            train(traced.loss, prefetch(failing(), 2), traced.opt, progress=False)

    def failing():
        yield X, Y
        raise OverflowError

    stays_steady(traced, call, CALLS)


def test_a_model_that_is_let_go_of_takes_along_what_was_compiled():
    def run():
        traced = Traced()
        train(traced.loss, DATA["list"](3), traced.opt, progress=False)
        return weakref.ref(traced.model), weakref.ref(traced.opt), weakref.ref(traced)

    left = run()
    gc.collect()

    assert [reference() for reference in left] == [None, None, None]


@of_linux
def test_what_grows_is_seen():
    kept = []

    with pytest.raises(AssertionError, match="most"), Steady(Traced(), 0) as steady:
        for part in range(PARTS):
            kept.append(np.ones(2 * MIB, "uint8"))
            steady.mark(part + 1)
