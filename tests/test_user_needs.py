"""What hurts users of today's training loops does not hurt here: a test for each row of a survey.

The number in a test's name is that of the row; the docstring tells what was found in Keras.
"""

import contextlib
import queue

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    SGD,
    AccumGrad,
    Chain,
    Dense,
    Descent,
    OptimiserChain,
    epochs,
    mse,
    param,
    params,
    train,
)

rng = np.random.default_rng(0)
X, Y = rng.random((10, 6, 3)).astype("float32"), rng.random((10, 6, 2)).astype("float32")


@pytest.fixture
def model():
    return Chain(Dense(3, 4, "tanh"), Dense(4, 2))


@pytest.fixture
def loss(model):
    return lambda x, y: mse(model(x), y)


def are_equal(weights, expected):
    for value, wanted in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_p05_a_generator_that_is_used_up_is_refused_in_the_second_epoch(model, loss):
    """`fit` trains epochs 2 and 3 on the two batches that it had looked at."""
    seen = []

    def once():
        for i, batch in enumerate(zip(X, Y)):
            seen.append(i)
            yield batch

    data, trained = once(), []
    with pytest.raises(ValueError, match="this generator is exhausted, since a generator can be"):
        for _ in epochs(3):
            train(loss, data, SGD(0.1), progress=False)
            trained.append(model.get_weights())

    assert seen == list(range(10))
    are_equal(model.get_weights(), trained[-1])
    assert len(trained) == 1


class Batches:
    def __iter__(self):
        yield from zip(X, Y)


@pytest.mark.parametrize(
    "data",
    [
        lambda: zip(X, Y),
        lambda: map(lambda i: (X[i], Y[i]), range(10)),
        Batches,
        lambda: list(zip(X, Y)),
    ],
    ids=["zip", "map", "__iter__", "list"],
)
def test_p06_any_iterable_is_data(model, loss, data):
    """`fit` raises on all four."""
    first, opt = model.get_weights(), SGD(0.1)
    train(loss, tuple(zip(X, Y)), opt, progress=False)
    expected = model.get_weights()
    model.set_weights(first)

    history = train(loss, data(), opt, progress=False)

    assert len(history) == 10
    for value, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5)


SCALE = 1.0


def test_p07_a_global_that_changed_takes_effect(model, monkeypatch):
    """`fit` keeps the value that it was first traced with."""
    opt = SGD(0.1)

    def loss(x, y):
        return SCALE * mse(model(x), y)

    assert train(loss, zip(X, Y), opt, progress=False).losses.all()
    before = model.get_weights()
    monkeypatch.setitem(globals(), "SCALE", 0.0)

    history = train(loss, zip(X, Y), opt, progress=False)

    np.testing.assert_array_equal(history.losses, 0.0)
    are_equal(model.get_weights(), before)


@pytest.mark.parametrize("of_keras", [True, False])
def test_p08_a_layer_that_is_frozen_between_two_calls_stays(of_keras):
    """In a model that was compiled, `fit` goes on training it."""
    dense = [keras.layers.Dense(4), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *dense])
    model = model if of_keras else Chain(Dense(3, 4), Dense(4, 2))
    opt = SGD(0.1)

    def loss(x, y):
        return mse(model(x), y)

    train(loss, zip(X, Y), opt, progress=False)
    before = model.get_weights()
    model.layers[0].trainable = False

    train(loss, zip(X, Y), opt, progress=False)

    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


def test_p09_gradients_that_were_collected_when_data_ended_count_in_the_next_call(model, loss):
    """With `gradient_accumulation_steps=4` and 3 batches, `fit` never trains, in no epoch."""
    opt = OptimiserChain(params(model), AccumGrad(4), Descent(0.1))
    at_first = model.get_weights()
    batches = list(zip(X[:3], Y[:3]))

    train(loss, batches, opt, progress=False)
    are_equal(model.get_weights(), at_first)
    train(loss, batches[:1], opt, progress=False)

    trained = model.get_weights()
    model.set_weights(at_first)
    together = np.concatenate([X[0], X[1], X[2], X[0]]), np.concatenate([Y[0], Y[1], Y[2], Y[0]])
    train(loss, [together], SGD(0.1), progress=False)
    for value, wanted in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[3, 3], [2, 2, 2], [4, 2]])
