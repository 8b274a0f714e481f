"""The losses against formulas in NumPy, written after Flux's documentation."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import basic_losses
from fluxkeras.basic_losses import (
    binarycrossentropy,
    crossentropy,
    huber_loss,
    logitbinarycrossentropy,
    logitcrossentropy,
    mae,
    mse,
)
from fluxkeras.checks import ShapeError

EPSILON = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}
EPS = EPSILON["float64"]


def xlogy(x, y):
    return np.where(x == 0, 0.0, x * np.log(np.where(x == 0, 1.0, y)))


def np_logsoftmax(x, axis=-1):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def np_binarycrossentropy(ŷ, y, eps=EPS):
    return -xlogy(y, ŷ + eps) - xlogy(1 - y, 1 - ŷ + eps)


ELEMENTWISE = {
    "mse": lambda ŷ, y: (ŷ - y) ** 2,
    "mae": lambda ŷ, y: np.abs(ŷ - y),
    "msle": lambda ŷ, y: np.log((ŷ + EPS) / (y + EPS)) ** 2,
    "huber_loss": lambda ŷ, y: np.where(abs(ŷ - y) < 1, (ŷ - y) ** 2 / 2, abs(ŷ - y) - 1 / 2),
    "poisson_loss": lambda ŷ, y: ŷ - xlogy(y, ŷ),
    "crossentropy": lambda ŷ, y: -xlogy(y, ŷ + EPS).sum(-1),
    "logitcrossentropy": lambda ŷ, y: -(y * np_logsoftmax(ŷ)).sum(-1),
    "binarycrossentropy": np_binarycrossentropy,
    "logitbinarycrossentropy": lambda ŷ, y: (1 - y) * ŷ + np.logaddexp(0, -ŷ),
}
EVERY = pytest.mark.parametrize("name", ELEMENTWISE)

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(5, 3))
PROBABILITIES = np.exp(np_logsoftmax(LOGITS))
LABELS = np.vstack([np.eye(3), [[0.2, 0.3, 0.5], [1, 0, 0]]])


def case(name):
    """The loss called `name`, its formula in NumPy, and a batch for them."""
    positive = ("crossentropy", "binarycrossentropy", "msle", "poisson_loss")
    ŷ = PROBABILITIES if name in positive else LOGITS
    y = LABELS + 0.5 if name == "msle" else LABELS
    return getattr(basic_losses, name), ELEMENTWISE[name], ŷ, y


def gradient(function, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def test_the_table_names_every_public_loss():
    assert sorted(ELEMENTWISE) == sorted(basic_losses.__all__)


@pytest.mark.parametrize(
    ("agg", "expected"),
    [
        (None, np.mean),
        (tf.reduce_mean, np.mean),
        (tf.reduce_sum, np.sum),
        (keras.ops.sum, np.sum),
        (keras.ops.max, np.max),
        (lambda losses: losses, lambda losses: losses),
        (lambda losses: tf.reduce_mean(losses[1:]), lambda losses: losses[1:].mean()),
    ],
    ids=["default", "mean", "sum", "Keras's sum", "max", "identity", "of a part"],
)
@EVERY
def test_values_are_those_of_the_formula_for_every_aggregation(name, agg, expected):
    loss, formula, ŷ, y = case(name)
    result = loss(ŷ, y) if agg is None else loss(ŷ, y, agg=agg)
    assert result.dtype == "float64"
    np.testing.assert_allclose(result, expected(formula(ŷ, y)), rtol=1e-12)


@EVERY
def test_weights_go_through_the_aggregation(name):
    loss, formula, ŷ, y = case(name)
    expected = formula(ŷ, y)
    w = rng.uniform(size=expected.shape)
    result = loss(ŷ, y, agg=lambda losses: tf.reduce_sum(w * losses) / w.sum())
    np.testing.assert_allclose(result, np.average(expected, weights=w), rtol=1e-12)


@EVERY
def test_gradients_are_those_of_the_formula(name):
    loss, formula, ŷ, y = case(name)
    expected, h = np.zeros_like(ŷ), 1e-6
    for i in np.ndindex(ŷ.shape):
        step = np.zeros_like(ŷ)
        step[i] = h
        expected[i] = (formula(ŷ + step, y).mean() - formula(ŷ - step, y).mean()) / (2 * h)
    result = gradient(lambda ŷ: loss(ŷ, y), ŷ)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@EVERY
def test_a_compiled_loss_has_the_eager_value_and_gradient(name, jit):
    loss, _, ŷ, y = case(name)
    ŷ, y = np.float32(ŷ), np.float32(y)

    @tf.function(jit_compile=jit)
    def compiled(ŷ, y):
        with tf.GradientTape() as tape:
            tape.watch(ŷ)
            value = loss(ŷ, y)
        return value, tape.gradient(value, ŷ)

    value, slope = compiled(tf.constant(ŷ), tf.constant(y))
    np.testing.assert_allclose(value, loss(ŷ, y), rtol=1e-5)
    np.testing.assert_allclose(slope, gradient(lambda ŷ: loss(ŷ, y), ŷ), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", EPSILON)
@EVERY
def test_the_dtype_is_that_of_the_predictions(name, dtype):
    loss, formula, ŷ, y = case(name)
    tolerance = 20 * EPSILON[dtype]
    for targets in (y, y.astype("float32"), tf.cast(y, "bfloat16"), y.tolist()):
        result = loss(tf.cast(ŷ, dtype), targets)
        assert result.dtype == dtype
        rounding = 0.01 if targets is not y and tf.is_tensor(targets) else 1e-6
        expected = formula(ŷ, y).mean()
        np.testing.assert_allclose(float(result), expected, rtol=max(tolerance, rounding))


@EVERY
def test_integer_and_boolean_targets_are_numbers(name):
    loss, _, ŷ, _ = case(name)
    expected = loss(ŷ[:3], np.eye(3))
    for y in (np.eye(3, dtype=int), np.eye(3, dtype=bool), np.eye(3, dtype=bool).tolist()):
        np.testing.assert_array_equal(loss(ŷ[:3], y), expected)


@EVERY
def test_lists_and_integers_become_the_default_dtype(name):
    loss, formula, _, _ = case(name)
    for ŷ in ([[0, 1]], [[0.0, 1.0]], ((False, True),), np.array([[0, 1]])):
        result = loss(ŷ, [[0, 1]])
        assert result.dtype == "float32"
        expected = formula(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])).mean()
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if "tcross" not in name])
def test_targets_in_lists_keep_the_precision_of_the_predictions(name):
    loss, formula, ŷ, _ = case(name)
    result = loss(ŷ, np.full(ŷ.shape, 0.1).tolist())
    np.testing.assert_allclose(result, formula(ŷ, 0.1).mean(), rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (4,), (4, 1), (2, 3, 4), (2, 2, 3, 4)])
@EVERY
def test_any_shape_will_do(name, shape):
    loss, formula, _, _ = case(name)
    if "binary" not in name and "crossentropy" in name:
        shape = (*shape, 3)
    ŷ, y = rng.uniform(size=shape), rng.uniform(size=shape)
    np.testing.assert_allclose(loss(ŷ, y), formula(ŷ, y).mean(), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) - {"crossentropy", "logitcrossentropy"}))
def test_one_number_is_the_target_of_all_where_there_are_no_classes(name):
    loss, formula, ŷ, _ = case(name)
    for y in (1, 0.0, True, np.array(1), np.float32(0.5), tf.constant(0)):
        np.testing.assert_allclose(loss(ŷ, y), formula(ŷ, float(y)).mean(), rtol=1e-12)


def test_complex_errors_are_measured_by_their_absolute_value():
    ŷ, y = rng.normal(size=(2, 4)) + 1j * rng.normal(size=(2, 4))
    for loss, expected in ((mse, np.abs(ŷ - y) ** 2), (mae, np.abs(ŷ - y))):
        assert loss(ŷ, y).dtype == "float64"
        assert loss(ŷ.astype("complex64"), y).dtype == "float32"
        np.testing.assert_allclose(loss(ŷ, y), expected.mean(), rtol=1e-12)
        np.testing.assert_allclose(loss(ŷ, y.real), loss(ŷ, y.real + 0j), rtol=1e-12)
    np.testing.assert_allclose(gradient(lambda ŷ: mse(ŷ, y), ŷ), 2 * (ŷ - y) / 4, rtol=1e-12)
    np.testing.assert_array_equal(gradient(lambda ŷ: mae(ŷ, y), y), 0)


@pytest.mark.parametrize("loss", [crossentropy, logitcrossentropy])
@pytest.mark.parametrize("dims", [0, 1, 2, -2, (0, 2), (1, -1)])
def test_classes_may_be_along_any_axes(loss, dims):
    ŷ, y = rng.uniform(size=(2, 2, 3, 4))
    logs = np.log(ŷ + EPS)
    if loss is logitcrossentropy:
        logs = ŷ - np.log(np.exp(ŷ).sum(dims, keepdims=True))
    result = loss(ŷ, y, dims=dims, agg=lambda losses: losses)
    np.testing.assert_allclose(result, -(y * logs).sum(dims), rtol=1e-12)


def test_several_class_axes_may_go_with_an_open_batch():
    ŷ, y = np.float32(rng.uniform(size=(2, 5, 3, 4)))
    function = tf.function(lambda ŷ, y: logitcrossentropy(ŷ, y, dims=(1, -1)))
    specs = [tf.TensorSpec((None, 3, None))] * 2
    result = function.get_concrete_function(*specs)(tf.constant(ŷ), tf.constant(y))
    np.testing.assert_allclose(result, logitcrossentropy(ŷ, y, dims=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("dtype", EPSILON)
def test_the_logarithm_is_kept_finite_by_the_machine_epsilon(dtype):
    ŷ, largest = tf.cast([[0.0, 1.0]], dtype), -np.log(EPSILON[dtype])
    np.testing.assert_allclose(float(crossentropy(ŷ, [[1, 0]])), largest, rtol=0.01)
    np.testing.assert_allclose(float(binarycrossentropy(ŷ, [[1, 0]])), largest, rtol=0.01)


@pytest.mark.parametrize("eps", [0.1, 1e-7, np.float64(0.01)])
def test_eps_is_added_to_probabilities(eps):
    expected = -(LABELS * np.log(PROBABILITIES + eps)).sum(-1).mean()
    np.testing.assert_allclose(crossentropy(PROBABILITIES, LABELS, eps=eps), expected, rtol=1e-12)
    expected = np_binarycrossentropy(PROBABILITIES, LABELS, eps).mean()
    result = binarycrossentropy(PROBABILITIES, LABELS, eps=eps)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_without_eps_a_certain_mistake_costs_infinitely_much():
    assert float(crossentropy([0.0, 1.0], [1, 0], eps=0)) == np.inf
    assert float(binarycrossentropy([0.0], [1], eps=0)) == np.inf


def test_nothing_times_the_logarithm_of_nothing_is_nothing():
    assert float(crossentropy([0.0, 1.0], [0, 1], eps=0)) == 0.0
    assert float(binarycrossentropy([0.0, 1.0], [0, 1], eps=0)) == 0.0
    assert np.isfinite(gradient(lambda ŷ: crossentropy(ŷ, [0, 1], eps=0), [0.0, 1.0])).all()


def test_a_masked_class_counts_nothing():
    ŷ = tf.constant([-np.inf, 0.0, 0.0])
    np.testing.assert_allclose(logitcrossentropy(ŷ, [0, 1, 0]), np.log(2), rtol=1e-6)
    slope = gradient(lambda ŷ: logitcrossentropy(ŷ, [0, 1, 0]), ŷ)
    np.testing.assert_allclose(slope, [0.0, -0.5, 0.5], rtol=1e-6)


def test_the_gradient_is_right_for_labels_that_do_not_sum_to_one():
    slope = gradient(lambda ŷ: logitcrossentropy(ŷ, [2.0, 0.0]), np.zeros(2))
    np.testing.assert_allclose(slope, [-1.0, 1.0], rtol=1e-12)


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("loss", [logitcrossentropy, logitbinarycrossentropy])
def test_large_logits_have_finite_losses_and_gradients(loss, dtype):
    ŷ = tf.cast([[-1000, 1000], [1000, -1000], [-100, 100], [0, 0], [100, 100]], dtype)
    y = np.eye(2)[[0, 0, 1, 1, 0]]
    assert np.isfinite(tf.cast(loss(ŷ, y), "float64"))
    assert np.isfinite(tf.cast(gradient(lambda ŷ: loss(ŷ, y), ŷ), "float64")).all()


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("loss", [crossentropy, binarycrossentropy])
def test_certain_predictions_have_finite_losses_and_gradients(loss, dtype):
    ŷ, y = tf.cast([[0, 1], [1, 0]], dtype), [[0, 1], [0, 1]]
    assert np.isfinite(tf.cast(loss(ŷ, y), "float64"))
    assert np.isfinite(tf.cast(gradient(lambda ŷ: loss(ŷ, y), ŷ), "float64")).all()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mse", keras.losses.MeanSquaredError()),
        ("mae", keras.losses.MeanAbsoluteError()),
        ("logitcrossentropy", keras.losses.CategoricalCrossentropy(from_logits=True)),
        ("logitbinarycrossentropy", keras.losses.BinaryCrossentropy(from_logits=True)),
        ("crossentropy", keras.losses.CategoricalCrossentropy()),
        ("binarycrossentropy", keras.losses.BinaryCrossentropy()),
    ],
)
def test_the_loss_is_that_of_keras_with_the_arguments_turned_round(name, theirs):
    loss, _, ŷ, y = case(name)
    np.testing.assert_allclose(loss(np.float32(ŷ), y), theirs(y, np.float32(ŷ)), rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "ŷ", "y", "options", "remedy"),
    [
        (
            mse,
            (32, 10),
            (32, 9),
            {},
            "Make the model's last layer of size 9, or the last axis of y 10.",
        ),
        (
            mse,
            (32, 1),
            (32,),
            {},
            "Write tf.squeeze(y_hat, -1) or tf.expand_dims(y, -1); broadcasting would pair every "
            "prediction with every target.",
        ),
        (
            binarycrossentropy,
            (32,),
            (32, 1),
            {},
            "Write tf.squeeze(y, -1) or tf.expand_dims(y_hat, -1); broadcasting would pair every "
            "prediction with every target.",
        ),
        (mae, (1, 10), (10,), {}, "Write tf.squeeze(y_hat, 0) or tf.expand_dims(y, 0)."),
        (
            mae,
            (4, 1, 5),
            (4, 5),
            {},
            "Write tf.squeeze(y_hat, 1) or tf.expand_dims(y, 1); broadcasting would pair every "
            "prediction with every target.",
        ),
        (
            crossentropy,
            (2, 3),
            (),
            {"dims": (0, 1)},
            "Repeat the number for every prediction: tf.fill(tf.shape(y_hat), y).",
        ),
        (
            mse,
            (10, 32),
            (32, 10),
            {},
            "One has the batch last, as in Flux, but it goes first here: use tf.transpose.",
        ),
        (
            mse,
            (32, 28, 28),
            (32, 784),
            {},
            "If they hold the same values in the same order, tf.reshape one of them.",
        ),
        (logitbinarycrossentropy, (31, 3), (32, 3), {}, "Both must be of the same samples."),
        (
            mse,
            (2, 3, 4),
            (2, 5, 4),
            {},
            "They differ along axis 1: crop, pad or resize one of them.",
        ),
        (
            crossentropy,
            (32, 10),
            (32,),
            {},
            "One-hot encode class numbers: tf.one_hot(y, 10).",
        ),
        (
            logitcrossentropy,
            (32, 10),
            (32, 1),
            {},
            "One-hot encode class numbers: tf.one_hot(tf.squeeze(y, -1), 10).",
        ),
        (logitcrossentropy, (10,), (), {}, "One-hot encode class numbers: tf.one_hot(y, 10)."),
        (
            crossentropy,
            (4, 10, 3),
            (4, 3),
            {"dims": 1},
            "One-hot encode class numbers: tf.one_hot(y, 10, axis=1).",
        ),
        (
            crossentropy,
            (32, 1),
            (32,),
            {},
            "Write tf.squeeze(y_hat, -1) or tf.expand_dims(y, -1); broadcasting would pair every "
            "prediction with every target.",
        ),
        (
            crossentropy,
            (4, 10, 3),
            (4, 30),
            {"dims": (1, 2)},
            "If they hold the same values in the same order, tf.reshape one of them.",
        ),
    ],
)
def test_other_shapes_are_refused_with_a_remedy_before_anything_is_computed(
    loss, ŷ, y, options, remedy
):
    expected = f"{loss.__name__} expects y_hat and y of the same shape, got {ŷ} and {y}. {remedy}"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        loss(np.zeros(ŷ), np.zeros(y), agg=pytest.fail, **options)


@pytest.mark.parametrize(
    ("ŷ", "y", "remedy"),
    [
        ((3, 10), (3,), "y = tf.one_hot(y, 10)"),
        ((3, 10), (3, 1), "y = tf.one_hot(tf.squeeze(y, -1), 10)"),
        ((3, 10, 2), (3, 2), "y = tf.one_hot(y, 10, axis=1)"),
        ((3, 1), (3,), "y = tf.expand_dims(y, -1)"),
        ((3, 1), (3,), "y_hat = tf.squeeze(y_hat, -1)"),
        ((3, 1, 2), (3, 2), "y = tf.expand_dims(y, 1)"),
    ],
)
def test_the_remedies_work(ŷ, y, remedy):
    scope = {"tf": tf, "y_hat": np.ones(ŷ), "y": np.ones(y, int)}
    exec(remedy, scope)
    loss = crossentropy if "one_hot" in remedy else mse
    options = {"dims": 1} if "axis" in remedy else {}
    assert loss(scope["y_hat"], scope["y"], **options).shape == ()


def test_shapes_are_checked_while_tracing_as_far_as_they_are_known():
    def traced(ŷ, y):
        specs = [tf.TensorSpec(ŷ), tf.TensorSpec(y)]
        tf.function(mse, autograph=False).get_concrete_function(*specs)

    traced((None, 10), (None, 10))
    traced((None, 10), (32, None))
    traced(None, (32, 10))
    with pytest.raises(ShapeError, match=re.escape("got (None, 10) and (None, 9). Make")):
        traced((None, 10), (None, 9))
    with pytest.raises(ShapeError, match=re.escape("got (None, 1) and (None,). Write")):
        traced((None, 1), (None,))
    with pytest.raises(ShapeError, match=re.escape("got (None, 10) and (32,). If")):
        traced((None, 10), (32,))


def test_one_hot_remedy_without_a_known_number_of_classes_leaves_it_to_the_reader():
    specs = [tf.TensorSpec((None, None)), tf.TensorSpec((None,), "int32")]
    with pytest.raises(ShapeError, match=re.escape("numbers: tf.one_hot(y, classes).")):
        tf.function(crossentropy, autograph=False).get_concrete_function(*specs)


def test_a_shape_error_is_worded_the_same_under_autograph():
    @tf.function
    def objective(ŷ, y):
        return mse(ŷ, y)

    with pytest.raises(Exception, match=re.escape("got (3, 1) and (3,). Write tf.squeeze(y_hat")):
        objective(tf.ones((3, 1)), tf.ones(3))


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_large_mistakes_count_absolutely_from_delta_on(delta):
    d = np.abs(LOGITS - LABELS)
    expected = np.where(d < delta, d**2 / 2, delta * (d - delta / 2)).mean()
    np.testing.assert_allclose(huber_loss(LOGITS, LABELS, delta=delta), expected)
    with pytest.raises(ValueError, match="huber_loss expects a delta above 0, got 0"):
        huber_loss(LOGITS, LABELS, delta=0)
