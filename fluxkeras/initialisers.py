"""Initialisers: how the arrays of layers start, with Flux's distributions.

Sizes give an array, `glorot_uniform(3, 4)`; keywords alone give an initialiser that has them fixed,
`glorot_uniform(gain=2)`; and the bare name is one too, `Dense(3, 4, init=orthogonal)`. They are
Keras initialisers, for any layer of Keras.

An integer `seed` gives the same array at every call; a `keras.random.SeedGenerator` another at
each, in an order that its own seed fixes; without one, `keras.utils.set_random_seed` governs. The
`dtype` is `keras.config.floatx()` where nothing else is said.
"""

import inspect
import math
import random
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError, warn

__all__ = [
    "glorot_normal",
    "glorot_uniform",
    "identity_init",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "nfan",
    "ones32",
    "orthogonal",
    "rand32",
    "randn32",
    "sparse_init",
    "truncated_normal",
    "zeros32",
]

Tensor: TypeAlias = Any
Seed: TypeAlias = int | keras.random.SeedGenerator | None
Shape: TypeAlias = tuple[int, ...]


def nfan(*shape: Any) -> tuple[int, int]:
    """How many inputs feed one output of a kernel, and how many outputs one input feeds.

    `(prod(k) * in, prod(k) * out)` of a kernel of shape `(*k, in, out)`

    Args:
        *shape: the sizes of a dense kernel `(in, out)` or of a convolution's `(*k, in, out)`, or
            one tuple of them. A vector of `n` counts as `(1, n)`.

    Returns:
        `(fan_in, fan_out)`.

    Raises:
        ValueError: the sizes are no integers from 0.

    Example:
        >>> nfan(Dense(10, 20).kernel.shape), nfan(3, 3, 2, 10)
        ((10, 20), (18, 90))

    Source: Flux's `nfan`, whose matrices are `(out, in)`.
    """
    sizes = [1, 1, *_shape("nfan", shape)]
    window = math.prod(sizes[:-2])
    return window * sizes[-2], window * sizes[-1]


@keras.saving.register_keras_serializable(package="fluxkeras")
class Initialiser(keras.initializers.Initializer):
    """A function of sizes and keywords, with some keywords fixed, as Keras takes it.

    Args:
        name: that of the function.
        **keywords: those that are fixed.
    """

    def __init__(self, name: str, **keywords: Any) -> None:
        self._name, self._draw = name, DRAWS[name]
        known = list(inspect.signature(self._draw).parameters)[1:]
        for unknown in keywords.keys() - set(known):
            raise TypeError(f"{name} expects the keywords {', '.join(known)}, got {unknown!r}.")
        if keywords.get("dtype") is not None:
            keywords["dtype"] = tf.as_dtype(keywords["dtype"]).name
        self._keywords = keywords
        self.__doc__, self.__wrapped__ = self._draw.__doc__, self._draw

    def __call__(self, *sizes: Any, **keywords: Any) -> Any:
        if len(sizes) == 2 and not _is_size(sizes[0]):  # as Keras calls: (shape, dtype)
            shape, keywords["dtype"] = sizes
            sizes = (shape,)
        fixed = Initialiser(self._name, **self._keywords | keywords)
        return self._draw(*_shape(self._name, sizes), **fixed._keywords) if sizes else fixed

    def get_config(self) -> dict[str, Any]:
        return {"name": self._name, **keras.saving.serialize_keras_object(self._keywords)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Initialiser":
        return cls(**keras.saving.deserialize_keras_object(config))

    def __reduce__(self) -> Any:
        return type(self).from_config, (self.get_config(),)

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self._keywords.items())
        return f"{self._name}({options})" if options else self._name


DRAWS: dict[str, Callable[..., Tensor]] = {}


def _initialiser(draw: Callable[..., Tensor]) -> Initialiser:
    DRAWS[draw.__name__] = draw
    return Initialiser(draw.__name__)


@_initialiser
def glorot_uniform(*shape: int, gain: float = 1.0, seed: Seed = None, dtype: Any = None) -> Tensor:
    """Uniform numbers that keep the variance of what passes through, forwards and backwards.

    Each from `±gain * sqrt(6 / (fan_in + fan_out))`, with the fans of `nfan`.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        gain: a factor.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> glorot_uniform(3, 4).shape
        TensorShape([3, 4])
        >>> bound = 0.5 * np.sqrt(6 / (20 + 30))
        >>> bool(tf.reduce_max(abs(glorot_uniform(20, 30, gain=0.5))) <= bound)
        True
        >>> layer = Dense(3, 4, init=glorot_uniform(gain=2, seed=1))

    Source: Flux's `glorot_uniform`; Glorot and Bengio, 2010.
    """
    return _uniform(shape, gain * math.sqrt(6 / _fans(shape)), seed, dtype)


@_initialiser
def glorot_normal(*shape: int, gain: float = 1.0, seed: Seed = None, dtype: Any = None) -> Tensor:
    """Normal numbers that keep the variance of what passes through, forwards and backwards.

    Of mean 0 and standard deviation `gain * sqrt(2 / (fan_in + fan_out))`, with the fans of `nfan`.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        gain: a factor.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> round(float(tf.math.reduce_std(glorot_normal(400, 400))), 2)
        0.05

    Source: Flux's `glorot_normal`. Keras's is cut off at two standard deviations.
    """
    return _normal(shape, gain * math.sqrt(2 / _fans(shape)), seed, dtype)


@_initialiser
def kaiming_uniform(
    *shape: int, gain: float = math.sqrt(2), seed: Seed = None, dtype: Any = None
) -> Tensor:
    """Uniform numbers that keep the variance of what passes forwards through `relu`.

    Each from `±gain * sqrt(3 / fan_in)`, with the fan of `nfan`.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        gain: a factor.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> bool(tf.reduce_max(abs(kaiming_uniform(10, 100))) <= np.sqrt(6 / 10))
        True

    Source: Flux's `kaiming_uniform`, whose matrices are `(out, in)`; He et al., 2015.
    """
    return _uniform(shape, gain * math.sqrt(3 / _fan_in(shape)), seed, dtype)


@_initialiser
def kaiming_normal(
    *shape: int, gain: float = math.sqrt(2), seed: Seed = None, dtype: Any = None
) -> Tensor:
    """Normal numbers that keep the variance of what passes forwards through `relu`.

    Of mean 0 and standard deviation `gain / sqrt(fan_in)`, with the fan of `nfan`.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        gain: a factor.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> round(float(tf.math.reduce_std(kaiming_normal(200, 1000))), 2)
        0.1

    Source: Flux's `kaiming_normal`. Keras's `he_normal` is cut off at two standard deviations.
    """
    return _normal(shape, gain / math.sqrt(_fan_in(shape)), seed, dtype)


@_initialiser
def truncated_normal(
    *shape: int,
    mean: float = 0.0,
    std: float = 1.0,
    lo: float = -2.0,
    hi: float = 2.0,
    seed: Seed = None,
    dtype: Any = None,
) -> Tensor:
    """Normal numbers of which only those between two bounds are taken.

    `cdf⁻¹(u)` for uniform `u` from `cdf(lo)` to `cdf(hi)`, with the `cdf` of the normal numbers

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        mean: of the whole distribution.
        std: its standard deviation.
        lo: the lower bound, in the units of the numbers.
        hi: the upper bound.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0, `std` is not above 0, or `lo` not below
            `hi`.

    Example:
        >>> x = truncated_normal(1000, lo=0, hi=0.5)
        >>> bool(tf.reduce_min(x) >= 0), bool(tf.reduce_max(x) <= 0.5)
        (True, True)

    Source: Flux's `truncated_normal`. Keras's is cut off at two of the standard deviations given.
    """
    if not (std > 0 and lo < hi):
        raise ValueError(
            "truncated_normal expects std above 0 and lo below hi, "
            f"got std={std}, lo={lo}, hi={hi}."
        )
    if not lo - 2 * std <= mean <= hi + 2 * std:
        warn("truncated_normal: mean is more than 2 std from lo and hi; values may be inexact.")
    below, above = (math.erf((bound - mean) / (std * math.sqrt(2))) for bound in (lo, hi))
    # In float32 the quantiles of the tails would be steps.
    u = keras.random.uniform(shape, below, above, dtype="float64", seed=_fixed(seed))
    x = mean + std * math.sqrt(2) * tf.math.erfinv(u)
    return tf.cast(tf.clip_by_value(x, lo, hi), _float(dtype))


