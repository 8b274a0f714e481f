"""Batches: an item of the data as tensors, and several of them stacked in a chunk."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.nested import is_nested_list, map_parts
from fluxkeras.parameters import Variable
from fluxkeras.training.memory import buffer, copied, shared

UNFIT = TypeError, ValueError, OverflowError  # what comes of what no tensor can hold


class Slot:
    """Stands for a tensor in a structure."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"<{self.index}>"


slot = functools.cache(Slot)  # one for each index, so that equal structures compare as such


class Signature:
    """What a compiled step is made for: the structure of a batch, each tensor's type and shape.

    `structure` is the tuple of the objective's arguments, with a slot in place of each tensor.
    `samples` is how many there are on all workers, if these are the rows of one of several.
    """

    def __init__(self, structure: Any, parts: tuple[Any, ...], samples: int | None = None) -> None:
        self.structure = structure
        self.parts = parts
        self.samples = samples
        self._key = repr(structure), parts, samples
        self._hash = hash(self._key)

    @property
    def specs(self) -> list[tf.TypeSpec]:
        return [tf.TensorSpec(p[1], p[0]) if isinstance(p, tuple) else p for p in self.parts]

    @property
    def family(self) -> Any:
        """What signatures share that differ in lengths of axes alone."""
        kinds = [(p[0], len(p[1])) if isinstance(p, tuple) else p for p in self.parts]
        return self._key[0], tuple(kinds), self.samples

    @property
    def is_static(self) -> bool:
        """Whether every length is known."""
        return all(isinstance(p, tuple) and None not in p[1] for p in self.parts)

    @classmethod
    def covering(cls, signatures: list["Signature"]) -> "Signature":
        """The closest one that covers all of a family: lengths that differ are left open."""

        def covering_part(*parts: Any) -> Any:
            if not isinstance(parts[0], tuple):
                return parts[0]
            lengths = zip(*(shape for _, shape in parts), strict=True)
            return parts[0][0], tuple(n[0] if len(set(n)) == 1 else None for n in lengths)

        parts = map(covering_part, *(signature.parts for signature in signatures))
        return cls(signatures[0].structure, tuple(parts), signatures[0].samples)

    def covers(self, other: "Signature") -> bool:
        """Whether what is compiled for this one runs on batches of another of its family."""
        return self.covering([self, other]) == self

    @property
    def can_be_stacked(self) -> bool:
        """Whether all are plain tensors, which sparse and ragged ones are not."""
        return all(isinstance(part, tuple) for part in self.parts)

    def with_first_axis(self, length: int) -> "Signature":
        """The same with another length of every first axis."""
        parts = [(dtype, (length, *shape[1:])) for dtype, shape in self.parts]
        return Signature(self.structure, tuple(parts))

    @property
    def bytes(self) -> int:
        """The size of a batch; 0 for what is no plain tensor."""
        plain = [p for p in self.parts if isinstance(p, tuple) and None not in p[1]]
        return sum(dtype.size * math.prod(shape) for dtype, shape in plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        described = [
            f"{p[0].name} {tuple(p[1])}" if isinstance(p, tuple) else f"{p.dtype.name} {p.shape}"
            for p in self.parts
        ]
        return ", ".join(described) or "no tensors"


class Typed:
    """What batches of one signature have in common: their structure, and the parts in it."""

    __slots__ = ("parts", "structure")

    structure: Any
    parts: tuple[Any, ...]
    samples: int | None = None  # see `Signature`

    @property
    def signature(self) -> Signature:
        return Signature(self.structure, self.parts, self.samples)

    def is_like(self, other: "Typed") -> bool:
        """Whether both are of one signature."""
        if self.samples != other.samples:
            return False
        if self.parts is other.parts and self.structure is other.structure:
            return True
        # A tuple and one with named fields are equal, but not printed alike.
        return self.parts == other.parts and repr(self.structure) == repr(other.structure)


class Batch(Typed):
    """One item of the data: its structure, and the arrays and tensors in it, not yet copied.

    Attributes:
        is_live: whether a variable is among its leaves, which is read when it is the batch's turn.
    """

    __slots__ = ("_kinds", "is_live", "leaves")

    leaves: Sequence[Any]

    def __init__(self, item: Any, position: int) -> None:
        leaves: list[Any] = []
        arguments = item if is_splatted(item) else (item,)
        try:
            self.structure = indexed(arguments, leaves)
        except UNFIT:
            _refuse(arguments, f"batch {position}")
            raise
        self.leaves = leaves
        self.parts = tuple(map(_part, leaves))
        self.is_live = any(isinstance(leaf, Variable) for leaf in leaves)
        is_flat = type(item) is tuple and len(item) == len(leaves) and all(map(is_array, item))
        self._kinds = [(array.dtype, array.shape) for array in item] if is_flat else None

    def following(self, item: Any) -> "Batch | None":
        """This one with other leaves, where both are tuples of arrays of the same kinds."""
        if self._kinds is None or type(item) is not tuple or len(item) != len(self._kinds):
            return None
        for array, (dtype, shape) in zip(item, self._kinds, strict=True):
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return None
        self.leaves = item
        return self

    def tensors(self) -> tuple[Any, ...]:
        return tuple(copied(leaf) if is_array(leaf) else _now(leaf) for leaf in self.leaves)


class Part(Batch):
    """Those rows of a batch that one of several workers trains on.

    Args:
        batch: all of it, or those rows.
        samples: how many all of it has.
        rows: which of the rows of `batch` are this worker's.
    """

    __slots__ = ("samples",)

    def __init__(self, batch: Batch, samples: int, rows: slice = slice(None)) -> None:
        self.structure, self.samples = batch.structure, samples
        self.leaves = [_now(leaf)[rows] if len(leaf.shape) else leaf for leaf in batch.leaves]
        self.parts = tuple(map(_part, self.leaves))
        self.is_live, self._kinds = False, None


@dataclass(frozen=True)
class Chunk:
    """Batches of one signature that one call trains on.

    `tensors` are those of the one batch, or, if `stacked`, have one more axis in front. It may have
    room for more than `count` batches, and has a single one if all of them are the same.
    """

    signature: Signature
    tensors: tuple[Any, ...]
    count: int
    stacked: bool

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Any, ...]]:
        """The tensors of each batch, or of some of them."""
        for i in range(start, self.count if stop is None else stop):
            yield tuple(t[i % t.shape[0]] for t in self.tensors) if self.stacked else self.tensors

    def on_device(self) -> "Chunk":
        """The same, sent to the device that computes; memory that is not in use stays behind."""

        def sent(tensor: tf.Tensor) -> tf.Tensor:
            if not self.stacked:
                return tf.identity(tensor)
            unused = [[0, len(tensor) - self.count], *[[0, 0]] * (tensor.shape.rank - 1)]
            return tf.pad(tf.identity(tensor[: self.count]), unused)

        return dataclasses.replace(self, tensors=tuple(map(sent, self.tensors)))


