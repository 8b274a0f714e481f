"""Labels as one-hot arrays, and back.

The arrays are dense, of `keras.config.floatx()`, with the classes along the last axis.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.nested import is_nested_list

__all__ = ["onecold", "onehot", "onehotbatch"]

NO_DEFAULT = object()


def onehot(x: Any, labels: Sequence[Any], default: Any = NO_DEFAULT) -> np.ndarray:
    """A vector that is 1 where `x` is among the labels, and 0 elsewhere.

    `onehot(x, labels)[i] == (labels[i] == x)`

    Args:
        x: a label: anything hashable.
        labels: the classes: a list, tuple, range, array or text.
        default: the label to take for an `x` that is none.

    Returns:
        An array of shape `(len(labels),)`.

    Raises:
        ValueError: `x` is no label, and there is no default that is one.

    Example:
        >>> onehot("b", ["a", "b", "c"]).tolist()
        [0.0, 1.0, 0.0]
        >>> onehot("z", ["a", "b", "c"], "c").tolist()
        [0.0, 0.0, 1.0]

    Source: Flux's `onehot`.
    """
    vector: np.ndarray = _hot("onehot", _objects([x]), labels, default)[0]
    return vector


def onehotbatch(xs: Any, labels: Sequence[Any], default: Any = NO_DEFAULT) -> np.ndarray:
    """The one-hot vectors of many labels.

    `onehotbatch(xs, labels)[i] == onehot(xs[i], labels)`

    Args:
        xs: labels: an array or nested lists of any shape, or an iterable, such as a text.
        labels: the classes: a list, tuple, range, array or text.
        default: the label to take for those that are none.

    Returns:
        An array of shape `(*shape of xs, len(labels))`.

    Raises:
        ValueError: one of `xs` is no label, and there is no default that is one.
        TypeError: `xs` has no values yet, inside a compiled function: write `tf.one_hot`.

    Example:
        >>> onehotbatch("banana", "abn").astype(int).tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]]

    Source: Flux's `onehotbatch`, of shape `(labels, n)`. Keras's `one_hot` makes zeros of what is
    no class.
    """
    if _is_symbolic(xs):
        raise TypeError(
            f"onehotbatch expects labels whose values are known, got {xs}. Inside a compiled "
            "function write tf.one_hot(indices, depth)."
        )
    if hasattr(xs, "__array__"):
        xs = np.asarray(xs)
    elif not is_nested_list(xs):
        xs = _objects(list(xs))
    return _hot("onehotbatch", np.asarray(xs, object), labels, default)


def onecold(y: Any, labels: Sequence[Any] | None = None) -> Any:
    """The labels of the greatest values along the last axis, the first of equal ones.

    `onecold(onehotbatch(xs, labels), labels) == xs`

    Args:
        y: scores, probabilities or one-hot arrays, `(…, classes)`.
        labels: the classes; by default their indices from 0.

    Returns:
        An array of shape `(…)`, for a vector one label. Inside a compiled function, a tensor.

    Raises:
        ShapeError: there are not as many labels as classes.
        ValueError: a greatest value is NaN (outside of compiled functions).

    Example:
        >>> onecold([[0.3, 0.2, 0.5], [0.6, 0.3, 0.1]], "abc").tolist()
        ['c', 'a']

    Source: Flux's `onecold`, along the first axis.
    """
    is_symbolic = _is_symbolic(y)
    y = y if is_symbolic else np.asarray(y)
    labels = labels if labels is None else _list(labels)
    if not len(y.shape) or (labels is not None and y.shape[-1] not in (None, len(labels))):
        wanted = "classes" if labels is None else len(labels)
        raise ShapeError(
            f"onecold expects an array of shape (..., {wanted}), got {tuple(y.shape)}."
        )
    if is_symbolic:
        indices = keras.ops.argmax(y, -1)
        return indices if labels is None else tf.gather(tf.constant(labels), indices)
    if y.size and np.isnan(np.max(y)):
        raise ValueError("onecold expects numbers, got a greatest value that is NaN.")
    indices = np.argmax(y, -1)
    if labels is None:
        return indices
    return labels[indices] if y.ndim == 1 else _array(labels)[indices]


def _hot(name: str, xs: np.ndarray, labels: Sequence[Any], default: Any) -> np.ndarray:
    labels = _list(labels)
    positions = {label: i for i, label in reversed(list(enumerate(labels)))}
    other = None if default is NO_DEFAULT else positions.get(default)
    indices = [positions.get(x, other) for x in xs.ravel().tolist()]
    if None in indices:
        unknown = xs.ravel().tolist()[indices.index(None)]
        hint = "Give a default." if default is NO_DEFAULT else f"The default is {default!r}."
        raise ValueError(f"{name} expects one of the labels {labels}, got {unknown!r}. {hint}")
    rows = np.eye(len(labels), dtype=keras.config.floatx())
    hot: np.ndarray = rows[np.asarray(indices, int)]
    return hot.reshape(*xs.shape, len(labels))


def _list(labels: Sequence[Any]) -> list[Any]:
    return np.asarray(labels).tolist() if hasattr(labels, "__array__") else list(labels)


def _array(labels: list[Any]) -> np.ndarray:
    """An array of the labels, of Python's objects where they are not all of one kind."""
    is_uniform = len(set(map(type, labels))) == 1 and not isinstance(labels[0], tuple)
    return np.asarray(labels) if is_uniform else _objects(labels)


def _objects(labels: list[Any]) -> np.ndarray:
    return np.fromiter(labels, object, len(labels))


def _is_symbolic(x: Any) -> bool:
    is_graph_tensor = tf.is_tensor(x) and not hasattr(x, "numpy")
    return is_graph_tensor or isinstance(x, keras.KerasTensor)
