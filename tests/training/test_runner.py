"""Which form runs, what is dropped, and that training is the same all along."""

import queue
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxkeras import (
    ADAM,
    SGD,
    Chain,
    DataLoader,
    Dense,
    NonFiniteError,
    mse,
    param,
    prefetch,
    stop,
    throttle,
    train,
)
from fluxkeras.training import feed, forms, tuner

rng = np.random.default_rng(0)
X, Y = rng.random((400, 4), "float32"), rng.random((400, 2), "float32")


@pytest.fixture
def eager_tuner(monkeypatch):
    """A tuner that tries every form as soon as it may."""
    monkeypatch.setattr(tuner.Tuner, "_is_worth_compiling", lambda self, arm, left: True)
    monkeypatch.setattr(tuner, "LEAST_TIMED", 0)


@pytest.fixture
def xla_wins(eager_tuner, monkeypatch):
    """A tuner to which XLA seems the fastest."""

    def ran(self, steps, seconds, is_short=False, ran=tuner.Arm.ran):
        ran(self, steps, seconds / 1000 if self.form == "xla" else seconds, is_short)

    monkeypatch.setattr(tuner.Arm, "ran", ran)


def forms_of(monkeypatch):
    """The forms in which calls run from now on."""
    seen = queue.SimpleQueue()
    for kind in (forms.Single, forms.Loop):

        def call(self, *given, kind=kind, call=kind.__call__):
            seen.put(kind.__name__)
            return call(self, *given)

        monkeypatch.setattr(kind, "__call__", call)
    return seen


def eager_training(weights, batches, rate):
    """The reference: gradient descent in NumPy on a linear model."""
    w, losses = weights.copy(), []
    for x, y in batches:
        error = x @ w - y
        losses.append(np.mean(error**2))
        w -= rate * 2 * x.T @ error / error.size
    return np.array(losses), w


def sizes_to_batches(sizes):
    ends = np.cumsum(sizes)
    return [(X[e - n : e], Y[e - n : e]) for n, e in zip(sizes, ends)]


KINDS = {
    "list": lambda batches: batches,
    "generator": lambda batches: (batch for batch in batches),
    "zip": lambda batches: zip(*map(list, zip(*batches))),
    "map": lambda batches: map(lambda i: batches[i], range(len(batches))),
    "prefetch": lambda batches: prefetch((batch for batch in batches), 3),
    "tensors": lambda batches: [(tf.constant(x), tf.constant(y)) for x, y in batches],
}
CALLBACKS = {
    "none": lambda calls: None,
    "every batch": lambda calls: lambda s: calls.append(s.step),
    "throttled": lambda calls: throttle(lambda s: calls.append(s.step), 0),
}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([3, 3, 3, 3, 3, 5, 2, 7]), min_size=1, max_size=40),
    kind=st.sampled_from(sorted(KINDS)),
    callback=st.sampled_from(sorted(CALLBACKS)),
    form=st.sampled_from(["auto", "auto", "single", "graph"]),
    chunk=st.sampled_from([None, 1, 2, 3, 10]),
    epochs=st.integers(1, 2),
)
def test_training_is_gradient_descent_whatever_runs(sizes, kind, callback, form, chunk, epochs):
    w, opt = param(np.ones((4, 2))), SGD(0.1)
    batches = sizes_to_batches(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tuner.Tuner, "_is_worth_compiling", lambda self, arm, left: arm.form == "graph"
        )
        losses, calls = [], []
        for _ in range(epochs):
            history = train(
                lambda x, y: mse(x @ w, y), KINDS[kind](batches), opt,
                cb=CALLBACKS[callback](calls), form=form, chunk=chunk, progress=False,
            )  # fmt: skip
            losses.append(history.losses)

    expected, weights = eager_training(np.ones((4, 2)), batches * epochs, 0.1)
    np.testing.assert_allclose(np.concatenate(losses), expected, rtol=1e-4)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)
    if callback == "every batch":
        assert calls == list(range(len(sizes))) * epochs
    if callback == "throttled":
        assert calls[-1] == len(sizes) - 1


