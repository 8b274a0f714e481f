import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import SGD, DataLoader, mapobs, param, repeated, train
from fluxkeras.training.independence import is_independent

W = param(1.0)


def sampling():
    while True:
        yield np.float32(W.numpy())


GENERATOR = sampling()
OPT = SGD(0.1)
RNG = np.random.default_rng(0)


class Holder:
    def __init__(self):
        self.weights = tf.Variable(1.0)

    def sample(self, i):
        return self.weights * i


@pytest.mark.parametrize(
    "function",
    [
        lambda i: W * i,
        tf.function(lambda i: W * i),
        tf.function(lambda i: W * i).get_concrete_function(tf.TensorSpec(())),
        np.vectorize(lambda i: W * i),
        functools.lru_cache(lambda i: W * i),
        functools.partial(lambda w, i: w * i, W),
        Holder().sample,
        lambda i: next(GENERATOR),
        keras.layers.Dense(1),
        lambda i: OPT.iterations + i,
    ],
)
def test_a_map_that_may_see_the_model_depends_on_it(function):
    assert not is_independent(map(function, [1, 2]))
    assert not is_independent(zip(map(function, [1, 2]), [1, 2]))


@pytest.mark.parametrize(
    "function",
    [
        lambda i: np.roll(np.arange(3), i) + np.exp(i),
        functools.partial(np.full, 3),
        [1, 2, 3].__getitem__,
        float,
        np.sqrt,
        lambda i: RNG.random(i),
    ],
)
def test_a_map_over_a_container_is_independent(function):
    assert is_independent(map(function, [1, 2]))
    assert is_independent(enumerate(zip(map(function, (1, 2)), range(2))))
    assert not is_independent(map(function, (i for i in range(2))))


def endless(w):
    while True:
        yield np.float32(w.numpy())


def pick(generator, _):
    return next(generator)


DATA = {
    "the variable itself": lambda w: [w] * 4,
    "the variable, repeated": lambda w: repeated(w, 4),
    "a function of TensorFlow's": lambda w: map(tf.function(lambda i: w + 0.0), range(4)),
    "a generator": lambda w: (np.float32(w.numpy()) for _ in range(4)),
    "a generator in a map": lambda w: map(functools.partial(pick, endless(w)), range(4)),
}


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
@pytest.mark.parametrize("data", DATA)
def test_what_depends_on_the_model_is_never_read_too_early(data, form):
    w = param(1.0)

    history = train(
        lambda x: (w * 1.0, x), DATA[data](w), SGD(0.25), form=form, chunk=4, progress=False
    )

    np.testing.assert_allclose(history.losses, [1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(history.aux, [1, 0.75, 0.5, 0.25])


SAMPLES = {"x": np.arange(6.0), "y": [np.ones(6), np.ones(6)]}
SEEN = mapobs(lambda x: x * W, SAMPLES["x"])


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(SAMPLES, 2),
        DataLoader(SAMPLES, 2, collate=True),
        DataLoader(SAMPLES, 2, collate=False),
        DataLoader(mapobs(lambda x: x + 1, SAMPLES["x"]), 2),
        DataLoader(SEEN, 2, parallel=True),
    ],
    ids=str,
)
def test_a_loader_of_arrays_is_independent(loader):
    assert is_independent(loader)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(SEEN, 2),
        DataLoader((SAMPLES["x"], SEEN), 2),
        DataLoader(mapobs(lambda x: x + 1, SEEN), 2),
        DataLoader(SAMPLES["x"], 2, collate=lambda items: np.stack(items) * W),
    ],
    ids=str,
)
def test_a_loader_whose_functions_may_see_the_model_depends_on_it(loader):
    assert not is_independent(loader)
