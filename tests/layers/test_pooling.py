import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    AdaptiveMaxPool,
    AdaptiveMeanPool,
    Chain,
    GlobalMaxPool,
    GlobalMeanPool,
    MaxPool,
    MeanPool,
    SamePad,
    ShapeError,
    lpnormpool,
    maxpool,
    meanpool,
)

rng = np.random.default_rng(0)

AXES = pytest.mark.parametrize("axes", [1, 2, 3])


def each(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def naive_pool(x, window, reduce, filler, pad=0, stride=None):
    """The formula, one window at a time. x: (N, *n, C)."""
    axes = len(window)
    s = np.array(window if stride is None else each(stride, axes))
    pad = each(pad, axes)
    edges = [(p, p) for p in pad] if len(pad) == axes else list(zip(pad[::2], pad[1::2]))
    x = np.pad(x, [(0, 0), *edges, (0, 0)], constant_values=filler)
    size = (np.array(x.shape[1:-1]) - window) // s + 1
    y = np.zeros((len(x), *size, x.shape[-1]))
    for i in itertools.product(*map(range, size)):
        seen = [slice(a, a + k) for a, k in zip(s * i, window)]
        y[(slice(None), *i)] = reduce(x[(slice(None), *seen)], axis=tuple(range(1, axes + 1)))
    return y


KINDS = pytest.mark.parametrize(
    ("kind", "reduce", "filler"), [(MaxPool, np.max, -np.inf), (MeanPool, np.mean, 0)]
)
ADAPTIVE = pytest.mark.parametrize(
    ("kind", "reduce"), [(AdaptiveMaxPool, np.max), (AdaptiveMeanPool, np.mean)]
)
GLOBAL = pytest.mark.parametrize(
    ("kind", "reduce"), [(GlobalMaxPool, np.max), (GlobalMeanPool, np.mean)]
)


# --- MaxPool and MeanPool ------------------------------------------------------------------------


@AXES
@KINDS
@pytest.mark.parametrize(
    "options", [{}, {"stride": 1}, {"stride": 3}, {"pad": 1}, {"pad": 1, "stride": 1}], ids=str
)
def test_pools_are_the_formula(kind, reduce, filler, axes, options):
    window = (2, 3, 2)[:axes]
    x = rng.normal(size=(2, *(7, 6, 5)[:axes], 3)) - 1  # mostly below the zeros of a padding

    y = kind(window, **options)(x)

    np.testing.assert_allclose(y, naive_pool(x, window, reduce, filler, **options), rtol=1e-5)


@KINDS
@pytest.mark.parametrize(
    "options", [{"pad": (1, 0)}, {"pad": (0, 1, 2, 1)}, {"stride": (2, 1)}], ids=str
)
def test_pools_take_numbers_for_each_axis(kind, reduce, filler, options):
    x = rng.normal(size=(2, 7, 6, 3))

    y = kind((3, 3), **options)(x)

    np.testing.assert_allclose(
        y, naive_pool(x, (3, 3), reduce, filler, **options), rtol=1e-5, atol=1e-6
    )


@KINDS
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_pad_puts_the_larger_half_first(kind, reduce, filler, size, stride):
    layer = kind((size,), pad=SamePad(), stride=stride)
    halves = (int(np.ceil((size - 1) / 2)), (size - 1) // 2)  # flux_api.md: total k - 1
    x = rng.normal(size=(1, 9, 2))

    assert layer.pad == halves
    y = naive_pool(x, (size,), reduce, filler, pad=halves, stride=stride)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-6)
    assert y.shape[1] == int(np.ceil(9 / stride))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # The examples of Flux's docstrings.
        (MaxPool((5, 5), pad=SamePad()), (50, 96, 96, 7), (50, 20, 20, 7)),
        (MaxPool((5,), pad=2, stride=(3,)), (50, 100, 7), (50, 34, 7)),
        (MeanPool((5, 5), pad=SamePad()), (50, 96, 96, 7), (50, 20, 20, 7)),
        (AdaptiveMaxPool((25, 25)), (50, 100, 100, 3), (50, 25, 25, 3)),
        (AdaptiveMeanPool((25, 25)), (50, 100, 100, 3), (50, 25, 25, 3)),
        (GlobalMaxPool(), (50, 98, 98, 7), (50, 1, 1, 7)),
        (GlobalMeanPool(), (50, 98, 98, 7), (50, 1, 1, 7)),
    ],
    ids=str,
)
def test_shapes_are_those_of_flux(layer, shape, expected):
    assert tuple(layer.compute_output_shape(shape)) == expected
    assert layer(np.zeros((1, *shape[1:]))).shape == (1, *expected[1:])


# --- The others ----------------------------------------------------------------------------------


@AXES
@ADAPTIVE
@pytest.mark.parametrize("out", [1, 2, 3, 7])
def test_adaptive_pools_have_the_windows_of_flux(kind, reduce, axes, out):
    n = np.array((7, 8, 9)[:axes])
    stride = n // out  # flux_api.md: stride = in ÷ out, window = in - (out - 1) * stride
    window = tuple(n - (out - 1) * stride)
    x = rng.normal(size=(2, *n, 3))

    y = kind((out,) * axes)(x)

    assert y.shape == (2, *(out,) * axes, 3)
    np.testing.assert_allclose(
        y, naive_pool(x, window, reduce, 0, stride=tuple(stride)), rtol=1e-4, atol=1e-6
    )


