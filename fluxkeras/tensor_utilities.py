"""Products, places and orders in tensors, many at a time.

Batches come first; indices count from 0. All work eagerly, in `tf.function` and under XLA.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.array_utilities import axis_of
from fluxkeras.checks import ShapeError, outside

__all__ = [
    "batched_adjoint",
    "batched_mul",
    "batched_searchsortedfirst",
    "batched_searchsortedlast",
    "batched_transpose",
    "batched_vec",
    "gather",
    "scatter",
    "topk",
]

Tensor: TypeAlias = Any


# --- Products ------------------------------------------------------------------------------------


def batched_mul(A: Any, B: Any) -> Tensor:
    """The matrix products of two batches of matrices.

    `C[k] = A[k] @ B[k]`

    Args:
        A: an array of shape `(batch, m, n)`; a batch of 1, or a matrix `(m, n)`, is for all of `B`.
        B: an array of shape `(batch, n, p)`; a batch of 1, or a matrix `(n, p)`, is for all of `A`.

    Returns:
        A tensor of shape `(batch, m, p)`.

    Raises:
        ShapeError: if they are not of such shapes.

    Example:
        >>> batched_mul(np.ones((17, 2, 5)), np.ones((17, 5, 9))).shape
        TensorShape([17, 2, 9])

    Source: NNlib's `batched_mul`, also written `⊠`, whose batch comes last.
    """
    A, B = _of_one_dtype(A, B)
    _expect_matrices("batched_mul", A, ranks=(2, 3))
    _expect_matrices("batched_mul", B, ranks=(2, 3))
    batches = [x.shape[0] for x in (A, B) if len(x.shape) == 3]
    _expect_to_fit("batched_mul", A, B, B.shape[-2], batches)
    return tf.matmul(A, B)


def batched_vec(A: Any, b: Any) -> Tensor:
    """The products of a batch of matrices with vectors.

    `c[k] = A[k] @ b[k]`, or `A[k] @ b` for a single vector

    Args:
        A: an array of shape `(batch, m, n)`.
        b: an array of shape `(batch, n)`, or one vector of shape `(n,)` for all.

    Returns:
        A tensor of shape `(batch, m)`.

    Raises:
        ShapeError: if they are not of such shapes.

    Example:
        >>> batched_vec([[[1.0, 2.0]], [[3.0, 4.0]]], [[1.0, 1.0], [1.0, 10.0]]).numpy().tolist()
        [[3.0], [43.0]]

    Source: NNlib's `batched_vec`.
    """
    A, b = _of_one_dtype(A, b)
    _expect_matrices("batched_vec", A, ranks=(3,))
    rows = b.shape[-1] if 1 <= len(b.shape) <= 2 else 0
    _expect_to_fit("batched_vec", A, b, rows, [A.shape[0], *b.shape[:-1]])
    return tf.linalg.matvec(A, b)


def batched_transpose(A: Any) -> Tensor:
    """The transposes of a batch of matrices.

    `B[k, j, i] = A[k, i, j]`

    Args:
        A: an array of shape `(batch, m, n)`.

    Returns:
        A tensor of shape `(batch, n, m)`.

    Raises:
        ShapeError: if it has another number of axes.

    Example:
        >>> batched_transpose([[[1, 2], [3, 4]]]).numpy().tolist()
        [[[1, 3], [2, 4]]]

    Source: NNlib's `batched_transpose`.
    """
    A = tf.convert_to_tensor(A)
    _expect_matrices("batched_transpose", A, ranks=(3,))
    return tf.linalg.matrix_transpose(A)


def batched_adjoint(A: Any) -> Tensor:
    """The conjugate transposes of a batch of matrices.

    `B[k, j, i] = conj(A[k, i, j])`

    Args:
        A: an array of shape `(batch, m, n)`.

    Returns:
        A tensor of shape `(batch, n, m)`.

    Raises:
        ShapeError: if it has another number of axes.

    Example:
        >>> batched_adjoint(np.array([[[1, 2j]]])).numpy().tolist()
        [[[(1-0j)], [-2j]]]

    Source: NNlib's `batched_adjoint`.
    """
    A = tf.convert_to_tensor(A)
    _expect_matrices("batched_adjoint", A, ranks=(3,))
    return tf.linalg.adjoint(A)


# --- Places --------------------------------------------------------------------------------------


def gather(src: Any, idx: Any, *more: Any) -> Tensor:
    """What lies at some places of an array.

    `dst[k] = src[idx[k]]`; with several arrays of indices `I, J, …`, `dst[k] = src[I[k], J[k], …]`

    Args:
        src: an array of shape `(n, …)`.
        idx: indices from 0: an array of whole numbers of any shape, in any order and as often as
            you like; or a list of tuples of them, for several axes.
        *more: indices of the axes that follow, of the shape of `idx`.

    Returns:
        A tensor of the shape of `idx`, followed by the axes of `src` that are not indexed.

    Raises:
        TypeError: if indices are no whole numbers.
        ShapeError: if there are indices of more axes than there are, or of several shapes.
        ValueError: if an index is out of range; not in a `tf.function`, where TensorFlow raises its
            own error, or, on a GPU and under XLA, none.

    Example:
        >>> gather([1, 20, 300, 4000], [1, 3, 1]).numpy().tolist()
        [20, 4000, 20]
        >>> gather([[1, 4], [2, 5], [3, 6]], [0, 2]).numpy().tolist()
        [[1, 4], [3, 6]]
        >>> gather([[1, 4], [2, 5], [3, 6]], [0, 2], [1, 0]).numpy().tolist()
        [4, 3]

    Source: NNlib's `gather`, along the last axes. In place of `gather!` there is this one.
    """
    src = tf.convert_to_tensor(src)
    places = _places("gather", idx, *more)
    if places.shape[-1] > len(src.shape):
        raise ShapeError(
            f"gather expects indices of at most {len(src.shape)} axes, those of an array of shape "
            f"{tuple(src.shape)}, got indices of {places.shape[-1]}."
        )
    _expect_in_range("gather", places, src.shape)
    return tf.gather_nd(src, places)


def scatter(op: str, src: Any, idx: Any, *, init: Any = None, dstsize: Any = None) -> Tensor:
    """Numbers sent to places of a new array, and joined by an operation where they meet.

    `dst[idx[k]] = op(dst[idx[k]], src[k])` for each `k`; `"mean"` adds the mean of what is sent

    Args:
        op: `"+"`, `"-"`, `"*"`, `"/"`, `"max"`, `"min"` or `"mean"`.
        src: an array of shape `(*shape of idx, …)`.
        idx: where each goes, as in `gather`: an array of whole numbers from 0, or a list of tuples
            of them.
        init: what is there at first: 0, for `"*"` and `"/"` 1, for `"max"` the least and for
            `"min"` the greatest number of the dtype, by default.
        dstsize: the shape of the result, or its length, if one axis is indexed. By default, it is
            as large as the greatest index demands; XLA does not compile that.

    Returns:
        A tensor of shape `dstsize`. `"/"` and `"mean"` make floats.

    Raises:
        TypeError: if indices are no whole numbers.
        ValueError: if `op` is something else, or an index is out of range, as in `gather`.
        ShapeError: if `src` does not begin with the shape of `idx`, or `dstsize` does not end with
            the other axes of `src`.

    Example:
        >>> scatter("+", [10, 100, 1000], [2, 0, 1]).numpy().tolist()
        [100, 1000, 10]
        >>> scatter("*", [10, 200, 3000], [0, 3, 1], init=10, dstsize=6).numpy().tolist()
        [100, 30000, 10, 2000, 10, 10]
        >>> scatter("max", [[1, 5], [2, 4], [3, 3]], [1, 0, 1]).numpy().tolist()
        [[2, 4], [3, 5]]

    Source: NNlib's `scatter`, whose operations are functions. In place of `scatter!` there is this
    one.
    """
    if op not in (*SCATTERED, *SEGMENTED):
        names = ", ".join(map(repr, (*SCATTERED, *SEGMENTED)))
        raise ValueError(f"scatter expects an operation of {names}, got {op!r}.")
    src = float_tensor(src) if op in ("/", "mean") else tf.convert_to_tensor(src)
    places = _places("scatter", idx)
    rank, axes = len(places.shape) - 1, places.shape[-1]
    if not src.shape[:rank].is_compatible_with(places.shape[:-1]):
        raise ShapeError(
            f"scatter expects a source of shape (*{tuple(places.shape[:-1])}, …), as the indices "
            f"have, got {tuple(src.shape)}."
        )
    features = list(keras.ops.shape(src)[rank:])
    lengths = _lengths(dstsize, places, features)
    # Numbers the places in row-major order.
    strides = tf.math.cumprod(tf.cast(lengths, places.dtype), exclusive=True, reverse=True)
    ids = tf.reshape(tf.reduce_sum(places * strides, -1), [-1])
    start = _start(op, src.dtype) if init is None else init
    dst = tf.fill([keras.ops.prod(lengths), *features], tf.cast(start, src.dtype))
    rows = tf.reshape(src, [-1, *features])
    if op in SCATTERED:
        dst = SCATTERED[op](dst, ids[:, tf.newaxis], rows)
    else:
        join, segment = SEGMENTED[op]
        dst = join(dst, segment(rows, ids, tf.shape(dst)[0]))
    return tf.reshape(dst, [*(lengths[axis] for axis in range(axes)), *features])


SCATTERED: dict[str, Callable[..., Tensor]] = {
    "+": tf.tensor_scatter_nd_add,
    "-": tf.tensor_scatter_nd_sub,
    "max": tf.tensor_scatter_nd_max,
    "min": tf.tensor_scatter_nd_min,
}
SEGMENTED: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "*": (tf.multiply, tf.math.unsorted_segment_prod),
    "/": (tf.divide, tf.math.unsorted_segment_prod),
    "mean": (tf.add, tf.math.unsorted_segment_mean),
}


def _start(op: str, dtype: tf.DType) -> Any:
    if op in ("*", "/"):
        return 1
    if op == "max":
        return -np.inf if dtype.is_floating else dtype.min
    if op == "min":
        return np.inf if dtype.is_floating else dtype.max
    return 0


def _lengths(dstsize: Any, places: Tensor, features: list[Any]) -> Any:
    """The axes of a destination that are indexed."""
    axes = places.shape[-1]
    if dstsize is None:
        _expect_in_range("scatter", places, [None] * axes)
        return tf.reduce_max(tf.reshape(places, [-1, axes]), 0) + 1
    shape = list(dstsize) if isinstance(dstsize, tuple | list) else [dstsize, *features]
    fits = len(shape) == axes + len(features) and all(
        n == m or not isinstance(m, int) for n, m in zip(shape[axes:], features, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"scatter expects a dstsize of {axes} lengths and of {tuple(features)}, the other axes "
            f"of the source, got {dstsize}."
        )
    _expect_in_range("scatter", places, shape[:axes])
    return shape[:axes]


def _places(owner: str, idx: Any, *more: Any) -> Tensor:
    """Indices of one axis or several, side by side along a new last axis."""
    is_tuples = isinstance(idx, list) and bool(idx) and isinstance(idx[0], tuple)
    arrays = [tf.convert_to_tensor(i, dtype_hint=tf.int32) for i in (idx, *more)]
    if kinds := [array.dtype.name for array in arrays if not array.dtype.is_integer]:
        raise TypeError(f"{owner} expects indices that are whole numbers, got {kinds[0]}.")
    if shapes := [a.shape for a in arrays if not a.shape.is_compatible_with(arrays[0].shape)]:
        raise ShapeError(
            f"{owner} expects indices of one shape, got {tuple(arrays[0].shape)} and "
            f"{tuple(shapes[0])}."
        )
    if is_tuples and not more:
        return arrays[0]
    return tf.stack([tf.cast(array, tf.int64) for array in arrays], -1)


def _expect_in_range(owner: str, places: Tensor, lengths: Any) -> None:
    for axis in range(places.shape[-1]):
        n = lengths[axis]
        if (index := outside(places[..., axis], n)) is not None:
            wanted = "from 0" if n is None else f"from 0 to {n - 1}"
            raise ValueError(f"{owner} expects indices {wanted} along axis {axis}, got {index}.")


# --- Orders --------------------------------------------------------------------------------------


def topk(x: Any, k: int, *, dims: int = -1, rev: bool = True) -> tuple[Tensor, Tensor]:
    """The `k` greatest numbers along an axis, the greatest first, and where they are.

    `values[i] == x[indices[i]]`

    Args:
        x: an array of shape `(…, n, …)`.
        k: how many, from 1 to `n`.
        dims: the axis `n`; by default the last one, that of classes.
        rev: False for the smallest, the smallest first.

    Returns:
        `(values, indices)`, two tensors of shape `(…, k, …)`. Of equal numbers, the one with the
        lowest index comes first.

    Raises:
        ValueError: if `k` is no such number.
        ShapeError: if there is no such axis.

    Example:
        >>> values, indices = topk([3.0, 1.0, 4.0, 1.5], 2)
        >>> print(values.numpy(), indices.numpy())
        [4. 3.] [2 0]

    Source: MLUtils' `topk`, along the first axis by default.
    """
    x = tf.convert_to_tensor(x)
    axis = axis_of("topk", x, dims)
    n = x.shape[axis]
    if not isinstance(k, int | np.integer) or k < 1 or (n is not None and k > n):
        raise ValueError(f"topk expects k to be a whole number from 1 to {n}, got {k!r}.")
    x = keras.ops.moveaxis(x, axis, -1)
    values, indices = tf.math.top_k(x if rev else -x, k)
    values = values if rev else -values
    return keras.ops.moveaxis(values, -1, axis), keras.ops.moveaxis(indices, -1, axis)


def batched_searchsortedfirst(xp: Any, x: Any, *, dims: int = -1, rev: bool = False) -> Tensor:
    """Where the first number of a sorted array lies that is not below another.

    `i == min(j for j in range(n) if xp[j] >= x)`, or `n` if all are below

    Args:
        xp: an array of shape `(…, n, …)`, sorted along the axis `n`; or a vector, for all of `x`.
        x: numbers to look for, an array of shape `(…, m, …)`, whose other axes are those of `xp`.
        dims: the axes `n` and `m`.
        rev: whether `xp` is sorted downwards; then, what is not above.

    Returns:
        A tensor of whole numbers of the shape of `x`.

    Raises:
        ShapeError: if the other axes differ, or there is no such axis.

    Example:
        >>> batched_searchsortedfirst([1, 3, 5, 7, 9], [4, 5, 8]).numpy().tolist()
        [2, 2, 4]

    Source: MLUtils' `batched_searchsortedfirst`, along the first axis by default; Julia's
    `searchsortedfirst`. Indices count from 0.
    """
    return _searched("batched_searchsortedfirst", xp, x, dims, rev, "left")


def batched_searchsortedlast(xp: Any, x: Any, *, dims: int = -1, rev: bool = False) -> Tensor:
    """Where the last number of a sorted array lies that is not above another.

    `i == max(j for j in range(n) if xp[j] <= x)`, or -1 if all are above

    Args:
        xp: as in `batched_searchsortedfirst`.
        x: numbers to look for.
        dims: the axis along which `xp` is sorted.
        rev: whether `xp` is sorted downwards; then, what is not below.

    Returns:
        A tensor of whole numbers of the shape of `x`.

    Raises:
        ShapeError: as `batched_searchsortedfirst`.

    Example:
        >>> batched_searchsortedlast([1, 3, 5, 7, 9], [4, 5, 8]).numpy().tolist()
        [1, 2, 3]

    Source: MLUtils' `batched_searchsortedlast`; Julia's `searchsortedlast`. Indices count from 0.
    """
    return _searched("batched_searchsortedlast", xp, x, dims, rev, "right") - 1


def _searched(owner: str, xp: Any, x: Any, dims: int, rev: bool, side: str) -> Tensor:
    xp, x = _of_one_dtype(xp, x)
    axis = axis_of(owner, x, dims)
    x = keras.ops.moveaxis(x, axis, -1)
    if len(xp.shape) == 1:
        xp = tf.broadcast_to(xp, [*keras.ops.shape(x)[:-1], keras.ops.shape(xp)[0]])
    else:
        xp = keras.ops.moveaxis(xp, axis_of(owner, xp, dims), -1)
    if not xp.shape[:-1].is_compatible_with(x.shape[:-1]):
        raise ShapeError(
            f"{owner} expects arrays that differ in the length of axis {dims} alone, got "
            f"{tuple(xp.shape[:-1])} and {tuple(x.shape[:-1])} besides."
        )
    sign = -1 if rev else 1
    found = tf.searchsorted(sign * xp, sign * x, side)
    return keras.ops.moveaxis(found, -1, axis)


# --- Checks --------------------------------------------------------------------------------------


def _of_one_dtype(*arrays: Any) -> list[Tensor]:
    tensors = list(map(tf.convert_to_tensor, arrays))
    names = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    return [tf.cast(tensor, keras.backend.result_type(*names)) for tensor in tensors]


def _expect_matrices(owner: str, A: Tensor, ranks: tuple[int, ...]) -> None:
    if len(A.shape) not in ranks:
        raise ShapeError(
            f"{owner} expects matrices of shape (batch, rows, columns), got {tuple(A.shape)}."
        )


def _expect_to_fit(owner: str, A: Tensor, B: Tensor, rows: Any, batches: list[Any]) -> None:
    is_one_product = rows is None or A.shape[-1] in (None, rows)
    if not is_one_product or len(set(batches) - {None, 1}) > 1:
        raise ShapeError(
            f"{owner} expects as many columns as rows, in as many matrices, got "
            f"{tuple(A.shape)} and {tuple(B.shape)}."
        )
