"""What layers add to a loss, against Keras's own list of it, and against `fit`."""

import keras
import numpy as np
import pytest

from fluxkeras import Chain, Dense, losses, mse, train

X, Y = np.random.default_rng(0).normal(size=(2, 24, 3)).astype("float32")
L1, L2 = keras.regularizers.L1(0.1), keras.regularizers.L2(0.2)


class Sparse(keras.layers.Layer):
    """Asks for small outputs, as an autoencoder may."""

    def call(self, x):
        self.add_loss(0.3 * keras.ops.mean(keras.ops.abs(x)))
        return x


class Plain:
    """An object that is not Keras's."""

    def __init__(self, *parts):
        self.parts = parts


def regularised():
    hidden = keras.layers.Dense(4, kernel_regularizer=L2, activity_regularizer=L1)
    return keras.Sequential([keras.Input((3,)), hidden, Sparse(), keras.layers.Dense(3)])


def test_all_kinds_are_summed():
    hidden = keras.layers.Dense(4, kernel_regularizer=L2)
    m = keras.Sequential([keras.Input((3,)), hidden, Sparse()])

    h = m(X).numpy()

    expected = 0.2 * (hidden.kernel.numpy() ** 2).sum() + 0.3 * np.abs(h).mean()
    np.testing.assert_allclose(losses(m), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "held", [lambda m: Plain(m), lambda m: [m], lambda m: {"a": (m, m)}, lambda m: Chain(m)]
)
def test_models_within_are_found_once(held):
    m = regularised()
    whole = held(m)
    (whole if isinstance(whole, Chain) else m)(X)

    np.testing.assert_allclose(losses(whole), sum(map(float, m.losses)), rtol=1e-6)


def test_without_any_it_is_nothing():
    assert float(losses(Chain(Dense(3, 2)))) == float(losses()) == 0.0


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
@pytest.mark.filterwarnings("error")  # nothing is left out
def test_an_objective_that_adds_them_trains_as_fit(form):
    ours, theirs = regularised(), regularised()
    theirs.set_weights(ours.get_weights())
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)]

    opt = keras.optimizers.SGD(0.1)
    train(lambda m, x, y: mse(m(x), y) + losses(m), ours, batches, opt, form=form, progress=False)
    theirs.compile(keras.optimizers.SGD(0.1), "mse")
    theirs.fit(X, Y, batch_size=8, shuffle=False, verbose=0)

    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
