"""Data: from any iterable to the tensors of one batch after another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import locate
from fluxkeras.data import is_nested_list
from fluxkeras.parameters import Variable


@dataclass(frozen=True)
class Batch:
    """One item of the data as the objective's arguments.

    `structure` is the tuple of arguments with the index into `tensors` in place of each tensor.
    """

    structure: tuple[Any, ...]
    tensors: tuple[Any, ...]

    def signature(self) -> tuple[Any, ...]:
        """What a compiled step is made for: the structure, and each tensor's type and shape."""
        return repr(self.structure), *map(_type_and_shape, self.tensors)

    def __str__(self) -> str:
        return ", ".join(f"{t.dtype.name} {tuple(t.shape)}" for t in self.tensors) or "no tensors"


def unpacked(structure: Any, tensors: Any) -> Any:
    """The arguments, with the tensors in their places."""
    if isinstance(structure, int):
        return tensors[structure]
    return _map_parts(lambda part, _: unpacked(part, tensors), structure, "")


def batches(data: Any) -> Iterator[Batch]:
    """The items of `data`, each asked for only when it is asked for here.

    Raises:
        TypeError: `data` cannot be iterated, or an item holds what no tensor can.
        ValueError: there is no item.
    """
    items = _iterator(data)
    position = 0
    while True:
        try:
            item = next(items)
        except StopIteration:
            break
        except Exception as error:
            locate(error, f"while the data was asked for batch {position}")
            raise
        yield _batch(item, position)
        position += 1
    if position == 0:
        raise ValueError(_why_empty(data))


def length(data: Any) -> int | None:
    """The number of items, where it is known."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    try:
        return len(data)
    except TypeError:  # no length, or a tf.data.Dataset without a known one
        return None


def _iterator(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return _py_dataset(data)
    if not isinstance(data, Mapping | str | bytes):
        try:
            return iter(data)
        except TypeError:
            pass
    raise TypeError(
        f"train expects data to be an iterable of batches, got {type(data).__name__}. "
        "For one batch write [batch]."
    )


def _py_dataset(data: keras.utils.PyDataset) -> Iterator[Any]:
    # Python would iterate it by __getitem__ alone, which knows no end.
    if hasattr(data, "on_epoch_begin"):  # not in Keras 3.5
        data.on_epoch_begin()
    position = 0
    while data.num_batches is None or position < data.num_batches:
        yield data[position]
        position += 1
    data.on_epoch_end()


def _why_empty(data: Any) -> str:
    kind = type(data).__name__
    if isinstance(data, Iterator):
        return (
            f"train got no batch: this {kind} is exhausted, since a {kind} can be gone through "
            "only once. For several epochs keep the batches in a list, such as list(zip(xs, ys)), "
            f"or make the {kind} anew for each."
        )
    return f"train got no batch: the data, a {kind}, is empty."


def _batch(item: Any, position: int) -> Batch:
    tensors: list[Any] = []

    def indexed(node: Any, path: str) -> Any:
        if node is None or _is_structure(node):
            return _map_parts(indexed, node, path)
        tensors.append(_tensor(node, path))
        return len(tensors) - 1

    arguments = item if _is_splatted(item) else (item,)
    return Batch(_map_parts(indexed, arguments, f"batch {position}"), tuple(tensors))


def _is_splatted(item: Any) -> bool:
    """Flux's rule: a tuple is the arguments of the objective; anything else, and a tuple with
    named fields, is one argument."""
    return isinstance(item, tuple) and not hasattr(item, "_fields")


def _is_structure(node: Any) -> bool:
    return isinstance(node, Mapping | tuple | list) and not is_nested_list(node)


def _map_parts(f: Any, node: Any, path: str) -> Any:
    if isinstance(node, Mapping):
        return {name: f(part, f"{path}[{name!r}]") for name, part in node.items()}
    if isinstance(node, tuple | list):
        parts = [f(part, f"{path}[{i}]") for i, part in enumerate(node)]
        return type(node)(*parts) if hasattr(node, "_fields") else type(node)(parts)
    return node


def _tensor(value: Any, path: str) -> Any:
    if tf.is_tensor(value) and not isinstance(value, Variable):
        return value
    if not isinstance(value, Number | str | bytes | list | np.ndarray | Variable):
        value = np.asarray(value)
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"train cannot make a tensor of {path}, {_kind(value)}: {error} "
            "Convert it before, for example with np.asarray(…, dtype='float32')."
        ) from error


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" + (f" of dtype {dtype}" if dtype is not None else "")


def _type_and_shape(tensor: Any) -> Any:
    if isinstance(tensor, tf.Tensor):
        return tensor.dtype, tuple(tensor.shape)
    return tf.type_spec_from_value(tensor)
