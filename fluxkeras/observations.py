"""Observations: counting, taking, splitting, mapping and balancing them.

Data are an array of shape `(observations, …)`, or a tuple, list or dict of such, nested at will,
which all hold as many; tensors and lists of numbers become arrays. A list of arrays is a container,
too: `batch` makes one array of it. Where a function says so, an integer `n` stands for the indices
from 0 to n - 1. Consecutive observations come as views of the memory of `data`.

`rng` is a `numpy.random.Generator` or a seed for one; without it, `keras.utils.set_random_seed`
governs.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from fluxkeras.array_utilities import batch, group_indices
from fluxkeras.nested import combined, map_parts, parts_of

__all__ = [
    "filterobs",
    "getobs",
    "groupobs",
    "joinobs",
    "kfolds",
    "leavepout",
    "mapobs",
    "numobs",
    "obsview",
    "oversample",
    "randobs",
    "shuffleobs",
    "slidingwindow",
    "splitobs",
    "timeseries_kfolds",
    "undersample",
]

Rng: TypeAlias = np.random.Generator | int | None
Indices: TypeAlias = Any
Collate: TypeAlias = Callable[[list[Any]], Any]
INTEGER = int | np.integer
BATCHED = ("auto", "never", "always")


def numobs(data: Any) -> int:
    """How many observations there are.

    Args:
        data: see the module.

    Returns:
        The length of the first axis of every array.

    Raises:
        TypeError: `data` holds something without a first axis.
        ValueError: the numbers differ.

    Example:
        >>> numobs((np.ones((10, 3)), np.ones(10)))
        10

    Source: MLUtils' `numobs`, along the last axis.
    """
    return observed(data, "numobs")[1]


def getobs(data: Any, indices: Indices = slice(None)) -> Any:
    """The observations at some indices, in the form of `data`.

    `getobs((x, y), i) == (x[i], y[i])`

    Args:
        data: see the module.
        indices: an integer, for one observation without its axis; or a slice, range or list of
            integers. All of them by default.

    Returns:
        Arrays in the form of `data`. What is lazy (see `mapobs`) is computed.

    Raises:
        TypeError, ValueError: as `numobs`.
        IndexError: an index is out of range.

    Example:
        >>> getobs({"x": np.arange(5), "y": np.arange(5) ** 2}, [1, 3])["y"].tolist()
        [1, 9]

    Source: MLUtils' `getobs`, along the last axis.
    """
    data, _ = observed(data, "getobs")
    return map_parts(lambda part: part[sliced(indices)], data)


def obsview(data: Any, indices: Indices = slice(None)) -> Any:
    """The observations at some indices; what is lazy stays so.

    Args:
        data: see the module.
        indices: a slice, range or list of integers. All of them by default.

    Returns:
        Data in the form of `data`. Consecutive observations are views, others copies.

    Raises:
        TypeError, ValueError: as `numobs`.
        IndexError: an index is out of range.

    Example:
        >>> numobs(obsview(mapobs(print, np.arange(5)), range(3)))  # prints nothing
        3

    Source: MLUtils' `obsview`.
    """
    data, _ = observed(data, "obsview")

    def viewed(part: Any) -> Any:
        return part.view(indices) if isinstance(part, Lazy) else part[sliced(indices)]

    return map_parts(viewed, data)


class Lazy:
    """Observations that are taken out of `data` whenever they are asked for.

    They have a length and indices, of which several, in a slice or list, give several at once.
    """

    data: Any

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: Indices) -> Any:
        raise NotImplementedError

    def view(self, indices: Indices) -> "Lazy":
        """Those at several indices, as lazy as these."""
        raise NotImplementedError


class Mapped(Lazy):
    """The observations of `data`, of which `f` is computed whenever they are asked for."""

    def __init__(self, f: Callable[[Any], Any], data: Any, batched: str) -> None:
        self.f = f
        self.data, self._count = observed(data, "mapobs")
        self.batched = batched

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Indices) -> Any:
        chosen = np.arange(len(self))[sliced(index)]
        if self.batched == "never" and chosen.ndim:
            return batch([self.f(getobs(self.data, i)) for i in chosen])
        if self.batched == "always" and not chosen.ndim:
            return getobs(self.f(getobs(self.data, chosen[np.newaxis])), 0)
        return self.f(getobs(self.data, index))

    def view(self, indices: Indices) -> "Mapped":
        return Mapped(self.f, obsview(self.data, indices), self.batched)

    def __repr__(self) -> str:
        name = getattr(self.f, "__name__", repr(self.f))
        return f"mapobs({name}, {len(self)} observations, batched={self.batched!r})"


def mapobs(f: Any, data: Any, *, batched: str = "auto") -> Any:
    """Observations that `f` makes of others when they are asked for.

    `getobs(mapobs(f, data), i) == f(getobs(data, i))`

    Args:
        f: a function of observations in the form of `data`; or a tuple or dict of functions, which
            make the parts of a tuple or dict.
        data: see the module.
        batched: "auto" if `f` takes one observation as well as several; "never" if it takes one,
            so that several are put together by `batch`; "always" if it takes several.

    Returns:
        Data for `DataLoader`, `splitobs` and all others here. It has a length and indices.

    Raises:
        TypeError: `f` is no function.
        ValueError: `batched` is something else.

    Example:
        >>> names = ["0.png", "1.png", "2.png"]
        >>> images = mapobs(lambda name: np.full((28, 28), int(name[0])), names, batched="never")
        >>> for x, y in DataLoader((images, [0, 1, 0]), 2):
        ...     print(x.shape, y)
        (2, 28, 28) [0 1]
        (1, 28, 28) [0]

    Source: MLUtils' `mapobs`, which leaves several observations of "never" in a vector.
    """
    if batched not in BATCHED:
        raise ValueError(f'mapobs expects batched "auto", "never" or "always", got {batched!r}.')

    def mapped(part: Any) -> Mapped:
        if not callable(part):
            raise TypeError(f"mapobs expects a function, got {part!r}.")
        return Mapped(part, data, batched)

    return map_parts(mapped, f)


def filterobs(f: Callable[[Any], Any], data: Any) -> Any:
    """The observations of which `f` is true.

    Args:
        f: a function of one observation.
        data: see the module.

    Returns:
        Data in the form of `data`.

    Raises:
        TypeError, ValueError: as `numobs`.

    Example:
        >>> filterobs(lambda x: x > 5, np.arange(10)).tolist()
        [6, 7, 8, 9]

    Source: MLUtils' `filterobs`.
    """
    return obsview(data, [i for i in range(numobs(data)) if f(getobs(data, i))])


def groupobs(f: Callable[[Any], Any], data: Any) -> dict[Any, Any]:
    """The observations apart, by what `f` makes of each.

    Args:
        f: a function of one observation, which returns something hashable.
        data: see the module.

    Returns:
        A dict with data in the form of `data` for each value of `f`.

    Raises:
        TypeError, ValueError: as `numobs`.

    Example:
        >>> groups = groupobs(lambda x: bool(x > 0), np.arange(-3, 3))
        >>> groups[False].tolist(), groups[True].tolist()
        ([-3, -2, -1, 0], [1, 2])

    Source: MLUtils' `groupobs`.
    """
    groups = group_indices([f(getobs(data, i)) for i in range(numobs(data))])
    return {group: obsview(data, indices) for group, indices in groups.items()}


def joinobs(*datas: Any) -> Any:
    """The observations of several data, one behind the other.

    Args:
        *datas: arrays, or tuples, lists or dicts of them, of one form.

    Returns:
        Data of the same form.

    Raises:
        TypeError: some are lazy: join what `mapobs` maps, and map that.
        ValueError: the forms differ, or there are no data.

    Example:
        >>> joinobs(np.arange(3), np.arange(10, 12)).tolist()
        [0, 1, 2, 10, 11]

    Source: MLUtils' `joinobs`, which copies nothing.
    """
    if not datas:
        raise ValueError("joinobs expects at least one, got none.")
    return combined("joinobs", _joined, [observed(data, "joinobs")[0] for data in datas])


def _joined(parts: list[Any]) -> np.ndarray:
    if any(isinstance(part, Mapped) for part in parts):
        raise TypeError("joinobs expects arrays, got mapobs(…). Map what is joined instead.")
    return np.concatenate(parts)


def shuffleobs(data: Any, *, rng: Rng = None) -> Any:
    """The observations in a random order.

    Args:
        data: see the module.
        rng: see the module.

    Returns:
        Data in the form of `data`.

    Raises:
        TypeError, ValueError: as `numobs`.

    Example:
        >>> x, y = shuffleobs((np.arange(5), np.arange(5)), rng=0)
        >>> bool(np.all(x == y)), sorted(x.tolist())
        (True, [0, 1, 2, 3, 4])

    Source: MLUtils' `shuffleobs`.
    """
    return obsview(data, generator(rng).permutation(numobs(data)))


def randobs(data: Any, n: int | None = None, *, rng: Rng = None) -> Any:
    """A random observation, or `n` of them, each drawn from all.

    Args:
        data: see the module.
        n: how many. Without it, one, without its axis.
        rng: see the module.

    Returns:
        Arrays in the form of `data`.

    Raises:
        TypeError, ValueError: as `numobs`.

    Example:
        >>> randobs(np.ones((5, 3))).shape, randobs(np.ones((5, 3)), 2).shape
        ((3,), (2, 3))

    Source: MLUtils' `randobs`.
    """
    return getobs(data, generator(rng).integers(numobs(data), size=n))


def splitobs(
    data: Any,
    *,
    at: float | tuple[float, ...],
    shuffle: bool = False,
    stratified: Any = None,
    rng: Rng = None,
) -> tuple[Any, ...]:
    """Split data in two or more, such as for training and for testing.

    The first part has `round(at[0] * n)` observations, the next `round(at[1] * n)`, …, and the last
    what is left.

    Args:
        data: see the module; an integer `n` gives indices.
        at: the fraction of a part, a float from 0 to 1, or its size, an integer; or a tuple of
            them, one for each part but the last.
        shuffle: whether observations are drawn at random.
        stratified: one label for each observation. Each label is split alike, and comes behind the
            one before it.
        rng: see the module.

    Returns:
        A tuple of data in the form of `data`.

    Raises:
        TypeError: as `numobs`.
        ValueError: fractions are negative or over 1 together, or there are not as many labels.

    Example:
        >>> splitobs(100, at=(0.1, 0.4))
        (range(0, 10), range(10, 50), range(50, 100))
        >>> (x, y), (test_x, test_y) = splitobs((np.ones((10, 3)), np.ones(10)), at=0.7)
        >>> x.shape, test_y.shape
        ((7, 3), (3,))

    Source: MLUtils' `splitobs`.
    """
    n = _number(data, "splitobs")
    fractions = _fractions(at, n)
    order = generator(rng).permutation(n) if shuffle else None
    if stratified is None:
        parts: list[Any] = list(_ranges(n, fractions))
    else:
        groups = _groups("splitobs", stratified, n, order)
        split = [[g[slice(r.start, r.stop)] for r in _ranges(len(g), fractions)] for g in groups]
        parts = [np.concatenate(part) for part in zip(*split, strict=True)]
    return tuple(_chosen(data, _reordered(part, order)) for part in parts)


def _fractions(at: Any, n: int) -> list[float]:
    wanted = list(at) if isinstance(at, tuple | list) else [at]
    fractions = [a / max(n, 1) if isinstance(a, INTEGER) else float(a) for a in wanted]
    if min(fractions, default=0) < 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(
            f"splitobs expects at from 0 to 1, or up to {n} observations, in all, got {at!r}."
        )
    return fractions


def _ranges(n: int, fractions: list[float]) -> Iterator[range]:
    start = 0
    for fraction in fractions:
        end = min(start + round(fraction * n), n)
        yield range(start, end)
        start = end
    yield range(start, n)


def kfolds(
    data: Any, k: int = 5, *, shuffle: bool = False, stratified: Any = None, rng: Rng = None
) -> Any:
    """Cross-validation: `k` ways to put about a `k`th of the observations aside.

    Every observation is put aside once. Where `k` does not divide their number, the first folds
    have one more.

    Args:
        data: see the module; an integer `n` gives indices.
        k: how many folds, from 2.
        shuffle: whether observations are assigned to folds at random.
        stratified: one label for each observation, each of which is shared out alike.
        rng: see the module.

    Returns:
        An iterator over pairs `(train, validation)` in the form of `data`. Of an integer: the list
        of the indices to train on, and that of the indices put aside.

    Raises:
        TypeError: as `numobs`.
        ValueError: `k` is less than 2, or more than the observations (of some label), or there are
            not as many labels.

    Example:
        >>> train_indices, validation_indices = kfolds(10, 3)
        >>> validation_indices
        [range(0, 4), range(4, 7), range(7, 10)]
        >>> for (x, y), (test_x, test_y) in kfolds((np.ones((10, 3)), np.ones(10)), 3):
        ...     print(x.shape, test_y.shape)
        (6, 3) (4,)
        (7, 3) (3,)
        (7, 3) (3,)

    Source: MLUtils' `kfolds`.
    """
    n = _number(data, "kfolds")
    order = generator(rng).permutation(n) if shuffle else None
    if stratified is None:
        aside: list[Any] = _folds("kfolds", n, k)
    else:
        groups = _groups("kfolds", stratified, n, order)
        shares = [[g[slice(r.start, r.stop)] for r in _folds("kfolds", len(g), k)] for g in groups]
        aside = [np.sort(np.concatenate(share)) for share in zip(*shares, strict=True)]
    train = [np.setdiff1d(np.arange(n), fold) for fold in aside]
    return _pairs(data, *([_reordered(part, order) for part in parts] for parts in (train, aside)))


def _folds(name: str, n: int, k: int) -> list[range]:
    if not 2 <= k <= n:
        raise ValueError(f"{name} expects from 2 to {n} folds of {n} observations, got {k}.")
    bounds = [i * (n // k) + min(i, n % k) for i in range(k + 1)]
    return [range(bounds[i], bounds[i + 1]) for i in range(k)]


def leavepout(data: Any, p: int = 1) -> Any:
    """Cross-validation that puts about `p` observations aside: `kfolds(data, n // p)`.

    Args:
        data: see the module; an integer `n` gives indices.
        p: how many, from 1 to half of all.

    Returns:
        As `kfolds`.

    Raises:
        TypeError: as `numobs`.
        ValueError: `p` is out of range.

    Example:
        >>> leavepout(10, 2)[1]
        [range(0, 2), range(2, 4), range(4, 6), range(6, 8), range(8, 10)]

    Source: MLUtils' `leavepout`, which does not go through all subsets of `p` either.
    """
    n = _number(data, "leavepout")
    if not 1 <= p <= n // 2:
        raise ValueError(f"leavepout expects p from 1 to {n // 2}, got {p}.")
    return kfolds(data, n // p)


def timeseries_kfolds(
    data: Any, *, k: int = 5, gap: int = 0, max_train_size: int | None = None
) -> Any:
    """Cross-validation of what comes in time: each fold is put aside behind what is trained on.

    The last `k * (n // (k + 1))` observations make `k` folds; all before a fold are trained on.

    Args:
        data: see the module; an integer `n` gives indices.
        k: how many folds, from 2.
        gap: how many observations before each fold are left out.
        max_train_size: at most how many are trained on, the latest ones.

    Returns:
        As `kfolds`.

    Raises:
        TypeError: as `numobs`.
        ValueError: there are too few observations for `k` and `gap`, or a number is too small.

    Example:
        >>> timeseries_kfolds(10, k=3)
        ([range(0, 4), range(0, 6), range(0, 8)], [range(4, 6), range(6, 8), range(8, 10)])

    Source: MLUtils' `timeseries_kfolds`; scikit-learn's `TimeSeriesSplit`.
    """
    n = _number(data, "timeseries_kfolds")
    if not 2 <= k < n:
        raise ValueError(f"timeseries_kfolds expects k from 2 to {n - 1}, got {k}.")
    if gap < 0 or (max_train_size is not None and max_train_size < 1):
        raise ValueError(
            f"timeseries_kfolds expects a gap from 0 and a max_train_size from 1, got {gap} and "
            f"{max_train_size}."
        )
    size = n // (k + 1)
    aside = [range(n - (k - i) * size, n - (k - i - 1) * size) for i in range(k)]
    ends = [fold.start - gap for fold in aside]
    if ends[0] < 1:
        raise ValueError(
            f"timeseries_kfolds expects observations before the first fold, at {aside[0].start}: "
            f"a gap of {gap} leaves none."
        )
    train = [range(max(0, end - (max_train_size or n)), end) for end in ends]
    return _pairs(data, train, aside)


def oversample(
    data: Any, classes: Any = None, *, fraction: float = 1, shuffle: bool = True, rng: Rng = None
) -> Any:
    """Repeat observations of rare classes.

    Every class gets at least `round(fraction * n)` observations, with `n` those of the largest.

    Args:
        data: see the module.
        classes: one label for each observation. Without them, the last of the tuple `data`.
        fraction: see above.
        shuffle: whether the result comes in a random order, and what is repeated is drawn.
            Otherwise the first ones are repeated, behind all others.
        rng: see the module.

    Returns:
        `(data, classes)` with more observations; without `classes`, a tuple like `data`.

    Raises:
        TypeError: there are no classes.
        ValueError: there are not as many classes as observations.

    Example:
        >>> x, y = oversample(np.arange(6), list("abbbba"))
        >>> x.shape, group_counts(sorted(y))
        ((8,), {'a': 4, 'b': 4})

    Source: MLUtils' `oversample`.
    """

    def enough(groups: list[np.ndarray], rng: Any) -> np.ndarray:
        goal = round(fraction * max(map(len, groups)))
        extra = [_repeated(group, max(goal - len(group), 0), rng) for group in groups]
        return np.concatenate([np.sort(np.concatenate(groups)), *extra])

    return _balanced("oversample", enough, data, classes, shuffle, rng)


def undersample(data: Any, classes: Any = None, *, shuffle: bool = True, rng: Rng = None) -> Any:
    """Leave out observations, so that all classes have as many as the smallest.

    Args:
        data: see the module.
        classes: one label for each observation. Without them, the last of the tuple `data`.
        shuffle: whether the result comes in a random order, and what stays is drawn. Otherwise the
            first ones stay.
        rng: see the module.

    Returns:
        `(data, classes)` with fewer observations; without `classes`, a tuple like `data`.

    Raises:
        TypeError: there are no classes.
        ValueError: there are not as many classes as observations.

    Example:
        >>> x, y = undersample(np.arange(6), list("abbbba"), shuffle=False)
        >>> x.tolist(), y.tolist()
        ([0, 1, 2, 5], ['a', 'b', 'b', 'a'])

    Source: MLUtils' `undersample`.
    """

    def few(groups: list[np.ndarray], rng: Any) -> np.ndarray:
        least = min(map(len, groups))
        return np.sort(np.concatenate([_some(group, least, rng) for group in groups]))

    return _balanced("undersample", few, data, classes, shuffle, rng)


def _balanced(name: str, choose: Any, data: Any, classes: Any, shuffle: bool, rng: Rng) -> Any:
    if classes is None:
        if not isinstance(data, tuple) or len(data) < 2:
            raise TypeError(
                f"{name} expects classes, or a tuple that ends with them, got "
                f"{type(data).__name__}."
            )
        *rest, last = data
        balanced, labels = _balanced(name, choose, tuple(rest), last, shuffle, rng)
        return (*balanced, labels)
    groups = _groups(name, classes, observed(data, name)[1])
    random = generator(rng) if shuffle else None
    indices = choose(groups, random)
    if random:
        random.shuffle(indices)
    return obsview(data, indices), obsview(classes, indices)


def _repeated(group: np.ndarray, n: int, rng: Any) -> np.ndarray:
    """So many more of a group: all of them as often as that goes, then some."""
    whole, rest = divmod(n, len(group))
    return np.concatenate([np.tile(group, whole), _some(group, rest, rng)])


def _some(group: np.ndarray, n: int, rng: Any) -> np.ndarray:
    return group[:n] if rng is None else rng.choice(group, n, replace=False)


def slidingwindow(data: Any, *, size: int, stride: int = 1) -> Any:
    """Windows of `size` observations in a row, each of which is an observation.

    `slidingwindow(x, size=size, stride=stride)[i] == x[i * stride : i * stride + size]`

    Args:
        data: arrays, or a tuple, list or dict of them.
        size: how many observations are in a window.
        stride: how far apart windows begin.

    Returns:
        Views of shape `(windows, size, …)`, in the form of `data`. Observations at the end that
        fill no window are left out.

    Raises:
        TypeError: as `numobs`.
        ValueError: `size` or `stride` are less than 1, or there are too few observations.

    Example:
        >>> slidingwindow(range(11, 31), size=6, stride=3)[1].tolist()
        [14, 15, 16, 17, 18, 19]

    Source: MLUtils' `slidingwindow`.
    """
    data, n = observed(data, "slidingwindow")
    if not 1 <= size <= n or stride < 1:
        raise ValueError(
            f"slidingwindow expects a size from 1 to {n} and a stride from 1, got {size} and "
            f"{stride}."
        )

    def windows(part: Any) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(part, size, axis=0)
        return np.moveaxis(view, -1, 1)[::stride]

    return map_parts(windows, data)


def observed(data: Any, name: str) -> tuple[Any, int]:
    """The data with arrays for tensors and lists, and how many observations there are."""

    def samples(part: Any) -> Any:
        if isinstance(part, Lazy):
            return part
        array = np.asanyarray(part)
        if array.ndim == 0:
            raise TypeError(f"{name} expects arrays of samples along the first axis, got {part!r}.")
        return array

    data = map_parts(samples, data)
    numbers = list(map(len, parts_of(data)))
    if len(set(numbers)) != 1:
        raise ValueError(
            f"{name} expects arrays of the same number of samples along their first axis, got "
            f"{', '.join(map(str, numbers)) or 'no array'}."
        )
    return data, numbers[0]


def generator(rng: Rng) -> np.random.Generator:
    """What random numbers are drawn with; NumPy's global state seeds it where nothing else does."""
    return np.random.default_rng(np.random.randint(2**31, size=4) if rng is None else rng)


