import contextlib
import io
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor

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
    Dense,
    NonFiniteError,
    ShapeError,
    epochs,
    mse,
    param,
    params,
    repeated,
    stop,
    throttle,
    train,
    trainstep,
    trainstep_withgradient,
    withgradient,
)

rng = np.random.default_rng(0)


@pytest.fixture
def m():
    return Chain(Dense(4, 8, "tanh"), Dense(8, 2))


@pytest.fixture
def loss(m):
    return lambda x, y: mse(m(x), y)


def batch(n=8):
    return rng.random((n, 4)), rng.random((n, 2))


def weights_are(model, expected):
    for old, new in zip(expected, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


# --- Training is the loop that one would write by hand --------------------------------------------


def eager_training(model, data, learning_rate):
    """The reference: gradient descent in NumPy and TensorFlow's eager mode, one batch at a time."""
    losses = []
    for x, y in data:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(tf.cast(x, tf.float32)) - tf.cast(y, tf.float32)) ** 2)
        variables = [v.value for v in model.trainable_variables]
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign(variable - learning_rate * gradient)
        losses.append(float(loss))
    return losses


def once(items):
    yield from items


FORMS = {
    "list": lambda items: items,
    "zip": lambda items: zip(*zip(*items, strict=True), strict=True),
    "generator": once,
    "map": lambda items: map(lambda item: item, items),
    "tensors": lambda items: [(tf.constant(x), tf.constant(y)) for x, y in items],
    "float32": lambda items: [(np.float32(x), np.float32(y)) for x, y in items],
    "nested lists": lambda items: [(x.tolist(), y.tolist()) for x, y in items],
    "tf.data": lambda items: tf.data.Dataset.from_generator(
        lambda: items,
        output_signature=(tf.TensorSpec((None, 4)), tf.TensorSpec((None, 2))),
    ),
}


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=8),
    form=st.sampled_from(sorted(FORMS)),
    model_first=st.booleans(),
    named=st.booleans(),
    learning_rate=st.sampled_from([0.01, 0.5]),
)
def test_training_is_gradient_descent_on_any_data(sizes, form, model_first, named, learning_rate):
    model, reference = (
        Chain(Dense(4, 3, "tanh"), Dense(3, 2)),
        Chain(Dense(4, 3, "tanh"), Dense(3, 2)),
    )
    reference.set_weights(model.get_weights())
    items = [batch(n) for n in sizes]
    data = FORMS[form](items)
    opt = SGD(params(model), learning_rate) if named else SGD(learning_rate)
    calls = []

    if model_first:
        history = train(lambda m, x, y: mse(m(x), y), model, data, opt, cb=calls.append)
    else:
        history = train(lambda x, y: mse(model(x), y), data, opt, cb=calls.append)

    expected = eager_training(reference, items, learning_rate)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-4)
    for ours, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert [c.step for c in calls] == list(range(len(items)))
    np.testing.assert_array_equal([c.loss for c in calls], history.losses)


@pytest.mark.parametrize(
    "opt",
    [keras.optimizers.Adam, keras.optimizers.RMSprop, keras.optimizers.Lion, keras.optimizers.Ftrl],
)
def test_any_optimiser_of_keras_gives_the_weights_that_fit_gives(opt):
    x, y = rng.random((32, 4)), rng.random((32, 2))
    ours = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    theirs.compile(opt(0.01), "mse")

    theirs.fit(x, y, batch_size=8, shuffle=False, epochs=2, verbose=0)
    optimiser = opt(0.01)
    for _ in range(2):
        data = zip(np.split(x, 4), np.split(y, 4), strict=True)
        train(lambda x, y: mse(ours(x), y), data, optimiser)

    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_batch_normalisation_moves_its_statistics_as_in_fit():
    x, y = rng.random((32, 4)), rng.random((32, 2))
    ours = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    theirs.compile(keras.optimizers.SGD(0.1), "mse")

    theirs.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    train(lambda x, y: mse(ours(x), y), zip(np.split(x, 4), np.split(y, 4), strict=True), SGD(0.1))

    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_dropout_is_active_in_the_objective_alone():
    dropout = keras.layers.Dropout(0.5)
    w, x = param(1.0), np.ones((50, 10))
    outside = []

    def loss(x):
        zeros = tf.reduce_mean(tf.cast(dropout(x) == 0, tf.float32))
        return w**2, {"zeros": zeros}

    history = train(
        loss, repeated(x, 3), SGD(0.1), cb=lambda: outside.append(dropout(x).numpy().min())
    )

    assert np.all((history["zeros"] > 0.35) & (history["zeros"] < 0.65))
    assert len(set(history["zeros"].tolist())) > 1
    assert outside == [1, 1, 1]