def test_all_forms_are_tried_and_train_on_each_batch_once(eager_tuner, monkeypatch):
    seen = forms_of(monkeypatch)
    w = param(np.ones((4, 2)))
    batches = sizes_to_batches([4] * 100) * 100

    history = train(lambda x, y: mse(x @ w, y), batches, SGD(0.1), progress=False)

    expected, weights = eager_training(np.ones((4, 2)), batches, 0.1)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-3)
    assert {seen.get() for _ in range(seen.qsize())} == {"Single", "Loop"}
    assert history.timing.form in ("graph", "xla")
    assert history.timing.chunk > 1


@pytest.mark.parametrize("form", ["auto", "single", "graph", "xla"])
def test_large_blocks_of_a_dataset_are_trained_on_as_a_list_is(form, eager_tuner):
    """They are handed to a loop as they are, but for the last one, which is not full."""
    x = np.random.default_rng(0).normal(size=(150, 2**13)).astype("f")
    y = x[:, :1]
    batches = [(x[i : i + 1], y[i : i + 1]) for i in range(150)]
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(1, drop_remainder=True)
    histories = []
    for data, form_of in ((batches, "single"), (dataset, form)):
        w = param(np.zeros((2**13, 1)))
        loss, opt = lambda x, y: mse(x @ w, y), SGD(1e-5)  # noqa: B023
        histories.append(
            [train(loss, data, opt, form=form_of, progress=False).losses for _ in range(2)]
        )

    np.testing.assert_allclose(*histories, rtol=1e-4)


def test_the_choice_is_remembered_by_the_next_call(eager_tuner, monkeypatch):
    w, opt = param(np.ones((4, 2))), SGD(0.1)
    batches = sizes_to_batches([4] * 100) * 20
    loss = lambda x, y: mse(x @ w, y)  # noqa: E731
    for _ in range(3):
        train(loss, batches, opt, progress=False)
    seen = forms_of(monkeypatch)

    train(loss, batches, opt, progress=False)

    assert {seen.get() for _ in range(seen.qsize())} == {"Loop"}


def test_a_callback_on_every_batch_runs_one_step_a_call(eager_tuner, monkeypatch):
    seen = forms_of(monkeypatch)
    w, steps = param(np.ones((4, 2))), []

    history = train(
        lambda x, y: mse(x @ w, y), sizes_to_batches([4] * 50), SGD(0.1),
        cb=[throttle(lambda: None, 5), lambda s: steps.append(s.step)], progress=False,
    )  # fmt: skip

    assert steps == list(range(50))
    assert {seen.get() for _ in range(seen.qsize())} == {"Single"}
    assert history.timing.chunk == 1


def test_a_throttled_callback_is_asked_after_each_call(monkeypatch):
    w, steps = param(np.ones((4, 2))), []

    train(
        lambda x, y: (mse(x @ w, y), {"n": tf.shape(x)[0]}), sizes_to_batches([4] * 10), SGD(0.1),
        cb=throttle(lambda s: steps.append((s.step, s.aux["n"])), 0),
        form="graph", chunk=4, progress=False,
    )  # fmt: skip

    assert steps == [(3, 4), (7, 4), (9, 4)]


def test_stop_in_a_throttled_callback_ends_after_a_call():
    w = param(np.ones((4, 2)))

    history = train(
        lambda x, y: mse(x @ w, y), sizes_to_batches([4] * 10), SGD(0.1),
        cb=throttle(stop, 0), form="graph", chunk=4, progress=False,
    )  # fmt: skip

    assert (len(history), history.stopped) == (4, True)


# --- What cannot run in a form --------------------------------------------------------------------


def python_function(x, y):
    return tf.ensure_shape(tf.py_function(lambda x: x * 2.0, [x], tf.float32), x.shape)


