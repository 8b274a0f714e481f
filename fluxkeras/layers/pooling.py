"""Pooling: the largest number of a window that moves over an image, or the mean of its numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.windows import (
    Numbers,
    SamePad,
    SpatialLayer,
    Tensor,
    checked_window,
    expect_images,
    expect_room,
    framed,
    options,
    paddings,
    pairs,
    per_axis,
    sizes,
)

__all__ = [
    "AdaptiveMaxPool",
    "AdaptiveMeanPool",
    "GlobalMaxPool",
    "GlobalMeanPool",
    "MaxPool",
    "MeanPool",
    "lpnormpool",
    "maxpool",
    "meanpool",
]

Pad = int | Sequence[int] | SamePad


def pool(x: Tensor, operation: Callable[..., Tensor], size: Numbers, stride: Numbers) -> Tensor:
    """`tf.nn.max_pool` or `tf.nn.avg_pool` of windows of a size, without padding."""
    if len(size) < 3:
        return operation(x, size, stride, "VALID")
    # For three axes, TensorFlow has no float64 on a CPU: first two for each place on the other.
    batch, depth, *inner = sizes(x)
    x = pool(tf.reshape(x, (batch * depth, *inner)), operation, size[1:], stride[1:])
    _, height, width, channels = sizes(x)
    x = tf.reshape(x, (batch, depth, height * width, channels))
    x = pool(x, operation, (size[0], 1), (stride[0], 1))
    return tf.reshape(x, (batch, sizes(x)[1], height, width, channels))


def checked_moves(
    owner: str, window: Any, pad: Any, stride: Any
) -> tuple[Numbers, Numbers, Numbers]:
    """The window, the padding and the stride of a pool, for each axis."""
    window = checked_window(owner, window)
    axes, ones = len(window), (1,) * len(window)
    if isinstance(pad, SamePad):
        pad = pad.of(window, ones, ones)
    stride = window if stride is None else per_axis(owner, "stride", stride, axes)
    return window, paddings(owner, pad, axes), stride


def framed_pool(
    owner: Any,
    x: Tensor,
    operation: Callable[..., Tensor],
    filler: float,
    window: Numbers,
    pad: Numbers,
    stride: Numbers,
) -> Tensor:
    """`pool` of `x` with `filler` around it."""
    expect_images(owner, x, len(window))
    expect_room(owner, x, [k - sum(p) for k, p in zip(window, pairs(pad), strict=True)])
    return pool(framed(x, pad, filler), operation, window, stride)


# --- Functions -----------------------------------------------------------------------------------


def maxpool(
    x: Any, k: Sequence[int], *, pad: Pad = 0, stride: int | Sequence[int] | None = None
) -> Tensor:
    """The largest number of each window, for each channel: `MaxPool(k, pad=pad, stride=stride)(x)`.

    Args:
        x: an array of shape `(batch, *n, channels)`.
        k: the size of the windows, a tuple of one number for each axis, up to three.
        pad: by how much `x` is surrounded by `-inf`, as in `MaxPool`.
        stride: by how much the window moves on: a number, or one for each axis; by default, by its
            size.

    Returns:
        A tensor of shape `(batch, *m, channels)` with `m = (n + pads - k) // s + 1`.

    Raises:
        ValueError, ShapeError: as `MaxPool`.

    Example:
        >>> m = Chain(Conv((2, 2), 1, 16, relu), lambda x: maxpool(x, (2, 2)))
        >>> m(np.ones((8, 28, 28, 1))).shape
        TensorShape([8, 13, 13, 16])

    Source: NNlib's `maxpool`.
    """
    of_windows = checked_moves("maxpool", k, pad, stride)
    return framed_pool("maxpool", float_tensor(x), tf.nn.max_pool, -math.inf, *of_windows)


def meanpool(
    x: Any,
    k: Sequence[int],
    *,
    pad: Pad = 0,
    stride: int | Sequence[int] | None = None,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window, for each channel: `MeanPool(k, pad=pad, stride=stride)(x)`.

    Args:
        x: an array of shape `(batch, *n, channels)`.
        k: the size of the windows, a tuple of one number for each axis, up to three.
        pad: by how many zeros `x` is surrounded, as in `MeanPool`.
        stride: by how much the window moves on: a number, or one for each axis; by default, by its
            size.
        count_include_pad: whether the zeros count. Otherwise it is the mean of what a window has of
            `x` itself.

    Returns:
        A tensor of shape `(batch, *m, channels)` with `m = (n + pads - k) // s + 1`.

    Raises:
        ValueError, ShapeError: as `MeanPool`.

    Example:
        >>> x = np.reshape([1.0, 3, 5, 7], (1, 4, 1))
        >>> meanpool(x, (2,), pad=1).numpy().ravel().tolist()
        [0.5, 4.0, 3.5]
        >>> meanpool(x, (2,), pad=1, count_include_pad=False).numpy().ravel().tolist()
        [1.0, 4.0, 7.0]

    Source: NNlib's `meanpool`.
    """
    x, of_windows = float_tensor(x), checked_moves("meanpool", k, pad, stride)
    y = framed_pool("meanpool", x, tf.nn.avg_pool, 0, *of_windows)
    if count_include_pad:
        return y
    return y / framed_pool("meanpool", tf.ones_like(x), tf.nn.avg_pool, 0, *of_windows)


