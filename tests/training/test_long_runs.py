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
COMPILING = 0.1  # seconds: more are those of a compiler
MOST_TIMES = 20  # that a part is run before it is measured

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
    """Those of Python's, without those of TensorFlow in which Python's functions run."""
    return len([t for t in threading.enumerate() if not t.name.startswith("Dummy")])


def files():
    return len(list(Path("/proc/self/fd").iterdir()))


class Steady:
    """Within it, nothing grows with the number of steps, but what the history holds.

    Unless it is told that something was compiled: XLA keeps memory that it compiles in.
    """

    def __init__(self, traced, steps):
        self.traced = traced
        self.most = 16 * MIB + 64 * steps
        self.is_calm = True

    def __enter__(self):
        self.before = resident_bytes(), self.traced.traces.qsize(), threads(), files()
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.is_calm:
            memory, traces, of_python, open_files = self.before
            assert resident_bytes() - memory < self.most
            assert self.traced.traces.qsize() == traces
            assert threads() <= of_python
            assert files() <= open_files


def settle(run):
    """Run until nothing was compiled three times in a row."""
    calm = 0
    for _ in range(MOST_TIMES):
        calm = calm + 1 if run() < COMPILING else 0
        if calm == 3:
            return


def is_flat(times):
    """Whether the last ones are like those after the first few, in which forms are compared."""
    early, late = times[len(times) // 4 : len(times) // 2], times[-len(times) // 4 :]
    assert statistics.median(late) < 1.5 * statistics.median(early)


def generator(n):
    for _ in range(n):
        yield X, Y


class Marks:
    """A callback that keeps the time now and then, of this process: others may be busy, too."""

    def __init__(self, every):
        self.every = every
        self.steps, self.times = [0], [time.process_time()]

    def __call__(self, state):
        if state.step >= self.steps[-1] + self.every:
            self.steps.append(state.step)
            self.times.append(time.process_time())

    def paces(self):
        """Seconds a step, from one mark to the next."""
        return np.diff(self.times) / np.diff(self.steps)


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
    traced, steps = Traced(), STEPS if kind in WHOLE else STEPS // 4
    loss = objective_of(kind, traced)

    def run(n, marks):
        cb = throttle(marks, 0)
        return train(loss, DATA[kind](n), traced.opt, cb=cb, progress=False)

    settle(lambda: run(steps // PARTS, Marks(1)).timing.compiling)
    marks = Marks(steps // PARTS)

    with Steady(traced, steps):
        assert len(run(steps, marks)) == steps

    is_flat(marks.paces()[1:])


@of_linux
@pytest.mark.slow
@pytest.mark.parametrize("form", ["single", "graph", "xla", "auto"])
def test_many_steps_are_steady_in_every_form(form):
    traced = Traced()
    options = {"form": form, "cb": throttle(lambda: None, 0.1), "progress": False}
    data, times = DATA["list"](STEPS // PARTS), []
    settle(lambda: train(traced.loss, data, traced.opt, **options).timing.compiling)

    with Steady(traced, STEPS):
        for _ in range(PARTS):
            start = time.process_time()
            train(traced.loss, data, traced.opt, **options)
            times.append(time.process_time() - start)

    is_flat(times)


@of_linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
def test_many_calls_are_steady(kind):
    traced, times = Traced(), []
    calls = CALLS if kind in WHOLE else CALLS // 4

    def call():
        start = time.process_time()
        history = train(objective_of(kind, traced), DATA[kind](40), traced.opt, progress=False)
        times.append(time.process_time() - start)
        return history.timing.compiling

    for _ in range(MOST_TIMES):
        times.clear()
        with Steady(traced, calls * 5) as steady:
            steady.is_calm = max(call() for _ in range(calls)) < COMPILING
        if steady.is_calm:
            break

    assert steady.is_calm
    is_flat(times)


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

    for _ in range(CALLS // 10):
        call()
    with Steady(traced, CALLS):
        for _ in range(CALLS):
            call()


def test_a_model_that_is_let_go_of_takes_along_what_was_compiled():
    def run():
        traced = Traced()
        train(traced.loss, DATA["list"](3), traced.opt, progress=False)
        return weakref.ref(traced.model), weakref.ref(traced.opt), weakref.ref(traced)

    left = run()
    gc.collect()

    assert [reference() for reference in left] == [None, None, None]
