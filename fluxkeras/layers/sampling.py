"""Images looked up between their pixels: sampled at given places, and turned."""

import itertools
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.windows import Tensor, expect_images

__all__ = ["grid_sample", "imrotate"]


def grid_sample(x: Any, grid: Any, *, padding_mode: str = "zeros") -> Tensor:
    """The values of images at given places, along straight lines between their pixels.

    `y[b, i, j] = x[b, p, q]` with `p, q = (grid[b, i, j] + 1) / 2 * (n - 1)`, where `n` is the
    size of `x`: -1 is the first pixel of an axis and 1 the last

    Args:
        x: an array of shape `(batch, *n, channels)` with two axes `n`.
        grid: the places, an array of shape `(batch, *m, 2)`: the first number of each runs along
            the first of the axes `n`, the second along the second.
        padding_mode: what lies outside of the image: `"zeros"`, or `"border"` for what is at the
            border.

    Returns:
        A tensor of shape `(batch, *m, channels)`.

    Raises:
        ValueError: if `padding_mode` is something else.
        ShapeError: if `x` or `grid` has another shape.

    Example:
        >>> x = np.reshape([1.0, 3.0, 2.0, 4.0], (1, 2, 2, 1))
        >>> grid = np.reshape([[-3.0, -1.0], [0.0, -1.0], [1.0, -1.0]], (1, 3, 1, 2))
        >>> grid_sample(x, grid).numpy().ravel().tolist()
        [0.0, 1.5, 2.0]
        >>> grid_sample(x, grid, padding_mode="border").numpy().ravel().tolist()
        [1.0, 1.5, 2.0]

    Source: NNlib's `grid_sample`, whose first axis is called the width; Jaderberg et al., 2015.
    """
    x, grid = float_tensor(x), float_tensor(grid)
    if padding_mode not in ("zeros", "border"):
        raise ValueError(
            f'grid_sample expects the padding_mode "zeros" or "border", got {padding_mode!r}.'
        )
    expect_images("grid_sample", x, 2)
    batches = {x.shape[0], grid.shape[0] if len(grid.shape) else None} - {None}
    if len(grid.shape) != 4 or grid.shape[-1] != 2 or len(batches) > 1:
        raise ShapeError(
            f"grid_sample expects a grid of shape ({x.shape[0]}, …, …, 2), got {tuple(grid.shape)}."
        )
    last = tf.cast(tf.shape(x)[1:3] - 1, grid.dtype)
    places = (grid + 1) / 2 * last
    if padding_mode == "border":
        # Flux's gradient ends where the border begins, that of a clipped number behind it.
        at_border = tf.stop_gradient(tf.clip_by_value(places, 0, last))
        places = tf.where((places > 0) & (places < last), places, at_border)
    return _between(x, places)


