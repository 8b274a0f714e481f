"""Blocks: many elements of a `tf.data.Dataset` at once."""

import contextlib
import inspect
import itertools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.nested import map_parts
from fluxkeras.reading import Threads, read_ahead
from fluxkeras.training.batch import Typed, indexed, is_array, is_splatted

BLOCK_BYTES = 2**24  # what a dataset of TensorFlow's hands over at once
BLOCK_BATCHES, MOST_BATCHES = 64, 256  # the latter of small ones, from one that is quick
LEAST_BATCHES, LEAST_BLOCKS = 4, 6  # the first block is waited for, the others are read meanwhile
OF_UNKNOWN = 16  # batches, where it is not known how many come
AHEAD = 2  # blocks, or elements, that are read while steps run
QUICK, QUICK_ELEMENT = 0.02, 0.001  # seconds that a first block takes, or each element
LARGE_BYTES = 2**20  # of a block whose elements are trained on where they lie, instead of copied
USUAL_LENGTH = 128  # of an axis whose length a dataset does not tell

# The number that rows are padded with, by which they are told from what the data hold: a NaN, as
# there are many, but none that an operation would come to.
MARKS = {
    tf.float32: np.uint32(0x7FC0F1A5).view(np.float32),
    tf.float64: np.uint64(0x7FF800000000F1A5).view(np.float64),
}

# How TensorFlow is told, from 2.18 on, to run a function in the thread that asks: that is faster.
MAPS = inspect.signature(tf.data.Dataset.map).parameters
AT_ONCE = {"synchronous": True} if "synchronous" in MAPS else {}

READERS: list[Threads] = []  # that have nothing to read now
# Or else TensorFlow would read ahead in a thread of its own, which is another one each time.
READ_HERE = tf.data.Options()
READ_HERE.experimental_optimization.inject_prefetch = False


class Block(Typed):
    """Batches of one signature that lie one behind the other in memory.

    Args:
        structure: that of each.
        columns: an array for each slot, with an axis in front that counts the batches.
        tensors: the same as TensorFlow's, if there are such.

    Attributes:
        left: how many have not been taken.
    """

    __slots__ = ("_columns", "_tensors", "left")

    def __init__(
        self, structure: Any, columns: list[np.ndarray], tensors: tuple[tf.Tensor, ...] = ()
    ) -> None:
        self.structure = structure
        self._tensors = tensors
        self.parts = tuple((tf.as_dtype(c.dtype), c.shape[1:]) for c in columns)
        self._columns = columns
        self.left = len(columns[0])

    @property
    def leaves(self) -> list[np.ndarray]:
        """Those of the first batch."""
        return [column[0, ...] for column in self._columns]

    @property
    def whole(self) -> tuple[tf.Tensor, ...]:
        """TensorFlow's tensors of all batches; empty if some were taken, or there are none."""
        return self._tensors if self.left == len(self._columns[0]) else ()

    def take(self, most: int) -> list[np.ndarray]:
        """The next ones, of each column."""
        start = len(self._columns[0]) - self.left
        count = min(most, self.left)
        self.left -= count
        return [column[start : start + count] for column in self._columns]


