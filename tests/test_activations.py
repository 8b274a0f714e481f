"""The activations against formulas in NumPy, written after NNlib's documentation."""

import inspect
import itertools
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import activations
from fluxkeras.activations import (
    celu,
    elu,
    gelu,
    gelu_sigmoid,
    gelu_tanh,
    glu,
    leakyrelu,
    logsoftmax,
    logsumexp,
    rrelu,
    softmax,
    softshrink,
    thresholdrelu,
    trelu,
    σ,
)
from fluxkeras.checks import ShapeError


def np_σ(x):
    return np.exp(-np.logaddexp(0, -x))


def np_elu(x, α=1.0):
    return np.where(x > 0, x, α * np.expm1(np.minimum(x, 0)))


def np_softmax(x, dims=-1):
    e = np.exp(x - x.max(dims, keepdims=True))
    return e / e.sum(dims, keepdims=True)


def np_logsumexp(x, dims=None):
    m = x.max(dims, keepdims=True)
    return np.squeeze(m + np.log(np.exp(x - m).sum(dims, keepdims=True)), dims)


def np_logsoftmax(x, dims=-1):
    return x - np.expand_dims(np_logsumexp(x, dims), dims)


def np_glu(x):
    a, b = np.split(x, 2, axis=-1)
    return a * np_σ(b)


erf = np.vectorize(math.erf, otypes=[float])

ELEMENTWISE = {
    "σ": np_σ,
    "hardσ": lambda x: np.clip((x + 3) / 6, 0, 1),
    "logσ": lambda x: -np.logaddexp(0, -x),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(0, x),
    "relu6": lambda x: np.minimum(np.maximum(0, x), 6),
    "leakyrelu": lambda x: np.maximum(0.01 * x, x),
    "elu": np_elu,
    "selu": lambda x: 1.0507009873554805 * np_elu(x, 1.6732632423543772),
    "celu": lambda x: np.maximum(0, x) + np.minimum(0, np.expm1(np.minimum(x, 0))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_sigmoid": lambda x: x * np_σ(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)),
    "gelu_erf": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "swish": lambda x: x * np_σ(x),
    "hardswish": lambda x: x * np.clip((x + 3) / 6, 0, 1),
    "lisht": lambda x: x * np.tanh(x),
    "trelu": lambda x: np.where(x > 1, x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "logcosh": lambda x: np.logaddexp(x, -x) - math.log(2),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "tanhshrink": lambda x: x - np.tanh(x),
    "softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
}
ALONG_AN_AXIS = {
    "glu": np_glu,
    "softmax": np_softmax,
    "logsoftmax": np_logsoftmax,
    "logsumexp": np_logsumexp,
}
DETERMINISTIC = ELEMENTWISE | ALONG_AN_AXIS
EVERY = [*DETERMINISTIC, "rrelu"]
SAME_SHAPE = [name for name in EVERY if name not in ("glu", "logsumexp")]
ALIASES = {
    "sigmoid": "σ",
    "sigmoid_fast": "σ",
    "hardsigmoid": "hardσ",
    "logsigmoid": "logσ",
    "tanh_fast": "tanh",
    "gelu": "gelu_tanh",
    "thresholdrelu": "trelu",
}
DTYPES = ["bfloat16", "float16", "float32", "float64"]
POINTS = np.array([[-7.2, -3.4, -1.7, -0.6, -0.2], [0.1, 0.7, 1.3, 2.6, 4.8], [6.4, 9, 0, -9, 3.3]])
POINTS = np.hstack([POINTS, POINTS[:, :1] + 0.05])  # an even last axis, for glu
KINKS = np.array([[-3.0, -1.0, -0.5, 0.5, 1.0, 6.0]])
EXTREMES = np.array([[-1000.0, -100.0, 0.0, 0.0, 100.0, 1000.0]])


def named(name):
    return getattr(activations, name)


def gradient(function, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


def differences(function, x, h=1e-6):
    """The gradient of the sum of `function(x)`, by central differences."""
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        result[i] = (function(x + step) - function(x - step)).sum() / (2 * h)
    return result


def finite(x):
    return np.isfinite(tf.cast(x, "float64")).all()


def test_the_tables_name_every_public_function():
    assert sorted([*EVERY, *ALIASES]) == sorted(activations.__all__)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_the_function(alias, name):
    assert named(alias) is named(name)


@pytest.mark.parametrize("name", EVERY)
def test_a_function_keeps_its_name_and_has_an_example(name):
    assert named(name).__name__ == name
    assert next(iter(inspect.signature(named(name)).parameters)) == "x"
    assert ">>>" in named(name).__doc__


@pytest.mark.parametrize(("name", "formula"), DETERMINISTIC.items())
def test_values_are_those_of_the_formula(name, formula):
    result = named(name)(POINTS)
    assert result.dtype == "float64"
    np.testing.assert_allclose(result, formula(POINTS), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "formula"), DETERMINISTIC.items())
def test_gradients_are_those_of_the_formula(name, formula):
    x = np.where(POINTS == 0, 0.05, POINTS)  # away from the kinks
    weights = np.random.default_rng(0).normal(size=formula(x).shape)
    result = gradient(lambda x: tf.reduce_sum(weights * named(name)(x)), x)
    expected = differences(lambda x: weights * formula(x), x)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "formula"), ELEMENTWISE.items())