def test_every_loss_and_what_came_besides_is_in_the_history():
    w = param(10.0)

    history = train(lambda x: (w * x, {"w": w, "both": [w, x]}), [1.0, 2.0, 3.0], SGD(1.0))

    # w: 10, 9, 7
    np.testing.assert_allclose(history.losses, [10, 18, 21])
    np.testing.assert_allclose(history["w"], [10, 9, 7])
    np.testing.assert_allclose(history.aux["both"][1], [1, 2, 3])


def test_a_module_and_bare_variables_train():
    class Affine(tf.Module):
        def __init__(self):
            self.w, self.b = tf.Variable(tf.zeros(4)), param(0.0)

        def __call__(self, x):
            return tf.linalg.matvec(x, self.w) + self.b

    affine, x = Affine(), rng.random((64, 4))
    y = x @ [1.0, -2.0, 3.0, 0.5] + 4

    train(lambda x, y: mse(affine(x), y), repeated((x, y), 2000), ADAM(0.05), progress=False)

    np.testing.assert_allclose(affine.w, [1.0, -2.0, 3.0, 0.5], atol=0.01)
    assert affine.b.numpy() == pytest.approx(4, abs=0.01)


def test_an_objective_of_no_argument_trains():
    w = param([3.0, -2.0])

    train(lambda: tf.reduce_sum(w**2), repeated((), 100), SGD(0.1), progress=False)

    np.testing.assert_allclose(w.numpy(), 0, atol=1e-6)


# --- Callbacks, stop, epochs ----------------------------------------------------------------------


def test_callbacks_are_called_after_every_batch_in_their_order(m, loss):
    seen = []

    train(
        loss,
        repeated(batch(), 2),
        SGD(0.1),
        cb=[lambda: seen.append("a"), lambda s: seen.append(s)],
    )

    assert [s if s == "a" else s.step for s in seen] == ["a", 0, "a", 1]
    assert seen[1].model is None and seen[1].aux is None


def test_the_state_holds_the_model_that_was_given(m):
    models = []

    train(
        lambda m, x, y: (mse(m(x), y), 7),
        m,
        [batch()],
        SGD(0.1),
        cb=lambda s: models.append((s.model, s.aux)),
    )

    assert models == [(m, 7)]


def test_stop_ends_training_after_a_whole_step(m, loss):
    history = train(loss, repeated(batch()), SGD(0.1), cb=lambda s: s.step == 4 and stop())

    assert history.stopped
    assert len(history) == 5


def test_training_that_ends_by_itself_was_not_stopped(m, loss):
    assert not train(loss, [batch()], SGD(0.1)).stopped


def test_a_trailing_call_runs_at_the_end_of_training(m, loss):
    steps = []

    train(
        loss,
        repeated(batch(), 5),
        SGD(0.1),
        cb=throttle(lambda s: steps.append(s.step), 60, trailing=True),
    )

    assert steps == [0, 4]


def test_a_trailing_call_runs_when_training_is_stopped(m, loss):
    steps = []
    last = throttle(lambda s: steps.append(s.step), 60, trailing=True)

    history = train(loss, repeated(batch()), SGD(0.1), cb=[last, lambda s: s.step == 5 and stop()])

    assert steps == [0, 5]
    assert history.stopped


def test_a_trailing_call_may_stop_too(m, loss):
    last = throttle(lambda s: s.step and stop(), 60, trailing=True)

    history = train(loss, repeated(batch(), 3), SGD(0.1), cb=last)

    assert (len(history), history.stopped) == (3, True)


@pytest.mark.parametrize("as_call", [True, False])
def test_stop_ends_epochs_too(m, loss, capsys, as_call):
    histories = []

    def one():
        data = [batch()] * 3
        cb = lambda s: len(histories) == 1 and s.step == 1 and stop()  # noqa: E731
        histories.append(train(loss, data, SGD(0.1), cb=cb, progress=False))

    if as_call:
        epochs(5, one)
    else:
        for _ in epochs(5):
            one()

    assert [len(h) for h in histories] == [3, 2]
    assert capsys.readouterr().out == "INFO: Epoch 1\nINFO: Epoch 2\n"


