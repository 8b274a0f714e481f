"""Recurrent cells: one time step each, `y, state = cell(x, state)`.

The state of an `LSTMCell` is a pair `(h, c)`, of the others `h`; `y` is `h`. The weights are
`kernel`, `recurrent_kernel` and `bias`, the transposes of Flux's `Wi`, `Wh` and `bias`, with the
gates side by side along the last axis in Flux's order. The cells are Keras cells as well, for
`keras.layers.RNN`.
"""

from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import initialiser, loaded, saved

__all__ = ["GRUCell", "GRUv3Cell", "LSTMCell", "RNNCell", "initialstates"]

Tensor: TypeAlias = Any

ACTIVATIONS = {"activation", "recurrent_activation"}


class Printed(FluxLayer, keras.layers.Layer):
    """How a layer prints: the call that made it, in Python's notation or in Flux's."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.words(', '))})"

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.words(' => '))})"

    def words(self, arrow: str) -> list[str]:
        """The arguments, with `arrow` between the sizes."""
        return ["return_state=True"] if getattr(self, "return_state", False) else []


class Sized(Printed):
    """How cells and layers are made of `(in, out)`, over a class of Keras that is made of `out`."""

    takes_activation = False
    fixed: ClassVar[dict[str, Any]] = {}  # Keras's options that make it Flux's layer

    def __init__(
        self,
        *sizes: Any,
        init_kernel: Any = "glorot_uniform",
        init_recurrent_kernel: Any = "glorot_uniform",
        bias: bool = True,
        **keras_options: Any,
    ) -> None:
        in_size, out_size, *activation = _sizes(type(self), sizes)
        if activation:
            keras_options.setdefault("activation", *activation)
        super().__init__(
            out_size,
            use_bias=bias,
            kernel_initializer=initialiser(init_kernel),
            recurrent_initializer=initialiser(init_recurrent_kernel),
            **self.fixed,
            **keras_options,
        )
        self.input_size = in_size
        self.build((None, None, in_size))

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        super().build((None, None, self.input_size))
        # Keras's own check knows no sequence without a batch axis; `call` checks instead.
        self.input_spec = None

    def get_config(self) -> dict[str, Any]:
        own = {
            name: saved(getattr(self, name), "an activation", self)
            for name in ACTIVATIONS
            if hasattr(self, name)
        }
        config: dict[str, Any] = super().get_config() | own
        for option in self.fixed:
            del config[option]
        config["sizes"] = [self.input_size, config.pop("units")]
        config["bias"] = config.pop("use_bias")
        config["init_kernel"] = config.pop("kernel_initializer")
        config["init_recurrent_kernel"] = config.pop("recurrent_initializer")
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sized":
        for name in ACTIVATIONS & config.keys():
            config[name] = loaded(config[name])
        return cls(*config.pop("sizes"), **config)

    def words(self, arrow: str) -> list[str]:
        words = [f"{self.input_size}{arrow}{self.units}"]
        if self.takes_activation:
            words.append(describe(self.activation))
        if not self.use_bias:
            words.append("bias=False")
        return words + super().words(arrow)


def _sizes(kind: type[Sized], sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    given = sizes
    if sizes and isinstance(sizes[0], tuple | list):
        sizes = (*sizes[0], *sizes[1:])
    are_sizes = [isinstance(n, int | np.integer) and n > 0 for n in sizes[:2]] == [True, True]
    if not are_sizes or len(sizes) > 2 + kind.takes_activation:
        end, example = (" and an activation", ", relu") if kind.takes_activation else ("", "")
        words = ", ".join(map(describe, given))
        raise ValueError(
            f"{kind.__name__} expects two sizes{end}, got ({words}). "
            f"Write {kind.__name__}(32, 64{example})."
        )
    return int(sizes[0]), int(sizes[1]), *sizes[2:]


def initialstates(layer: Any) -> Tensor:
    """The state with which a recurrent cell or layer starts if it is given none.

    Zeros, for the cells here.

    Args:
        layer: a cell, `LSTMCell(2, 3)`, or a layer, `LSTM(2, 3)`, of fluxkeras or of Keras; or any
            object with a method `initialstates()`.

    Returns:
        `h`, of shape `(out,)`, or for an LSTM the pair `(h, c)`.

    Raises:
        TypeError: if `layer` has no state.

    Example:
        >>> initialstates(GRU(2, 3)).numpy().tolist()
        [0.0, 0.0, 0.0]
        >>> h, c = initialstates(LSTMCell(2, 3))

    Source: Flux's `initialstates`.
    """
    if hasattr(layer, "get_initial_state"):
        states = layer.get_initial_state(batch_size=1)
        return joined(keras.tree.map_structure(lambda a: a[0], states))
    if hasattr(layer, "initialstates"):
        return layer.initialstates()
    raise TypeError(
        f"initialstates expects a recurrent cell or layer, got {describe(layer)}. "
        "Give a cell of your own a method initialstates()."
    )


def joined(states: Any) -> Any:
    """Flux's state for Keras's list of states: the only one, or a tuple."""
    states = tuple(states) if isinstance(states, list | tuple) else (states,)
    return states[0] if len(states) == 1 else states


def checked_states(layer: Any, state: Any, batch: int | None) -> list[Tensor]:
    """The arrays of a state, if they are of the sizes that `layer` expects.

    Args:
        layer: a cell or layer of Keras's kind.
        state: what it was called with: an array or several.
        batch: the samples that are there, if known.
    """
    sizes = keras.tree.flatten(layer.state_size)
    states = [
        keras.ops.convert_to_tensor(s, layer.compute_dtype) for s in keras.tree.flatten(state)
    ]
    shapes = [tuple(s.shape) for s in states]
    if len(shapes) != len(sizes) or not all(
        shape in [(size,), (1, size)] or tf.TensorShape((batch, size)).is_compatible_with(shape)
        for shape, size in zip(shapes, sizes, strict=True)
    ):
        wanted = ", ".join(f"({size},)" for size in sizes)
        raise ShapeError(
            f"{layer} expects a state of shape {wanted} or with the batch of the input before it, "
            f"got {', '.join(map(str, shapes))}. initialstates(layer) makes one."
        )
    return states


class Cell(Sized):
    """How a cell of Keras is called as Flux's, with one state or several, a batch or one sample."""

    def call(self, x: Any, state: Any = None, training: bool = False) -> Any:
        is_known = len(x.shape) in (1, 2) and x.shape[-1] in (None, self.input_size)
        if not is_known:
            raise ShapeError(
                f"{self} expects inputs of shape ({self.input_size},) or "
                f"(batch, {self.input_size}), got {tuple(x.shape)}."
            )
        batch = x.shape[0] if len(x.shape) == 2 else None
        state = initialstates(self) if state is None else state
        arrays = [x, *checked_states(self, state, batch)]
        x, *states = (a if len(a.shape) == 2 else a[None] for a in arrays)
        step = super().call(x, states, training=training)
        if all(len(a.shape) == 1 for a in arrays):
            step = keras.tree.map_structure(lambda a: a[0], step)
        y, states = step
        return y, joined(states)