def lpnormpool(
    x: Any,
    p: float,
    k: Sequence[int],
    *,
    pad: Pad = 0,
    stride: int | Sequence[int] | None = None,
) -> Tensor:
    """The norm of each window, for each channel.

    `y[i] = sum(x[s * i + a] ** p for a in range(k)) ** (1 / p)` with windows of size `k` and a
    stride of `s`, over each axis

    Args:
        x: an array of shape `(batch, *n, channels)`.
        p: the power, a number above 0.
        k: the size of the windows, a tuple of one number for each axis, up to three.
        pad: by how many zeros `x` is surrounded, as in `MeanPool`.
        stride: by how much the window moves on: a number, or one for each axis; by default, by its
            size.

    Returns:
        A tensor of shape `(batch, *m, channels)` with `m = (n + pads - k) // s + 1`.

    Raises:
        ValueError: if `p` is not above 0 or infinite; and as `MeanPool`.
        ShapeError: as `MeanPool`.

    Example:
        >>> lpnormpool(np.reshape([3.0, 4, 5, 12], (1, 4, 1)), 2, (2,)).numpy().ravel().tolist()
        [5.0, 13.0]

    Source: NNlib's `lpnormpool`; Gulcehre et al., 2014.
    """
    if not 0 < p < math.inf:
        raise ValueError(f"lpnormpool expects a power p above 0, got {p}. Its limit is maxpool.")
    x, of_windows = float_tensor(x), checked_moves("lpnormpool", k, pad, stride)
    power = tf.cast(p, x.dtype)
    y = framed_pool("lpnormpool", x**power, tf.nn.avg_pool, 0, *of_windows)
    return (y * math.prod(of_windows[0])) ** (1 / power)


# --- Windows of one size -------------------------------------------------------------------------


class Pool(SpatialLayer):
    """What `MaxPool` and `MeanPool` share."""

    operation: Callable[..., Tensor]
    filler: float  # what surrounds the input

    def __init__(
        self,
        window: Sequence[int],
        *,
        pad: Pad = 0,
        stride: int | Sequence[int] | None = None,
        **keras_options: Any,
    ) -> None:
        super().__init__(**keras_options)
        self.window, self.pad, self.stride = checked_moves(type(self).__name__, window, pad, stride)

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = tf.cast(x, self.compute_dtype)
        of_windows = self.window, self.pad, self.stride
        return framed_pool(self, x, self.operation, self.filler, *of_windows)

    def get_config(self) -> dict[str, Any]:
        own = {"window": self.window, "pad": self.pad, "stride": self.stride}
        return {**super().get_config(), **own}

    def __repr__(self) -> str:
        stride = None if self.stride == self.window else self.stride
        words = options(pad=(self.pad, 0), stride=(stride, None))
        return f"{type(self).__name__}({', '.join([str(self.window), *words])})"

    __str__ = __repr__


