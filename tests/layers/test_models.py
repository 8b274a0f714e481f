import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    AlphaDropout,
    Bilinear,
    Chain,
    Dense,
    Descent,
    Dropout,
    Embedding,
    Maxout,
    PairwiseFusion,
    Parallel,
    ShapeError,
    SkipConnection,
    flatten,
    modules,
    outputsize,
    param,
    relu,
    testmode,
    train,
    trainmode,
)

rng = np.random.default_rng(0)
ONES = np.ones((40, 6), "float32")


class Block:
    def __init__(self, *layers):
        self.layers, self.scale = list(layers), param(1.0)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


class Switch:
    active = None

    def __call__(self, x):
        return x


class Composite(keras.layers.Layer):
    """A user's own layer of Keras, with layers within."""

    def __init__(self):
        super().__init__()
        self.noise = keras.layers.GaussianNoise(1.0)
        self.others = {"drop": keras.layers.Dropout(0.5)}

    def build(self, input_shape):
        self.built = True

    def call(self, x, training=None):
        return self.others["drop"](self.noise(x))


# --- modules -------------------------------------------------------------------------------------


def test_modules_are_all_layers_depth_first():
    inner = Dense(4, 4)
    skip = SkipConnection(Chain(inner, relu), tf.add)
    join = Bilinear((4, 4), 2)
    sides = Parallel(join, a=inner, b=Dense(4, 4))
    m = Chain(skip, sides, Maxout(lambda: Dense(2, 2), 2), lambda x: x)

    found = modules(m)

    assert found == [m, skip, skip[0], inner, sides, join, sides["b"], m[2], m[2][0], m[2][1]]


def test_modules_of_objects_lists_and_layers_of_keras():
    block, composite, lstm = Block(Dense(2, 3)), Composite(), keras.layers.LSTM(3)
    model = keras.Sequential([composite, lstm])

    assert modules({"a": block, "b": [model]}) == [
        block, block.layers[0], model, composite, composite.noise, composite.others["drop"],
        lstm, lstm.cell,
    ]  # fmt: skip


def test_modules_of_a_functional_model_are_its_own():
    inputs = keras.Input((3,))
    first, second = Dense(3, 2), Dense(2, 1)
    hidden = first(inputs)
    model = keras.Model(hidden, second(hidden))

    assert first not in modules(model)
    assert second in modules(model)


# --- outputsize ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "sizes", "expected"),
    [
        (Chain(Dense(10, 5, relu), Dense(5, 2)), [(10,)], (2,)),
        (Chain(Dense(10, 5, relu), Dense(5, 2)), [(16, 10)], (16, 2)),
        (Chain(Dense(10, 5, relu), Dense(5, 2)), [(None, 10)], (None, 2)),
        (Dense(10, 5), [(3, 4, 10)], (3, 4, 5)),
        ([Dense(10, 5), relu], [(3, 10)], (3, 5)),
        ((Dense(10, 5), relu), [(3, 10)], (3, 5)),
        (flatten, [(None, 4, 3)], (None, 12)),
        (lambda x: tf.concat([x, x], -1), [(7, 3)], (7, 6)),
        (Maxout(lambda: Dense(5, 7), 3), [(11, 5)], (11, 7)),
        (SkipConnection(Dense(5, 3), keras.layers.Concatenate()), [(None, 5)], (None, 8)),
        (Parallel(tf.add, Dense(5, 3), Dense(4, 3)), [(2, 5), (2, 4)], (2, 3)),
        (Parallel(tf.add, Dense(5, 3), Dense(4, 3)), [((2, 5), (2, 4))], (2, 3)),
        (Parallel(tf.add, Dense(5, 3), Dense(4, 3)), [(2, 5), (2, 4)], (2, 3)),
        (PairwiseFusion(tf.add, Dense(5, 4), Dense(4, 3)), [(2, 5), (2, 4)], ((2, 4), (2, 3))),
        (Bilinear((5, 4), 7), [(2, 5), (2, 4)], (2, 7)),
    ],
)
def test_outputsize_is_the_shape_of_the_output(m, sizes, expected):
    assert outputsize(m, *sizes) == expected


def test_outputsize_builds_layers_of_keras():
    m = Chain(keras.layers.Conv2D(8, 3), flatten, keras.layers.Dense(2))

    assert outputsize(m, (28, 28, 1), padbatch=True) == (1, 2)
    assert tuple(m[2].kernel.shape) == (26 * 26 * 8, 2)


def test_outputsize_of_indices():
    assert outputsize(Chain(Embedding(10, 4), flatten), (None, 3), dtype="int32") == (None, 12)


def test_outputsize_leaves_the_statistics_alone():
    m = Chain(keras.layers.BatchNormalization())
    outputsize(trainmode(m), (5, 3))

    np.testing.assert_array_equal(m[0].moving_mean, np.zeros(3))


