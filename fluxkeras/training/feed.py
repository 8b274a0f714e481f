"""The feed: from any iterable to batches, and to chunks of batches that one call trains on."""

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.checks import locate
from fluxkeras.data import DataLoader, prefetch, repeated
from fluxkeras.training.ahead import Beside, Feed, Reader, Sent
from fluxkeras.training.batch import Batch, Chunk, Signature, Stack, is_array
from fluxkeras.training.blocks import Block, block_size, blocks_of, is_large, one_by_one
from fluxkeras.training.independence import is_independent
from fluxkeras.training.iterables import iterator, why_empty
from fluxkeras.training.memory import copied, gathered

# What can be gone through once more, and has no function of the user's that a thread would call.
PLAIN = {list, tuple, np.ndarray}


def feed_of(data: Any) -> Feed:
    """The feed that suits the data.

    Raises:
        TypeError: `data` cannot be iterated, or an item holds what no tensor can.
        ValueError: there is no item.
    """
    feed = _feed_of(data)
    if tf.config.list_logical_devices("GPU"):
        return Sent(feed) if feed.most > 1 and not feed.is_same else feed
    return Beside(feed) if type(data) in PLAIN or isinstance(feed, Gathered) else feed


def _feed_of(data: Any) -> Feed:
    if type(data) is repeated and not Batch(data.batch, 0).is_live:
        return Same(data)
    if type(data) is DataLoader and all(map(is_array, data.arrays)):
        return Gathered(data)
    if isinstance(data, tf.data.Dataset):
        size = block_size(data)
        return Blocks(data, size) if size else Items(one_by_one(data), data)
    return Items(iterator(data), data, most_ahead(data))


def most_ahead(data: Any) -> float:
    """How many items may be asked for before those before them are trained on."""
    if isinstance(data, prefetch):
        return data.n
    return math.inf if is_independent(data) else 1