def test_stop_ends_the_inner_of_two_epochs(m, loss):
    seen = []
    for outer in epochs(2):
        for inner in epochs(3):
            seen.append((outer, inner))
            train(loss, [batch()], SGD(0.1), cb=stop if inner == 2 else None)

    assert seen == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_stop_outside_of_train_ends_epochs_that_are_called():
    calls = []

    epochs(3, lambda: (calls.append(1), stop()))

    assert calls == [1]


def test_epochs_that_are_left_are_over(m, loss):
    for _ in epochs(3):
        break
    seen = []
    for epoch in epochs(2):
        seen.append(epoch)
        train(loss, [batch()], SGD(0.1))

    assert seen == [1, 2]


def test_epochs_go_through_logging_where_it_is_configured(caplog, capsys):
    with caplog.at_level(logging.INFO):
        epochs(2, lambda: None)

    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("fluxkeras", "INFO", "Epoch 1"),
        ("fluxkeras", "INFO", "Epoch 2"),
    ]
    assert capsys.readouterr().out == ""


def test_epochs_can_be_silenced_through_logging(caplog, capsys):
    with caplog.at_level(logging.WARNING, logger="fluxkeras"):
        epochs(2, lambda: None)

    assert (caplog.records, capsys.readouterr().out) == ([], "")


def test_epochs_are_silent_where_logging_is_off(capsys):
    logging.disable()
    try:
        epochs(2, lambda: None)
    finally:
        logging.disable(logging.NOTSET)

    assert capsys.readouterr().out == ""


def test_epochs_take_a_number_of_numpys(capsys):
    assert list(epochs(np.int64(2))) == [1, 2]


@pytest.mark.parametrize("n", [-1, 2.0, "3", None])
def test_epochs_of_an_odd_number_are_refused_at_once(n):
    with pytest.raises(ValueError, match="epochs expects how many times, a whole number from 0"):
        epochs(n)


def test_epochs_of_no_function_are_refused():
    with pytest.raises(TypeError, match="epochs expects a function to call, got 3"):
        epochs(2, 3)


# --- Progress -------------------------------------------------------------------------------------


def test_progress_is_a_line_where_output_is_no_terminal(m, loss, capsys):
    train(loss, repeated(batch(), 3), SGD(0.1))

    assert re.fullmatch(r"step 3/3 - \d+\.\ds - loss: [\d.e-]+\n", capsys.readouterr().out)


@pytest.mark.parametrize("stream", [None, "without isatty"])
def test_progress_goes_without_a_proper_output(m, loss, stream, monkeypatch):
    class Writer:
        def write(self, text):
            return len(text)

        def flush(self):
            pass

    with contextlib.redirect_stdout(Writer() if stream else None):
        history = train(loss, repeated(batch(), 3), SGD(0.1), cb=lambda: print("here"))

    assert len(history) == 3


def test_threads_train_at_the_same_time_and_leave_the_output_alone():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def one(_):
        model = Chain(Dense(4, 2))
        return len(train(lambda x, y: mse(model(x), y), [batch()] * 20, SGD(0.1), cb=lambda: None))

    with contextlib.redirect_stdout(Terminal()) as terminal, ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(one, range(4)))
        assert sys.stdout is terminal

    assert lengths == [20] * 4


def test_progress_can_be_turned_off(m, loss, capsys):
    train(loss, repeated(batch(), 3), SGD(0.1), progress=False)

    assert capsys.readouterr().out == ""


# --- Bad input: one clear error each, and the model as it was -------------------------------------


def assert_refused(error, message, train_it, *models):
    before = [model.get_weights() for model in models]
    with pytest.raises(error, match=message) as caught:
        train_it()
    for model, expected in zip(models, before, strict=True):
        weights_are(model, expected)
    return caught.value


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda v: None, TypeError, r"^batch 0 \(.*\): the objective must return a number"),
        (
            lambda v: v,
            ValueError,
            r"^batch 0 \(.*\): .* returned a tensor of shape \(8, 2\)\. Reduce",
        ),
    ],
)
def test_an_objective_that_returns_no_scalar(m, returned, error, message):
    loss = lambda x, y: returned(m(x) - y)  # noqa: E731

    assert_refused(error, message, lambda: train(loss, [batch()], SGD(0.1)), m)


