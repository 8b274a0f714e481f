"""Windows that move over the inner axes of images: how they step, pad, and what they fit."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.printing import describe

__all__ = ["SamePad"]

Tensor: TypeAlias = Any
Numbers: TypeAlias = tuple[int, ...]

AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}


class SpatialLayer(FluxLayer, keras.Layer):
    """A layer of images: shapes without a batch axis, or that do not fit, are errors of `call`."""

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing `call`, which checks; Keras would ask `compute_output_shape`, which asks here.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.compute_output_spec(keras.KerasTensor(input_shape)).shape


class SamePad:
    """As padding: as much as leaves the size of the input, where the stride is 1.

    `d * (k - 1)` zeros along an axis with a window of `k` and a dilation of `d`, of which the
    larger half comes first. With a stride of `s`, a size of `n` becomes `ceil(n / s)`; that of
    `ConvTranspose`, which takes away `d * (k - s)`, becomes `n * s` if `d` is 1.

    Returns:
        What the layers with windows take as `pad`.

    Example:
        >>> Conv((3, 3), 1, 16, pad=SamePad())
        Conv((3, 3), 1, 16, pad=1)
        >>> Conv((4,), 1, 16, pad=SamePad())
        Conv((4,), 1, 16, pad=(2, 1))

    Source: Flux's `SamePad`. Keras's `padding="same"` puts the larger half last, and depends on the
        stride and the size: its numbers differ for even windows and for strides above 1.
    """

    def of(self, size: Numbers, dilation: Numbers, step: Numbers) -> Numbers:
        """The zeros before and after each axis."""
        totals = [d * (k - s) for k, d, s in zip(size, dilation, step, strict=True)]
        return tuple(half for total in totals for half in (total - total // 2, total // 2))

    def __repr__(self) -> str:
        return "SamePad()"


def checked_window(owner: str, size: Any) -> Numbers:
    """The size of a window, one number for each of the axes that it moves over."""
    if not isinstance(size, tuple | list) or not 1 <= len(size) <= 3:
        raise ValueError(
            f"{owner} expects a window of one, two or three sizes, got {describe(size)}. "
            f"Write {owner}((3, 3), …)."
        )
    return per_axis(owner, "window", size, len(size))


def per_axis(owner: str, name: str, given: Any, axes: int, least: int = 1) -> Numbers:
    """One number for each axis, where one may be given for all."""
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,) * axes
    if len(numbers) != axes or not all(is_whole(n) and n >= least for n in numbers):
        or_each = f", or {axes} of them" if axes > 1 else ""
        raise ValueError(
            f"{owner} expects {name} to be a whole number from {least}{or_each}, "
            f"got {describe(given)}."
        )
    return tuple(map(int, numbers))


def paddings(owner: str, given: Any, axes: int) -> Numbers:
    """How much is added before and after each axis, where one number may be given for both."""
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,) * axes
    if len(numbers) == axes:
        numbers = tuple(n for n in numbers for _ in range(2))
    if len(numbers) != 2 * axes or not all(map(is_whole, numbers)):
        raise ValueError(
            f"{owner} expects pad to be a whole number, {axes} of them, or {2 * axes}: one before "
            f"and one after each axis; got {describe(given)}."
        )
    return tuple(map(int, numbers))


def is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def pairs(numbers: Numbers) -> list[tuple[int, int]]:
    """The paddings of each axis."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def sizes(x: Tensor) -> list[Any]:
    """The shape of `x`: numbers where they are known, else tensors."""
    known = zip(tuple(x.shape), tf.unstack(tf.shape(x)), strict=True)
    return [dynamic if n is None else n for n, dynamic in known]


def expect_images(owner: Any, x: Tensor, axes: int, channels: int | None = None) -> None:
    """Raise an error if `x` lacks a batch axis, `axes` others, or the channels."""
    shape = tuple(x.shape)
    fits = channels is None or shape[-1:] in ((channels,), (None,))
    if len(shape) != axes + 2 or not fits:
        remedy = ""
        if len(shape) == axes + 1 and fits:
            remedy = " Give a single input a batch axis: x[None]."
        raise ShapeError(
            f"{owner} expects inputs of shape (batch, {AXES[axes]}, {channels or 'channels'}), "
            f"got {shape}.{remedy}"
        )


def expect_room(owner: Any, x: Tensor, least: Sequence[int]) -> None:
    """Raise an error if `x` is so small that nothing would come out."""
    least = [max(n, 1) for n in least]
    if any(n is not None and n < m for n, m in zip(x.shape[1:-1], least, strict=True)):
        words = ", ".join(map(str, least))
        raise ShapeError(
            f"{owner} expects inputs of at least ({words}) between batch and channels, "
            f"got {tuple(x.shape)}."
        )


def framed(x: Tensor, pad: Numbers, value: float = 0) -> Tensor:
    """`x` with its inner axes grown by `pad`, and cut where that is negative."""
    if min(pad) < 0:
        inner = [slice(max(-low, 0), min(high, 0) or None) for low, high in pairs(pad)]
        x = x[(slice(None), *inner)]
    if max(pad) > 0:
        grown = [(max(low, 0), max(high, 0)) for low, high in pairs(pad)]
        x = tf.pad(x, [(0, 0), *grown, (0, 0)], constant_values=value)
    return x


def options(**given: tuple[Any, Any]) -> list[str]:
    """How those options print that are not as by default: `(value, default)` of each."""
    words = []
    for name, (value, default) in given.items():
        is_uniform = isinstance(value, tuple) and len(set(value)) == 1
        value = value[0] if is_uniform else value
        if value != default:
            words.append(f"{name}={value}")
    return words
