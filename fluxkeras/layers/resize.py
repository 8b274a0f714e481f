"""Upsample and PixelShuffle: images made larger, from their neighbours or from their channels."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.printing import describe
from fluxkeras.layers.windows import AXES, SpatialLayer, Tensor, is_whole, per_axis, sizes

__all__ = [
    "PixelShuffle",
    "Upsample",
    "pixel_shuffle",
    "upsample_bilinear",
    "upsample_linear",
    "upsample_nearest",
    "upsample_trilinear",
]

Scale = float | Sequence[float] | None
Size = int | Sequence[int] | None

MODES = {"nearest": None, "linear": 1, "bilinear": 2, "trilinear": 3}  # over how many axes


# --- Neighbours ----------------------------------------------------------------------------------


def upsample_nearest(x: Any, scale: Size = None, *, size: Size = None) -> Tensor:
    """An image in which each number is repeated.

    `y[i] = x[i // scale]`, over each axis

    Args:
        x: an array of shape `(batch, *n, channels)`.
        scale: how often: a whole number, or one for each axis, from the one after the batch axis
            on.
        size: the size of the result along those axes, a multiple of that of `x`; instead of
            `scale`.

    Returns:
        A tensor of shape `(batch, *scale * n, channels)`.

    Raises:
        ValueError: if both or none of `scale` and `size` are given, or they are not as above.
        ShapeError: if `x` has too few axes, or `size` is no multiple of its size.

    Example:
        >>> upsample_nearest(np.reshape([1, 2], (1, 2, 1)), 3).numpy().ravel().tolist()
        [1, 1, 1, 2, 2, 2]

    Source: NNlib's `upsample_nearest`.
    """
    return _upsampled("upsample_nearest", "nearest", x, scale, size)


def upsample_linear(
    x: Any, scale: Scale = None, *, size: Size = None, align_corners: bool = True
) -> Tensor:
    """A sequence made longer along straight lines between its numbers.

    `y[i] = (1 - t) * x[j] + t * x[j + 1]` with `j + t = i * (n - 1) / (m - 1)`, where `j` is whole,
    `n` the size of the input and `m` that of the output; without `align_corners`,
    `j + t = max((i + 0.5) * n / m - 0.5, 0)`

    Args:
        x: an array of shape `(batch, n, channels)`.
        scale: a number, or a tuple of one: `m = floor(scale * n)`.
        size: `m`, instead of `scale`.
        align_corners: whether the first and the last numbers of `x` and `y` lie at the same place.

    Returns:
        A tensor of shape `(batch, m, channels)`.

    Raises:
        ValueError: if both or none of `scale` and `size` are given, or they are not as above.
        ShapeError: if `x` has another number of axes.

    Example:
        >>> x = np.reshape([1.0, 2.0, 4.0], (1, 3, 1))
        >>> upsample_linear(x, size=5).numpy().ravel().tolist()
        [1.0, 1.5, 2.0, 3.0, 4.0]

    Source: NNlib's `upsample_linear`.
    """
    return _upsampled("upsample_linear", "linear", x, scale, size, align_corners)


def upsample_bilinear(
    x: Any, scale: Scale = None, *, size: Size = None, align_corners: bool = True
) -> Tensor:
    """An image made larger along straight lines between its numbers.

    `upsample_linear` over the height, then over the width

    Args:
        x: an array of shape `(batch, height, width, channels)`.
        scale: a number, or one for each of the two axes, as in `upsample_linear`.
        size: the size of the result along each, instead of `scale`.
        align_corners: whether the corners of `x` and of the result lie at the same place.

    Returns:
        A tensor of shape `(batch, *m, channels)`.

    Raises:
        ValueError, ShapeError: as `upsample_linear`.

    Example:
        >>> x = np.reshape([1.0, 2.0, 3.0, 4.0], (1, 2, 2, 1))
        >>> upsample_bilinear(x, size=(3, 2))[0, :, :, 0].numpy().tolist()
        [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]

    Source: NNlib's `upsample_bilinear`. What Keras and `tf.image` call bilinear aligns no corners.
    """
    return _upsampled("upsample_bilinear", "bilinear", x, scale, size, align_corners)


def upsample_trilinear(
    x: Any, scale: Scale = None, *, size: Size = None, align_corners: bool = True
) -> Tensor:
    """A volume made larger along straight lines between its numbers.

    `upsample_linear` over each of three axes

    Args:
        x: an array of shape `(batch, depth, height, width, channels)`.
        scale: a number, or one for each of the three axes, as in `upsample_linear`.
        size: the size of the result along each, instead of `scale`.
        align_corners: whether the corners of `x` and of the result lie at the same place.

    Returns:
        A tensor of shape `(batch, *m, channels)`.

    Raises:
        ValueError, ShapeError: as `upsample_linear`.

    Example:
        >>> upsample_trilinear(np.ones((1, 2, 3, 4, 1)), 2).shape
        TensorShape([1, 4, 6, 8, 1])

    Source: NNlib's `upsample_trilinear`.
    """
    return _upsampled("upsample_trilinear", "trilinear", x, scale, size, align_corners)


def _upsampled(
    owner: Any, mode: str, x: Any, scale: Any, size: Any, align_corners: bool = True
) -> Tensor:
    x = tf.convert_to_tensor(x) if mode == "nearest" else float_tensor(x)
    axes = MODES[mode] or len(x.shape) - 2
    if axes < 1 or len(x.shape) != axes + 2:
        raise ShapeError(
            f"{owner} expects inputs of shape (batch, {AXES.get(axes, '…')}, channels), "
            f"got {tuple(x.shape)}."
        )
    numbers = _numbers(owner, mode, scale, size, axes)
    old = sizes(x)[1 : len(numbers) + 1]
    if mode == "nearest":
        factors = numbers if size is None else _factors(owner, x, old, numbers)
        for axis, factor in enumerate(factors, start=1):
            x = tf.repeat(x, factor, axis)
        return x
    for axis, (n, number) in enumerate(zip(old, numbers, strict=True), start=1):
        m = _scaled(n, number) if size is None else number
        x = _interpolated(x, axis, n, m, align_corners)
    return x


def _numbers(owner: Any, mode: str, scale: Any, size: Any, axes: int) -> list[Any]:
    """The scale or the size of each axis."""
    if (scale is None) == (size is None):
        words = "neither" if scale is None else "both"
        raise ValueError(f"{owner} expects either scale or size, got {words}.")
    name, given = ("size", size) if scale is None else ("scale", scale)
    numbers = list(given) if isinstance(given, tuple | list) else [given] * axes
    is_any = mode != "nearest" and size is None
    is_right = all(is_whole(n) or (is_any and isinstance(n, float | np.floating)) for n in numbers)
    least = 1 if mode == "nearest" else axes
    if not is_right or not least <= len(numbers) <= axes or min(numbers) <= 0:
        kind = "a number" if is_any else "a whole number"
        raise ValueError(
            f"{owner} expects {name} to be {kind} above 0, or {axes} of them, "
            f"got {describe(given)}."
        )
    return numbers


def _factors(owner: Any, x: Tensor, old: list[Any], new: list[int]) -> list[int]:
    if not all(isinstance(n, int) and m % n == 0 for n, m in zip(old, new, strict=True)):
        raise ShapeError(
            f"{owner} expects inputs of a size that divides the one wanted, got {tuple(x.shape)}."
        )
    return [m // n for n, m in zip(old, new, strict=True)]


def _scaled(n: Any, scale: float) -> Any:
    if isinstance(n, int):
        return math.floor(scale * n)
    return tf.cast(tf.floor(scale * tf.cast(n, tf.float64)), tf.int32)


def _interpolated(x: Tensor, axis: int, n: Any, m: Any, align_corners: bool) -> Tensor:
    """`x` with `m` numbers instead of `n` along an axis."""
    i, old, new = tf.cast(tf.range(m), tf.float64), *(tf.cast(k, tf.float64) for k in (n, m))
    if align_corners:
        place = i * (old - 1) / tf.maximum(new - 1, 1)
    else:
        place = tf.maximum((i + 0.5) * old / new - 0.5, 0)
    low = tf.minimum(tf.cast(place, tf.int32), n - 1)
    share = tf.cast(place - tf.cast(low, tf.float64), x.dtype)
    share = tf.reshape(share, [-1 if a == axis else 1 for a in range(len(x.shape))])
    high = tf.minimum(low + 1, n - 1)
    return tf.gather(x, low, axis=axis) * (1 - share) + tf.gather(x, high, axis=axis) * share


@keras.saving.register_keras_serializable(package="fluxkeras")
class Upsample(SpatialLayer):
    """Makes images larger, by repeating their numbers or along straight lines between them.

    `upsample_nearest(x, scale)`, `upsample_bilinear(x, scale)` or `upsample_trilinear(x, scale)`

    Args:
        mode: `"nearest"`, `"bilinear"` (for two axes) or `"trilinear"` (for three). The scale and
            the mode may also be given in this order: `Upsample(2, "bilinear")`.
        scale: by how much, a number, or one for each axis; for `"nearest"`, a whole one.
        size: the size of the result, a number, or one for each axis; instead of `scale`.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)` and returns
        `(batch, *m, channels)` with `m = size` or `m = floor(scale * n)`.

    Raises:
        ValueError: if the mode is none of these, or both or none of `scale` and `size` are given.
        ShapeError: when called on an input of another number of axes.

    Example:
        >>> Upsample("bilinear", scale=2)(np.ones((1, 8, 8, 3))).shape
        TensorShape([1, 16, 16, 3])
        >>> print(Upsample(scale=(2, 3)))
        Upsample(:nearest, scale = (2, 3))

    Source: Flux's `Upsample`. The bilinear one of Keras's `UpSampling2D` aligns no corners.
    """

    def __init__(
        self, mode: Any = "nearest", scale: Any = None, *, size: Any = None, **keras_options: Any
    ) -> None:
        super().__init__(**keras_options)
        if not isinstance(mode, str):
            mode, scale = scale or "nearest", mode
        if mode not in ("nearest", "bilinear", "trilinear"):
            raise ValueError(
                f'Upsample expects the mode "nearest", "bilinear" or "trilinear", got {mode!r}.'
            )
        self.mode, self.scale, self.size = mode, _tupled(scale), _tupled(size)
        _numbers("Upsample", mode, self.scale, self.size, MODES[mode] or len(AXES))

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = tf.cast(x, self.compute_dtype)
        return _upsampled(self, self.mode, x, self.scale, self.size)

    def get_config(self) -> dict[str, Any]:
        own = {"mode": self.mode, "scale": self.scale, "size": self.size}
        return {**super().get_config(), **own}

    def __repr__(self) -> str:
        return f'Upsample("{self.mode}", {self._option("=")})'

    def __str__(self) -> str:
        return f"Upsample(:{self.mode}, {self._option(' = ')})"

    def _option(self, equals: str) -> str:
        return f"scale{equals}{self.scale}" if self.size is None else f"size{equals}{self.size}"


def _tupled(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


# --- Channels ------------------------------------------------------------------------------------


def pixel_shuffle(x: Any, r: int) -> Tensor:
    """An image whose pixels are made of several channels each.

    `y[r * i + a, r * j + b, c] = x[i, j, a + r * b + r**2 * c]`, and likewise for one or three axes

    Args:
        x: an array of shape `(batch, *n, r**d * channels)` with `d` axes `n`.
        r: by how much larger the image becomes along each axis.

    Returns:
        A tensor of shape `(batch, *r * n, channels)`.

    Raises:
        ValueError: if `r` is no whole number above 0.
        ShapeError: if `x` has fewer than three axes, or no such number of channels.

    Example:
        >>> pixel_shuffle(np.reshape([1, 2, 3, 4], (1, 1, 1, 4)), 2)[0, :, :, 0].numpy().tolist()
        [[1, 3], [2, 4]]

    Source: NNlib's `pixel_shuffle`; Shi et al., 2016. `tf.nn.depth_to_space` takes the channels in
        another order.
    """
    r = per_axis("pixel_shuffle", "r", r, 1)[0]
    return _shuffled("pixel_shuffle", tf.convert_to_tensor(x), r)


def _shuffled(owner: Any, x: Tensor, r: int) -> Tensor:
    axes = len(x.shape) - 2
    if axes < 1 or x.shape[-1] is None or x.shape[-1] % r**axes:
        raise ShapeError(
            f"{owner} expects inputs of shape (batch, …, channels), where {r} to the number of "
            f"inner axes divides the channels, got {tuple(x.shape)}."
        )
    batch, *inner, channels = sizes(x)
    x = tf.reshape(x, (batch, *inner, channels // r**axes, *[r] * axes))
    # Flux counts the places within a pixel along the first axis first.
    order = [a for axis in range(1, axes + 1) for a in (axis, 2 * axes + 2 - axis)]
    x = tf.transpose(x, [0, *order, axes + 1])
    return tf.reshape(x, (batch, *(r * n for n in inner), channels // r**axes))


@keras.saving.register_keras_serializable(package="fluxkeras")
class PixelShuffle(SpatialLayer):
    """Makes images larger, with pixels that are made of several channels each.

    `y[r * i + a, r * j + b, c] = x[i, j, a + r * b + r**2 * c]`, and likewise for one or three axes

    Args:
        r: by how much larger the image becomes along each axis.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, r**d * channels)` with `d` axes `n`, and
        returns `(batch, *r * n, channels)`.

    Raises:
        ValueError: if `r` is no whole number above 0.
        ShapeError: when called on an input of fewer than three axes, or with no such number of
            channels.

    Example:
        >>> PixelShuffle(2)(np.ones((1, 8, 8, 12))).shape
        TensorShape([1, 16, 16, 3])

    Source: Flux's `PixelShuffle`; Shi et al., 2016.
    """

    def __init__(self, r: int, **keras_options: Any) -> None:
        super().__init__(**keras_options)
        self.r = per_axis("PixelShuffle", "r", r, 1)[0]

    def call(self, x: Any, training: bool | None = None) -> Any:
        return _shuffled(self, tf.cast(x, self.compute_dtype), self.r)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "r": self.r}

    def __repr__(self) -> str:
        return f"PixelShuffle({self.r})"

    __str__ = __repr__
