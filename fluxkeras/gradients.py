"""Gradients: of functions of numbers, arrays, variables, models, and collections of those."""

import inspect
from collections.abc import Callable
from numbers import Number
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import undressed
from fluxkeras.nested import is_nested_list, map_parts, parts_of
from fluxkeras.parameters import Variable, params, raw

__all__ = [
    "diaghessian",
    "gradient",
    "hessian",
    "jacobian",
    "pullback",
    "withgradient",
    "withjacobian",
]

Tensor: TypeAlias = Any
Function: TypeAlias = Callable[..., Any]


def gradient(f: Function, *args: Any) -> tuple[Any, ...]:
    """The gradients of a number that a function returns, by each of its arguments.

    `∂f/∂args[i]`

    Layers are in training mode within `f`. It works eagerly and in a `tf.function`.

    Args:
        f: returns a number; or a tuple or dict of a number and anything else, which is ignored.
        *args: its arguments: numbers, arrays, tensors, variables, models, and lists, tuples and
            dicts of those. With `params(m)` alone, `f` may take no argument. Arrays of whole
            numbers become floats only if there is nothing else to differentiate by.

    Returns:
        A tuple with a gradient for each argument, of its form: a tensor for a number, an array or
        a variable, a list for a model, in the order of `params(m)`. None where there is none, as
        for whole numbers in an array.

    Raises:
        ValueError: `f` returns no number, or there are variables alone, and no gradient reaches
            any of them.
        TypeError: `f` returns what NumPy has computed, through which there is no gradient.

    Example:
        >>> print(*(g.numpy() for g in gradient(lambda x, y: x**2 * y, 3.0, 2.0)))
        12.0 9.0
        >>> m = Dense(2, 1, init="ones")
        >>> loss = lambda m, x: tf.reduce_sum(m(x))
        >>> (of_m, of_x) = gradient(loss, m, [[1.0, 2.0]])
        >>> [g.numpy().tolist() for g in of_m], of_x.numpy().tolist()
        ([[[1.0], [2.0]], [1.0]], [[1.0, 1.0]])
        >>> (of_params,) = gradient(lambda: loss(m, [[1.0, 2.0]]), params(m))
        >>> [g.numpy().tolist() for g in of_params]
        [[[1.0], [2.0]], [1.0]]

    Source: Flux's `gradient`.
    """
    return withgradient(f, *args)[1]


class Differentiated(NamedTuple):
    """What a function returned, and its derivatives by each of its arguments."""

    val: Any
    grad: tuple[Any, ...]


def withgradient(f: Function, *args: Any) -> Differentiated:
    """What a function returns, and its gradients.

    Args:
        f: returns a number; or a tuple or dict of a number and anything else, which is not
            differentiated.
        *args: as in `gradient`.

    Returns:
        `(val, grad)`, a named tuple: all that `f` returned, and what `gradient` returns.

    Raises:
        ValueError, TypeError: as in `gradient`.

    Example:
        >>> (y, aux), (g,) = withgradient(lambda x: (x**2, {"x": x}), 3.0)
        >>> print(y.numpy(), aux["x"].numpy(), g.numpy())
        9.0 3.0 6.0

    Source: Flux's `withgradient`.
    """
    arguments = Arguments(args)
    with tf.GradientTape() as tape:
        tape.watch(arguments.sources)
        result = arguments.call(f)
        y = _number(result)
    return Differentiated(result, arguments.packed(tape.gradient(y, arguments.sources)))


