"""Losses of margins and of overlaps: what is on the right side, near, or covered."""

from typing import Any

import tensorflow as tf

from fluxkeras.pairs import Aggregate, Tensor, paired

__all__ = [
    "dice_coeff_loss",
    "hinge_loss",
    "siamese_contrastive_loss",
    "squared_hinge_loss",
    "tversky_loss",
]


def hinge_loss(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """How far scores are from the right side of the margin, `agg(max(0, 1 - y_hat * y))`.

    Args:
        y_hat: scores of any shape.
        y: labels of -1 and 1, of the same shape, or one number for all.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> float(hinge_loss([0.5, -2.0, 0.0], [1, -1, 1]))
        0.5

    Source: Flux's `hinge_loss`. Keras's makes -1 of labels of 0.
    """
    y_hat, y = paired("hinge_loss", y_hat, y)
    return agg(tf.nn.relu(1 - y_hat * y))


def squared_hinge_loss(y_hat: Any, y: Any, *, agg: Aggregate = tf.reduce_mean) -> Tensor:
    """The squared distance to the right side of the margin, `agg(max(0, 1 - y_hat * y) ** 2)`.

    Args:
        y_hat: scores of any shape.
        y: labels of -1 and 1, of the same shape, or one number for all.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> float(squared_hinge_loss([0.5, -2.0], [1, -1]))
        0.125

    Source: Flux's `squared_hinge_loss`. Keras's makes -1 of labels of 0.
    """
    y_hat, y = paired("squared_hinge_loss", y_hat, y)
    return agg(tf.square(tf.nn.relu(1 - y_hat * y)))


def siamese_contrastive_loss(
    y_hat: Any, y: Any, *, margin: float = 1.0, agg: Aggregate = tf.reduce_mean
) -> Tensor:
    """Draws like pairs together and keeps others apart.

    `agg((1 - y) * y_hat ** 2 + y * max(0, margin - y_hat) ** 2)`

    Args:
        y_hat: distances within pairs, of any shape.
        y: 0 for pairs that are alike, 1 for others, of the same shape; or one number for all.
        margin: the distance from which on others are far enough apart.
        agg: reduces the losses, of the shape of `y_hat`.

    Returns:
        What `agg` returns: a number by default.

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if `margin` is below 0.

    Example:
        >>> float(siamese_contrastive_loss([0.5, 0.5], [0, 1], margin=2.0))
        1.25

    Source: Flux's `siamese_contrastive_loss`; Hadsell, Chopra, LeCun, 2006.
    """
    if not margin >= 0:
        raise ValueError(f"siamese_contrastive_loss expects a margin from 0, got {margin}.")
    y_hat, y = paired("siamese_contrastive_loss", y_hat, y)
    apart = tf.square(tf.nn.relu(margin - y_hat))
    return agg((1 - y) * tf.square(y_hat) + y * apart)


def dice_coeff_loss(y_hat: Any, y: Any, *, smooth: float = 1.0) -> Tensor:
    """How little two areas overlap.

    `1 - (2 * sum(y * y_hat) + smooth) / (sum(y ** 2) + sum(y_hat ** 2) + smooth)`

    Args:
        y_hat: predictions of any shape.
        y: targets of the same shape.
        smooth: keeps the quotient finite where there is nothing.

    Returns:
        A number, for the whole batch at once.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(dice_coeff_loss([1.1, 2.1, 3.1], [1.0, 2.0, 3.0])), 4)
        0.001

    Source: Flux's `dice_coeff_loss`; Milletari et al., 2016, https://arxiv.org/abs/1606.04797.
    Keras's has no squares.
    """
    y_hat, y = paired("dice_coeff_loss", y_hat, y)
    overlap = 2 * tf.reduce_sum(y * y_hat) + smooth
    return 1 - overlap / (tf.reduce_sum(tf.square(y)) + tf.reduce_sum(tf.square(y_hat)) + smooth)


def tversky_loss(y_hat: Any, y: Any, *, beta: float = 0.7) -> Tensor:
    """How little two areas overlap, where false alarms and misses weigh differently.

    `1 - (sum(y * y_hat) + 1) / (sum(y * y_hat + beta * (1 - y) * y_hat + (1 - beta) * y * (1 -
    y_hat)) + 1)`

    Args:
        y_hat: probabilities of any shape.
        y: labels of 0 and 1, of the same shape, or one number for all.
        beta: the weight of false alarms; that of misses is `1 - beta`.

    Returns:
        A number, for the whole batch at once.

    Raises:
        ShapeError: if the shapes differ.

    Example:
        >>> round(float(tversky_loss([0.5, 1.0], [1, 1])), 4)
        0.0566

    Source: Flux's `tversky_loss`, as its code has it: its documentation takes `beta` the other way
    round. Salehi et al., 2017, https://arxiv.org/abs/1706.05721.
    """
    y_hat, y = paired("tversky_loss", y_hat, y)
    overlap = tf.reduce_sum(y * y_hat)
    alarms, misses = tf.reduce_sum((1 - y) * y_hat), tf.reduce_sum(y * (1 - y_hat))
    return 1 - (overlap + 1) / (overlap + beta * alarms + (1 - beta) * misses + 1)
