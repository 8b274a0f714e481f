"""Activations: functions of a tensor, element by element unless they take `dims`.

Each takes anything that has numbers and returns a tensor of the same shape and floating-point
dtype; Python numbers, lists and integers become `keras.config.floatx()`. All are thin over
`keras.ops`, so they work eagerly, in `tf.function`, under XLA and on symbolic Keras tensors.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import keras
import tensorflow as tf
from keras import ops

from fluxkeras.checks import ShapeError

# fmt: off
__all__ = [
    "celu", "elu", "gelu", "gelu_erf", "gelu_sigmoid", "gelu_tanh", "glu", "hardsigmoid",
    "hardswish", "hardtanh", "hardσ", "leakyrelu", "lisht", "logcosh", "logsigmoid", "logsoftmax",
    "logsumexp", "logσ", "mish", "relu", "relu6", "rrelu", "selu", "sigmoid", "sigmoid_fast",
    "softmax", "softplus", "softshrink", "softsign", "swish", "tanh", "tanh_fast", "tanhshrink",
    "thresholdrelu", "trelu", "σ",
]
# fmt: on

Tensor: TypeAlias = Any
Function = TypeVar("Function", bound=Callable[..., Any])

serializable: Callable[[Function], Function] = keras.saving.register_keras_serializable(
    package="fluxkeras"
)


def float_tensor(x: Any) -> Tensor:
    """`x` as a tensor of its own floating-point dtype, or of Keras's default if it has none."""
    if not isinstance(x, keras.KerasTensor):
        has_dtype = hasattr(x, "dtype")
        x = tf.convert_to_tensor(x, dtype_hint=None if has_dtype else keras.config.floatx())
    kind = tf.as_dtype(x.dtype)
    return x if kind.is_floating or kind.is_complex else ops.cast(x, keras.config.floatx())


def activation(function: Function) -> Function:
    """Give `function` a tensor whatever it is called with, and let Keras save it by name."""

    @functools.wraps(function)
    def on_tensor(x: Any, *args: Any, **kwargs: Any) -> Tensor:
        return function(float_tensor(x), *args, **kwargs)

    return serializable(cast(Function, on_tensor))


@activation
def σ(x: Tensor) -> Tensor:
    """The logistic function, `1 / (1 + exp(-x))`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(σ(0.0))
        0.5

    Source: NNlib's `σ`.
    """
    return ops.sigmoid(x)


@activation
def hardσ(x: Tensor) -> Tensor:
    """A piecewise linear `σ`, `clip((x + 3) / 6, 0, 1)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(hardσ(1.5))
        0.75

    Source: NNlib's `hardσ`; MobileNetV3.
    """
    return ops.relu6(x + 3) / 6


@activation
def logσ(x: Tensor) -> Tensor:
    """`log(σ(x)) = -softplus(-x)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(logσ(-1000.0))
        -1000.0

    Source: NNlib's `logσ`.
    """
    return ops.log_sigmoid(x)


@activation
def hardtanh(x: Tensor) -> Tensor:
    """`clip(x, -1, 1)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(hardtanh(3.0))
        1.0

    Source: NNlib's `hardtanh`.
    """
    return ops.clip(x, -1, 1)


