"""Windows of images laid out in rows, and such rows put together again."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.printing import describe
from fluxkeras.layers.windows import (
    AXES,
    Numbers,
    Tensor,
    expect_images,
    expect_room,
    framed,
    is_whole,
    paddings,
    pairs,
    per_axis,
    sizes,
)

__all__ = ["fold", "unfold"]

Option = int | Sequence[int]


def unfold(
    x: Any,
    kernel_size: Sequence[int],
    *,
    stride: Option = 1,
    pad: Option = 0,
    dilation: Option = 1,
    flipped: bool = True,
) -> Tensor:
    """The windows that a kernel of `conv` lies on, each as a row.

    `y[:, i] = x[:, s * i + d * a, c] for a in range(k), c in range(channels)`, over each axis

    Rows, and the numbers in them, are in the order of `flatten`: the last axis goes fastest. So
    `batched_mul(unfold(x, w.shape, …), reshape(w, (-1, out)))` has the numbers of
    `conv(x, w, flipped=True, …)`.

    Args:
        x: an array of shape `(batch, *n, channels)`.
        kernel_size: the size of a window, one number for each axis; or the shape of a kernel,
            `(*size, channels, out)`.
        stride: by how much the window moves on: a number, or one for each axis.
        pad: how many zeros surround `x`: a number, one for each axis, or two for each axis.
        dilation: how far apart the numbers of a window lie: a number, or one for each axis.
        flipped: False to turn each window round, as `conv` does.

    Returns:
        A tensor of shape `(batch, windows, prod(size) * channels)`, of the dtype of `x`.

    Raises:
        ValueError: if an option is not as above.
        ShapeError: if `x` has another number of axes, other channels or too few numbers.

    Example:
        >>> x = np.reshape([100, 2, 3, 40, 5, 6, 700], (1, 7, 1))
        >>> unfold(x, (3,), stride=2, pad=1)[0].numpy().tolist()
        [[0, 100, 2], [2, 3, 40], [40, 5, 6], [6, 700, 0]]

    Source: NNlib's `unfold`, whose first axis goes fastest; im2col. Keras's and TensorFlow's
        `extract_patches` is that of two axes.
    """
    options = stride, pad, dilation, flipped
    return _unfolded("unfold", tf.convert_to_tensor(x), kernel_size, *options)


def fold(
    y: Any,
    output_size: Sequence[Any],
    kernel_size: Sequence[int],
    *,
    stride: Option = 1,
    pad: Option = 0,
    dilation: Option = 1,
    flipped: bool = True,
) -> Tensor:
    """Rows of windows put back to where `unfold` took them from, summed where they overlap.

    `sum(fold(y, …) * x) == sum(y * unfold(x, …))`: the adjoint of `unfold`

    Args:
        y: an array of shape `(batch, windows, prod(size) * channels)`, as `unfold` returns it.
        output_size: the shape of the result, `(batch, *n, channels)`.
        kernel_size: as in `unfold`, as are the options.
        stride: by how much the window moves on.
        pad: how many zeros surround the result.
        dilation: how far apart the numbers of a window lie.
        flipped: False if each window is turned round.

    Returns:
        A tensor of shape `output_size`, of a floating-point dtype.

    Raises:
        ValueError: if an option is not as in `unfold`.
        ShapeError: if `y` is not of the shape that `unfold` gives.

    Example:
        >>> x = np.reshape([100.0, 2, 3, 40, 5, 6, 700], (1, 7, 1))
        >>> fold(unfold(x, (3,)), x.shape, (3,)).numpy().ravel().tolist()
        [100.0, 4.0, 9.0, 120.0, 15.0, 12.0, 700.0]

    Source: NNlib's `fold`; col2im.
    """
    y = float_tensor(y)
    with tf.GradientTape() as tape:
        x = tf.zeros(output_size, y.dtype)
        tape.watch(x)
        windows = _unfolded("fold", x, kernel_size, stride, pad, dilation, flipped)
    if not windows.shape.is_compatible_with(y.shape):
        raise ShapeError(
            f"fold expects windows of shape {tuple(windows.shape)} for an output of shape "
            f"{tuple(x.shape)}, got {tuple(y.shape)}."
        )
    return tape.gradient(windows, x, output_gradients=y)


def _unfolded(
    owner: str,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Option,
    pad: Option,
    dilation: Option,
    flipped: bool,
) -> Tensor:
    axes = len(x.shape) - 2
    if axes not in AXES:
        raise ShapeError(
            f"{owner} expects images of shape (batch, …, channels) with one, two or three inner "
            f"axes, got {tuple(x.shape)}."
        )
    size = _window(owner, kernel_size, axes, x.shape[-1])
    pad = paddings(owner, pad, axes)
    stride = per_axis(owner, "stride", stride, axes)
    dilation = per_axis(owner, "dilation", dilation, axes)
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    expect_images(owner, x, axes)
    expect_room(owner, x, [r - sum(p) for r, p in zip(reach, pairs(pad), strict=True)])
    x = framed(x, pad)
    batch, *inner, channels = sizes(x)
    counts = [(n - r) // s + 1 for n, r, s in zip(inner, reach, stride, strict=True)]
    # A slice for each place in the window: their gradient is a sum of slices, which XLA knows, too.
    parts = []
    for place in itertools.product(*map(range, size)):
        slices = [
            slice(d * a, d * a + s * (count - 1) + 1, s)
            for a, d, s, count in zip(place, dilation, stride, counts, strict=True)
        ]
        parts.append(x[(slice(None), *slices)])
    windows = tf.stack(parts if flipped else parts[::-1], -2)
    return tf.reshape(windows, (batch, math.prod(counts), len(parts) * channels))


def _window(owner: str, given: Any, axes: int, channels: int | None) -> Numbers:
    """The size of a window, where the shape of a kernel may be given."""
    numbers = tuple(given) if isinstance(given, Sequence | tf.TensorShape) else ()
    if len(numbers) not in (axes, axes + 2) or not all(is_whole(n) and n > 0 for n in numbers):
        raise ValueError(
            f"{owner} expects a kernel_size of {axes} whole numbers from 1, or the shape of a "
            f"kernel, of {axes + 2}, got {describe(given)}."
        )
    if len(numbers) > axes and channels not in (None, numbers[axes]):
        raise ShapeError(
            f"{owner} expects images of {numbers[axes]} channels, as the kernel of shape "
            f"{numbers} has, got {channels}."
        )
    return numbers[:axes]