def random_noise(x, y):
    return x + tf.random.stateless_normal(x.shape, [1, 2])


def looked_up(x, y):
    return tf.gather(x, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (python_function, "XLA does otherwise, or not at all: EagerPyFunc"),
        (random_noise, "StatelessRandom"),
        (lambda x, y: x[: tf.cast(x[0, 0] * 0.0 + 4.0, tf.int32)] * 1.0, ""),
    ],
)
def test_what_xla_does_not_do_runs_otherwise_and_is_noted(change, why):
    w = param(np.ones((4, 2)))
    loss = lambda x, y: mse(change(x, y) @ w, y)  # noqa: E731
    batches = sizes_to_batches([4] * 6)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = train(loss, batches, SGD(0.1), form="xla", chunk=3, progress=False)

    assert len(history) == 6
    if why:
        assert why in history.timing.dropped["xla"]
        assert any("form='xla' is not for this objective" in str(w.message) for w in caught)
        assert "(without xla: " in str(history)


def test_what_xla_leaves_unchecked_it_does_for_whoever_asks_for_it(eager_tuner):
    w, opt = param(np.ones((4, 2))), SGD(0.1)
    loss = lambda x, y: mse(looked_up(x, y) @ w, y)  # noqa: E731
    batches = sizes_to_batches([4] * 100) * 20

    for _ in range(3):
        free = train(loss, batches, opt, progress=False)
    asked = train(loss, batches, opt, form="xla", progress=False)

    assert "XLA makes no checks in GatherV2" in free.timing.dropped["xla"]
    assert free.timing.form != "xla"
    assert asked.timing.form == "xla"


@pytest.mark.parametrize("form", ["graph", "xla", "auto"])
def test_text_and_sparse_tensors_run_singly(form, eager_tuner):
    w = param(np.ones((3, 1)))
    sparse = tf.sparse.from_dense(np.eye(3, dtype="float32"))

    def loss(x, name):
        return tf.reduce_sum(tf.sparse.sparse_dense_matmul(x, w.value)), {"name": name}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = train(loss, [(sparse, "a"), (sparse, "b")] * 5, SGD(0.1), form=form)

    np.testing.assert_allclose(history.losses, 3 - 0.3 * np.arange(10), rtol=1e-5)
    assert history["name"].tolist() == [b"a", b"b"] * 5


def test_text_runs_in_a_loop_of_tensorflows():
    w = param(1.0)

    def loss(name):
        return w * tf.cast(tf.strings.length(name), tf.float32), {"name": name}

    history = train(loss, ["a", "bb", "ccc"], SGD(0.1), form="graph", progress=False)

    assert history["name"].tolist() == [b"a", b"bb", b"ccc"]
    np.testing.assert_allclose(history.losses, [1, 0.9 * 2, 0.7 * 3], rtol=1e-6)
    assert history.timing.dropped == {}


def test_other_values_of_different_shapes_make_a_loop_give_way():
    w = param(1.0)

    def loss(x):
        return w * tf.reduce_sum(x), {"positive": tf.boolean_mask(x, x > 0)}

    data = [np.float32(row) for row in ([1, -1, 2], [1, 2, 3], [-1, -1, 1])]
    with pytest.warns(UserWarning, match="form='graph' is not for this objective"):
        history = train(loss, data, SGD(0.1), form="graph", progress=False)

    assert [row.tolist() for row in history["positive"]] == [[1, 2], [1, 2, 3], [1]]
    np.testing.assert_allclose(history.losses, [2, 0.8 * 6, 0.2 * -1], rtol=1e-5)


def test_a_loss_that_is_not_finite_in_the_loop_alone_does_not_stop_training(monkeypatch):
    w, data = param(np.ones((4, 2))), sizes_to_batches([4] * 6)

    def call(self, chunk, meanwhile, start=0, stop=None):
        trouble = forms.Trouble()
        trouble.end = start + 1
        raise trouble

    monkeypatch.setattr(forms.Loop, "__call__", call)

    with pytest.warns(UserWarning, match="form='graph' is not for this objective"):
        history = train(
            lambda x, y: mse(x @ w, y), data, SGD(0.1), form="graph", chunk=2, progress=False
        )

    expected, weights = eager_training(np.ones((4, 2)), data, 0.1)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-4)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)
    assert history.timing.dropped == {"graph": "it is not finite where single steps are"}


