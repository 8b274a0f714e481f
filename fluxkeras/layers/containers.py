"""Layers of layers that work side by side: Parallel, SkipConnection, PairwiseFusion, Maxout."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.composite import Container

__all__ = ["Maxout", "PairwiseFusion", "Parallel", "SkipConnection"]


class Joined(Container):
    """Layers whose outputs a connection joins, with one input for all or one for each."""

    example = "tf.add, Dense(2, 3), Dense(2, 3)"

    def __init__(
        self,
        connection: Callable[..., Any],
        /,
        *layers: Any,
        name: str | None = None,
        **named_layers: Any,
    ) -> None:
        kind = type(self).__name__
        if not callable(connection):
            raise TypeError(
                f"{kind} expects a connection that can be called, got {connection!r}. "
                f"Write {kind}({self.example})."
            )
        super().__init__(layers, named_layers, name, connection)
        if not len(self):
            raise ValueError(f"{kind} expects one layer or more, got none.")

    @property
    def input_size(self) -> int | None:
        """The length of the last axis of the input, if it is one for all layers."""
        sizes = {getattr(element, "input_size", None) for element in self}
        return sizes.pop() if len(sizes) == 1 else None

    def inputs(self, x: Any) -> Sequence[Any]:
        """One input for each layer."""
        if not isinstance(x, tuple | list):
            return [x] * len(self)
        if len(x) != len(self):
            layers = "1 layer" if len(self) == 1 else f"{len(self)} layers"
            many = "" if len(self) == 1 else f" or {len(self)}"
            raise ShapeError(
                f"{type(self).__name__} of {layers} expects one input{many}, got {len(x)}."
            )
        return x

    def join(self, *ys: Any) -> Any:
        """What the connection makes of outputs; the merging layers of Keras take a list of them."""
        return self.connection(list(ys)) if _takes_list(self.connection) else self.connection(*ys)


@contextlib.contextmanager
def _fitting(layer: Container, *parts: Any) -> Iterator[None]:
    """Where an error of TensorFlow's means that arrays of other shapes do not go together."""
    try:
        yield
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        shapes = [tuple(getattr(part, "shape", ())) for part in parts]
        if isinstance(error, ShapeError) or len(set(shapes)) == 1:
            raise
        raise ShapeError(
            f"{layer!r} expects shapes that go together, got {' and '.join(map(str, shapes))}."
        ) from error


def _takes_list(connection: Any) -> bool:
    if not isinstance(connection, keras.Layer) or isinstance(connection, FluxLayer):
        return False
    arguments = inspect.signature(connection.call).parameters.values()
    required = [a for a in arguments if a.default is a.empty and a.kind is not a.VAR_KEYWORD]
    return len(required) == 1 and required[0].kind is not required[0].VAR_POSITIONAL


@keras.saving.register_keras_serializable(package="fluxkeras")
class Parallel(Joined):
    """Layers side by side, whose outputs are joined.

    `Parallel(add, f, g)(x) == add(f(x), g(x))` and `Parallel(add, f, g)(x, y) == add(f(x), g(y))`;
    with one layer, `Parallel(add, f)(x, y) == add(f(x), f(y))`

    Args:
        connection: a function of as many tensors as there are outputs, such as `tf.add`; or one of
            Keras's merging layers, such as `keras.layers.Concatenate()`.
        *layers: layers and any other callables of one tensor; or one list of them.
        name: the Keras name of the layer.
        **named_layers: the same by name, `Parallel(tf.add, α=…, β=…)`, instead of `*layers`.

    Returns:
        A layer. It takes one input, for all layers, or as many as there are layers, also as a
        tuple. `m[0]` and `m["α"]` are its layers.

    Raises:
        ValueError: if there is no layer, or one called `layers` or `connection`; when called on no
            input.
        ShapeError: when called on another number of inputs, or a layer gets another shape than it
            expects.

    Example:
        >>> m = Parallel(tf.add, α=Dense(10, 2, tanh), β=Dense(5, 2))
        >>> m(np.random.rand(10), np.random.rand(5)).shape
        TensorShape([2])
        >>> print(m)
        Parallel(
          tf.add,
          α = Dense(10 => 2, tanh),             # 22 parameters
          β = Dense(5 => 2),                    # 12 parameters
        )                   # Total: 4 arrays, 34 parameters, 136 bytes.

    Source: Flux's `Parallel`.
    """

    def inputs(self, x: Any) -> Sequence[Any]:
        several = isinstance(x, tuple | list)
        return x if several and len(self) == 1 and len(x) > 0 else super().inputs(x)

    def call(self, x: Any, training: bool | None = None) -> Any:
        inputs = self.inputs(x)
        layers = self.by_label() * (len(inputs) if len(self) == 1 else 1)
        return self.join(
            *(self.apply(label, e, x) for (label, e), x in zip(layers, inputs, strict=True))
        )