def _number(data: Any, name: str) -> int:
    return int(data) if isinstance(data, INTEGER) else observed(data, name)[1]


def _chosen(data: Any, indices: Indices) -> Any:
    """The observations, or, where an integer stands for indices, those."""
    return indices if isinstance(data, INTEGER) else obsview(data, indices)


def _pairs(data: Any, train: list[Indices], aside: list[Indices]) -> Any:
    if isinstance(data, INTEGER):
        return train, aside
    pairs = zip(train, aside, strict=True)
    return ((obsview(data, indices), obsview(data, others)) for indices, others in pairs)


def _groups(name: str, labels: Any, n: int, order: np.ndarray | None = None) -> list[np.ndarray]:
    """The positions of each label."""
    labels = np.asarray(labels)
    if len(labels) != n:
        raise ValueError(f"{name} expects a label for each of {n} observations, got {len(labels)}.")
    groups = group_indices(labels if order is None else labels[order])
    return list(map(np.asarray, groups.values()))


def _reordered(indices: Indices, order: np.ndarray | None) -> Indices:
    return indices if order is None else order[sliced(indices)]


def collator(name: str, collate: Collate | bool | None) -> Collate | None:
    """What makes a batch of a list of observations; None: it is taken out of the arrays at once."""
    if collate is None or isinstance(collate, bool):
        return {None: None, True: batch, False: list}[collate]
    if not callable(collate):
        raise TypeError(f"{name} expects collate to be a function, got {collate!r}.")
    return collate


def sliced(indices: Indices) -> Indices:
    """A slice for consecutive indices, which copies nothing."""
    is_slice = isinstance(indices, range) and indices.start >= 0 and indices.step == 1
    return slice(indices.start, indices.stop) if is_slice else indices
