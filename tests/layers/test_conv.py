import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Conv,
    ConvTranspose,
    CrossCor,
    DepthwiseConv,
    SamePad,
    ShapeError,
    bias_act,
    conv,
    conv_bias_act,
    depthwiseconv,
    identity_init,
    param,
    relu,
    tanh,
    σ,
)

rng = np.random.default_rng(0)


def each(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def edges(pad, axes):
    """Flux's reading of pad: one for all, one for each axis, or two for each axis."""
    pad = each(pad, axes)
    return [(p, p) for p in pad] if len(pad) == axes else list(zip(pad[::2], pad[1::2]))


def places(shape):
    return itertools.product(*map(range, shape))


def naive_conv(x, w, stride=1, pad=0, dilation=1, groups=1, flipped=True):
    """The formula, one product at a time. x: (N, *n, in), w: (*k, in / groups, out)."""
    axes = w.ndim - 2
    s, d = np.array(each(stride, axes)), np.array(each(dilation, axes))
    k = np.array(w.shape[:axes])
    x = framed(x, edges(pad, axes))
    size = (np.array(x.shape[1:-1]) - d * (k - 1) - 1) // s + 1
    share_in, out = w.shape[-2:]
    y = np.zeros((len(x), *size, out))
    for i in places(size):
        for a in places(k):
            tap = tuple(k - 1 - a) if flipped else a
            seen = x[(slice(None), *(s * i + d * a))]
            for o in range(out):
                first = o // (out // groups) * share_in
                y[(slice(None), *i, o)] += seen[:, first : first + share_in] @ w[(*tap, ..., o)]
    return y


def naive_transpose(x, w, stride=1, pad=0, outpad=0, dilation=1, groups=1):
    """The formula, one product at a time. x: (N, *n, in), w: (*k, out / groups, in)."""
    axes = w.ndim - 2
    s, d = np.array(each(stride, axes)), np.array(each(dilation, axes))
    k, n = np.array(w.shape[:axes]), np.array(x.shape[1:-1])
    pads, more = edges(pad, axes), each(outpad, axes)
    share_out, channels = w.shape[-2:]
    # Flux: (n - 1) s + d (k - 1) + 1 - pad_lo - pad_hi + outpad
    full = np.zeros((len(x), *((n - 1) * s + d * (k - 1) + 1), share_out * groups))
    for i in places(n):
        for a in places(k):
            for c in range(channels):
                first = c // (channels // groups) * share_out
                here = (slice(None), *(s * i + d * a), slice(first, first + share_out))
                full[here] += x[(slice(None), *i, c)][:, None] * w[(*(k - 1 - a), ..., c)]
    return framed(full, [(-lo, extra - hi) for (lo, hi), extra in zip(pads, more)])


def framed(x, ends):
    """x with zeros at both ends of its inner axes, or less than it was where ends are negative."""
    x = np.pad(x, [(0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in ends), (0, 0)])
    inner = [slice(-min(lo, 0), n + min(hi, 0)) for (lo, hi), n in zip(ends, x.shape[1:])]
    return x[(slice(None), *inner)]


def randomly(layer, *shape):
    """Give a layer random numbers, and a random input to it."""
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return rng.normal(size=shape)


OPTIONS = [
    {},
    {"stride": 2},
    {"pad": 1},
    {"dilation": 2, "pad": 2},
    {"stride": 2, "dilation": 2, "pad": 1},
    {"groups": 2},
    {"groups": 4, "stride": 2, "pad": 1},
    {"groups": 4, "dilation": 2, "stride": 2, "pad": 1},
    {"groups": 4, "dilation": 2, "pad": 2},
]
BY_AXIS = [
    {"pad": (1, 2)},
    {"pad": (0, 1, 2, 3)},
    {"pad": (-1, 1, 2, -2)},
    {"stride": (2, 1), "dilation": (1, 2), "pad": (1, 0)},
    {"stride": (1, 2), "groups": 4},
]
AXES = pytest.mark.parametrize("axes", [1, 2, 3])


def ids(options):
    return "-".join(f"{k}={v}" for k, v in options.items()) or "plain"


# --- Conv and CrossCor ---------------------------------------------------------------------------


@AXES
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("kind", [Conv, CrossCor])
def test_conv_is_the_formula(kind, axes, options):
    layer = kind((3, 2, 1)[:axes], 4, 8, **options)
    x = randomly(layer, 2, *(7, 5, 3)[:axes], 4)

    y = layer(x)

    expected = naive_conv(x, layer.kernel.numpy(), flipped=kind is Conv, **options)
    np.testing.assert_allclose(y, expected + layer.bias.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", BY_AXIS, ids=ids)
def test_conv_takes_numbers_for_each_axis(options):
    layer = Conv((3, 2), 4, 4, **options)
    x = randomly(layer, 2, 7, 6, 4)

    expected = naive_conv(x, layer.kernel.numpy(), **options) + layer.bias.numpy()
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


@AXES
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
def test_gradients_are_those_of_a_bilinear_map(kind, axes, options):
    """For f linear in x: d/dx <f(x), u> · v = <f(v), u>; the same for the kernel."""
    layer = kind((2, 3, 2)[:axes], 4, 8, bias=False, dtype="float64", **options)
    x = tf.constant(randomly(layer, 2, *(6, 7, 5)[:axes], 4))
    v, dw = tf.constant(rng.normal(size=x.shape)), rng.normal(size=layer.kernel.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        u = tf.constant(rng.normal(size=y.shape))
        product = tf.reduce_sum(y * u)

    by_x, by_w = tape.gradient(product, [x, layer.kernel.value])

    np.testing.assert_allclose(tf.reduce_sum(by_x * v), tf.reduce_sum(layer(v) * u), rtol=1e-9)
    layer.kernel.assign(dw)
    np.testing.assert_allclose(tf.reduce_sum(by_w * dw), tf.reduce_sum(layer(x) * u), rtol=1e-9)


def test_conv_turns_its_kernel_round_and_cross_cor_does_not():
    impulse = np.zeros((1, 5, 5, 1))
    impulse[0, 2, 2, 0] = 1
    w = np.arange(9.0).reshape(3, 3, 1, 1)

    np.testing.assert_array_equal(Conv(w)(impulse)[0, :, :, 0], w[:, :, 0, 0])
    np.testing.assert_array_equal(CrossCor(w)(impulse)[0, :, :, 0], w[::-1, ::-1, 0, 0])


@AXES
def test_cross_cor_is_the_convolution_of_keras(axes):
    layer = CrossCor((3,) * axes, 2, 5, relu)
    x = randomly(layer, 2, *(6,) * axes, 2)
    kind = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)[axes - 1]
    other = kind(5, 3, activation="relu")
    other.build(x.shape)
    other.set_weights(layer.get_weights())

    np.testing.assert_allclose(layer(x), other(x), rtol=1e-5, atol=1e-5)


def test_arrays_of_flux_give_the_numbers_of_flux():
    w = np.array([[1.0, 2], [3, 4]])
    x = np.arange(1.0, 10).reshape(3, 3).T
    y = np.zeros((2, 2))
    for i, j in places((2, 2)):
        y[i, j] = sum(x[i + a, j + b] * w[1 - a, 1 - b] for a, b in places((2, 2)))

    layer = Conv((2, 2), 1, 1)
    layer.kernel.assign(w[:, :, None, None])

    np.testing.assert_allclose(layer(x[None, :, :, None])[0, :, :, 0], y)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # The examples of Flux's docstrings.
        (Conv((5, 5), 3, 7, relu, bias=False), (50, 100, 100, 3), (50, 96, 96, 7)),
        (Conv((5, 5), 3, 7, stride=2), (50, 100, 100, 3), (50, 48, 48, 7)),
        (Conv((5, 5), 3, 7, stride=2, pad=SamePad()), (50, 100, 100, 3), (50, 50, 50, 7)),
        (Conv((1, 1), 3, 7, pad=(20, 10, 0, 0)), (50, 100, 100, 3), (50, 130, 100, 7)),
        (Conv((5, 5), 3, 7, stride=2, dilation=4), (50, 100, 100, 3), (50, 42, 42, 7)),
        (ConvTranspose((5, 5), 3, 7, relu), (50, 100, 100, 3), (50, 104, 104, 7)),
        (ConvTranspose((5, 5), 3, 7, stride=2), (50, 100, 100, 3), (50, 203, 203, 7)),
        (ConvTranspose((5, 5), 3, 7, stride=2, outpad=1), (50, 100, 100, 3), (50, 204, 204, 7)),
        (
            ConvTranspose((5, 5), 3, 7, stride=3, pad=SamePad()),
            (50, 100, 100, 3),
            (50, 300, 300, 7),
        ),
        (CrossCor((5, 5), 3, 6, relu, bias=False), (50, 100, 100, 3), (50, 96, 96, 6)),
        (CrossCor((5, 5), 3, 7, stride=3, pad=(2, 0)), (50, 100, 100, 3), (50, 34, 32, 7)),
        (DepthwiseConv((5, 5), 3, 6, relu, bias=False), (50, 100, 100, 3), (50, 96, 96, 6)),
        (DepthwiseConv((5, 5), 3, 9, stride=2, pad=2), (50, 100, 100, 3), (50, 50, 50, 9)),
    ],
    ids=str,
)
def test_shapes_are_those_of_flux(layer, shape, expected):
    assert tuple(layer.compute_output_shape(shape)) == expected
    assert layer(np.zeros((1, *shape[1:]))).shape == (1, *expected[1:])


