"""Losses of classes: distributions, smoothed labels, hard examples, sequences of labels."""

import math
from typing import Any

import tensorflow as tf

from fluxkeras.activations import float_tensor, logsoftmax
from fluxkeras.basic_losses import crossentropy
from fluxkeras.checks import ShapeError, outside
from fluxkeras.pairs import Aggregate, Axes, Tensor, epsilon, paired

__all__ = [
    "binary_focal_loss",
    "ctc_loss",
    "focal_loss",
    "kldivergence",
    "label_smoothing",
    "xlogx",
    "xlogy",
]


def xlogx(x: Any) -> Tensor:
    """`x * log(x)`, and 0 where `x` is 0.

    Args:
        x: numbers from 0, of any shape.

    Returns:
        A tensor of the same shape.

    Example:
        >>> xlogx([0.0, 1.0, 2.0]).numpy().round(4).tolist()
        [0.0, 0.0, 1.386...]

    Source: Flux's `Losses.xlogx`.
    """
    x = float_tensor(x)
    return tf.math.xlogy(x, x)


def xlogy(x: Any, y: Any) -> Tensor:
    """`x * log(y)`, and 0 where `x` is 0, whatever `y`, unless it is NaN.

    Args:
        x: numbers of any shape.
        y: numbers from 0, of the same shape.

    Returns:
        A tensor of the same shape.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> xlogy([0.0, 2.0], [0.0, 1.0]).numpy().tolist()
        [0.0, 0.0]

    Source: Flux's `Losses.xlogy`.
    """
    y, x = paired("xlogy", y, x)
    return tf.where(tf.math.is_nan(y), y, tf.math.xlogy(x, y))


