"""Normalisation against formulas in NumPy."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    SGD,
    BatchNorm,
    Chain,
    Dense,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    ShapeError,
    mse,
    relu,
    testmode,
    train,
    trainmode,
)

testmode.__test__ = False  # a name of Flux's, which pytest would run
rng = np.random.default_rng(0)
X = rng.normal(2, 3, size=(5, 4, 3, 6))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SHAPES = [(5, 6), (5, 4, 6), (5, 4, 3, 6)]


def normalised(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def randomised(layer):
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return layer


def affine(layer, x):
    return x * layer.gamma.numpy() + layer.beta.numpy()


@pytest.mark.parametrize("sizes", [(6,), (3, 6), (4, 3, 6)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layers_are_normalised_over_the_last_axes(sizes, eps):
    layer = randomised(LayerNorm(*sizes, "relu", eps=eps, dtype="float64"))
    axes = tuple(range(-len(sizes), 0))
    expected = np.maximum(affine(layer, normalised(X, axes, eps)), 0)
    np.testing.assert_allclose(layer(X), expected, **CLOSE)
    np.testing.assert_allclose(layer(X[0]), expected[0], **CLOSE)
    bare = LayerNorm(sizes, affine=False, eps=eps)
    assert bare.weights == []
    np.testing.assert_allclose(bare(X), normalised(X, axes, eps), **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_are_normalised_by_themselves_while_training(shape):
    x, axes = rng.normal(size=shape), tuple(range(len(shape) - 1))
    layer = randomised(BatchNorm(6, relu, dtype="float64"))
    expected = np.maximum(affine(layer, normalised(x, axes)), 0)
    np.testing.assert_allclose(layer(x, training=True), expected, **CLOSE)


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1])
def test_batches_are_normalised_by_what_is_remembered_otherwise(momentum):
    layer = BatchNorm(6, momentum=momentum, dtype="float64")
    mean, variance = np.zeros(6), np.ones(6)
    for x in X, X * 2 + 1:
        layer(x, training=True)
        n = x.size / 6
        mean = (1 - momentum) * mean + momentum * x.mean((0, 1, 2))
        variance = (1 - momentum) * variance + momentum * x.var((0, 1, 2)) * n / (n - 1)
    np.testing.assert_allclose(layer.moving_mean, mean)
    np.testing.assert_allclose(layer.moving_variance, variance)
    np.testing.assert_allclose(layer(X), (X - mean) / np.sqrt(variance + 1e-5), **CLOSE)


def test_without_statistics_a_batch_is_always_normalised_by_itself():
    layer = BatchNorm(6, track_stats=False, affine=False)
    assert layer.weights == []
    for training in True, False:
        y = layer(X, training=training)
        np.testing.assert_allclose(y, normalised(X, (0, 1, 2)), **CLOSE)


def test_modes_decide_whatever_keras_says():
    layer = BatchNorm(6, affine=False)
    by_batch = normalised(X, (0, 1, 2))
    trainmode(layer)
    np.testing.assert_allclose(layer(X, training=False), by_batch, **CLOSE)
    testmode(layer)
    before = layer.moving_mean.numpy()
    y = layer(X, training=True)
    np.testing.assert_array_equal(layer.moving_mean, before)
    assert np.abs(y - by_batch).max() > 0.1


def test_one_number_a_channel_has_no_variance():
    layer = BatchNorm(6)
    with pytest.raises(ShapeError, match="more than one number for each channel while training"):
        layer(np.ones((1, 6)), training=True)
    assert layer(np.ones((1, 6))).shape == (1, 6)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_instances_are_normalised_over_space(shape):
    x, axes = rng.normal(size=shape), tuple(range(1, len(shape) - 1))
    bare = InstanceNorm(6, relu)
    assert bare.weights == []
    expected = normalised(x, axes)
    np.testing.assert_allclose(bare(x), np.maximum(expected, 0), **CLOSE)
    layer = randomised(InstanceNorm(6, affine=True, dtype="float64"))
    np.testing.assert_allclose(layer(x), affine(layer, expected), **CLOSE)


def test_instances_may_be_remembered_in_their_mean():
    layer = InstanceNorm(6, track_stats=True, dtype="float64")
    layer(X, training=True)
    mean = 0.1 * X.mean((1, 2)).mean(0)
    variance = 0.9 + 0.1 * X.var((1, 2)).mean(0) * 12 / 11
    np.testing.assert_allclose(layer.moving_mean, mean)
    np.testing.assert_allclose(layer.moving_variance, variance)
    np.testing.assert_allclose(layer(X), (X - mean) / np.sqrt(variance + 1e-5), **CLOSE)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_are_normalised_over_their_channels_and_space(groups):
    layer = randomised(GroupNorm(6, groups, dtype="float64"))
    parts = X.reshape(5, 4, 3, groups, 6 // groups)
    expected = normalised(parts, (1, 2, 4)).reshape(X.shape)
    np.testing.assert_allclose(layer(X), affine(layer, expected), **CLOSE)
    # Keras's layer has the same numbers with the same options.
    theirs = keras.layers.GroupNormalization(groups, epsilon=1e-5, dtype="float64")
    theirs.build(X.shape)
    theirs.set_weights([layer.gamma.numpy(), layer.beta.numpy()])
    np.testing.assert_allclose(layer(X), theirs(X), **CLOSE)


LAYERS = {
    "LayerNorm(3, 6, relu, eps=0.01)": lambda: LayerNorm(3, 6, relu, eps=0.01),
    "BatchNorm(6, relu, momentum=0.5)": lambda: BatchNorm(6, relu, momentum=0.5),
    "BatchNorm(6, affine=False, active=True)": lambda: BatchNorm(6, affine=False, active=True),
    "InstanceNorm(6, affine=True, track_stats=True)": lambda: InstanceNorm(
        6, affine=True, track_stats=True
    ),
    "GroupNorm(6, 2, relu)": lambda: GroupNorm(6, 2, relu),
}


@pytest.mark.parametrize("source", LAYERS)
def test_they_print_as_they_are_made_and_save(source, tmp_path):
    layer = randomised(LAYERS[source]())
    assert repr(layer) == str(layer) == source
    model = Chain(layer)
    x = X.astype("float32")
    model(x, training=True)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert repr(loaded[0]) == source
    np.testing.assert_allclose(loaded(x), model(x), **CLOSE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_is_the_layers(dtype):
    for layer in BatchNorm(6, dtype=dtype), LayerNorm(6, dtype=dtype), GroupNorm(6, 2, dtype=dtype):
        y = layer(X.astype(dtype), training=True) if isinstance(layer, BatchNorm) else layer(X)
        assert y.dtype == dtype
        assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchNorm(0), "BatchNorm expects the length of its axis, a number from 1, got 0"),
        (
            lambda: LayerNorm(),
            "LayerNorm expects the length of its axis, a number from 1, got none",
        ),
        (lambda: BatchNorm(3, momentum=1.5), "BatchNorm expects a momentum from 0 to 1, got 1.5"),
        (lambda: GroupNorm("six", 2), "divides its six channels, got 2"),
        (lambda: GroupNorm(6, 4), "a number of groups that divides its 6 channels, got 4"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (LayerNorm(3, 6), (5, 6), "(..., 3, 6), got (5, 6)"),
        (BatchNorm(6), (5, 4), "(batch, ..., 6), got (5, 4)"),
        (BatchNorm(6), (6,), "(batch, ..., 6), got (6,)"),
        (InstanceNorm(6), (5, 6), "(batch, space..., 6), got (5, 6)"),
        (GroupNorm(6, 2), (5, 4), "(batch, ..., 6), got (5, 4)"),
    ],
)
def test_wrong_shapes(layer, shape, expected):
    with pytest.raises(ShapeError, match=re.escape(f"expects inputs of shape {expected}")):
        layer(np.ones(shape))


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_every_form_of_training_moves_the_statistics_alike(form):
    x, y = X[..., 0, :].reshape(-1, 6).astype("float32"), np.ones((20, 1), "float32")
    m = Chain(BatchNorm(6), Dense(6, 1, init="ones"))
    data = [(x[i : i + 5], y[i : i + 5]) for i in range(0, 20, 5)]
    train(lambda x, y: mse(m(x), y), data, SGD(0.01), progress=False, form=form, chunk=2)
    mean = np.zeros(6)
    for part, _ in data:
        mean = 0.9 * mean + 0.1 * part.mean(0)
    np.testing.assert_allclose(m[0].moving_mean, mean, rtol=1e-5)


def test_a_number_of_channels_is_enough_to_build_a_chain():
    m = Chain(BatchNorm(6), Dense(6, 2))
    assert len(m.trainable_variables) == 4
    assert tf.function(m)(X[0, 0].astype("float32")).shape == (3, 2)


def test_groups_take_the_arguments_that_flux_ignores():
    x = X.astype("float32")
    same = GroupNorm(6, 2, active=True, momentum=0.5)
    np.testing.assert_array_equal(same(x, training=True), GroupNorm(6, 2)(x))
