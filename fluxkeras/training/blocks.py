"""Blocks: many elements of a `tf.data.Dataset` at once."""

import inspect
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.nested import map_parts
from fluxkeras.training.batch import Typed, indexed, is_array, is_splatted

BLOCK_BYTES = 2**20  # what a dataset of TensorFlow's hands over at once: a core's cache has room
BLOCK_BATCHES = 64
USUAL_LENGTH = 32  # of an axis whose length a dataset does not tell

# How TensorFlow is told, from 2.18 on, to run a function in the thread that asks: that is faster.
MAPS = inspect.signature(tf.data.Dataset.map).parameters
AT_ONCE = {"synchronous": True} if "synchronous" in MAPS else {}


class Block(Typed):
    """Batches of one signature that lie one behind the other in memory.

    Args:
        structure: that of each.
        columns: an array for each slot, with an axis in front that counts the batches.

    Attributes:
        left: how many have not been taken.
    """

    __slots__ = ("_columns", "left")

    def __init__(self, structure: Any, columns: list[np.ndarray]) -> None:
        self.structure = structure
        self.parts = tuple((tf.as_dtype(c.dtype), c.shape[1:]) for c in columns)
        self._columns = columns
        self.left = len(columns[0])

    @property
    def leaves(self) -> list[np.ndarray]:
        """Those of the first batch."""
        return [column[0, ...] for column in self._columns]

    def take(self, most: int) -> list[np.ndarray]:
        """The next ones, of each column."""
        start = len(self._columns[0]) - self.left
        count = min(most, self.left)
        self.left -= count
        return [column[start : start + count] for column in self._columns]


def block_size(data: tf.data.Dataset) -> int:
    """How many elements a dataset may hand over at once; 0 where they may be long in coming."""
    specs = _parts(data.element_spec)
    is_known = data.cardinality() != tf.data.UNKNOWN_CARDINALITY
    if not specs or not is_known or not all(map(_is_plain, specs)):
        return 0
    size = _memory(data).get("bytes") or sum(map(_usual_bytes, specs))
    return max(1, min(BLOCK_BATCHES, BLOCK_BYTES // max(1, size)))


def _usual_bytes(spec: tf.TensorSpec) -> int:
    return int(spec.dtype.size) * math.prod(USUAL_LENGTH if n is None else n for n in spec.shape)


def _memory(data: tf.data.Dataset) -> dict[str, Any]:
    """What is known of a dataset, kept with it since TensorFlow traces functions to make blocks."""
    memory: dict[str, Any] = vars(data).setdefault("_fluxkeras", {})
    return memory


def _is_plain(spec: Any) -> bool:
    is_tensor = isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None
    return is_tensor and is_array(np.empty(0, spec.dtype.as_numpy_dtype))


def blocks_of(data: tf.data.Dataset, size: int) -> Iterator[Block]:
    """The elements of a dataset, of which Python asks for many at once: a call costs 0.1 ms."""
    if size == 1:
        yield from map(_unit, data)
        return
    memory = _memory(data)
    if memory.get("size") != size:
        memory |= {"size": size, "padded": _padded(data, size).prefetch(1)}
    specs = _parts(data.element_spec)
    for stacked, hints in memory["padded"]:
        tensors: list[Any] = []
        structure = indexed(stacked, tensors)
        columns, left = list(map(_array, tensors)), map(_array, hints)
        memory["bytes"] = sum(column.nbytes for column in columns) // len(columns[0])
        shapes = [
            _shapes(spec, column, None if spec.shape.is_fully_defined() else next(left))
            for spec, column in zip(specs, columns, strict=True)
        ]
        changes = np.flatnonzero(np.diff(np.hstack(shapes), axis=0).any(axis=1)) + 1
        for start, end in itertools.pairwise([0, *changes.tolist(), len(shapes[0])]):
            within = [map(slice, of_rows[start]) for of_rows in shapes]
            yield Block(
                structure,
                [c[(slice(start, end), *w)] for c, w in zip(columns, within, strict=True)],
            )


def _unit(element: Any) -> Block:
    tensors: list[Any] = []
    structure = indexed(element if is_splatted(element) else (element,), tensors)
    return Block(structure, [_array(tensor)[np.newaxis] for tensor in tensors])


def _padded(data: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """The objective's arguments in blocks, padded where lengths vary, and what tells the lengths.

    That is the part again, padded with another number, since TensorFlow spares itself a function
    that hands on what it was given; or its shape.
    """
    specs = _parts(data.element_spec)

    def told(*arguments: Any) -> Any:
        hints = [
            part if _is_told_by_padding(spec) else tf.shape(part)
            for part, spec in zip(_parts(arguments), specs, strict=True)
            if not spec.shape.is_fully_defined()
        ]
        return arguments, tuple(hints)

    hinted = data.map(told, **AT_ONCE)
    elements, hints = hinted.element_spec
    zeros = map_parts(lambda spec: tf.zeros((), spec.dtype), elements)
    ones = map_parts(lambda spec: tf.ones((), spec.dtype), hints)
    return hinted.padded_batch(size, padding_values=(zeros, ones))


def _is_told_by_padding(spec: tf.TensorSpec) -> bool:
    """Not where an empty part may be of several shapes."""
    lengths = spec.shape.as_list()
    return lengths.count(None) == 1 and 0 not in lengths


def _shapes(spec: tf.TensorSpec, column: np.ndarray, hint: np.ndarray | None) -> np.ndarray:
    """The shape of each row before it was padded."""
    if hint is not None and not _is_told_by_padding(spec):
        return hint
    shapes = np.tile(column.shape[1:], (len(column), 1))
    if hint is not None:
        along = slice(None), *(slice(None) if n is None else 0 for n in spec.shape)
        is_padding = (_bytes(column[along]) != _bytes(hint[along])).any(axis=-1)
        shapes[:, spec.shape.as_list().index(None)] -= is_padding.sum(axis=1)
    return shapes


def _bytes(array: np.ndarray) -> np.ndarray:
    """What can be compared where there are numbers that are not equal to themselves."""
    return np.ascontiguousarray(array)[..., np.newaxis].view(np.uint8)


def _array(tensor: tf.Tensor) -> np.ndarray:
    """A view of its memory."""
    return np.asarray(memoryview(tensor))


def _parts(structure: Any) -> list[Any]:
    parts: list[Any] = []
    map_parts(parts.append, structure)
    return parts
