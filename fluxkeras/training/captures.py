"""What a function refers to, so that a compiled objective is reused only where it is the same."""

import argparse
import contextlib
import functools
import hashlib
import sys
import types
from collections import ChainMap
from collections.abc import Hashable, Iterator, Mapping, Set
from typing import Any

import keras
import numpy as np

from fluxkeras.parameters import KerasVariable, Variable

PLAIN = bool | int | float | complex | str | bytes | np.generic | None

OF_KERAS = keras.Layer | KerasVariable

# Objects of these packages count by identity alone: their inside is not the user's to change.
LIBRARIES = sys.stdlib_module_names - {"__main__"} | {"fluxkeras", "keras", "numpy", "tensorflow"}

# Library classes whose attributes are the user's.
NAMESPACES = types.SimpleNamespace | argparse.Namespace

# The attributes that every Keras layer or model has are Keras's bookkeeping, and change by use.
BOOKKEEPING = {*vars(keras.layers.Layer(name="a")), *vars(keras.Model(name="b"))}


class Captures:
    """The code of some values and all that it refers to, as one hashable `fingerprint`.

    Functions count by their code, defaults, closure and the globals that they name; plain values,
    containers and arrays by value; variables by identity and by whether they are trainable; Keras
    layers and the user's objects by identity and attributes; anything else by identity. What
    counts by identity is kept alive, so that its id stays its own.
    """

    def __init__(self, *values: Any) -> None:
        self._kept: dict[int, tuple[int, Any]] = {}
        try:
            self.fingerprint: Hashable = tuple(map(self._of, values))
        except RecursionError:  # too deep to compare: the same as no other
            self.fingerprint = object()

    def of_keras(self) -> list[Any]:
        """The Keras layers and variables among what was found."""
        return [value for _, value in self._kept.values() if isinstance(value, OF_KERAS)]

    def _of(self, value: Any) -> Hashable:
        if isinstance(value, PLAIN):
            return type(value), repr(value)
        if isinstance(value, types.CodeType):
            return value
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest = hashlib.blake2b(value.tobytes(), digest_size=16).digest()
            return "array", value.shape, value.dtype.str, digest
        if id(value) in self._kept:
            return "again", self._kept[id(value)][0]
        self._kept[id(value)] = len(self._kept), value
        if isinstance(value, Variable):
            return id(value), value.trainable
        parts = _parts(value)
        if parts is not None:
            return type(value), *map(self._of, parts)
        return id(value), *((name, self._of(part)) for name, part in _attributes(value))


def _parts(value: Any) -> Iterator[Any] | None:
    """What a function or a container consists of; None for anything else."""
    if isinstance(value, types.FunctionType):
        return None if _is_library(value.__module__) else _function_parts(value)
    if isinstance(value, types.MethodType):
        return iter((value.__func__, value.__self__))
    if isinstance(value, functools.partial):
        return iter((value.func, value.args, value.keywords))
    if isinstance(value, Mapping):
        return (part for item in value.items() for part in item)
    return iter(value) if isinstance(value, list | tuple | Set) else None


def _function_parts(function: types.FunctionType) -> Iterator[Any]:
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
    closed_over = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a name that is not bound yet
            closed_over[name] = cell.cell_contents
    yield from _named(function.__code__, ChainMap(closed_over, function.__globals__))


def _named(code: types.CodeType, namespace: Mapping[str, Any]) -> Iterator[Any]:
    """What code names outside of itself, and what it may name in modules of the user's own."""
    for name in (*code.co_freevars, *code.co_names):
        if name in namespace:
            value = namespace[name]
            yield value
            if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
                yield from (vars(value)[n] for n in code.co_names if n in vars(value))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _named(constant, namespace)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    is_layer = isinstance(value, keras.Layer)
    if isinstance(value, types.ModuleType | type) or not hasattr(value, "__dict__"):
        return
    if _is_library(type(value).__module__) and not isinstance(value, keras.Layer | NAMESPACES):
        return
    for name, part in list(vars(value).items()):
        if not (is_layer and name in BOOKKEEPING):
            yield name, part
    if is_layer:
        yield "trainable", value.trainable
        yield "layers", getattr(value, "layers", ())


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES
