import pickle
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Dense,
    destructure,
    loadmodel,
    mse,
    param,
    params,
    softmax,
    state,
    trainables,
    σ,
)
from fluxkeras.checks import ShapeError

X = tf.constant(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))


class Affine:
    """A layer in plain Python."""

    def __init__(self):
        self.W = param(np.random.normal(size=(3, 2)), name="W")
        self.inner = [Dense(2, 2), np.tanh]
        self.size = 3

    def __call__(self, x):
        return self.inner[0](x @ self.W)


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(np.random.normal(size=(3, 2)).astype("float32"))

    def __call__(self, x):
        return x @ self.w


def closure():
    w = param(np.random.normal(size=(3, 2)))
    return lambda x: x @ w


def built(layer):
    layer(X)
    return layer


def recurrent():
    layers = [keras.Input((3,)), keras.layers.Reshape((3, 1)), keras.layers.LSTM(2)]
    return keras.Sequential([*layers, keras.layers.BatchNormalization()])


def functional():
    x = keras.Input((3,))
    h = keras.layers.Dense(3)(x)
    return keras.Model(x, keras.layers.Add()([x, keras.layers.Dense(3)(h)]))


MODELS = {
    "Dense": lambda: Dense(3, 2),
    "Chain": lambda: Chain(Dense(3, 5, σ), Chain(Dense(5, 2, bias=False)), softmax),
    "named Chain": lambda: Chain(encoder=Dense(3, 5, σ), decoder=Dense(5, 2)),
    "Keras in a Chain": lambda: built(
        Chain(keras.layers.Dense(2), keras.layers.LayerNormalization())
    ),
    "Sequential": recurrent,
    "functional": functional,
    "plain Python": Affine,
    "plain Python in a Chain": lambda: Chain(Affine(), Dense(2, 1)),
    "a function": closure,
    "tf.Module": Module,
    "a list": lambda: [Dense(3, 2), {"a": param([1.0, 2.0])}],
}


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param]


def values(model):
    return [np.asarray(v) for v in params(model)]


# --- state, loadmodel -----------------------------------------------------------------------------