@GLOBAL
@pytest.mark.parametrize("inner", [(5,), (4, 5), (2, 3, 4), (2, 2, 2, 2)])
def test_global_pools_keep_the_axes(kind, reduce, inner):
    x = rng.normal(size=(2, *inner, 3))

    expected = reduce(x, axis=tuple(range(1, len(inner) + 1)), keepdims=True)
    np.testing.assert_allclose(kind()(x), expected, rtol=1e-5, atol=1e-6)


# --- Compiled, any size, any dtype, saved --------------------------------------------------------


EACH = pytest.mark.parametrize(
    ("kind", "arguments", "options"),
    [
        (MaxPool, [(2, 3)], {"pad": 1, "stride": (2, 1)}),
        (MeanPool, [(2, 2, 2)], {"pad": (1, 0, 0)}),
        (MaxPool, [(2, 1, 2)], {}),
        (AdaptiveMaxPool, [(2, 3)], {}),
        (AdaptiveMeanPool, [(3,)], {}),
        (GlobalMaxPool, [], {}),
        (GlobalMeanPool, [], {}),
    ],
)


def images(arguments):
    axes = len(arguments[0]) if arguments else 2
    return rng.normal(size=(3, *(6, 7, 8)[:axes], 2)).astype("float32")


@EACH
@pytest.mark.parametrize("jit", [False, True])
def test_compiled_for_any_batch_size(kind, arguments, options, jit):
    layer, x = kind(*arguments, **options), images(arguments)
    signature = [tf.TensorSpec((None, *x.shape[1:]))]
    call = tf.function(lambda x: layer(x), input_signature=signature, jit_compile=jit)

    for batch in 1, 3:
        np.testing.assert_allclose(call(x[:batch]), layer(x[:batch]), rtol=1e-5, atol=1e-6)
    assert layer(keras.Input(x.shape[1:])).shape == (None, *layer(x).shape[1:])


@pytest.mark.parametrize(
    "layer",
    [MaxPool((2, 3), pad=1), MeanPool((2, 2, 2)), GlobalMaxPool(), GlobalMeanPool()],
    ids=str,
)
def test_images_of_any_size(layer):
    axes = len(getattr(layer, "window", (2, 2)))
    call = tf.function(layer, input_signature=[tf.TensorSpec((None,) * (axes + 1) + (2,))])

    for n in 4, 7:
        x = rng.normal(size=(2, *(n,) * axes, 2)).astype("float32")
        np.testing.assert_allclose(call(x), layer(x), rtol=1e-5)


@EACH
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_dtype_with_its_gradient(kind, arguments, options, dtype):
    x = tf.constant(images(arguments), dtype)
    layer = kind(*arguments, **options, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)

    gradient = tape.gradient(y, x)

    assert y.dtype == gradient.dtype == dtype
    expected = kind(*arguments, **options)(tf.cast(x, "float32"))
    np.testing.assert_allclose(y, expected, rtol=1e-2, atol=1e-2)
    # Means and maxima move with what they are taken of; the zeros around it do not.
    if "pad" not in options:
        np.testing.assert_allclose(np.sum(gradient), np.size(y), rtol=1e-2)


@EACH
def test_saving(kind, arguments, options, tmp_path):
    model, x = Chain(kind(*arguments, **options)), images(arguments)
    y = model(x)
    model.save(tmp_path / "m.keras")

    loaded = keras.models.load_model(tmp_path / "m.keras")

    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded(x), y)


def test_whole_numbers_are_taken():
    x = np.arange(4, dtype=np.uint8).reshape(1, 4, 1)

    assert MaxPool((2,))(x).numpy().ravel().tolist() == [1.0, 3.0]
    assert MeanPool((2,))(x).numpy().ravel().tolist() == [0.5, 2.5]
    assert GlobalMeanPool()(x).numpy().ravel().tolist() == [1.5]


