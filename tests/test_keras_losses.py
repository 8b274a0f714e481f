"""Losses for Keras against the same losses called by hand."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import fluxkeras
from fluxkeras import Chain, Dense, as_keras_loss, ctc_loss, dice_coeff_loss, mse, σ

rng = np.random.default_rng(0)
ŷ = rng.uniform(0.1, 0.9, size=(6, 4)).astype("float32")
Y = np.eye(4, dtype="float32")[rng.integers(4, size=6)]
NAMES = [
    "mse", "mae", "msle", "huber_loss", "crossentropy", "logitcrossentropy", "binarycrossentropy",
    "logitbinarycrossentropy", "kldivergence", "poisson_loss", "hinge_loss", "squared_hinge_loss",
    "dice_coeff_loss", "tversky_loss", "binary_focal_loss", "focal_loss",
    "siamese_contrastive_loss",
]  # fmt: skip


SEQUENCES = ["ctc_loss"]  # they take labels of another shape


def test_no_loss_is_forgotten():
    losses = {
        name
        for name, f in inspect.getmembers(fluxkeras, inspect.isfunction)
        if list(inspect.signature(f).parameters)[:2] == ["y_hat", "y"]
    }
    assert losses == {*NAMES, *SEQUENCES}


@pytest.mark.parametrize("name", NAMES + SEQUENCES)
def test_a_loss_of_fluxkeras_is_found_again(name):
    f = getattr(fluxkeras, name)
    config = as_keras_loss(f).get_config()
    assert keras.losses.deserialize(keras.losses.serialize(as_keras_loss(f))).f is f
    assert config["f"] == f"fluxkeras>{name}"


def test_sequences_are_called_one_by_one_and_saved(tmp_path):
    m = Chain(Dense(2, 2))
    m.compile("sgd", loss=as_keras_loss(ctc_loss))
    x = rng.random((6, 2, 2)).astype("float32")
    labels = np.zeros((6, 1), int)
    p = np.exp(x @ m[0].kernel.numpy())
    p /= p.sum(-1, keepdims=True)
    blank = p[..., 1].prod(-1)  # the only path of two steps that is not the label 0
    m.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    expected = -np.log(1 - blank).mean()
    np.testing.assert_allclose(again.evaluate(x, labels, verbose=0), expected, rtol=1e-4)


def absolute(y_hat, y):
    return tf.reduce_mean(tf.abs(y_hat - y))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_mean_over_the_samples(name):
    f = getattr(fluxkeras, name)
    each = [float(f(ŷ[i : i + 1], Y[i : i + 1])) for i in range(6)]
    loss = as_keras_loss(f)
    assert loss.name == name
    np.testing.assert_allclose(loss(Y, ŷ), np.mean(each), rtol=1e-5)
    weights = rng.random(6).astype("float32")
    given = loss(Y, ŷ, sample_weight=weights)
    np.testing.assert_allclose(given, np.mean(np.array(each) * weights), rtol=1e-5)


def test_options_are_those_of_the_loss():
    loss = as_keras_loss(fluxkeras.focal_loss, gamma=3.0)
    np.testing.assert_allclose(loss(Y, ŷ), fluxkeras.focal_loss(ŷ, Y, gamma=3.0), rtol=1e-6)


@pytest.mark.parametrize("f", [mse, dice_coeff_loss])
def test_a_compiled_model_saves_and_loads(f, tmp_path):
    m = Chain(Dense(3, 4, σ))
    m.compile("sgd", loss=as_keras_loss(f))
    x = rng.random((6, 3)).astype("float32")
    m.fit(x, Y, verbose=0)
    m.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    expected = m.evaluate(x, Y, verbose=0)
    np.testing.assert_allclose(loaded.evaluate(x, Y, verbose=0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (absolute, "absolute"),
        (lambda y_hat, y: absolute(y_hat, y), "<lambda>"),
        (functools.partial(absolute), "functools.partial"),
    ],
)
def test_a_loss_of_your_own_trains_but_has_to_be_registered_to_be_saved(f, name):
    loss = as_keras_loss(f)
    np.testing.assert_allclose(loss(Y, ŷ), np.abs(ŷ - Y).mean(), rtol=1e-5)
    m = Chain(Dense(3, 4))
    m.compile("sgd", loss=loss)
    m.fit(rng.random((6, 3)), Y, verbose=0)
    with pytest.raises(ValueError, match=f"the loss <?{name}.* cannot be saved"):
        loss.get_config()


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        ("mse", {}, "expects a function"),
        (mse, {"agg": tf.reduce_sum}, "takes no agg"),
        (mse, {"gamma": 2}, "mse.* does not take .*gamma"),
    ],
)
def test_wrong_arguments(f, options, message):
    with pytest.raises(TypeError, match=message):
        as_keras_loss(f, **options)
