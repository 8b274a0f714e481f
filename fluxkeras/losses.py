"""Losses: how far the predictions `y_hat` are from the targets `y`, in Flux's argument order.

`y_hat` and `y` are tensors, arrays, lists or numbers of one shape; the batch comes first and the
classes last. `y` is cast to the dtype of `y_hat`. What is left after summing over the classes goes
through `agg`: the mean by default, `tf.reduce_sum` for the sum, `lambda l: l` for one loss an
element, `lambda l: tf.reduce_mean(w * l)` to weight them.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from fluxkeras.activations import float_tensor, logsoftmax, logσ
from fluxkeras.checks import ShapeError

__all__ = [
    "binarycrossentropy",
    "crossentropy",
    "logitbinarycrossentropy",
    "logitcrossentropy",
    "mae",
    "mse",
]

Tensor: TypeAlias = Any
Shape: TypeAlias = tuple[int | None, ...]
Axes: TypeAlias = int | tuple[int, ...]
Aggregate: TypeAlias = Callable[[Tensor], Tensor]

MACHINE_EPSILON = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def mse(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """The mean squared error, `agg(abs(y_hat - y) ** 2)`.

    Args:
        y_hat: predictions of any shape, real or complex.
        y: targets of the same shape.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a real number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> float(mse([1.0, 2.0], [1.0, 4.0]))
        2.0

    Source: Flux's `mse`.
    """
    y_hat, y = _pair("mse", y_hat, y)
    difference = y_hat - y
    if difference.dtype.is_complex:
        return agg(tf.math.real(difference * tf.math.conj(difference)))
    return agg(tf.square(difference))


def mae(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """The mean absolute error, `agg(abs(y_hat - y))`.

    Args:
        y_hat: predictions of any shape.
        y: targets of the same shape.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> float(mae([1.0, 2.0], [1.0, 4.0]))
        1.0

    Source: Flux's `mae`.
    """
    y_hat, y = _pair("mae", y_hat, y)
    return agg(tf.abs(y_hat - y))


def crossentropy(
    y_hat: Any,
    y: Any,
    *,
    dims: Axes = -1,
    agg: Aggregate = tf.reduce_mean,
    eps: float | None = None,
) -> Tensor:
    """The cross entropy of probabilities, `agg(-sum(y * log(y_hat + eps), dims))`.

    A class of `y = 0` counts nothing, whatever its `y_hat`. On a model that ends without `softmax`,
    `logitcrossentropy` is the right one.

    Args:
        y_hat: probabilities, `(batch, classes)` or any shape.
        y: one-hot or smoothed labels of the same shape.
        dims: the axis or axes of the classes.
        agg: reduces the losses, of the shape of `y_hat` without `dims`.
        eps: keeps the logarithm finite; by default the machine epsilon of the dtype of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(crossentropy([[0.5, 0.5], [0.2, 0.8]], [[1, 0], [0, 1]])), 4)
        0.4581

    Source: Flux's `crossentropy`. Keras's also divides by the sum of `y_hat` and clips it.
    """
    y_hat, y = _pair("crossentropy", y_hat, y, classes=dims)
    return agg(-tf.reduce_sum(tf.math.xlogy(y, y_hat + _epsilon(y_hat, eps)), dims))


def logitcrossentropy(
    y_hat: Any, y: Any, *, dims: Axes = -1, agg: Aggregate = tf.reduce_mean
) -> Tensor:
    """The cross entropy of logits, `agg(-sum(y * logsoftmax(y_hat, dims), dims))`.

    Args:
        y_hat: what a model gives without a final `softmax`, `(batch, classes)` or any shape.
        y: one-hot or smoothed labels of the same shape.
        dims: the axis or axes of the classes.
        agg: reduces the losses, of the shape of `y_hat` without `dims`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(logitcrossentropy([[0.0, 0.0], [0.0, 1000.0]], [[1, 0], [0, 1]])), 4)
        0.3466

    Source: Flux's `logitcrossentropy`.
    """
    y_hat, y = _pair("logitcrossentropy", y_hat, y, classes=dims)
    # Not the fused op of TensorFlow, whose gradient is right only where y sums to one. A class
    # masked by a logit of -inf counts nothing where y is 0.
    return agg(-tf.reduce_sum(tf.math.multiply_no_nan(logsoftmax(y_hat, dims), y), dims))


def binarycrossentropy(
    y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean, eps: float | None = None
) -> Tensor:
    """The binary cross entropy, `agg(-y * log(y_hat + eps) - (1 - y) * log(1 - y_hat + eps))`.

    `0 * log(...)` is 0. On a model that ends without `σ`, `logitbinarycrossentropy` is the right
    one.

    Args:
        y_hat: probabilities of any shape.
        y: labels between 0 and 1 of the same shape, or one number for all.
        agg: reduces the losses, of the shape of `y_hat`.
        eps: keeps the logarithm finite; by default the machine epsilon of the dtype of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(binarycrossentropy([0.5, 0.8], [0, 1])), 4)
        0.4581

    Source: Flux's `binarycrossentropy`. Keras's clips `y_hat`.
    """
    y_hat, y = _pair("binarycrossentropy", y_hat, y, numbers=True)
    eps = _epsilon(y_hat, eps)
    return agg(-tf.math.xlogy(y, y_hat + eps) - tf.math.xlogy(1 - y, 1 - y_hat + eps))


def logitbinarycrossentropy(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """The binary cross entropy of logits, `agg((1 - y) * y_hat - logσ(y_hat))`.

    Args:
        y_hat: what a model gives without a final `σ`, of any shape.
        y: labels between 0 and 1 of the same shape, or one number for all.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(logitbinarycrossentropy([0.0, 1000.0], 1)), 4)
        0.3466

    Source: Flux's `logitbinarycrossentropy`.
    """
    y_hat, y = _pair("logitbinarycrossentropy", y_hat, y, numbers=True)
    return agg((1 - y) * y_hat - logσ(y_hat))


def _epsilon(y_hat: Tensor, eps: float | None) -> float:
    return MACHINE_EPSILON[y_hat.dtype.name] if eps is None else eps


def _pair(
    loss: str, y_hat: Any, y: Any, *, classes: Axes | None = None, numbers: bool = False
) -> tuple[Tensor, Tensor]:
    """`y_hat` and `y` as tensors of one dtype, if they are of one shape.

    Args:
        loss: who asks.
        y_hat: the predictions.
        y: the targets.
        classes: the axis or axes of the classes, if there are any.
        numbers: whether `y` may be one number for all predictions.
    """
    y_hat = float_tensor(y_hat)
    y = tf.convert_to_tensor(y, dtype_hint=None if hasattr(y, "dtype") else y_hat.dtype)
    if not (y_hat.shape.is_compatible_with(y.shape) or (numbers and y.shape.rank == 0)):
        given, wanted = tuple(y_hat.shape), tuple(y.shape)
        raise ShapeError(
            f"{loss} expects y_hat and y of the same shape, got {given} and {wanted}. "
            f"{_remedy(given, wanted, classes)}"
        )
    return y_hat, tf.cast(y, y_hat.dtype)


def _remedy(given: Shape, wanted: Shape, classes: Axes | None) -> str:
    """What to do about predictions of shape `given` and targets of shape `wanted`."""
    if remedy := _one_hot_remedy(given, wanted, classes) or _squeeze_remedy(given, wanted):
        return remedy
    if not wanted:
        return "Repeat the number for every prediction: tf.fill(tf.shape(y_hat), y)."
    if len(given) != len(wanted):
        return "If they hold the same values in the same order, tf.reshape one of them."
    if len(given) == 2 and given == wanted[::-1]:
        return "One has the batch last, as in Flux, but it goes first here: use tf.transpose."
    axis = next(i for i in range(len(given)) if not _fit(given[i : i + 1], wanted[i : i + 1]))
    if axis == 0:
        return "Both must be of the same samples."
    if axis == len(given) - 1:
        return (
            f"Make the model's last layer of size {wanted[-1]}, or the last axis of y {given[-1]}."
        )
    return f"They differ along axis {axis}: crop, pad or resize one of them."


def _one_hot_remedy(given: Shape, wanted: Shape, classes: Axes | None) -> str:
    """The remedy if the targets are class numbers, else nothing."""
    if not isinstance(classes, int) or not -len(given) <= classes < len(given):
        return ""
    axis = classes % len(given)
    batch, length = _without(given, axis), given[axis]
    with_axis = (*given[:axis], 1, *given[axis + 1 :])
    numbers = "y" if _fit(batch, wanted) else f"tf.squeeze(y, {classes})"
    if length == 1 or not (_fit(batch, wanted) or _fit(with_axis, wanted)):
        return ""
    where = "" if axis == len(given) - 1 else f", axis={classes}"
    return f"One-hot encode class numbers: tf.one_hot({numbers}, {length or 'classes'}{where})."


def _squeeze_remedy(given: Shape, wanted: Shape) -> str:
    """The remedy if one shape has an axis of length 1 too many, else nothing."""
    (long, longer), (short, shorter) = sorted(
        [("y_hat", given), ("y", wanted)], key=lambda named: -len(named[1])
    )
    for axis in reversed(range(len(longer))):
        if longer[axis] == 1 and _fit(_without(longer, axis), shorter):
            where = -1 if axis == len(longer) - 1 else axis
            why = "; broadcasting would pair every prediction with every target" if axis else ""
            return f"Write tf.squeeze({long}, {where}) or tf.expand_dims({short}, {where}){why}."
    return ""


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _fit(a: Shape, b: Shape) -> bool:
    return tf.TensorShape(a).is_compatible_with(b)
