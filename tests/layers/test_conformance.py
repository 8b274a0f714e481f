"""What every layer does: one row of `CASES` for each, and a test that none is missing.

For a new layer, add a row under its name: the call that makes it, and the shape of an input without
the batch axis, or several for a layer of several inputs. Say `dtype="int32"` for a layer of
whole numbers, which are drawn from 0 to 3; `single=False` if it takes no sample without a batch
axis; `exact=False` if its numbers are random even when it does not train.
"""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import fluxkeras
from fluxkeras import Chain, outputsize

NAMES = vars(fluxkeras) | {"tf": tf, "add": tf.add}


class Case:
    def __init__(self, source, *shapes, dtype="float32", single=True, exact=True):
        self.source, self.shapes, self.dtype = source, shapes, dtype
        self.single, self.exact = single, exact

    def make(self):
        return eval(self.source, dict(NAMES))

    def inputs(self, *lead, dtype=None):
        rng = np.random.default_rng(0)
        if self.dtype == "int32":
            return [tf.constant(rng.integers(0, 4, (*lead, *s)), tf.int32) for s in self.shapes]
        return [tf.constant(rng.normal(size=(*lead, *s)), dtype or self.dtype) for s in self.shapes]

    def specs(self):
        return [tf.TensorSpec((None, *shape), self.dtype) for shape in self.shapes]


IMAGE = 6, 7, 4

