"""Scale and Bilinear, layers that look arrays up by their index, and flatten."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import serializable
from fluxkeras.checks import ShapeError, outside
from fluxkeras.initialisers import randn32
from fluxkeras.layers.arguments import Arguments, options
from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import initialiser, loaded, saved

__all__ = ["Bilinear", "Diagonal", "Embedding", "EmbeddingBag", "Scale", "flatten"]

Tensor: TypeAlias = Any


@serializable
def flatten(x: Any) -> Tensor:
    """One axis of all that a batch has after the first.

    `reshape(x, (batch, -1))`

    Args:
        x: an array of shape `(batch, ...)`.

    Returns:
        A tensor of shape `(batch, features)`, in the order in which Python counts: the last axis
        fastest.

    Raises:
        ShapeError: if `x` has no axis.

    Example:
        >>> flatten(np.ones((5, 4, 3, 2))).shape
        TensorShape([5, 24])
        >>> m = Chain(flatten, Dense(24, 2))

    Source: Flux's `flatten`, whose first axis is the fastest.
    """
    x = keras.ops.convert_to_tensor(x)
    if not len(x.shape):
        raise ShapeError("flatten expects an array of shape (batch, ...), got a number.")
    sizes = keras.ops.shape(x)
    if None in x.shape[1:]:
        return keras.ops.reshape(x, (sizes[0], -1))
    return keras.ops.reshape(x, (sizes[0], math.prod(x.shape[1:])))


class Weighted(FluxLayer, keras.layers.Layer):
    """A layer with an array, a bias and an activation, built at construction."""

    expected: ClassVar[str]  # what messages say of the arguments
    weight_name: ClassVar[str]

    def __init__(self, *sizes: Any, bias: Any, init: Any, **keras_options: Any) -> None:
        activation = keras_options.pop("activation", None)
        given = Arguments.of(sizes, bias)
        shape = given and self.shape(given.sizes, is_array=given.weight is not None)
        if given is None or shape is None:
            words = ", ".join(map(describe, sizes))
            raise ValueError(f"{type(self).__name__} expects {self.expected}, got ({words}).")
        super().__init__(**keras_options)
        self.sizes = shape
        self.activation = keras.activations.get(given.activation or activation)
        self.use_bias = given.bias is not False
        self.initializer = initialiser(init)
        self.weight = self.add_weight(shape, self.initializer, name=self.weight_name)
        of_bias = self.bias_shape(shape)
        self.bias = self.add_weight(of_bias, "zeros", name="bias") if self.use_bias else None
        self.built = True
        given.fill(self, self.weight, self.bias)

    def shape(self, sizes: tuple[int, ...], *, is_array: bool) -> tuple[int, ...] | None:
        """That of the array, if it can have these sizes."""
        raise NotImplementedError

    def bias_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the bias."""
        raise NotImplementedError

    def activated(self, x: Tensor) -> Tensor:
        """`σ(x + bias)`"""
        return self.activation(x if self.bias is None else x + self.bias)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "activation": saved(self.activation, "an activation", self),
            "bias": self.use_bias,
            "init": keras.initializers.serialize(self.initializer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config["activation"] = loaded(config["activation"])
        return cls(*config.pop("sizes"), **config)

    def __repr__(self) -> str:
        words = [", ".join(map(str, self.sizes)), *options(self)]
        return f"{type(self).__name__}({', '.join(words)})"

    __str__ = __repr__


@keras.saving.register_keras_serializable(package="fluxkeras")
class Scale(Weighted):
    """A factor and a summand for each number.

    `y = σ(scale * x + bias)`

    Args:
        *sizes: those of the last axes of the input, along which the factors vary, or one tuple of
            them; or the array `scale`, and if wanted the `bias`. Then, if wanted, `σ`, the
            activation: a function of a tensor, or its name in Keras (default: none).
        bias: whether there is a bias, which starts at zero; or the array.
        init: how `scale` starts: a Keras initialiser or its name, or a function of
            `(shape, dtype)`.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer with the variables `weight`, the scale, and `bias`. It takes inputs of shape
        `(..., *sizes)`, one sample among them, and returns the same shape; along an axis of length
        1, or one that either lacks, it broadcasts.

    Raises:
        ValueError: if the arguments are none of the above.
        ShapeError: if the bias does not fit; when called on an input that does not.

    Example:
        >>> layer = Scale([1.0, 2.0, 3.0], [10.0, 10.0, 10.0])
        >>> layer([1.0, 1.0, 1.0]).numpy().tolist()
        [11.0, 12.0, 13.0]
        >>> Scale(2, 3, relu)(np.ones((5, 2, 3))).shape
        TensorShape([5, 2, 3])

    Source: Flux's `Scale`, whose sizes are those of the first axes; Flux 0.6's `Diagonal`.
    """

    expected = "sizes and an activation"
    weight_name = "scale"

    def __init__(
        self, *sizes: Any, bias: Any = True, init: Any = "ones", **keras_options: Any
    ) -> None:
        super().__init__(*sizes, bias=bias, init=init, **keras_options)

    def shape(self, sizes: tuple[int, ...], *, is_array: bool) -> tuple[int, ...] | None:
        return sizes

    def bias_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    @property
    def input_size(self) -> int:
        """The length of the last axis of the input."""
        return self.sizes[-1]

    def call(self, x: Tensor) -> Tensor:
        pairs = zip(reversed(x.shape), reversed(self.sizes), strict=False)
        if not len(x.shape) or any(n not in (None, 1, size) and size != 1 for n, size in pairs):
            wanted = ", ".join(map(str, self.sizes))
            raise ShapeError(
                f"{self} expects inputs of shape (..., {wanted}), got {tuple(x.shape)}."
            )
        return self.activated(tf.cast(x, self.compute_dtype) * self.weight)


Diagonal = Scale


@keras.saving.register_keras_serializable(package="fluxkeras")
class Bilinear(Weighted):
    """A layer that multiplies the numbers of two inputs with each other.

    `z[i] = σ(x @ W[i] @ y + bias[i])`

    Args:
        *sizes: `(in1, in2), out`, or `in, out` if both inputs are of one length; or the array `W`,
            of shape `(out, in1, in2)`, and if wanted the `bias`. Then, if wanted, `σ`, the
            activation: a function of a tensor, or its name in Keras (default: none).
        bias: whether there is a bias, which starts at zero; or the array, of shape `(out,)`.
        init: how `W` starts: a Keras initialiser or its name, or a function of `(shape, dtype)`.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer with the variables `weight`, which is `W`, and `bias`. `layer(x, y)`, or
        `layer((x, y))`, takes inputs of shapes `(..., in1)` and `(..., in2)` and returns
        `(..., out)`; `layer(x)` is `layer(x, x)`.

    Raises:
        ValueError: if the arguments are none of the above.
        ShapeError: if the bias does not fit; when called on inputs of other last axes, or of which
            the other axes differ.

    Example:
        >>> layer = Bilinear((5, 6), 7)
        >>> x, y = np.random.rand(32, 5), np.random.rand(32, 6)
        >>> layer(x, y).shape
        TensorShape([32, 7])
        >>> z = [x[0] @ W @ y[0] for W in layer.weight.numpy()]
        >>> bool(np.allclose(layer(x, y)[0], z, atol=1e-5))
        True
        >>> print(layer)
        Bilinear((5, 6) => 7)

    Source: Flux's `Bilinear`.
    """

    expected = "sizes (in1, in2), out and an activation"
    weight_name = "kernel"

    def __init__(
        self, *sizes: Any, bias: Any = True, init: Any = "glorot_uniform", **keras_options: Any
    ) -> None:
        super().__init__(*sizes, bias=bias, init=init, **keras_options)

    def shape(self, sizes: tuple[int, ...], *, is_array: bool) -> tuple[int, ...] | None:
        if is_array:
            return sizes if len(sizes) == 3 else None
        if len(sizes) not in (2, 3):
            return None
        *inputs, out = sizes
        return out, inputs[0], inputs[-1]

    def bias_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:1]

    @property
    def input_size(self) -> int | None:
        """The length of the last axis of the input, if it may be one."""
        return self.sizes[1] if self.sizes[1] == self.sizes[2] else None

    def call(self, x: Any, y: Any = None) -> Tensor:
        _, *sizes = self.sizes
        if isinstance(x, tuple | list):
            if len(x) != 2:
                raise ShapeError(f"{self} expects one or two inputs, got {len(x)}.")
            x, y = x
        y = x if y is None else y
        fit = [
            len(a.shape) and a.shape[-1] in (None, n) for a, n in zip((x, y), sizes, strict=True)
        ]
        if not all(fit) or not x.shape[:-1].is_compatible_with(y.shape[:-1]):
            raise ShapeError(
                f"{self} expects inputs of shapes (..., {sizes[0]}) and (..., {sizes[1]}), "
                f"got {tuple(x.shape)} and {tuple(y.shape)}."
            )
        x, y = tf.cast(x, self.compute_dtype), tf.cast(y, self.compute_dtype)
        # Not an einsum with an ellipsis: TensorFlow 2.16 gets it wrong on some processors.
        return self.activated(tf.linalg.matvec(tf.tensordot(x, self.weight, [[-1], [1]]), y))

    def get_config(self) -> dict[str, Any]:
        out, *inputs = self.sizes
        return {**super().get_config(), "sizes": [inputs, out]}

    def __repr__(self) -> str:
        return self._print(", ")

    def __str__(self) -> str:
        return self._print(" => ")

    def _print(self, arrow: str) -> str:
        out, first, second = self.sizes
        inputs = first if first == second else (first, second)
        return f"Bilinear({', '.join([f'{inputs}{arrow}{out}', *options(self)])})"


@keras.saving.register_keras_serializable(package="fluxkeras")
class Embedding(FluxLayer, keras.layers.Embedding):
    """A vector for each index.

    `y = embeddings[x]`, or `x @ embeddings` for one-hot `x`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`: how many indices there are, and the length of
            the vectors; or the array of them, of shape `(in, out)`.
        init: how the vectors start: a Keras initialiser or its name, or a function of
            `(shape, dtype)`. By default, with normal numbers of mean 0 and standard deviation 1.
        padding_idx: an index whose vector starts at zero and is not trained.
        **keras_options: those of `keras.layers.Embedding`, such as `name`.

    Returns:
        A layer with the variable `embeddings`, of shape `(in, out)`. It takes an index from 0 to
        `in - 1`, or an array of whole numbers, and returns its shape with `(out,)` behind it; or an
        array of Booleans or fractions that is one-hot along the last axis, of length `in`, and
        returns `(..., out)`. Fractions of another last axis are taken for indices, as Keras does.

    Raises:
        ValueError: if the arguments are none of the above, or `padding_idx` is no index; when
            called on another index, but inside a compiled function.
        ShapeError: when called on one-hot arrays of another last axis.

    Example:
        >>> layer = Embedding(26, 4, init=identity_init(gain=22))
        >>> layer(1).numpy().tolist()
        [0.0, 22.0, 0.0, 0.0]
        >>> layer(np.zeros((10, 12), int)).shape
        TensorShape([10, 12, 4])
        >>> print(layer)
        Embedding(26 => 4)

    Source: Flux's `Embedding`, whose array is `(out, in)`. Keras's starts at ±0.05.
    """

    def __init__(
        self,
        *sizes: Any,
        init: Any = randn32,
        padding_idx: int | None = None,
        **keras_options: Any,
    ) -> None:
        given = Arguments.of(sizes, bias=False)
        if given is None or len(given.sizes) != 2 or given.activation is not None:
            kind = type(self).__name__
            words = ", ".join(map(describe, sizes))
            raise ValueError(f"{kind} expects two sizes, got ({words}). Write {kind}(1000, 64).")
        if padding_idx is not None and not 0 <= padding_idx < given.sizes[0]:
            raise ValueError(
                f"{type(self).__name__} expects a padding_idx from 0 to {given.sizes[0] - 1}, "
                f"got {padding_idx}."
            )
        super().__init__(*given.sizes, embeddings_initializer=initialiser(init), **keras_options)
        self.padding_idx = padding_idx
        self.build()
        given.fill(self, self.embeddings, None)
        if padding_idx is not None:
            others = np.arange(given.sizes[0])[:, None] != padding_idx
            self.embeddings.assign(self.embeddings * others.astype(self.variable_dtype))

    def build(self, input_shape: Any = None) -> None:
        if not self.built:
            super().build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        return self.looked_up(x)

    def looked_up(self, x: Tensor) -> Tensor:
        """The vectors of indices, or of one-hot arrays."""
        is_onehot = self.is_onehot(x)
        if is_onehot:
            hot = keras.ops.cast(x, self.compute_dtype)
            y = keras.ops.tensordot(hot, self.embeddings, 1)
        else:
            self._check_range(x)
            y = super().call(x)
        if self.padding_idx is None:
            return y
        is_padding = x[..., self.padding_idx] if is_onehot else tf.equal(x, self.padding_idx)
        return tf.where(is_padding[..., None], tf.stop_gradient(y), y)

    def _check_range(self, x: Tensor) -> None:
        if (index := outside(x, self.input_dim)) is not None:
            raise ValueError(f"{self} expects indices from 0 to {self.input_dim - 1}, got {index}.")

    def is_onehot(self, x: Tensor) -> bool:
        """Whether `x` is to be read as one-hot arrays: Booleans, or fractions of that length."""
        fits = len(x.shape) > 0 and x.shape[-1] == self.input_dim
        if x.dtype == "bool" and not fits:
            raise ShapeError(
                f"{self} expects one-hot inputs of shape (..., {self.input_dim}), "
                f"got {tuple(x.shape)}."
            )
        return fits and not tf.as_dtype(x.dtype).is_integer

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Keras's formula knows neither one-hot arrays nor bags.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["sizes"] = [config.pop("input_dim"), config.pop("output_dim")]
        config["init"] = config.pop("embeddings_initializer")
        return {**config, "padding_idx": self.padding_idx}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(*config.pop("sizes"), **config)

    def __repr__(self) -> str:
        return self._print(", ")

    def __str__(self) -> str:
        return self._print(" => ")

    def _print(self, arrow: str) -> str:
        words = [f"{self.input_dim}{arrow}{self.output_dim}", *self.words()]
        return f"{type(self).__name__}({', '.join(words)})"

    def words(self) -> list[str]:
        """The other arguments, where they are not at their defaults."""
        return [] if self.padding_idx is None else [f"padding_idx={self.padding_idx}"]


REDUCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "mean": (tf.reduce_mean, tf.math.unsorted_segment_mean),
    "sum": (tf.reduce_sum, tf.math.unsorted_segment_sum),
    "max": (tf.reduce_max, tf.math.unsorted_segment_max),
}


@keras.saving.register_keras_serializable(package="fluxkeras")
class EmbeddingBag(Embedding):
    """A vector for each bag of indices: the mean, sum or greatest of the vectors of these.

    `y = mean(embeddings[x], axis=-2)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`, or the array of vectors, as those of
            `Embedding`; then, if wanted, the reduction, `"mean"` (the default), `"sum"` or `"max"`.
        init: how the vectors start: a Keras initialiser or its name, or a function of
            `(shape, dtype)`. By default, with normal numbers of mean 0 and standard deviation 1.
        **keras_options: those of `keras.layers.Embedding`, such as `name`.

    Returns:
        A layer with the variable `embeddings`, of shape `(in, out)`. It takes

        - `(bag,)` or `(..., bag)` indices, and returns `(out,)` or `(..., out)`;
        - a list of bags of any lengths, and returns `(bags, out)`;
        - `layer(indices, offsets)`: the indices of all bags, and where among them each begins;
        - any of these with one-hot arrays for indices.

    Raises:
        ValueError: if the arguments are none of the above; when called on another index, but inside
            a compiled function.
        ShapeError: when called on a single index, an empty bag, or offsets that do not start at 0,
            grow, and stay below the number of indices.

    Example:
        >>> layer = EmbeddingBag(26, 3, init=identity_init(gain=6))
        >>> layer([[2, 0, 2], [1, 0]]).numpy().tolist()
        [[2.0, 0.0, 4.0], [3.0, 3.0, 0.0]]
        >>> layer([2, 0, 2, 1, 0], [0, 3]).numpy().tolist()
        [[2.0, 0.0, 4.0], [3.0, 3.0, 0.0]]
        >>> print(EmbeddingBag(26, 3, "sum"))
        EmbeddingBag(26 => 3, 'sum')

    Source: Flux's `EmbeddingBag`, whose offsets start at 1.
    """

    def __init__(self, *sizes: Any, init: Any = randn32, **keras_options: Any) -> None:
        *rest, last = sizes or [None]
        is_reduction = isinstance(last, str) or callable(last)
        reduction = last if is_reduction else "mean"
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"EmbeddingBag expects a reduction of {', '.join(REDUCTIONS)}, "
                f"got {describe(reduction) if callable(reduction) else repr(reduction)}."
            )
        super().__init__(*(rest if is_reduction else sizes), init=init, **keras_options)
        self.reduction = reduction

    def __call__(self, x: Any, offsets: Any = None, **kwargs: Any) -> Any:
        if isinstance(x, tuple) and offsets is None and len(x) == 2:
            x, offsets = x
        if isinstance(x, tf.RaggedTensor):
            x, offsets = x.values, x.row_starts()
        elif offsets is None and isinstance(x, list) and len(np.shape(x[0] if x else ())) > 0:
            x, offsets = self._joined([tf.convert_to_tensor(bag) for bag in x])
        if offsets is None:
            return super().__call__(x, **kwargs)
        self._check(offsets, len(x) if isinstance(x, list) else x.shape[0])
        return super().__call__(x, offsets, **kwargs)

    def call(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        if len(x.shape) < 1 + self.is_onehot(x):
            raise ShapeError(f"{self} expects bags of indices, got just one index.")
        whole, in_segments = REDUCTIONS[self.reduction]
        y = self.looked_up(x)
        if offsets is None:
            return whole(y, axis=-2)
        places = tf.range(tf.shape(x)[0])
        bags = tf.searchsorted(tf.cast(offsets, places.dtype), places, side="right") - 1
        return in_segments(y, bags, tf.shape(offsets)[0])

    def _joined(self, bags: list[Tensor]) -> tuple[Tensor, Any]:
        """Bags as one array, and where each begins if they are not of one length."""
        lengths = [bag.shape[0] for bag in bags]
        if 0 in lengths:
            raise ShapeError(f"{self} expects bags of one index or more, got lengths {lengths}.")
        if len(set(lengths)) == 1:
            return tf.stack(bags), None
        return tf.concat(bags, 0), np.cumsum([0, *lengths[:-1]])

    def _check(self, offsets: Any, length: int | None) -> None:
        if not (isinstance(offsets, list | np.ndarray) or hasattr(offsets, "numpy")):
            return  # inside a compiled function they have no values yet
        starts = np.asarray(offsets)
        is_growing = starts.ndim == 1 and starts[:1].tolist() == [0] and np.all(np.diff(starts) > 0)
        if not is_growing or (length is not None and starts[-1] >= length):
            raise ShapeError(
                f"{self} expects offsets that start at 0, grow, and stay below the number of "
                f"indices, {length}, got {starts.tolist()}."
            )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["padding_idx"]
        return config | {"sizes": [*config["sizes"], self.reduction]}

    def words(self) -> list[str]:
        return [] if self.reduction == "mean" else [repr(self.reduction)]
