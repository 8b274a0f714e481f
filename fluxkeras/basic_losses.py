"""Losses: how far the predictions `y_hat` are from the targets `y`, in Flux's argument order.

`y_hat` and `y` are tensors, arrays, lists or numbers of one shape; the batch comes first and the
classes last. `y` is cast to the dtype of `y_hat`. What is left after summing over the classes goes
through `agg`: the mean by default, `tf.reduce_sum` for the sum (Python's `sum` goes along the first
axis only), `lambda l: l` for one loss an element, `lambda l: tf.reduce_mean(w * l)` to weight them.
"""

from typing import Any

import tensorflow as tf

from fluxkeras.activations import logsoftmax, logσ
from fluxkeras.pairs import Aggregate, Axes, Tensor, epsilon, paired

__all__ = [
    "binarycrossentropy",
    "crossentropy",
    "huber_loss",
    "logitbinarycrossentropy",
    "logitcrossentropy",
    "mae",
    "mse",
    "msle",
    "poisson_loss",
]


def mse(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """The mean squared error, `agg(abs(y_hat - y) ** 2)`.

    Args:
        y_hat: predictions of any shape, real or complex.
        y: targets of the same shape, or one number for all.
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
    y_hat, y = paired("mse", y_hat, y)
    difference = y_hat - y
    if difference.dtype.is_complex:
        return agg(tf.math.real(difference * tf.math.conj(difference)))
    return agg(tf.square(difference))


def mae(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """The mean absolute error, `agg(abs(y_hat - y))`.

    Args:
        y_hat: predictions of any shape.
        y: targets of the same shape, or one number for all.
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
    y_hat, y = paired("mae", y_hat, y)
    return agg(tf.abs(y_hat - y))


def msle(
    y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean, eps: float | None = None
) -> Tensor:
    """The mean squared error of logarithms, `agg((log(y_hat + eps) - log(y + eps)) ** 2)`.

    Args:
        y_hat: predictions from 0, of any shape.
        y: targets from 0, of the same shape, or one number for all.
        agg: reduces the losses, of the shape of `y_hat`.
        eps: keeps the logarithms finite; by default the machine epsilon of the dtype of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(msle([1.0, 2.0, 3.0], [1.1, 2.2, 3.3])), 4)
        0.0091

    Source: Flux's `msle`. Keras's adds 1, not `eps`.
    """
    y_hat, y = paired("msle", y_hat, y)
    eps = epsilon(y_hat, eps)
    return agg(tf.square(tf.math.log(y_hat + eps) - tf.math.log(y + eps)))


def huber_loss(
    y_hat: Any, y: Any, *, delta: float = 1.0, agg: Aggregate = tf.reduce_mean
) -> Tensor:
    """The squared error of small mistakes and the absolute error of large ones.

    `agg(d ** 2 / 2 if d < delta else delta * (d - delta / 2))`, where `d = abs(y_hat - y)`

    Args:
        y_hat: predictions of any shape.
        y: targets of the same shape, or one number for all.
        delta: from which mistake on it is a large one.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if `delta` is not above 0.

    Example:
        >>> huber_loss([1.5, 4.0], [1.0, 2.0], agg=lambda l: l).numpy().tolist()
        [0.125, 1.5]

    Source: Flux's `huber_loss`.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss expects a delta above 0, got {delta}.")
    y_hat, y = paired("huber_loss", y_hat, y)
    difference = tf.abs(y_hat - y)
    small, large = tf.square(difference) / 2, delta * (difference - delta / 2)
    return agg(tf.where(difference < delta, small, large))


def poisson_loss(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """How unlikely counts are in a Poisson distribution, `agg(y_hat - y * log(y_hat))`.

    Args:
        y_hat: expected counts, of any shape.
        y: counts, of the same shape, or one number for all. Where one is 0, its logarithm counts
            nothing.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(poisson_loss([1.0, 3.0, 3.0], [1, 1, 2])), 4)
        1.2347

    Source: Flux's `poisson_loss`. Keras's adds 1e-7 to `y_hat`.
    """
    y_hat, y = paired("poisson_loss", y_hat, y)
    return agg(y_hat - tf.math.xlogy(y, y_hat))


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
    y_hat, y = paired("crossentropy", y_hat, y, classes=dims)
    return agg(-tf.reduce_sum(tf.math.xlogy(y, y_hat + epsilon(y_hat, eps)), dims))


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
    y_hat, y = paired("logitcrossentropy", y_hat, y, classes=dims)
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
    y_hat, y = paired("binarycrossentropy", y_hat, y)
    eps = epsilon(y_hat, eps)
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
    y_hat, y = paired("logitbinarycrossentropy", y_hat, y)
    return agg((1 - y) * y_hat - logσ(y_hat))