# --- ConvTranspose -------------------------------------------------------------------------------


TRANSPOSED = [
    {},
    {"stride": 2},
    {"stride": 3, "pad": 1},
    {"dilation": 2},
    {"stride": 2, "dilation": 2, "pad": 1},
    {"stride": 2, "outpad": 1},
    {"stride": 2, "outpad": 1, "pad": 1},
    {"groups": 2, "stride": 2},
    {"groups": 4, "dilation": 2, "outpad": 2},
]


@AXES
@pytest.mark.parametrize("options", TRANSPOSED, ids=ids)
def test_conv_transpose_is_the_formula(axes, options):
    layer = ConvTranspose((3, 2, 3)[:axes], 4, 8, **options)
    x = randomly(layer, 2, *(4, 3, 2)[:axes], 4)

    y = layer(x)

    expected = naive_transpose(x, layer.kernel.numpy(), **options) + layer.bias.numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"pad": (0, 1, 2, 1), "stride": 2},
        {"stride": (2, 3), "pad": (1, 0), "outpad": (1, 0)},
        {"stride": (1, 2), "dilation": (2, 1)},
    ],
    ids=ids,
)
def test_conv_transpose_takes_numbers_for_each_axis(options):
    layer = ConvTranspose((3, 4), 2, 3, **options)
    x = randomly(layer, 2, 5, 4, 2)

    expected = naive_transpose(x, layer.kernel.numpy(), **options) + layer.bias.numpy()
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "pad": 1}, {"groups": 2, "dilation": 2}])
def test_conv_transpose_is_the_adjoint_of_conv(options):
    conv = Conv((3, 3), 4, 6, bias=False, **options)
    transpose = ConvTranspose((3, 3), 6, 4, bias=False, **options)
    transpose.kernel.assign(rng.normal(size=conv.kernel.shape))  # the same shape
    conv.kernel.assign(transpose.kernel)
    x = rng.normal(size=(2, 7, 7, 4))
    y = rng.normal(size=conv(x).shape)

    np.testing.assert_allclose(np.sum(conv(x) * y), np.sum(x * transpose(y)), rtol=1e-4)