@activation
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(tanh(1.0)), 4)
        0.7616

    Source: NNlib's `tanh_fast`.
    """
    return ops.tanh(x)


@activation
def relu(x: Tensor) -> Tensor:
    """`max(0, x)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(relu(-1.0))
        0.0

    Source: NNlib's `relu`.
    """
    return ops.relu(x)


@activation
def relu6(x: Tensor) -> Tensor:
    """`min(max(0, x), 6)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(relu6(7.0))
        6.0

    Source: NNlib's `relu6`; MobileNets.
    """
    return ops.relu6(x)


@activation
def leakyrelu(x: Tensor, a: float = 0.01) -> Tensor:
    """`x if x > 0 else a * x`, with `a` the slope below zero.

    Args:
        x: a tensor, or anything else that has numbers.
        a: the slope below zero.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(leakyrelu(-1.0)), 4), float(leakyrelu(-1.0, 0.5))
        (-0.01, -0.5)

    Source: NNlib's `leakyrelu`.
    """
    # ops.leaky_relu keeps its slope in single precision, whatever the dtype of x.
    return ops.where(x > 0, x, a * x)


@serializable
class UniformLike(keras.Operation):
    """Random numbers between `lo` and `hi`, anew at every call, of the shape and dtype of `x`.

    `keras.random.uniform` by itself does not take the open batch axis of a symbolic tensor.
    """

    def __init__(self, lo: float, hi: float) -> None:
        super().__init__()
        self.lo, self.hi = lo, hi

    def call(self, x: Tensor) -> Tensor:
        return keras.random.uniform(ops.shape(x), self.lo, self.hi, dtype=x.dtype)

    def compute_output_spec(self, x: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, x.dtype)


@activation
def rrelu(x: Tensor, lo: float = 1 / 8, hi: float = 1 / 3) -> Tensor:
    """`x if x > 0 else a * x`, with each `a` random between `lo` and `hi`, anew at every call.

    It is random when testing as well.

    Args:
        x: a tensor, or anything else that has numbers.
        lo: the least slope below zero.
        hi: the greatest.

    Returns:
        A tensor of the same shape.

    Example:
        >>> -1 / 3 <= float(rrelu(-1.0)) <= -1 / 8
        True

    Source: NNlib's `rrelu`; Xu et al. 2015.
    """
    return leakyrelu(x, UniformLike(lo, hi)(x))


@activation
def elu(x: Tensor, α: float = 1.0) -> Tensor:
    """`x if x > 0 else α * (exp(x) - 1)`, bounded below by `-α`.

    Args:
        x: a tensor, or anything else that has numbers.
        α: how far below zero it goes.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(elu(-1.0)), 4)
        -0.6321

    Source: NNlib's `elu`.
    """
    return ops.elu(x, α)


@activation
def selu(x: Tensor) -> Tensor:
    """`1.0507 * elu(x, α=1.6733)`, which keeps mean 0 and variance 1.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(selu(-1.0)), 4)
        -1.1113

    Source: NNlib's `selu`.
    """
    # ops.selu has one gradient at 0 under XLA and another one elsewhere.
    return 1.0507009873554805 * ops.elu(x, 1.6732632423543772)


@activation
def celu(x: Tensor, α: float = 1.0) -> Tensor:
    """`max(0, x) + min(0, α * (exp(x / α) - 1))`, bounded below by `-α`.

    Args:
        x: a tensor, or anything else that has numbers.
        α: how far below zero it goes.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(celu(-1.0, α=2.0)), 4)
        -0.7869

    Source: NNlib's `celu`.
    """
    return ops.where(x > 0, x, α * ops.elu(x / α))


def _cubic(x: Tensor) -> Tensor:
    # Beyond 30, tanh and σ of this are constant in any dtype, while its cube may overflow.
    z = ops.clip(x, -30, 30)
    return math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)


@activation
def gelu_tanh(x: Tensor) -> Tensor:
    """`0.5 * x * (1 + tanh(√(2/π) * (x + 0.044715 * x**3)))`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(gelu(1.0)), 4)
        0.8412

    Source: NNlib's `gelu_tanh`, also called `gelu`.
    """
    return 0.5 * x * (1 + ops.tanh(_cubic(x)))


@activation
def gelu_sigmoid(x: Tensor) -> Tensor:
    """`x * σ(√(8/π) * (x + 0.044715 * x**3))`, equal to `gelu_tanh`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(gelu_sigmoid(1.0)), 4)
        0.8412

    Source: NNlib's `gelu_sigmoid`.
    """
    return x * ops.sigmoid(2 * _cubic(x))


@activation
def gelu_erf(x: Tensor) -> Tensor:
    """`0.5 * x * (1 + erf(x / √2))`, Keras's `gelu`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(gelu_erf(1.0)), 4)
        0.8413

    Source: NNlib's `gelu_erf`; Hendrycks 2016.
    """
    # ops.gelu keeps its √2 in single precision, whatever the dtype of x.
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


@activation
def swish(x: Tensor) -> Tensor:
    """`x * σ(x)`, also known as SiLU.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(swish(1.0)), 4)
        0.7311

    Source: NNlib's `swish`.
    """
    return x * ops.sigmoid(x)


@activation
def hardswish(x: Tensor) -> Tensor:
    """`x * hardσ(x)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(hardswish(1.0)), 4)
        0.6667

    Source: NNlib's `hardswish`; MobileNetV3.
    """
    return x * hardσ(x)


@activation
def lisht(x: Tensor) -> Tensor:
    """`x * tanh(x)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(lisht(-1.0)), 4)
        0.7616

    Source: NNlib's `lisht`; Roy et al. 2019.
    """
    return x * ops.tanh(x)


@activation
def trelu(x: Tensor, theta: float = 1.0) -> Tensor:
    """`x if x > theta else 0`.

    Args:
        x: a tensor, or anything else that has numbers.
        theta: the threshold.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(trelu(0.9)), float(trelu(2.0))
        (0.0, 2.0)

    Source: NNlib's `trelu`; Konda et al. 2014.
    """
    return ops.where(x > theta, x, ops.zeros_like(x))


@activation
def softsign(x: Tensor) -> Tensor:
    """`x / (1 + abs(x))`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(softsign(1.0))
        0.5

    Source: NNlib's `softsign`.
    """
    return ops.softsign(x)


@activation
def softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(softplus(1000.0))
        1000.0

    Source: NNlib's `softplus`.
    """
    return ops.softplus(x)


