"""Saving the parts of a layer: functions by a name that finds them again, objects by their options.

Keras saves its own layers and what is registered with it. Here the functions of fluxkeras,
TensorFlow, Keras and Python's `operator` are added, partials of all these, and an error, while
saving, for what no name would find.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import keras

from fluxkeras.layers.printing import LIBRARIES, describe

PLACES = {
    # By its name, since the package is not whole yet while this module is imported.
    "fluxkeras": sys.modules["fluxkeras"],
    "keras.activations": keras.activations,
    **LIBRARIES,
}
REGISTER = '@keras.saving.register_keras_serializable(package="mine")'


@keras.saving.register_keras_serializable(package="fluxkeras")
class Initial(keras.initializers.Initializer):
    """A function of `(shape, dtype)` as an initialiser of Keras's, saved by its name."""

    name = "an initialiser"

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return self.function(shape, dtype)

    def get_config(self) -> dict[str, Any]:
        return {"function": saved(self.function, "a function", self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Initial":
        return cls(loaded(config["function"]))


def initialiser(init: Any) -> Any:
    """What a layer was given for one, as Keras takes it."""
    is_of_keras = isinstance(init, keras.initializers.Initializer | type)
    return Initial(init) if callable(init) and not is_of_keras else keras.initializers.get(init)


def saved(part: Any, role: str, whole: Any) -> Any:
    """What a configuration has of a part.

    Args:
        part: a layer, a function or another object.
        role: what messages call it, `a layer 1`.
        whole: the layer, or another thing with a name, that it is a part of.

    Raises:
        ValueError: when loading, nothing would find it.
    """
    if hasattr(part, "get_config") and hasattr(part, "from_config"):
        return keras.saving.serialize_keras_object(part)
    if isinstance(part, functools.partial) and _is_plain((*part.args, *part.keywords.values())):
        function = saved(part.func, role, whole)
        options = {name: _as(list, value) for name, value in part.keywords.items()}
        return {"partial": function, "arguments": _as(list, part.args), "options": options}
    if hasattr(part, "__name__") or isinstance(part, functools.partial):
        if name := _name(part):
            return {"function": name}
        raise ValueError(
            f"Saving {whole.name} expects {role} that can be found by its name, got "
            f"{_place(part)}. Write it with def at the top of a module, and put {REGISTER} above "
            "it."
        )
    kind = type(part)
    name = keras.saving.get_registered_name(kind)
    if _look_up(name) is kind:
        return {"object": name, "config": part.get_config()}
    raise ValueError(
        f"Saving {whole.name} expects {role} that can be made again, got {describe(part)}. Give "
        f"{kind.__name__} a method get_config, which returns the arguments that make it, by name, "
        f"and put {REGISTER} above it."
    )


def loaded(config: Any, custom_objects: Any = None) -> Any:
    """The part of which a configuration has this."""
    keys = config.keys() if isinstance(config, dict) else ()
    if keys == {"function"}:
        return _found(config["function"], _look_up(config["function"], custom_objects))
    if keys == {"partial", "arguments", "options"}:
        return _partial(config, custom_objects)
    if keys == {"object", "config"}:
        kind = keras.saving.get_registered_object(config["object"], custom_objects)
        return _found(config["object"], kind)(**config["config"])
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def _name(function: Any) -> str | None:
    """The name by which a function is found, if it is."""
    if not hasattr(function, "__name__"):
        return None
    short = describe(function).rpartition(".")[2]
    names = keras.saving.get_registered_name(function), *(f"{lib}.{short}" for lib in PLACES)
    return next((name for name in names if _look_up(name) is function), None)


def _partial(config: Any, custom_objects: Any) -> Any:
    function = loaded(config["partial"], custom_objects)
    arguments = _as(tuple, config["arguments"])
    options = {name: _as(tuple, value) for name, value in config["options"].items()}
    if not _is_plain((*arguments, *options.values())):
        raise ValueError(
            f"Loading expects the arguments of {describe(function)} to be numbers, words and "
            f"tuples of them, got {arguments} and {options}."
        )
    return functools.partial(function, *arguments, **options)


def _as(kind: type, x: Any) -> Any:
    """Tuples and lists as one of both: files have no tuples, and functions take these for lists."""
    return kind(_as(kind, part) for part in x) if isinstance(x, tuple | list) else x


def _is_plain(x: Any) -> bool:
    if isinstance(x, tuple | list):
        return all(map(_is_plain, x))
    # A file from elsewhere is not to have a function of TensorFlow's write to a path.
    return x is None or isinstance(x, int | float) or (isinstance(x, str) and "/" not in x)


def _found(name: str, found: Any) -> Any:
    if found is None:
        raise ValueError(
            f"Loading expects {name!r} to be registered. Import the module that has it first."
        )
    return found


def _look_up(name: str, custom_objects: Any = None) -> Any:
    library, _, short = name.rpartition(".")
    registered = keras.saving.get_registered_object(name, custom_objects)
    found = registered or getattr(PLACES.get(library), short, None)
    # Training is no part of a layer; its `save` writes a file.
    is_of_training = str(getattr(found, "__module__", "")).startswith("fluxkeras.training")
    return None if is_of_training else found


def _place(function: Any) -> str:
    if code := getattr(inspect.unwrap(function), "__code__", None):
        return f"{describe(function)} ({code.co_filename}, line {code.co_firstlineno})"
    return describe(function)