# --- SamePad -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_pad_puts_the_larger_half_first(kernel, dilation, stride):
    layer = Conv((kernel,), 1, 1, pad=SamePad(), dilation=dilation, stride=stride)
    total = dilation * (kernel - 1)
    halves = (int(np.ceil(total / 2)), total // 2)  # flux_api.md: (cld, fld)
    x = randomly(layer, 1, 11, 1)

    assert layer.pad == halves
    y = naive_conv(x, layer.kernel.numpy(), pad=halves, dilation=dilation, stride=stride)
    np.testing.assert_allclose(layer(x), y + layer.bias.numpy(), rtol=1e-4, atol=1e-5)
    assert layer(x).shape[1] == int(np.ceil(11 / stride))


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_same_pad_of_a_transposed_convolution_multiplies_the_size(kernel, stride):
    layer = ConvTranspose((kernel, kernel), 1, 2, pad=SamePad(), stride=stride)

    assert layer(np.ones((1, 4, 5, 1))).shape == (1, 4 * stride, 5 * stride, 2)


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        Conv((3, 3), 1, 16, relu),
        Conv((3, 3), (1, 16), relu),
        Conv([3, 3], [1, 16], "relu"),
        Conv((3, 3), 1, 16, activation="relu"),
        Conv((np.int64(3), 3), np.int32(1), 16, relu, pad=(0, 0), stride=[1, 1]),
    ],
)
def test_conv_takes_its_sizes_as_a_pair_too(layer):
    assert repr(layer) == "Conv((3, 3), 1, 16, relu)"
    assert layer.built
    assert tuple(layer.kernel.shape) == (3, 3, 1, 16)
    np.testing.assert_array_equal(layer.bias, np.zeros(16))