@activation
def logcosh(x: Tensor) -> Tensor:
    """`log(cosh(x)) = x + softplus(-2 * x) - log(2)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(logcosh(1.0)), 4)
        0.4338

    Source: NNlib's `logcosh`.
    """
    return x + ops.softplus(-2 * x) - math.log(2)


@activation
def mish(x: Tensor) -> Tensor:
    """`x * tanh(softplus(x))`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(mish(1.0)), 4)
        0.8651

    Source: NNlib's `mish`; Misra 2019.
    """
    return x * ops.tanh(ops.softplus(x))


@activation
def tanhshrink(x: Tensor) -> Tensor:
    """`x - tanh(x)`.

    Args:
        x: a tensor, or anything else that has numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(tanhshrink(1.0)), 4)
        0.2384

    Source: NNlib's `tanhshrink`.
    """
    return x - ops.tanh(x)


@activation
def softshrink(x: Tensor, λ: float = 0.5) -> Tensor:
    """`sign(x) * max(abs(x) - λ, 0)`.

    Args:
        x: a tensor, or anything else that has numbers.
        λ: what is taken away.

    Returns:
        A tensor of the same shape.

    Example:
        >>> float(softshrink(-2.0)), float(softshrink(0.4))
        (-1.5, 0.0)

    Source: NNlib's `softshrink`.
    """
    return x - ops.clip(x, -λ, λ)


@activation
def glu(x: Tensor, dims: int = -1) -> Tensor:
    """`a * σ(b)`, where `a` and `b` are the two halves of `x` along the axis `dims`.

    Args:
        x: a tensor, or anything else that has numbers.
        dims: the axis that is halved, by default the last one.

    Returns:
        A tensor whose axis `dims` is half as long.

    Raises:
        ShapeError: if that axis is of odd length.

    Example:
        >>> glu([[1.0, 2.0, 0.0, 0.0]]).numpy().tolist()
        [[0.5, 1.0]]

    Source: NNlib's `glu`; Dauphin et al. 2016.
    """
    length = x.shape[dims]
    if length is not None and length % 2:
        raise ShapeError(
            f"glu expects an axis {dims} of even length, got shape {tuple(x.shape)}. "
            "Half of it gates the other half: double the size of the layer before it."
        )
    a, b = ops.split(x, 2, axis=dims)
    return a * ops.sigmoid(b)


@activation
def softmax(x: Tensor, dims: int | tuple[int, ...] = -1) -> Tensor:
    """`exp(x) / sum(exp(x))`, where the sum is along the axis or axes `dims`.

    Args:
        x: a tensor, or anything else that has numbers.
        dims: the axis or axes, by default the last one, that of classes.

    Returns:
        A tensor of the same shape.

    Example:
        >>> softmax([[0.0, 0.0], [1000.0, 0.0]]).numpy().tolist()
        [[0.5, 0.5], [1.0, 0.0]]

    Source: NNlib's `softmax`.
    """
    return ops.softmax(x, axis=dims) if isinstance(dims, int) else ops.exp(logsoftmax(x, dims))


@activation
def logsoftmax(x: Tensor, dims: int | tuple[int, ...] = -1) -> Tensor:
    """`log(softmax(x, dims)) = x - logsumexp(x, dims)`.

    Args:
        x: a tensor, or anything else that has numbers.
        dims: the axis or axes, by default the last one, that of classes.

    Returns:
        A tensor of the same shape.

    Example:
        >>> logsoftmax([1000.0, 0.0]).numpy().tolist()
        [0.0, -1000.0]

    Source: NNlib's `logsoftmax`.
    """
    if isinstance(dims, int):
        return ops.log_softmax(x, axis=dims)
    # Keras takes several axes only if all are counted from the front and no length is open.
    x = x - ops.max(x, axis=dims, keepdims=True)
    return x - ops.log(ops.sum(ops.exp(x), axis=dims, keepdims=True))


@activation
def logsumexp(x: Tensor, dims: int | tuple[int, ...] | None = None) -> Tensor:
    """`log(sum(exp(x)))` over the axis or axes `dims`, which go.

    Args:
        x: a tensor, or anything else that has numbers.
        dims: the axis or axes, by default all of them.

    Returns:
        A tensor without these axes.

    Example:
        >>> round(float(logsumexp([[0.0, 0.0], [0.0, 0.0]])), 4)  # over everything: log(4)
        1.3863

    Source: NNlib's `logsumexp`.
    """
    # The cast costs nothing: Keras takes the result for single precision while x is symbolic.
    return ops.cast(ops.logsumexp(x, axis=dims), x.dtype)


sigmoid = σ
sigmoid_fast = σ
hardsigmoid = hardσ
logsigmoid = logσ
tanh_fast = tanh
gelu = gelu_tanh
thresholdrelu = trelu
