"""Padding: arrays grown at their ends, with a constant or with what they hold."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from fluxkeras.layers.windows import Numbers, Tensor, is_whole, paddings, pairs, sizes

__all__ = [
    "pad_circular",
    "pad_constant",
    "pad_reflect",
    "pad_repeat",
    "pad_symmetric",
    "pad_zeros",
]

Pad = int | Sequence[int]
Dims = int | Sequence[int] | None


def pad_constant(x: Any, pad: Pad, value: float = 0, *, dims: Dims = None) -> Tensor:
    """`x` grown by a constant.

    `pad_constant([1, 2], (1, 2)) == [0, 1, 2, 0, 0]`

    Args:
        x: an array.
        pad: by how much: a number for all axes, one for each axis, or two for each axis, before
            and after.
        value: the constant.
        dims: the axis or axes; by default, all.

    Returns:
        A tensor of the dtype of `x`.

    Raises:
        ValueError: if `pad` has another number of numbers, or `dims` are not axes of `x`.

    Example:
        >>> pad_constant([[1, 2], [3, 4]], (1, 0, 0, 2), 8).numpy().tolist()
        [[8, 8, 8, 8], [1, 2, 8, 8], [3, 4, 8, 8]]

    Source: NNlib's `pad_constant`.
    """
    return _filled("pad_constant", x, pad, value, dims)


def pad_zeros(x: Any, pad: Pad, *, dims: Dims = None) -> Tensor:
    """`x` grown by zeros.

    `pad_constant(x, pad, 0, dims=dims)`

    Args:
        x: an array.
        pad: by how much: a number for all axes, one for each axis, or two for each axis, before
            and after.
        dims: the axis or axes; by default, all.

    Returns:
        A tensor of the dtype of `x`.

    Raises:
        ValueError: as `pad_constant`.

    Example:
        >>> pad_zeros([1, 2], (1, 2)).numpy().tolist()
        [0, 1, 2, 0, 0]

    Source: NNlib's `pad_zeros`.
    """
    return _filled("pad_zeros", x, pad, 0, dims)


def pad_repeat(x: Any, pad: Pad, *, dims: Dims = None) -> Tensor:
    """`x` grown by the numbers at its ends.

    `pad_repeat([1, 2, 3], (2, 2)) == [1, 1, 1, 2, 3, 3, 3]`

    Args:
        x: an array.
        pad: by how much: a number for all of `dims`, or two for each of them, before and after.
        dims: the axis or axes. By default, for a number, all axes but the first and the last, which
            are those of an image; for a tuple, as many axes as it has pairs, from the first on if
            that is all of them, else from the one after the batch axis on.

    Returns:
        A tensor of the dtype of `x`.

    Raises:
        ValueError: if `pad` has another number of numbers, or `dims` are not axes of `x`.

    Example:
        >>> pad_repeat([[1, 4, 7], [2, 5, 8]], (0, 1, 1, 2)).numpy().tolist()
        [[1, 1, 4, 7, 7, 7], [2, 2, 5, 8, 8, 8], [2, 2, 5, 8, 8, 8]]

    Source: NNlib's `pad_repeat`.
    """
    return _padded("pad_repeat", x, pad, dims, lambda i, n: tf.clip_by_value(i, 0, n - 1))


def pad_reflect(x: Any, pad: Pad, *, dims: Dims = None) -> Tensor:
    """`x` grown by its mirror image, without the numbers at its ends.

    `pad_reflect([1, 2, 3], (2, 2)) == [3, 2, 1, 2, 3, 2, 1]`

    Args:
        x: an array.
        pad: by how much, as in `pad_repeat`.
        dims: the axis or axes, as in `pad_repeat`.

    Returns:
        A tensor of the dtype of `x`.

    Raises:
        ValueError: as `pad_repeat`.

    Example:
        >>> pad_reflect([[1, 4, 7], [2, 5, 8]], (1, 2), dims=1).numpy().tolist()
        [[4, 1, 4, 7, 4, 1], [5, 2, 5, 8, 5, 2]]

    Source: NNlib's `pad_reflect`.
    """

    def mirrored(i: Tensor, n: Any) -> Tensor:
        last = n - 1
        return last - tf.abs(last - tf.math.floormod(i, tf.maximum(2 * last, 1)))

    return _padded("pad_reflect", x, pad, dims, mirrored)


def pad_symmetric(x: Any, pad: Pad, *, dims: Dims = None) -> Tensor:
    """`x` grown by its mirror image.

    `pad_symmetric([1, 2, 3], (2, 2)) == [2, 1, 1, 2, 3, 3, 2]`

    Args:
        x: an array.
        pad: by how much, as in `pad_repeat`.
        dims: the axis or axes, as in `pad_repeat`.

    Returns:
        A tensor of the dtype of `x`.

    Raises:
        ValueError: as `pad_repeat`.

    Example:
        >>> pad_symmetric([[1, 4, 7], [2, 5, 8]], (1, 2), dims=1).numpy().tolist()
        [[1, 1, 4, 7, 7, 4], [2, 2, 5, 8, 8, 5]]

    Source: NNlib's `pad_symmetric`.
    """

    def mirrored(i: Tensor, n: Any) -> Tensor:
        i = tf.math.floormod(i, 2 * n)
        return tf.minimum(i, 2 * n - 1 - i)

    return _padded("pad_symmetric", x, pad, dims, mirrored)


def pad_circular(x: Any, pad: Pad, *, dims: Dims = None) -> Tensor:
    """`x` grown by itself, as if it came again and again.

    `pad_circular([1, 2, 3], (2, 2)) == [2, 3, 1, 2, 3, 1, 2]`

    Args:
        x: an array.
        pad: by how much, as in `pad_repeat`.
        dims: the axis or axes, as in `pad_repeat`.

    Returns:
        A tensor of the dtype of `x`.

    Raises:
        ValueError: as `pad_repeat`.

    Example:
        >>> pad_circular([[1, 4, 7], [2, 5, 8]], (1, 2), dims=1).numpy().tolist()
        [[7, 1, 4, 7, 1, 4], [8, 2, 5, 8, 2, 5]]

    Source: NNlib's `pad_circular`.
    """
    return _padded("pad_circular", x, pad, dims, tf.math.floormod)


def _filled(owner: str, x: Any, pad: Pad, value: float, dims: Dims) -> Tensor:
    x = tf.convert_to_tensor(x)
    axes = _axes(owner, x, range(len(x.shape)) if dims is None else dims)
    ends = dict(zip(axes, _ends(owner, pad, len(axes)), strict=True))
    return tf.pad(x, [ends.get(a, (0, 0)) for a in range(len(x.shape))], constant_values=value)


def _padded(
    owner: str, x: Any, pad: Pad, dims: Dims, place: Callable[[Tensor, Any], Tensor]
) -> Tensor:
    """`x` grown; `place` says which of the `n` numbers of an axis stands at the index `i`."""
    x = tf.convert_to_tensor(x)
    axes = _axes(owner, x, _inner(pad, len(x.shape)) if dims is None else dims)
    for axis, (before, after) in zip(axes, _ends(owner, pad, len(axes)), strict=True):
        n = sizes(x)[axis]
        x = tf.gather(x, place(tf.range(-before, n + after), n), axis=axis)
    return x


def _inner(pad: Any, rank: int) -> Sequence[int]:
    """The axes that NNlib pads by default; its batch axis is the last one, here it is the first."""
    if is_whole(pad):
        return range(1, rank - 1)
    count = len(tuple(pad)) // 2
    return range(count) if count == rank else range(1, count + 1)


def _axes(owner: str, x: Tensor, dims: Any) -> Numbers:
    axes = (dims,) if is_whole(dims) else tuple(dims)
    rank = len(x.shape)
    if not all(is_whole(a) and -rank <= a < rank for a in axes):
        raise ValueError(f"{owner} expects dims to be axes of {tuple(x.shape)}, got {axes}.")
    return tuple(a % rank for a in axes)


def _ends(owner: str, pad: Pad, axes: int) -> list[tuple[int, int]]:
    numbers = paddings(owner, pad, axes)
    if min(numbers, default=0) < 0:
        raise ValueError(f"{owner} expects pad to be at least 0, got {pad}.")
    return pairs(numbers)
