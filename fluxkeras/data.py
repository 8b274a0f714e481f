"""Iterables of batches."""

import itertools
from collections.abc import Iterable, Iterator
from numbers import Number
from typing import Any

__all__ = ["repeated"]


class repeated(Iterable[Any]):
    """The same batch `n` times, or for ever. It can be gone through any number of times.

    Args:
        batch: what is given each time, such as `(x, y)`.
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


def is_nested_list(value: Any) -> bool:
    """Whether a list stands for an array: it holds numbers, texts, or such lists."""
    atoms = Number | str | bytes
    return isinstance(value, list) and all(isinstance(v, atoms) or is_nested_list(v) for v in value)