@keras.saving.register_keras_serializable(package="fluxkeras")
class MaxPool(Pool):
    """The largest number of each window, for each channel.

    `y[i] = max(x[s * i + a] for a in range(k))` with windows of size `k` and a stride of `s`, over
    each axis; what surrounds the input is `-inf`.

    Args:
        window: the size of the windows, a tuple of one number for each axis, up to three.
        pad: by how much the input is surrounded: a number, one for each axis, two for each axis
            (before and after), or `SamePad()`.
        stride: by how much the window moves on: a number, or one for each axis; by default, by its
            size.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)` and returns
        `(batch, *m, channels)` with `m = (n + pads - k) // s + 1`.

    Raises:
        ValueError: if an option is not as above.
        ShapeError: when called on an input of another shape, such as one image without a batch
            axis, or smaller than the window.

    Example:
        >>> MaxPool((2, 2))(np.ones((8, 28, 28, 16))).shape
        TensorShape([8, 14, 14, 16])
        >>> MaxPool((5,), pad=2, stride=(3,))
        MaxPool((5,), pad=2, stride=3)

    Source: Flux's `MaxPool`.
    """

    operation, filler = staticmethod(tf.nn.max_pool), -math.inf


@keras.saving.register_keras_serializable(package="fluxkeras")
class MeanPool(Pool):
    """The mean of each window, for each channel.

    `y[i] = sum(x[s * i + a] for a in range(k)) / k` with windows of size `k` and a stride of `s`,
    over each axis; what surrounds the input is 0, and counts.

    Args:
        window: the size of the windows, a tuple of one number for each axis, up to three.
        pad: how many zeros surround the input: a number, one for each axis, two for each axis
            (before and after), or `SamePad()`.
        stride: by how much the window moves on: a number, or one for each axis; by default, by its
            size.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)` and returns
        `(batch, *m, channels)` with `m = (n + pads - k) // s + 1`.

    Raises:
        ValueError, ShapeError: as `MaxPool`.

    Example:
        >>> x = np.reshape([1.0, 3, 5, 7], (1, 4, 1))
        >>> MeanPool((2,))(x).numpy().ravel().tolist()
        [2.0, 6.0]
        >>> MeanPool((2,), pad=1)(x).numpy().ravel().tolist()
        [0.5, 4.0, 3.5]

    Source: Flux's `MeanPool`. Keras's, with `padding="same"`, leaves the padding out of the mean.
    """

    operation, filler = staticmethod(tf.nn.avg_pool), 0.0


# --- Outputs of one size -------------------------------------------------------------------------


class AdaptivePool(SpatialLayer):
    """What `AdaptiveMaxPool` and `AdaptiveMeanPool` share."""

    operation: Callable[..., Tensor]

    def __init__(self, out: Sequence[int], **keras_options: Any) -> None:
        super().__init__(**keras_options)
        self.out = checked_window(type(self).__name__, out)

    def call(self, x: Any, training: bool | None = None) -> Any:
        expect_images(self, x, len(self.out))
        inner = tuple(x.shape)[1:-1]
        if any(n is None or n < o for n, o in zip(inner, self.out, strict=True)):
            raise ShapeError(
                f"{self} expects inputs of a known size, at least its own, got {tuple(x.shape)}."
            )
        stride = tuple(n // o for n, o in zip(inner, self.out, strict=True))
        moves = zip(inner, self.out, stride, strict=True)
        x = tf.cast(x, self.compute_dtype)
        return pool(x, self.operation, tuple(n - (o - 1) * s for n, o, s in moves), stride)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "out": self.out}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.out})"

    __str__ = __repr__


