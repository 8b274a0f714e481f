"""Conv and its kin: kernels that move over one, two or three axes, and how they step and pad."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.layers.core import FluxLayer
from fluxkeras.layers.printing import describe

__all__ = ["Conv", "ConvTranspose", "CrossCor", "DepthwiseConv", "SamePad"]

Tensor: TypeAlias = Any
Numbers: TypeAlias = tuple[int, ...]

AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}
FORMATS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


# --- How windows step and pad --------------------------------------------------------------------


class SamePad:
    """As padding: as much as leaves the size of the input, where the stride is 1.

    `d * (k - 1)` zeros along an axis with a window of `k` and a dilation of `d`, of which the
    larger half comes first. With a stride of `s`, a size of `n` becomes `ceil(n / s)`; that of
    `ConvTranspose`, which takes away `d * (k - s)`, becomes `n * s` if `d` is 1.

    Returns:
        What the layers with windows take as `pad`.

    Example:
        >>> Conv((3, 3), 1, 16, pad=SamePad())
        Conv((3, 3), 1, 16, pad=1)
        >>> Conv((4,), 1, 16, pad=SamePad())
        Conv((4,), 1, 16, pad=(2, 1))

    Source: Flux's `SamePad`. Keras's `padding="same"` puts the larger half last, and depends on the
        stride and the size: its numbers differ for even windows and for strides above 1.
    """

    def of(self, size: Numbers, dilation: Numbers, step: Numbers) -> Numbers:
        """The zeros before and after each axis."""
        totals = [d * (k - s) for k, d, s in zip(size, dilation, step, strict=True)]
        return tuple(half for total in totals for half in (total - total // 2, total // 2))

    def __repr__(self) -> str:
        return "SamePad()"


def checked_window(owner: str, size: Any) -> Numbers:
    """The size of a window, one number for each of the axes that it moves over."""
    if not isinstance(size, tuple | list) or not 1 <= len(size) <= 3:
        raise ValueError(
            f"{owner} expects a window of one, two or three sizes, got {describe(size)}. "
            f"Write {owner}((3, 3), …)."
        )
    return per_axis(owner, "window", size, len(size))


def per_axis(owner: str, name: str, given: Any, axes: int, least: int = 1) -> Numbers:
    """One number for each axis, where one may be given for all."""
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,) * axes
    if len(numbers) != axes or not all(is_whole(n) and n >= least for n in numbers):
        raise ValueError(
            f"{owner} expects {name} to be a whole number from {least}, or {axes} of them, "
            f"got {describe(given)}."
        )
    return tuple(map(int, numbers))


def paddings(owner: str, given: Any, axes: int) -> Numbers:
    """How much is added before and after each axis, where one number may be given for both."""
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,) * axes
    if len(numbers) == axes:
        numbers = tuple(n for n in numbers for _ in range(2))
    if len(numbers) != 2 * axes or not all(is_whole(n) and n >= 0 for n in numbers):
        raise ValueError(
            f"{owner} expects pad to be a whole number from 0, {axes} of them, or {2 * axes}: one "
            f"before and one after each axis; got {describe(given)}."
        )
    return tuple(map(int, numbers))


def is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def pairs(numbers: Numbers) -> list[tuple[int, int]]:
    """The paddings of each axis."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def padded(x: Tensor, pad: Numbers, value: float = 0) -> Tensor:
    """`x` with its inner axes grown."""
    return tf.pad(x, [(0, 0), *pairs(pad), (0, 0)], constant_values=value) if any(pad) else x


def sizes(x: Tensor) -> list[Any]:
    """The shape of `x`: numbers where they are known, else tensors."""
    known = zip(tuple(x.shape), tf.unstack(tf.shape(x)), strict=True)
    return [dynamic if n is None else n for n, dynamic in known]


def batch_of_images(layer: Any, x: Tensor, axes: int, channels: int | None = None) -> Tensor:
    """`x` in the dtype of the layer, if it has a batch axis, `axes` others, and the channels."""
    shape = tuple(x.shape)
    fits = channels is None or shape[-1:] in ((channels,), (None,))
    if len(shape) != axes + 2 or not fits:
        remedy = ""
        if len(shape) == axes + 1 and fits:
            remedy = " Give a single input a batch axis: x[None]."
        raise ShapeError(
            f"{layer} expects inputs of shape (batch, {AXES[axes]}, {channels or 'channels'}), "
            f"got {shape}.{remedy}"
        )
    return tf.cast(x, layer.compute_dtype)


