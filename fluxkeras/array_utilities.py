"""Stacking, splitting, padding and scaling arrays.

NumPy arrays, numbers and lists give NumPy arrays; tensors give tensors, through which gradients
pass. Axes count from 0; the observations of a batch lie along the first.
"""

import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any, TypeAlias

import keras
import numpy as np

from fluxkeras.checks import ShapeError
from fluxkeras.nested import combined, map_parts, parts_of

__all__ = [
    "batch",
    "batch_sequence",
    "batchseq",
    "chunk",
    "falses_like",
    "fill_like",
    "group_counts",
    "group_indices",
    "normalise",
    "ones_like",
    "rand_like",
    "randn_like",
    "rescale",
    "rpad",
    "rpad_constant",
    "stack",
    "trues_like",
    "unbatch",
    "unsqueeze",
    "unstack",
    "zeros_like",
]

Array: TypeAlias = Any
Axes: TypeAlias = int | tuple[int, ...]
Size: TypeAlias = int | tuple[int, ...] | None
INTEGER = int | np.integer
PLAIN = np.ndarray, np.generic, Number, str, list, tuple, range


def batch(xs: Iterable[Any]) -> Any:
    """Observations put together along a new first axis.

    `batch(xs)[i] == xs[i]`

    Args:
        xs: arrays or numbers of one shape `(…)`; or tuples, named tuples or dicts of such, all of
            the same form.

    Returns:
        An array of shape `(len(xs), …)`, or a tuple or dict of such arrays.

    Raises:
        ValueError: there is no observation, or their forms or shapes differ.

    Example:
        >>> batch([[1, 2, 3], [4, 5, 6]]).shape
        (2, 3)
        >>> batch([{"a": 1, "b": [3, 4]}, {"a": 5, "b": [7, 8]}])["b"].tolist()
        [[3, 4], [7, 8]]

    Source: MLUtils' `batch`, whose new axis is the last.
    """
    xs = list(xs)
    if not xs:
        raise ValueError("batch expects at least one observation, got none.")
    return combined("batch", lambda parts: _stacked("batch", parts, 0), xs)


def unbatch(x: Any) -> list[Any]:
    """The observations of a batch, the reverse of `batch`.

    `unbatch(x)[i] == x[i]`

    Args:
        x: an array of shape `(n, …)`, or a tuple or dict of such arrays.

    Returns:
        A list of `n` arrays of shape `(…)`, or of tuples or dicts of them.

    Raises:
        ShapeError: there is no first axis of known length, or the parts' differ.

    Example:
        >>> [row.tolist() for row in unbatch([[1, 2], [3, 4], [5, 6]])]
        [[1, 2], [3, 4], [5, 6]]

    Source: MLUtils' `unbatch`, along the last axis.
    """
    x = map_parts(_asarray, x)
    lengths = {_length("unbatch", part, 0) for part in parts_of(x)}
    if len(lengths) != 1:
        raise ShapeError(
            f"unbatch expects parts with first axes of one length, got {sorted(lengths)}."
        )
    return [map_parts(operator.itemgetter(i), x) for i in range(lengths.pop())]


def stack(xs: Iterable[Array], dims: int = 0) -> Array:
    """Arrays of one shape along a new axis `dims`.

    `stack(xs, dims=1)[:, i] == xs[i]`

    Args:
        xs: arrays of one shape.
        dims: which axis of the result is the new one.

    Returns:
        An array with one more axis, of length `len(xs)`.

    Raises:
        ValueError: there is no array.
        ShapeError: the shapes differ.

    Example:
        >>> stack([[1, 2], [3, 4], [5, 6]], dims=1).tolist()
        [[1, 3, 5], [2, 4, 6]]

    Source: Julia's `stack`, whose new axis is the last by default.
    """
    return _stacked("stack", list(xs), dims)


def unstack(x: Array, dims: int) -> list[Array]:
    """The slices of an array along the axis `dims`, the reverse of `stack`.

    `unstack(x, dims=1)[i] == x[:, i]`

    Args:
        x: an array.
        dims: an axis of it.

    Returns:
        A list of arrays without that axis.

    Raises:
        ShapeError: there is no such axis, or its length is not known.

    Example:
        >>> [column.tolist() for column in unstack([[1, 3, 5], [2, 4, 6]], dims=1)]
        [[1, 2], [3, 4], [5, 6]]

    Source: MLUtils' `unstack`.
    """
    x = _asarray(x)
    axis = axis_of("unstack", x, dims)
    return [x[_at(axis, i)] for i in range(_length("unstack", x, axis))]


