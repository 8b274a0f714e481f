"""Saving the parts of a layer: functions by a name that finds them again, objects by their options.

Keras saves its own layers and what is registered with it. Here the functions of TensorFlow, Keras
and Python's `operator` are added, and an error, while saving, for what no name would find.
"""

import operator
import types
import warnings
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.layers.printing import describe

LIBRARIES = {
    "operator": operator,
    "keras.ops": keras.ops,
    "tf": tf,
    "tf.math": tf.math,
    "tf.nn": tf.nn,
}
REGISTER = '@keras.saving.register_keras_serializable(package="mine")'


def saved(part: Any, role: str, whole: keras.Layer) -> Any:
    """What a configuration has of a part.

    Args:
        part: a layer, a function or another object.
        role: what messages call it, `a layer 1`.
        whole: the layer that it is a part of.

    Raises:
        ValueError: when loading, nothing would find it.
    """
    if name := _name_in_libraries(part):
        return {"function": name}
    if isinstance(part, types.FunctionType | types.BuiltinFunctionType):
        if _is_found_again(part):
            return keras.saving.serialize_keras_object(part)
        raise ValueError(
            f"Saving {whole.name} expects {role} that can be found by its name, got "
            f"{_place(part)}. Write it with def at the top of a module, and put {REGISTER} above "
            "it."
        )
    if hasattr(part, "get_config") and hasattr(part, "from_config"):
        return keras.saving.serialize_keras_object(part)
    kind = type(part)
    name = keras.saving.get_registered_name(kind)
    if keras.saving.get_registered_object(name) is kind:
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
        library, _, name = config["function"].rpartition(".")
        return getattr(LIBRARIES[library], name)
    if keys == {"object", "config"}:
        kind = keras.saving.get_registered_object(config["object"], custom_objects)
        if kind is None:
            raise ValueError(
                f"Loading expects the class {config['object']!r} to be registered. Import the "
                "module that has it first."
            )
        return kind(**config["config"])
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def _name_in_libraries(part: Any) -> str | None:
    name = getattr(part, "__name__", None)
    for library, module in LIBRARIES.items():
        if isinstance(name, str) and getattr(module, name, None) is part:
            return f"{library}.{name}"
    return None


def _is_found_again(function: Any) -> bool:
    if function.__name__ == "<lambda>":
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = keras.saving.serialize_keras_object(function)
            return keras.saving.deserialize_keras_object(config) is function
    except Exception:  # of which there is one for each way in which Keras does not find it
        return False


def _place(function: Any) -> str:
    if code := getattr(function, "__code__", None):
        return f"{describe(function)} ({code.co_filename}, line {code.co_firstlineno})"
    return describe(function)
