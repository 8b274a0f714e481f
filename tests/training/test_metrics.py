"""Keras's metrics in an objective: their state is that of the step, in any form."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import SGD, Chain, Dense, epochs, evaluate, logitcrossentropy, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 8, 4)).astype("float32")
Y = RNG.integers(3, size=(7, 8))
DATA = list(zip(X, Y, strict=True))
UNEVEN = [*DATA[:4], (X[4][:3], Y[4][:3])]

FORMS = pytest.mark.parametrize("form", ["single", "graph", "xla"])


def objective(m, metric, is_called=True):
    def loss(x, y):
        logits = m(x)
        if is_called:
            value = metric(y, logits)
        else:
            metric.update_state(y, logits)
            value = metric.result()
        return logitcrossentropy(logits, tf.one_hot(y, 3)), {"acc": value}

    return loss


def running(m, data=DATA):
    """The accuracy of all samples up to each step, of a model that does not change."""
    right = [np.argmax(m(x), -1) == y for x, y in data]
    return [np.mean(np.concatenate(right[: i + 1])) for i in range(len(right))]


@FORMS
@pytest.mark.parametrize("is_called", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_metric_is_right_at_any_chunk_length(form, is_called, chunk):
    m = Chain(Dense(4, 3))
    metric = keras.metrics.SparseCategoricalAccuracy()

    loss = objective(m, metric, is_called)
    history = train(loss, DATA, SGD(0.0), form=form, chunk=chunk, progress=False)

    np.testing.assert_allclose(history["acc"], running(m), rtol=1e-6)
    np.testing.assert_allclose(metric.result(), running(m)[-1], rtol=1e-6)


def told(m):
    """The same objective, for a metric given to `train` by name."""

    def loss(x, y):
        logits = m(x)
        return logitcrossentropy(logits, tf.one_hot(y, 3)), {"acc": (y, logits), "two": 2.0}

    return loss


@FORMS
@pytest.mark.parametrize("chunk", [1, 3])
def test_metrics_are_given_by_name(form, chunk):
    m, kept, opt = Chain(Dense(4, 3)), keras.callbacks.History(), SGD(0.0)
    metrics = {"acc": keras.metrics.SparseCategoricalAccuracy()}

    for _ in epochs(2):
        history = train(
            told(m), DATA, opt, metrics=metrics, cb=kept, form=form, chunk=chunk, progress=False
        )

    np.testing.assert_allclose(history["acc"], running(m), rtol=1e-6)
    assert set(history.to_dict()) == {"loss", "acc", "two"}
    np.testing.assert_allclose(kept.history["acc"], [running(m)[-1]] * 2, rtol=1e-6)
    _, found = evaluate(told(m), UNEVEN, metrics=metrics)
    assert found == {"acc": pytest.approx(running(m, UNEVEN)[-1]), "two": 2.0}
    np.testing.assert_allclose(metrics["acc"].result(), running(m)[-1], rtol=1e-6)


def test_a_mean_is_given_one_value():
    loss = lambda m, x, y: (tf.reduce_mean(m(x)), {"mean": m(x)})  # noqa: E731
    m = Chain(Dense(4, 3))

    _, found = evaluate(loss, m, UNEVEN, metrics={"mean": keras.metrics.Mean()})

    expected = np.mean(np.concatenate([m(x) for x, _ in UNEVEN]))
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5)


def test_metrics_are_compiled_once():
    m, opt, traces = Chain(Dense(4, 3)), SGD(0.0), itertools.count()
    objective = told(m)

    def loss(x, y):
        next(traces)
        return objective(x, y)

    metrics = {"acc": keras.metrics.SparseCategoricalAccuracy()}
    for _ in range(3):
        train(loss, DATA, opt, metrics=metrics, progress=False)

    assert next(traces) == 1


def test_any_callable_is_measured():
    m, metrics = Chain(Dense(4, 3)), {"acc": keras.metrics.SparseCategoricalAccuracy()}
    loss = functools.partial(lambda m, x, y: told(m)(x, y), m)

    for _ in range(2):
        history = train(loss, DATA, SGD(0.0), metrics=metrics, progress=False)
        np.testing.assert_allclose(history["acc"], running(m), rtol=1e-6)
    with pytest.raises(TypeError, match=r"the objective takes \(x, y\), and this batch is 1 argu"):
        train(told(m), [X[0]], SGD(0.0), metrics=metrics, progress=False)


def test_metrics_that_do_not_fit_are_refused():
    loss, opt = told(Chain(Dense(4, 3))), SGD(0.0)
    with pytest.raises(TypeError, match=r"metrics are expected as a dict of Keras's metrics by na"):
        train(loss, DATA, opt, metrics=["accuracy"], progress=False)
    message = r"the metric 'f1' is .* returned no such value: return loss, \{'f1': \(y, y_hat\)\}\."
    with pytest.raises(ValueError, match=message):
        evaluate(loss, DATA, metrics={"f1": keras.metrics.F1Score()})


@FORMS
def test_each_call_of_train_begins_anew(form):
    m = Chain(Dense(4, 3))
    loss, opt = objective(m, keras.metrics.SparseCategoricalAccuracy()), SGD(0.0)

    histories = [train(loss, DATA, opt, form=form, chunk=3, progress=False) for _ in range(2)]

    for history in histories:
        np.testing.assert_allclose(history["acc"], running(m), rtol=1e-6)


@FORMS
def test_a_step_that_is_left_out_is_not_counted(form):
    m = Chain(Dense(4, 3))
    metric = keras.metrics.SparseCategoricalAccuracy()
    bad = np.full_like(X[0], np.nan), Y[0]
    options = {"form": form, "chunk": 3, "on_nonfinite": "skip", "progress": False}

    with pytest.warns(UserWarning, match="train skips batch 4"):
        train(objective(m, metric), [*DATA[:4], bad, *DATA[4:]], SGD(0.0), **options)

    np.testing.assert_allclose(metric.result(), running(m)[-1], rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.metrics.Mean(),
        lambda: keras.metrics.AUC(num_thresholds=20),
        lambda: keras.metrics.MeanIoU(2),
        lambda: keras.metrics.Precision(),
        lambda: keras.metrics.F1Score(),
        lambda: keras.metrics.RootMeanSquaredError(),
    ],
    ids=["Mean", "AUC", "MeanIoU", "Precision", "F1Score", "RootMeanSquaredError"],
)
@FORMS
def test_other_metrics_have_what_they_have_outside(make, form):
    m, metric, outside = Chain(Dense(4, 1, "sigmoid")), make(), make()
    data = [(x, (y > 0).astype("float32")[:, np.newaxis]) for x, y in DATA]

    def loss(x, y):
        y_hat = m(x)
        arguments = (y_hat,) if type(metric) is keras.metrics.Mean else (y, y_hat)
        rounded = [tf.round(a) for a in arguments]
        metric.update_state(*(rounded if isinstance(metric, keras.metrics.MeanIoU) else arguments))
        return tf.reduce_mean((y_hat - y) ** 2)

    train(loss, data, SGD(0.0), form=form, chunk=3, progress=False)

    for x, y in data:
        y_hat = m(x)
        arguments = (y_hat,) if type(metric) is keras.metrics.Mean else (y, y_hat)
        rounded = [tf.round(a) for a in arguments]
        outside.update_state(*(rounded if isinstance(metric, keras.metrics.MeanIoU) else arguments))
    np.testing.assert_allclose(metric.result(), outside.result(), rtol=1e-5)


def test_the_log_of_an_epoch_has_what_a_metric_has_come_to():
    m = Chain(Dense(4, 3))
    metric = keras.metrics.SparseCategoricalAccuracy(name="acc")
    kept, loss, opt = keras.callbacks.History(), objective(m, metric), SGD(0.0)

    for _ in epochs(2):
        train(loss, DATA, opt, cb=kept, form="graph", chunk=3, progress=False)

    np.testing.assert_allclose(kept.history["acc"], [running(m)[-1]] * 2, rtol=1e-6)


# --- evaluate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_called", [True, False])
def test_a_metric_is_that_of_all_samples_and_as_it_was_afterwards(is_called):
    m = Chain(Dense(4, 3))
    metric = keras.metrics.SparseCategoricalAccuracy()
    loss = objective(m, metric, is_called)
    train(loss, DATA[:2], SGD(0.0), progress=False)
    before = [np.array(v) for v in metric.variables]

    (_, first), (_, second) = evaluate(loss, UNEVEN), evaluate(loss, UNEVEN)

    np.testing.assert_allclose(first["acc"], running(m, UNEVEN)[-1], rtol=1e-6)
    assert first == second
    for now, then in zip(metric.variables, before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    "make", [lambda: keras.metrics.AUC(num_thresholds=20), lambda: keras.metrics.F1Score()]
)
def test_a_metric_that_is_no_mean_is_evaluated(make):
    m, metric, outside = Chain(Dense(4, 1, "sigmoid")), make(), make()
    data = [(x, (y > 0).astype("float32")[:, np.newaxis]) for x, y in UNEVEN]

    def loss(x, y):
        squares = (m(x) - y) ** 2
        return tf.reduce_mean(squares), {"metric": metric(y, m(x)), "most": tf.reduce_max(squares)}

    for x, y in data:
        outside.update_state(y, m(x))
    each = [np.max((m(x) - y) ** 2) for x, y in data]

    for _ in range(2):
        _, found = evaluate(loss, data)
        np.testing.assert_allclose(found["metric"], outside.result(), rtol=1e-6)
        np.testing.assert_allclose(found["most"], np.average(each, weights=[8] * 4 + [3]), 1e-6)