def label_smoothing(y: Any, alpha: float, *, dims: int | None = -1) -> Tensor:
    """Labels less certain, `y * (1 - alpha) + alpha / classes`.

    Args:
        y: one-hot labels, `(batch, classes)` or any shape; with `dims=None`, labels of 0 and 1.
        alpha: how much of each label is shared among all classes, between 0 and 1.
        dims: the axis of the classes; None for binary labels, of two classes each.

    Returns:
        A tensor of the shape of `y`.

    Raises:
        ValueError: if `alpha` is not between 0 and 1.
        ShapeError: if there is no such axis.

    Example:
        >>> label_smoothing([[1.0, 0.0, 0.0, 0.0]], 0.2).numpy().round(2).tolist()
        [[0.85..., 0.05..., 0.05..., 0.05...]]
        >>> label_smoothing([1.0, 0.0], 0.2, dims=None).numpy().round(2).tolist()
        [0.89..., 0.10...]

    Source: Flux's `label_smoothing`, where `dims=0` stands for binary labels.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"label_smoothing expects an alpha between 0 and 1, got {alpha}.")
    y = float_tensor(y)
    if dims is None:
        return y * (1 - alpha) + alpha / 2
    if not -len(y.shape) <= dims < len(y.shape):
        raise ShapeError(
            f"label_smoothing expects labels with an axis {dims}, got shape {tuple(y.shape)}. "
            "Write dims=None for labels of 0 and 1 without an axis of classes."
        )
    return y * (1 - alpha) + alpha / tf.cast(tf.shape(y)[dims], y.dtype)


def kldivergence(
    y_hat: Any,
    y: Any,
    *,
    dims: Axes = -1,
    agg: Aggregate = tf.reduce_mean,
    eps: float | None = None,
) -> Tensor:
    """How far a distribution is from another, `agg(sum(y * log(y), dims))` + cross entropy.

    Args:
        y_hat: probabilities, `(batch, classes)` or any shape.
        y: probabilities of the same shape.
        dims: the axis or axes of the classes.
        agg: reduces the losses, of the shape of `y_hat` without `dims`.
        eps: keeps the logarithm of `y_hat` finite; by default the machine epsilon of its dtype.

    Returns:
        What `agg` returns, of the entropy and of the cross entropy, added: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(kldivergence([[0.5, 0.5]], [[1.0, 0.0]])), 4)
        0.6931

    Source: Flux's `kldivergence`. Keras's clips both.
    """
    y_hat, y = paired("kldivergence", y_hat, y, classes=dims)
    entropy = agg(tf.reduce_sum(tf.math.xlogy(y, y), dims))
    return entropy + crossentropy(y_hat, y, dims=dims, agg=agg, eps=eps)


def focal_loss(
    y_hat: Any,
    y: Any,
    *,
    dims: Axes = -1,
    agg: Aggregate = tf.reduce_mean,
    gamma: float = 2.0,
    eps: float | None = None,
) -> Tensor:
    """A cross entropy that counts what is hard, `agg(sum(-y * (1 - p) ** gamma * log(p), dims))`.

    Here `p = y_hat + eps`. With `gamma=0` it is the cross entropy.

    Args:
        y_hat: probabilities, `(batch, classes)` or any shape.
        y: one-hot labels of the same shape.
        dims: the axis or axes of the classes.
        agg: reduces the losses, of the shape of `y_hat` without `dims`.
        gamma: how much less counts what is easy, from 0.
        eps: keeps the logarithm finite; by default the machine epsilon of the dtype of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> y_hat = softmax(np.arange(-7.0, 8.0).reshape(5, 3))
        >>> round(float(focal_loss(y_hat, tf.one_hot([0, 1, 2, 1, 0], 3))), 4)
        1.1278

    Source: Flux's `focal_loss`; Lin et al., 2017, https://arxiv.org/abs/1708.02002. Keras's has a
    factor of 0.25 besides.
    """
    y_hat, y = paired("focal_loss", y_hat, y, classes=dims)
    p = y_hat + epsilon(y_hat, eps)
    # Beyond 1 by eps, a power of 1 - p would be NaN.
    hardness = tf.pow(tf.maximum(1 - p, 0), tf.cast(gamma, p.dtype))
    return agg(tf.reduce_sum(-hardness * tf.math.xlogy(y, p), dims))


def binary_focal_loss(
    y_hat: Any,
    y: Any,
    *,
    agg: Aggregate = tf.reduce_mean,
    gamma: float = 2.0,
    eps: float | None = None,
) -> Tensor:
    """The focal loss of yes and no, `agg(-(1 - p) ** gamma * log(p))`.

    Here `p = y * (y_hat + eps) + (1 - y) * (1 - (y_hat + eps))`, the probability of what is, and at
    least `eps`.

    Args:
        y_hat: probabilities of any shape.
        y: labels of 0 and 1, of the same shape, or one number for all.
        agg: reduces the losses, of the shape of `y_hat`.
        gamma: how much less counts what is easy, from 0.
        eps: keeps the logarithm finite; by default the machine epsilon of the dtype of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> y_hat = [[0.268941, 0.731059], [0.5, 0.5], [0.268941, 0.731059]]
        >>> round(float(binary_focal_loss(y_hat, [[0, 1], [1, 0], [0, 1]])), 4)
        0.0729

    Source: Flux's `binary_focal_loss`; Lin et al., 2017, https://arxiv.org/abs/1708.02002.
    """
    y_hat, y = paired("binary_focal_loss", y_hat, y)
    eps = epsilon(y_hat, eps)
    p = y_hat + eps
    p = tf.maximum(y * p + (1 - y) * (1 - p), eps)
    return agg(-tf.pow(tf.maximum(1 - p, 0), tf.cast(gamma, p.dtype)) * tf.math.log(p))


def ctc_loss(y_hat: Any, y: Any) -> Tensor:
    """How unlikely a sequence of labels is, summed over all ways to spread it over the time steps.

    `-log(sum(prod(softmax(y_hat)[t, path[t]]))`, over the paths that are `y` without their repeated
    labels and blanks. The last class is the blank.

    Args:
        y_hat: logits of one sequence, `(time, classes)`.
        y: its labels, whole numbers from 0 to `classes - 2`, `(labels,)`.

    Returns:
        A number; infinity if there are too few steps for the labels and a blank between equal ones.

    Raises:
        ShapeError: if `y_hat` has not two axes, or `y` not one.
        ValueError: if a label is none of these. In a compiled function no label is looked at.

    Example:
        >>> y_hat = tf.math.log([[0.6, 0.4], [0.3, 0.7]])
        >>> round(float(ctc_loss(y_hat, [0])), 4)  # -log(0.6 * 0.3 + 0.6 * 0.7 + 0.4 * 0.3)
        0.3285

    Source: Flux's `ctc_loss`; Graves et al., 2006.
    """
    y_hat, y = float_tensor(y_hat), tf.cast(y, tf.int32)
    if len(y_hat.shape) != 2 or len(y.shape) != 1:
        raise ShapeError(
            "ctc_loss expects the logits of one sequence, (time, classes), and its labels, "
            f"(labels,), got {tuple(y_hat.shape)} and {tuple(y.shape)}. For several sequences use "
            "tf.map_fn, or tf.nn.ctc_loss(…, blank_index=-1)."
        )
    _check_labels(y, y_hat.shape[-1] - 2)
    logits = tf.cast(y_hat, tf.float32)
    loss = tf.nn.ctc_loss(
        y[tf.newaxis],
        logits[tf.newaxis],
        tf.shape(y),
        tf.shape(y_hat)[:1],
        logits_time_major=False,
        blank_index=-1,
    )
    # TensorFlow counts the one path without labels twice, and lets none cost some 700.
    all_blank = -tf.reduce_sum(logsoftmax(logits)[:, -1])
    repeats = tf.math.count_nonzero(y[1:] == y[:-1], dtype=tf.int32)
    has_path = tf.size(y) + repeats <= tf.shape(y_hat)[0]
    loss = tf.where(has_path, loss[0], math.inf)
    return tf.cast(tf.where(tf.size(y) == 0, all_blank, loss), y_hat.dtype)


def _check_labels(y: Tensor, greatest: int) -> None:
    # TensorFlow makes a number of any labels.
    if outside(y, greatest + 1) is not None:
        raise ValueError(
            f"ctc_loss expects labels from 0 to {greatest}, since the last class is the blank, "
            f"got {y.numpy().tolist()}."
        )
