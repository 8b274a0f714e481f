import itertools
import math
import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import ShapeError, grid_sample, imrotate

rng = np.random.default_rng(0)


def between(image, p, q):
    """The bilinear value of an image (n, m, channels) at a place, zeros outside."""
    low, y = (math.floor(p), math.floor(q)), np.zeros(image.shape[-1])
    for a, b in itertools.product((0, 1), repeat=2):
        i, j = low[0] + a, low[1] + b
        weight = (1 - abs(p - i)) * (1 - abs(q - j))
        if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
            y = y + weight * image[i, j]
    return y


# --- grid_sample ----------------------------------------------------------------------------------


def test_grid_sample_is_the_example_of_flux():
    x = np.reshape([1.0, 3.0, 2.0, 4.0], (1, 2, 2, 1))
    places = [[(-3, -1), (-1, 1)], [(0, -1), (0, 1)], [(1, -1), (3, 1)]]
    grid = np.asarray(places, float)[np.newaxis]

    zeros, border = grid_sample(x, grid), grid_sample(x, grid, padding_mode="border")

    assert zeros[0, :, :, 0].numpy().tolist() == [[0.0, 3.0], [1.5, 3.5], [2.0, 0.0]]
    assert border[0, :, :, 0].numpy().tolist() == [[1.0, 3.0], [1.5, 3.5], [2.0, 4.0]]


@pytest.mark.parametrize("mode", ["zeros", "border"])
def test_grid_sample_is_the_formula(mode):
    x, grid = rng.normal(size=(2, 4, 5, 3)), rng.uniform(-1.6, 1.6, (2, 6, 7, 2))
    last = np.array([3, 4])
    places = (grid + 1) / 2 * last
    if mode == "border":
        places = np.clip(places, 0, last)
    expected = [[[between(x[b], *p) for p in row] for row in places[b]] for b in range(2)]

    y = grid_sample(x, grid, padding_mode=mode)

    np.testing.assert_allclose(y, np.asarray(expected), atol=1e-12)


@pytest.mark.parametrize("mode", ["zeros", "border"])
def test_the_gradients_of_grid_sample_are_those_of_its_slopes(mode):
    x, grid = rng.normal(size=(1, 4, 5, 2)), rng.uniform(-1.4, 1.4, (1, 3, 3, 2))

    def sample(x, grid):
        return grid_sample(x, grid, padding_mode=mode)

    theoretical, numerical = tf.test.compute_gradient(sample, [x, grid], delta=1e-6)

    for found, expected in zip(theoretical, numerical):
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_at_the_border_there_is_no_gradient():
    grid = tf.constant([[[[-1.0, 1.0], [-1.0, 0.3]]]])
    with tf.GradientTape() as tape:
        tape.watch(grid)
        y = grid_sample(rng.normal(size=(1, 4, 5, 2)), grid, padding_mode="border")

    slopes = tape.gradient(y, grid).numpy()[0, 0]
    assert slopes[0].tolist() == [0, 0] and slopes[1, 0] == 0 and slopes[1, 1] != 0


# --- imrotate -------------------------------------------------------------------------------------


def image(n, *at):
    x = np.zeros((1, n, n, 1))
    x[(0, *at, 0)] = 1
    return x


@pytest.mark.parametrize(
    ("x", "degrees", "options", "expected"),
    [
        # The examples of NNlib's docstring.
        (image(4, 1, 1), 90, {}, image(4, 1, 3)),
        (image(4, 1, 1), 90, {"midpoint": (1, 1)}, image(4, 1, 1)),
        (image(3, 0, 1), 45, {}, 0.207107 * (image(3, 0, 1) + image(3, 1, 2))),
        (image(3, 0, 1), 45, {"method": "nearest"}, image(3, 0, 2)),
    ],
)
def test_imrotate_is_the_examples_of_flux(x, degrees, options, expected):
    np.testing.assert_allclose(imrotate(x, np.deg2rad(degrees), **options), expected, atol=1e-6)


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_quarters_about_the_centre_turn_the_whole_image(n, method):
    x = rng.normal(size=(2, n, n, 3))
    options = {"method": method, "midpoint": ((n - 1) / 2,) * 2}

    # NNlib: reverse(permutedims(x, (2, 1, 3, 4)), dims=2), for one quarter.
    quarter = np.flip(np.swapaxes(x, 1, 2), 2)
    np.testing.assert_allclose(imrotate(x, np.pi / 2, **options), quarter, atol=1e-12)
    np.testing.assert_allclose(imrotate(x, np.pi, **options), np.flip(x, (1, 2)), atol=1e-12)
    three = np.flip(np.swapaxes(x, 1, 2), 1)
    np.testing.assert_allclose(imrotate(x, -np.pi / 2, **options), three, atol=1e-12)
    np.testing.assert_allclose(imrotate(x, 2 * np.pi, **options), x, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 5), (6, 6), (3, 7)])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("midpoint", [None, (1.2, 2.0)])
