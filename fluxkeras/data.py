"""Iterables of batches."""

import contextlib
import copy
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from fluxkeras.nested import is_nested_list as is_nested_list  # for those that import it from here
from fluxkeras.nested import map_parts, parts_of
from fluxkeras.observations import Collate, collator, generator, observed
from fluxkeras.reading import Threads, read_ahead

__all__ = ["DataLoader", "eachobs", "prefetch", "repeated"]


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
    """Observations in batches: `data[0:b], data[b:2b], …`.

    Args:
        data: an array of shape `(samples, …)`, or a tuple, list or dict of such arrays, nested at
            will, which all hold as many samples; what `mapobs` makes may be among them. Every batch
            has the same form.
        batchsize: samples in a batch; -1 gives them one by one, without a batch axis.
        shuffle: whether each time that it is gone through the samples come in a new order.
        partial: whether a last batch that is smaller is given too.
        collate: what makes a batch of a list of samples: a function; True for `batch`; False to
            leave it a list. By default a batch is taken out of the arrays at once.
        parallel: whether batches are made in threads, ahead of their turn, in the same order. It
            pays where `collate`, or a function of `mapobs`, reads files or waits.
        num_workers: how many threads; 0 for as many as there are processors.
        rng: what the orders are drawn with: a `numpy.random.Generator`, or a seed for one. Without
            it, `keras.utils.set_random_seed` governs.
        seed: the same, under the name that it has elsewhere.
        shard: `(rank, workers)`, if several workers, each with such a loader, share each batch:
            this one reads its rows of it alone. All of them need the same seed.

    Returns:
        An iterable with a length. `train` gathers several batches of it at once. `state` and
        `load_state` let it go on in the middle, in another process too.

    Raises:
        TypeError: `data` holds something without a first axis, or `collate` is no function.
        ValueError: the numbers of samples differ, or `batchsize` or `num_workers` is no number that
            is meant, or there is both an `rng` and a `seed`, or `shard` is no such pair, or goes
            with single samples.

    Example:
        >>> loader = DataLoader((np.arange(5), np.arange(5) ** 2), batchsize=2)
        >>> for x, y in loader:
        ...     print(x, y)
        [0 1] [0 1]
        [2 3] [4 9]
        [4] [16]
        >>> len(loader), len(DataLoader(np.arange(5), 2, partial=False))
        (3, 2)

    Source: Flux's `DataLoader`, of MLUtils.jl, whose samples lie along the last axis, and whose
    threads mix the order.
    """

    def __init__(
        self,
        data: Any,
        batchsize: int = 1,
        *,
        shuffle: bool = False,
        partial: bool = True,
        collate: Collate | bool | None = None,
        parallel: bool = False,
        num_workers: int = 0,
        rng: np.random.Generator | int | None = None,
        seed: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        if not isinstance(batchsize, int | np.integer) or (batchsize < 1 and batchsize != -1):
            raise ValueError(
                "DataLoader expects a batchsize, a whole number from 1, or -1 for single samples, "
                f"got {batchsize!r}."
            )
        self.collate = collator("DataLoader", collate)
        if not isinstance(num_workers, int | np.integer) or num_workers < 0:
            raise ValueError(
                f"DataLoader expects num_workers, a whole number from 0, got {num_workers!r}."
            )
        if rng is not None and seed is not None:
            raise ValueError(f"DataLoader expects an rng or a seed, got both, {rng} and {seed}.")
        self.data, self.samples = observed(data, "DataLoader")
        self.batchsize = int(batchsize)
        self.shuffle = shuffle
        self.partial = partial
        self.parallel = parallel
        self.num_workers = num_workers or os.cpu_count() or 1
        self.rng = generator(rng if seed is None else seed) if shuffle else None
        self.shard = None if shard is None else _checked_shard(shard, self.batchsize)
        self._position = self._skipped = 0
        self._began: Any = self._rng_state()
        self._order: np.ndarray | None = None

    @property
    def arrays(self) -> list[Any]:
        """What a batch is rows of. Where it is made otherwise, these are no arrays."""
        is_rows = self.collate is None and self.batchsize > 0 and self.shard is None
        return parts_of(self.data) if is_rows else [self]

    def __iter__(self) -> Iterator[Any]:
        order = self.order()
        chosen = order if self.batchsize < 0 else list(self._rows(order))
        batches = self._ahead(chosen) if self.parallel else map(self.batch, chosen)

        def handed_over(position: int, item: Any) -> Any:
            if self._order is order:  # else it is gone through again meanwhile
                self._position = position
            return item

        return map(handed_over, range(self._position + 1, len(self) + 1), batches)

    def __len__(self) -> int:
        whole, rest = divmod(self.samples, self._step)
        return whole + bool(rest and self.partial)

    def order(self) -> np.ndarray:
        """The indices of the next time through, in their order: those that come in some batch."""
        self._began = self._rng_state()
        order = self.rng.permutation(self.samples) if self.rng else np.arange(self.samples)
        self._position, self._skipped = self._skipped, 0
        self._order = order[self._position * self._step : len(self) * self._step]
        return self._order

    def batch(self, indices: Any) -> Any:
        """Those samples in the form of `data`, or what `collate` makes of them."""
        if self.collate is None or np.ndim(indices) == 0:
            return map_parts(itemgetter(indices), self.data)
        return self.collate([map_parts(itemgetter(i), self.data) for i in indices])

    def _rows(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """The indices of the samples of each batch, as far as they are this worker's."""
        rank, workers = self.shard or (0, 1)
        for start in range(0, len(order), self._step):
            rows = order[start : start + self._step]
            yield rows[part_of(len(rows), workers, rank)]

    def size(self, position: int) -> int:
        """How many samples a batch has, on all workers."""
        return min(self._step, self.samples - position * self._step)

    def state(self) -> dict[str, Any]:
        """Where it is, to go on from there by `load_state`.

        Returns:
            A dict: `"position"`, how many batches the time through that was begun last has given;
            and `"rng"`, the state of the generator before it. Who reads ahead may set the position
            to the number of batches that are dealt with.

        Example:
            >>> loader = DataLoader(np.arange(6), 2, shuffle=True, rng=1)
            >>> batches = iter(loader)
            >>> first, state = next(batches), loader.state()
            >>> again = DataLoader(np.arange(6), 2, shuffle=True)
            >>> again.load_state(state)
            >>> [bool(np.all(a == b)) for a, b in zip(again, batches, strict=True)]
            [True, True]
        """
        if self._position == len(self):
            return {"position": 0, "rng": self._rng_state()}
        return {"position": self._position, "rng": self._began}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Let the next time through be that of a `state`, without the batches given before.

        Raises:
            ValueError: the state is of another loader.
        """
        position: Any = state.get("position")
        rng: Any = state.get("rng")
        is_position = isinstance(position, int | np.integer) and 0 <= position <= len(self)
        if not is_position or (rng is None) == self.shuffle:
            raise ValueError(
                f"{self} expects a state with a position up to {len(self)} and "
                f"{'a state' if self.shuffle else 'no state'} of a generator, got {dict(state)}."
            )
        if self.rng:
            self.rng.bit_generator.state = rng
        self._began, self._position, self._skipped = rng, int(position), int(position)
        if position == len(self):
            self.order()  # the time through is over: draw the order that it had

    @property
    def _step(self) -> int:
        return max(self.batchsize, 1)

    def _rng_state(self) -> Any:
        return self.rng.bit_generator.state if self.rng else None

    def _ahead(self, chosen: Iterable[Any]) -> Iterator[Any]:
        tasks = (partial(self.batch, indices) for indices in chosen)
        with contextlib.closing(Threads(self.num_workers)) as threads:
            yield from read_ahead(tasks, self.num_workers, threads)

    def __repr__(self) -> str:
        options = {"shuffle=True": self.shuffle, "partial=False": not self.partial}
        options |= {"parallel=True": self.parallel}
        words = [f"{self.samples} samples", f"batchsize={self.batchsize}"]
        return f"DataLoader({', '.join(words + [o for o, is_set in options.items() if is_set])})"


def part_of(count: int, parts: int, i: int) -> slice:
    """The i-th of so many parts of a row of things: the first ones may have one more."""
    each, rest = divmod(count, parts)
    start = i * each + min(i, rest)
    return slice(start, start + each + (i < rest))


def _checked_shard(shard: tuple[int, int], batchsize: int) -> tuple[int, int]:
    match shard:
        case (int(rank), int(workers)) if 0 <= rank < workers and batchsize > 0:
            return rank, workers
    raise ValueError(
        "DataLoader expects as shard the rank of this worker and how many there are, to share "
        f"batches, got {shard!r} with batchsize {batchsize}. Write shard=(0, 2)."
    )


def eachobs(data: Any, batchsize: int = -1, **options: Any) -> DataLoader:
    """Observations one by one, or in batches: `DataLoader` with another default.

    Args:
        data: arrays of shape `(observations, …)`, as for `DataLoader`.
        batchsize: observations in a batch; -1 gives them one by one, without a batch axis.
        **options: those of `DataLoader`.

    Returns:
        A `DataLoader`.

    Raises:
        TypeError, ValueError: as `DataLoader`.

    Example:
        >>> for x, y in eachobs((np.ones((2, 3)), np.arange(2))):
        ...     print(x, y)
        [1. 1. 1.] 0
        [1. 1. 1.] 1

    Source: MLUtils' `eachobs`.
    """
    return DataLoader(data, batchsize, **options)


class prefetch(Iterable[Any]):
    """Read up to `n` items of `data` ahead, in a thread, while the ones before are trained on.

    Without it, `train` asks a generator, and anything else that it does not know, for an item only
    when every item before has been trained on, since the item may depend on the model. `prefetch`
    says that it does not: several steps may then run in one call, and the reading beside them.

    Args:
        data: any iterable.
        n: how many items.

    Returns:
        An iterable of the same items. Arrays, lists of numbers and variables among them are copied,
        so that a generator may fill the same one again. An error in `data` comes up at its place.

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
        items, end = iter(self.data), object()
        tasks = itertools.repeat(partial(_next_copied, items, end))
        with contextlib.closing(Threads(1)) as threads:
            ahead = read_ahead(tasks, self.n, threads)
            yield from itertools.takewhile(lambda item: item is not end, ahead)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"prefetch({self.data!r}, {self.n})"


def _next_copied(items: Iterator[Any], end: Any) -> Any:
    return map_parts(_held, next(items, end))


def _held(part: Any) -> Any:
    """A part as it is now, whatever is done to it later."""
    if isinstance(part, np.ndarray):
        return part.copy()
    if isinstance(part, list):  # of numbers
        return copy.deepcopy(part)
    is_variable = hasattr(part, "assign") and hasattr(part, "__array__")
    return np.array(part) if is_variable else part
