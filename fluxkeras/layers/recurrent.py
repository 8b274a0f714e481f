"""Recurrent layers: a cell at every time step of a sequence, `(batch, time, features)`.

They return the outputs of all time steps, and with `return_state=True` the last state as well.
"""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.layers.cells import (
    GRUCell,
    GRUv3Cell,
    Printed,
    Sized,
    Tensor,
    checked_states,
    initialstates,
    joined,
)
from fluxkeras.layers.composite import source
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import loaded, saved
from fluxkeras.parameters import params

__all__ = ["GRU", "GRUv3", "LSTM", "RNN", "Recurrence"]


class Sequence(Printed):
    """How a recurrent layer of Keras is called as Flux's."""

    input_size: int | None

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        self._check(sequences.shape)
        is_single = len(sequences.shape) == 2
        if is_single:
            sequences, mask = sequences[None], None if mask is None else mask[None]
        if initial_state is not None:
            initial_state = self._batched(initial_state, sequences)
        result = super().call(sequences, initial_state, mask=mask, training=training)
        if is_single:
            result = keras.tree.map_structure(lambda a: a[0], result)
        if not self.return_state:
            return result
        y, *states = result
        return y, joined(states)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Keras's formula knows neither a sequence without a batch axis nor a state of two.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def _check(self, shape: Any) -> None:
        size = self.input_size or "features"
        is_known = len(shape) in (2, 3) and size in (shape[-1] or size, "features")
        if not is_known or shape[-2] == 0:
            raise ShapeError(
                f"{self} expects inputs of shape (time, {size}) or (batch, time, {size}), with at "
                f"least one time step, got {tuple(shape)}."
            )

    def _batched(self, state: Any, sequences: Tensor) -> Any:
        states = checked_states(self, state, sequences.shape[0])
        batch = tf.shape(sequences)[0]
        states = [tf.broadcast_to(s, (batch, s.shape[-1])) for s in states]
        return keras.tree.pack_sequence_as(self.state_size, states)