def test_imrotate_is_the_kernel_of_flux(shape, method, midpoint):
    x, θ = rng.normal(size=(2, *shape, 2)), 0.7
    m, n = midpoint or (shape[0] // 2, shape[1] // 2)
    expected = np.zeros(x.shape)
    for i, j in itertools.product(*map(range, shape)):
        p = math.cos(θ) * (i - m) - math.sin(θ) * (j - n) + m
        q = math.sin(θ) * (i - m) + math.cos(θ) * (j - n) + n
        if method == "nearest":
            p, q = round(p), round(q)
            if 0 <= p < shape[0] and 0 <= q < shape[1]:
                expected[:, i, j] = x[:, p, q]
        elif 0 <= math.floor(p) < shape[0] - 1 and 0 <= math.floor(q) < shape[1] - 1:
            expected[:, i, j] = [between(one, p, q) for one in x]

    y = imrotate(x, θ, method=method, midpoint=midpoint)

    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_of_no_angle_imrotate_changes_nothing():
    x = rng.integers(0, 9, (2, 4, 3, 2))

    y = imrotate(x, 0, method="nearest")

    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(imrotate(x.astype(float), 0.0), x)


def test_the_gradient_of_imrotate_is_its_adjoint():
    x, y = rng.normal(size=(2, 1, 5, 6, 2))
    with tf.GradientTape() as tape:
        tape.watch(x := tf.constant(x))
        loss = tf.reduce_sum(imrotate(x, 0.3) * y)

    np.testing.assert_allclose(np.sum(tape.gradient(loss, x) * x), loss, rtol=1e-10)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: grid_sample(x, x[:, :3, :4, :2]),
        lambda x: imrotate(x, 0.4),
        lambda x: imrotate(x, np.pi / 2, method="nearest"),
    ],
)
def test_functions_compile_for_any_size(function, jit):
    x = rng.normal(size=(3, 4, 6, 2)).astype("float32")
    call = tf.function(
        function, input_signature=[tf.TensorSpec((None, None, None, 2))], jit_compile=jit
    )

    np.testing.assert_allclose(call(x), function(x), rtol=1e-5, atol=1e-6)


# --- Errors --------------------------------------------------------------------------------------

X = np.ones((1, 4, 4, 1))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: grid_sample(X, np.ones((1, 2, 2, 2)), padding_mode="wrap"),
            ValueError,
            'grid_sample expects the padding_mode "zeros" or "border", got \'wrap\'.',
        ),
        (
            lambda: grid_sample(X[0], np.ones((1, 2, 2, 2))),
            ShapeError,
            "grid_sample expects inputs of shape (batch, height, width, channels), got (4, 4, 1). "
            "Give a single input a batch axis: x[None].",
        ),
        (
            lambda: grid_sample(X, np.ones((2, 2, 2, 2))),
            ShapeError,
            "grid_sample expects a grid of shape (1, …, …, 2), got (2, 2, 2, 2).",
        ),
        (
            lambda: imrotate(X, "90"),
            TypeError,
            "imrotate expects an angle, a number, got str.",
        ),
        (
            lambda: imrotate(X, 1.0, method="cubic"),
            ValueError,
            'imrotate expects the method "bilinear" or "nearest", got \'cubic\'.',
        ),
        (
            lambda: imrotate(X, 1.0, midpoint=(1, 2, 3)),
            ValueError,
            "imrotate expects a midpoint of two numbers, got (1, 2, 3).",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, words):
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        make()