@pytest.mark.parametrize("kind", [Conv, CrossCor, ConvTranspose])
def test_a_kernel_says_the_sizes(kind):
    w, b = rng.normal(size=(3, 2, 3, 8)), rng.normal(size=(8 if kind is not ConvTranspose else 6))
    sizes = (8, 6) if kind is ConvTranspose else (6, 8)

    for layer in kind(w, b, σ, groups=2), kind(tf.constant(w), bias=b, activation=σ, groups=2):
        assert repr(layer) == f"{kind.__name__}((3, 2), {sizes[0]}, {sizes[1]}, σ, groups=2)"
        np.testing.assert_allclose(layer.kernel, w, rtol=1e-6)
        np.testing.assert_allclose(layer.bias, b, rtol=1e-6)
    assert kind(w).bias.shape == (sizes[1] // 2 if kind is ConvTranspose else 8,)
    assert kind(w, False).bias is None


def test_conv_starts_glorot_uniform():
    bound = np.sqrt(6 / (9 * 40 + 9 * 60))  # flux_api.md, section 11
    kernel = Conv((3, 3), 40, 60).kernel.numpy()

    assert bound * 0.99 < abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("init", [lambda shape, dtype: tf.ones(shape, dtype), "ones"])
def test_conv_starts_from_an_initialiser(init):
    layer = Conv((2,), 1, 3, init=init, bias=[1.0, 2.0, 3.0])

    np.testing.assert_allclose(layer(np.ones((1, 2, 1)))[0, 0], [3.0, 4.0, 5.0])


def test_an_identity_kernel_passes_the_input_on():
    layer = Conv((3, 3), 2, 2, init=identity_init, pad=1)
    x = rng.normal(size=(1, 4, 4, 2))

    np.testing.assert_allclose(layer(x), x, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16])
def test_inputs_become_what_the_layer_computes_in(dtype):
    layer = Conv((2, 2), 1, 1, init="ones", bias=False)

    y = layer(np.ones((1, 2, 2, 1), dtype))

    assert y.dtype == tf.float32
    assert float(y[0, 0, 0, 0]) == 4


# --- Compiled, any size, any dtype, saved --------------------------------------------------------


LAYERS = [
    lambda dtype=None: Conv((3, 3), 4, 8, relu, stride=2, pad=(1, 0), dtype=dtype),
    lambda dtype=None: CrossCor((3, 3), 4, 8, relu, dilation=2, bias=False, dtype=dtype),
    lambda dtype=None: ConvTranspose(
        (3, 3), 4, 8, relu, stride=2, pad=1, outpad=1, groups=2, dtype=dtype
    ),
    lambda dtype=None: DepthwiseConv((3, 3), 4, 8, relu, pad=SamePad(), dtype=dtype),
]
EACH = pytest.mark.parametrize("make", LAYERS, ids=lambda make: str(make()))


@EACH
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("spatial", [(9, 9), (None, None)])
def test_compiled_for_any_size(make, jit, spatial):
    layer = make()
    signature = [tf.TensorSpec((None, *spatial, 4))]
    call = tf.function(lambda x: layer(x), input_signature=signature, jit_compile=jit)

    for batch in 1, 3:
        x = randomly(layer, batch, 9, 9, 4).astype("float32")
        np.testing.assert_allclose(call(x), layer(x), rtol=1e-4, atol=1e-4)


