"""Pairs: predictions and targets of one shape and dtype, and what to do about those of two."""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError

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


def epsilon(y_hat: Tensor, eps: float | None) -> float:
    """`eps`, by default the machine epsilon of the dtype of `y_hat`."""
    return MACHINE_EPSILON[y_hat.dtype.name] if eps is None else eps


def paired(loss: str, y_hat: Any, y: Any, *, classes: Axes | None = None) -> tuple[Tensor, Tensor]:
    """`y_hat` and `y` as tensors of one dtype, if they are of one shape.

    Without classes, `y` may also be one number for all predictions.

    Args:
        loss: who asks.
        y_hat: the predictions.
        y: the targets.
        classes: the axis or axes of the classes, if there are any.
    """
    y_hat = float_tensor(y_hat)
    y = tf.convert_to_tensor(y, dtype_hint=None if hasattr(y, "dtype") else y_hat.dtype)
    is_number = classes is None and y.shape.rank == 0
    if not (is_number or y_hat.shape.is_compatible_with(y.shape)):
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
    return bool(tf.TensorShape(a).is_compatible_with(b))
