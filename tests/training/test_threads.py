"""Threads and re-entry: what docs/threads.md says."""

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ADAM,
    SGD,
    Chain,
    Dense,
    Dropout,
    epochs,
    mse,
    param,
    params,
    prefetch,
    repeated,
    stop,
    throttle,
    train,
)

FORMS = ["single", "graph", "xla", "auto"]
MOST_FORMS = ["single", "graph", pytest.param("xla", marks=pytest.mark.slow)]

rng = np.random.default_rng(0)
X, Y = rng.random((6, 8, 4)).astype("float32"), rng.random((6, 8, 2)).astype("float32")
DATA = list(zip(X, Y))


def slow(*cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def new_model():
    keras.utils.set_random_seed(1)
    return Chain(Dense(4, 3, "tanh"), Dense(3, 2))


def training(form, data=DATA, **options):
    """A run in a form that is given: its weights depend on nothing else."""
    model = new_model()
    opt = ADAM(params(model), 0.01)

    def run():
        train(
            lambda x, y: mse(model(x), y), data, opt, form=form, chunk=3, progress=False, **options
        )
        return model.get_weights()

    return run


def are_equal(weights, expected):
    for value, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def at_once(*functions):
    """What functions return that begin at the same time, each in a thread."""
    start = threading.Barrier(len(functions), timeout=60)

    def run(function):
        start.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


# --- train within a callback ----------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_same_objective_trains_within_a_callback(form):
    w = param(0.0)
    opt = SGD([w], 1.0)
    steps = []

    def loss(x):
        return w * x

    def more(state):
        steps.append((state.step, w.numpy().item()))
        if state.step == 1:
            train(loss, [100.0, 100.0, 100.0], opt, form=form, chunk=2, progress=False)

    history = train(loss, [1.0, 2.0, 4.0], opt, form=form, cb=more, progress=False)

    assert steps == [(0, -1.0), (1, -3.0), (2, -307.0)]
    np.testing.assert_array_equal(history.losses, [0.0, -2.0, -4.0 * 303])
    assert opt.iterations.numpy() == 6


@pytest.mark.parametrize("form", FORMS)
def test_the_same_objective_trains_within_a_throttled_callback(form):
    w = param(0.0)
    opt = SGD([w], 1.0)

    def loss(x):
        return w * x

    def once_more(state):
        train(loss, [10.0], opt, form=form, progress=False)

    cb = throttle(once_more, 60)
    train(loss, [1.0] * 8, opt, form=form, chunk=3, cb=cb, progress=False)

    assert w.numpy() == -18.0


def test_another_objective_trains_the_same_model_within_a_callback():
    w = param(1.0)
    outer, inner = SGD([w], 1.0), SGD([w], 1.0)

    def halve():
        train(lambda: w * w / 4, repeated((), 1), inner, progress=False)

    train(lambda x: w * x, [1.0, 2.0], outer, cb=halve, progress=False)

    assert w.numpy() == ((1.0 - 1.0) / 2 - 2.0) / 2


@pytest.mark.parametrize("form", MOST_FORMS)
def test_another_model_trains_within_a_callback(form):
    inner, found = training(form), []

    outer = training(form, cb=lambda state: state.step == 2 and found.extend(inner()))()

    are_equal(outer, training(form, cb=lambda: None)())
    are_equal(found, training(form)())


def test_training_within_the_data():
    """Data that is made by a model which is trained while it is."""
    scale = param(1.0)
    opt = SGD([scale], 0.5)

    def data():
        for _ in range(3):
            train(lambda: scale**2 / 2, repeated((), 1), opt, progress=False)  # halves it
            yield scale.numpy()

    w = param(0.0)
    train(lambda x: w * x, data(), SGD([w], 1.0), progress=False)

    assert w.numpy() == -(0.5 + 0.25 + 0.125)


def test_stop_within_a_callback_ends_the_inner_training_alone():
    w, v = param(0.0), param(0.0)

    def inner():
        history = train(lambda x: v * x, [1.0] * 9, SGD([v], 1.0), cb=stop, progress=False)
        assert history.stopped and len(history) == 1

    history = train(lambda x: w * x, [1.0] * 3, SGD([w], 1.0), cb=inner, progress=False)

    assert (len(history), history.stopped) == (3, False)
    assert (w.numpy(), v.numpy()) == (-3.0, -3.0)


def test_an_error_of_an_inner_training_ends_both_at_whole_steps():
    w = param(0.0)
    opt = SGD([w], 1.0)

    def loss(x):
        return w * x

    def faulty():
        yield 1.0
        raise OverflowError("my own words")

    def inner(state):
        if state.step == 1:
            train(loss, faulty(), opt, progress=False)

    with pytest.raises(OverflowError, match="batch 1: my own words") as caught:
        train(loss, [1.0] * 5, opt, cb=inner, progress=False)

    assert len(caught.value.history) == 2
    assert w.numpy() == -3.0


# --- Two threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", MOST_FORMS)
def test_two_models_train_at_once_as_each_would_alone(form):
    data = DATA * 20
    alone = training(form, data)()
    runs = [training(form, data) for _ in range(2)]

    for weights in at_once(*runs):
        are_equal(weights, alone)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cb", [None, lambda: None])
def test_threads_that_train_by_one_objective_take_turns(cb, form):
    w = param(np.zeros(100))
    opt = SGD([w], 1.0)

    def loss(x):
        return tf.reduce_sum(w * x)

    def run(x):
        return train(loss, [x] * 200, opt, form=form, chunk=7, cb=cb, progress=False)

    histories = at_once(lambda: run(1.0), lambda: run(2.0), lambda: run([1.0]))

    assert [len(h) for h in histories] == [200] * 3
    np.testing.assert_array_equal(w.numpy(), np.full(100, -200.0 * (1 + 2 + 1)))
    assert opt.iterations.numpy() == 600


def test_an_objective_is_traced_once_however_many_threads_begin_at_once():
    w = param(0.0)
    opt = SGD([w], 1.0)
    traces = queue.SimpleQueue()  # a list would be a capture that changes

    def loss(x):
        traces.put(1)
        return w * x

    at_once(*[lambda: train(loss, [1.0] * 5, opt, progress=False)] * 4)

    assert traces.qsize() == 1
    assert w.numpy() == -20.0


def test_many_objectives_of_one_optimiser_in_many_threads():
    w = param(0.0)
    opt = SGD([w], 1.0)

    def run(scale):
        train(lambda x: w * (x * scale), [1.0] * 3, opt, progress=False)

    for scale in range(10):  # more than are kept
        at_once(lambda: run(float(scale)), lambda: run(float(scale)))  # noqa: B023

    assert w.numpy() == -2 * 3 * sum(range(10))


def test_epochs_of_a_thread_are_stopped_from_within_it_alone(capsys):
    def run(is_stopped):
        w = param(0.0)
        seen = []
        for epoch in epochs(3):
            seen.append(epoch)
            cb = stop if is_stopped else None
            train(lambda x: w * x, [1.0], SGD([w], 1.0), cb=cb, progress=False)
        return seen

    assert at_once(lambda: run(True), lambda: run(False)) == [[1], [1, 2, 3]]


def test_prefetch_reads_in_a_thread_of_its_own_within_threads():
    alone = training("single", DATA)()

    runs = [training("single", prefetch(iter(DATA), 2)) for _ in range(3)]

    for weights in at_once(*runs):
        are_equal(weights, alone)


class Slow:
    """A batch that takes some time to be copied."""

    readers, is_read = set(), threading.Event()

    def __init__(self, i):
        self.i = i

    def __array__(self, dtype=None, copy=None):
        self.is_read.set()
        self.readers.add(threading.current_thread().name)
        time.sleep(0.005)
        self.is_read.clear()
        return X[self.i]


@pytest.mark.parametrize("form", FORMS[:3])
def test_a_thread_copies_the_next_batches_of_a_list_while_xla_runs_but_not_while_callbacks_do(form):
    Slow.readers.clear()
    model, seen = new_model(), []
    data = [Slow(i % len(X)) for i in range(12)]

    train(
        lambda x: mse(model(x), 0.0), data, SGD(0.01), form=form, chunk=4, progress=False,
        cb=throttle(lambda: seen.append(Slow.is_read.is_set()), 0),
    )  # fmt: skip

    assert not any(seen) and seen
    assert ("fluxkeras.feed" in Slow.readers) == (form == "xla")
    assert threading.current_thread().name in Slow.readers  # there is nothing beside the first


# --- Inference while it trains --------------------------------------------------------------------


class Inference:
    """Another thread that calls a model again and again."""

    def __init__(self, call):
        self._call = call
        self._is_over = threading.Event()
        self._has_begun = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self):
        self._future = self._pool.submit(self._run)
        assert self._has_begun.wait(60)
        return self

    def _run(self):
        outputs = []
        while not self._is_over.is_set() or len(outputs) < 10:
            outputs.append(self._call())
            self._has_begun.set()
        return outputs

    def __exit__(self, *_):
        self._is_over.set()
        self._pool.shutdown()
        self.outputs = self._future.result()