def room_for(layer: Any, size: Sequence[int], pad: Numbers, x: Tensor) -> None:
    """Raise an error if a window is larger than what it moves over."""
    shape = tuple(x.shape)
    spare = [sum(p) - k for p, k in zip(pairs(pad), size, strict=True)]
    if any(n is not None and n + s < 0 for n, s in zip(shape[1:-1], spare, strict=True)):
        least = ", ".join(str(max(-s, 1)) for s in spare)
        raise ShapeError(
            f"{layer} expects inputs of at least ({least}) between batch and channels, got {shape}."
        )


def options(**given: tuple[Any, Any]) -> list[str]:
    """How those options print that are not as by default: `(value, default)` of each."""
    words = []
    for name, (value, default) in given.items():
        is_uniform = isinstance(value, tuple) and len(set(value)) == 1
        value = value[0] if is_uniform else value
        if value != default:
            words.append(f"{name}={value}")
    return words


# --- Operations ----------------------------------------------------------------------------------


def correlate(x: Tensor, kernel: Tensor, stride: Numbers, dilation: Numbers) -> Tensor:
    """The sums of the products of a kernel and what it lies on, without padding."""
    if max(stride) > 1 and max(dilation) > 1:  # TensorFlow takes one or the other
        kernel, dilation = spread(kernel, dilation), (1,) * len(dilation)
    return tf.nn.convolution(x, kernel, stride, "VALID", FORMATS[len(stride)], dilation)