def test_the_gradient_at_zero_lies_between_those_to_the_left_and_the_right(name, formula):
    left, centre, right = formula(np.array([-1e-7, 0.0, 1e-7]))
    sides = sorted([(centre - left) / 1e-7, (right - centre) / 1e-7])
    assert sides[0] - 1e-6 <= gradient(named(name), np.float64(0)) <= sides[1] + 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "formula"), DETERMINISTIC.items())
def test_values_at_large_inputs_are_those_of_the_formula(name, formula, dtype):
    result = named(name)(EXTREMES.astype(dtype))
    np.testing.assert_allclose(result, formula(EXTREMES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_values_and_gradients_at_large_inputs_are_finite_in_every_dtype(name):
    for dtype in DTYPES:
        x = tf.cast(EXTREMES, dtype)
        result = named(name)(x)
        assert result.dtype == dtype
        assert finite(result)
        assert finite(gradient(named(name), x))


@pytest.mark.parametrize("name", [name for name in EVERY if name != "trelu"])
def test_nan_stays_nan(name):
    assert np.isnan(named(name)(np.full((2, 2), np.nan))).all()


@pytest.mark.parametrize("name", EVERY)
def test_lists_integers_and_variables_become_tensors_of_the_default_dtype(name):
    for x in (
        [[1.0, 2.0]],
        ((1, 2),),
        [np.array([1.0, 2.0])],
        np.array([[1, 2]]),
        np.array([[1, 2]], "uint8"),
        tf.constant([[1, 2]]),
        tf.Variable([[1.0, 2.0]]),
        keras.Variable([[1.0, 2.0]]),
    ):
        result = named(name)(x)
        assert tf.is_tensor(result)
        assert result.dtype == keras.config.floatx()
        if name != "rrelu":
            expected = DETERMINISTIC[name](np.array([[1.0, 2.0]]))
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*ELEMENTWISE, "rrelu", "logsumexp"])
def test_a_number_becomes_a_tensor_without_axes(name):
    for x in (1, 1.0, True, np.array(1), np.float32(1), tf.constant(1.0)):
        result = named(name)(x)
        assert result.shape == ()
        assert result.dtype == "float32"
        if name != "rrelu":
            np.testing.assert_allclose(result, DETERMINISTIC[name](np.array(1.0)), atol=1e-6)


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_the_shape_stays(name):
    for shape in ((4,), (3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4)):
        assert named(name)(np.ones(shape)).shape == shape