# --- Printing and errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (MaxPool((2, 2)), "MaxPool((2, 2))"),
        (MaxPool([2, 2], stride=2), "MaxPool((2, 2))"),
        (MaxPool((5, 5), pad=SamePad()), "MaxPool((5, 5), pad=2)"),
        (MaxPool((5,), pad=2, stride=(3,)), "MaxPool((5,), pad=2, stride=3)"),
        (MeanPool((2, 2), pad=(1, 0)), "MeanPool((2, 2), pad=(1, 1, 0, 0))"),
        (MeanPool((2, 3), stride=(3, 2)), "MeanPool((2, 3), stride=(3, 2))"),
        (AdaptiveMaxPool((25, 25)), "AdaptiveMaxPool((25, 25))"),
        (AdaptiveMeanPool([25]), "AdaptiveMeanPool((25,))"),
        (GlobalMaxPool(), "GlobalMaxPool()"),
        (GlobalMeanPool(), "GlobalMeanPool()"),
    ],
)
def test_printing(layer, text):
    assert str(layer) == repr(layer) == text
    assert repr(eval(text)) == text


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            MaxPool((2, 2)),
            (28, 28, 1),
            "MaxPool((2, 2)) expects inputs of shape (batch, height, width, channels), got "
            "(28, 28, 1). Give a single input a batch axis: x[None].",
        ),
        (
            AdaptiveMeanPool((2,)),
            (1, 28, 28, 1),
            "AdaptiveMeanPool((2,)) expects inputs of shape (batch, length, channels), got "
            "(1, 28, 28, 1).",
        ),
        (
            MeanPool((4, 3), pad=1),
            (1, 1, 1, 3),
            "MeanPool((4, 3), pad=1) expects inputs of at least (2, 1) between batch and channels, "
            "got (1, 1, 1, 3).",
        ),
        (
            AdaptiveMaxPool((4, 4)),
            (1, 4, 3, 2),
            "AdaptiveMaxPool((4, 4)) expects inputs of a known size, at least its own, got "
            "(1, 4, 3, 2).",
        ),
        (
            GlobalMaxPool(),
            (4, 3),
            "GlobalMaxPool() expects inputs of shape (batch, …, channels), got (4, 3).",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shape, words):
    with pytest.raises(ShapeError, match=f"^{re.escape(words)}$"):
        layer(np.ones(shape))


def test_adaptive_pools_want_to_know_the_size():
    with pytest.raises(ShapeError, match=re.escape("got (None, None, None, 3).")):
        AdaptiveMaxPool((2, 2))(keras.Input((None, None, 3)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: MaxPool(2),
            "MaxPool expects a window of one, two or three sizes, got 2. Write MaxPool((3, 3), …).",
        ),
        (
            lambda: AdaptiveMaxPool(()),
            "AdaptiveMaxPool expects a window of one, two or three sizes, got ().",
        ),
        (
            lambda: MeanPool((2, 0)),
            "MeanPool expects window to be a whole number from 1, or 2 of them, got (2, 0).",
        ),
        (
            lambda: MeanPool((2, 2), stride=0),
            "MeanPool expects stride to be a whole number from 1, or 2 of them, got 0.",
        ),
        (
            lambda: MaxPool((2, 2), pad=(1, 2, 3)),
            "MaxPool expects pad to be a whole number, 2 of them, or 4: one before and one after "
            "each axis; got (1, 2, 3).",
        ),
    ],
)
def test_odd_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


# --- Functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"pad": 1, "stride": (3, 2)}], ids=str)
def test_functions_are_the_formulas(options):
    x = rng.normal(size=(2, 7, 6, 3))

    expected = naive_pool(x, (2, 3), np.max, -np.inf, **options)
    np.testing.assert_allclose(maxpool(x, (2, 3), **options), expected)
    expected = naive_pool(x, (2, 3), np.mean, 0, **options)
    np.testing.assert_allclose(meanpool(x, (2, 3), **options), expected)
    expected = naive_pool(x, (2, 3), np.nanmean, np.nan, **options)
    y = meanpool(x, (2, 3), **options, count_include_pad=False)
    np.testing.assert_allclose(y, expected)
    expected = naive_pool(np.abs(x), (2, 3), lambda v, axis: np.sum(v**3, axis), 0, **options)
    y = lpnormpool(np.abs(x), 3, (2, 3), **options)
    np.testing.assert_allclose(y, expected ** (1 / 3))


def test_functions_keep_the_precision_and_compile():
    x = rng.normal(size=(2, 6, 4)).astype("float32")

    for f in maxpool, meanpool, lambda x, k: lpnormpool(x, 2, k):
        y = f(x, (2,))
        assert y.shape == (2, 3, 4) and y.dtype == "float32"
        assert f(x.astype("float64"), (2,)).dtype == "float64"
        for compiled in (
            tf.function(lambda x, f=f: f(x, (2,)), jit_compile=True),
            tf.function(lambda x, f=f: f(x, (2,)), [tf.TensorSpec((None, None, 4))]),
        ):
            np.testing.assert_allclose(compiled(x), y, rtol=1e-5)
    assert maxpool([[[1], [3]]], (2,)).numpy().tolist() == [[[3.0]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: maxpool(x, 2), "maxpool expects a window of one, two or three sizes, got 2."),
        (
            lambda x: meanpool(x, (2, 2)),
            "meanpool expects inputs of shape (batch, height, width, channels), got (2, 6, 4).",
        ),
        (
            lambda x: maxpool(x, (7,)),
            "maxpool expects inputs of at least (7) between batch and channels, got (2, 6, 4).",
        ),
        (
            lambda x: lpnormpool(x, 0, (2,)),
            "lpnormpool expects a power p above 0, got 0. Its limit is maxpool.",
        ),
        (lambda x: lpnormpool(x, np.inf, (2,)), "lpnormpool expects a power p above 0, got inf."),
    ],
)
def test_functions_name_themselves(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call(np.ones((2, 6, 4)))