def test_outputsize_tells_which_layer_does_not_fit():
    m = Chain(Dense(10, 5), Dense(4, 2), name="net")
    message = "Dense(4 => 2) expects inputs of shape (..., 4), got (3, 5). (layer 1 of net)"

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        outputsize(m, (3, 10))


@pytest.mark.parametrize(("sizes", "words"), [((), "nothing"), ((3, 10), "3, 10"), ((10,), "10")])
def test_outputsize_takes_tuples(sizes, words):
    message = f"outputsize expects sizes as tuples, got {words}. Write outputsize(m, (32, 10))."

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        outputsize(Dense(10, 5), *sizes)


# --- trainmode, testmode -------------------------------------------------------------------------


MODELS = {
    "ours": lambda: Chain(Dense(6, 6), Dropout(0.5)),
    "nested": lambda: Chain(SkipConnection(Chain(AlphaDropout(0.5)), tf.add)),
    "Keras's": lambda: Chain(keras.layers.Dropout(0.5)),
    "BatchNormalization": lambda: Chain(keras.layers.BatchNormalization()),
    "Sequential": lambda: keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5)]),
    "functional": lambda: functional(),
    "composite": lambda: keras.Sequential([Composite()]),
    "in an object": lambda: Block(keras.layers.Dropout(0.5)),
    "a layer alone": lambda: keras.layers.GaussianNoise(1.0),
}
EACH = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def functional():
    inputs = keras.Input((6,))
    return keras.Model(inputs, Dropout(0.5)(keras.layers.Dropout(0.5)(inputs)))


def trains(m, **training):
    """Whether what is done while training is done."""
    if isinstance(m, Block):
        m = Chain(m)
    layers = m.layers if isinstance(m, keras.Model) else [m]
    if isinstance(layers[0], keras.layers.BatchNormalization):
        x = 3 + rng.normal(size=(40, 6))
        return bool(abs(np.mean(m(x, **training))) < 1)
    once, again = m(ONES, **training).numpy(), m(ONES, **training).numpy()
    return bool(np.any(once != again))


@EACH
@pytest.mark.parametrize(
    ("set_mode", "mode", "expected"),
    [
        (trainmode, True, True),
        (trainmode, False, False),
        (trainmode, "auto", None),
        (trainmode, None, None),
        (testmode, True, False),
        (testmode, False, True),
        (testmode, "auto", None),
        (testmode, None, None),
    ],
)
def test_the_mode_wins_over_training(make, set_mode, mode, expected):
    m = trainmode(make(), expected is not True)  # the opposite before

    assert set_mode(m, mode) is m

    for training in True, False:
        assert trains(m, training=training) is (training if expected is None else expected)
    assert trains(m) is bool(expected)


def test_it_is_on_by_default():
    m = Chain(Dropout(0.5))

    assert trainmode(m)[0].active is True
    assert testmode(m)[0].active is False


def test_objects_with_a_switch_follow():
    switch = Switch()
    trainmode([Chain(switch), 3])

    assert switch.active is True
    assert Switch.active is None


def test_the_mode_counts_when_training():
    m = Chain(Dense(6, 6, init="identity"), keras.layers.Dropout(0.5), Dropout(0.5))

    def loss(x):
        y = m(x)
        return tf.reduce_mean(y), {"std": tf.math.reduce_std(y)}

    opt, seen = Descent(0.0), []
    for mode in True, "auto", True, False:
        history = train(loss, [ONES], opt, progress=False)
        seen.append(history["std"][0] > 0)
        testmode(m, mode)

    assert seen == [True, False, True, False]


def test_the_mode_counts_in_predict_that_was_compiled_before():
    m = Chain(Dropout(0.5))

    assert np.all(m.predict(ONES, verbose=0) == 1)
    assert np.any(trainmode(m).predict(ONES, verbose=0) != 1)
    assert np.all(trainmode(m, None).predict(ONES, verbose=0) == 1)


def test_a_layer_is_left_as_it_was():
    layer = keras.layers.Dropout(0.5)
    before = vars(layer).keys() - {"_called"}

    trainmode(trainmode(layer), "auto")

    assert vars(layer).keys() - {"_called"} == before


def test_models_in_a_mode_are_saved_and_traced(tmp_path):
    m = testmode(Chain(Dense(6, 2), keras.layers.Dropout(0.5), Dropout(0.5)))
    m.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    assert again[2].active is False
    np.testing.assert_array_equal(again(ONES), m(ONES))
    call = tf.function(lambda x: m(x, training=True), jit_compile=True)
    np.testing.assert_allclose(call(ONES), m(ONES), rtol=1e-6)


@pytest.mark.parametrize("set_mode", [trainmode, testmode])
@pytest.mark.parametrize("mode", ["on", 3, 1.0, 1])
def test_a_mode_is_one_of_four(set_mode, mode):
    m = Chain(Dropout(0.5))
    message = f'{set_mode.__name__} expects True, False, "auto" or None, got {mode!r}.'

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        set_mode(m, mode)
    assert m[0].active is None
