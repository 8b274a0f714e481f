"""Normalisation: numbers of mean 0 and variance 1 along some axes, then scaled."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.base import Switchable
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import initialiser, loaded, saved

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm"]

Tensor: TypeAlias = Any

_registered = keras.saving.register_keras_serializable(package="fluxkeras")


class Normalisation(Switchable, keras.layers.Layer):
    """What the four have in common: `λ(γ * (x - μ) / sqrt(σ² + eps) + β)`.

    Args:
        sizes: the shape of `γ` and `β`, which is that of the last axes of the input.
        activation: `λ`.
        affine: whether there are a `γ` and a `β`.
        init_beta: how `β` starts.
        init_gamma: how `γ` starts.
        eps: keeps the root above 0.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: Any,
        *,
        affine: bool,
        eps: float,
        init_beta: Any = "zeros",
        init_gamma: Any = "ones",
        **keras_options: Any,
    ) -> None:
        kind = type(self).__name__
        if not sizes or not all(isinstance(n, int | np.integer) and n > 0 for n in sizes):
            words = ", ".join(map(describe, sizes)) or "none"
            raise ValueError(
                f"{kind} expects the length of its axis, a number from 1, got {words}."
            )
        super().__init__(**keras_options)
        self.sizes = tuple(map(int, sizes))
        self.activation = keras.activations.get(activation)
        self.affine, self.eps = affine, eps
        self.init_beta = initialiser(init_beta)
        self.init_gamma = initialiser(init_gamma)
        self.build((None, *self.sizes))

    built: bool

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        if self.affine:
            self.gamma = self.add_weight(
                shape=self.sizes, initializer=self.init_gamma, name="gamma"
            )
            self.beta = self.add_weight(shape=self.sizes, initializer=self.init_beta, name="beta")
        self.built = True

    @property
    def input_size(self) -> int:
        """The length of the last axis of the input."""
        return self.sizes[-1]

    def checked(self, x: Any, lead: str, least_rank: int) -> Tensor:
        """The input as a tensor, if its shape will do: `lead` says what axes come first."""
        x = float_tensor(x)
        last = x.shape[len(x.shape) - len(self.sizes) :]
        if len(x.shape) < least_rank or not last.is_compatible_with(self.sizes):
            wanted = ", ".join(map(str, self.sizes))
            raise ShapeError(
                f"{self} expects inputs of shape ({lead}, {wanted}), got {tuple(x.shape)}."
            )
        return x

    def scaled(self, x: Tensor) -> Tensor:
        """What is normalised, with `γ`, `β` and `λ`."""
        if self.affine:
            x = x * tf.cast(self.gamma, x.dtype) + tf.cast(self.beta, x.dtype)
        return self.activation(x)

    def get_config(self) -> dict[str, Any]:
        serialise = keras.initializers.serialize
        return {
            **super().get_config(),
            "sizes": list(self.sizes),
            "activation": saved(self.activation, "an activation", self),
            "affine": self.affine,
            "eps": self.eps,
            "init_beta": serialise(self.init_beta),
            "init_gamma": serialise(self.init_gamma),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Normalisation":
        make: Callable[..., Normalisation] = cls
        return make(*config.pop("sizes"), loaded(config.pop("activation")), **config)

    def __repr__(self) -> str:
        words = [*map(str, self.sizes), *self.own_words()]
        if self.activation is not keras.activations.linear:
            words.append(describe(self.activation))
        words += [
            f"{name}={getattr(self, name)!r}"
            for name, default in self.defaults.items()
            if getattr(self, name) != default
        ]
        return f"{type(self).__name__}({', '.join(words)})"

    __str__ = __repr__

    defaults: ClassVar[dict[str, Any]] = {"affine": True, "eps": 1e-5}

    def own_words(self) -> list[str]:
        """How the arguments between the sizes and the activation print."""
        return []


def centred(x: Tensor, moments: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """`(x - mean) / sqrt(variance + eps)`"""
    mean, variance = moments
    return (x - mean) * tf.math.rsqrt(variance + tf.cast(eps, x.dtype))


@_registered
class LayerNorm(Normalisation):
    """Normalises each sample over its last axes.

    `λ(γ * (x - μ) / sqrt(σ² + eps) + β)`

    Args:
        *sizes: those of the last axes, over which the mean and the variance are taken; then, if
            wanted, `λ`, the activation: a function of a tensor, or its name in Keras.
        affine: whether there are a `γ`, which starts at 1, and a `β`, which starts at 0.
        eps: keeps the root above 0.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(..., *sizes)`, one sample among them, and returns the
        same shape.

    Raises:
        ValueError: if the sizes are no numbers from 1.
        ShapeError: when called on an input of other last axes.

    Example:
        >>> LayerNorm(2)([[1.0, 3.0], [2.0, 10.0]]).numpy().round(3).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]

    Source: Flux's `LayerNorm` of 0.16.11; Ba, Kiros, Hinton, 2016. Keras's has an `eps` of 1e-3.
    """

    def __init__(
        self, *sizes: Any, affine: bool = True, eps: float = 1e-5, **keras_options: Any
    ) -> None:
        activation = None
        if sizes and not isinstance(sizes[-1], int | np.integer | tuple | list):
            *sizes, activation = sizes  # type: ignore[assignment]
        flat = tuple(keras.tree.flatten(list(sizes)))
        super().__init__(flat, activation, affine=affine, eps=eps, **keras_options)

    def call(self, x: Any) -> Tensor:
        x = self.checked(x, "...", len(self.sizes))
        axes = list(range(-len(self.sizes), 0))
        return self.scaled(centred(x, tf.nn.moments(x, axes, keepdims=True), self.eps))


class Tracking(Normalisation):
    """A normalisation over samples or space that may remember its statistics for inference."""

    def __init__(
        self,
        channels: int,
        activation: Any = None,
        *,
        affine: bool = True,
        track_stats: bool = True,
        active: bool | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        **options: Any,
    ) -> None:
        if not 0 <= momentum <= 1:
            kind = type(self).__name__
            raise ValueError(f"{kind} expects a momentum from 0 to 1, got {momentum}.")
        self.track_stats, self.momentum = track_stats, momentum
        super().__init__((channels,), activation, affine=affine, eps=eps, **options)
        self.active = active

    def build(self, input_shape: Any) -> None:
        if self.track_stats and not self.built:
            self.moving_mean = self._statistic("moving_mean", "zeros")
            self.moving_variance = self._statistic("moving_variance", "ones")
        super().build(input_shape)

    def _statistic(self, name: str, init: str) -> Any:
        return self.add_weight(shape=self.sizes, initializer=init, trainable=False, name=name)

    def normalise(self, x: Tensor, axes: list[int], training: bool | None) -> Tensor:
        """By the statistics of `x` along `axes`, or, when not training, by those remembered."""
        if self.track_stats and not self.is_active(training):
            mean, variance = (tf.cast(v, x.dtype) for v in (self.moving_mean, self.moving_variance))
        else:
            mean, variance = tf.nn.moments(x, axes, keepdims=True)
            if self.track_stats:
                self._track(mean, variance, tf.size(x) // tf.size(mean))
        return self.scaled(centred(x, (mean, variance), self.eps))

    def _track(self, mean: Tensor, variance: Tensor, n: Tensor) -> None:
        """Move what is remembered towards these, which are of `n` numbers each."""
        n = tf.cast(n, variance.dtype)
        unbiased = variance * (n / tf.maximum(n - 1, 1))
        for moving, now in (self.moving_mean, mean), (self.moving_variance, unbiased):
            now = tf.reduce_mean(tf.reshape(now, [-1, *self.sizes]), 0)
            old = tf.convert_to_tensor(moving)
            moving.assign(old + self.momentum * (tf.cast(now, old.dtype) - old))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "track_stats": self.track_stats,
            "active": self.active,
            "momentum": self.momentum,
        }


@_registered
class BatchNorm(Tracking):
    """Normalises each channel over the samples of a batch, and over space.

    While training `λ(γ * (x - μ) / sqrt(σ² + eps) + β)` with the mean and the variance of the
    batch, which are remembered, `μ' += momentum * (μ - μ')`, `σ²' += momentum * (σ² * n / (n - 1) -
    σ²')`; else with those remembered.

    Args:
        channels: the length of the last axis.
        activation: `λ`, a function of a tensor, or its name in Keras (default: none).
        init_beta: how `β` starts: a Keras initialiser or its name.
        init_gamma: how `γ` starts.
        affine: whether there are a `γ` and a `β`.
        track_stats: whether statistics are remembered. Otherwise those of the batch are always
            taken.
        active: True to normalise by the batch always, False never; None, the default, while
            training.
        eps: keeps the root above 0.
        momentum: the weight of a batch in what is remembered, from 0 to 1: 1 less Keras's.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer with the variables `gamma`, `beta`, `moving_mean` and `moving_variance`. It takes
        inputs of shape `(batch, ..., channels)` and returns the same shape.

    Raises:
        ValueError: if `channels` is no number from 1, or `momentum` not from 0 to 1.
        ShapeError: when called on an input of another last axis, or without a batch axis; while
            training also on a single number for each channel.

    Example:
        >>> layer = BatchNorm(2)
        >>> layer([[1.0, 10.0], [3.0, 30.0]], training=True).numpy().round(3).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
        >>> layer.moving_mean.numpy().round(3).tolist()  # a tenth of the way from 0 to 2 and 20
        [0.2..., 2.0]

    Source: Flux's `BatchNorm`; Ioffe, Szegedy, 2015. Keras's has an `eps` of 1e-3, remembers less
    of a batch, and its biased variance.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "affine": True, "track_stats": True, "active": None, "eps": 1e-5, "momentum": 0.1
    }  # fmt: skip

    def call(self, x: Any, training: bool | None = None) -> Tensor:
        x = self.checked(x, "batch, ...", 2)
        if self.is_active(training) and x.shape[:-1].num_elements() == 1:
            raise ShapeError(
                f"{self} expects more than one number for each channel while training, got shape "
                f"{tuple(x.shape)}: their variance would be 0. Train on larger batches, or call "
                "testmode."
            )
        return self.normalise(x, list(range(len(x.shape) - 1)), training)


@_registered
class InstanceNorm(Tracking):
    """Normalises each channel of each sample over space.

    `λ(γ * (x - μ) / sqrt(σ² + eps) + β)`

    Args:
        channels: the length of the last axis.
        activation: `λ`, a function of a tensor, or its name in Keras (default: none).
        init_beta: how `β` starts: a Keras initialiser or its name.
        init_gamma: how `γ` starts.
        affine: whether there are a `γ` and a `β`.
        track_stats: whether statistics are remembered while training, their mean over the samples,
            and taken otherwise, as in `BatchNorm`.
        active: True to normalise by the sample always, False never; None, the default, while
            training.
        eps: keeps the root above 0.
        momentum: the weight of a batch in what is remembered, from 0 to 1.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, space..., channels)` and returns the same shape.

    Raises:
        ValueError: if `channels` is no number from 1, or `momentum` not from 0 to 1.
        ShapeError: when called on an input of another last axis, or without a batch or space.

    Example:
        >>> InstanceNorm(1)([[[1.0], [3.0]], [[10.0], [30.0]]]).numpy().round(3).ravel().tolist()
        [-1.0, 1.0, -1.0, 1.0]

    Source: Flux's `InstanceNorm`; Ulyanov, Vedaldi, Lempitsky, 2016.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "affine": False, "track_stats": False, "active": None, "eps": 1e-5, "momentum": 0.1
    }  # fmt: skip

    def __init__(
        self,
        channels: int,
        activation: Any = None,
        *,
        affine: bool = False,
        track_stats: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(channels, activation, affine=affine, track_stats=track_stats, **options)

    def call(self, x: Any, training: bool | None = None) -> Tensor:
        x = self.checked(x, "batch, space...", 3)
        return self.normalise(x, list(range(1, len(x.shape) - 1)), training)


@_registered
class GroupNorm(Normalisation):
    """Normalises groups of channels of each sample, over space.

    `λ(γ * (x - μ) / sqrt(σ² + eps) + β)`

    Args:
        channels: the length of the last axis.
        groups: how many groups of consecutive channels there are.
        activation: `λ`, a function of a tensor, or its name in Keras (default: none).
        init_beta: how `β` starts: a Keras initialiser or its name.
        init_gamma: how `γ` starts.
        affine: whether there are a `γ` and a `β`.
        eps: keeps the root above 0.
        active, momentum: have no effect, as in Flux: no statistics are remembered.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, ..., channels)` and returns the same shape.

    Raises:
        ValueError: if `groups` does not divide `channels`.
        ShapeError: when called on an input of another last axis, or without a batch axis.

    Example:
        >>> GroupNorm(4, 2)([[1.0, 3.0, 10.0, 30.0]]).numpy().round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]

    Source: Flux's `GroupNorm`; Wu, He, 2018. Keras's has 32 groups and an `eps` of 1e-3.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        activation: Any = None,
        *,
        affine: bool = True,
        active: bool | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        **options: Any,
    ) -> None:
        are_numbers = isinstance(channels, int | np.integer) and isinstance(
            groups, int | np.integer
        )
        if not are_numbers or groups < 1 or channels % groups:
            raise ValueError(
                f"GroupNorm expects a number of groups that divides its {channels} channels, got "
                f"{groups}."
            )
        self.groups = int(groups)
        super().__init__((channels,), activation, affine=affine, eps=eps, **options)

    def call(self, x: Any) -> Tensor:
        x = self.checked(x, "batch, ...", 2)
        shape = tf.shape(x)
        parts = tf.reshape(x, [*tf.unstack(shape)[:-1], self.groups, -1])
        axes = [*range(1, len(x.shape) - 1), len(x.shape)]
        parts = centred(parts, tf.nn.moments(parts, axes, keepdims=True), self.eps)
        return self.scaled(tf.ensure_shape(tf.reshape(parts, shape), x.shape))

    def own_words(self) -> list[str]:
        return [str(self.groups)]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config | {"sizes": [*self.sizes, self.groups]}
