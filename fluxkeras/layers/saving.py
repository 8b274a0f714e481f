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
        role: what messages call it, `layer 1`.
        whole: the layer that it is a part of.

    Raises:
        ValueError: when loading, nothing would find it.
    """
    if name := _name_in_libraries(part):
        return {"function": name}
    is_function = isinstance(part, types.FunctionType | types.BuiltinFunctionType)
    if not is_function and not hasattr(part, "get_config"):
        kind = type(part).__name__
        raise ValueError(
            f"Saving {whole.name} expects a {role} that can be made again, got {describe(part)}. "
            f"Give {kind} a method get_config, whose dictionary has the arguments that make it, "
            f"and put {REGISTER} above it."
        )
    if is_function and not _is_found_again(part):
        raise ValueError(
            f"Saving {whole.name} expects a {role} that can be found by its name, got "
            f"{_place(part)}. Write it with def at the top of a module, "
            f"and put {REGISTER} above it."
        )
    return keras.saving.serialize_keras_object(part)


def loaded(config: Any, custom_objects: Any = None) -> Any:
    """The part of which a configuration has this."""
    if isinstance(config, dict) and config.keys() == {"function"}:
        library, _, name = config["function"].rpartition(".")
        return getattr(LIBRARIES[library], name)
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
