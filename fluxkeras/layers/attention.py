"""Attention: each query takes a weighted mean of values, by how well their keys fit it.

Queries are `(..., q, features)`, keys and values `(..., kv, features)`, the weights `α` of the
values `(..., heads, q, kv)`. The axes `...` are those of the batch: one, none or several.

What is added to the fits of the keys, `bias`, and the `mask`, True where a query may attend to a
key, are of the shape of `α` or broadcast to it. A mask `"causal"` lets each query attend to the
keys up to its own place. A query that may attend to nothing gets NaN, as in Flux.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.core import Dense
from fluxkeras.layers.dropout import Dropout

__all__ = [
    "MultiHeadAttention",
    "dot_product_attention",
    "dot_product_attention_scores",
    "make_causal_mask",
]

Tensor: TypeAlias = Any

# Of how many sizes each of in, qkv, out may be.
FORMS = [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1)]


def make_causal_mask(x: Any, *, dims: int = -2) -> Tensor:
    """A mask that lets each time step attend to itself and to those before it.

    `mask[i, j] = j <= i`, for query `i` and key `j`

    Args:
        x: an array that has the time steps along an axis: `(batch, time, features)`.
        dims: that axis.

    Returns:
        A Boolean tensor of shape `(time, time)`.

    Example:
        >>> tf.cast(make_causal_mask(np.zeros((5, 3, 8))), tf.int32).numpy().tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]

    Source: NNlib's `make_causal_mask`, whose rows are the keys.
    """
    steps = tf.range(tf.shape(x)[dims])
    return steps[:, None] >= steps


def dot_product_attention(
    q: Any,
    k: Any,
    v: Any,
    bias: Any = None,
    *,
    fdrop: Callable[[Tensor], Tensor] | None = None,
    mask: Any = None,
    nheads: int = 1,
) -> tuple[Tensor, Tensor]:
    """The values, averaged for each query, and the weights with which they are.

    `α = softmax(q @ transpose(k) / sqrt(features) + bias)`, `y = α @ v`; with `nheads`, for each of
    that many equal slices of the features, side by side in `y`

    Args:
        q: queries, `(..., q, features)`.
        k: keys, `(..., kv, features)`.
        v: values, `(..., kv, value features)`.
        bias: is added before the softmax; see the module.
        fdrop: a dropout layer or another function for the weights.
        mask: see the module.
        nheads: by how many the features are divided.

    Returns:
        `y`, of shape `(..., q, value features)`, and `α`, of shape `(..., nheads, q, kv)`.

    Raises:
        ShapeError: if the shapes do not fit each other, `nheads`, the bias or the mask.

    Example:
        >>> q, k, v = np.random.rand(2, 4, 10), np.random.rand(2, 6, 10), np.random.rand(2, 6, 20)
        >>> y, α = dot_product_attention(q, k, v, nheads=5)
        >>> y.shape, α.shape
        (TensorShape([2, 4, 20]), TensorShape([2, 5, 4, 6]))

    Source: NNlib's `dot_product_attention`; Vaswani et al., 2017.
    """
    q, k, v = _tensors(q, k, v)
    _agree("queries", q, "keys", k, except_axis=-2)
    _agree("keys", k, "values", v, except_axis=-1)
    α = dot_product_attention_scores(
        _split(q, nheads), _split(k, nheads), bias, fdrop=fdrop, mask=mask
    )
    y = tf.einsum("...hqk,...khd->...qhd", α, _split(v, nheads))
    return tf.reshape(y, tf.concat([tf.shape(q)[:-1], v.shape[-1:]], 0)), α


def dot_product_attention_scores(
    q: Any,
    k: Any,
    bias: Any = None,
    *,
    fdrop: Callable[[Tensor], Tensor] | None = None,
    mask: Any = None,
) -> Tensor:
    """The weights that `dot_product_attention` gives the values.

    `softmax(q @ transpose(k) / sqrt(features) + bias)`, for each head

    Args:
        q: queries, `(..., q, heads, features)`.
        k: keys, `(..., kv, heads, features)`.
        bias: is added before the softmax; see the module.
        fdrop: a dropout layer or another function for the weights.
        mask: see the module.

    Returns:
        `α`, of shape `(..., heads, q, kv)`.

    Raises:
        ShapeError: if the shapes do not fit each other, the bias or the mask.

    Example:
        >>> q, k = np.zeros((4, 1, 8)), np.zeros((4, 1, 8))
        >>> α = dot_product_attention_scores(q, k, mask="causal")
        >>> α[0, 2].numpy().round(2).tolist()
        [0.33, 0.33, 0.33, 0.0]

    Source: NNlib's `dot_product_attention_scores`.
    """
    q, k = _tensors(q, k)
    _agree("queries", q, "keys", k, except_axis=-3)
    fits = tf.einsum("...qhd,...khd->...hqk", q / math.sqrt(q.shape[-1]), k)
    if bias is not None:
        fits += _fitting("bias", tf.cast(bias, fits.dtype), fits)
    if mask is not None:
        allowed = make_causal_mask(q, dims=-3) if _is_causal(mask) else tf.cast(mask, tf.bool)
        never = tf.constant(-math.inf, fits.dtype)
        fits = tf.where(_fitting("mask", allowed, fits), fits, never)
    α = tf.nn.softmax(fits)
    return α if fdrop is None else fdrop(α)


def _is_causal(mask: Any) -> bool:
    if isinstance(mask, str) and mask != "causal":
        raise ValueError(f'attention expects the mask "causal" or an array, got {mask!r}.')
    return isinstance(mask, str)


def _tensors(q: Any, *others: Any) -> list[Tensor]:
    q = float_tensor(q)
    return [q, *(tf.cast(float_tensor(x), q.dtype) for x in others)]


def _agree(name: str, x: Tensor, other: str, y: Tensor, *, except_axis: int) -> None:
    shape, shape_of_other = list(x.shape), list(y.shape)
    if min(len(shape), len(shape_of_other)) >= -except_axis:
        shape[except_axis] = shape_of_other[except_axis] = None
        if tf.TensorShape(shape).is_compatible_with(shape_of_other):
            return
    raise ShapeError(
        f"attention expects {name} and {other} of the same shape but for axis {except_axis}, "
        f"got {tuple(x.shape)} and {tuple(y.shape)}."
    )


def _fitting(name: str, x: Tensor, fits: Tensor) -> Tensor:
    """`x`, if it broadcasts to the shape of `fits`."""
    axes = zip(reversed(x.shape), reversed(fits.shape), strict=False)
    if len(x.shape) > len(fits.shape) or any(
        None not in (own, whole) and own not in (1, whole) for own, whole in axes
    ):
        raise ShapeError(
            f"attention expects a {name} of a shape that broadcasts to (..., heads, queries, keys),"
            f" here {tuple(fits.shape)}, got {tuple(x.shape)}."
        )
    return x


def _split(x: Tensor, nheads: int) -> Tensor:
    if x.shape[-1] % nheads:
        raise ShapeError(
            f"attention expects numbers of features that nheads={nheads} divides, got shape "
            f"{tuple(x.shape)}."
        )
    return tf.reshape(x, tf.concat([tf.shape(x)[:-1], [nheads, x.shape[-1] // nheads]], 0))


@keras.saving.register_keras_serializable(package="fluxkeras")
class MultiHeadAttention(FluxLayer, keras.layers.Layer):
    """Attention between queries, keys and values that are projected first, in several heads.

    `y, α = dot_product_attention(q_proj(q), k_proj(k), v_proj(v), bias)`, then `out_proj(y), α`

    Args:
        *dims: the numbers of features: `d`, the same everywhere; or `in, qkv, out`, where for `in`
            may stand `(q, k, v)`, and for `qkv` `(qk, v)`: those between, of all heads together.
            Or one tuple of the three.
        nheads: the number of heads, by which those between are divided.
        bias: whether the four projections have a bias.
        init: how their kernels start: a Keras initialiser or its name, or a function of
            `(shape, dtype)`.
        dropout_prob: the probability with which a weight in `α` is dropped while training.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. `layer(q, k, v, bias, mask=mask)` takes queries `(..., q, in)`, keys and values
        `(..., kv, in)`, and a bias and a mask as the module has them; `layer(q)` takes them from
        one array, `layer(q, k)` the keys and values. It returns `(y, α)`, of shapes
        `(..., q, out)` and `(..., heads, q, kv)`.

    Raises:
        ValueError: if the dims are none of the above, or not divisible by `nheads`.
        ShapeError: when called on inputs of shapes that do not fit.

    Example:
        >>> layer = MultiHeadAttention(64, 1024, 1024, nheads=8)
        >>> y, α = layer(np.random.rand(32, 10, 64), mask="causal")
        >>> y.shape, α.shape
        (TensorShape([32, 10, 1024]), TensorShape([32, 8, 10, 10]))
        >>> print(layer)
        MultiHeadAttention(64 => 1024 => 1024, nheads=8)

    Source: Flux's `MultiHeadAttention`, whose `α` is `(kv, q, heads, batch)`; Vaswani et al., 2017.
    Keras's counts the features of one head, has biases, and returns `y` only.
    """

    def __init__(
        self,
        *dims: Any,
        nheads: int = 8,
        bias: bool = False,
        init: Any = "glorot_uniform",
        dropout_prob: float = 0.0,
        **keras_options: Any,
    ) -> None:
        (q, k, v), (qk, value), out = _dims(dims, nheads)
        super().__init__(**keras_options)
        self.dims = (q, k, v), (qk, value), out
        self.nheads, self.use_bias = nheads, bias

        def projection(*sizes: int) -> Dense:
            return Dense(*sizes, bias=bias, init=_fresh(init), dtype=self.dtype_policy)

        self.q_proj, self.k_proj = projection(q, qk), projection(k, qk)
        self.v_proj, self.out_proj = projection(v, value), projection(value, out)
        self.attn_drop = Dropout(dropout_prob, dtype=self.dtype_policy)
        self.built = True

    @property
    def input_size(self) -> int:
        """The length of the last axis of the queries."""
        return self.dims[0][0]

    def __call__(self, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
        # Keras would fill an argument of the name `mask` with a mask of time steps.
        if mask is not None:
            kwargs["attention_mask"] = mask
        return super().__call__(*args, **kwargs)

    def call(
        self,
        q: Any,
        k: Any = None,
        v: Any = None,
        bias: Any = None,
        attention_mask: Any = None,
        training: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        k = q if k is None else k
        v = k if v is None else v
        for x, size in zip((q, k, v), self.dims[0], strict=True):
            if len(x.shape) < 2 or x.shape[-1] not in (None, size):
                raise ShapeError(
                    f"{self} expects queries, keys and values of shapes "
                    f"{', '.join(f'(..., time, {n})' for n in self.dims[0])}, got "
                    f"{', '.join(str(tuple(x.shape)) for x in (q, k, v))}."
                )
        y, α = dot_product_attention(
            self.q_proj(q),
            self.k_proj(k),
            self.v_proj(v),
            bias,
            fdrop=self.attn_drop,
            mask=attention_mask,
            nheads=self.nheads,
        )
        return self.out_proj(y), α

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dims": self.dims,
            "nheads": self.nheads,
            "bias": self.use_bias,
            "init": self.q_proj.get_config()["init"],
            "dropout_prob": self.attn_drop.rate,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MultiHeadAttention":
        return cls(*config.pop("dims"), **config)

    def __repr__(self) -> str:
        return self._print(", ")

    def __str__(self) -> str:
        return self._print(" => ")

    def _print(self, arrow: str) -> str:
        ins, between, out = self.dims
        words: list[Any] = [ins[0] if len(set(ins)) == 1 else ins]
        words += [between[0] if len(set(between)) == 1 else between, out]
        words = words[:1] if len(set(words)) == 1 else words
        options = [f"nheads={self.nheads}"]
        options += ["bias=True"] if self.use_bias else []
        rate = self.attn_drop.rate
        options += [f"dropout_prob={rate}"] if rate else []
        return f"MultiHeadAttention({', '.join([arrow.join(map(str, words)), *options])})"


def _dims(dims: tuple[Any, ...], nheads: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """`(q, k, v), (qk, v), out` of any of the forms in which they are given."""
    given = dims
    if len(dims) == 1:
        dims = tuple(dims[0]) if isinstance(dims[0], tuple | list) else dims * 3
    parts = [tuple(part) if isinstance(part, tuple | list) else (part,) for part in dims]
    sizes = [size for part in parts for size in part]
    is_known = tuple(map(len, parts)) in FORMS
    if not is_known or not all(isinstance(n, int | np.integer) and n > 0 for n in sizes):
        raise ValueError(
            "MultiHeadAttention expects numbers of features d, or in, qkv, out, "
            f"got ({', '.join(map(str, given))}). Write MultiHeadAttention(64, 1024, 64)."
        )
    ins, between, out = (tuple(map(int, part)) for part in parts)
    ins, between = ins * (3 // len(ins)), between * (2 // len(between))
    if nheads < 1 or any(size % nheads for size in between):
        raise ValueError(
            f"MultiHeadAttention expects numbers of features that nheads={nheads} divides, got "
            f"{between} between the projections."
        )
    return ins, between, out[0]


def _fresh(init: Any) -> Any:
    """An initialiser that draws anew: without a seed, one of Keras's gives the same twice."""
    is_object = isinstance(init, keras.initializers.Initializer)
    return type(init).from_config(init.get_config()) if is_object else init