def correlate_each(x: Tensor, kernel: Tensor, stride: Numbers, dilation: Numbers) -> Tensor:
    """The same, with a kernel of its own for each channel, over one or two axes."""
    if max(stride) > 1 and max(dilation) > 1:
        kernel, dilation = spread(kernel, dilation), (1,) * len(dilation)
    channels, outputs = x.shape[-1], kernel.shape[-1]
    kernel = tf.reshape(kernel, (*kernel.shape[:-2], channels, outputs // channels))
    return keras.ops.depthwise_conv(x, kernel, stride, "valid", dilation_rate=dilation)


def scatter(x: Tensor, kernel: Tensor, stride: Numbers) -> Tensor:
    """The adjoint of `correlate`: each number of `x` times the kernel, summed where they overlap.

    The channels of the kernel are `(out, in)`. TensorFlow takes no dilation here on a CPU.
    """
    batch, *inner, _ = sizes(x)
    windows = zip(stride, inner, kernel.shape[:-2], strict=True)
    shape = tf.stack([batch, *(s * (n - 1) + k for s, n, k in windows), kernel.shape[-2]])
    return tf.nn.conv_transpose(x, kernel, shape, stride, "VALID", FORMATS[len(stride)])


def spread(kernel: Tensor, dilation: Numbers) -> Tensor:
    """A kernel with `dilation - 1` zeros between its numbers."""
    for axis, step in enumerate(dilation):
        if step > 1:
            size = kernel.shape[axis]
            place = np.arange(step * (size - 1) + 1)
            with_zeros = tf.concat([kernel, tf.zeros_like(kernel)], axis)
            kernel = tf.gather(with_zeros, np.where(place % step, size, place // step), axis=axis)
    return kernel


def in_groups(operation: Callable[..., Tensor], x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """An operation on equal shares of the channels, the results side by side.

    TensorFlow has it as one operation, whose gradient a CPU lacks.
    """
    if groups == 1:
        return operation(x, kernel)
    shares = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
    return tf.concat([operation(*share) for share in shares], axis=-1)


# --- Layers --------------------------------------------------------------------------------------


class SpatialLayer(FluxLayer, keras.Layer):
    """A layer of images: shapes without a batch axis, or that do not fit, are errors of `call`."""

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing `call`, which checks; Keras would ask `compute_output_shape`, which asks here.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.compute_output_spec(keras.KerasTensor(input_shape)).shape


@keras.saving.register_keras_serializable(package="fluxkeras")
class Conv(SpatialLayer):
    """A convolution over one, two or three axes, built at construction.

    `y[i] = σ(sum(x[s * i + d * a] * w[k - 1 - a] for a in range(k)) + b)` with a kernel `w` of
    size `k`, a stride `s` and a dilation `d`, over each axis, and summed over the input channels.

    The kernel is turned round, as mathematics has it, and as Flux has it: a weight array of Flux's
    gives Flux's numbers. Keras does not turn it, and neither does `CrossCor`.

    Args:
        filter: the size of the kernel, a tuple of one number for each axis; or the kernel itself,
            an array of shape `(*filter, in / groups, out)`.
        *sizes: `in, out`, or one tuple `(in, out)`: how many channels the input and the output
            have; then, if wanted, `σ`, the activation: a function of a tensor, or its name in
            Keras (default: none). After a kernel: `bias, σ`, or less.
        stride: by how much the kernel moves on: a number, or one for each axis.
        pad: how many zeros surround the input: a number, one for each axis, two for each axis
            (before and after), or `SamePad()`.
        dilation: how far apart the numbers lie that the kernel looks at: a number, or one for each
            axis.
        groups: into how many equal shares the channels are divided, each with its own outputs.
        bias: whether there is a `b`, which starts at zero; or an array of shape `(out,)`.
        init: how the kernel starts: a Keras initialiser or its name, or a function of
            `(shape, dtype)`.
        **keras_options: those of every Keras layer, such as `name`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, in)` and returns `(batch, *m, out)` with
        `m = (n + pads - d * (k - 1) - 1) // s + 1`.

    Raises:
        ValueError: if `groups` does not divide `in` and `out`, or an option is not as above.
        ShapeError: if `bias` has another shape; when called on an input of another shape, such as
            one image without a batch axis, or smaller than the kernel.

    Example:
        >>> layer = Conv((3, 3), 1, 16, relu, pad=1)
        >>> layer(np.ones((8, 28, 28, 1))).shape
        TensorShape([8, 28, 28, 16])
        >>> print(layer)
        Conv((3, 3), 1 => 16, relu, pad=1)
        >>> w = np.reshape([1.0, 10.0, 100.0], (3, 1, 1))
        >>> Conv(w)(np.reshape([1.0, 2, 3, 4], (1, 4, 1))).numpy().ravel().tolist()
        [123.0, 234.0]

    Source: Flux's `Conv`, whose arrays are `(*n, channels, batch)`.
    """

    def __init__(
        self,
        filter: Any,
        *sizes: Any,
        stride: int | Sequence[int] = 1,
        pad: int | Sequence[int] | SamePad = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: Any = True,
        init: Any = "glorot_uniform",
        activation: Any = None,
        **keras_options: Any,
    ) -> None:
        super().__init__(**keras_options)
        kind, weight = type(self).__name__, None
        if hasattr(filter, "shape"):
            weight = filter
            filter, sizes, bias = self._sizes_of(weight, sizes, groups, bias)
        self.filter = checked_window(kind, filter)
        self.input_channels, self.output_channels, given = _channels(kind, sizes)
        self.activation = keras.activations.get(given or activation)
        self.stride = per_axis(kind, "stride", stride, self.axes)
        self.dilation = per_axis(kind, "dilation", dilation, self.axes)
        self.pad = self.same(pad) if isinstance(pad, SamePad) else paddings(kind, pad, self.axes)
        self.groups = _groups(kind, groups, self.input_channels, self.output_channels)
        start = _bias(kind, bias, self.output_channels)
        self.use_bias = start is not None
        self.init = keras.initializers.get(init)
        self.build((None, *(None,) * self.axes, self.input_channels))
        for variable, value in (self.kernel, weight), (self.bias, start):
            if value is not None:
                variable.assign(value)

    @property
    def axes(self) -> int:
        """How many axes the kernel moves over."""
        return len(self.filter)

    @property
    def kernel_shape(self) -> Numbers:
        return (*self.filter, self.input_channels // self.groups, self.output_channels)

    @staticmethod
    def channels_of(kernel_shape: Numbers, groups: int) -> Numbers:
        """How many channels the input and the output of such a kernel have."""
        return kernel_shape[-2] * groups, kernel_shape[-1]

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        self.kernel = self.add_weight(shape=self.kernel_shape, initializer=self.init, name="kernel")
        self.bias: Any = None
        if self.use_bias:
            shape = (self.output_channels,)
            self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias")

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = batch_of_images(self, x, self.axes, self.input_channels)
        y = self.convolve(x, tf.convert_to_tensor(self.kernel))
        return self.activation(y if self.bias is None else y + self.bias)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The output before bias and activation."""
        return self.correlate(x, tf.reverse(kernel, range(self.axes)))

    def correlate(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The same for a kernel that is turned round already."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.filter, strict=True)]
        room_for(self, reach, self.pad, x)
        x, steps = padded(x, self.pad), (self.stride, self.dilation)
        # What TensorFlow has for single channels takes one stride for both axes.
        is_simple = self.axes < 3 and len(set(self.stride)) == 1
        if 1 < self.groups == self.input_channels and is_simple:
            return correlate_each(x, kernel, *steps)
        return in_groups(lambda x, w: correlate(x, w, *steps), x, kernel, self.groups)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "filter": self.filter,
            "sizes": (self.input_channels, self.output_channels),
            "activation": keras.activations.serialize(self.activation),
            "stride": self.stride,
            "pad": self.pad,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.use_bias,
            "init": keras.initializers.serialize(self.init),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Conv":
        return cls(config.pop("filter"), *config.pop("sizes"), **config)

    def __repr__(self) -> str:
        return self._call(", ")

    def __str__(self) -> str:
        return self._call(" => ")

    def _call(self, arrow: str) -> str:
        words = [str(self.filter), f"{self.input_channels}{arrow}{self.output_channels}"]
        if self.activation is not keras.activations.linear:
            words.append(describe(self.activation))
        return f"{type(self).__name__}({', '.join([*words, *self._options()])})"

    def _options(self) -> list[str]:
        return options(
            pad=(self.pad, 0),
            stride=(self.stride, 1),
            dilation=(self.dilation, 1),
            groups=(self.groups, 1),
            bias=(self.use_bias, True),
        )

    def same(self, pad: SamePad) -> Numbers:
        return pad.of(self.filter, self.dilation, (1,) * self.axes)

    def _sizes_of(self, weight: Any, rest: tuple[Any, ...], groups: Any, bias: Any) -> Any:
        """What a kernel and what follows it say: the filter, the sizes with σ, and the bias."""
        kind, shape = type(self).__name__, tuple(weight.shape)
        if not 3 <= len(shape) <= 5 or len(rest) > 2:
            raise ValueError(
                f"{kind} expects a kernel of three to five axes, a bias and an activation, got a "
                f"kernel of shape {shape} and {len(rest)} more. Write {kind}(kernel, bias, relu)."
            )
        bias, activation = [*rest, *[bias, None][len(rest) :]]
        channels = self.channels_of(shape, groups if is_whole(groups) else 1)
        return shape[:-2], (*channels, activation), bias


def _channels(kind: str, sizes: tuple[Any, ...]) -> tuple[int, int, Any]:
    if sizes and isinstance(sizes[0], tuple | list):
        sizes = (*sizes[0], *sizes[1:])
    if [is_whole(n) and n > 0 for n in sizes[:2]] != [True, True] or len(sizes) > 3:
        words = ", ".join(map(describe, sizes))
        raise ValueError(
            f"{kind} expects two numbers of channels and an activation after the filter, got "
            f"({words}). Write {kind}((3, 3), 1, 16, relu)."
        )
    inputs, outputs, activation = (*sizes, None)[:3]
    return int(inputs), int(outputs), activation


def _groups(kind: str, groups: Any, inputs: int, outputs: int) -> int:
    if not is_whole(groups) or groups < 1 or inputs % groups or outputs % groups:
        raise ValueError(
            f"{kind} expects groups to divide the channels, {inputs} => {outputs}, got {groups}."
        )
    return int(groups)


def _bias(kind: str, bias: Any, outputs: int) -> Any:
    """How the bias starts; None if there is none."""
    if isinstance(bias, bool | np.bool_):
        return np.zeros(outputs) if bias else None
    if np.shape(bias) != (outputs,):
        raise ShapeError(
            f"{kind} expects bias to be True, False, or of shape ({outputs},), got "
            f"{describe(bias) if np.ndim(bias) == 0 else np.shape(bias)}."
        )
    return bias


@keras.saving.register_keras_serializable(package="fluxkeras")
class CrossCor(Conv):
    """A convolution whose kernel is not turned round: that of Keras.

    `y[i] = σ(sum(x[s * i + d * a] * w[a] for a in range(k)) + b)` with a kernel `w` of size `k`, a
    stride `s` and a dilation `d`, over each axis, and summed over the input channels

    Args:
        filter: the size of the kernel, or the kernel itself; this and all else as in `Conv`.
        *sizes: `in, out`, and the activation if there is one.
        **options: `stride`, `pad`, `dilation`, `groups`, `bias`, `init`, and those of every Keras
            layer.

    Returns:
        A layer of the same shapes as `Conv`.

    Raises:
        ValueError, ShapeError: as `Conv`.

    Example:
        >>> w = np.reshape([1.0, 10.0, 100.0], (3, 1, 1))
        >>> CrossCor(w)(np.reshape([1.0, 2, 3, 4], (1, 4, 1))).numpy().ravel().tolist()
        [321.0, 432.0]

    Source: Flux's `CrossCor`.
    """

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        return self.correlate(x, kernel)


@keras.saving.register_keras_serializable(package="fluxkeras")
class ConvTranspose(Conv):
    """The adjoint of a convolution, which makes small images large; built at construction.

    `y[s * i + d * a - pad] += x[i] * w[k - 1 - a]` for all `i` and all `a` in `range(k)`, with a
    kernel `w` of size `k`, a stride `s` and a dilation `d`, over each axis, and summed over the
    input channels; then bias and activation

    Args:
        filter: the size of the kernel, a tuple of one number for each axis; or the kernel itself,
            an array of shape `(*filter, out / groups, in)`.
        *sizes: `in, out`, and the activation if there is one, as in `Conv`.
        stride: by how much the kernel moves on in the output: a number, or one for each axis.
        pad: how much is taken away from the output: a number, one for each axis, two for each axis
            (before and after), or `SamePad()`.
        outpad: how much is added after the output: a number, or one for each axis.
        **options: `dilation`, `groups`, `bias`, `init`, and those of every Keras layer, as in
            `Conv`.

    Returns:
        A layer. It takes inputs of shape `(batch, *n, in)` and returns `(batch, *m, out)` with
        `m = (n - 1) * s + d * (k - 1) + 1 - pads + outpad`.

    Raises:
        ValueError, ShapeError: as `Conv`; also when called on an input of which `pad` leaves
            nothing.

    Example:
        >>> layer = ConvTranspose((4, 4), 8, 3, stride=2, pad=1)
        >>> layer(np.ones((1, 14, 14, 8))).shape
        TensorShape([1, 28, 28, 3])
        >>> print(layer)
        ConvTranspose((4, 4), 8 => 3, pad=1, stride=2)

    Source: Flux's `ConvTranspose`. Keras's does not turn the kernel round, pads by name alone and
        knows no groups.
    """

    def __init__(
        self, filter: Any, *sizes: Any, outpad: int | Sequence[int] = 0, **options: Any
    ) -> None:
        super().__init__(filter, *sizes, **options)
        self.outpad = per_axis("ConvTranspose", "outpad", outpad, self.axes, least=0)

    @property
    def kernel_shape(self) -> Numbers:
        return (*self.filter, self.output_channels // self.groups, self.input_channels)

    @staticmethod
    def channels_of(kernel_shape: Numbers, groups: int) -> Numbers:
        return kernel_shape[-1], kernel_shape[-2] * groups

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        kernel = spread(tf.reverse(kernel, range(self.axes)), self.dilation)
        y = in_groups(lambda x, w: scatter(x, w, self.stride), x, kernel, self.groups)
        return self._cut(y)

    def _cut(self, y: Tensor) -> Tensor:
        """`y` without its padding; where `outpad` wants more than there is, zeros are added."""
        edges = [
            (low, high - o) for (low, high), o in zip(pairs(self.pad), self.outpad, strict=True)
        ]
        known = zip(tuple(y.shape)[1:-1], edges, strict=True)
        if any(n is not None and n <= sum(edge) for n, edge in known):
            raise ShapeError(
                f"{self} expects inputs of which its pad leaves something, got outputs of shape "
                f"{tuple(y.shape)} before padding."
            )
        inner = [slice(max(low, 0), -high if high > 0 else None) for low, high in edges]
        grown = [n for low, high in edges for n in (max(-low, 0), max(-high, 0))]
        return padded(y[(slice(None), *inner)], tuple(grown))

    def same(self, pad: SamePad) -> Numbers:
        return pad.of(self.filter, self.dilation, self.stride)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"outpad": self.outpad}

    def _options(self) -> list[str]:
        return [*super()._options(), *options(outpad=(self.outpad, 0))]


def DepthwiseConv(filter: Sequence[int], *sizes: Any, **options: Any) -> Conv:
    """A convolution in which each input channel has its own outputs: `groups` is `in`.

    `Conv(filter, in, out, groups=in)`

    Args:
        filter: the size of the kernel, a tuple of one number for each axis.
        *sizes: `in, out`, where `out` is a multiple of `in`, and the activation if there is one.
        **options: `stride`, `pad`, `dilation`, `bias`, `init`, as in `Conv`, and those of every
            Keras layer.

    Returns:
        A `Conv`.

    Raises:
        ValueError, ShapeError: as `Conv`.

    Example:
        >>> DepthwiseConv((3, 3), 4, 8, relu)
        Conv((3, 3), 4, 8, relu, groups=4)

    Source: Flux's `DepthwiseConv`.
    """
    inputs, *_ = _channels("DepthwiseConv", sizes)
    return Conv(filter, *sizes, groups=inputs, **options)