def test_numbers_follow_a_changed_default_dtype():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        assert σ(1).dtype == "float64"
        np.testing.assert_allclose(σ(0.1), np_σ(0.1), rtol=1e-15)
    finally:
        keras.config.set_floatx(before)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_compiled_functions_give_the_eager_values_and_gradients(jit):
    x = tf.constant(np.vstack([POINTS, KINKS]), "float32")

    def all_of_them(x):
        results = {}
        for name in DETERMINISTIC:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = named(name)(x)
            results[name] = y, tape.gradient(y, x)
        return results

    # One function for all, because compiling takes the time.
    compiled = tf.function(all_of_them, jit_compile=jit)(x)
    for name, eager in all_of_them(x).items():
        for result, expected in zip(compiled[name], eager, strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5, err_msg=name)


# Keras 3.10 warns of every model that is rebuilt and called on one tensor.
@pytest.mark.filterwarnings("ignore:The structure of `inputs`", "ignore:Exception encountered")
@pytest.mark.parametrize("name", EVERY)
def test_symbolic_tensors_make_a_model_that_is_rebuilt_from_its_config(name):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, named(name)(inputs))
    x = np.abs(POINTS).astype("float32")  # where rrelu is not random
    np.testing.assert_allclose(model(x), named(name)(x), rtol=1e-6)
    rebuilt = keras.Model.from_config(model.get_config())
    np.testing.assert_allclose(rebuilt(x), model(x), rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_symbolic_tensor_keeps_its_floating_point_dtype(name):
    for given, expected in {"float16": "float16", "float64": "float64", "int32": "float32"}.items():
        assert named(name)(keras.Input((6,), dtype=given)).dtype == expected


@pytest.mark.parametrize("name", EVERY)
def test_a_function_is_restored_from_its_serialised_form(name):
    form = keras.saving.serialize_keras_object(named(name))
    restored = keras.saving.deserialize_keras_object(form)
    # Keras before 3.6 takes a function that bears the name of one of its own for that one.
    assert restored is named(name) or restored is getattr(keras.activations, name)
    if name != "rrelu":
        np.testing.assert_allclose(restored(tf.constant(POINTS)), named(name)(POINTS), rtol=1e-12)


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_a_keras_layer_with_the_activation_is_restored_from_its_config(name):
    layer = keras.layers.Dense(3, activation=named(name))
    restored = keras.layers.Dense.from_config(layer.get_config()).activation
    x = np.abs(POINTS)
    np.testing.assert_allclose(restored(tf.constant(x)), named(name)(x), rtol=1e-12)


def test_a_saved_model_is_loaded_with_its_activations(tmp_path):
    names = [name for name in SAME_SHAPE if name != "rrelu"]
    model = keras.Sequential([keras.Input((3,))])
    for name in names:
        model.add(keras.layers.Dense(3, activation=named(name)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(np.eye(3)), model(np.eye(3)), rtol=1e-6)


@pytest.mark.parametrize(
    ("result", "formula"),
    [
        (leakyrelu(POINTS, 0.3), np.maximum(0.3 * POINTS, POINTS)),
        (leakyrelu(POINTS, a=0.3), np.maximum(0.3 * POINTS, POINTS)),
        (elu(POINTS, 2), np_elu(POINTS, 2)),
        (elu(POINTS, α=0.5), np_elu(POINTS, 0.5)),
        (celu(POINTS, 2), 2 * np_elu(POINTS / 2) * (POINTS <= 0) + POINTS * (POINTS > 0)),
        (celu(POINTS, α=0.5), np.maximum(0, POINTS) + 0.5 * np.expm1(np.minimum(0, 2 * POINTS))),
        (trelu(POINTS, 2.5), np.where(POINTS > 2.5, POINTS, 0)),
        (thresholdrelu(POINTS, theta=0), np.maximum(POINTS, 0)),
        (softshrink(POINTS, 2), np.sign(POINTS) * np.maximum(np.abs(POINTS) - 2, 0)),
        (softshrink(POINTS, λ=0), POINTS),
        (softmax(POINTS, 0), np_softmax(POINTS, 0)),
        (softmax(POINTS, dims=(0, 1)), np_softmax(POINTS, (0, 1))),
        (logsoftmax(POINTS, dims=0), np_logsoftmax(POINTS, 0)),
        (logsumexp(POINTS, dims=1), np_logsumexp(POINTS, 1)),
        (logsumexp(POINTS, (0, 1)), np_logsumexp(POINTS)),
        (glu(POINTS.T, dims=0), np_glu(POINTS).T),
    ],
    ids=itertools.count(),
)
def test_arguments_are_those_of_the_formula(result, formula):
    np.testing.assert_allclose(result, formula, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_does_not_overflow_where_the_cube_of_its_input_does(dtype):
    x = tf.cast([-3e4, -300.0, 300.0, 3e4], dtype)
    for function in (gelu_tanh, gelu_sigmoid):
        np.testing.assert_array_equal(
            tf.cast(function(x), "float64"), tf.cast([0, 0, *x[2:]], "float64")
        )
        np.testing.assert_array_equal(gradient(function, x).astype("float64"), [0, 0, 1, 1])


@pytest.mark.parametrize("function", [softmax, logsoftmax])
def test_several_axes_of_a_symbolic_tensor_may_be_open(function):
    inputs = keras.Input((None, 3), dtype="float64")
    outputs = function(inputs, dims=(0, -1))
    assert outputs.dtype == "float64"
    x = np.arange(24.0).reshape(4, 2, 3)
    result = keras.Model(inputs, outputs)(x)
    np.testing.assert_allclose(result, function(x, dims=(0, 2)), rtol=1e-12)


def test_gelu_differs_from_the_exact_one_as_in_flux():
    assert gelu is gelu_tanh
    np.testing.assert_allclose(gelu(0.5), 0.345714, atol=1e-6)


def test_leakyrelu_takes_a_trainable_slope():
    slope = tf.Variable(0.25)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(leakyrelu([-2.0, 3.0], slope))
    assert float(y) == 2.5
    assert float(tape.gradient(y, slope)) == -2.0


def test_logsumexp_of_impossible_events_is_finite():
    assert float(logsumexp([-np.inf, 0.0])) == 0.0


def test_glu_names_an_axis_that_has_no_halves():
    message = (
        "glu expects an axis -1 of even length, got shape (2, 3). "
        "Half of it gates the other half: double the size of the layer before it."
    )
    with pytest.raises(ShapeError, match=re.escape(message)):
        glu(np.ones((2, 3)))


def test_rrelu_draws_a_slope_between_its_bounds_for_every_element():
    x = np.full((100, 10), -2.0)
    slopes = rrelu(x).numpy() / x
    assert 1 / 8 <= slopes.min() < 0.14
    assert 0.32 < slopes.max() <= 1 / 3
    assert np.unique(slopes).size > 900
    slopes = rrelu(x, 2, hi=3).numpy() / x
    assert (2 <= slopes).all()
    assert (slopes <= 3).all()


@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "xla"])
def test_rrelu_draws_anew_at_every_call(jit):
    function = rrelu if jit is None else tf.function(rrelu, jit_compile=jit)
    x = tf.fill((3, 4), -1.0)
    assert not np.array_equal(function(x), function(x))


def test_rrelu_follows_the_seed_of_keras():
    results, uniform = [], []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        results.append(rrelu(-np.ones((3, 4))).numpy())
        keras.utils.set_random_seed(1)
        uniform.append(keras.random.uniform((3, 4)).numpy())
    if not np.array_equal(*uniform):
        pytest.skip("set_random_seed of this Keras does not reach a generator that is in use")
    np.testing.assert_array_equal(*results)


def test_rrelu_is_the_identity_above_zero_and_its_gradient_is_the_slope():
    x = tf.constant([3.0, -2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rrelu(x)
    assert float(y[0]) == 3.0
    np.testing.assert_allclose(tape.gradient(y, x), [1.0, float(y[1]) / -2], rtol=1e-6)