@keras.saving.register_keras_serializable(package="fluxkeras")
class AdaptiveMaxPool(AdaptivePool):
    """The largest numbers of windows that are as large as an output of a fixed size needs.

    `MaxPool(n - (out - 1) * (n // out), stride=n // out)` for an input of size `n`, over each axis

    Args:
        out: the size of the output, a tuple of one number for each axis, up to three.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)` and returns
        `(batch, *out, channels)`.

    Raises:
        ValueError: if `out` is not such a tuple.
        ShapeError: when called on an input of another shape, or smaller than `out`.

    Example:
        >>> AdaptiveMaxPool((25, 25))(np.ones((1, 100, 77, 3))).shape
        TensorShape([1, 25, 25, 3])

    Source: Flux's `AdaptiveMaxPool`. The windows of Keras's are others where `n` is no multiple of
        `out`.
    """

    operation = staticmethod(tf.nn.max_pool)


@keras.saving.register_keras_serializable(package="fluxkeras")
class AdaptiveMeanPool(AdaptivePool):
    """The means of windows that are as large as an output of a fixed size needs.

    `MeanPool(n - (out - 1) * (n // out), stride=n // out)` for an input of size `n`, over each axis

    Args:
        out: the size of the output, a tuple of one number for each axis, up to three.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)` and returns
        `(batch, *out, channels)`.

    Raises:
        ValueError, ShapeError: as `AdaptiveMaxPool`.

    Example:
        >>> x = np.reshape([1.0, 2, 3, 4, 5], (1, 5, 1))
        >>> AdaptiveMeanPool((2,))(x).numpy().ravel().tolist()
        [2.0, 4.0]

    Source: Flux's `AdaptiveMeanPool`. The windows of Keras's are others where `n` is no multiple of
        `out`.
    """

    operation = staticmethod(tf.nn.avg_pool)


# --- One number for each channel -----------------------------------------------------------------


class GlobalPool(SpatialLayer):
    """What `GlobalMaxPool` and `GlobalMeanPool` share."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        if len(x.shape) < 3:
            raise ShapeError(
                f"{self} expects inputs of shape (batch, …, channels), got {tuple(x.shape)}."
            )
        return self.reduce(tf.cast(x, self.compute_dtype), tuple(range(1, len(x.shape) - 1)))

    def reduce(self, x: Tensor, axes: Numbers) -> Tensor:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    __str__ = __repr__


@keras.saving.register_keras_serializable(package="fluxkeras")
class GlobalMaxPool(GlobalPool):
    """The largest number of each channel.

    `max(x, axis=(1, …, -2), keepdims=True)`

    Args:
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)`, of any number of axes `n`, and
        returns `(batch, *1, channels)`.

    Raises:
        ShapeError: when called on an input of fewer than three axes.

    Example:
        >>> GlobalMaxPool()(np.ones((8, 28, 28, 16))).shape
        TensorShape([8, 1, 1, 16])

    Source: Flux's `GlobalMaxPool`. Keras's drops the axes unless told to keep them.
    """

    def reduce(self, x: Tensor, axes: Numbers) -> Tensor:
        return tf.reduce_max(x, axes, keepdims=True)


@keras.saving.register_keras_serializable(package="fluxkeras")
class GlobalMeanPool(GlobalPool):
    """The mean of each channel.

    `mean(x, axis=(1, …, -2), keepdims=True)`

    Args:
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, channels)`, of any number of axes `n`, and
        returns `(batch, *1, channels)`.

    Raises:
        ShapeError: when called on an input of fewer than three axes.

    Example:
        >>> x = np.reshape([1.0, 3, 5, 7], (1, 4, 1))
        >>> GlobalMeanPool()(x).numpy().tolist()
        [[[4.0]]]

    Source: Flux's `GlobalMeanPool`. Keras's drops the axes unless told to keep them.
    """

    def reduce(self, x: Tensor, axes: Numbers) -> Tensor:
        return tf.reduce_mean(x, axes, keepdims=True)