def block_size(data: tf.data.Dataset) -> int:
    """How many elements a dataset may hand over at once; 0 where they may be long in coming."""
    specs = _parts(data.element_spec)
    length, is_quick = int(data.cardinality()), _memory(data).is_quick
    is_known = length != tf.data.UNKNOWN_CARDINALITY
    if not specs or not (is_known or is_quick) or not all(map(_is_plain, specs)):
        return 0
    bytes = max(1, _known_bytes(data) or sum(map(_usual_bytes, specs)))
    size = min(BLOCK_BATCHES, BLOCK_BYTES // bytes)
    if is_quick:
        size = max(size, min(MOST_BATCHES, LARGE_BYTES // bytes))
    if length > 0:  # not infinite
        size = min(size, max(LEAST_BATCHES, length // LEAST_BLOCKS))
    if not is_known:
        size = min(size, OF_UNKNOWN)
    # A power of 2, so that it seldom changes where lengths vary: it takes time to set up another.
    return 1 << max(1, size).bit_length() - 1


def is_large(data: tf.data.Dataset, size: int) -> bool:
    """Whether a block of so many elements is known to be too large to be copied for nothing."""
    return size > 1 and size * _known_bytes(data) >= LARGE_BYTES


def _known_bytes(data: tf.data.Dataset) -> int:
    """The size of an element; 0 before one of unknown lengths was seen."""
    specs = _parts(data.element_spec)
    if all(spec.shape.is_fully_defined() for spec in specs):
        return sum(map(_usual_bytes, specs))
    return _memory(data).bytes


def _usual_bytes(spec: tf.TensorSpec) -> int:
    return int(spec.dtype.size) * math.prod(USUAL_LENGTH if n is None else n for n in spec.shape)


@dataclass
class _Memory:
    """What is known of a dataset.

    Attributes:
        bytes: the size of the largest element.
        is_quick: whether a first block, or one element after the other to the end, came at once.
        size: of the blocks that are `padded`.
        padded: the dataset in blocks. TensorFlow traces functions for it, and optimises it at the
            first time through, 40 ms that the next ones are spared.
        single: the dataset, element by element.
    """

    bytes: int = 0
    is_quick: bool = False
    size: int = 0
    padded: Any = None
    single: Any = None


def _memory(data: tf.data.Dataset) -> _Memory:
    memory: _Memory = vars(data).setdefault("_fluxkeras", _Memory())
    return memory


def _is_plain(spec: Any) -> bool:
    is_tensor = isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None
    return is_tensor and is_array(np.empty(0, spec.dtype.as_numpy_dtype))


def blocks_of(data: tf.data.Dataset, size: int) -> Iterator[Block]:
    """The elements of a dataset, of which Python asks for many at once: a call costs 0.1 ms."""
    if size == 1:
        yield from map(_unit, one_by_one(data))
        return
    memory = _memory(data)
    if memory.size != size:
        memory.size, memory.padded = size, _padded(data, size).with_options(READ_HERE)
    specs = _parts(data.element_spec)
    asked = time.perf_counter()
    for number, (stacked, hints) in enumerate(elements_of(memory.padded)):
        memory.is_quick |= number == 0 and time.perf_counter() - asked < QUICK
        tensors: list[Any] = []
        structure = indexed(stacked, tensors)
        columns, rest = list(map(_array, tensors)), map(_array, hints)
        bytes = sum(column.nbytes for column in columns) // len(columns[0])
        memory.bytes = max(memory.bytes, bytes)
        shapes = [_shapes(*pair, rest) for pair in zip(specs, columns, strict=True)]
        yield from _alike(Block(structure, columns, tuple(tensors)), shapes)


def one_by_one(data: tf.data.Dataset) -> Iterator[Any]:
    """The elements of a dataset, of which the next ones are made while one is trained on."""
    memory = _memory(data)
    if memory.single is None:
        memory.single = data.with_options(READ_HERE)
    elements, end = elements_of(memory.single), object()
    count, waited, asked = 0, 0.0, time.perf_counter()
    while (element := next(elements, end)) is not end:
        count, waited = count + 1, waited + time.perf_counter() - asked
        yield element
        asked = time.perf_counter()
    memory.is_quick |= waited < count * QUICK_ELEMENT


def elements_of(data: tf.data.Dataset) -> Iterator[Any]:
    """What a dataset yields, read ahead in a thread that has read before, if there is one.

    A dataset that is read in a thread for the first time, as in that of its own `prefetch`, takes
    longer to set up: for each operation TensorFlow looks through all kernels that there are, and
    remembers by thread whether oneDNN has one (15 ms for a generator).

    Where an iterator is deleted, TensorFlow now and then waits for the thread that tunes the
    dataset, which sleeps for twice as long each time: about as long as the iterator has lived. So
    one that has come to its end is deleted in a thread.
    """
    iterator, end, reader = [iter(data)], object(), _reader()
    tasks = itertools.repeat(lambda: next(iterator[0], end))
    ahead = read_ahead(tasks, AHEAD, reader)
    try:
        yield from itertools.takewhile(lambda element: element is not end, ahead)
    finally:
        if reader.rest():
            READERS.append(reader)
    threading.Thread(target=iterator.clear).start()


def _reader() -> Threads:
    with contextlib.suppress(IndexError):
        return READERS.pop()
    return Threads(1, "fluxkeras.tf.data", is_lasting=True)


def _alike(block: Block, shapes: list[np.ndarray]) -> Iterator[Block]:
    """What has one signature: the block, or parts of it without the padding."""
    if all(np.all(rows == whole) for rows, (_, whole) in zip(shapes, block.parts, strict=True)):
        yield block
        return
    changes = np.flatnonzero(np.diff(np.hstack(shapes), axis=0).any(axis=1)) + 1
    columns = block.take(block.left)
    for start, end in itertools.pairwise([0, *changes.tolist(), len(shapes[0])]):
        within = [map(slice, of_rows[start]) for of_rows in shapes]
        parts = [c[(slice(start, end), *w)] for c, w in zip(columns, within, strict=True)]
        yield Block(block.structure, parts)


def _unit(element: Any) -> Block:
    tensors: list[Any] = []
    structure = indexed(element if is_splatted(element) else (element,), tensors)
    return Block(structure, [_array(tensor)[np.newaxis] for tensor in tensors])


def _padded(data: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """The objective's arguments in blocks, padded where lengths vary, and what tells of that."""
    specs = _parts(data.element_spec)

    def hinted(*arguments: Any) -> Any:
        hints = [
            tf.shape(part) if _told_by(spec) == "shape" else part
            for part, spec in zip(_parts(arguments), specs, strict=True)
            if _told_by(spec) in ("shape", "again")
        ]
        return arguments, tuple(hints)

    both = data.map(hinted, **AT_ONCE)
    elements, hints = both.element_spec
    marks = map_parts(lambda spec: _number(MARKS.get(spec.dtype, 0), spec), elements)
    ones = map_parts(lambda spec: _number(1, spec), hints)
    return both.padded_batch(size, padding_values=(marks, ones))


def _number(value: Any, spec: tf.TensorSpec) -> tf.Tensor:
    return tf.constant(np.array(value, spec.dtype.as_numpy_dtype))


def _told_by(spec: tf.TensorSpec) -> str | None:
    """What tells the lengths of padded parts, where they vary.

    A mark in the padding, where there is one; or the part "again", padded with another number,
    since TensorFlow spares itself a function that hands on what it was given; or its "shape".
    """
    lengths = spec.shape.as_list()
    if None not in lengths:
        return None
    if lengths.count(None) > 1 or 0 in lengths:  # an empty part may be of several shapes
        return "shape"
    return "mark" if spec.dtype in MARKS else "again"


def _shapes(spec: tf.TensorSpec, column: np.ndarray, hints: Iterator[np.ndarray]) -> np.ndarray:
    """The shape of each row before it was padded."""
    by = _told_by(spec)
    if by == "shape":
        return next(hints)
    shapes = np.tile(column.shape[1:], (len(column), 1))
    if by:
        along = slice(None), *(slice(None) if n is None else 0 for n in spec.shape)
        ours = column[along]
        other = np.full_like(ours, MARKS[spec.dtype]) if by == "mark" else next(hints)[along]

        def is_padding(part: Any) -> Any:
            is_equal = (_bytes(ours[part]) == _bytes(other[part])).all(axis=-1)
            return is_equal if by == "mark" else ~is_equal

        # What is not padded at its end is not padded: most of it need not be read from memory.
        padded = np.flatnonzero(is_padding(np.s_[:, -1:]))
        shapes[padded, spec.shape.as_list().index(None)] -= is_padding(padded).sum(axis=1)
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