def test_ragged_lengths_do_not_compile_once_a_length():
    gru, traces = keras.layers.GRU(3), queue.SimpleQueue()
    gru.build((None, None, 2))
    head = Dense(3, 1)

    def loss(x):
        traces.put(1)
        return tf.reduce_mean(head(gru(x)) ** 2)

    data = [rng.random((2, n, 2), "float32") for n in (3, 5, 4, 9, 1, 7, 2, 8, 6, 3, 11)]
    reference = [float(tf.reduce_mean(head(gru(x)) ** 2)) for x in data]

    history = train(loss, data, SGD(0.0), progress=False)

    np.testing.assert_allclose(history.losses, reference, rtol=1e-4)
    assert traces.qsize() == 3


def test_an_update_is_traced_once_for_all_lengths():
    class Counted(keras.optimizers.SGD):
        def apply(self, *arguments):
            traces.put(1)
            super().apply(*arguments)

    w, traces = param([1.0, 1.0]), queue.SimpleQueue()
    data = [np.ones((2, n), "float32") for n in (3, 3, 5, 4, 9)]

    history = train(lambda x: tf.reduce_mean(w @ x) ** 2, data, Counted(0.05), progress=False)

    # (w1 + w2) ** 2, whose gradient is twice the sum for each
    np.testing.assert_allclose(history.losses, 4 * 0.64 ** np.arange(5), rtol=1e-5)
    assert traces.qsize() == 1


@pytest.mark.parametrize("kind", ["list", "generator"])
@pytest.mark.parametrize("callback", ["none", "every batch"])
def test_lengths_that_come_again_run_by_xla_and_train_the_same(xla_wins, kind, callback):
    w = param(np.ones((4, 2)))
    batches = sizes_to_batches([3, 5, 2, 7, 4] * 12) * 2
    traces = queue.SimpleQueue()

    def loss(x, y):
        traces.put(1)
        return mse(x @ w, y), {"n": tf.shape(x)[0]}

    history = train(
        loss, KINDS[kind](batches), SGD(0.1), cb=CALLBACKS[callback]([]), progress=False
    )

    expected, weights = eager_training(np.ones((4, 2)), batches, 0.1)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-4)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)
    assert history["n"].tolist() == [len(x) for x, _ in batches]
    assert "xla" not in history.timing.dropped
    assert history.timing.form == "xla"
    assert traces.qsize() == 3


def test_what_xla_cannot_compile_for_a_length_runs_otherwise_for_all(xla_wins):
    w = param(np.ones((4, 2)))
    batches = sizes_to_batches([3, 5, 2, 7, 4] * 12) * 2

    def loss(x, y):
        digits = tf.strings.length(tf.strings.as_string(x[0, 0]))  # only XLA takes offence
        return mse(x @ w + 0.0 * tf.cast(digits, x.dtype), y)

    history = train(loss, batches, SGD(0.1), progress=False)

    expected, weights = eager_training(np.ones((4, 2)), batches, 0.1)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-4)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)
    assert "xla" in history.timing.dropped
    assert history.timing.form in ("single", "graph")


def test_a_loss_that_is_not_finite_stops_a_length_that_runs_by_xla(xla_wins):
    w = param(np.ones((4, 2)))
    batches = sizes_to_batches([3, 5, 2, 7, 4] * 10) * 2
    batches[-1] = (batches[-1][0], batches[-1][1] * np.nan)

    with pytest.raises(NonFiniteError, match=r"^batch 99 ") as caught:
        train(lambda x, y: mse(x @ w, y), batches, SGD(0.1), progress=False)

    _, weights = eager_training(np.ones((4, 2)), batches[:-1], 0.1)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)
    assert caught.value.history.timing.form == "xla"


# --- Beside a device ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
@pytest.mark.parametrize("kind", ["list", "DataLoader", "generator", "prefetch"])
def test_the_next_chunk_is_prepared_while_one_runs_and_nothing_is_lost(form, kind, monkeypatch):
    monkeypatch.setattr(feed.tf.config, "list_logical_devices", lambda _: ["a device"])
    w = param(np.ones((4, 2)))
    batches = sizes_to_batches([4] * 9 + [3])
    data = DataLoader((X[:39], Y[:39]), 4) if kind == "DataLoader" else KINDS[kind](batches)

    history = train(
        lambda x, y: mse(x @ w, y), data, SGD(0.1), form=form,
        chunk=None if form == "single" else 4, progress=False,
    )  # fmt: skip

    expected, weights = eager_training(np.ones((4, 2)), batches, 0.1)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-4)
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)


def test_an_error_in_data_read_ahead_comes_up_after_the_steps_before_it(monkeypatch):
    monkeypatch.setattr(feed.tf.config, "list_logical_devices", lambda _: ["a device"])
    w, batches = param(np.ones((4, 2))), sizes_to_batches([4] * 6)

    def source():
        yield from batches
        raise RuntimeError("the disk is gone")

    with pytest.raises(
        RuntimeError, match="while the data was asked for batch 6: the disk is"
    ) as caught:
        train(
            lambda x, y: mse(x @ w, y), prefetch(source(), 2), SGD(0.1), form="graph", chunk=2,
            progress=False,
        )  # fmt: skip

    assert len(caught.value.history) == 6


def test_a_nan_while_the_next_chunk_is_prepared_stops_at_its_batch(monkeypatch):
    monkeypatch.setattr(feed.tf.config, "list_logical_devices", lambda _: ["a device"])
    w, batches = param(np.ones((4, 2))), sizes_to_batches([4] * 9)
    batches[5] = (batches[5][0], batches[5][1] * np.nan)

    with pytest.raises(NonFiniteError, match=r"^batch 5 ") as caught:
        train(lambda x, y: mse(x @ w, y), batches, SGD(0.1), form="graph", chunk=4, progress=False)

    _, weights = eager_training(np.ones((4, 2)), batches[:5], 0.1)
    assert len(caught.value.history) == 5
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-4)


# --- What is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "fast"}, "train expects a form of 'auto', 'single', 'graph', 'xla', got 'fast'."),
        ({"chunk": 0}, "train expects as chunk how many steps run in a call"),
        ({"chunk": 2.5}, "a whole number from 1, got 2.5."),
    ],
)
def test_a_form_or_chunk_that_there_is_not_is_refused(options, message):
    w = param(1.0)

    with pytest.raises(ValueError, match=re.escape(message)):
        train(lambda x: w * x, [1.0], SGD(0.1), **options)
    assert w.numpy() == 1


def test_a_thousand_calls_compile_once_and_leave_nothing_behind():
    model, opt, traces = Chain(Dense(4, 2)), ADAM(), queue.SimpleQueue()
    batches = sizes_to_batches([4] * 2)

    def call():
        def loss(x, y):
            traces.put(1)
            return mse(model(x), y)

        return train(loss, batches, opt, progress=False)

    for _ in range(200):
        call()

    assert traces.qsize() == 1


@pytest.mark.slow
def test_a_thousand_calls_take_no_more_memory():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    w, opt = param(np.ones((4, 2))), SGD(0.1)
    batches = sizes_to_batches([4] * 3)
    sizes = []
    for i in range(3001):
        train(lambda x, y: mse(x @ w, y), batches, opt, progress=False)
        if i % 1000 == 0:
            sizes.append(resident())

    # What the forms are compiled into is there after 2,000 calls.
    assert sizes[3] - sizes[2] < 5 * 2**20