@EACH
def test_sizes_stay_known_where_they_are(make):
    layer = make()
    symbolic = layer(keras.Input((9, 9, 4)))

    assert symbolic.shape == (None, *layer(np.ones((1, 9, 9, 4))).shape[1:])


@EACH
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_dtype(make, dtype):
    layer, reference = make(dtype), make("float64")
    x = randomly(layer, 2, 9, 9, 4) / 4
    reference.set_weights(layer.get_weights())

    y = layer(x.astype(dtype))

    assert y.dtype == dtype
    np.testing.assert_allclose(y, reference(x), rtol=2e-2, atol=2e-2)


@EACH
def test_saving(make, tmp_path):
    model = Chain(make(), relu)
    x = randomly(model, 2, 9, 9, 4)
    y = model(x)
    model.save(tmp_path / "m.keras")

    loaded = keras.models.load_model(tmp_path / "m.keras")

    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded(x), y)


def test_a_lambda_is_no_activation_to_save(tmp_path):
    model = Chain(Conv((3, 3), 1, 4, lambda x: x * 2))

    with pytest.raises(ValueError, match="activation that can be found by its name, got <lambda>"):
        model.save(tmp_path / "m.keras")


def test_channels_stay_last_where_keras_has_them_first():
    layer = DepthwiseConv((3, 3), 4, 4)
    x = randomly(layer, 1, 5, 6, 4)
    y = layer(x)
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(layer(x), y)
    finally:
        keras.config.set_image_data_format("channels_last")


# --- Printing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Conv((3, 3), 1, 16, relu, pad=1), "Conv((3, 3), 1 => 16, relu, pad=1)"),
        (Conv((5, 5), 3, 7, stride=2, pad=SamePad()), "Conv((5, 5), 3 => 7, pad=2, stride=2)"),
        (Conv((4,), 3, 7, pad=SamePad()), "Conv((4,), 3 => 7, pad=(2, 1))"),
        (
            Conv((5, 5), 3, 7, stride=2, dilation=4, bias=False),
            "Conv((5, 5), 3 => 7, stride=2, dilation=4, bias=False)",
        ),
        (Conv((2, 2), 4, 8, stride=(2, 1)), "Conv((2, 2), 4 => 8, stride=(2, 1))"),
        (DepthwiseConv((2, 2), 4, 8), "Conv((2, 2), 4 => 8, groups=4)"),
        (CrossCor((3, 1, 2), 4, 8, σ), "CrossCor((3, 1, 2), 4 => 8, σ)"),
        (
            ConvTranspose((2, 2), 4, 8, stride=2, outpad=1),
            "ConvTranspose((2, 2), 4 => 8, stride=2, outpad=1)",
        ),
    ],
)
def test_printing(layer, text):
    assert str(layer) == text
    assert repr(layer) == text.replace(" => ", ", ")
    assert repr(eval(repr(layer))) == repr(layer)


def test_a_convolution_prints_in_a_chain_with_its_parameters():
    text = str(Chain(Conv((3, 3), 1, 16, relu), Conv((3, 3), 16, 16)))

    assert "Conv((3, 3), 1 => 16, relu),          # 160 parameters" in text


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            Conv((3, 3), 1, 16),
            (28, 28, 1),
            "Conv((3, 3), 1 => 16) expects inputs of shape (batch, height, width, 1), "
            "got (28, 28, 1). Give a single input a batch axis: x[None].",
        ),
        (
            Conv((3, 3), 1, 16),
            (8, 28, 28, 3),
            "Conv((3, 3), 1 => 16) expects inputs of shape (batch, height, width, 1), "
            "got (8, 28, 28, 3).",
        ),
        (
            ConvTranspose((3,), 2, 4),
            (8,),
            "ConvTranspose((3,), 2 => 4) expects inputs of shape (batch, length, 2), got (8,).",
        ),
        (
            CrossCor((3, 3, 3), 1, 4),
            (8, 9, 9, 1),
            "CrossCor((3, 3, 3), 1 => 4) expects inputs of shape (batch, depth, height, width, 1), "
            "got (8, 9, 9, 1). Give a single input a batch axis: x[None].",
        ),
        (
            Conv((5, 3), 1, 4, pad=1, dilation=2),
            (8, 6, 9, 1),
            "Conv((5, 3), 1 => 4, pad=1, dilation=2) expects inputs of at least (7, 3) between "
            "batch and channels, got (8, 6, 9, 1).",
        ),
        (
            ConvTranspose((3, 3), 1, 4, pad=2),
            (8, 2, 3, 1),
            "ConvTranspose((3, 3), 1 => 4, pad=2) expects inputs of at least (3, 3) between "
            "batch and channels, got (8, 2, 3, 1).",
        ),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_inputs_that_do_not_fit_are_refused(layer, shape, words, compiled):
    call = tf.function(layer, autograph=False) if compiled else layer

    with pytest.raises(ShapeError, match=f"^{re.escape(words)}$"):
        call(tf.ones(shape))