def imrotate(
    x: Any, θ: float, *, method: str = "bilinear", midpoint: Sequence[float] | None = None
) -> Tensor:
    """Images turned about a point, with zeros where nothing is to be seen.

    `y[b, i, j] = x[b, p, q]` with `p = cos(θ) * (i - m) - sin(θ) * (j - n) + m` and
    `q = sin(θ) * (i - m) + cos(θ) * (j - n) + n`, where `m, n` is the midpoint

    Args:
        x: an array of shape `(batch, *size, channels)` with two axes `size`.
        θ: the angle, in radians.
        method: `"bilinear"` for straight lines between the pixels, or `"nearest"` for the pixel
            that is nearest.
        midpoint: the point, in pixels from 0. By default `size // 2`, a pixel.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        TypeError: if `θ` is no number.
        ValueError: if `method` is something else, or `midpoint` is not of two numbers.
        ShapeError: if `x` has another number of axes.

    Example:
        >>> x = np.zeros((1, 4, 4, 1))
        >>> x[0, 1, 1, 0] = 1
        >>> imrotate(x, np.pi / 2)[0, :, :, 0].numpy().tolist()[1]  # about the pixel at (2, 2)
        [0.0, 0.0, 0.0, 1.0]

    Source: NNlib's `imrotate`. There is no gradient by the angle.
    """
    x = tf.convert_to_tensor(x) if method == "nearest" else float_tensor(x)
    if not isinstance(θ, Real):
        raise TypeError(f"imrotate expects an angle, a number, got {type(θ).__name__}.")
    if method not in ("bilinear", "nearest"):
        raise ValueError(f'imrotate expects the method "bilinear" or "nearest", got {method!r}.')
    if midpoint is not None and len(midpoint) != 2:
        raise ValueError(f"imrotate expects a midpoint of two numbers, got {midpoint!r}.")
    expect_images("imrotate", x, 2)
    size = tf.shape(x)[1:3]
    middle = (
        tf.cast(size // 2, tf.float64) if midpoint is None else tf.constant(midpoint, "float64")
    )
    last = tf.cast(size - 1, tf.float64)
    quarters = θ % math.tau / (math.pi / 2)
    is_quarter = math.isclose(quarters, round(quarters), abs_tol=1e-6)
    places = _turned(size, middle, round(quarters) * math.pi / 2 if is_quarter else θ)
    if method == "nearest":
        # Halves are rounded to even numbers, and Flux counts from 1.
        places = tf.round(places + 1) - 1
        is_inside = (places >= 0) & (places <= last)
    else:
        # Flux leaves out what falls on the last row or column, but where all pixels fall on
        # pixels: by no angle, or by a quarter of a turn, or several, about the centre.
        is_centred = tf.reduce_all(tf.abs(middle - last / 2) < 1e-6)
        is_whole = is_quarter and (round(quarters) % 4 == 0 or is_centred)
        is_inside = (places >= 0) & ((places < last) | ((places <= last) & is_whole))
    is_inside = tf.reduce_all(is_inside, -1)[..., tf.newaxis]
    places = tf.repeat(places[tf.newaxis], tf.shape(x)[0], 0)
    y = _at(x, places) if method == "nearest" else _between(x, places)
    return tf.where(is_inside, y, tf.zeros_like(y))


def _turned(size: Tensor, middle: Tensor, θ: float) -> Tensor:
    """Where each pixel comes from, of shape `(*size, 2)`."""
    sin, cos = (round(f(θ), 15) for f in (math.sin, math.cos))  # 0 for a quarter of a turn
    rows, columns = tf.meshgrid(*(tf.range(size[axis]) for axis in range(2)), indexing="ij")
    i, j = (
        tf.cast(places, tf.float64) - middle[axis] for axis, places in enumerate((rows, columns))
    )
    return tf.stack([cos * i - sin * j, sin * i + cos * j], -1) + middle


def _between(x: Tensor, places: Tensor) -> Tensor:
    """The values at places between pixels, of shape `(batch, …, 2)`; zeros count outside."""
    low = tf.floor(places)
    share = places - low
    last = tf.cast(tf.shape(x)[1:3] - 1, places.dtype)
    y: Any = 0
    for corner in itertools.product((0, 1), repeat=2):
        at = low + tf.constant(corner, low.dtype)
        weights = tf.reduce_prod(tf.where(tf.constant(corner) == 1, share, 1 - share), -1)
        is_inside = tf.reduce_all((at >= 0) & (at <= last), -1)
        weights = tf.cast(tf.where(is_inside, weights, tf.zeros_like(weights)), x.dtype)
        y = y + _at(x, at) * weights[..., tf.newaxis]
    return y


def _at(x: Tensor, places: Tensor) -> Tensor:
    """The pixels at whole places, or the nearest to those that are outside."""
    last = tf.cast(tf.shape(x)[1:3] - 1, places.dtype)
    return tf.gather_nd(x, tf.cast(tf.clip_by_value(places, 0, last), tf.int32), batch_dims=1)