@keras.saving.register_keras_serializable(package="fluxkeras")
class RNNCell(Cell, keras.layers.SimpleRNNCell):
    """One step of a recurrent layer.

    `h = σ(x @ kernel + h @ recurrent_kernel + bias)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`; then, if wanted, `σ`, the activation (default:
            `tanh`).
        init_kernel: how `kernel`, `(in, out)`, starts: a Keras initialiser or its name, or a
            function of `(shape, dtype)`.
        init_recurrent_kernel: how `recurrent_kernel`, `(out, out)`, starts.
        bias: whether there is a `bias`, `(out,)`, which starts at zero.
        **keras_options: those of `keras.layers.SimpleRNNCell`, such as `dropout`.

    Returns:
        A cell. `cell(x, h)` takes `x` of shape `(in,)` or `(batch, in)` and `h`, `(out,)` or
        `(batch, out)`, zeros if left out, and returns `(h, h)`, the new `h` as output and as state.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> cell = RNNCell(2, 3)
        >>> y, h = cell(np.random.rand(5, 2))
        >>> y, h = cell(np.random.rand(5, 2), h)
        >>> y.shape
        TensorShape([5, 3])
        >>> print(cell)
        RNNCell(2 => 3, tanh)

    Source: Flux's `RNNCell`.
    """

    takes_activation = True


@keras.saving.register_keras_serializable(package="fluxkeras")
class LSTMCell(Cell, keras.layers.LSTMCell):
    """One step of a layer of long short-term memory.

    `i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias, 4, -1)`, then
    `c = σ(f) * c + σ(i) * tanh(g)` and `h = σ(o) * tanh(c)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`.
        init_kernel: how `kernel`, `(in, 4 * out)`, starts: a Keras initialiser or its name, or a
            function of `(shape, dtype)`.
        init_recurrent_kernel: how `recurrent_kernel`, `(out, 4 * out)`, starts.
        bias: whether there is a `bias`, `(4 * out,)`, which starts at zero, the forget gate's too.
        **keras_options: those of `keras.layers.LSTMCell`, such as `dropout`.

    Returns:
        A cell. `cell(x, (h, c))` takes `x` of shape `(in,)` or `(batch, in)` and two of `(out,)` or
        `(batch, out)`, zeros if left out, and returns `(h, (h, c))`.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> cell = LSTMCell(2, 3)
        >>> y, (h, c) = cell(np.random.rand(5, 2))
        >>> y, (h, c) = cell(np.random.rand(5, 2), (h, c))

    Source: Flux's `LSTMCell`. In Keras's, the bias of the forget gate starts at one.
    """

    fixed: ClassVar = {"unit_forget_bias": False}


