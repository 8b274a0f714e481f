"""What a function refers to, so that a compiled objective is reused only where it is the same."""

import argparse
import array
import contextlib
import functools
import hashlib
import sys
import types
from collections import ChainMap, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.parameters import KerasVariable, Variable

PLAIN = bool | int | float | complex | str | bytes | np.generic | None
SEQUENCES = list, tuple, Set, deque, array.array
OF_KERAS = keras.Layer | KerasVariable

# Objects of these packages count by identity alone: their inside is not the user's to change.
LIBRARIES = sys.stdlib_module_names - {"__main__"} | {"fluxkeras", "keras", "numpy", "tensorflow"}

# Library classes whose attributes are the user's.
NAMESPACES = types.SimpleNamespace | argparse.Namespace | tf.Module

NO_NAMES: Set[str] = frozenset()

# Methods that code calls without naming them, by an operator or through Keras, are all but these.
CALLED = {"call"}
NOT_CALLED = {
    "__init__",
    "__new__",
    "__post_init__",
    "__setattr__",
    "__repr__",
    "__str__",
    "__eq__",
}


class Captures:
    """The code of some values and all that it refers to, as one hashable `fingerprint`.

    | kind | counts by |
    |---|---|
    | numbers, texts, arrays | value |
    | lists, tuples, sets, dicts, deques | items |
    | functions, methods, partials | code, defaults, closure, globals that they name |
    | variables | identity, whether they are trainable |
    | Keras layers | identity, attributes, whether they are trainable, layers within |
    | other objects of Keras | identity, options |
    | the user's objects, classes, modules | identity, those attributes that some code names |
    | anything else | identity |

    What counts by identity is kept alive, so that its id stays its own. An attribute whose name is
    put together at run time, `getattr(config, "al" + "pha")`, is not seen.

    Args:
        values: what is looked at.
        likely: the names that were found the last time, to begin with.

    Attributes:
        fingerprint: the same where all of that is.
        names: all that code names, of globals, attributes and methods.
    """

    fingerprint: Hashable

    def __init__(self, *values: Any, likely: Set[str] = NO_NAMES) -> None:
        try:
            names = likely
            self._look_at(values, names)
            if names and self.names != names:  # other code than the last time
                names = NO_NAMES
                self._look_at(values, names)
            while self.names - names:  # code was found that names more attributes
                names = self.names
                self._look_at(values, names)
        except RecursionError:  # too deep to compare: the same as no other
            self.fingerprint = object()

    def _look_at(self, values: tuple[Any, ...], known: Set[str]) -> None:
        walk = _Walk(known | CALLED)
        self.names, self._found = walk.names, walk.kept
        self.fingerprint = tuple(map(walk.of, values))

    @property
    def kept(self) -> list[Any]:
        """What counts by identity."""
        return [value for _, value in self._found.values()]

    def of_keras(self) -> list[Any]:
        """The Keras layers and variables among what was found."""
        return [value for value in self.kept if isinstance(value, OF_KERAS)]


class _Walk:
    """One way through all that values refer to, given the names that code is known to use."""

    def __init__(self, known: Set[str]) -> None:
        self.known = known
        self.names: set[str] = set()
        self.kept: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> Hashable:
        if isinstance(value, PLAIN):
            return type(value), repr(value)
        if isinstance(value, types.CodeType):
            self.names.update(value.co_names)
            return value
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest = hashlib.blake2b(value.tobytes(), digest_size=16).digest()
            return "array", value.shape, value.dtype.str, digest
        if id(value) in self.kept:
            return "again", self.kept[id(value)][0]
        self.kept[id(value)] = len(self.kept), value
        if isinstance(value, Variable):
            return id(value), value.trainable
        parts = _parts(value)
        if parts is not None:
            return type(value), *map(self.of, parts)
        attributes = _attributes(value, self.known)
        return id(value), *((name, self.of(part)) for name, part in attributes)


def _parts(value: Any) -> Iterable[Any] | None:
    """What a function or a container consists of; None for anything else."""
    if isinstance(value, types.FunctionType):
        return None if _is_library(value.__module__) else _function_parts(value)
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if isinstance(value, property):
        return (value.fget,)
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, np.ndarray):
        return value.ravel().tolist()
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    return value if isinstance(value, SEQUENCES) else None


def _function_parts(function: types.FunctionType) -> Iterator[Any]:
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
    closed_over = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a name that is not bound yet
            closed_over[name] = cell.cell_contents
    yield from _named(function.__code__, ChainMap(closed_over, function.__globals__))


def _named(code: types.CodeType, namespace: Mapping[str, Any]) -> Iterator[Any]:
    """What code names outside of itself, and the code within it."""
    yield from (namespace[n] for n in (*code.co_freevars, *code.co_names) if n in namespace)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _named(constant, namespace)


def _attributes(value: Any, known: Set[str]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.Layer):
        # Keras's recurrent cells set attributes to None at their first call.
        own = [(n, v) for n, v in list(vars(value).items()) if v is not None]
        yield from ((n, v) for n, v in own if n not in _bookkeeping())
        yield "trainable", value.trainable
        yield "layers", getattr(value, "layers", ())
        yield "class", type(value)
    elif isinstance(value, types.ModuleType):
        if not _is_library(value.__name__):
            yield from _those(known, vars(value))
    elif isinstance(value, type):
        for base in value.__mro__:
            if not _is_library(base.__module__):
                operators = {n for n in vars(base) if n.startswith("__")} - NOT_CALLED
                methods = {n for n in operators if isinstance(vars(base)[n], types.FunctionType)}
                yield from _those(known | methods, vars(base))
    elif isinstance(value, NAMESPACES) or not _is_library(type(value).__module__):
        slots = [n for base in type(value).__mro__ for n in getattr(base, "__slots__", ())]
        yield from _those(known, getattr(value, "__dict__", {}))
        yield from ((n, getattr(value, n)) for n in slots if n in known and hasattr(value, n))
        yield "class", type(value)
    elif hasattr(value, "get_config") and not isinstance(value, keras.optimizers.Optimizer):
        options: types.UnionType = PLAIN | dict | types.FunctionType
        yield from ((n, v) for n, v in vars(value).items() if isinstance(v, options))


def _those(known: Set[str], attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, attributes[name]) for name in sorted(known) if name in attributes)


@functools.cache
def _bookkeeping() -> set[str]:
    """The attributes that every Keras layer or model has: they change by use.

    Made when it is needed, since the first layer fixes Keras's default precision.
    """
    return {*vars(keras.layers.Layer(name="a")), *vars(keras.Model(name="b"))}


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES
