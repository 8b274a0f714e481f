"""Weight normalisation against `g * v / ‖v‖` in NumPy."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    LSTM,
    SGD,
    Bilinear,
    Chain,
    Conv,
    ConvTranspose,
    Dense,
    Embedding,
    EmbeddingBag,
    GRUCell,
    RNNCell,
    Scale,
    SkipConnection,
    WeightNorm,
    destructure,
    gradient,
    loadmodel,
    modules,
    mse,
    params,
    relu,
    remove_weight_norms,
    state,
    train,
)

rng = np.random.default_rng(0)
EPSILON = np.finfo("float32").eps
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def drawn(*shape):
    return rng.normal(size=shape).astype("float32")


def inputs(layer):
    if isinstance(layer, Embedding):
        return rng.integers(0, layer.input_dim, (4, 3))
    if isinstance(layer, Conv):
        return drawn(2, 6, 5, 4)[..., : layer.input_channels]
    return drawn(4, layer.input_size)


# A layer, its weight, and the axes of the weight that are the last one in Flux's array.
CASES = {
    "Dense": (lambda: Dense(3, 2, relu), "kernel", (0,)),
    "Conv": (lambda: Conv((3, 2), 4, 2), "kernel", (3,)),
    "ConvTranspose": (lambda: ConvTranspose((3, 2), 4, 2, stride=2), "kernel", (3,)),
    "Embedding": (lambda: Embedding(5, 2), "embeddings", (0,)),
    "EmbeddingBag": (lambda: EmbeddingBag(5, 2), "embeddings", (0,)),
    "Scale": (lambda: Scale(drawn(3)), "weight", (0,)),
    "Bilinear": (lambda: Bilinear(3, 2), "weight", (2,)),
    "RNNCell": (lambda: RNNCell(3, 2), "kernel", (0,)),
    "of Keras": (lambda: built(keras.layers.Dense(2), 3), "kernel", (0,)),
}
EACH = pytest.mark.parametrize("make, weight, axes", CASES.values(), ids=CASES)


def built(layer, size):
    layer.build((None, size))
    layer.input_size = size
    return layer


@EACH
def test_a_weight_is_a_length_times_a_direction(make, weight, axes):
    layer, v = make(), None
    x = inputs(layer)
    before = keras.tree.map_structure(np.array, layer(x))
    v = getattr(layer, weight).numpy()
    length = np.sqrt(np.sum(v**2, axes, keepdims=True) + EPSILON)

    normalised = WeightNorm(layer)

    np.testing.assert_allclose(normalised.g, length, **CLOSE)
    keras.tree.map_structure(
        lambda y, z: np.testing.assert_allclose(y, z, **CLOSE), normalised(x), before
    )
    g = drawn(*length.shape)
    normalised.g.assign(g)
    after = normalised(x)
    assert np.all(getattr(layer, weight).numpy() == v)
    getattr(layer, weight).assign(g * v / length)
    keras.tree.map_structure(
        lambda y, z: np.testing.assert_allclose(y, z, **CLOSE), after, layer(x)
    )


@pytest.mark.parametrize(
    "dims, axes", [(-1, (0,)), (0, (0,)), (1, (1,)), ((0, 1), (0, 1)), ([1], (1,)), (None, (0, 1))]
)
def test_the_axes_of_the_length(dims, axes):
    v = drawn(3, 2)
    normalised = WeightNorm(Dense(v), dims=dims)
    np.testing.assert_allclose(normalised.g, np.sqrt(np.sum(v**2, axes, keepdims=True)), **CLOSE)
    assert eval(repr(normalised)).axes == axes


def test_flux_counts_a_length_for_each_place_and_input_of_a_convolution():
    model = Chain(WeightNorm(Conv((3,), 1, 2)))
    assert model[0].g.shape == (3, 1, 1)
    assert str(model).splitlines()[-1].endswith("# Total: 3 arrays, 11 parameters, 44 bytes.")
    per_output = WeightNorm(Conv((3, 3), 4, 2), dims=(0, 1, 2))
    assert per_output.g.shape == (1, 1, 1, 2)


@pytest.mark.parametrize("which, size", [("bias", 2), ("kernel", 2), ("weight", 2)])
def test_any_variable_by_its_name(which, size):
    layer = Dense(drawn(3, 2), drawn(2))
    normalised = WeightNorm(layer, which)
    assert normalised.v is (layer.bias if which == "bias" else layer.kernel)
    assert WeightNorm(GRUCell(3, 2), "recurrent_kernel").g.shape == (1, 6)
    assert WeightNorm(LSTM(3, 2), "recurrent_kernel").g.shape == (1, 8)


def test_gradients_of_length_and_direction():
    v, g, x = drawn(3, 2), drawn(1, 2), drawn(5, 3)
    layer = WeightNorm(Dense(v, bias=False))
    layer.g.assign(g)
    length = np.sqrt(np.sum(v**2, 0, keepdims=True) + EPSILON)
    of_w = x.T @ np.ones((5, 2))  # of sum(x @ w)
    of_g = np.sum(of_w * v / length, 0, keepdims=True)
    of_v = g / length * (of_w - v * np.sum(of_w * v, 0, keepdims=True) / length**2)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    got_g, got_v = tape.gradient(loss, [layer.g.value, layer.v.value])

    np.testing.assert_allclose(got_g, of_g, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got_v, of_v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("execution", ["eager", "graph", "xla"])
def test_compiled_as_eagerly(execution):
    layer = WeightNorm(Dense(3, 2, relu))
    x = drawn(4, 3)
    run = {
        "eager": layer,
        "graph": tf.function(layer, input_signature=[tf.TensorSpec((None, 3))]),
        "xla": tf.function(layer, jit_compile=True),
    }[execution]
    w = layer.g.numpy() * layer.v.numpy() / np.linalg.norm(layer.v.numpy(), axis=0)
    np.testing.assert_allclose(run(x), np.maximum(x @ w + layer.layer.bias.numpy(), 0), **CLOSE)


def test_it_trains_length_direction_and_bias():
    model = Chain(WeightNorm(Dense(3, 4, relu)), WeightNorm(Dense(4, 1)))
    before = [p.numpy() for p in params(model)]
    assert [p.shape for p in params(model)] == [
        (1, 4), (3, 4), (4,), (1, 1), (4, 1), (1,)
    ]  # fmt: skip
    x = drawn(32, 3)
    y = x @ drawn(3, 1)

    history = train(lambda x, y: mse(model(x), y), [(x, y)] * 50, SGD(params(model), 0.1))

    assert history["loss"][-1] < history["loss"][0] / 3
    assert all(np.any(p.numpy() != b) for p, b in zip(params(model), before, strict=True))


def test_fit_trains_it_too():
    model = Chain(WeightNorm(Dense(3, 1)))
    x = drawn(32, 3)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    losses = model.fit(x, x @ drawn(3, 1), epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightNorm(Dense(3, 2, relu)),
        lambda: WeightNorm(Dense(drawn(3, 2), drawn(2)), "bias"),
        lambda: WeightNorm(Conv((3, 2), 4, 2), dims=(0, 1, 2)),
        lambda: WeightNorm(Embedding(5, 2), dims=None),
        lambda: WeightNorm(built(keras.layers.Dense(2), 3)),
    ],
)
def test_it_comes_back_from_a_file_with_what_it_learnt(make, tmp_path):
    model = Chain(make())
    x = inputs(model[0].layer)
    model[0].g.assign(drawn(*model[0].g.shape))
    y = model(x)
    model.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(model)
    np.testing.assert_array_equal(again(x), y)


def test_it_is_exported(tmp_path):
    model = Chain(WeightNorm(Dense(3, 2)))
    x = drawn(4, 3)
    expected = model(x)
    model.export(tmp_path / "model")
    served = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(served.serve(x), expected, **CLOSE)


def test_its_arrays_by_name_and_as_one_vector():
    model = Chain(WeightNorm(Dense(3, 2)), relu)
    (arrays, _) = state(model)["layers"]
    assert arrays["g"].shape == (1, 2)
    assert arrays["layers"][0]["kernel"].shape == (3, 2)
    other, x = loadmodel(Chain(WeightNorm(Dense(3, 2)), relu), state(model)), drawn(4, 3)
    np.testing.assert_array_equal(other(x), model(x))

    vector, rebuild = destructure(model)

    np.testing.assert_allclose(rebuild(vector)(x), model(x), **CLOSE)
    twice = rebuild(2 * vector)(x)  # twice g, the same direction, twice the bias
    np.testing.assert_allclose(twice, 2 * model(x), **CLOSE)
    (of_vector,) = gradient(lambda v: tf.reduce_sum(rebuild(v)(x)), vector)
    assert np.all(np.isfinite(of_vector)) and np.any(of_vector)


def test_what_the_layer_within_keeps_and_adds_while_training_stays():
    noisy = WeightNorm(LSTM(3, 2, dropout=0.5, seed=1))
    x = np.ones((4, 5, 3), "float32")
    assert np.any(noisy(x, training=True).numpy() != noisy(x, training=True).numpy())
    penalised, alone = [keras.layers.Dense(2, activity_regularizer="l2") for _ in range(2)]
    alone(x[:, 0])
    penalised.build((None, 3))
    penalised.set_weights(alone.get_weights())
    wn = WeightNorm(penalised)
    wn(x[:, 0])
    np.testing.assert_allclose(sum(wn.losses), sum(alone.losses), rtol=1e-4)


def test_precision_is_that_of_the_weight():
    layer = WeightNorm(Dense(3, 2, dtype="mixed_float16"))
    assert layer.g.dtype == "float32" and layer(drawn(4, 3)).dtype == "float16"
    exact = WeightNorm(Dense(3, 2, dtype="float64"))
    assert exact.g.dtype == "float64" and exact(drawn(4, 3)).dtype == "float64"


def test_removal_gives_plain_layers_of_the_same_outputs():
    model = Chain(
        enc=WeightNorm(Dense(3, 4, relu)),
        skip=SkipConnection(
            Chain(WeightNorm(Dense(4, 4)), Dense(4, 4)), WeightNorm(Bilinear(4, 2))
        ),
    )
    for layer in modules(model):
        if isinstance(layer, WeightNorm):
            layer.g.assign(drawn(*layer.g.shape))  # some of them negative
    x = drawn(5, 3)
    y = model(x)

    plain = remove_weight_norms(model)

    assert not any(isinstance(part, WeightNorm) for part in modules(plain))
    assert repr(plain) == (
        "Chain(enc = Dense(3, 4, relu), skip = SkipConnection("
        "Chain(Dense(4, 4), Dense(4, 4)), Bilinear(4, 2)))"
    )
    np.testing.assert_allclose(plain(x), y, **CLOSE)
    np.testing.assert_allclose(model(x), y, **CLOSE)
    assert plain["enc"] is model["enc"].layer


def test_removal_from_other_things():
    dense, normalised = Dense(3, 2), WeightNorm(Dense(3, 2))
    x = drawn(5, 3)
    assert remove_weight_norms(dense) is dense
    assert remove_weight_norms(normalised) is normalised.layer
    assert remove_weight_norms([normalised, {"a": normalised}]) == [
        normalised.layer, {"a": normalised.layer}
    ]  # fmt: skip
    sequential = keras.Sequential([keras.Input((3,)), normalised])
    inside = keras.Input((3,))
    functional = keras.Model(inside, normalised(inside))
    for model in sequential, functional:
        plain = remove_weight_norms(model)
        assert normalised.layer in plain.layers and normalised not in plain.layers
        np.testing.assert_allclose(plain(x), model(x), **CLOSE)


class Holder:
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: WeightNorm(relu),
            TypeError,
            "WeightNorm expects a layer, got relu. Write WeightNorm(Dense(2, 3)).",
        ),
        (
            lambda: WeightNorm(Dense(2, 3), "kernels"),
            ValueError,
            "WeightNorm expects the name of a variable of Dense(2 => 3), got 'kernels'. "
            "Its variables: kernel, bias.",
        ),
        (
            lambda: WeightNorm(Chain(Dense(2, 3), Dense(3, 2)), "kernel"),
            ValueError,
            "Its variables: kernel, bias, kernel, bias.",
        ),
        (
            lambda: WeightNorm(keras.layers.Dropout(0.5)),
            ValueError,
            "got 'weight'. Its variables: none.",
        ),
        (
            lambda: WeightNorm(WeightNorm(Dense(2, 3))),
            ValueError,
            "WeightNorm expects a layer that is not normalised yet, got "
            "WeightNorm(Dense(2 => 3), :weight).",
        ),
        (
            lambda: WeightNorm(Chain(WeightNorm(Dense(2, 3)))),
            ValueError,
            "WeightNorm expects a layer that is not normalised yet, got Chain(",
        ),
        (
            lambda: WeightNorm(keras.layers.Dense(3)),
            ValueError,
            "WeightNorm expects a layer that has its variables, got Dense(units=3): Keras makes "
            "them at the first call. Call it once on a batch before.",
        ),
        (
            lambda: WeightNorm(Dense(2, 3), "bias"),
            ValueError,
            "WeightNorm expects a bias with a direction, got zeros in Dense(2 => 3).",
        ),
        *(
            (
                lambda dims=dims: WeightNorm(Dense(2, 3), dims=dims),
                ValueError,
                "WeightNorm expects dims to be axes of the kernel of Dense(2 => 3), of shape "
                f"(2, 3), counted from 0, or -1 for Flux's last, got {dims}.",
            )
            for dims in (2, -2, (0, 2), (), "all")
        ),
        (
            lambda: remove_weight_norms(Holder(WeightNorm(Dense(2, 3)))),
            TypeError,
            "remove_weight_norms expects WeightNorms in chains, Keras models, lists, tuples and "
            "dicts, got one in Holder(). Remove it from what that was made of.",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