class GatedCell(keras.layers.Layer):
    """What the two gated recurrent units share, made of Keras's arguments."""

    def __init__(
        self,
        units: int,
        *,
        use_bias: bool,
        kernel_initializer: Any,
        recurrent_initializer: Any,
        **keras_options: Any,
    ) -> None:
        super().__init__(**keras_options)
        self.units = self.state_size = self.output_size = units
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)

    def build(self, input_shape: Any) -> None:
        gates = 3 * self.units
        self.kernel = self.add_weight(
            (input_shape[-1], gates), self.kernel_initializer, name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (self.units, gates), self.recurrent_initializer, name="recurrent_kernel"
        )
        self.bias = self.add_weight((gates,), "zeros", name="bias") if self.use_bias else None

    def call(self, x: Any, states: Any, training: bool = False) -> Any:
        h = states[0]
        from_x = tf.cast(x, self.compute_dtype) @ self.kernel + (
            self.bias if self.use_bias else 0.0
        )
        r, z, candidate = tf.split(from_x, 3, -1)
        from_r, from_z, from_h = tf.split(h @ self.recurrent_kernel, 3, -1)
        r, z = tf.sigmoid(r + from_r), tf.sigmoid(z + from_z)
        h = (1 - z) * tf.tanh(candidate + self.recalled(r, h, from_h)) + z * h
        return h, [h]

    def recalled(self, r: Tensor, h: Tensor, from_h: Tensor) -> Tensor:
        """What the candidate gets of the old state."""
        return r * from_h

    def get_initial_state(self, batch_size: Any = None) -> list[Tensor]:
        return [tf.zeros((batch_size, self.units), self.compute_dtype)]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
        }


@keras.saving.register_keras_serializable(package="fluxkeras")
class GRUCell(Cell, GatedCell):
    """One step of a layer of gated recurrent units.

    `r, z, g = split(x @ kernel + bias, 3, -1)` and `R, Z, G = split(h @ recurrent_kernel, 3, -1)`,
    then `h̃ = tanh(g + σ(r + R) * G)` and `h = (1 - σ(z + Z)) * h̃ + σ(z + Z) * h`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`.
        init_kernel: how `kernel`, `(in, 3 * out)`, starts: a Keras initialiser or its name, or a
            function of `(shape, dtype)`.
        init_recurrent_kernel: how `recurrent_kernel`, `(out, 3 * out)`, starts.
        bias: whether there is a `bias`, `(3 * out,)`, which starts at zero.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A cell. `cell(x, h)` takes `x` of shape `(in,)` or `(batch, in)` and `h`, `(out,)` or
        `(batch, out)`, zeros if left out, and returns `(h, h)`, the new `h` as output and as state.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> cell = GRUCell(2, 3)
        >>> y, h = cell(np.random.rand(5, 2))
        >>> y, h = cell(np.random.rand(5, 2), h)

    Source: Flux's `GRUCell`; Cho et al., 2014, version 1. Keras's has the order `z, r, g` and two
    biases.
    """


@keras.saving.register_keras_serializable(package="fluxkeras")
class GRUv3Cell(Cell, GatedCell):
    """One step of a layer of gated recurrent units that are reset before they are multiplied.

    As `GRUCell`, but `h̃ = tanh(g + (σ(r + R) * h) @ candidate_kernel)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`.
        init_kernel: how `kernel`, `(in, 3 * out)`, starts: a Keras initialiser or its name, or a
            function of `(shape, dtype)`.
        init_recurrent_kernel: how `recurrent_kernel`, `(out, 3 * out)`, of which the last third is
            not used, and `candidate_kernel`, `(out, out)`, start.
        bias: whether there is a `bias`, `(3 * out,)`, which starts at zero.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A cell, called as `GRUCell`.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> y, h = GRUv3Cell(2, 3)(np.random.rand(5, 2))

    Source: Flux's `GRUv3Cell`, whose `Wh_h̃` is `candidate_kernel`; Cho et al., 2014, version 3.
    """

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        # Before the others, as building ends by locking the layer.
        self.candidate_kernel = self.add_weight(
            (self.units, self.units), self.recurrent_initializer, name="candidate_kernel"
        )
        super().build(input_shape)

    def recalled(self, r: Tensor, h: Tensor, from_h: Tensor) -> Tensor:
        return (r * h) @ self.candidate_kernel