def test_a_chain_names_the_layer_that_an_image_does_not_fit():
    m = Chain(Conv((3, 3), 1, 4), Conv((3, 3), 3, 4))

    with pytest.raises(ShapeError, match=r"got \(1, 3, 3, 4\)\. \(layer 1 of "):
        m(np.ones((1, 5, 5, 1)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Conv((3, 3), 4, 6, groups=3),
            "Conv expects groups to divide the channels, 4 => 6, got 3.",
        ),
        (
            lambda: Conv((3, 3), 6, 4, groups=3),
            "Conv expects groups to divide the channels, 6 => 4, got 3.",
        ),
        (
            lambda: DepthwiseConv((3, 3), 4, 6),
            "Conv expects groups to divide the channels, 4 => 6, got 4.",
        ),
        (
            lambda: Conv((3, 3), 4, 6, groups=0),
            "Conv expects groups to be a whole number from 1, got 0.",
        ),
        (
            lambda: Conv((3, 3), 1),
            "Conv expects a filter of one to three axes, two numbers of channels and an "
            "activation, got ((3, 3), 1). Write Conv((3, 3), 1, 16, relu).",
        ),
        (lambda: Conv(3, 1, 16), "got (3, 1, 16). Write Conv((3, 3), 1, 16, relu)."),
        (lambda: Conv((1, 2, 3, 4), 1, 16), "got ((1, 2, 3, 4), 1, 16). Write Conv((3, 3), 1, 16"),
        (lambda: Conv((3, 0), 1, 16), "got ((3, 0), 1, 16). Write Conv((3, 3), 1, 16, relu)."),
        (lambda: Conv(np.ones((3, 3))), "got (an array). Write Conv((3, 3), 1, 16, relu)."),
        (lambda: ConvTranspose((3, 3), 1, 2, relu, 5), "Write ConvTranspose((3, 3), 1, 16, relu)."),
        (lambda: DepthwiseConv((3, 3)), "Write DepthwiseConv((3, 3), 1, 16, relu)."),
        (
            lambda: Conv((3, 3), 1, 2, stride=(1, 2, 3)),
            "Conv expects stride to be a whole number from 1, or 2 of them, got (1, 2, 3).",
        ),
        (
            lambda: Conv((3, 3), 1, 2, dilation=0),
            "Conv expects dilation to be a whole number from 1, or 2 of them, got 0.",
        ),
        (
            lambda: ConvTranspose((3, 3), 1, 2, outpad=-1),
            "ConvTranspose expects outpad to be a whole number from 0, or 2 of them, got -1.",
        ),
        (
            lambda: Conv((3, 3), 1, 2, pad=(1, 2, 3)),
            "Conv expects pad to be a whole number, 2 of them, or 4: one before and one after each "
            "axis; got (1, 2, 3).",
        ),
        (lambda: Conv((3, 3), 1, 2, pad="same"), "one before and one after each axis; got same."),
        (
            lambda: Conv((3, 3), 1, 2, bias=[1.0]),
            "Conv((3, 3), 1 => 2) expects a bias of shape (2,), got (1,).",
        ),
    ],
)
def test_odd_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


# --- Functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"pad": (1, 0, 2, 1)}, {"dilation": 2, "pad": 1}, {"groups": 2}],
    ids=str,
)
@pytest.mark.parametrize("flipped", [False, True])
def test_the_function_conv_is_the_formula(options, flipped):
    x = rng.normal(size=(2, 7, 6, 4))
    w = rng.normal(size=(3, 2, 4 // options.get("groups", 1), 6))

    y = conv(x, w, flipped=flipped, **options)

    np.testing.assert_allclose(y, naive_conv(x, w, flipped=not flipped, **options))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "pad": 1}, {"stride": (1, 2)}], ids=str)
