"""Every form and chunk length gives the same training, and stops at the same batch."""

import itertools
import queue

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ADAM,
    SGD,
    Chain,
    DataLoader,
    Dense,
    Dropout,
    NonFiniteError,
    mse,
    param,
    params,
    prefetch,
    repeated,
    train,
)
from fluxkeras.training import forms
from fluxkeras.training.forms import SMALL_BYTES, CompiledFunction

rng = np.random.default_rng(0)

BATCHES, SIZE = 11, 4
X = rng.random((BATCHES * SIZE + 2, 5)).astype("float32")  # the last batch is smaller
Y = rng.random((BATCHES * SIZE + 2, 2)).astype("float32")
PARTS = [slice(i, i + SIZE) for i in range(0, len(X), SIZE)]

FORMS = [("single", None), ("graph", 1), ("graph", 4), ("xla", 1), ("xla", 4), ("auto", None)]
MORE_FORMS = [
    *itertools.product(["graph", "xla"], [None, 2, 3, 5, 100]),
    ("auto", 3),
]


def slow(*cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def once(items):
    yield from items


DATA = {
    "list": lambda: [(X[p], Y[p]) for p in PARTS],
    "zip": lambda: zip([X[p] for p in PARTS], [Y[p] for p in PARTS]),
    "generator": lambda: once([(X[p], Y[p]) for p in PARTS]),
    "prefetch": lambda: prefetch(once([(X[p], Y[p]) for p in PARTS]), 3),
    "DataLoader": lambda: DataLoader((X, Y), SIZE),
    "tensors": lambda: [(tf.constant(X[p]), tf.constant(Y[p])) for p in PARTS],
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(SIZE),
    "tf.data generator": lambda: tf.data.Dataset.from_generator(
        lambda: [(X[p], Y[p]) for p in PARTS],
        output_signature=(tf.TensorSpec((None, 5)), tf.TensorSpec((None, 2))),
    ),
}


def normalised(dropout):
    """A model whose layers draw random numbers, or not, and keep moving statistics."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, "tanh"),
            keras.layers.BatchNormalization(momentum=0.9),
            *[keras.layers.Dropout(0.4, seed=2)] * dropout,
            keras.layers.Dense(2),
        ]
    )


def training(data, form, chunk, dropout, epochs=2):
    model, opt = normalised(dropout), ADAM(0.01)

    def loss(x, y):
        error = mse(model(x), y)
        return error, {"rmse": tf.sqrt(error), "first": x[0], "none": None}

    histories = [
        train(loss, data(), opt, form=form, chunk=chunk, progress=False) for _ in range(epochs)
    ]
    return histories, [v.numpy() for v in (*model.variables, *opt.variables)]


REFERENCE = {}


def reference(dropout, kind="list"):
    """The same in single steps, of which other tests show that they are those of a loop by hand."""
    if (dropout, kind) not in REFERENCE:
        REFERENCE[dropout, kind] = training(DATA[kind], "single", None, dropout)
    return REFERENCE[dropout, kind]


@pytest.mark.filterwarnings("ignore:form='xla' is not for this objective")
@pytest.mark.parametrize(
    ("form", "chunk", "kind", "dropout"),
    [
        *((form, chunk, "list", dropout) for form, chunk in FORMS for dropout in (False, True)),
        *(("graph", 4, kind, True) for kind in DATA),
        *(("auto", None, kind, True) for kind in DATA),
        *slow(*(("xla", 4, kind, False) for kind in DATA)),
        *slow(*((*form, "list", dropout) for form in MORE_FORMS for dropout in (False, True))),
    ],
)
def test_every_form_gives_the_same_losses_and_weights(form, chunk, kind, dropout):
    histories, state = training(DATA[kind], form, chunk, dropout)

    expected_histories, expected_state = reference(dropout)
    for history, expected in zip(histories, expected_histories, strict=True):
        np.testing.assert_allclose(history.losses, expected.losses, rtol=2e-5)
        np.testing.assert_allclose(history["rmse"], expected["rmse"], rtol=2e-5)
        np.testing.assert_array_equal(history["first"], X[::SIZE])
    for value, expected in zip(state, expected_state, strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("form", ["graph", "xla"])
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_repeated_batches_are_trained_on_in_every_form(form, chunk):
    def run(form, chunk):
        w = param([1.0, 2.0])
        history = train(
            lambda x: tf.reduce_sum(w * x) ** 2, repeated(X[0, :2], 7), SGD(0.01),
            form=form, chunk=chunk, progress=False,
        )  # fmt: skip
        return history.losses, w.numpy()

    losses, weights = run(form, chunk)

    w, x, expected = np.array([1.0, 2.0]), X[0, :2], []
    for _ in range(7):
        expected.append((w @ x) ** 2)
        w = w - 0.01 * 2 * (w @ x) * x
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(weights, w, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "chunk", "bad", "dropout"),
    [
        *((form, chunk, bad, True) for form, chunk in FORMS for bad in (0, 6)),
        ("xla", 4, 6, False),
        ("xla", 1, 6, False),
        *slow(*((*form, bad, False) for form in MORE_FORMS for bad in (0, 1, 6, 10))),
    ],
)
@pytest.mark.filterwarnings("ignore:form='xla' is not for this objective")
def test_every_form_stops_before_the_update_of_a_loss_that_is_not_finite(form, chunk, bad, dropout):
    def data(planted):
        batches = [(X[p], Y[p]) for p in PARTS[:-1]]
        return [*batches[:bad], (X[PARTS[bad]], Y[PARTS[bad]] * np.nan), *batches[bad + 1 :]][
            : None if planted else bad
        ]

    def state_after(planted):
        model, opt = normalised(dropout), ADAM(0.01)
        loss = lambda x, y: mse(model(x), y)  # noqa: E731
        train(loss, [(X[:SIZE], Y[:SIZE])], opt, form=form, chunk=chunk, progress=False)
        if planted:
            with pytest.raises(NonFiniteError, match=rf"^batch {bad} \(.*\): the loss is nan") as e:
                train(loss, data(True), opt, form=form, chunk=chunk, progress=False)
            assert len(e.value.history) == bad
        elif bad:
            train(loss, data(False), opt, form=form, chunk=chunk, progress=False)
        return [v.numpy() for v in (*model.variables, *opt.variables)]

    for value, expected in zip(state_after(True), state_after(False), strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-6)


@pytest.fixture(params=[SMALL_BYTES, 0], ids=["small", "large"])
def size(request, monkeypatch):
    """A model that is small to single steps, or large."""
    monkeypatch.setattr(forms, "SMALL_BYTES", request.param)


NOT_FINITE = {
    "loss": lambda error: error * np.nan,
    "gradient": tf.custom_gradient(lambda error: (tf.identity(error), lambda g: g * np.inf)),
}


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_single_step_that_is_not_finite_changes_nothing(bad):
    model, opt = normalised(dropout=True), ADAM(0.01)
    good, planted = ((X[p], Y[p], is_bad) for p, is_bad in zip(PARTS, (False, True), strict=False))

    def loss(x, y, is_bad):
        error = mse(model(x), y)
        return tf.cond(is_bad, lambda: NOT_FINITE[bad](error), lambda: error)

    def state():
        return [v.numpy() for v in (*model.variables, *opt.variables)]

    train(loss, [good], opt, form="single", progress=False)
    before = state()
    with pytest.raises(NonFiniteError, match=r"^batch 0 "):
        train(loss, [planted], opt, form="single", progress=False)

    for value, expected in zip(state(), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    train(loss, [good], opt, form="single", progress=False)
    assert any((new != old).any() for new, old in zip(state(), before, strict=True))


@pytest.mark.usefixtures("size")
def test_single_steps_of_models_of_any_size_are_those_of_keras():
    ours, theirs = normalised(dropout=False), normalised(dropout=False)
    train(
        lambda x, y: mse(ours(x, training=True), y),
        DATA["list"](), keras.optimizers.Adam(0.01), form="single", progress=False,
    )  # fmt: skip
    theirs.compile(keras.optimizers.Adam(0.01), "mse")
    for x, y in DATA["list"]():
        theirs.train_on_batch(x, y)

    for value, expected in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(value.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "chunk"), [form for form in FORMS if form[0] != "xla"]
)  # XLA makes no checks
def test_an_error_within_a_step_comes_up_after_those_before_it(form, chunk):
    table = param(np.ones((3, 2)))
    data = [np.int32(i) for i in (0, 1, 2, 0, 7, 1)]

    def loss(i):
        tf.debugging.assert_less(i, 3, "no such row")
        return tf.reduce_sum(tf.gather(table, i) ** 2)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        train(loss, data, SGD(0.25), form=form, chunk=chunk, progress=False)
    seen = caught.value.history.losses

    # Each row is halved by its step: d(w**2)/dw = 2w.
    np.testing.assert_allclose(seen, [2, 2, 2, 0.5])
    np.testing.assert_allclose(table.numpy(), [[0.25] * 2, [0.5] * 2, [0.5] * 2])


@pytest.mark.parametrize(("form", "chunk"), FORMS)
def test_data_that_depends_on_the_model_is_asked_for_in_time(form, chunk):
    w = param(1.0)

    def replay():
        for _ in range(6):
            yield np.float32(w.numpy())

    history = train(lambda x: w * 1.0 + 0.0 * x, replay(), SGD(0.25), form=form, chunk=chunk)
    train_on = train(
        lambda x: (0.0 * w, x), replay(), SGD(0.25), form=form, chunk=chunk, progress=False
    )

    np.testing.assert_allclose(history.losses, 1 - 0.25 * np.arange(6))
    np.testing.assert_allclose(train_on.aux, [-0.5] * 6)


@pytest.mark.parametrize(("form", "chunk"), [("graph", 4), ("xla", 4)])
def test_a_short_last_chunk_and_a_second_epoch_are_not_traced_again(form, chunk):
    model, opt, traces = Chain(Dense(5, 2)), ADAM(), queue.SimpleQueue()

    def run(n):
        def loss(x, y):
            traces.put(1)
            return mse(model(x), y)

        data = [(X[p], Y[p]) for p in PARTS[:n]]
        return train(loss, data, opt, form=form, chunk=chunk, progress=False)

    for n in (10, 11, 3):
        assert len(run(n)) == n
    assert traces.qsize() == 1


@pytest.mark.parametrize("form", ["graph", "xla"])
def test_a_form_tells_what_ran(form):
    model = Chain(Dense(5, 2))

    history = train(
        lambda x, y: mse(model(x), y), DATA["list"](), ADAM(), form=form, chunk=4, progress=False
    )

    assert (history.timing.form, history.timing.chunk) == (form, 4)
    assert history.timing.dropped == {}


def test_embeddings_and_several_optimisers_train_in_every_form():
    def run(form):
        keras.utils.set_random_seed(3)
        table, head = keras.layers.Embedding(6, 4), Dense(4, 2)
        table.build()
        opts = [ADAM(params(table), 0.1), SGD(params(head), 0.1)]
        data = [(rows, Y[:3]) for rows in np.array([[0, 1, 1], [2, 2, 5], [0, 4, 3], [1, 1, 1]])]
        loss = lambda i, y: mse(head(table(i)), y)  # noqa: E731
        history = train(loss, data, opts, form=form, chunk=2, progress=False)
        return [history.losses, table.get_weights()[0], *head.get_weights()]

    for form in "graph", "xla":
        for value, expected in zip(run(form), run("single"), strict=True):
            np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("devices", [[], ["GPU:0"]], ids=["as an operation", "by its arguments"])
def test_a_compiled_function_returns_its_tensors_flat(monkeypatch, devices, xla):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
    total = tf.Variable(1.0)

    def add(x, y):
        return total.assign_add(tf.reduce_sum(x)), {"y": y * 2, "none": None}

    specs = [tf.TensorSpec((2,)), tf.TensorSpec((3,), tf.int32)]
    function = CompiledFunction(add, specs, xla)
    sum_, doubled = function(tf.constant([1.0, 2.0]), tf.constant([1, 2, 3]))
    assert sum_.numpy() == total.numpy() == 4.0
    assert doubled.numpy().tolist() == [2, 4, 6]


def test_a_compiled_function_takes_and_returns_ragged_tensors_in_parts():
    function = CompiledFunction(lambda x: x + 1, [tf.RaggedTensorSpec([None, None], tf.int32)])
    values, splits = function(tf.ragged.constant([[1, 2], [3]]))
    assert values.numpy().tolist() == [2, 3, 4]
    assert splits.numpy().tolist() == [0, 2, 3]


def test_dropout_of_ours_draws_the_same_masks_in_every_form():
    def losses(form):
        keras.utils.set_random_seed(1)
        m = Chain(Dense(5, 8, "tanh"), Dropout(0.4, seed=2), Dense(8, 2))
        data = [(X[p], Y[p]) for p in PARTS[:-1]]
        history = train(
            lambda x, y: mse(m(x), y), data, SGD(0.1), progress=False, form=form, chunk=4
        )
        assert history.timing.form == form
        return history.losses

    single = losses("single")
    assert len(set(single)) == len(single)
    for form in "graph", "xla":
        np.testing.assert_allclose(losses(form), single, rtol=1e-5)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize(("form", "chunk"), [("single", None), ("graph", 4)])
def test_an_error_within_a_step_leaves_statistics_and_seeds_as_they_were(form, chunk):
    model, opt = normalised(dropout=True), ADAM(0.01)

    def fails_at_the_third(x):
        if float(x[0]) == X[PARTS[2]][0, 0]:
            raise OverflowError("my own words")
        return x

    def loss(x, y):
        error = mse(model(x), y)
        # It begins when the statistics have been moved.
        with tf.control_dependencies([error]):
            return error + 0 * tf.py_function(fails_at_the_third, [x[:, 0]], "float32")[0]

    def state():
        return [v.numpy() for v in (*model.variables, *opt.variables)]

    data = [(X[p], Y[p]) for p in PARTS[:4]]
    opt.build(model.trainable_variables)
    for steps_before, part in (2, data), (0, data[2:]):
        expected = state()
        with pytest.raises(tf.errors.OpError, match="my own words") as caught:
            train(loss, part, opt, form=form, chunk=chunk, progress=False)
        assert len(caught.value.history) == steps_before
        if not steps_before:
            for value, wanted in zip(state(), expected, strict=True):
                np.testing.assert_array_equal(value, wanted)
