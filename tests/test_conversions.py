import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Dense,
    bf16,
    cpu,
    f16,
    f32,
    f64,
    get_device,
    gpu,
    mse,
    param,
    softmax,
    σ,
)
from fluxkeras.parameters import params

CONVERSIONS = {"float16": f16, "bfloat16": bf16, "float32": f32, "float64": f64}
NUMPY = {name: tf.as_dtype(name).as_numpy_dtype for name in CONVERSIONS}
X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def chain():
    return Chain(Dense(3, 5, σ), keras.layers.Dense(2), softmax)


@pytest.fixture
def model():
    m = chain()
    m(X)
    for i, weight in enumerate(m.weights):
        weight.assign(np.random.default_rng(i).normal(size=weight.shape))
    return m


@pytest.mark.parametrize("dtype", CONVERSIONS)
def test_a_model_is_copied_with_another_dtype(dtype, model):
    before = keras.config.dtype_policy()

    converted = CONVERSIONS[dtype](model)

    assert type(converted) is Chain and converted is not model
    assert {v.dtype for v in converted.weights} == {dtype}
    assert {v.dtype for v in model.weights} == {"float32"}
    for new, old in zip(converted.weights, model.weights, strict=True):
        np.testing.assert_array_equal(new, np.asarray(old).astype(NUMPY[dtype]))
    y = converted(X)
    assert y.dtype == dtype
    tolerance = {"float16": 1e-2, "bfloat16": 6e-2}.get(dtype, 1e-5)
    np.testing.assert_allclose(tf.cast(y, "float32"), model(X), rtol=tolerance)
    assert keras.config.dtype_policy() == before


def test_float64_is_as_precise_as_numpy(model):
    w, b, w2, b2 = (np.asarray(v).astype("float64") for v in model.weights)
    x = X.astype("float64") / 3
    z = 1 / (1 + np.exp(-(x @ w + b))) @ w2 + b2
    expected = np.exp(z) / np.exp(z).sum(-1, keepdims=True)

    np.testing.assert_allclose(f64(model)(x), expected, rtol=1e-13)


def test_a_copy_trains_and_saves(model, tmp_path):
    converted = f64(model)
    with tf.GradientTape() as tape:
        loss = mse(converted(X), np.zeros((4, 2)))
    gradients = tape.gradient(loss, [v.value for v in params(converted)])
    assert all(g.dtype == "float64" for g in gradients)

    converted.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert {v.dtype for v in again.weights} == {"float64"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_normalisations_keep_their_statistics_in_float32(dtype):
    m = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )

    converted = CONVERSIONS[dtype](m)

    assert [v.dtype for v in converted.weights] == [dtype] * 2 + ["float32"] * 4
    assert converted(X).dtype == dtype
    assert {v.dtype for v in f64(m).weights} == {"float64"}


@pytest.mark.parametrize("dtype", CONVERSIONS)
def test_floating_point_arrays_are_converted_and_others_stay(dtype):
    data = {
        "x": np.ones(2),
        "t": (tf.ones(2), tf.constant([1, 2])),
        "i": np.arange(3),
        "s": ["a", None, np.float32(2)],
        "n": 1.5,
    }

    found = CONVERSIONS[dtype](data)

    assert found["x"].dtype == found["s"][2].dtype == NUMPY[dtype]
    assert found["t"][0].dtype == dtype
    assert f32(found)["x"].dtype == "float32"
    assert isinstance(found["x"], np.ndarray) and tf.is_tensor(found["t"][0])
    assert found["t"][1] is data["t"][1] and found["i"] is data["i"]
    assert found["s"][:2] == ["a", None] and found["n"] == 1.5


def test_variables_are_made_anew():
    w, v = param([1.0, 2.0], name="w"), tf.Variable([1.0], trainable=False)
    count = tf.Variable(3)

    new_w, new_v, same = f64([w, v, count])

    assert isinstance(new_w, keras.Variable) and new_w.name == "w"
    assert new_w.dtype == "float64" and new_v.dtype == tf.float64 and not new_v.trainable
    np.testing.assert_array_equal(new_w, [1, 2])
    assert same is count


class Affine:
    def __init__(self):
        self.W = param([[1.0]], name="W")

    def __call__(self, x):
        return x @ self.W

    def __repr__(self):
        return "Affine()"


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
def test_other_objects_with_variables_are_refused(name):
    message = (
        f"{name} expects Keras layers, arrays and variables, got Affine(), which holds W (1, 1). "
        "Convert these."
    )

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        {f.__name__: f for f in CONVERSIONS.values()}[name]([Affine()])


def test_a_layer_without_variables_yet_is_refused():
    with pytest.raises(ValueError, match="has no parameters yet"):
        f64(keras.layers.Dense(2))


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        np.ones(2),
        tf.ones(2),
        param([1.0]),
        tf.Variable([1.0]),
        {"a": (np.ones(2), [tf.ones(2)])},
        Affine(),
        "nothing",
    ],
)
def test_all_is_on_the_cpu_where_there_is_no_gpu(x):
    assert get_device(x) == "CPU:0"
    assert gpu(x) is x


def test_a_model_is_where_its_variables_are(model):
    assert get_device(model) == "CPU:0"
    assert cpu(model) is model and gpu(model) is model


def test_cpu_keeps_form_and_values():
    x = {"a": tf.ones(2), "b": [np.ones(2), "text"]}

    found = cpu(x)

    assert cpu(w := param([1.0])) is w
    assert found["b"][0] is x["b"][0] and found["b"][1] == "text"
    np.testing.assert_array_equal(found["a"], x["a"])


def test_two_devices_are_not_one(monkeypatch):
    monkeypatch.setattr("fluxkeras.conversions._devices", lambda part: [part])

    with pytest.raises(ValueError, match=r"^get_device expects one device, got CPU:0 and GPU:0\.$"):
        get_device(("GPU:0", "CPU:0", "GPU:0"))