def pullback(f: Function, *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """What a function returns, and the function that takes a gradient back through it.

    `back(dy)` is `dy * ∂f/∂args[i]`, summed over what `f` returns.

    Args:
        f: returns a tensor, or a collection of tensors.
        *args: as in `gradient`.

    Returns:
        `(y, back)`. `back` takes a gradient of the form of `y`, and returns those of the arguments
        as `gradient` does; it may be called again and again.

    Raises:
        TypeError: `f` returns what NumPy has computed.

    Example:
        >>> y, back = pullback(lambda x: x**2, [1.0, 2.0])
        >>> (g,) = back([1.0, 10.0])
        >>> print(y.numpy(), g.numpy())
        [1. 4.] [ 2. 40.]

    Source: Flux's `pullback`, Zygote's.
    """
    arguments = Arguments(args)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(arguments.sources)
        y = tf.nest.map_structure(_tensor, arguments.call(f))

    def back(dy: Any) -> tuple[Any, ...]:
        deltas = [
            tf.broadcast_to(tf.cast(d, part.dtype), tf.shape(part))
            for d, part in zip(parts_of(dy), tf.nest.flatten(y), strict=True)
        ]
        found = tape.gradient(tf.nest.flatten(y), arguments.sources, output_gradients=deltas)
        return arguments.packed(found)

    return y, back


def jacobian(f: Function, *args: Any) -> tuple[Any, ...]:
    """How each number that a function returns changes with each number of its arguments.

    `J[i, j] = ∂f(x)[i] / ∂x[j]`, where both are laid out flat

    Args:
        f: returns a tensor.
        *args: as in `gradient`.

    Returns:
        A tuple with a matrix for each argument, or a collection of matrices, of shape
        `(size of f(x), size of x)`; for a number a vector; None where there is no gradient.

    Raises:
        TypeError: `f` returns what NumPy has computed, or a collection.

    Example:
        >>> (J,) = jacobian(lambda x: x[:2] * x[2], [1.0, 2.0, 3.0])
        >>> print(J.numpy())
        [[3. 0. 1.]
         [0. 3. 2.]]

    Source: Flux's `jacobian`, Zygote's.
    """
    return withjacobian(f, *args)[1]


def withjacobian(f: Function, *args: Any) -> Differentiated:
    """What a function returns, and its Jacobian matrices.

    Args:
        f: returns a tensor.
        *args: as in `gradient`.

    Returns:
        `(val, grad)`, a named tuple: what `f` returned, and what `jacobian` returns.

    Raises:
        TypeError: as in `jacobian`.

    Example:
        >>> y, (J,) = withjacobian(lambda x: x**2, [1.0, 2.0])
        >>> print(y.numpy(), J.numpy().tolist())
        [1. 4.] [[2.0, 0.0], [0.0, 4.0]]

    Source: Flux's `withjacobian`, Zygote's.
    """
    arguments = Arguments(args)
    with tf.GradientTape() as tape:
        tape.watch(arguments.sources)
        y = _tensor(arguments.call(f))
        flat = tf.reshape(y, [-1])
    found = tape.jacobian(flat, arguments.sources)
    return Differentiated(y, arguments.packed([None if j is None else _matrix(j) for j in found]))


def hessian(f: Function, x: Any) -> Tensor:
    """The second derivatives of a number that a function returns.

    `H[i, j] = ∂²f(x) / ∂x[i] ∂x[j]`, where `x` is laid out flat

    Args:
        f: returns a number.
        x: as an argument in `gradient`. The arrays of a collection or a model count as one vector,
            that of `destructure`.

    Returns:
        A matrix of shape `(size of x, size of x)`; a number if `x` is one.

    Raises:
        ValueError, TypeError: as in `gradient`, or there is nothing to differentiate by.

    Example:
        >>> print(hessian(lambda x: x[0] ** 2 * x[1], [3.0, 5.0]).numpy())
        [[10.  6.]
         [ 6.  0.]]

    Source: Flux's `hessian`, Zygote's.
    """
    arguments = Arguments((x,))
    with tf.GradientTape() as tape:
        flat = tf.concat(_flat_gradients("hessian", f, arguments, tape), 0)
    found = tape.jacobian(flat, arguments.sources, unconnected_gradients="zero")
    matrix = tf.concat([tf.reshape(j, [tf.size(flat), -1]) for j in found], 1)
    is_number = arguments.places == (0,) and arguments.sources[0].shape.rank == 0
    return tf.reshape(matrix, []) if is_number else matrix


def diaghessian(f: Function, *args: Any) -> tuple[Any, ...]:
    """The second derivatives of a number by each number of the arguments, twice by the same.

    `∂²f / ∂x[i]²`

    Args:
        f: returns a number.
        *args: as in `gradient`.

    Returns:
        A tuple like that of `gradient`.

    Raises:
        ValueError, TypeError: as in `gradient`, or there is nothing to differentiate by.

    Example:
        >>> print(*(d.numpy() for d in diaghessian(lambda x: tf.reduce_sum(x**3), [1.0, 2.0])))
        [ 6. 12.]

    Source: Flux's `diaghessian`, Zygote's.
    """
    arguments = Arguments(args)
    with tf.GradientTape(persistent=True) as tape:
        flat = _flat_gradients("diaghessian", f, arguments, tape)
    pairs = zip(flat, arguments.sources, strict=True)
    found = [tape.jacobian(g, x, unconnected_gradients="zero") for g, x in pairs]
    diagonals = [
        tf.reshape(tf.linalg.diag_part(tf.reshape(j, [tf.size(x), tf.size(x)])), tf.shape(x))
        for j, x in zip(found, arguments.sources, strict=True)
    ]
    return arguments.packed(diagonals)


def _flat_gradients(
    caller: str, f: Function, arguments: "Arguments", outer: tf.GradientTape
) -> list[Tensor]:
    """The gradients by each source, as vectors, which another tape differentiates again."""
    sources = arguments.sources
    if not sources:
        kinds = ", ".join(map(_kind, arguments.values))
        raise TypeError(f"{caller} expects arrays, variables or models, got {kinds}.")
    outer.watch(sources)
    with tf.GradientTape() as inner:
        inner.watch(sources)
        y = _number(arguments.call(f))
    found = inner.gradient(y, sources, unconnected_gradients="zero")
    return [tf.reshape(g, [-1]) for g in found]


def _matrix(jacobian: Tensor) -> Tensor:
    """One by a vector, laid out flat; a vector stays one."""
    is_vector = jacobian.shape.rank == 1
    return jacobian if is_vector else tf.reshape(jacobian, [tf.shape(jacobian)[0], -1])


class Arguments:
    """The arguments of a function, and what in them it is differentiated by.

    Attributes:
        values: what the function is called with.
        sources: the tensors and variables in them through which there may be a gradient.
        places: the form of the arguments, with the number of its source in place of each, and None
            in place of all else.
    """

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.sources: list[Any] = []
        prepared = list(map(self._prepared, parts_of(args)))
        if not self.sources:
            prepared = [self._prepared(part, whole=True) for part in parts_of(args)]
        values, places = (iter([pair[i] for pair in prepared]) for i in range(2))
        self.values = map_parts(lambda _: next(values), args)
        self.places = map_parts(lambda _: next(places), args)

    def call(self, f: Function) -> Any:
        """What `f` returns, with layers in training mode."""
        values = self.values
        if self._are_variables and not _takes(f, values):
            values = []
        # Called as a layer with `training=True`, it has every layer in it do the same.
        around = Around(lambda: f(*values))
        try:
            return around(training=True)
        except Exception as error:
            raise undressed(error) from None

    @property
    def _are_variables(self) -> bool:
        return all(isinstance(source, tf.Variable) for source in self.sources)

    def packed(self, found: list[Any]) -> tuple[Any, ...]:
        """Gradients, one for each source, in the form of the arguments."""
        if found and all(g is None for g in found) and self._are_variables:
            raise ValueError(
                "no gradient reaches any parameter. Does the function read them, and compute with "
                "operations of TensorFlow or Keras? NumPy's take the values of variables, through "
                "which there is no gradient: write tf.exp(W), not np.exp(W)."
            )
        dense = [tf.convert_to_tensor(g) if g is not None else None for g in found]
        return tuple(
            tf.nest.map_structure(lambda place: None if place is None else dense[place], places)
            for places in self.places
        )

    def _prepared(self, argument: Any, whole: bool = False) -> tuple[Any, Any]:
        """An argument as it goes into the function, and its places.

        Args:
            argument: the argument.
            whole: whether to make floats of an array of whole numbers.
        """
        if isinstance(argument, Variable):
            return argument, self._place(raw(argument))
        if isinstance(argument, Number | np.ndarray | np.generic) or is_nested_list(argument):
            argument = _floating(argument)
        if tf.is_tensor(argument):
            if whole and argument.dtype.is_integer:
                argument = tf.cast(argument, keras.config.floatx())
            is_smooth = argument.dtype.is_floating or argument.dtype.is_complex
            return argument, self._place(argument) if is_smooth else None
        return argument, [self._place(raw(v)) for v in params(argument)] or None

    def _place(self, source: Any) -> int:
        self.sources.append(source)
        return len(self.sources) - 1


class Around(keras.Layer):
    """A function as a layer."""

    def __init__(self, f: Callable[[], Any]) -> None:
        super().__init__(autocast=False)
        self.f = f
        self.built = True

    def call(self, training: bool | None = None) -> Any:
        return self.f()


def _floating(value: Any) -> Tensor:
    """Numbers in Keras's precision; an array of whole numbers stays one."""
    array = np.asarray(value)
    if isinstance(value, np.ndarray) or array.ndim:
        is_given = isinstance(value, np.ndarray) or array.dtype.kind != "f"
        return tf.constant(array, None if is_given else keras.config.floatx())
    return tf.constant(array, array.dtype if array.dtype.kind == "c" else keras.config.floatx())


def _takes(f: Function, values: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(f).bind(*values)
    except TypeError:
        return False
    except ValueError:  # some built-in functions have none
        pass
    return True


def _number(result: Any) -> Tensor:
    """The number among what a function returned."""
    if isinstance(result, dict):
        result = tuple(result.values())
    y = _tensor(result[0] if isinstance(result, tuple) and result else result)
    if y.shape.rank not in (None, 0):
        raise ValueError(
            "gradient expects a function that returns a number, but it returned a tensor of shape "
            f"{tuple(y.shape)}. Reduce it, for example with tf.reduce_sum, or take its jacobian."
        )
    return y


def _tensor(result: Any) -> Tensor:
    if isinstance(result, np.ndarray | np.generic | list | tuple | dict | str | None):
        raise TypeError(
            f"the function returned {_kind(result)}, through which there is no gradient: it must "
            "return a tensor, computed by TensorFlow or Keras, not NumPy."
        )
    return tf.convert_to_tensor(raw(result) if isinstance(result, Variable) else result)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