def unsqueeze(x: Array = None, *, dims: int) -> Any:
    """An array with a new axis of length 1 at `dims`.

    `unsqueeze(x, dims=1)[:, 0] == x`

    Args:
        x: an array. Without one, a function of it is returned.
        dims: where the new axis is in the result; -1 is the last.

    Returns:
        An array of one more axis, or a function that makes it.

    Raises:
        ShapeError: the result has no such axis.

    Example:
        >>> unsqueeze(np.ones((2, 3)), dims=1).shape
        (2, 1, 3)
        >>> Chain(unsqueeze(dims=-1), Dense(1, 4))(np.ones((2, 3))).shape
        TensorShape([2, 3, 4])

    Source: MLUtils' `unsqueeze`.
    """
    if x is None:
        return Unsqueeze(dims)
    x = _asarray(x)
    if not -len(x.shape) - 1 <= dims <= len(x.shape):
        raise ShapeError(
            f"unsqueeze expects dims from 0 to {len(x.shape)} for an array of shape "
            f"{tuple(x.shape)}, got {dims}."
        )
    return _numerics(x).expand_dims(x, dims)


@keras.saving.register_keras_serializable(package="fluxkeras")
class Unsqueeze:
    """`unsqueeze` of an axis that is fixed, which a chain can save."""

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def __call__(self, x: Array) -> Array:
        return unsqueeze(x, dims=self.dims)

    def get_config(self) -> dict[str, Any]:
        return {"dims": self.dims}

    def __repr__(self) -> str:
        return f"unsqueeze(dims={self.dims})"


def chunk(
    x: Any,
    n: int | Sequence[int] | None = None,
    *,
    size: int | Sequence[int] | None = None,
    npartitions: int | None = None,
    dims: int = 0,
) -> list[Any]:
    """Split an array or list into parts.

    `chunk(x, n) == chunk(x, size=ceil(len(x) / n))`

    Args:
        x: an array, or a list or range, which is split along its first axis.
        n: at most how many parts, all of one size but the last, which may be smaller; or, sorted,
            the number from 0 of the part that each element goes to.
        size: instead of `n`, the size of a part, or those of all.
        npartitions: how many parts there are where `n` numbers them, if some may be empty.
        dims: the axis along which an array is split.

    Returns:
        A list of views of `x`. Ten in three parts are four, four and two.

    Raises:
        ValueError: neither or both of `n` and `size` are given, or they do not suit `x`.

    Example:
        >>> chunk(range(10), 3)
        [range(0, 4), range(4, 8), range(8, 10)]
        >>> chunk(range(6), size=[2, 4]), chunk([7, 8, 9], [0, 1, 1])
        ([range(0, 2), range(2, 6)], [[7], [8, 9]])

    Source: MLUtils' `chunk`, along the last axis by default. `np.array_split` makes 4, 3 and 3.
    """
    if (n is None) == (size is None):
        raise ValueError("chunk expects a number of parts or their size, got both or neither.")
    if isinstance(x, list | range | str) and dims == 0:
        axis, length = 0, len(x)
    else:
        x = _asarray(x)
        axis = axis_of("chunk", x, dims)
        length = _length("chunk", x, axis)
    sizes = _chunk_sizes(length, n, size, npartitions)
    bounds = itertools.pairwise([0, *itertools.accumulate(sizes)])
    return [x[_at(axis, slice(start, end)) if axis else slice(start, end)] for start, end in bounds]


