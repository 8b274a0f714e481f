"""Saving by hand: the state of models, optimisers and whatever else has one."""

import contextlib
import os
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import CheckpointError
from fluxkeras.parameters import Variable, key, params, raw, walk
from fluxkeras.training.records import read, write

__all__ = ["load", "save"]


@runtime_checkable
class Stateful(Protocol):
    """What says itself what is to be kept of it, such as `early_stopping` or a `DataLoader`."""

    def state(self) -> Any: ...

    def load_state(self, state: Any, /) -> None: ...


def save(path: str | os.PathLike[str], *things: Any) -> None:
    """Write the state of models, optimisers and other things into a file, for `load`.

    Args:
        path: the file. What it held before stays until the new state is wholly written.
        *things: Keras layers, models and optimisers, variables, and lists and dicts of those, of
            which the values of all variables are kept, those that are not trained too; and anything
            with methods `state()` and `load_state(state)`, such as a `DataLoader`.

    Raises:
        TypeError: something has neither variables nor `state` and `load_state`, or its state is of
            more than numbers, texts, arrays, lists, tuples and dicts.

    Example:
        >>> m, opt = Chain(Dense(2, 1)), Adam(0.1)
        >>> loss = lambda x, y: mse(m(x), y)
        >>> history = train(loss, [(np.ones((1, 2)), np.ones((1, 1)))], opt, progress=False)
        >>> save(folder / "m.ckpt", m, opt)

    Source: Flux's `@save` of BSON.jl and JLD2's `jldsave`, which keep `Flux.state(m)`.
    """
    write(Path(path), {"things": [_state_of(thing) for thing in things]})


def load(path: str | os.PathLike[str], *things: Any) -> None:
    """Put the state that `save` wrote back into things of the same form, in the same order.

    Args:
        path: the file.
        *things: what `save` was given, or the like in another process. An optimiser that has made
            no step yet takes the parameters that it names, or those of the models before it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or holds something else. Nothing was changed, nor is
            it if a `load_state` raises an error of its own.

    Example:
        >>> m, opt = Chain(Dense(2, 1)), Adam(0.1)
        >>> save(folder / "m.ckpt", m)
        >>> other = Chain(Dense(2, 1))
        >>> load(folder / "m.ckpt", other)
        >>> bool(np.all(m.layers[0].kernel == other.layers[0].kernel))
        True

    Source: Flux's `loadmodel!(m, JLD2.load(path, "model_state"))`.
    """
    tree = read(Path(path))
    states = tree.get("things")
    if states is None or len(states) != len(things):
        held = "a run of train, to be given to it" if states is None else f"{len(states)} things"
        raise CheckpointError(
            f"load expects a file that holds {len(things)} things: {path} holds {held}."
        )
    models = [thing for thing in things if not isinstance(thing, keras.optimizers.Optimizer)]
    for thing in things:
        _build(thing, models)
    pairs = list(zip(things, states, strict=True))
    puts = [_put(thing, state, f"{path}, thing {i}") for i, (thing, state) in enumerate(pairs)]
    before = [_state_of(thing) for thing in things]
    try:
        for put in puts:
            put()
    except BaseException:  # of a load_state, which alone knows whether the state fits
        for thing, state in zip(things, before, strict=True):
            with contextlib.suppress(Exception):
                _put(thing, state, str(path))()
        raise


def _state_of(thing: Any) -> dict[str, Any]:
    if isinstance(thing, Stateful):
        return {"state": thing.state()}
    if not (variables := _variables(thing)):
        raise TypeError(
            f"save expects what has variables, or methods state() and load_state(state), got "
            f"{thing!r}."
        )
    return {"variables": values_of(variables)}


def _put(thing: Any, state: dict[str, Any], where: str) -> Callable[[], None]:
    """Checks what belongs to a thing; what it returns puts it there."""
    if isinstance(thing, Stateful) != ("state" in state):
        raise CheckpointError(f"{where}, is not of a {type(thing).__name__}.")
    if isinstance(thing, Stateful):
        return lambda: thing.load_state(state["state"])
    variables = _variables(thing)
    if len(variables) != len(state["variables"]):
        raise CheckpointError(
            f"{where}, has {len(state['variables'])} variables, and the {type(thing).__name__} "
            f"given has {len(variables)}. Is it of the same structure?"
        )
    check(variables, state["variables"], where)
    return lambda: assign(variables, state["variables"])


def _build(thing: Any, models: list[Any]) -> None:
    if isinstance(thing, keras.optimizers.Optimizer) and not thing.built:
        thing.build(getattr(thing, "params", None) or params(*models))


def _variables(thing: Any) -> list[Variable]:
    """All variables that a thing has, each once."""
    found: dict[int, Variable] = {}
    for node in walk(thing, Variable | keras.optimizers.Optimizer):
        own = [node] if isinstance(node, Variable) else []
        if isinstance(node, keras.Layer | tf.Module | keras.optimizers.Optimizer):
            own = node.variables
        for variable in own:
            found.setdefault(key(variable), variable)
    return list(found.values())


def values_of(variables: Iterable[Variable]) -> list[list[Any]]:
    """The names and values of variables."""
    return [[_name(v), tf.convert_to_tensor(raw(v))] for v in variables]


def check(variables: list[Variable], values: list[list[Any]], where: str) -> None:
    """Raise unless these are values for the first of these variables."""
    for variable, (name, value) in zip(variables, values, strict=False):
        expected = _name(variable), tuple(variable.shape), tf.as_dtype(variable.dtype).name
        given = name, value.shape, value.dtype.name
        if expected != given:
            raise CheckpointError(
                f"{where}: a variable {_described(expected)} was expected, and the file has "
                f"{_described(given)}. Is the model the one that it was written of? Nothing was "
                "changed."
            )


def assign(variables: list[Variable], values: list[list[Any]]) -> None:
    for variable, (_, value) in zip(variables, values, strict=False):
        raw(variable).assign(value)


def random_state() -> dict[str, Any]:
    """That of the global generators, which `keras.utils.set_random_seed` seeds."""
    version, internal, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return {"python": (version, np.array(internal, np.uint32), gauss), "numpy": numpy}


def set_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    np.random.set_state(state["numpy"])


def _name(variable: Variable) -> str:
    """The last word of its name: what comes before counts the layers of the process."""
    path: str = getattr(variable, "path", None) or variable.name
    word: str = re.findall(r"[^/_:\d]+|$", path)[-2:][0]
    return word


def _described(kind: tuple[str, tuple[int, ...], str]) -> str:
    name, shape, dtype = kind
    return f"{name!r} of {dtype} {shape}"