@_initialiser
def lecun_normal(*shape: int, seed: Seed = None, dtype: Any = None) -> Tensor:
    """Normal numbers that keep the variance of what passes forwards through `selu`.

    `truncated_normal(*shape, std=sqrt(1 / fan_in))`, with the fan of `nfan`; its bounds are ±2.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> round(float(tf.math.reduce_std(lecun_normal(100, 1000))), 2)
        0.1

    Source: Flux's `lecun_normal`. Keras's is cut off at two standard deviations.
    """
    return truncated_normal(shape, std=math.sqrt(1 / _fan_in(shape)), seed=seed, dtype=dtype)


@_initialiser
def orthogonal(*shape: int, gain: float = 1.0, seed: Seed = None, dtype: Any = None) -> Tensor:
    """A random matrix whose rows or columns, whichever are fewer, are orthonormal.

    `gain * Q` of the QR decomposition of normal numbers. Of more axes than two, all but the last
    count as rows.

    Args:
        *shape: two or more sizes; without them, an initialiser is returned.
        gain: the length of each row or column.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ShapeError: for fewer than two sizes.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> W = orthogonal(5, 7)
        >>> bool(tf.reduce_max(abs(W @ tf.transpose(W) - tf.eye(5))) < 1e-5)
        True

    Source: Flux's `orthogonal`; Saxe et al., 2014.
    """
    if len(shape) < 2:
        raise ShapeError(f"orthogonal expects two or more sizes, got {shape}.")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = tf.linalg.qr(_normal((max(rows, columns), min(rows, columns)), 1.0, seed, "float32"))
    q *= tf.sign(tf.linalg.diag_part(r))  # without it, not all directions are as likely
    q = tf.transpose(q) if rows < columns else q
    return tf.cast(gain * tf.reshape(q, shape), _float(dtype))


@_initialiser
def sparse_init(
    *shape: int, sparsity: float, std: float = 0.01, seed: Seed = None, dtype: Any = None
) -> Tensor:
    """Normal numbers, with as many zeros in each column.

    `ceil(sparsity * rows)` numbers of each column are 0, the others of standard deviation `std`. In
    a dense kernel, `(in, out)`, that is how many inputs each output starts without.

    Args:
        *shape: `rows, columns`; without them, an initialiser is returned.
        sparsity: the fraction that is 0, from 0; above 1, it is taken for 1.
        std: the standard deviation of the others.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ShapeError: for other than two sizes.
        ValueError: the sizes are no integers from 0, or `sparsity` is below 0.

    Example:
        >>> np.count_nonzero(sparse_init(10, 3, sparsity=0.25), axis=0).tolist()
        [7, 7, 7]

    Source: Flux's `sparse_init`, whose kernels are `(out, in)`; Martens, 2010.
    """
    if len(shape) != 2:
        raise ShapeError(f"sparse_init expects two sizes, rows and columns, got {shape}.")
    if sparsity < 0:
        raise ValueError(f"sparse_init expects a sparsity from 0 to 1, got {sparsity}.")
    zeros = math.ceil(min(1.0, sparsity) * shape[0])
    values, keys = tf.unstack(_normal((2, *shape), std, seed, dtype))
    places = tf.argsort(tf.cast(keys, tf.float32), axis=0)
    return tf.where(places < zeros, tf.zeros_like(values), values)


