"""How layers print: one line each in Flux's notation, models with their parameters counted."""

import functools
import inspect
import math
import operator
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.parameters import needs_building, params

COMMENT_COLUMN = 40  # where Flux puts the count of a layer
TOTAL_COLUMN = 20

# Where functions are that are called by their full names. Keras's activations have namesakes here.
LIBRARIES = {
    "operator": operator,
    "keras.ops": keras.ops,
    "tf": tf,
    "tf.image": tf.image,
    "tf.linalg": tf.linalg,
    "tf.nn": tf.nn,
    "tf.math": tf.math,
}

RESOLVED = ("linear", "channels_last")  # what Keras makes of None


def describe(element: Any) -> str:
    """A layer or a callable on one line, as the call that made it."""
    if isinstance(element, keras.Layer) and type(element).__str__ is keras.Layer.__str__:
        is_model = isinstance(element, keras.Model)
        options = [repr(element.name)] if is_model else _changed_options(element)
        return f"{type(element).__name__}({', '.join(options)})"
    if isinstance(element, functools.partial):
        keywords = [f"{name}={value!r}" for name, value in element.keywords.items()]
        words = [describe(element.func), *map(repr, element.args), *keywords]
        return f"partial({', '.join(words)})"
    name: str = getattr(element, "__name__", "")
    if name:
        return _of_library(element, name.removesuffix("_v2")) or name
    kind: Any = type(element)
    prints_itself = {kind.__repr__, kind.__str__} != {object.__repr__, object.__str__}
    return str(element) if prints_itself else f"{kind.__name__}()"


def _of_library(function: Any, name: str) -> str:
    """The name by which it is called, if it is one of a library's."""
    found = (lib for lib, module in LIBRARIES.items() if getattr(module, name, 0) is function)
    return next((f"{lib}.{name}" for lib in found), "")


def _changed_options(layer: keras.Layer) -> Iterable[str]:
    """What differs from the defaults of the layer's constructor."""
    try:
        config = layer.get_config()
    # A layer of the user's own, whose arguments Keras cannot tell, or one that cannot be saved.
    except (NotImplementedError, ValueError):
        return
    for name, option in inspect.signature(type(layer).__init__).parameters.items():
        value = config.get(name, option.default)
        is_plain = isinstance(value, bool | int | float | str | tuple | list)
        is_resolved = option.default is None and value in RESOLVED
        if name != "name" and is_plain and value != option.default and not is_resolved:
            yield f"{name}={value!r}"


def expanded(name: str, parts: Iterable[tuple[str, Any]], model: keras.Layer) -> str:
    """A model with one line for each part, and the count of its parameters.

    Args:
        name: what stands before the opening bracket.
        parts: `(label, element)`; the label is empty or ends in ` = `.
        model: whose parameters are counted in the last line, if there are several.
    """
    lines = [f"{name}(", *_lines(parts, indent=2)]
    lines.append(_with_comment(")", TOTAL_COLUMN, _total(model)))
    return "\n".join(lines)


def _lines(parts: Iterable[tuple[str, Any]], indent: int) -> Iterable[str]:
    margin = " " * indent
    for label, element in parts:
        if inner := getattr(element, "labelled", None):
            yield f"{margin}{label}{type(element).__name__}("
            yield from _lines(inner(), indent + 2)
            yield f"{margin}),"
        else:
            line = f"{margin}{label}{describe(element)},"
            yield _with_comment(line, COMMENT_COLUMN, _count(element))


def _with_comment(line: str, column: int, comment: str) -> str:
    return f"{line + ' ':<{column}}# {comment}" if comment else line


def _count(element: Any) -> str:
    is_layer = isinstance(element, keras.Layer)
    if is_layer and needs_building(element):
        return "not built yet"
    try:
        trainable = element.trainable_weights if is_layer else params(element)
    except ValueError:  # a layer within, of which Keras knows nothing yet
        return "not built yet"
    fixed = element.non_trainable_weights if is_layer else []
    words = [f"{_size(trainable):_} parameters"] if trainable else []
    words += [f"{_size(fixed):_} non-trainable"] if fixed else []
    return ", plus ".join(words) + _warning([*trainable, *fixed])


def _warning(weights: list[Any]) -> str:
    """Whether the numbers of a layer are such that it will not train."""
    if not weights or not all(hasattr(w, "numpy") for w in weights) or not tf.executing_eagerly():
        return ""
    arrays = [w.numpy() for w in weights]
    if all(not a.any() for a in arrays):
        return "  (all zero)"
    for name, is_odd in ("NaN", np.isnan), ("Inf", np.isinf):
        if any(is_odd(a).any() for a in arrays if a.dtype.kind in "fc"):
            return f"  (some {name})"
    return ""


def _total(model: keras.Layer) -> str:
    """The sum of all lines, where it says more than they do: for three arrays or more."""
    trainable, fixed = model.trainable_weights, model.non_trainable_weights
    if len(trainable) < 3:
        return ""
    size = sum(_size([w]) * tf.as_dtype(w.dtype).size for w in model.weights)
    words = f"Total: {len(trainable)} arrays, {_size(trainable):_} parameters"
    if fixed:
        words += f", plus {_size(fixed):_} non-trainable"
    return f"{words}, {_human(size)}."


def _size(weights: Iterable[Any]) -> int:
    return sum(math.prod(w.shape) for w in weights)


def _human(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