def test_depthwiseconv_has_the_outputs_of_each_channel_side_by_side(options):
    x, w = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(3, 2, 2, 3))

    y = depthwiseconv(x, w, **options)

    for c in range(3):
        one = naive_conv(x[..., c : c + 1], w[..., None, :, c], **options)
        np.testing.assert_allclose(y[..., 2 * c : 2 * c + 2], one)


def test_conv_compiles_and_trains_its_kernel():
    x, w = rng.normal(size=(2, 7, 4)).astype("float32"), param(rng.normal(size=(3, 4, 6)))
    y = conv(x, w)

    for compiled in (
        tf.function(lambda x: conv(x, w), jit_compile=True),
        tf.function(lambda x: conv(x, w), [tf.TensorSpec((None, None, 4))]),
    ):
        np.testing.assert_allclose(compiled(x), y, rtol=1e-4, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(conv(x, w))
    gradient = tape.gradient(loss, w.value)
    np.testing.assert_allclose(
        gradient[::-1, :, 0], [x[:, a : a + 5].sum((0, 1)) for a in range(3)], rtol=1e-4
    )


def test_a_depthwise_layer_of_an_array_reads_it_as_flux_does():
    w = rng.normal(size=(3, 2, 4, 3))

    layer = DepthwiseConv(w, [1.0] * 12, relu, pad=1)

    assert str(layer) == "Conv((3, 2), 4 => 12, relu, pad=1, groups=4)"
    for o in range(12):  # Julia counts the first of the two axes first
        np.testing.assert_allclose(layer.kernel[..., 0, o], w[..., o % 4, o // 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: conv(x, np.ones((3, 2))),
            "conv expects a kernel of shape (*filter, in / 1, out), where 1 divides out, "
            "got (3, 2).",
        ),
        (
            lambda x: conv(x, np.ones((3, 2, 5)), groups=2),
            "conv expects a kernel of shape (*filter, in / 2, out), where 2 divides out, "
            "got (3, 2, 5).",
        ),
        (
            lambda x: conv(x, np.ones((3, 2, 5))),
            "conv expects inputs of shape (batch, length, 2), got (2, 6, 4).",
        ),
        (
            lambda x: conv(x, np.ones((7, 4, 5))),
            "conv expects inputs of at least (7) between batch and channels, got (2, 6, 4).",
        ),
        (
            lambda x: depthwiseconv(x, np.ones((3, 4))),
            "depthwiseconv expects a kernel of shape (*filter, out / in, in), got (3, 4).",
        ),
        (lambda x: conv(x, np.ones((3, 4, 5)), stride=0), "conv expects stride to be a whole"),
    ],
)
def test_functions_name_themselves(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call(np.ones((2, 6, 4)))


def test_a_bias_and_an_activation():
    x, b = rng.normal(size=(2, 5, 3)), rng.normal(size=3)

    np.testing.assert_allclose(bias_act(relu, x, b), np.maximum(x + b, 0))
    np.testing.assert_allclose(bias_act("tanh", x, b), np.tanh(x + b), atol=1e-12)
    np.testing.assert_array_equal(bias_act(None, x, False), x)
    with pytest.raises(ValueError, match=r"^bias_act expects a bias, an array, or False for none,"):
        bias_act(relu, x, True)


@pytest.mark.parametrize("jit", [False, True])
def test_a_convolution_with_bias_and_activation_is_the_layer(jit):
    x, w, b = rng.normal(size=(2, 7, 4)), rng.normal(size=(3, 2, 6)), rng.normal(size=6)
    options = {"stride": 2, "pad": 1, "groups": 2}
    layer = Conv(w, b, tanh, dtype="float64", **options)

    call = tf.function(lambda x: conv_bias_act(x, w, b, tanh, **options), jit_compile=jit)

    np.testing.assert_allclose(call(tf.constant(x)), layer(x), atol=1e-7)
    plain = conv_bias_act(x, w, False, **options)
    np.testing.assert_array_equal(plain, conv(x, w, **options))
