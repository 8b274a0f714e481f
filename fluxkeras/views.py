"""Views of observations, in which nothing is taken out of the data before it is asked for.

`data` is what the functions of observations take: see `fluxkeras.observations`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fluxkeras.checks import warn
from fluxkeras.observations import (
    INTEGER,
    Collate,
    Indices,
    Lazy,
    collator,
    getobs,
    observed,
    sliced,
)

__all__ = ["BatchView", "ObsView", "batchsize"]


class ObsView(Lazy):
    """Some of the observations, known by their indices alone.

    `ObsView(data, indices)[i] == getobs(data, indices[i])`

    Args:
        data: arrays of shape `(observations, …)`, or a tuple, list or dict of such, nested at will;
            or anything lazy, such as what `mapobs` makes.
        indices: which: a slice, range or list of integers; all of them by default.

    Returns:
        Data for `DataLoader`, `splitobs` and their like. It has a length; an index gives an
        observation, a slice or list of them several, in the form of `data`; iterated, it gives one
        after the other. `obsview` of it is another view of the same data.

    Raises:
        TypeError: `data` holds something without a first axis, or `indices` is a single one.
        ValueError: the numbers of observations differ.
        IndexError: an index is out of range.

    Example:
        >>> view = ObsView((np.arange(10), np.arange(10) ** 2), range(2, 8))
        >>> len(view), view[[0, -1]]
        (6, (array([2, 7]), array([ 4, 49])))

    Source: MLUtils' `ObsView`, whose indices give views again.
    """

    indices: Any

    def __init__(self, data: Any, indices: Indices = slice(None)) -> None:
        if isinstance(indices, INTEGER):
            raise TypeError(f"ObsView expects indices, got one, {indices}: write getobs.")
        if isinstance(data, ObsView):
            self.data, self.indices = data.data, _chosen(data.indices, indices)
        else:
            self.data, count = observed(data, "ObsView")
            self.indices = _chosen(range(count), indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Indices) -> Any:
        return getobs(self.data, _chosen(self.indices, index))

    def __iter__(self) -> Iterator[Any]:
        return (getobs(self.data, index) for index in self.indices)

    def view(self, indices: Indices) -> "ObsView":
        return ObsView(self, indices)

    def __repr__(self) -> str:
        return f"ObsView({len(self)} observations)"


class BatchView(Lazy):
    """Data as a sequence of batches, each of which is made when it is asked for.

    `BatchView(data, b)[i] == getobs(data, range(b * i, b * (i + 1)))`

    Args:
        data: as in `ObsView`.
        batchsize: observations in a batch, from 1.
        partial: whether there is a last batch if it is smaller.
        collate: what makes a batch of a list of observations, as in `DataLoader`: a function; True
            for `batch`; False to leave it a list. By default a batch is taken out of the arrays at
            once.

    Returns:
        Data, whose observations are the batches. It has a length; an index gives a batch, a slice
        or list of them one batch of all that is in those; iterated, it gives one after the other.

    Raises:
        TypeError: `data` holds something without a first axis, or `collate` is no function.
        ValueError: the numbers of observations differ, or `batchsize` is no number from 1.
        IndexError: when asked for a batch that there is not.

    Example:
        >>> batches = BatchView((np.arange(5), np.arange(5) ** 2), batchsize=2)
        >>> len(batches), batches[1]
        (3, (array([2, 3]), array([4, 9])))
        >>> [len(x) for x, y in batches]
        [2, 2, 1]

    Source: MLUtils' `BatchView`.
    """

    def __init__(
        self,
        data: Any,
        batchsize: int = 1,
        *,
        partial: bool = True,
        collate: Collate | bool | None = None,
    ) -> None:
        if not isinstance(batchsize, INTEGER) or batchsize < 1:
            raise ValueError(
                f"BatchView expects a batchsize, a whole number from 1, got {batchsize!r}."
            )
        self.collate = collator("BatchView", collate)
        self.data, self._count = observed(data, "BatchView")
        if self._count < batchsize:
            warn(f"BatchView has batches of {self._count}: there are no {batchsize} observations.")
        self.batchsize = max(min(int(batchsize), self._count), 1)
        self.partial = partial

    def __len__(self) -> int:
        whole, rest = divmod(self._count, self.batchsize)
        return whole + bool(rest and self.partial)

    def __getitem__(self, index: Indices) -> Any:
        chosen = _chosen(range(len(self)), index)
        if isinstance(chosen, INTEGER):
            return self._batch(self._range(chosen))
        return self._batch(np.concatenate([np.arange(0), *map(self._range, chosen)]).astype(int))

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def view(self, indices: Indices) -> ObsView:
        return ObsView(self, indices)

    def _range(self, i: Any) -> range:
        start = int(i) * self.batchsize
        return range(start, min(start + self.batchsize, self._count))

    def _batch(self, indices: Indices) -> Any:
        if self.collate is None:
            return getobs(self.data, indices)
        return self.collate([getobs(self.data, i) for i in indices])

    def __repr__(self) -> str:
        return f"BatchView({len(self)} batches, batchsize={self.batchsize})"


def batchsize(data: BatchView) -> int:
    """How many observations a batch of a `BatchView` has, the last one perhaps less.

    Args:
        data: a `BatchView`.

    Returns:
        A number.

    Raises:
        TypeError: `data` is something else.

    Example:
        >>> batchsize(BatchView(np.ones((150, 4)), batchsize=30))
        30

    Source: MLUtils' `batchsize`.
    """
    if not isinstance(data, BatchView):
        raise TypeError(f"batchsize expects a BatchView, got {type(data).__name__}.")
    return data.batchsize


def _chosen(indices: Any, which: Indices) -> Any:
    """Some of the indices: a range where it can be one, of which data are views."""
    which = sliced(which)
    return (indices if isinstance(which, slice | INTEGER) else np.asarray(indices))[which]
