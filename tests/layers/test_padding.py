import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    pad_circular,
    pad_constant,
    pad_reflect,
    pad_repeat,
    pad_symmetric,
    pad_zeros,
)

rng = np.random.default_rng(0)

MODES = {  # NumPy's names of the same
    pad_repeat: "edge",
    pad_reflect: "reflect",
    pad_symmetric: "symmetric",
    pad_circular: "wrap",
}
EACH = pytest.mark.parametrize(("pad", "mode"), MODES.items(), ids=MODES.values())


@EACH
@pytest.mark.parametrize("ends", [(0, 0), (1, 2), (3, 3), (7, 9)])  # those, more often than once
def test_padding_is_that_of_numpy(pad, mode, ends):
    x = rng.normal(size=(2, 4, 3, 2))
    widths = [(0, 0), ends, (0, 0), (0, 0)]

    np.testing.assert_array_equal(pad(x, ends), np.pad(x, widths, mode))
    np.testing.assert_array_equal(pad(x, ends, dims=1), np.pad(x, widths, mode))
    np.testing.assert_array_equal(pad(x, ends, dims=-3), np.pad(x, widths, mode))


@EACH
def test_by_default_the_inner_axes_are_padded(pad, mode):
    x = rng.normal(size=(2, 4, 3, 2))

    np.testing.assert_array_equal(pad(x, 2), np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)], mode))
    np.testing.assert_array_equal(
        pad(x, (1, 2, 2, 0)), np.pad(x, [(0, 0), (1, 2), (2, 0), (0, 0)], mode)
    )
    np.testing.assert_array_equal(
        pad(x, (1, 0), dims=(2, 0)), np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)], mode)
    )
    np.testing.assert_array_equal(
        pad(x[0, 0], (1, 2, 0, 1)), np.pad(x[0, 0], [(1, 2), (0, 1)], mode)
    )


@EACH
def test_an_axis_of_one_number_is_repeated(pad, mode):
    np.testing.assert_array_equal(pad([5.0], (2, 1)), [5.0] * 4)


def test_the_examples_of_nnlib():
    # The docstrings of pad_repeat and pad_reflect, with r = reshape(1:9, 3, 3).
    r = np.arange(1, 10).reshape(3, 3).T

    assert pad_repeat(r, (1, 2, 3, 4)).numpy().tolist() == [
        [1, 1, 1, 1, 4, 7, 7, 7, 7, 7],
        [1, 1, 1, 1, 4, 7, 7, 7, 7, 7],
        [2, 2, 2, 2, 5, 8, 8, 8, 8, 8],
        [3, 3, 3, 3, 6, 9, 9, 9, 9, 9],
        [3, 3, 3, 3, 6, 9, 9, 9, 9, 9],
        [3, 3, 3, 3, 6, 9, 9, 9, 9, 9],
    ]
    assert pad_reflect(r, (1, 2, 1, 2)).numpy().tolist() == [
        [5, 2, 5, 8, 5, 2],
        [4, 1, 4, 7, 4, 1],
        [5, 2, 5, 8, 5, 2],
        [6, 3, 6, 9, 6, 3],
        [5, 2, 5, 8, 5, 2],
        [4, 1, 4, 7, 4, 1],
    ]


@pytest.mark.parametrize(
    ("pad", "options", "widths"),
    [
        (1, {}, [(1, 1), (1, 1)]),
        ((1, 2), {}, [(1, 1), (2, 2)]),
        ((1, 2, 3, 4), {}, [(1, 2), (3, 4)]),
        ((1, 2), {"dims": 1}, [(0, 0), (1, 2)]),
        (2, {"dims": -1}, [(0, 0), (2, 2)]),
        ((1, 0, 0, 2), {"dims": (1, 0)}, [(0, 2), (1, 0)]),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_constants_are_those_of_numpy(pad, options, widths, dtype):
    x = np.arange(1, 7).reshape(2, 3).astype(dtype)

    for y, value in (pad_constant(x, pad, 8, **options), 8), (pad_zeros(x, pad, **options), 0):
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.pad(x, widths, constant_values=value))


@EACH
@pytest.mark.parametrize("jit", [False, True])
def test_compiled_for_any_size(pad, mode, jit):
    signature = [tf.TensorSpec((None, None, 2))]
    call = tf.function(lambda x: pad(x, (2, 1)), input_signature=signature, jit_compile=jit)

    for n in 3, 5:
        x = rng.normal(size=(2, n, 2)).astype("float32")
        np.testing.assert_array_equal(call(x), np.pad(x, [(0, 0), (2, 1), (0, 0)], mode))


@EACH
def test_the_gradient_counts_how_often_a_number_stands(pad, mode):
    x = tf.constant(rng.normal(size=4))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(pad(x, (2, 3)))

    counts = np.bincount(np.pad(np.arange(4), (2, 3), mode), minlength=4)
    np.testing.assert_array_equal(tf.convert_to_tensor(tape.gradient(y, x)), counts)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: pad_constant(np.ones((3, 3, 3)), (2, 1, 3), dims=(0, 1)),
            "pad_constant expects pad to be a whole number, 2 of them, or 4: one before and one "
            "after each axis; got (2, 1, 3).",
        ),
        (
            lambda: pad_repeat(np.ones((3, 3)), (1, 2, 3)),
            "pad_repeat expects pad to be a whole number, 1 of them, or 2: one before and one "
            "after each axis; got (1, 2, 3).",
        ),
        (
            lambda: pad_zeros([1.0], 1, dims=1),
            "pad_zeros expects dims to be axes of (1,), got (1,).",
        ),
        (
            lambda: pad_circular(np.ones((2, 2)), 1, dims=(0, -3)),
            "pad_circular expects dims to be axes of (2, 2), got (0, -3).",
        ),
        (lambda: pad_reflect([1.0], -1, dims=0), "pad_reflect expects pad to be at least 0"),
        (lambda: pad_zeros([1.0], -1), "pad_zeros expects pad to be at least 0"),
    ],
)
def test_odd_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()