@keras.saving.register_keras_serializable(package="fluxkeras")
class PlainCell(keras.layers.Layer):
    """A cell that is no Keras layer, as Keras wants it."""

    def __init__(self, cell: Any, **keras_options: Any) -> None:
        super().__init__(**keras_options)
        self.cell, self.parameters = cell, params(cell)
        self.state_size = [int(a.shape[-1]) for a in keras.tree.flatten(initialstates(cell))]
        self.built = True

    def call(self, x: Any, states: Any) -> Any:
        y, state = self.cell(x, joined(states))
        return y, keras.tree.flatten(state)

    def get_initial_state(self, batch_size: Any = None) -> list[Tensor]:
        parts = keras.tree.flatten(initialstates(self.cell))
        arrays = [keras.ops.convert_to_tensor(a, self.compute_dtype) for a in parts]
        return [tf.broadcast_to(a, (batch_size, a.shape[-1])) for a in arrays]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "cell": saved(self.cell, "a cell", self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PlainCell":
        return cls(loaded(config.pop("cell")), **config)

    def __str__(self) -> str:
        return describe(self.cell)


@keras.saving.register_keras_serializable(package="fluxkeras")
class Recurrence(Sequence, keras.layers.RNN):
    """Any recurrent cell at every time step of a sequence.

    `y[:, t], state = cell(x[:, t], state)` for each `t`

    Args:
        cell: a cell of fluxkeras or of Keras; or any object that is called as
            `y, state = cell(x, state)` with a batch `x` of one time step, and that has a method
            `initialstates()`, which gives one array of shape `(n,)` or a tuple of them.
        return_state: whether to return the last state as well.
        **keras_options: those of `keras.layers.RNN`, such as `name`, `go_backwards` and `unroll`.

    Returns:
        A layer. `layer(x, state)` takes `x` of shape `(time, in)` or `(batch, time, in)` and the
        first state, `initialstates(layer)` if left out. It returns `y` of shape `(time, out)` or
        `(batch, time, out)`, or `(y, state)`.

    Raises:
        TypeError: if `cell` is no cell.
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> layer = Recurrence(LSTMCell(2, 3))
        >>> layer(np.random.rand(5, 7, 2)).shape, layer(np.random.rand(7, 2)).shape
        (TensorShape([5, 7, 3]), TensorShape([7, 3]))
        >>> class Sum:
        ...     def __call__(self, x, total):
        ...         return x + total, x + total
        ...     def initialstates(self):
        ...         return tf.zeros(1)
        >>> Recurrence(Sum())([[1.0], [2.0], [3.0]]).numpy().tolist()
        [[1.0], [3.0], [6.0]]

    Source: Flux's `Recurrence`.
    """

    def __init__(self, cell: Any, *, return_state: bool = False, **keras_options: Any) -> None:
        is_plain = not isinstance(cell, keras.Layer)
        if not hasattr(cell, "initialstates" if is_plain else "state_size") or not callable(cell):
            raise TypeError(
                f"Recurrence expects a cell, got {describe(cell)}. A cell is called as "
                "y, state = cell(x, state) and has a method initialstates()."
            )
        cell = PlainCell(cell) if is_plain else cell
        keras_options.setdefault("dtype", cell.dtype_policy)
        super().__init__(cell, return_sequences=True, return_state=return_state, **keras_options)
        self.input_size = getattr(cell, "input_size", None)
        if cell.built:
            self.build((None, None, self.input_size))

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["return_sequences"]
        return config

    def words(self, arrow: str) -> list[str]:
        cell = source(self.cell) if arrow == ", " else describe(self.cell)
        return [cell, *super().words(arrow)]


@keras.saving.register_keras_serializable(package="fluxkeras")
class RNN(Sequence, Sized, keras.layers.SimpleRNN):
    """A recurrent layer: an `RNNCell` at every time step of a sequence.

    `h[t] = σ(x[t] @ kernel + h[t - 1] @ recurrent_kernel + bias)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`; then, if wanted, `σ`, the activation (default:
            `tanh`).
        return_state: whether to return the last state as well.
        init_kernel: how `cell.kernel`, `(in, out)`, starts: a Keras initialiser or its name, or a
            function of `(shape, dtype)`.
        init_recurrent_kernel: how `cell.recurrent_kernel`, `(out, out)`, starts.
        bias: whether there is a `cell.bias`, `(out,)`, which starts at zero.
        **keras_options: those of `keras.layers.SimpleRNN`, such as `name` and `dropout`.

    Returns:
        A layer. `layer(x, h)` takes `x` of shape `(time, in)` or `(batch, time, in)` and the first
        `h`, of shape `(out,)` or `(batch, out)`, zeros if left out. It returns `y` of shape
        `(time, out)` or `(batch, time, out)`, or `(y, h)` with the last `h`.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> layer = RNN(4, 6)
        >>> layer(np.random.rand(5, 3, 4)).shape, layer(np.random.rand(3, 4)).shape
        (TensorShape([5, 3, 6]), TensorShape([3, 6]))
        >>> print(layer)
        RNN(4 => 6, tanh)

    Source: Flux's `RNN`. Keras's `SimpleRNN` returns the last time step only, and starts
    `recurrent_kernel` orthogonal.
    """

    takes_activation = True
    fixed: ClassVar = {"return_sequences": True}


@keras.saving.register_keras_serializable(package="fluxkeras")
class LSTM(Sequence, Sized, keras.layers.LSTM):
    """Long short-term memory: an `LSTMCell` at every time step of a sequence.

    `h[t], (h[t], c[t]) = cell(x[t], (h[t - 1], c[t - 1]))`, with the formula of `LSTMCell`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`.
        return_state: whether to return the last state as well.
        init_kernel: how `cell.kernel`, `(in, 4 * out)`, starts: a Keras initialiser or its name, or
            a function of `(shape, dtype)`.
        init_recurrent_kernel: how `cell.recurrent_kernel`, `(out, 4 * out)`, starts.
        bias: whether there is a `cell.bias`, `(4 * out,)`, which starts at zero.
        **keras_options: those of `keras.layers.LSTM`, such as `name` and `dropout`.

    Returns:
        A layer. `layer(x, (h, c))` takes `x` of shape `(time, in)` or `(batch, time, in)` and the
        first `h` and `c`, of shape `(out,)` or `(batch, out)`, zeros if left out. It returns `y` of
        shape `(time, out)` or `(batch, time, out)`, or `(y, (h, c))` with the last of both.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> layer = LSTM(2, 3, return_state=True)
        >>> y, (h, c) = layer(np.random.rand(5, 7, 2))
        >>> y, (h, c) = layer(np.random.rand(5, 7, 2), (h, c))
        >>> bool(tf.reduce_all(y[:, -1] == h))
        True

    Source: Flux's `LSTM`. Keras's returns the last time step only, starts `recurrent_kernel`
    orthogonal and the bias of the forget gate at one.
    """

    fixed: ClassVar = {"return_sequences": True, "unit_forget_bias": False}


@keras.saving.register_keras_serializable(package="fluxkeras")
class GRU(Recurrence):
    """Gated recurrent units: a `GRUCell` at every time step of a sequence.

    `h[t], h[t] = cell(x[t], h[t - 1])`, with the formula of `GRUCell`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`.
        return_state: whether to return the last state as well.
        init_kernel: how `cell.kernel`, `(in, 3 * out)`, starts: a Keras initialiser or its name, or
            a function of `(shape, dtype)`.
        init_recurrent_kernel: how `cell.recurrent_kernel`, `(out, 3 * out)`, starts.
        bias: whether there is a `cell.bias`, `(3 * out,)`, which starts at zero.
        **keras_options: those of `keras.layers.RNN`, such as `name`, `go_backwards` and `unroll`.

    Returns:
        A layer, called as `RNN`.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> GRU(2, 3)(np.random.rand(5, 7, 2)).shape
        TensorShape([5, 7, 3])

    Source: Flux's `GRU`. Keras's `GRU` has the gates in another order and a second bias.
    """

    cell_class: ClassVar[type] = GRUCell

    def __init__(
        self,
        *sizes: Any,
        return_state: bool = False,
        init_kernel: Any = "glorot_uniform",
        init_recurrent_kernel: Any = "glorot_uniform",
        bias: bool = True,
        **keras_options: Any,
    ) -> None:
        cell = self.cell_class(
            *sizes,
            init_kernel=init_kernel,
            init_recurrent_kernel=init_recurrent_kernel,
            bias=bias,
            dtype=keras_options.pop("dtype", None),
        )
        super().__init__(cell, return_state=return_state, **keras_options)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        of_cell = config.pop("cell")["config"]
        names = "sizes", "bias", "init_kernel", "init_recurrent_kernel"
        return config | {name: of_cell[name] for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GRU":
        return cls(*config.pop("sizes"), **config)

    def words(self, arrow: str) -> list[str]:
        return [*self.cell.words(arrow), *super().words(arrow)[1:]]


@keras.saving.register_keras_serializable(package="fluxkeras")
class GRUv3(GRU):
    """Gated recurrent units: a `GRUv3Cell` at every time step of a sequence.

    `h[t], h[t] = cell(x[t], h[t - 1])`, with the formula of `GRUv3Cell`

    Args:
        *sizes: as those of `GRU`, with all its other arguments.

    Returns:
        A layer, called as `RNN`.

    Raises:
        ShapeError: when called on an input or a state of another shape.

    Example:
        >>> GRUv3(2, 3)(np.random.rand(5, 7, 2)).shape
        TensorShape([5, 7, 3])

    Source: Flux's `GRUv3`.
    """

    cell_class = GRUv3Cell
