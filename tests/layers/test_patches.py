import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import ShapeError, batched_mul, conv, fold, unfold

rng = np.random.default_rng(0)

SIZES = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}
WINDOWS = {1: (3,), 2: (2, 3), 3: (2, 1, 3)}
OPTIONS = [
    {},
    {"stride": 2},
    {"pad": 1},
    {"dilation": 2, "pad": 2},
    {"stride": 2, "pad": 1, "flipped": False},
]


def naive_unfold(x, size, stride=1, pad=0, dilation=1, flipped=True):
    """The formula, one number at a time."""
    axes = len(size)
    x = np.pad(x, [(0, 0), *[(pad, pad)] * axes, (0, 0)])
    inner = x.shape[1:-1]
    counts = [(n - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(inner, size)]
    rows = []
    for start in itertools.product(*map(range, counts)):
        places = itertools.product(*(range(k) if flipped else range(k)[::-1] for k in size))
        at = [tuple(stride * s + dilation * a for s, a in zip(start, p)) for p in places]
        rows.append(np.concatenate([x[(slice(None), *p)] for p in at], -1))
    return np.stack(rows, 1)


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
def test_unfold_is_the_formula(axes, options):
    x = rng.normal(size=(2, *SIZES[axes], 2))
    expected = naive_unfold(x, WINDOWS[axes], **options)

    np.testing.assert_array_equal(unfold(x, WINDOWS[axes], **options), expected)
    kernel = (*WINDOWS[axes], 2, 9)
    np.testing.assert_array_equal(unfold(x, kernel, **options), expected)


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
def test_windows_times_a_kernel_are_a_convolution(axes, options):
    x, w = rng.normal(size=(2, *SIZES[axes], 2)), rng.normal(size=(*WINDOWS[axes], 2, 3))
    flipped = options.get("flipped", True)

    y = batched_mul(unfold(x, w.shape, **options), w.reshape(-1, 3))

    expected = conv(x, w, **options | {"flipped": flipped})
    np.testing.assert_allclose(y, np.reshape(expected, (2, -1, 3)), atol=1e-12)


def test_the_examples_of_flux():
    x = np.reshape([100, 2, 3, 40, 5, 6, 700], (1, 7, 1))

    z = unfold(x, (3, 1, 1), pad=1, stride=2)

    assert z.dtype == x.dtype
    assert z[0].numpy().tolist() == [[0, 100, 2], [2, 3, 40], [40, 5, 6], [6, 700, 0]]
    assert batched_mul(z, [[1], [0], [-1]]).numpy().ravel().tolist() == [-2, -38, 34, 6]
    z = fold(unfold(x, (3, 1, 1)), x.shape, (3, 1, 1))
    assert z.numpy().ravel().tolist() == [100, 4, 9, 120, 15, 12, 700]
    divisor = fold(unfold(np.ones(x.shape), (3, 1, 1)), x.shape, (3, 1, 1))
    assert divisor.numpy().ravel().tolist() == [1, 2, 3, 3, 3, 2, 1]


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
def test_fold_is_the_adjoint_of_unfold(axes, options):
    x = rng.normal(size=(2, *SIZES[axes], 2))
    windows = naive_unfold(x, WINDOWS[axes], **options)
    y = rng.normal(size=windows.shape)

    back = fold(y, x.shape, WINDOWS[axes], **options)

    assert back.shape == x.shape
    np.testing.assert_allclose(np.sum(back * x), np.sum(y * windows), rtol=1e-10)


def test_the_gradient_of_each_is_the_other():
    x, y = tf.constant(rng.normal(size=(2, 6, 5, 2))), tf.constant(rng.normal(size=(2, 12, 12)))
    options = {"kernel_size": (3, 2)}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, y])
        of_x = tf.reduce_sum(unfold(x[:, :5, :], **options) * y)
        of_y = tf.reduce_sum(fold(y, (2, 5, 5, 2), **options) * x[:, :5, :])

    np.testing.assert_allclose(tape.gradient(of_x, x)[:, :5], fold(y, (2, 5, 5, 2), **options))
    np.testing.assert_allclose(tape.gradient(of_y, y), unfold(x[:, :5, :], **options))


@pytest.mark.parametrize("jit", [False, True])
def test_they_compile_for_any_batch(jit):
    x = rng.normal(size=(3, 6, 5, 2)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec((None, 6, 5, 2))], jit_compile=jit)
    def again(x):
        return fold(unfold(x, (2, 3), stride=2), tf.shape(x), (2, 3), stride=2)

    expected = fold(naive_unfold(x, (2, 3), 2), x.shape, (2, 3), stride=2)
    np.testing.assert_allclose(again(x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: unfold(np.ones((4, 4)), (2,)),
            ShapeError,
            "unfold expects images of shape (batch, …, channels) with one, two or three inner "
            "axes, got (4, 4).",
        ),
        (
            lambda: unfold(np.ones((1, 4, 1)), (2, 2)),
            ValueError,
            "unfold expects a kernel_size of 1 whole numbers from 1, or the shape of a kernel, of "
            "3, got (2, 2).",
        ),
        (
            lambda: unfold(np.ones((1, 4, 2)), (2, 3, 1)),
            ShapeError,
            "unfold expects images of 3 channels, as the kernel of shape (2, 3, 1) has, got 2.",
        ),
        (
            lambda: unfold(np.ones((1, 4, 2)), (5,)),
            ShapeError,
            "unfold expects inputs of at least (5) between batch and channels, got (1, 4, 2).",
        ),
        (
            lambda: unfold(np.ones((1, 4, 2)), (2,), stride=0),
            ValueError,
            "unfold expects stride to be a whole number from 1, got 0.",
        ),
        (
            lambda: fold(np.ones((1, 4, 2)), (1, 4, 1), (2,)),
            ShapeError,
            "fold expects windows of shape (1, 3, 2) for an output of shape (1, 4, 1), got "
            "(1, 4, 2).",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, words):
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        make()