def test_an_objective_that_reads_no_trainable_variable(m):
    m.trainable = False
    message = (
        r"^batch 0 .*: the objective reads no trainable variable, so there is nothing to train\."
    )

    assert_refused(
        ValueError, message, lambda: train(lambda x, y: mse(m(x), y), [batch()], ADAM()), m
    )


@pytest.mark.parametrize("data", [[], zip(), tf.data.Dataset.range(0)])
def test_data_that_is_empty(m, loss, data):
    assert_refused(ValueError, "train got no batch", lambda: train(loss, data, SGD(0.1)), m)


def test_data_that_is_exhausted_in_the_second_epoch(m, loss):
    data = zip(*batch(), strict=True)
    train(loss, data, SGD(0.1))

    assert_refused(
        ValueError,
        "this zip is exhausted, since a zip can be",
        lambda: train(loss, data, SGD(0.1)),
        m,
    )


@pytest.mark.parametrize("seventeenth", [(8, 3), (8, 5), (2, 4, 3), (3,)])
def test_a_batch_of_the_wrong_shape(m, loss, seventeenth):
    data = [batch()] * 17 + [(np.ones(seventeenth), np.ones((8, 2)))] + [batch()] * 3
    steps = []

    message = (
        f"batch 17 (float64 {seventeenth}, float64 (8, 2)): Dense(4 => 8, tanh) expects inputs of "
        f"shape (..., 4), got {seventeenth}. (layer 0 of {m.name})"
    )

    error = assert_refused(
        ShapeError,
        f"^{re.escape(message)}$",
        lambda: train(loss, data, SGD(0.1), cb=lambda s: steps.append(m.get_weights())),
    )

    assert len(steps) == len(error.history) == 17
    weights_are(m, steps[-1])


def test_a_batch_of_the_wrong_shape_for_a_layer_of_keras():
    model = keras.Sequential([keras.layers.Dense(8, name="first"), keras.layers.Dense(2)])
    data = [batch()] * 17 + [(np.ones((8, 3)), np.ones((8, 2)))]

    error = assert_refused(
        ValueError,
        r"^batch 17 \(.*\): Input 0.* of layer .?first.? is incompatible",
        lambda: train(lambda x, y: mse(model(x), y), data, SGD(0.1)),
    )

    assert "value 4" in str(error) and "(8, 3)" in str(error)


def test_a_target_of_the_wrong_shape(m, loss):
    data = [batch(), (np.ones((8, 4)), np.ones((8, 3)))]

    assert_refused(
        ShapeError, r"^batch 1 \(.*\): mse expects .* same shape, got \(8, 2\) and \(8, 3\)",
        lambda: train(loss, data, SGD(0.1)),
    )  # fmt: skip


def test_parameters_of_another_model_than_the_objective_reads(m, loss):
    other = Chain(Dense(4, 2, name="stranger"))
    before, others_before = m.get_weights(), other.get_weights()

    with pytest.warns(
        UserWarning, match=r"stranger/kernel \(4, 2\), stranger/bias \(2,\)"
    ) as caught:
        train(loss, [batch()], SGD(params(other), 0.1))

    assert caught[0].filename == __file__
    weights_are(m, before)
    weights_are(other, others_before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(m, loss, bad):
    x, y = batch()
    data = [(x, y)] * 4 + [(x, y * bad)] + [(x, y)]
    steps = []

    error = assert_refused(
        NonFiniteError,
        rf"^batch 4 \(float64 \(8, 4\), float64 \(8, 2\)\): the loss is {bad}\. That",
        lambda: train(loss, data, ADAM(), cb=lambda: steps.append(m.get_weights())),
    )

    assert len(steps) == len(error.history) == 4
    weights_are(m, steps[-1])


def test_a_batch_that_is_not_in_a_collection(m, loss):
    assert_refused(
        TypeError, r"Data is a collection of batches: \[\(x, y\)\], not \(x, y\)\.",
        lambda: train(loss, batch(), SGD(0.1)), m,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"train takes \(loss, data, opt\) or \(loss, model, data, opt\), got 1 arguments"),
        (([], "adam"), "train expects an optimiser, such as ADAM(), as its last argument, got str"),
        (
            ([], [ADAM(), 3]),
            "train expects an optimiser, such as ADAM(), as its last argument, got int",
        ),
    ],
)
def test_arguments_that_do_not_fit(loss, arguments, message):
    with pytest.raises(TypeError, match=message.replace("ADAM()", r"ADAM\(\)")):
        train(loss, *arguments)