def test_p10_small_batches_make_the_step_of_the_one_that_they_are_parts_of(model, sizes):
    """Of batches of 4 and 2, Keras's accumulation makes another step than of one of 6."""
    at_first = model.get_weights()
    ends = np.cumsum(sizes)
    parts = [(X[0, end - n : end], Y[0, end - n : end]) for n, end in zip(sizes, ends, strict=True)]
    n = len(sizes)

    def loss(x, y):
        """The sum over a part, so that each sample counts as much as another."""
        return mse(model(x), y, agg=tf.reduce_sum) * n / (6 * 2)

    opt = OptimiserChain(params(model), AccumGrad(n), Descent(0.1))
    train(loss, parts, opt, progress=False)

    trained = model.get_weights()
    model.set_weights(at_first)
    train(lambda x, y: mse(model(x), y), [(X[0], Y[0])], SGD(0.1), progress=False)
    for value, wanted in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_p11_losses_of_layers_that_an_objective_leaves_out_are_told_of():
    """Without `model.losses`, a loop by hand trains without the penalties, and nothing says so."""
    penalty = keras.regularizers.L2(0.1)
    layers = [keras.Input((3,)), keras.layers.Dense(2, kernel_regularizer=penalty, name="fined")]
    model, opt = keras.Sequential(layers), SGD(0.0)

    with pytest.warns(UserWarning, match="leaves out the losses of these layers: .*fined") as told:
        for _ in range(2):
            without = train(lambda x, y: mse(model(x), y), zip(X, Y), opt, progress=False)
    history = train(
        lambda x, y: mse(model(x), y) + sum(model.losses), zip(X, Y), opt, progress=False
    )

    assert [w.filename for w in told] == [__file__]
    expected = without.losses + 0.1 * np.sum(model.layers[0].kernel.numpy() ** 2)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["single", "graph"])
def test_p12_dropout_is_active_in_an_objective(form):
    """Within a `GradientTape`, it is active only if `training=True` is passed on by hand."""
    dropout, w = keras.layers.Dropout(0.5), param(1.0)

    def loss(x):
        return w, {"zeros": tf.reduce_mean(tf.cast(dropout(x) == 0, "float32"))}

    history = train(loss, [np.ones(1000)] * 4, SGD(0.0), form=form, chunk=2, progress=False)

    assert np.all((0.4 < history["zeros"]) & (history["zeros"] < 0.6))
    assert not np.any(dropout(np.ones(1000)) == 0)


@pytest.mark.parametrize(
    ("data", "most"),
    [
        ([(X[0], float(i)) for i in range(5)], 1),
        ([(X[0], i) for i in range(5)], 1),
        ([(X[0, :n], 1.0) for n in range(1, 5)], 3),
        ([(np.ones((n, 3)), 1.0) for n in range(1, 40)], 3),
    ],
    ids=["floats", "integers", "4 lengths", "39 lengths"],
)
def test_p13_numbers_and_lengths_that_change_are_not_traced_anew(data, most):
    """`tf.function` traces 5 times for 5 floats, and 3 times for 4 lengths."""
    w, traces = param([1.0, 1.0, 1.0]), queue.SimpleQueue()
    opt = SGD([w], 0.0)

    def loss(x, scale):
        traces.put(1)
        return tf.reduce_sum(w * x) * tf.cast(scale, "float32")

    for _ in range(2):
        train(loss, data, opt, progress=False)

    assert traces.qsize() <= most


def test_p14_a_log_is_lines_of_text(loss, tmp_path):
    """`fit` writes 3,668 backspaces, 65 carriage returns and 510 escapes into a file."""
    log = tmp_path / "log"
    with log.open("w") as file, contextlib.redirect_stdout(file):
        for _ in epochs(2):
            train(loss, list(zip(X, Y)) * 20, SGD(0.1), cb=lambda: None)

    text = log.read_text()
    assert not set(text) & set("\b\r\x1b")
    assert text.splitlines()[0] == "INFO: Epoch 1"
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize("form", ["single", "graph", "xla", "auto"])
def test_p21_every_step_is_in_the_history_and_in_callbacks(loss, form):
    """`History` holds 2 numbers for 20 steps; with 5 steps an execution, callbacks see 2 of 10."""
    states, losses = [], []
    for epoch in epochs(2):
        cb = states.append if epoch == 1 else None
        options = {"form": form, "chunk": 5, "progress": False}
        losses.append(train(loss, zip(X, Y), SGD(0.1), cb=cb, **options).losses)

    assert [len(of_epoch) for of_epoch in losses] == [10, 10]
    assert [state.step for state in states] == list(range(10))
    np.testing.assert_array_equal([state.loss for state in states], losses[0])
    assert losses[1][-1] < losses[0][0]