class Items(Reader):
    """The items of an iterator, each asked for only when it is wanted.

    An error in the data comes up when the batches before it are handed out.
    """

    def __init__(
        self, items: Iterator[Any], data: Any, most: float = math.inf, at_once: int = 1
    ) -> None:
        self.most = most
        self._at_once = at_once
        self._items = items
        self._data = data
        self._position = 0
        self._next: Any = None
        self._last: Any = None
        self._signature: Signature | None = None
        self._error: Exception | None = None

    @property
    def is_live(self) -> bool:
        return self._next is not None and self._next.is_live

    def peek(self) -> Signature | None:
        batch = self._look()
        if self._error:
            raise self._error
        if batch and not (self._last and batch.is_like(self._last)):
            self._last, self._signature = batch, batch.signature
        return self._signature if batch else None

    def take(self, signature: Signature, steps: int, room: int | None) -> Chunk:
        first = self._look()
        if room is None or not signature.can_be_stacked:
            self._next = None
            return Chunk(signature, first.tensors(), 1, stacked=False)
        stack, batch = Stack(signature, first.leaves, room), self._next
        deadline = time.monotonic() + self.patience
        while batch and batch.is_like(first) and not (batch.is_live and stack.count):
            stack.add(batch)
            self._next = None
            if stack.count == steps or time.monotonic() > deadline:
                break
            batch = self._look()
        return stack.chunk()

    def skip(self, count: int) -> int:
        seen = 1 if count and self._look() else 0
        if seen:
            self._next = None
        skipped = seen + sum(1 for _ in itertools.islice(self._items, count - seen))
        self._position += skipped - seen
        return skipped

    def _look(self) -> Any:
        """The next batch, which stays the next; None at the end and at an error."""
        if self._next is None and self._error is None:
            try:
                self._next = self._read()
            except Exception as error:
                self._error = error
        return self._next

    def _read(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            if self._position == 0:
                raise ValueError(why_empty(self._data)) from None
            return None
        except Exception as error:
            last = self._position + self._at_once - 1
            asked = f"batch {last}" if self._at_once == 1 else f"batches {self._position} to {last}"
            locate(error, f"while the data was asked for {asked}")
            raise
        return self._taken(item)

    def _taken(self, item: Any) -> Any:
        batch = self._last.following(item) if self._last else None
        self._position += 1
        return batch or Batch(item, self._position - 1)


class Blocks(Items):
    """The elements of a dataset, handed over in blocks of `size`; the next ones are being read."""

    is_beside = True

    def __init__(self, data: tf.data.Dataset, size: int) -> None:
        super().__init__(blocks_of(data, size), data, at_once=size)
        self.together = size if is_large(data, size) else None

    def take(self, signature: Signature, steps: int, room: int | None) -> Chunk:
        first = block = self._look()
        if block.whole and room == block.left == steps:
            self._next = None
            return Chunk(signature, block.whole, steps, stacked=True)
        if room is None:
            tensors = [copied(rows[0, ...]) for rows in self._rows(1)]
            return Chunk(signature, tuple(tensors), 1, stacked=False)
        stack = Stack(signature, first.leaves, room)
        deadline = time.monotonic() + self.patience
        while block and block.is_like(first):
            stack.extend(self._rows(steps - stack.count))
            if stack.count == steps or time.monotonic() > deadline:
                break
            block = self._look()
        return stack.chunk()

    def skip(self, count: int) -> int:
        left = count
        while left and self._look():
            left -= len(self._rows(left)[0])
        return count - left

    def _rows(self, most: int) -> list[np.ndarray]:
        """The next batches of the block, at most so many."""
        rows: list[np.ndarray] = self._next.take(most)
        if not self._next.left:
            self._next = None
        return rows

    def _taken(self, item: Block) -> Block:
        self._position += item.left
        return item


class Same(Reader):
    """One batch, again and again, of which there is a single copy, on the device that computes."""

    is_same = True

    def __init__(self, data: repeated) -> None:
        self._left = math.inf if data.n is None else data.n
        if not self._left:
            raise ValueError(why_empty(data))
        batch = Batch(data.batch, 0)
        self._signature = batch.signature
        self._tensors = tuple(map(tf.identity, batch.tensors()))
        self._stacked: tuple[Any, ...] | None = None

    def peek(self) -> Signature | None:
        return self._signature if self._left else None

    def take(self, signature: Signature, steps: int, room: int | None) -> Chunk:
        if room is None or not self._signature.can_be_stacked:
            self._left -= 1
            return Chunk(self._signature, self._tensors, 1, stacked=False)
        if self._stacked is None:
            self._stacked = tuple(tensor[tf.newaxis] for tensor in self._tensors)
        count = int(min(steps, self._left))
        self._left -= count
        return Chunk(self._signature, self._stacked, count, stacked=True)

    def skip(self, count: int) -> int:
        skipped = int(min(count, self._left))
        self._left -= skipped
        return skipped


class Gathered(Reader):
    """The batches of a `DataLoader`: those of a chunk are gathered in one go by their indices."""

    def __init__(self, data: DataLoader) -> None:
        if not len(data):
            raise ValueError(why_empty(data))
        self._size = data.batchsize
        self._arrays = data.arrays
        self._sample = Batch(data.batch(np.arange(1)), 0).signature
        self._order = data.order()[: len(data) * data.batchsize]

    def peek(self) -> Signature | None:
        size = min(self._size, len(self._order))
        return self._sample.with_first_axis(size) if size else None

    def take(self, signature: Signature, steps: int, room: int | None) -> Chunk:
        whole = len(self._order) // self._size
        if room is None or not whole:
            chosen = self._take(1)
            tensors = [gathered(array, chosen) for array in self._arrays]
            return Chunk(signature, tuple(tensors), 1, stacked=False)
        count = min(steps, whole)
        chosen = self._take(count).reshape(count, self._size)
        tensors = [gathered(array, chosen, room) for array in self._arrays]
        return Chunk(signature, tuple(tensors), count, stacked=True)

    def skip(self, count: int) -> int:
        left = math.ceil(len(self._order) / self._size)
        self._take(count)
        return min(count, left)

    def _take(self, batches: int) -> np.ndarray:
        taken, self._order = np.split(self._order, [batches * self._size])
        return taken