def _chunk_sizes(length: int, n: Any, size: Any, npartitions: int | None) -> list[int]:
    if n is not None and not isinstance(n, INTEGER):
        parts = np.asarray(n, int)
        if len(parts) != length or np.any(np.diff(parts) < 0) or np.any(parts < 0):
            raise ValueError(
                f"chunk expects a sorted number of a part, from 0, for each of {length} elements, "
                f"got {n!r}."
            )
        lengths: list[int] = np.bincount(parts, minlength=npartitions or 0).tolist()
        return lengths
    if size is not None and not isinstance(size, INTEGER):
        if sum(size) != length:
            raise ValueError(f"chunk expects sizes that add up to {length}, got {size!r}.")
        return list(size)
    number: Any = n if size is None else size
    if number < 1:
        raise ValueError(f"chunk expects a whole number from 1, got {number}.")
    step = max(-(-length // number), 1) if size is None else number
    return [min(step, length - start) for start in range(0, length, step)]


def group_counts(x: Any) -> dict[Any, int]:
    """How often each element appears.

    Args:
        x: an array, text, or any iterable of hashable elements.

    Returns:
        A dict of counts, in the order in which the elements come first.

    Example:
        >>> group_counts(["a", "b", "b"])
        {'a': 1, 'b': 2}

    Source: MLUtils' `group_counts`, Flux 0.6's `frequencies`.
    """
    return dict(Counter(_elements(x)))


def group_indices(x: Any) -> dict[Any, list[int]]:
    """At which positions each element appears.

    Args:
        x: a vector, text, or any iterable of hashable elements.

    Returns:
        A dict of lists of indices, in the order in which the elements come first.

    Example:
        >>> group_indices(["yes", "no", "maybe", "yes"])
        {'yes': [0, 3], 'no': [1], 'maybe': [2]}

    Source: MLUtils' `group_indices`, whose indices count from 1.
    """
    groups: dict[Any, list[int]] = {}
    for index, element in enumerate(_elements(x)):
        groups.setdefault(element, []).append(index)
    return groups


def batchseq(seqs: Iterable[Array], val: Any = 0, n: int | None = None) -> list[Array]:
    """Sequences as one sequence of batches, with the short ones padded at their ends.

    `batchseq(seqs)[t][i] == seqs[i][t]`

    Args:
        seqs: arrays of shape `(length, …)`, or lists, which differ in their lengths alone.
        val: what they are padded with.
        n: how many steps; by default those of the longest.

    Returns:
        A list of `n` arrays of shape `(len(seqs), …)`.

    Raises:
        ShapeError: the sequences differ in more than their lengths, or there are none.

    Example:
        >>> [step.tolist() for step in batchseq([[1, 2, 3], [4, 5]], 0)]
        [[1, 4], [2, 5], [3, 0]]

    Source: MLUtils' and Flux 0.6's `batchseq`.
    """
    return unstack(_padded("batchseq", seqs, val, n), dims=1)[:n]


def batch_sequence(seqs: Iterable[Array], pad: Any = 0) -> Array:
    """Sequences as one array, with the short ones padded at their ends.

    `batch_sequence(seqs)[i, :len(seqs[i])] == seqs[i]`

    Args:
        seqs: arrays of shape `(length, …)`, or lists, which differ in their lengths alone.
        pad: what they are padded with.

    Returns:
        An array of shape `(len(seqs), longest, …)`.

    Raises:
        ShapeError: the sequences differ in more than their lengths, or there are none.

    Example:
        >>> batch_sequence([[1, 2, 3], [10, 20]]).tolist()
        [[1, 2, 3], [10, 20, 0]]

    Source: MLUtils' `batch_sequence`, of shape `(…, longest, n)`. Keras's `pad_sequences` pads in
    front by default.
    """
    return _padded("batch_sequence", seqs, pad)


def rpad_constant(
    v: Array, n: int | tuple[int, ...], val: Any = 0, *, dims: Axes | None = None
) -> Array:
    """An array padded with `val` at the ends of its axes, up to the length `n`.

    Args:
        v: an array or list.
        n: the least length of the axes, or a tuple of one for each. What is longer stays.
        val: a number.
        dims: the axis or axes that are padded; all of them by default.

    Returns:
        An array of as many axes.

    Raises:
        ValueError: there are not as many lengths as axes.
        ShapeError: there is no such axis, or its length is not known.

    Example:
        >>> rpad_constant([1, 2], 4, -1).tolist()
        [1, 2, -1, -1]
        >>> rpad_constant([[1, 2], [3, 4]], (3, 4)).tolist()
        [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0]]

    Source: MLUtils' `rpad_constant`.
    """
    v = _asarray(v)
    wanted = range(len(v.shape)) if dims is None else np.atleast_1d(dims).tolist()
    axes = [axis_of("rpad_constant", v, axis) for axis in wanted]
    lengths = list(n) if isinstance(n, tuple | list) else [n] * len(axes)
    if len(lengths) != len(axes):
        raise ValueError(f"rpad_constant expects a length for each of {len(axes)} axes, got {n!r}.")
    pads = [[0, 0] for _ in v.shape]
    for axis, length in zip(axes, lengths, strict=True):
        pads[axis][1] = max(length - _length("rpad_constant", v, axis), 0)
    return _numerics(v).pad(v, pads, constant_values=val)


def rpad(v: Array, n: int, p: Any) -> Array:
    """A sequence with `p` at its end as often as it takes to have the length `n`.

    Args:
        v: an array or list.
        n: the least length of its first axis.
        p: a number.

    Returns:
        An array.

    Raises:
        ShapeError: `v` is a number, or the length of its first axis is not known.

    Example:
        >>> rpad([1, 2], 4, 0).tolist()
        [1, 2, 0, 0]

    Source: Flux 0.6's `rpad`.
    """
    return rpad_constant(v, n, p, dims=0)


def normalise(x: Array, *, dims: Axes = 0, eps: float = 1e-5) -> Array:
    """An array with mean 0 and standard deviation 1.

    `(x - mean(x, dims)) / (std(x, dims) + eps)`

    Args:
        x: an array, `(batch, …)` or any shape.
        dims: the axis or axes over which the mean and the (biased) standard deviation are taken.
        eps: keeps the quotient finite.

    Returns:
        An array of the same shape.

    Example:
        >>> normalise(np.array([1.0, 2.0, 3.0])).round(3).tolist()
        [-1.225, 0.0, 1.225]

    Source: Flux's `normalise`, over the last axis by default.
    """
    x = _asarray(x)
    numerics = _numerics(x)
    μ = numerics.mean(x, dims, keepdims=True)
    return (x - μ) / (numerics.std(x, dims, keepdims=True) + eps)


def rescale(x: Array, *, dims: Axes = 0, eps: float = 1e-5) -> Array:
    """An array with all values from 0 to 1.

    `(x - min(x, dims)) / (max(x, dims) - min(x, dims) + eps)`

    Args:
        x: an array, `(batch, …)` or any shape.
        dims: the axis or axes over which the least and the greatest value are taken.
        eps: keeps the quotient finite.

    Returns:
        An array of the same shape.

    Example:
        >>> rescale(np.array([1.0, 2.0, 3.0])).round(3).tolist()
        [0.0, 0.5, 1.0]

    Source: MLUtils' `rescale`, over the last axis by default.
    """
    x = _asarray(x)
    numerics = _numerics(x)
    least = numerics.min(x, dims, keepdims=True)
    return (x - least) / (numerics.max(x, dims, keepdims=True) - least + eps)


def fill_like(x: Array, val: Any, dtype: Any = None, size: Size = None) -> Array:
    """An array filled with `val`, otherwise like `x`.

    Args:
        x: an array or tensor.
        val: a number.
        dtype: that of `x` if none is given; the size may come in its place.
        size: the shape, that of `x` if none is given; an integer for a vector.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> fill_like(np.zeros(2, "float32"), 1.5, size=(1, 3))
        array([[1.5, 1.5, 1.5]], dtype=float32)

    Source: MLUtils' `fill_like`.
    """
    x = _asarray(x)
    dtype, size = _like(x, dtype, size)
    return _numerics(x).full(size, val, dtype)


def zeros_like(x: Array, dtype: Any = None, size: Size = None) -> Array:
    """Zeros: `fill_like(x, 0, dtype, size)`.

    Args:
        x: an array or tensor.
        dtype: as in `fill_like`.
        size: as in `fill_like`.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> zeros_like([1, 2]).tolist()
        [0, 0]

    Source: MLUtils' `zeros_like`.
    """
    return fill_like(x, 0, dtype, size)


def ones_like(x: Array, dtype: Any = None, size: Size = None) -> Array:
    """Ones: `fill_like(x, 1, dtype, size)`.

    Args:
        x: an array or tensor.
        dtype: as in `fill_like`.
        size: as in `fill_like`.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> ones_like([5, 2]).tolist()
        [1, 1]

    Source: MLUtils' `ones_like`.
    """
    return fill_like(x, 1, dtype, size)


def trues_like(x: Array, size: Size = None) -> Array:
    """`True` everywhere: `fill_like(x, True, "bool", size)`.

    Args:
        x: an array or tensor.
        size: as in `fill_like`.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> trues_like([5, 2]).tolist()
        [True, True]

    Source: MLUtils' `trues_like`.
    """
    return fill_like(x, True, "bool", size)


def falses_like(x: Array, size: Size = None) -> Array:
    """`False` everywhere: `fill_like(x, False, "bool", size)`.

    Args:
        x: an array or tensor.
        size: as in `fill_like`.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> falses_like([5, 2]).tolist()
        [False, False]

    Source: MLUtils' `falses_like`.
    """
    return fill_like(x, False, "bool", size)


def rand_like(x: Array, dtype: Any = None, size: Size = None, *, seed: Any = None) -> Array:
    """Random numbers from 0 to below 1, otherwise like `x`.

    Args:
        x: an array or tensor of floats.
        dtype: that of `x` if none is given; the size may come in its place.
        size: the shape, that of `x` if none is given; an integer for a vector.
        seed: an integer or a `keras.random.SeedGenerator`; without one,
            `keras.utils.set_random_seed` governs.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> rand_like(np.zeros(3, "float32"), size=(2, 2)).shape
        (2, 2)

    Source: MLUtils' `rand_like`.
    """
    return _random_like(keras.random.uniform, x, dtype, size, seed)


def randn_like(x: Array, dtype: Any = None, size: Size = None, *, seed: Any = None) -> Array:
    """Random numbers of mean 0 and standard deviation 1, otherwise like `x`.

    Args:
        x: an array or tensor of floats.
        dtype: that of `x` if none is given; the size may come in its place.
        size: the shape, that of `x` if none is given; an integer for a vector.
        seed: an integer or a `keras.random.SeedGenerator`; without one,
            `keras.utils.set_random_seed` governs.

    Returns:
        An array, or a tensor if `x` is one.

    Example:
        >>> randn_like(np.zeros(3, "float32"), size=(2, 2)).shape
        (2, 2)

    Source: MLUtils' `randn_like`.
    """
    return _random_like(keras.random.normal, x, dtype, size, seed)


def _random_like(draw: Any, x: Array, dtype: Any, size: Any, seed: Any) -> Array:
    x = _asarray(x)
    dtype, size = _like(x, dtype, size)
    drawn = draw(size, dtype=keras.backend.standardize_dtype(dtype), seed=seed)
    return np.asarray(drawn) if isinstance(x, np.ndarray) else drawn


def _like(x: Array, dtype: Any, size: Any) -> tuple[Any, tuple[Any, ...]]:
    """The dtype and the shape that are meant; those of `x` where none is given."""
    if isinstance(dtype, INTEGER | tuple | list):
        dtype, size = None, dtype
    if isinstance(size, INTEGER):
        size = (size,)
    is_array = isinstance(x, np.ndarray)
    if size is None:
        size = x.shape if is_array else keras.ops.shape(x)
    return dtype or (x.dtype if is_array else keras.backend.standardize_dtype(x.dtype)), size


def _stacked(name: str, xs: list[Array], dims: int) -> Array:
    if not xs:
        raise ValueError(f"{name} expects at least one array, got none.")
    xs = list(map(_asarray, xs))
    shapes = [tuple(x.shape) for x in xs]
    if len(set(shapes)) > 1 and None not in set().union(*shapes):
        other = next(shape for shape in shapes if shape != shapes[0])
        raise ShapeError(f"{name} expects arrays of one shape, got {shapes[0]} and {other}.")
    return _numerics(*xs).stack(xs, dims)


def _padded(name: str, seqs: Iterable[Array], val: Any, n: int | None = None) -> Array:
    seqs = list(map(_asarray, seqs))
    if not seqs or len({tuple(seq.shape[1:]) for seq in seqs}) > 1:
        shapes = ", ".join(str(tuple(seq.shape)) for seq in seqs)
        raise ShapeError(
            f"{name} expects sequences that differ in their lengths alone, got shapes "
            f"{shapes or 'of none'}."
        )
    longest = max([_length(name, seq, 0) for seq in seqs] + ([] if n is None else [n]))
    return _stacked(name, [rpad(seq, longest, val) for seq in seqs], 0)


def _numerics(*xs: Array) -> Any:
    """What has the functions for these: NumPy, or for tensors Keras, whose names are the same."""
    return np if all(isinstance(x, np.ndarray) for x in xs) else keras.ops


def _asarray(x: Any) -> Array:
    return np.asarray(x) if isinstance(x, PLAIN) else x


def axis_of(name: str, x: Array, dims: int) -> int:
    """An axis of an array, counted from 0."""
    rank = len(x.shape)
    if not -rank <= dims < rank:
        raise ShapeError(
            f"{name} expects an axis of an array of shape {tuple(x.shape)}, got dims={dims}."
        )
    return dims % rank


def _length(name: str, x: Array, axis: int) -> int:
    length = x.shape[axis] if len(x.shape) > axis else None
    if length is None:
        raise ShapeError(
            f"{name} expects an axis {axis} of known length, got an array of shape "
            f"{tuple(x.shape)}."
        )
    return int(length)


def _at(axis: int, index: Any) -> tuple[Any, ...]:
    """What takes that index of an axis."""
    return (*[slice(None)] * axis, index)


def _elements(x: Any) -> list[Any]:
    """As Python's own objects, which are equal and hashed alike whatever array they come from."""
    if hasattr(x, "__array__"):
        return np.asarray(x).ravel().tolist()
    return [element.item() if isinstance(element, np.generic) else element for element in x]