class Stack:
    """Batches copied one behind the other, as they come.

    Args:
        signature: that of all of them.
        leaves: those of one of them.
        room: how many there may be. Memory that stays unused is never touched.
    """

    def __init__(self, signature: Signature, leaves: Sequence[Any], room: int) -> None:
        self.signature = signature
        self.room = room
        self.count = 0
        self.columns: list[Any] = [
            buffer((room, *leaf.shape), leaf.dtype) if is_array(leaf) else [] for leaf in leaves
        ]

    def add(self, batch: Batch) -> None:
        for column, leaf in zip(self.columns, batch.leaves, strict=True):
            if isinstance(column, list):
                column.append(_now(leaf))
            else:
                column[self.count] = leaf
        self.count += 1

    def extend(self, columns: list[np.ndarray]) -> None:
        """Add batches that lie one behind the other."""
        end = self.count + len(columns[0])
        for column, rows in zip(self.columns, columns, strict=True):
            column[self.count : end] = rows
        self.count = end

    def chunk(self) -> Chunk:
        return Chunk(self.signature, tuple(map(self._stacked, self.columns)), self.count, True)

    def _stacked(self, column: Any) -> tf.Tensor:
        if isinstance(column, list):
            return tf.stack(column + column[-1:] * (self.room - self.count))
        return shared(column)


def unpacked(structure: Any, tensors: Any) -> Any:
    """The arguments, with the tensors in their places."""
    return map_parts(lambda part: part and tensors[part.index], structure)


def is_splatted(item: Any) -> bool:
    """Flux's rule: a tuple is the arguments of the objective; anything else, and a tuple with
    named fields, is one argument."""
    return isinstance(item, tuple) and not hasattr(item, "_fields")


def indexed(node: Any, leaves: list[Any]) -> Any:
    """The structure, with a slot for each part, which joins the leaves."""

    def place(value: Any) -> Slot | None:
        if value is None:
            return None
        if isinstance(value, np.generic):
            value = np.asarray(value)
        leaves.append(value if is_array(value) else _tensor(value))
        return slot(len(leaves) - 1)

    return map_parts(place, node)


def is_array(value: Any) -> bool:
    is_plain = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
    return is_plain and value.dtype.kind in "fiubc" and value.itemsize <= 8


def _tensor(value: Any) -> Any:
    if tf.is_tensor(value) or isinstance(value, Variable):
        return value
    if not isinstance(value, Number | str | bytes | list | np.ndarray):
        value = np.asanyarray(value)
    if np.ma.is_masked(value):
        raise ValueError("some of its elements are masked, and a tensor can mask none.")
    return tf.convert_to_tensor(value)


def _now(leaf: Any) -> Any:
    return tf.convert_to_tensor(leaf) if isinstance(leaf, Variable | np.ndarray) else leaf


def _refuse(node: Any, path: str) -> None:
    """Say which part of an item it is that cannot be a tensor."""
    if isinstance(node, Mapping):
        parts = list(node.items())
    elif isinstance(node, tuple | list) and not is_nested_list(node):
        parts = list(enumerate(node))
    else:
        try:
            indexed(node, [])
        except UNFIT as error:
            way = ".filled(0)" if np.ma.is_masked(node) else "np.asarray(…, dtype='float32')"
            raise TypeError(
                f"train cannot make a tensor of {path}, {_kind(node)}: {error} Convert it before, "
                f"for example with {way}."
            ) from error
        return
    for name, part in parts:
        _refuse(part, f"{path}[{name!r}]")


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" + (f" of dtype {dtype}" if dtype is not None else "")


def _part(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return tf.as_dtype(leaf.dtype), leaf.shape
    if isinstance(leaf, tf.Tensor | Variable):
        return tf.as_dtype(leaf.dtype), tuple(leaf.shape)
    return tf.type_spec_from_value(leaf)
