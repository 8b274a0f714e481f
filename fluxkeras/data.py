"""Iterables of batches."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Number
from typing import Any

import numpy as np

__all__ = ["DataLoader", "prefetch", "repeated"]


class repeated(Iterable[Any]):
    """The same batch `n` times, or for ever. It can be gone through any number of times.

    Args:
        batch: what is given each time, such as `(x, y)`. `train` copies its arrays once.
        n: how many times; without it, there is no end.

    Returns:
        An iterable, which has a length if `n` is given.

    Raises:
        ValueError: `n` is negative.

    Example:
        >>> list(repeated((1, 2), 3))
        [(1, 2), (1, 2), (1, 2)]

    Source: Julia's `Iterators.repeated`, used in Flux's training guide.
    """

    def __init__(self, batch: Any, n: int | None = None) -> None:
        if n is not None and n < 0:
            raise ValueError(f"repeated expects a number of times from 0, got {n}.")
        self.batch = batch
        self.n = n

    def __iter__(self) -> Iterator[Any]:
        return (
            itertools.repeat(self.batch) if self.n is None else itertools.repeat(self.batch, self.n)
        )

    def __len__(self) -> int:
        if self.n is None:
            raise TypeError("repeated without a number of times has no length.")
        return self.n

    def __repr__(self) -> str:
        return (
            f"repeated({self.batch!r})" if self.n is None else f"repeated({self.batch!r}, {self.n})"
        )


class DataLoader(Iterable[Any]):
    """Arrays in batches of their first axis: `data[0:b], data[b:2b], …`.

    Args:
        data: an array of shape `(samples, …)`, or a tuple, list or dict of such arrays, nested at
            will, which all hold as many samples. Every batch has the same form.
        batchsize: samples in a batch.
        shuffle: whether each time that it is gone through the samples come in a new order.
        partial: whether a last batch that is smaller is given too.
        rng: what the orders are drawn with: a `numpy.random.Generator`, or a seed for one.

    Returns:
        An iterable with a length. `train` gathers several batches of it at once.

    Raises:
        TypeError: `data` holds something without a first axis.
        ValueError: the numbers of samples differ, or `batchsize` is no whole number from 1.

    Example:
        >>> loader = DataLoader((np.arange(5), np.arange(5) ** 2), batchsize=2)
        >>> for x, y in loader:
        ...     print(x, y)
        [0 1] [0 1]
        [2 3] [4 9]
        [4] [16]
        >>> len(loader), len(DataLoader(np.arange(5), 2, partial=False))
        (3, 2)

    Source: Flux's `DataLoader`, of MLUtils.jl, whose samples lie along the last axis.
    """

    def __init__(
        self,
        data: Any,
        batchsize: int = 1,
        *,
        shuffle: bool = False,
        partial: bool = True,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if not isinstance(batchsize, int | np.integer) or batchsize < 1:
            raise ValueError(
                f"DataLoader expects a batchsize, a whole number from 1, got {batchsize!r}."
            )
        self.data = map_parts(_samples, data)
        self.arrays: list[np.ndarray] = []
        map_parts(self.arrays.append, self.data)
        self.samples = _number_of_samples(self.arrays)
        self.batchsize = int(batchsize)
        self.shuffle = shuffle
        self.partial = partial
        self.rng = np.random.default_rng(rng)

    def __iter__(self) -> Iterator[Any]:
        order = self.order()
        starts = range(0, self.samples, self.batchsize)[: len(self)]
        return map(lambda start: self.batch(order[start : start + self.batchsize]), starts)

    def __len__(self) -> int:
        whole, rest = divmod(self.samples, self.batchsize)
        return whole + bool(rest and self.partial)

    def order(self) -> np.ndarray:
        """The samples' indices in the order of the next time through."""
        return self.rng.permutation(self.samples) if self.shuffle else np.arange(self.samples)

    def batch(self, indices: np.ndarray) -> Any:
        """Those samples, in the form of `data`."""
        return map_parts(lambda array: array[indices], self.data)

    def __repr__(self) -> str:
        options = ", shuffle=True" * self.shuffle + ", partial=False" * (not self.partial)
        return f"DataLoader({self.samples} samples, batchsize={self.batchsize}{options})"


class prefetch(Iterable[Any]):
    """Read up to `n` items of `data` ahead, in a thread, while the ones before are trained on.

    Without it, `train` asks a generator, and anything else that it does not know, for an item only
    when every item before has been trained on, since the item may depend on the model. `prefetch`
    says that it does not: several steps may then run in one call, and the reading beside them.

    Args:
        data: any iterable.
        n: how many items.

    Returns:
        An iterable of the same items. Arrays among them are copied, so that a generator may fill
        the same one again. An error in `data` comes up at its place.

    Raises:
        TypeError: `data` is no iterable.
        ValueError: `n` is no whole number from 1.

    Example:
        >>> squares = prefetch((i**2 for i in range(4)), 2)
        >>> list(squares)
        [0, 1, 4, 9]

    Source: `tf.data.Dataset.prefetch`; Flux's `DataLoader(…, parallel=true)`.
    """

    def __init__(self, data: Iterable[Any], n: int) -> None:
        if not isinstance(data, Iterable):
            raise TypeError(f"prefetch expects an iterable, got {type(data).__name__}.")
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(
                f"prefetch expects how many items to read ahead, a whole number from 1, got {n!r}."
            )
        self.data = data
        self.n = int(n)

    def __iter__(self) -> Iterator[Any]:
        items = iter(self.data)
        end = object()
        ahead: deque[Future[Any]] = deque()
        reader = ThreadPoolExecutor(1, "fluxkeras.prefetch")
        try:
            while True:
                while len(ahead) <= self.n:
                    ahead.append(reader.submit(_next_copied, items, end))
                item = ahead.popleft().result()
                if item is end:
                    return
                yield item
        finally:
            reader.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"prefetch({self.data!r}, {self.n})"


def _next_copied(items: Iterator[Any], end: Any) -> Any:
    item = next(items, end)
    return map_parts(lambda v: v.copy() if isinstance(v, np.ndarray) else v, item)


def _samples(array: Any) -> np.ndarray:
    samples = np.asanyarray(array)
    if samples.ndim == 0:
        raise TypeError(
            f"DataLoader expects arrays of samples along the first axis, got {array!r}."
        )
    return samples


def _number_of_samples(arrays: list[np.ndarray]) -> int:
    numbers = list(map(len, arrays))
    if len(set(numbers)) != 1:
        raise ValueError(
            "DataLoader expects arrays of the same number of samples along their first axis, got "
            f"{', '.join(map(str, numbers)) or 'no array'}."
        )
    return numbers[0]


def is_nested_list(value: Any) -> bool:
    """Whether a list stands for an array: it holds numbers, texts, or such lists."""
    atoms = Number | str | bytes
    return isinstance(value, list) and all(isinstance(v, atoms) or is_nested_list(v) for v in value)


def map_parts(f: Callable[[Any], Any], node: Any) -> Any:
    """`f` of every part of tuples, lists and dicts, in the same form."""
    if isinstance(node, np.ndarray):
        return f(node)
    if isinstance(node, Mapping):
        return {name: map_parts(f, part) for name, part in node.items()}
    if isinstance(node, tuple | list) and not is_nested_list(node):
        parts = [map_parts(f, part) for part in node]
        return type(node)(*parts) if hasattr(node, "_fields") else type(node)(parts)
    return f(node)
