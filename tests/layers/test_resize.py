import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    PixelShuffle,
    ShapeError,
    Upsample,
    pixel_shuffle,
    upsample_bilinear,
    upsample_linear,
    upsample_nearest,
    upsample_trilinear,
)

rng = np.random.default_rng(0)

LINEAR = {1: upsample_linear, 2: upsample_bilinear, 3: upsample_trilinear}
AXES = pytest.mark.parametrize("axes", [1, 2, 3])


def naive_linear(x, size, align_corners=True):
    """The formula, one number at a time, along one axis after another. x: (N, *n, C)."""
    for axis, m in enumerate(size, start=1):
        n, rows = x.shape[axis], np.moveaxis(x, axis, 0)
        y = np.zeros((m, *rows.shape[1:]))
        for i in range(m):
            if align_corners:
                place = i * (n - 1) / (m - 1) if m > 1 else 0
            else:
                place = max((i + 0.5) * n / m - 0.5, 0)
            j = min(int(place), n - 1)
            t = place - j
            y[i] = (1 - t) * rows[j] + t * rows[min(j + 1, n - 1)]
        x = np.moveaxis(y, 0, axis)
    return x


# --- Functions -----------------------------------------------------------------------------------


@AXES
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_upsample_nearest_repeats(axes, scale):
    x = rng.normal(size=(2, *(3, 4, 5)[:axes], 2))
    expected = x
    for axis in range(1, axes + 1):
        expected = expected.repeat(scale, axis)

    np.testing.assert_array_equal(upsample_nearest(x, scale), expected)
    np.testing.assert_array_equal(upsample_nearest(x, size=expected.shape[1:-1]), expected)


def test_upsample_nearest_takes_a_number_for_each_axis_or_for_the_first():
    x = np.arange(8).reshape(1, 2, 2, 2)

    y = upsample_nearest(x, (2, 3))

    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x.repeat(2, 1).repeat(3, 2))
    np.testing.assert_array_equal(upsample_nearest(x, (2,)), x.repeat(2, 1))
    np.testing.assert_array_equal(upsample_nearest(x, size=(6,)), x.repeat(3, 1))


@AXES
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("scale", [1, 2, 3, 1.5, 0.5, np.pi])
def test_linear_upsampling_is_the_formula(axes, scale, align_corners):
    x = rng.normal(size=(2, *(3, 4, 2)[:axes], 2))
    size = tuple(int(np.floor(scale * n)) for n in x.shape[1:-1])

    expected = naive_linear(x, size, align_corners)

    for y in (
        LINEAR[axes](x, scale, align_corners=align_corners),
        LINEAR[axes](x, (scale,) * axes, align_corners=align_corners),
        LINEAR[axes](x, size=size, align_corners=align_corners),
    ):
        assert y.shape == (2, *size, 2)
        np.testing.assert_allclose(y, expected, atol=1e-12)


def test_linear_upsampling_of_one_number_and_to_one_number():
    x = np.reshape([1.0, 2.0, 3.0], (1, 3, 1))

    assert upsample_linear(x, size=1).numpy().ravel().tolist() == [1.0]
    assert upsample_linear(x[:, :1], 3).numpy().ravel().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("scale", [2, 3])
def test_without_aligned_corners_it_is_the_bilinear_one_of_tensorflow(scale):
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")

    y = upsample_bilinear(x, scale, align_corners=False)

    np.testing.assert_allclose(
        y, tf.image.resize(x, (4 * scale, 5 * scale), "bilinear"), rtol=1e-5, atol=1e-5
    )


def test_with_aligned_corners_it_is_that_of_older_tensorflow():
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")

    expected = tf.compat.v1.image.resize_bilinear(x, (9, 7), align_corners=True)

    np.testing.assert_allclose(upsample_bilinear(x, size=(9, 7)), expected, rtol=1e-5, atol=1e-5)