CASES = {
    "Chain": Case("Chain(Dense(3, 4, relu), Dense(4, 2))", (3,)),
    "Dense": Case("Dense(3, 2, σ)", (3,)),
    "Scale": Case("Scale(3, σ)", (3,)),
    "Diagonal": Case("Diagonal(2, 3)", (2, 3)),
    "Bilinear": Case("Bilinear((3, 2), 5, tanh)", (3,), (2,)),
    "Embedding": Case("Embedding(4, 3, padding_idx=1)", (5,), dtype="int32"),
    "EmbeddingBag": Case('EmbeddingBag(4, 3, "max")', (5,), dtype="int32"),
    "Maxout": Case("Maxout(Dense(3, 2), Dense(3, 2))", (3,)),
    "PairwiseFusion": Case("PairwiseFusion(tf.add, Dense(3, 2), Dense(2, 4))", (3,), (2,)),
    "Parallel": Case("Parallel(tf.add, a=Dense(3, 2), b=Dense(4, 2))", (3,), (4,)),
    "SkipConnection": Case("SkipConnection(Dense(3, 3), tf.add)", (3,)),
    "Conv": Case("Conv((3, 2), 4, 2, relu, pad=1)", IMAGE, single=False),
    "CrossCor": Case("CrossCor((3, 2), 4, 2)", IMAGE, single=False),
    "ConvTranspose": Case("ConvTranspose((3, 2), 4, 2, stride=2)", IMAGE, single=False),
    "MaxPool": Case("MaxPool((2, 2))", IMAGE, single=False),
    "MeanPool": Case("MeanPool((2, 2), pad=1)", IMAGE, single=False),
    "AdaptiveMaxPool": Case("AdaptiveMaxPool((2, 3))", IMAGE, single=False),
    "AdaptiveMeanPool": Case("AdaptiveMeanPool((2, 3))", IMAGE, single=False),
    "GlobalMaxPool": Case("GlobalMaxPool()", IMAGE, single=False),
    "GlobalMeanPool": Case("GlobalMeanPool()", IMAGE, single=False),
    "PixelShuffle": Case("PixelShuffle(2)", IMAGE, single=False),
    "Upsample": Case('Upsample("bilinear", scale=2)', IMAGE, single=False),
    "Dropout": Case("Dropout(0.5, seed=1)", (3,)),
    "AlphaDropout": Case("AlphaDropout(0.5, seed=1)", (3,)),
    "LayerNorm": Case("LayerNorm(7, 4, relu)", IMAGE, single=False),
    "BatchNorm": Case("BatchNorm(4)", IMAGE, single=False),
    "InstanceNorm": Case("InstanceNorm(4)", IMAGE, single=False),
    "GroupNorm": Case("GroupNorm(4, 2)", IMAGE, single=False),
    "RNNCell": Case("RNNCell(3, 2)", (3,)),
    "LSTMCell": Case("LSTMCell(3, 2)", (3,)),
    "GRUCell": Case("GRUCell(3, 2)", (3,)),
    "GRUv3Cell": Case("GRUv3Cell(3, 2)", (3,)),
    "RNN": Case("RNN(3, 2)", (5, 3)),
    "LSTM": Case("LSTM(3, 2)", (5, 3)),
    "GRU": Case("GRU(3, 2)", (5, 3)),
    "GRUv3": Case("GRUv3(3, 2)", (5, 3)),
    "Recurrence": Case("Recurrence(GRUCell(3, 2))", (5, 3)),
    "WeightNorm": Case("WeightNorm(Dense(3, 2, σ))", (3,)),
    "MultiHeadAttention": Case("MultiHeadAttention(8, nheads=2)", (5, 8)),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

LAYERS = {
    name
    for name in fluxkeras.__all__
    if inspect.isclass(getattr(fluxkeras, name))
    and issubclass(getattr(fluxkeras, name), keras.layers.Layer)
}


def same(got, expected, **tolerance):
    got, expected = keras.tree.flatten(got), keras.tree.flatten(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **tolerance or {"rtol": 1e-5, "atol": 1e-5})


def test_every_layer_has_a_row():
    assert set(CASES) == LAYERS


@EACH
def test_the_same_eagerly_and_compiled_for_any_batch(case):
    layer = case.make()
    graph = tf.function(layer, input_signature=case.specs())
    xla = tf.function(layer, jit_compile=True)

    for batch in 1, 5:
        xs = case.inputs(batch)
        expected = layer(*xs)
        for y, z in zip(keras.tree.flatten(expected), keras.tree.flatten(graph(*xs)), strict=True):
            assert y.shape[0] == batch and y.dtype == z.dtype
        if case.exact:
            same(graph(*xs), expected)
    if case.exact:
        same(xla(*xs), expected)


@EACH
def test_samples_do_not_mix(case):
    layer = case.make()
    xs = case.inputs(4)

    if case.exact:
        rows = [layer(*(x[i : i + 1] for x in xs)) for i in range(4)]
        same(keras.tree.map_structure(lambda *ys: tf.concat(ys, 0), *rows), layer(*xs))


@EACH
def test_one_sample_without_a_batch_axis(case):
    if not case.single:
        return
    layer = case.make()
    xs = case.inputs(2)

    y = layer(*(x[0] for x in xs))

    if case.exact:
        same(y, keras.tree.map_structure(lambda y: y[0], layer(*xs)))


@EACH
def test_an_open_batch_stays_open(case):
    layer = case.make()
    sizes = [(None, *shape) for shape in case.shapes]
    shapes = [x.shape for x in keras.tree.flatten(layer(*case.inputs(3)))]

    y = outputsize(layer, *sizes, dtype=case.dtype)

    assert flat_shapes(y) == [(None, *shape[1:]) for shape in shapes]


def flat_shapes(y):
    if all(n is None or isinstance(n, int) for n in y):
        return [y]
    return [shape for part in y for shape in flat_shapes(part)]


@EACH
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions(case, dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        layer = case.make()
    finally:
        keras.config.set_dtype_policy(before)

    for y in keras.tree.flatten(layer(*case.inputs(2, dtype=dtype))):
        assert y.dtype == dtype
        assert np.all(np.isfinite(y))
    for variable in layer.trainable_variables:
        assert variable.dtype == dtype


@EACH
@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_whole_numbers_and_truths_count_as_numbers(case, dtype):
    if case.dtype == "int32" or "tf.add" in case.source:  # TensorFlow adds numbers of one kind only
        return
    layer = case.make()
    xs = [tf.cast(x > 0, dtype) for x in case.inputs(2)]

    if case.exact:
        same(layer(*xs), layer(*(tf.cast(x, "float32") for x in xs)))


@EACH
def test_every_parameter_gets_a_gradient(case):
    layer = case.make()
    with tf.GradientTape() as tape:
        ys = keras.tree.flatten(layer(*case.inputs(3), training=True))
        loss = tf.add_n([tf.reduce_sum(y**2) for y in ys])

    for gradient in tape.gradient(loss, [v.value for v in layer.trainable_variables]):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient)))


@EACH
def test_it_comes_back_from_a_file(case, tmp_path):
    layer = case.make()
    model = Chain(layer)
    xs = case.inputs(3)
    for variable in layer.trainable_variables:
        variable.assign(variable + 0.5)
    model.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(model) and str(again) == str(model)
    if case.exact:
        same(again(*xs), model(*xs), rtol=0, atol=0)


@EACH
def test_its_source_makes_it_again(case):
    source = repr(case.make())

    assert repr(eval(source, dict(NAMES))) == source


@EACH
def test_it_is_a_layer_of_keras(case):
    inputs = [keras.Input(shape, dtype=case.dtype) for shape in case.shapes]
    layer = case.make()
    xs = case.inputs(3)

    model = keras.Model(inputs, layer(*inputs))

    if case.exact:
        same(model(xs if len(xs) > 1 else xs[0]), layer(*xs))
    assert len(model.trainable_variables) == len(layer.trainable_variables)
