"""Weight normalisation: the length of a weight and its direction, trained apart."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.composite import Container, source
from fluxkeras.layers.models import modules
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import loaded, saved
from fluxkeras.nested import has_parts, map_parts
from fluxkeras.pairs import epsilon
from fluxkeras.parameters import needs_building

__all__ = ["WeightNorm", "remove_weight_norms"]

Tensor: TypeAlias = Any

WEIGHTS = ("kernel", "embeddings", "scale")  # what Flux calls `weight`


@keras.saving.register_keras_serializable(package="fluxkeras")
class WeightNorm(FluxLayer, keras.layers.Layer):
    """A layer whose weight is made of a length and a direction, which are trained apart.

    `w = g * v / sqrt(sum(v**2, dims) + ε)`, with the machine epsilon `ε` of the weight

    The layer computes with `w` for its weight. Its own variable is `v`; `g` is a new one, which
    starts at the length of `v`, so that the outputs are those of the layer at first.

    Args:
        layer: a layer that has made its variables already, as those of fluxkeras have.
        which: the name of one of them, such as `"bias"` or `"recurrent_kernel"`; `"weight"` is what
            Flux calls so: the `kernel`, the `embeddings` or the `scale`.
        dims: the axis or axes along which the length is taken, numbers from 0; None, along all; or
            -1, the axis that is last in Flux. Matrices are transposed here, so for them that is
            the first: a `Dense` or a recurrent kernel has a length for each output, and an
            `Embedding` one for each number of its vectors, along the vocabulary. Of other weights
            it is the last: a `Conv` has a length for each place in its filter and each input,
            along the outputs. With `dims=(0, 1, 2)`, a `Conv` over two axes has one for each
            output, as in the paper.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer that is called as the one within, `wn.layer`. It has `wn.v`, `wn.g`, which is of the
        shape of `v` but for 1 along `dims`, and `wn.w`.

    Raises:
        ValueError: if the layer has no variable of that name, or several; if it is normalised
            already, or all zero; or if `dims` are none of its axes.
        TypeError: if `layer` is no Keras layer.

    Example:
        >>> layer = Conv((3,), 1, 2)
        >>> wn = WeightNorm(layer)
        >>> print(wn, wn.g.shape)
        WeightNorm(Conv((3,), 1 => 2), :weight) (3, 1, 1)
        >>> x = np.ones((1, 12, 1))
        >>> bool(np.allclose(wn(x), layer(x), atol=1e-5))
        True
        >>> WeightNorm(Dense([[3.0, 0.0], [4.0, 1.0]])).g.numpy().round(3).tolist()
        [[5.0, 1.0]]

    Source: Flux's `WeightNorm`; Salimans, Kingma, 2016.
    """

    def __init__(
        self,
        layer: Any,
        which: str = "weight",
        *,
        dims: int | Sequence[int] | None = -1,
        **keras_options: Any,
    ) -> None:
        _check(layer)
        v = _variable(layer, which)
        axes = _axes(layer, v, dims)
        if not np.any(v.numpy()):
            raise ValueError(
                f"WeightNorm expects a {v.name} with a direction, got zeros in {describe(layer)}."
            )
        # The layer within converts its inputs itself, and `w` is computed as precisely as `v` is.
        super().__init__(autocast=False, **{"dtype": v.dtype, **keras_options})
        self.layer, self.which, self.axes = layer, which, axes
        self.dims = tuple(dims) if isinstance(dims, list) else dims
        length = self._length(v)
        self.g = self.add_weight(shape=length.shape, initializer="ones", name="g")
        self.g.assign(length)
        self.built = True

    @property
    def v(self) -> Any:
        """The variable of the layer within."""
        return _variable(self.layer, self.which)

    @property
    def w(self) -> Tensor:
        """What the layer within computes with instead of `v`."""
        return self.g * (tf.convert_to_tensor(self.v) / self._length(self.v))

    def _length(self, v: Any) -> Tensor:
        v = tf.convert_to_tensor(v)
        squares = tf.reduce_sum(tf.square(v), self.axes, keepdims=True)
        return tf.sqrt(squares + epsilon(v, None))

    @property
    def layers(self) -> list[keras.Layer]:
        """The layer within."""
        return [self.layer]

    @property
    def input_size(self) -> int | None:
        """The length of the last axis of the input, where the layer within knows it."""
        return getattr(self.layer, "input_size", None)

    def call(self, x: Any, other: Any = None, training: bool | None = None) -> Any:
        v = self.v
        # The scope hides that of a caller, such as `destructure`, so it is told all values.
        others = [(u, u.value) for u in self.layer.variables if u is not v]
        with keras.StatelessScope([(v, self.w), *others], collect_losses=True) as scope:
            y = self.layer(x) if other is None else self.layer(x, other)
        for variable, before in others:
            now = scope.get_current_value(variable)
            if now is not before:
                variable.assign(now)
        for loss in scope.losses:
            self.add_loss(loss)
        return y

    def plain(self) -> keras.Layer:
        """The layer within, once `w` is its own, with which `self` goes on as before."""
        w = self.w
        self.g.assign(self._length(w))
        self.v.assign(w)
        return self.layer

    def get_config(self) -> dict[str, Any]:
        layer = saved(self.layer, "a layer", self)
        return {**super().get_config(), "layer": layer, "which": self.which, "dims": self.dims}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WeightNorm":
        layer = loaded(config.pop("layer"))
        v = _variable(layer, config["which"])
        if not np.any(v.numpy()):
            v.assign(tf.ones(v.shape))  # until what was saved is loaded, which is not zero
        return cls(layer, **config)

    def __repr__(self) -> str:
        words = [source(self.layer)]
        words += [] if self.which == "weight" else [repr(self.which)]
        return f"WeightNorm({', '.join([*words, *self._options()])})"

    def __str__(self) -> str:
        words = [describe(self.layer), f":{self.which}", *self._options()]
        return f"WeightNorm({', '.join(words)})"

    def _options(self) -> list[str]:
        return [] if self.dims == -1 else [f"dims={self.dims}"]


def _check(layer: Any) -> None:
    if not isinstance(layer, keras.Layer):
        raise TypeError(
            f"WeightNorm expects a layer, got {describe(layer)}. Write WeightNorm(Dense(2, 3))."
        )
    if any(isinstance(part, WeightNorm) for part in modules(layer)):
        raise ValueError(f"WeightNorm expects a layer that is not normalised yet, got {layer}.")
    if needs_building(layer):
        raise ValueError(
            f"WeightNorm expects a layer that has its variables, got {describe(layer)}: Keras "
            "makes them at the first call. Call it once on a batch before."
        )


def _variable(layer: keras.Layer, which: str) -> Any:
    """The variable of that name."""
    names = WEIGHTS if which == "weight" else (which,)
    found = [v for v in layer.weights if v.name in names]
    if len(found) != 1:
        words = ", ".join(v.name for v in layer.weights) or "none"
        raise ValueError(
            f"WeightNorm expects the name of a variable of {describe(layer)}, got {which!r}. "
            f"Its variables: {words}."
        )
    return found[0]


def _axes(layer: Any, v: Any, dims: Any) -> tuple[int, ...]:
    """The axes of `v` along which its length is taken."""
    rank = len(v.shape)
    if dims is None:
        return tuple(range(rank))
    if isinstance(dims, int) and dims == -1:
        return (0,) if rank == 2 else (rank - 1,)
    axes = tuple(dims) if isinstance(dims, tuple | list) else (dims,)
    if not axes or not all(axis in range(rank) for axis in axes):
        raise ValueError(
            f"WeightNorm expects dims to be axes of the {v.name} of {describe(layer)}, of shape "
            f"{tuple(v.shape)}, counted from 0, or -1 for Flux's last, got {dims}."
        )
    return axes


def remove_weight_norms(m: Any) -> Any:
    """A model without its `WeightNorm`s, of the same outputs.

    `wn.layer`, with `wn.w` for its weight, in the place of each `wn`

    Args:
        m: a `WeightNorm`, a `Chain` or another layer of layers, a Keras model, or a list, tuple or
            dict of those.

    Returns:
        `m` itself if there are none in it; else a model that shares its layers with `m`. That one
        computes what it did before, but trains the same variables.

    Raises:
        TypeError: if there is one within an object of another kind.
        ValueError: if there is one within a Keras model that is neither sequential nor functional.

    Example:
        >>> m = Chain(WeightNorm(Conv((3,), 1, 2)), WeightNorm(Conv((3,), 2, 2)))
        >>> remove_weight_norms(m)
        Chain(Conv((3,), 1, 2), Conv((3,), 2, 2))

    Source: Flux's `remove_weight_norms`.
    """
    if not any(isinstance(part, WeightNorm) for part in modules(m)):
        return m
    if isinstance(m, WeightNorm):
        return m.plain()
    if isinstance(m, Container):
        return m.mapped(remove_weight_norms)
    if isinstance(m, keras.Model):
        return keras.models.clone_model(m, clone_function=remove_weight_norms)
    if has_parts(m):
        return map_parts(remove_weight_norms, m)
    raise TypeError(
        "remove_weight_norms expects WeightNorms in chains, Keras models, lists, tuples and dicts, "
        f"got one in {describe(m)}. Remove it from what that was made of."
    )