@AXES
@pytest.mark.parametrize("r", [1, 2, 3])
def test_pixel_shuffle_is_the_formula(axes, r):
    n = (2, 3, 4)[:axes]
    x = rng.normal(size=(2, *n, 2 * r**axes))
    y = np.zeros((2, *(r * m for m in n), 2))
    for place in itertools.product(*map(range, y.shape[1:])):
        *inner, c = place
        # flux_api.md: out[r i + a, r j + b, c] = x[i, j, a + r b + r² c]
        channel = sum(i % r * r**k for k, i in enumerate(inner)) + r**axes * c
        y[(slice(None), *place)] = x[(slice(None), *(i // r for i in inner), channel)]

    np.testing.assert_array_equal(pixel_shuffle(x, r), y)
    np.testing.assert_array_equal(PixelShuffle(r, dtype="float64")(x), y)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: upsample_nearest(x, 2),
        lambda x: upsample_bilinear(x, 1.5),
        lambda x: upsample_bilinear(x, size=(5, 4)),
        lambda x: upsample_bilinear(x, 2, align_corners=False),
        lambda x: pixel_shuffle(x, 2),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_functions_compile_for_any_size(function, jit):
    signature = [tf.TensorSpec((None, None, None, 4))]
    call = tf.function(function, input_signature=signature, jit_compile=jit)
    x = rng.normal(size=(3, 4, 6, 4)).astype("float32")

    np.testing.assert_allclose(call(x), function(x), rtol=1e-5, atol=1e-6)


# --- Layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # The examples of Flux's docstrings.
        (Upsample(scale=(2, 3)), (1, 2, 2, 1), (1, 4, 6, 1)),
        (Upsample("bilinear", size=(4, 5)), (1, 2, 2, 1), (1, 4, 5, 1)),
        (PixelShuffle(2), (4, 2, 3, 4), (4, 4, 6, 1)),
        (Upsample("trilinear", scale=2), (1, 2, 3, 4, 5), (1, 4, 6, 8, 5)),
        (Upsample(3), (1, 4, 2), (1, 12, 2)),
    ],
)
def test_shapes_are_those_of_flux(layer, shape, expected):
    assert layer(np.ones(shape)).shape == expected
    assert tuple(layer.compute_output_shape((None, *shape[1:]))) == (None, *expected[1:])


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (Upsample(2), lambda x: upsample_nearest(x, 2)),
        (Upsample(size=(8, 6)), lambda x: upsample_nearest(x, size=(8, 6))),
        (Upsample("bilinear", scale=1.5), lambda x: upsample_bilinear(x, 1.5)),
        (Upsample("bilinear", size=[7, 3]), lambda x: upsample_bilinear(x, size=(7, 3))),
        (PixelShuffle(2), lambda x: pixel_shuffle(x, 2)),
    ],
)
def test_layers_are_their_functions_and_save(layer, function, tmp_path):
    x = rng.normal(size=(2, 4, 3, 4)).astype("float32")
    model = Chain(layer)
    np.testing.assert_array_equal(model(x), function(x))

    model.save(tmp_path / "m.keras")

    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded(x), function(x))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Upsample, {"mode": "nearest", "scale": 2}),
        (Upsample, {"mode": "bilinear", "scale": 2}),
        (PixelShuffle, {"r": 2}),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_any_dtype(kind, options, dtype, jit):
    layer = kind(**options, dtype=dtype)
    x = rng.normal(size=(2, 3, 4, 4)).astype(dtype)

    y = tf.function(layer, jit_compile=jit, autograph=False)(tf.constant(x))

    assert y.dtype == dtype
    np.testing.assert_allclose(y, kind(**options)(x.astype("float32")), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("layer", "text", "code"),
    [
        (Upsample(2), "Upsample(:nearest, scale = 2)", 'Upsample("nearest", scale=2)'),
        (
            Upsample("bilinear", size=[4, 5]),
            "Upsample(:bilinear, size = (4, 5))",
            'Upsample("bilinear", size=(4, 5))',
        ),
        (
            Upsample((2, 1.5), "bilinear"),
            "Upsample(:bilinear, scale = (2, 1.5))",
            'Upsample("bilinear", scale=(2, 1.5))',
        ),
        (PixelShuffle(2), "PixelShuffle(2)", "PixelShuffle(2)"),
    ],
)
def test_printing(layer, text, code):
    assert str(layer) == text
    assert repr(layer) == repr(eval(code)) == code


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Upsample("cubic", scale=2),
            'Upsample expects the mode "nearest", "bilinear" or "trilinear", got \'cubic\'.',
        ),
        (lambda: Upsample(), "Upsample expects either scale or size, got neither."),
        (
            lambda: Upsample("bilinear", scale=2, size=(4, 4)),
            "Upsample expects either scale or size, got both.",
        ),
        (
            lambda: upsample_nearest(np.ones((1, 2, 1))),
            "upsample_nearest expects either scale or size, got neither.",
        ),
        (
            lambda: Upsample(scale=1.5),
            "Upsample expects scale to be a whole number above 0, or 3 of them, got 1.5.",
        ),
        (
            lambda: Upsample("bilinear", scale=(2, 2, 2)),
            "Upsample expects scale to be a number above 0, or 2 of them, got (2, 2, 2).",
        ),
        (
            lambda: upsample_bilinear(np.ones((1, 2, 2, 1)), size=(3, 0)),
            "upsample_bilinear expects size to be a whole number above 0, or 2 of them, got (3, 0)",
        ),
        (lambda: PixelShuffle(0), "PixelShuffle expects r to be a whole number from 1, got 0."),
        (
            lambda: pixel_shuffle(np.ones((1, 1, 4)), 1.5),
            "pixel_shuffle expects r to be a whole number from 1, got 1.5.",
        ),
    ],
)
def test_odd_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("call", "shape", "words"),
    [
        (
            Upsample("bilinear", scale=2),
            (4, 4, 1),
            "Upsample(:bilinear, scale = 2) expects inputs of shape (batch, height, width, "
            "channels), got (4, 4, 1).",
        ),
        (
            lambda x: upsample_nearest(x, 2),
            (4, 4),
            "upsample_nearest expects inputs of shape (batch, …, channels), got (4, 4).",
        ),
        (
            Upsample(size=(4, 5)),
            (1, 2, 2, 1),
            "Upsample(:nearest, size = (4, 5)) expects inputs of a size that divides the one "
            "wanted, got (1, 2, 2, 1).",
        ),
        (
            PixelShuffle(2),
            (1, 2, 2, 6),
            "PixelShuffle(2) expects inputs of shape (batch, …, channels), where 2 to the number "
            "of inner axes divides the channels, got (1, 2, 2, 6).",
        ),
        (
            lambda x: pixel_shuffle(x, 1),
            (2, 6),
            "pixel_shuffle expects inputs of shape (batch, …, channels), where 1 to the number of "
            "inner axes divides the channels, got (2, 6).",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(call, shape, words):
    with pytest.raises(ShapeError, match=f"^{re.escape(words)}$"):
        call(np.ones(shape))
