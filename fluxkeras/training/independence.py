"""Independence: whether data may be read before what comes before it has been trained on."""

import functools
import itertools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.data import DataLoader, prefetch, repeated
from fluxkeras.nested import parts_of
from fluxkeras.observations import Lazy
from fluxkeras.parameters import Variable
from fluxkeras.training.captures import Captures

# What cannot depend on a model that is being trained.
OF_ARRAYS = (
    prefetch | repeated | keras.utils.PyDataset | tf.data.Dataset | tf.data.Iterator
    | tf.Tensor | np.ndarray | int
)  # fmt: skip
VIEWS: list[Any] = [{}.keys(), {}.values(), {}.items()]
CONTAINERS = {
    list, tuple, dict, set, frozenset, range, deque, itertools.repeat, *map(type, VIEWS)
}  # fmt: skip
ITERATED: list[Any] = [*VIEWS, [], (), set(), range(0), range(2**70), deque(), np.empty(0)]
REVERSED: list[Any] = [*VIEWS, [], deque()]
ITERATORS = {
    zip, enumerate, reversed, *(type(iter(c)) for c in ITERATED),
    *(type(reversed(c)) for c in REVERSED),
}  # fmt: skip
# Functions whose references are seen, or that have none.
FUNCTIONS = (
    types.FunctionType, types.MethodType, types.BuiltinFunctionType, type, functools.partial,
)  # fmt: skip


def is_independent(data: Any) -> bool:
    """Whether data cannot depend on the model, so that it may be read before it is trained on."""
    if isinstance(data, DataLoader):
        # One that reads in parallel reads ahead of its own accord.
        return data.parallel or not any(map(_refers_to_model, _functions_of(data)))
    if isinstance(data, Lazy):
        return not any(map(_refers_to_model, _functions_of(data)))
    if isinstance(data, OF_ARRAYS) or type(data) in CONTAINERS:
        return True
    if type(data) is map:
        function, *sources = list(data.__reduce__()[1])
        return not _refers_to_model(function) and all(map(is_independent, sources))
    if type(data) in ITERATORS:
        return all(map(is_independent, data.__reduce__()[1]))
    return False


def _functions_of(data: DataLoader | Lazy) -> Iterator[Any]:
    """What is computed when an item is made."""
    parts: list[Any] = [data]
    while parts:
        if isinstance(part := parts.pop(), DataLoader | Lazy):
            yield from filter(callable, (getattr(part, name, None) for name in ("f", "collate")))
            parts += parts_of(part.data)


def _refers_to_model(function: Any) -> bool:
    """Whether a function refers to what training changes, or to what may hide that it does."""
    return any(map(_may_depend, Captures(function).kept))


def _may_depend(value: Any) -> bool:
    if isinstance(value, keras.Layer | Variable | tf.Module | keras.optimizers.Optimizer):
        return True
    is_transparent = isinstance(value, FUNCTIONS) or type(value).__module__.startswith("numpy")
    hides = callable(value) and not is_transparent
    return hides or isinstance(value, Iterator | np.vectorize)