@keras.saving.register_keras_serializable(package="fluxkeras")
class PairwiseFusion(Joined):
    """Layers one after another, each with an input of its own besides.

    `y[0] = f[0](x[0])`, then `y[i] = f[i](connection(y[i - 1], x[i]))`

    Args:
        connection: a function of two tensors, such as `tf.add`; or one of Keras's merging layers,
            such as `keras.layers.Concatenate()`.
        *layers: layers and any other callables of one tensor; or one list of them.
        name: the Keras name of the layer.
        **named_layers: the same by name, instead of `*layers`.

    Returns:
        A layer. It takes as many inputs as there are layers, also as a tuple, or one, which is
        `x[i]` for all of them. It returns the tuple of all `y[i]`.

    Raises:
        ValueError: if there is no layer, or one called `layers` or `connection`; when called on no
            input.
        ShapeError: when called on another number of inputs, or a layer gets another shape than it
            expects.

    Example:
        >>> m = PairwiseFusion(tf.subtract, tf.identity, tf.negative)
        >>> y, z = m([1.0, 2.0], [5.0, 4.0])
        >>> y.numpy().tolist(), z.numpy().tolist()
        ([1.0, 2.0], [4.0, 2.0])

    Source: Flux's `PairwiseFusion`.
    """

    def call(self, x: Any, training: bool | None = None) -> tuple[Any, ...]:
        ys: list[Any] = []
        for (label, element), own in zip(self.by_label(), self.inputs(x), strict=True):
            ys.append(self.apply(label, element, self.join(ys[-1], own) if ys else own))
        return tuple(ys)


@keras.saving.register_keras_serializable(package="fluxkeras")
class SkipConnection(Joined):
    """A layer whose input is joined to its output.

    `SkipConnection(f, connection)(x) == connection(f(x), x)`

    Args:
        layer: a layer, chain or any other callable of one tensor.
        connection: a function of two tensors, such as `tf.add`; or one of Keras's merging layers,
            such as `keras.layers.Concatenate()`.
        name: the Keras name of the layer.

    Returns:
        A layer. Its `m[0]` is the layer within.

    Raises:
        ShapeError: when called, if the layer gets another shape than it expects, or its output
            and its input do not go together.

    Example:
        >>> m = SkipConnection(Dense(2, 2, σ), tf.add)
        >>> x = np.ones((5, 2), "float32")
        >>> bool(tf.reduce_all(m(x) == m[0](x) + x))
        True
        >>> m
        SkipConnection(Dense(2, 2, σ), tf.add)

    Source: Flux's `SkipConnection`.
    """

    example = "Dense(3, 3), tf.add"

    def __init__(
        self, layer: Any, connection: Callable[..., Any], *, name: str | None = None
    ) -> None:
        super().__init__(connection, layer, name=name)

    def call(self, x: Any, training: bool | None = None) -> Any:
        ((label, layer),) = self.by_label()
        y = self.apply(label, layer, x)
        with _fitting(self, y, x):
            return self.join(y, x)

    @classmethod
    def _made(cls: Any, elements: Any, names: Any, name: str | None, connection: Any) -> Any:
        return cls(*elements, connection, name=name)

    def labelled(self) -> list[tuple[str, Any]]:
        return super().labelled()[::-1]


@keras.saving.register_keras_serializable(package="fluxkeras")
class Maxout(Container):
    """The greatest of what several layers make of the same input, number by number.

    `Maxout(f, g)(x) == maximum(f(x), g(x))`

    Args:
        *layers: layers and any other callables of one tensor, or one list of them; or a function
            without arguments that makes a layer, and how many to make.
        name: the Keras name of the layer.

    Returns:
        A layer. `m[0]` is the first within.

    Raises:
        ValueError: if there is no layer.
        ShapeError: when called, if a layer gets another shape than it expects, or the outputs
            do not go together.

    Example:
        >>> Maxout(tf.square, lambda x: 3 * x)([-2.0, -1.0, 0.0, 1.0, 2.0]).numpy().tolist()
        [4.0, 1.0, 0.0, 3.0, 6.0]
        >>> m = Maxout(lambda: Dense(5, 7, tanh), 3)
        >>> len(m), m(np.random.rand(11, 5)).shape
        (3, TensorShape([11, 7]))

    Source: Flux's `Maxout`; Goodfellow et al., 2013.
    """

    def __init__(self, *layers: Any, name: str | None = None) -> None:
        if len(layers) == 2 and callable(layers[0]) and isinstance(layers[1], int):
            make, count = layers
            layers = tuple(make() for _ in range(count))
        super().__init__(layers, {}, name)
        if not len(self):
            raise ValueError(
                "Maxout expects one layer or more, got none. "
                "Write Maxout(lambda: Dense(5, 7), 3) or Maxout(Dense(5, 7), Dense(5, 7))."
            )

    def call(self, x: Any, training: bool | None = None) -> Any:
        y, *others = (self.apply(label, element, x) for label, element in self.by_label())
        for other in others:
            with _fitting(self, y, other):
                y = keras.ops.maximum(y, other)
        return y