@_initialiser
def identity_init(
    *shape: int, gain: float = 1.0, shift: int | Shape = 0, dtype: Any = None
) -> Tensor:
    """A kernel that passes its input on, where `in` and `out` are equal.

    A matrix `(in, out)` has `gain` on its diagonal. The kernel of a convolution, `(*k, in, out)`,
    has such a matrix at its centre; with padding to the same size, it passes its input on as well.
    A vector is zero, as for a bias.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        gain: the numbers that are not zero.
        shift: by how much to roll the array: along its first axis, or for a tuple, along its first
            axes.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> identity_init(2, 3, gain=5).numpy().tolist()
        [[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]]
        >>> kernel = identity_init(3, 3, 2, 2)
        >>> kernel[1, 1].numpy().tolist(), float(tf.reduce_sum(kernel))
        ([[1.0, 0.0], [0.0, 1.0]], 2.0)

    Source: Flux's `identity_init`.
    """
    array = np.zeros(shape)
    if len(shape) > 1:
        centre = tuple((size - 1) // 2 for size in shape[:-2])
        array[centre] = gain * np.eye(shape[-2], shape[-1])
    shifts = (shift,) if isinstance(shift, int) else tuple(shift)
    rolled = np.roll(array, shifts, axis=tuple(range(len(shifts)))) if len(shape) else array
    return tf.constant(rolled, _float(dtype))


@_initialiser
def zeros32(*shape: int, dtype: Any = "float32") -> Tensor:
    """Zeros, in float32 where nothing else is said.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> zeros32(2).numpy().tolist()
        [0.0, 0.0]

    Source: Flux's `zeros32`.
    """
    return tf.zeros(shape, dtype)


@_initialiser
def ones32(*shape: int, dtype: Any = "float32") -> Tensor:
    """Ones, in float32 where nothing else is said.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> ones32(2).numpy().tolist()
        [1.0, 1.0]

    Source: Flux's `ones32`.
    """
    return tf.ones(shape, dtype)


@_initialiser
def rand32(*shape: int, seed: Seed = None, dtype: Any = "float32") -> Tensor:
    """Uniform numbers from 0 to 1, in float32 where nothing else is said.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> bool(tf.reduce_all((rand32(2, 3) >= 0) & (rand32(2, 3) < 1)))
        True

    Source: Flux's `rand32`.
    """
    return keras.random.uniform(shape, dtype=dtype, seed=_fixed(seed))


@_initialiser
def randn32(*shape: int, seed: Seed = None, dtype: Any = "float32") -> Tensor:
    """Normal numbers of mean 0 and standard deviation 1, in float32 where nothing else is said.

    Args:
        *shape: the sizes of the array; without them, an initialiser is returned.
        seed: see the module.
        dtype: of the array.

    Returns:
        A tensor of that shape, or an initialiser.

    Raises:
        TypeError: there is no such keyword.
        ValueError: the sizes are no integers from 0.

    Example:
        >>> randn32(2, 3).shape, randn32(2, 3).dtype
        (TensorShape([2, 3]), tf.float32)

    Source: Flux's `randn32`.
    """
    return _normal(shape, 1.0, seed, dtype)


def _fixed(seed: Seed) -> Any:
    # As Keras's initialisers do. Its global generator is not always set back by a new seed.
    return random.randrange(1, 10**9) if seed is None else seed


def _uniform(shape: Shape, bound: float, seed: Seed, dtype: Any) -> Tensor:
    return keras.random.uniform(shape, -bound, bound, dtype=dtype, seed=_fixed(seed))


def _normal(shape: Shape, std: float, seed: Seed, dtype: Any) -> Tensor:
    return keras.random.normal(shape, 0.0, std, dtype=dtype, seed=_fixed(seed))


def _float(dtype: Any) -> Any:
    return dtype or keras.config.floatx()


def _fans(shape: Shape) -> int:
    return sum(nfan(*shape)) or 1  # an empty array divides nothing


def _fan_in(shape: Shape) -> int:
    return nfan(*shape)[0] or 1


def _shape(name: str, sizes: Any) -> Shape:
    if len(sizes) == 1 and not _is_size(sizes[0]) and np.iterable(sizes[0]):
        sizes = sizes[0]
    if not all(_is_size(size) for size in sizes):
        words = ", ".join(map(repr, sizes))
        raise ValueError(f"{name} expects sizes, integers from 0, got ({words}).")
    return tuple(map(int, sizes))


def _is_size(value: Any) -> bool:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and value >= 0
