"""How precise numbers are, and where they lie."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.model_state import loadmodel, tree_of
from fluxkeras.nested import map_parts, parts_of
from fluxkeras.parameters import KerasVariable, Variable, computing, listed, params, raw

__all__ = ["bf16", "cpu", "f16", "f32", "f64", "get_device", "gpu"]

# Their statistics are kept in float32, with which they also compute.
NORMALISATIONS = {
    "BatchNorm",
    "BatchNormalization",
    "GroupNorm",
    "GroupNormalization",
    "InstanceNorm",
}
SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def f16(model: Any) -> Any:
    """A copy of a model, or of arrays, in float16.

    The parameters and statistics of batch, instance and group normalisations stay in float32.

    Args:
        model: a Keras layer or model that can be saved; or arrays, tensors and `param`s, or tuples,
            lists and dicts of all these. What is not floating-point stays.

    Returns:
        The same with other dtypes. A model has new variables of the same values.

    Raises:
        ValueError: a Keras layer has not made its variables yet.
        TypeError: another object or a function holds variables.

    Example:
        >>> f16(Chain(Dense(2, 3)))(np.ones((1, 2))).dtype
        tf.float16

    Source: Flux's `f16`.
    """
    return _converted(model, "float16")


def bf16(model: Any) -> Any:
    """A copy of a model, or of arrays, in bfloat16: the range of float32, with 8 bits of precision.

    The parameters and statistics of batch, instance and group normalisations stay in float32.

    Args:
        model: see `f16`.

    Returns:
        The same with other dtypes.

    Raises:
        ValueError, TypeError: see `f16`.

    Example:
        >>> bf16(Chain(Dense(2, 3)))(np.ones((1, 2))).dtype
        tf.bfloat16

    Source: Flux's `bf16`.
    """
    return _converted(model, "bfloat16")


def f32(model: Any) -> Any:
    """A copy of a model, or of arrays, in float32.

    Args:
        model: see `f16`.

    Returns:
        The same with other dtypes.

    Raises:
        ValueError, TypeError: see `f16`.

    Example:
        >>> f32((np.ones(2), np.arange(2)))
        (array([1., 1.], dtype=float32), array([0, 1]))

    Source: Flux's `f32`.
    """
    return _converted(model, "float32")


def f64(model: Any) -> Any:
    """A copy of a model, or of arrays, in float64.

    Args:
        model: see `f16`.

    Returns:
        The same with other dtypes.

    Raises:
        ValueError, TypeError: see `f16`.

    Example:
        >>> f64(Chain(Dense(2, 3)))(np.ones((1, 2))).dtype
        tf.float64

    Source: Flux's `f64`.
    """
    return _converted(model, "float64")


def cpu(x: Any) -> Any:
    """Arrays and tensors in the main memory.

    Args:
        x: a tensor, or tuples, lists and dicts with tensors among others. The variables of a model
            stay on the device on which they were made, from which TensorFlow fetches them.

    Returns:
        The same, with every tensor on the CPU.

    Example:
        >>> get_device(cpu(tf.ones(3)))
        'CPU:0'

    Source: Flux's `cpu`.
    """
    return _on("CPU:0", x)


def gpu(x: Any) -> Any:
    """Arrays and tensors on the first GPU, if there is one.

    Args:
        x: an array or tensor, or tuples, lists and dicts with such among others. TensorFlow makes
            the variables of a model on the GPU as it is, if there is one.

    Returns:
        The same, with every array and tensor on the GPU; `x` itself, if there is none.

    Example:
        >>> x = gpu(np.ones(3))

    Source: Flux's `gpu`.
    """
    return _on("GPU:0", x) if tf.config.list_logical_devices("GPU") else x


def get_device(x: Any) -> str:
    """On which device something lies.

    Args:
        x: an array, a tensor, a variable or a model, or tuples, lists and dicts of such.

    Returns:
        Such as `"CPU:0"` or `"GPU:0"`.

    Raises:
        ValueError: parts of it lie on several devices.

    Example:
        >>> get_device(np.ones(3))
        'CPU:0'

    Source: Flux's `get_device`.
    """
    devices = sorted({device for part in parts_of(x) for device in _devices(part)})
    if len(devices) > 1:
        raise ValueError(f"get_device expects one device, got {' and '.join(devices)}.")
    return devices[0] if devices else "CPU:0"


def _converted(model: Any, dtype: str) -> Any:
    def converted(part: Any) -> Any:
        if isinstance(part, keras.Layer):
            return _rebuilt(part, dtype)
        if isinstance(part, Variable):
            return _variable(part, dtype)
        if isinstance(part, np.ndarray | np.generic):
            is_float = part.dtype.kind == "f" or part.dtype == tf.bfloat16.as_numpy_dtype
            return part.astype(tf.as_dtype(dtype).as_numpy_dtype) if is_float else part
        if isinstance(part, tf.Tensor):
            return tf.cast(part, dtype) if part.dtype.is_floating else part
        if variables := parts_of(tree_of(part)):
            raise TypeError(
                f"{SHORT[dtype]} expects Keras layers, arrays and variables, got {part!r}, which "
                f"holds {listed(variables)}. Convert these."
            )
        return part

    return map_parts(converted, model)


def _rebuilt(layer: keras.Layer, dtype: str) -> keras.Layer:
    """The layer made anew, with the values that it has."""
    params(layer)  # raises an error where there are none yet
    config = _with_policy(keras.saving.serialize_keras_object(layer), dtype)
    with _default_policy(dtype):
        return loadmodel(keras.saving.deserialize_keras_object(config), layer)


def _with_policy(config: Any, dtype: str, owner: str = "") -> Any:
    """The configuration of layers, with another dtype in each."""
    if isinstance(config, list | tuple):
        return [_with_policy(part, dtype, owner) for part in config]
    if not isinstance(config, dict):
        return config
    owner = config.get("class_name", owner)
    if owner in NORMALISATIONS and dtype in ("float16", "bfloat16"):
        dtype = f"mixed_{dtype}"
    return {k: dtype if k == "dtype" else _with_policy(v, dtype, owner) for k, v in config.items()}


@contextlib.contextmanager
def _default_policy(dtype: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _variable(variable: Any, dtype: str) -> Any:
    value = raw(variable)
    if not value.dtype.is_floating:
        return variable
    value = tf.cast(value, dtype)
    if isinstance(variable, KerasVariable):
        options = {"trainable": variable.trainable, "name": variable.name}
        return computing(keras.Variable(value, dtype=dtype, **options))
    return tf.Variable(value, trainable=variable.trainable)


def _on(device: str, x: Any) -> Any:
    kinds = tf.Tensor if device == "CPU:0" else tf.Tensor | np.ndarray

    def moved(part: Any) -> Any:
        if not isinstance(part, kinds):
            return part
        with tf.device(device):
            return tf.identity(part)

    return map_parts(moved, x)


def _devices(part: Any) -> list[str]:
    if isinstance(part, np.ndarray):
        return ["CPU:0"]
    if not isinstance(part, tf.Tensor):
        values = [tf.convert_to_tensor(raw(v)) for v in parts_of(tree_of(part))]
        return [device for value in values for device in _devices(value)]
    spec = tf.DeviceSpec.from_string(part.device)
    return [f"{spec.device_type}:{spec.device_index}"] if spec.device_type else []
