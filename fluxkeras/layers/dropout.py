"""Dropout and AlphaDropout, noise while training and nothing otherwise; dropout, always noise."""

import math
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.base import FluxLayer

__all__ = ["AlphaDropout", "Dropout", "dropout"]

Tensor: TypeAlias = Any

SELU_FLOOR = -1.7580993408473766  # selu(-inf)


@keras.saving.register_keras_serializable(package="fluxkeras")
class Dropout(FluxLayer, keras.layers.Dropout):
    """Drops numbers at random while training.

    `x * mask`, where `mask` is 0 with probability `p` and `1 / (1 - p)` otherwise

    Args:
        p: the probability with which a number is dropped, from 0 to 1.
        dims: the axis or axes along which the mask varies; along the others it is the same. By
            default it varies along all. Images, `(batch, height, width, channels)`, lose whole
            channels with `dims=(0, 3)`.
        active: True to drop always, False never; None, the default, to drop while training.
        seed: an integer, which fixes the masks: each call draws the next. By default
            `keras.utils.set_random_seed` governs.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of any shape and returns the same shape.

    Raises:
        ValueError: if `p` is not from 0 to 1.
        ShapeError: when called on an input without the axes of `dims`.

    Example:
        >>> layer = Dropout(0.5, seed=0)
        >>> layer(np.ones(8), training=True).numpy().tolist()
        [2.0, 2.0, 0.0, 2.0, 0.0, 0.0, 2.0, 2.0]
        >>> layer(np.ones(8)).numpy().tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    Source: Flux's `Dropout`. The masks are those of Philox: the same with and without XLA.
    """

    def __init__(
        self,
        p: float,
        *,
        dims: int | tuple[int, ...] | list[int] | None = None,
        active: bool | None = None,
        seed: int | None = None,
        **keras_options: Any,
    ) -> None:
        _expect_probability(type(self).__name__, p)
        super().__init__(float(p), seed=seed, **keras_options)
        self.dims = dims if dims is None else tuple(np.ravel(dims).tolist())
        self.active = active

    def call(self, x: Any, training: bool | None = None) -> Any:
        is_active = training if self.active is None else self.active
        return self.drop(float_tensor(x)) if is_active and self.rate > 0 else x

    def drop(self, x: Tensor) -> Tensor:
        """`x` with some of its numbers dropped."""
        scale = 1 / (1 - self.rate) if self.rate < 1 else 0.0
        return x * (tf.cast(self.kept(x), x.dtype) * scale)

    def kept(self, x: Tensor) -> Tensor:
        """Which numbers of `x` stay: a Boolean for each, or one for many where `dims` say so."""
        lengths, varied = tf.shape(x), _varied(self, x, self.dims)
        shape = [lengths[axis] if varies else 1 for axis, varies in enumerate(varied)]
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        # Bits of Philox, asked for by name, are the same with and without XLA. The algorithm that
        # TensorFlow would choose is not, nor is what it makes of the bits to get fractions.
        bits = tf.random.stateless_uniform(
            shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        return bits >= min(round(self.rate * 2**32), 2**32 - 1)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["noise_shape"]
        p = config.pop("rate")
        return {**config, "p": p, "dims": self.dims, "active": self.active}

    def __repr__(self) -> str:
        p = int(self.rate) if self.rate in (0, 1) else self.rate
        options = {"dims": self.dims, "active": self.active, "seed": self.seed}
        words = [f"{key}={value!r}" for key, value in options.items() if value is not None]
        return f"{type(self).__name__}({', '.join([str(p), *words])})"

    __str__ = __repr__


@keras.saving.register_keras_serializable(package="fluxkeras")
class AlphaDropout(Dropout):
    """Drops numbers at random while training, for models of `selu`: mean and variance stay.

    `A * where(kept, x, α) + B` with `α = selu(-inf)`, `A = 1 / sqrt((1 - p) * (1 + p * α**2))` and
    `B = -A * α * p`; zeros if `p` is 1

    Args:
        p: the probability with which a number is dropped, from 0 to 1.
        active: True to drop always, False never; None, the default, to drop while training.
        seed: an integer, which fixes the noise: each call draws the next.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of any shape and returns the same shape.

    Raises:
        ValueError: if `p` is not from 0 to 1.

    Example:
        >>> y = AlphaDropout(0.2, seed=0)(np.random.randn(10_000), training=True)
        >>> bool(abs(np.mean(y)) < 0.05), bool(abs(np.std(y) - 1) < 0.05)
        (True, True)

    Source: Flux's `AlphaDropout`; Klambauer et al., 2017.
    """

    def __init__(
        self,
        p: float,
        *,
        active: bool | None = None,
        seed: int | None = None,
        **keras_options: Any,
    ) -> None:
        super().__init__(p, active=active, seed=seed, **keras_options)

    def drop(self, x: Tensor) -> Tensor:
        p = self.rate
        if p == 1:
            return tf.zeros_like(x)
        scale = 1 / math.sqrt((1 - p) * (1 + p * SELU_FLOOR**2))
        floor = tf.constant(SELU_FLOOR, x.dtype)
        return scale * tf.where(self.kept(x), x, floor) - scale * SELU_FLOOR * p

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["dims"]
        return config


def dropout(
    x: Any, p: float, *, dims: int | tuple[int, ...] | list[int] | None = None, seed: Any = None
) -> Tensor:
    """Drops numbers at random, always: not only while training, as `Dropout` does.

    `x * mask`, where `mask` is 0 with probability `p` and `1 / (1 - p)` otherwise

    Args:
        x: an array of any shape.
        p: the probability with which a number is dropped, from 0 to 1.
        dims: the axis or axes along which the mask varies, as in `Dropout`; all by default.
        seed: an integer, for the same mask at each call, or a `keras.random.SeedGenerator`. By
            default `keras.utils.set_random_seed` governs.

    Returns:
        A tensor of the same shape.

    Raises:
        ValueError: if `p` is not from 0 to 1.
        ShapeError: if `x` has not the axes of `dims`.

    Example:
        >>> y = dropout(np.ones((1000, 4)), 0.2, dims=0, seed=1)
        >>> sorted(set(y.numpy().ravel().tolist())), bool(np.all(y[:, :1] == y))
        ([0.0, 1.25], True)

    Source: NNlib's `dropout`.
    """
    _expect_probability("dropout", p)
    x = float_tensor(x)
    varied = _varied("dropout", x, dims if dims is None else tuple(np.ravel(dims).tolist()))
    if p == 1:  # at which Keras would divide by 0
        return tf.zeros_like(x)
    shape = [None if varies else 1 for varies in varied]  # None: as long as that of x
    return keras.random.dropout(x, float(p), shape, seed) if p else x


def _expect_probability(owner: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{owner} expects a probability p from 0 to 1, got {p}.")


def _varied(owner: Any, x: Tensor, dims: tuple[int, ...] | None) -> list[bool]:
    """Whether a mask varies along each axis."""
    rank = len(x.shape)
    axes = range(rank) if dims is None else dims
    if not all(-rank <= axis < rank for axis in axes):
        raise ShapeError(f"{owner} expects inputs with those axes, got shape {tuple(x.shape)}.")
    varied = {axis % rank for axis in axes}
    return [axis in varied for axis in range(rank)]