def test_no_optimiser_at_all(loss):
    with pytest.raises(ValueError, match="train got no optimiser"):
        train(loss, [batch()], [])


@pytest.mark.parametrize("place", ["data", "cb", "objective"])
def test_an_error_of_the_users_keeps_its_type_and_traceback(m, place):
    class Fault(Exception):
        pass

    def fail(*_):
        raise Fault("my own words")

    def data():
        yield batch()
        yield from iter(fail, None) if place == "data" else [batch()]

    def loss(x, y):
        return fail() if place == "objective" else mse(m(x), y)

    with pytest.raises(Fault, match="my own words") as caught:
        train(loss, data(), SGD(0.1), cb=fail if place == "cb" else None)

    assert caught.traceback[-1].name == "fail"
    assert len(caught.value.history) == {"data": 1, "cb": 1, "objective": 0}[place]


def test_an_interrupt_leaves_a_whole_step(m, loss):
    weights = []

    def interrupt(state):
        weights.append(m.get_weights())
        if state.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(loss, repeated(batch()), SGD(0.1), cb=interrupt)

    assert len(caught.value.history) == 3
    weights_are(m, weights[-1])


def test_a_single_step_returns_what_the_objective_did_before_the_update():
    w = param(3.0)
    step = trainstep(lambda w, x: ((w * x) ** 2, {"x": x}), w, (2.0,), SGD([w], 0.1))
    assert step[0] == 36.0
    assert step[1]["x"] == 2.0
    np.testing.assert_allclose(w.numpy(), 3.0 - 0.1 * 2 * 3.0 * 4, rtol=1e-6)
    loss = trainstep(lambda x: (w * x) ** 2, (1.0,), SGD([w], 0.1))
    np.testing.assert_allclose(loss, (3.0 - 2.4) ** 2, rtol=1e-5)


def test_a_single_step_of_a_loss_that_is_not_finite_changes_nothing():
    w = param(3.0)
    assert np.isinf(trainstep(lambda x: w / x, (0.0,), SGD([w], 0.1)))
    loss, aux = trainstep(lambda x: (w * x, 2 * x), (np.nan,), SGD([w], 0.1))
    assert np.isnan(loss) and np.isnan(aux)
    assert w.numpy() == 3.0


def test_a_step_with_its_gradient_is_the_step_and_the_gradient():
    def make():
        keras.utils.set_random_seed(1)
        return Chain(Dense(3, 4, "tanh"), Dense(4, 2, bias=False))

    def loss(m, x, y):
        return mse(m(x), y)

    x, y = np.ones((5, 3), "float32"), np.zeros((5, 2), "float32")
    one, other, opt = make(), make(), [ADAM(0.1), ADAM(0.1)]
    for _ in range(3):
        expected = withgradient(lambda m: loss(m, x, y), one)

        val, grad = trainstep_withgradient(loss, one, (x, y), opt[0])

        np.testing.assert_allclose(val, expected.val, rtol=1e-5)
        for found, wanted in zip(grad, expected.grad[0], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(trainstep(loss, other, (x, y), opt[1]), val, rtol=1e-5)
    for weight, wanted in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:the objective does not read")
def test_a_step_with_its_gradient_returns_what_came_besides():
    w, v = param(3.0), param(1.0)

    val, grad = trainstep_withgradient(lambda x: ((w * x) ** 2, {"x": x}), (2.0,), SGD([v, w], 0.1))

    assert val[0] == 36.0 and val[1] == {"x": 2.0}
    assert grad[0] is None and grad[1] == 2 * 3.0 * 4  # 2 w x²
    np.testing.assert_allclose(w.numpy(), 3.0 - 2.4, rtol=1e-6)


def test_a_step_with_its_gradient_finds_the_variables_and_keeps_them_from_what_is_not_finite():
    w = param(3.0)

    val, (grad,) = trainstep_withgradient(tf.function(lambda x: w / x), (0.0,), SGD(0.1))

    assert np.isinf(val) and np.isinf(grad) and w.numpy() == 3.0
    with pytest.raises(TypeError, match=r"^trainstep_withgradient takes \(loss, batch, opt\) or"):
        trainstep_withgradient(lambda x: w * x)