def test_a_state_goes_into_another_model_of_the_kind(make):
    one, other = make(), make()
    for v in params(one):
        v.assign(np.random.normal(size=v.shape))

    kept = pickle.loads(pickle.dumps(state(one)))

    assert loadmodel(other, kept) is other
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_array_equal(a, b)
    loadmodel(one, make())
    for a, b in zip(keras.tree.flatten(kept), keras.tree.flatten(state(other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_goes_into_another(make):
    one, other = make(), make()

    loadmodel(other, one)

    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_is_nested_as_the_model():
    m = Chain(Dense(1, 2, init="ones"), softmax, Chain(Dense(2, 1, bias=False)))

    found = state(m)

    assert list(found) == ["layers"] and isinstance(found["layers"], tuple)
    dense, function, inner = found["layers"]
    assert list(dense) == ["kernel", "bias"] and function == ()
    np.testing.assert_array_equal(dense["kernel"], [[1, 1]])
    assert list(inner["layers"][0]) == ["kernel"]


def test_a_state_holds_what_is_not_trained_and_names_what_comes_twice():
    assert list(state(recurrent())["layers"][-1]) == [
        "gamma", "beta", "moving_mean", "moving_variance"
    ]  # fmt: skip
    attention = keras.layers.MultiHeadAttention(1, 2)
    attention(X[None], X[None])
    assert list(state(attention)) == [
        *["kernel", "bias", "kernel_2", "bias_2", "kernel_3", "bias_3", "kernel_4", "bias_4"]
    ]


def test_a_state_stays_when_the_model_is_trained():
    m = Dense(3, 2)
    kept = state(m)
    before = kept["kernel"].copy()

    m.kernel.assign_add(np.ones((3, 2)))

    np.testing.assert_array_equal(kept["kernel"], before)


@pytest.mark.parametrize("source", [lambda m: m, lambda m: destructure(m)[1](destructure(m)[0])])
def test_what_is_filtered_stays_as_it_is(source):
    one, other = Chain(Dense(3, 2), Dense(2, 1)), Chain(Dense(3, 2), Dense(2, 4))
    before = values(other[1])

    loadmodel(other, source(one), filter=lambda part: all(part is not m[1] for m in (one, other)))

    for a, b in zip(values(one[0]) + before, values(other), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"at layers\[1\].kernel"):
        loadmodel(other, source(one))


def test_values_take_the_dtype_of_the_variable():
    m = loadmodel(Dense(2, 1), {"kernel": np.array([[1], [2]]), "bias": np.array([0.5])})

    assert m.kernel.dtype == "float32"
    np.testing.assert_array_equal(m(np.eye(2)), [[1.5], [2.5]])


def test_a_bias_that_is_missing_is_zero():
    without, m = Chain(Dense(3, 2, bias=False)), Chain(Dense(3, 2))
    m[0].bias.assign([1, 2])

    with pytest.raises(ValueError) as raised:
        loadmodel(without, m)
    assert str(raised.value) == (
        "loadmodel expects no bias at layers[0].bias, or a zero one, got [1. 2.]."
    )
    loadmodel(m, without)
    np.testing.assert_array_equal(m[0].bias, [0, 0])
    loadmodel(without, m)


def test_what_is_shared_must_get_one_value():
    shared = Dense(3, 3)
    tied = Chain(shared, shared)

    with pytest.raises(ValueError) as raised:
        loadmodel(tied, Chain(Dense(3, 3), Dense(3, 3)))
    assert str(raised.value) == (
        "loadmodel expects one value for a variable that is shared, got others at "
        "layers[0].kernel and at layers[1].kernel."
    )
    one = Dense(3, 3)
    loadmodel(tied, Chain(one, one))
    np.testing.assert_array_equal(shared.kernel, one.kernel)


@pytest.mark.parametrize(
    ("src", "error", "message"),
    [
        (
            lambda: Chain(Dense(3, 5), Dense(5, 3)),
            ShapeError,
            "loadmodel expects an array of shape (5, 2) at layers[1].kernel, got (5, 3).",
        ),
        (
            lambda: Chain(Dense(3, 5)),
            ValueError,
            "loadmodel expects 2 parts at layers, got 1 parts.",
        ),
        (
            lambda: Chain(Dense(3, 5), Chain(Dense(5, 2))),
            ValueError,
            "loadmodel expects kernel, bias at layers[1], got layers, bias.",
        ),
        (
            lambda: Dense(3, 5),
            ValueError,
            "loadmodel expects layers, bias at its root, got kernel, bias.",
        ),
        (
            lambda: Chain(Dense(3, 5), softmax),
            ValueError,
            "loadmodel expects kernel, bias at layers[1], got bias.",
        ),
        (
            lambda: {"layers": [np.ones((3, 5)), Dense(5, 2)]},
            ValueError,
            "loadmodel expects kernel, bias at layers[0], got an array of shape (3, 5).",
        ),
        (lambda: softmax, ValueError, "loadmodel expects layers at its root, got nothing."),
    ],
)
def test_another_structure_is_refused_before_anything_changes(src, error, message):
    dst = Chain(Dense(3, 5), Dense(5, 2))
    before = values(dst)

    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        loadmodel(dst, src())
    for a, b in zip(before, values(dst), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("function", [state, trainables, destructure])
def test_a_layer_without_variables_yet_is_refused(function):
    with pytest.raises(ValueError, match="has no parameters yet"):
        function(keras.layers.Dense(2))


# --- trainables -----------------------------------------------------------------------------------


def test_trainables_are_the_params(make):
    m = make()

    assert [id(v) for v in trainables(m)] == [id(v) for v in params(m)]
    assert [id(v) for _, v in trainables(m, path=True)] == [id(v) for v in params(m)]


def test_paths_of_trainables():
    m = Chain(Affine(), Dense(2, 1))
    paths = [path for path, _ in trainables(m, path=True)]

    assert sorted(paths) == [
        "layers[0].W", "layers[0].inner[0].bias", "layers[0].inner[0].kernel",
        "layers[1].bias", "layers[1].kernel",
    ]  # fmt: skip


def test_what_is_frozen_is_not_trained():
    m = recurrent()
    m.layers[1].trainable = False

    assert [path for path, _ in trainables(m, path=True)] == ["layers[2].gamma", "layers[2].beta"]


# --- destructure ----------------------------------------------------------------------------------

CALLED = ["Dense", "Chain", "named Chain", "Sequential", "functional", "plain Python", "a function"]


@pytest.mark.parametrize("name", CALLED)
def test_a_model_is_rebuilt_of_its_vector(name):
    m = MODELS[name]()
    before = values(m)

    vector, rebuild = destructure(m)

    np.testing.assert_array_equal(vector, np.concatenate([v.ravel() for v in before]))
    np.testing.assert_allclose(rebuild(vector)(X), m(X), rtol=1e-6)
    other = MODELS[name]()
    loadmodel(other, rebuild(2 * vector))
    np.testing.assert_allclose(rebuild(2 * vector)(X), other(X), rtol=1e-6)
    for a, b in zip(before, values(m), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_with_respect_to_the_vector(name, compiled):
    m = MODELS[name]()
    vector, rebuild = destructure(m)
    variables = [getattr(v, "value", v) for v in params(m)]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(m(X) ** 2)
    expected = np.concatenate([np.ravel(g) for g in tape.gradient(loss, variables)])

    def gradient(vector):
        with tf.GradientTape() as tape:
            tape.watch(vector)
            loss = tf.reduce_sum(rebuild(vector)(X) ** 2)
        return tape.gradient(loss, vector)

    gradient = tf.function(gradient, jit_compile=True) if compiled else gradient
    np.testing.assert_allclose(gradient(vector), expected, rtol=1e-4, atol=1e-5)


def test_a_vector_may_be_trained():
    vector, rebuild = destructure(Chain(Dense(3, 4, σ), Dense(4, 1)))
    weights = tf.Variable(vector)
    y = tf.reduce_sum(X, 1, keepdims=True)

    losses = []
    for _ in range(200):
        with tf.GradientTape() as tape:
            loss = mse(rebuild(weights)(X), y)
        weights.assign_sub(0.1 * tape.gradient(loss, weights))
        losses.append(float(loss))

    assert losses[-1] < 0.2 * losses[0]


def test_shared_arrays_are_in_the_vector_once():
    shared = Dense(3, 3)

    vector, rebuild = destructure(Chain(shared, shared))

    assert vector.shape == (12,)
    np.testing.assert_allclose(rebuild(vector)(X), shared(shared(X)), rtol=1e-6)


def test_dtypes_are_promoted_and_restored():
    m = Chain(Dense(3, 2, dtype="float16"), Dense(2, 1, dtype="float32"))

    vector, rebuild = destructure(m)

    assert vector.dtype == "float32"
    np.testing.assert_allclose(rebuild(vector)(X), m(X))


def test_no_array_makes_an_empty_vector():
    vector, rebuild = destructure(Chain(softmax))

    assert vector.shape == (0,)
    np.testing.assert_allclose(rebuild(vector)(X), softmax(X))


@pytest.mark.parametrize("shape", [(7,), (9,), (8, 1), ()])
def test_another_vector_is_refused(shape):
    _, rebuild = destructure(Dense(3, 2))
    message = f"destructure's model expects a vector of shape (8,), got {shape}."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        rebuild(np.ones(shape, "float32"))


def test_variables_of_tensorflow_are_refused():
    with pytest.raises(TypeError) as raised:
        destructure(Module())

    assert str(raised.value) == (
        "destructure expects Keras variables, such as param makes, got Variable (3, 2)."
    )


def test_a_rebuilt_model_is_printed():
    vector, rebuild = destructure(Dense(3, 2))

    assert repr(rebuild(vector)) == "destructure(Dense(3, 2))[1](…)"
