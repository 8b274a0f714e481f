"""What is trained: making parameters, and finding those of a model."""

import functools
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

__all__ = ["param", "params"]

# In Keras 3.5 the variables that layers make are of the class below `keras.Variable`.
KerasVariable: Any = keras.Variable.__base__
Variable: TypeAlias = KerasVariable | tf.Variable


def param(value: Any, *, name: str | None = None) -> keras.Variable:
    """A trainable array, to be read in an objective like any other.

    Args:
        value: the initial value, of any shape: an array, a number or nested lists. Floating-point
            values take Keras's default precision, `keras.config.floatx()`.
        name: what messages call it.

    Returns:
        A `keras.Variable` of the shape of `value`. Beside one of NumPy's arrays, as in `x @ W`, it
        is the one that computes, so that gradients pass. NumPy's functions take its value only.

    Example:
        >>> W = param([[1.0, 2.0], [3.0, 4.0]])
        >>> (W @ [1.0, 1.0]).numpy().tolist()
        [3.0, 7.0]
        >>> (np.ones(2) @ W).numpy().tolist()
        [4.0, 6.0]

    Source: Flux 0.6's `param`.
    """
    array = np.asarray(value)
    dtype = array.dtype.name if array.dtype.kind == "c" else keras.config.floatx()
    return computing(keras.Variable(array.astype(dtype), dtype=dtype, name=name))


def computing(variable: keras.Variable) -> keras.Variable:
    """The variable, to whose operators NumPy's arrays leave what is computed with both.

    They would take its value, as they do of other variables of Keras, and end its gradient.
    """
    variable.__array_priority__ = 100  # that of TensorFlow's variables
    return variable


def params(*models: Any) -> list[Variable]:
    """The trainable variables of models, each once, in the order in which they are found.

    Args:
        *models: Keras layers and models, `tf.Module`s, variables, functions (what they close over)
            and other Python objects (their attributes), and lists, tuples and dicts of those.

    Returns:
        A list of `keras.Variable`s and `tf.Variable`s.

    Raises:
        ValueError: a Keras layer has not made its variables yet.

    Example:
        >>> [tuple(p.shape) for p in params(Chain(Dense(3, 2, σ), Dense(2, 1)))]
        [(3, 2), (2,), (2, 1), (1,)]

    Source: Flux's `params`.
    """
    found: dict[int, Variable] = {}
    for node in walk(models, Variable):
        for variable in _trainable(node):
            found.setdefault(key(variable), variable)
    return list(found.values())


def key(variable: Variable) -> int:
    """Identifies a variable, whether Keras's object or TensorFlow's below it is at hand."""
    return id(raw(variable))


def raw(variable: Variable) -> tf.Variable:
    """TensorFlow's variable, on which gradient tapes work."""
    return variable.value if isinstance(variable, KerasVariable) else variable


def listed(variables: Iterable[Variable]) -> str:
    """Variables in a message: their names and shapes."""
    return ", ".join(f"{_name(v)} {tuple(v.shape)}" for v in variables)


def _name(variable: Variable) -> str:
    return str(getattr(variable, "path", None) or variable.name.partition(":")[0])


def needs_building(layer: keras.Layer) -> bool:
    """Whether some layer in here has still to see an input to make its variables."""
    if parts := getattr(layer, "layers", None):
        return any(needs_building(part) for part in parts)
    lazy = type(layer).build is not keras.Layer.build
    return lazy and not layer.built and not layer.weights


def _trainable(node: Any) -> list[Variable]:
    """The trainable variables that a part of a model knows of by itself."""
    if isinstance(node, Variable):
        return [node] if node.trainable else []
    if isinstance(node, keras.Layer) and needs_building(node):
        raise ValueError(
            f"{node.name!r} ({type(node).__name__}) has no parameters yet, because Keras makes "
            "them at the first call. Call it once on a batch before params(…), or name no "
            "parameters: train then takes those that the objective reads."
        )
    return list(node.trainable_variables) if isinstance(node, keras.Layer | tf.Module) else []


def walk(node: Any, leaves: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """A Python object and all that it holds, each once; what `leaves` hold is left out."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if not isinstance(node, leaves):
        for part in held_by(node):
            yield from walk(part, leaves, seen)


def held_by(node: Any) -> list[Any]:
    """What a Python object, a collection or a function holds that may be trained."""
    if isinstance(node, Mapping):
        return list(node.values())
    if isinstance(node, list | tuple | set | frozenset):
        return list(node)
    if isinstance(node, keras.Layer):
        # A Chain's elements may be plain callables, which Keras does not track.
        return list(node) if hasattr(node, "__iter__") else []
    if isinstance(node, functools.partial):
        return [node.func, *node.args, *node.keywords.values()]
    if isinstance(node, types.MethodType):
        return [node.__self__, node.__func__]
    if isinstance(node, types.FunctionType):
        return list(inspect.getclosurevars(node).nonlocals.values())
    if isinstance(node, types.ModuleType | type):
        return []
    return list(vars(node).values()) if hasattr(node, "__dict__") else []
