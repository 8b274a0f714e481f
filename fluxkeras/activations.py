"""Activations: functions of a tensor, element by element unless they take `dims`.

Each takes anything that has numbers and returns a tensor of the same shape and floating-point
dtype; Python numbers, lists and integers become `keras.config.floatx()`. All are thin over
`keras.ops`, so they work eagerly, in `tf.function`, under XLA and on symbolic Keras tensors.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

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

serializable = keras.saving.register_keras_serializable(package="fluxkeras")


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

    return serializable(on_tensor)


@activation
def σ(x: Tensor) -> Tensor:
    """The logistic function, `1 / (1 + exp(-x))` (NNlib's `σ`).

    >>> float(σ(0.0))
    0.5
    """
    return ops.sigmoid(x)


@activation
def hardσ(x: Tensor) -> Tensor:
    """A piecewise linear `σ`, `clip((x + 3) / 6, 0, 1)` (NNlib's `hardσ`, MobileNetV3).

    >>> float(hardσ(1.5))
    0.75
    """
    return ops.relu6(x + 3) / 6


@activation
def logσ(x: Tensor) -> Tensor:
    """`log(σ(x)) = -softplus(-x)` (NNlib's `logσ`).

    >>> float(logσ(-1000.0))
    -1000.0
    """
    return ops.log_sigmoid(x)


@activation
def hardtanh(x: Tensor) -> Tensor:
    """`clip(x, -1, 1)` (NNlib's `hardtanh`).

    >>> float(hardtanh(3.0))
    1.0
    """
    return ops.clip(x, -1, 1)


@activation
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent (NNlib's `tanh_fast`).

    >>> round(float(tanh(1.0)), 4)
    0.7616
    """
    return ops.tanh(x)


@activation
def relu(x: Tensor) -> Tensor:
    """`max(0, x)` (NNlib's `relu`).

    >>> float(relu(-1.0))
    0.0
    """
    return ops.relu(x)


@activation
def relu6(x: Tensor) -> Tensor:
    """`min(max(0, x), 6)` (NNlib's `relu6`, MobileNets).

    >>> float(relu6(7.0))
    6.0
    """
    return ops.relu6(x)


@activation
def leakyrelu(x: Tensor, a: float = 0.01) -> Tensor:
    """`x if x > 0 else a * x`, with `a` the slope below zero (NNlib's `leakyrelu`).

    >>> round(float(leakyrelu(-1.0)), 4), float(leakyrelu(-1.0, 0.5))
    (-0.01, -0.5)
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

    >>> -1 / 3 <= float(rrelu(-1.0)) <= -1 / 8
    True

    As NNlib's `rrelu`, it is random when testing as well (Xu et al. 2015).
    """
    return leakyrelu(x, UniformLike(lo, hi)(x))


@activation
def elu(x: Tensor, α: float = 1.0) -> Tensor:
    """`x if x > 0 else α * (exp(x) - 1)`, bounded below by `-α` (NNlib's `elu`).

    >>> round(float(elu(-1.0)), 4)
    -0.6321
    """
    return ops.elu(x, α)


@activation
def selu(x: Tensor) -> Tensor:
    """`1.0507 * elu(x, α=1.6733)`, which keeps mean 0 and variance 1 (NNlib's `selu`).

    >>> round(float(selu(-1.0)), 4)
    -1.1113
    """
    # ops.selu has one gradient at 0 under XLA and another one elsewhere.
    return 1.0507009873554805 * ops.elu(x, 1.6732632423543772)


@activation
def celu(x: Tensor, α: float = 1.0) -> Tensor:
    """`max(0, x) + min(0, α * (exp(x / α) - 1))`, bounded below by `-α` (NNlib's `celu`).

    >>> round(float(celu(-1.0, α=2.0)), 4)
    -0.7869
    """
    return ops.where(x > 0, x, α * ops.elu(x / α))


def _cubic(x: Tensor) -> Tensor:
    # Beyond 30, tanh and σ of this are constant in any dtype, while its cube may overflow.
    z = ops.clip(x, -30, 30)
    return math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)


@activation
def gelu_tanh(x: Tensor) -> Tensor:
    """`0.5 * x * (1 + tanh(√(2/π) * (x + 0.044715 * x**3)))` (NNlib's `gelu`).

    >>> round(float(gelu(1.0)), 4)
    0.8412
    """
    return 0.5 * x * (1 + ops.tanh(_cubic(x)))


@activation
def gelu_sigmoid(x: Tensor) -> Tensor:
    """`x * σ(√(8/π) * (x + 0.044715 * x**3))`, equal to `gelu_tanh` (NNlib's `gelu_sigmoid`).

    >>> round(float(gelu_sigmoid(1.0)), 4)
    0.8412
    """
    return x * ops.sigmoid(2 * _cubic(x))


@activation
def gelu_erf(x: Tensor) -> Tensor:
    """`0.5 * x * (1 + erf(x / √2))`, Keras's `gelu` (NNlib's `gelu_erf`; Hendrycks 2016).

    >>> round(float(gelu_erf(1.0)), 4)
    0.8413
    """
    # ops.gelu keeps its √2 in single precision, whatever the dtype of x.
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


@activation
def swish(x: Tensor) -> Tensor:
    """`x * σ(x)`, also known as SiLU (NNlib's `swish`).

    >>> round(float(swish(1.0)), 4)
    0.7311
    """
    return x * ops.sigmoid(x)


@activation
def hardswish(x: Tensor) -> Tensor:
    """`x * hardσ(x)` (NNlib's `hardswish`, MobileNetV3).

    >>> round(float(hardswish(1.0)), 4)
    0.6667
    """
    return x * hardσ(x)


@activation
def lisht(x: Tensor) -> Tensor:
    """`x * tanh(x)` (NNlib's `lisht`; Roy et al. 2019).

    >>> round(float(lisht(-1.0)), 4)
    0.7616
    """
    return x * ops.tanh(x)


@activation
def trelu(x: Tensor, theta: float = 1.0) -> Tensor:
    """`x if x > theta else 0` (NNlib's `trelu`; Konda et al. 2014).

    >>> float(trelu(0.9)), float(trelu(2.0))
    (0.0, 2.0)
    """
    return ops.where(x > theta, x, ops.zeros_like(x))


@activation
def softsign(x: Tensor) -> Tensor:
    """`x / (1 + abs(x))` (NNlib's `softsign`).

    >>> float(softsign(1.0))
    0.5
    """
    return ops.softsign(x)


@activation
def softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))` (NNlib's `softplus`).

    >>> float(softplus(1000.0))
    1000.0
    """
    return ops.softplus(x)


@activation
def logcosh(x: Tensor) -> Tensor:
    """`log(cosh(x)) = x + softplus(-2 * x) - log(2)` (NNlib's `logcosh`).

    >>> round(float(logcosh(1.0)), 4)
    0.4338
    """
    return x + ops.softplus(-2 * x) - math.log(2)


@activation
def mish(x: Tensor) -> Tensor:
    """`x * tanh(softplus(x))` (NNlib's `mish`; Misra 2019).

    >>> round(float(mish(1.0)), 4)
    0.8651
    """
    return x * ops.tanh(ops.softplus(x))


@activation
def tanhshrink(x: Tensor) -> Tensor:
    """`x - tanh(x)` (NNlib's `tanhshrink`).

    >>> round(float(tanhshrink(1.0)), 4)
    0.2384
    """
    return x - ops.tanh(x)


@activation
def softshrink(x: Tensor, λ: float = 0.5) -> Tensor:
    """`sign(x) * max(abs(x) - λ, 0)` (NNlib's `softshrink`).

    >>> float(softshrink(-2.0)), float(softshrink(0.4))
    (-1.5, 0.0)
    """
    return x - ops.clip(x, -λ, λ)


@activation
def glu(x: Tensor, dims: int = -1) -> Tensor:
    """`a * σ(b)`, where `a` and `b` are the two halves of `x` along the axis `dims`.

    >>> glu([[1.0, 2.0, 0.0, 0.0]]).numpy().tolist()
    [[0.5, 1.0]]

    Raises ShapeError if that axis is of odd length. As NNlib's `glu` (Dauphin et al. 2016).
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
    """`exp(x) / sum(exp(x))`, where the sum is along the axis or axes `dims` (NNlib's `softmax`).

    >>> softmax([[0.0, 0.0], [1000.0, 0.0]]).numpy().tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    return ops.softmax(x, axis=dims) if isinstance(dims, int) else ops.exp(logsoftmax(x, dims))


@activation
def logsoftmax(x: Tensor, dims: int | tuple[int, ...] = -1) -> Tensor:
    """`log(softmax(x, dims)) = x - logsumexp(x, dims)` (NNlib's `logsoftmax`).

    >>> logsoftmax([1000.0, 0.0]).numpy().tolist()
    [0.0, -1000.0]
    """
    if isinstance(dims, int):
        return ops.log_softmax(x, axis=dims)
    # Keras takes several axes only if all are counted from the front and no length is open.
    x = x - ops.max(x, axis=dims, keepdims=True)
    return x - ops.log(ops.sum(ops.exp(x), axis=dims, keepdims=True))


@activation
def logsumexp(x: Tensor, dims: int | tuple[int, ...] | None = None) -> Tensor:
    """`log(sum(exp(x)))` over the axis or axes `dims`, which go (NNlib's `logsumexp`).

    >>> round(float(logsumexp([[0.0, 0.0], [0.0, 0.0]])), 4)  # over everything: log(4)
    1.3863
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