@pytest.mark.parametrize(
    ("way", "form"),
    [
        *(("call", form) for form in FORMS),
        *((way, "graph") for way in ("tf.function", "predict")),
        *slow(*((way, form) for way in ("tf.function", "predict") for form in ("single", "xla"))),
    ],
)
def test_a_model_infers_in_another_thread_in_inference_mode(way, form):
    model = Chain(Dense(4, 50, "tanh"), Dropout(0.5), Dense(50, 2))
    opt = SGD(params(model), 0.0)
    x = X[0]
    expected = model(x).numpy()
    function = tf.function(model)
    call = {
        "call": lambda: model(x).numpy(),
        "tf.function": lambda: function(x).numpy(),
        "predict": lambda: model.predict(x, verbose=0),
    }[way]
    call()

    with Inference(call) as inference:
        train(lambda x, y: mse(model(x), y), DATA * 20, opt, form=form, chunk=9, progress=False)

    for output in inference.outputs:
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_each_variable_is_read_whole_while_it_trains(form):
    w = param(np.zeros(10_000))
    opt = SGD([w], 1.0)

    with Inference(lambda: w.numpy()) as inference:
        data = repeated(np.ones(10_000, "float32"), 300)
        train(lambda x: tf.reduce_sum(w * x), data, opt, form=form, chunk=9, progress=False)

    steps = [set(values.tolist()) for values in inference.outputs]
    assert all(len(values) == 1 for values in steps)
    found = [values.pop() for values in steps]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_a_loss_that_is_not_finite_in_one_thread_undoes_no_step_of_another(form):
    w = param(np.zeros(10))
    opt = SGD([w], 1.0)

    def loss(x):
        return tf.reduce_sum(w * x)

    def run(data):
        options = {"form": form, "chunk": 7, "on_nonfinite": "skip", "progress": False}
        return train(loss, data, opt, **options)

    bad = [np.nan if i % 5 == 3 else 1.0 for i in range(100)]
    with pytest.warns(UserWarning, match="train skips batch 3"):
        at_once(lambda: run(bad), lambda: run([2.0] * 200))

    np.testing.assert_array_equal(w.numpy(), np.full(10, -80.0 - 400.0))
