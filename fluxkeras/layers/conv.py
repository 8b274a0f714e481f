"""Conv and its kin: kernels that move over one, two or three axes."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError
from fluxkeras.layers.arguments import Arguments
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import initialiser, loaded, saved
from fluxkeras.layers.windows import (
    Numbers,
    SamePad,
    SpatialLayer,
    Tensor,
    expect_images,
    expect_room,
    framed,
    options,
    paddings,
    pairs,
    per_axis,
    sizes,
)

__all__ = [
    "Conv",
    "ConvTranspose",
    "CrossCor",
    "DepthwiseConv",
    "bias_act",
    "conv",
    "conv_bias_act",
    "depthwiseconv",
]

FORMATS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


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
    return keras.ops.depthwise_conv(x, kernel, stride, "valid", "channels_last", dilation)


def correlate_back(x: Tensor, kernel: Tensor, stride: Numbers) -> Tensor:
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


def correlated(
    owner: Any,
    x: Tensor,
    kernel: Tensor,
    stride: Numbers,
    pad: Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    """`correlate` of `x`, padded, in groups of its channels."""
    covers = zip(dilation, kernel.shape[:-2], pairs(pad), strict=True)
    expect_room(owner, x, [d * (k - 1) + 1 - sum(p) for d, k, p in covers])
    channels, x = x.shape[-1], framed(x, pad)
    # What TensorFlow has for single channels takes one stride for both axes.
    is_simple = len(stride) < 3 and len(set(stride)) == 1
    if 1 < groups == channels and is_simple:
        return correlate_each(x, kernel, stride, dilation)
    return in_groups(lambda x, w: correlate(x, w, stride, dilation), x, kernel, groups)


# --- Functions -----------------------------------------------------------------------------------


def conv(
    x: Any,
    w: Any,
    *,
    stride: int | Sequence[int] = 1,
    pad: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    flipped: bool = False,
    groups: int = 1,
) -> Tensor:
    """A convolution with a kernel: `Conv(w, False, …)(x)`.

    Args:
        x: an array of shape `(batch, *n, in)`.
        w: the kernel, an array of shape `(*filter, in / groups, out)`.
        stride: by how much the kernel moves on: a number, or one for each axis.
        pad: how many zeros surround `x`: a number, one for each axis, or two for each axis.
        dilation: how far apart the numbers lie that the kernel looks at: a number, or one for each
            axis.
        flipped: whether `w` is turned round already, as in `CrossCor`.
        groups: into how many equal shares the channels are divided.

    Returns:
        A tensor of shape `(batch, *m, out)` with `m = (n + pads - d * (k - 1) - 1) // s + 1`.

    Raises:
        ValueError: if an option is not as above.
        ShapeError: if `w` has another number of axes, or `x` other channels or too few numbers.

    Example:
        >>> x, w = np.reshape([1.0, 2, 3, 4], (1, 4, 1)), np.reshape([1.0, 10.0], (2, 1, 1))
        >>> conv(x, w).numpy().ravel().tolist()
        [12.0, 23.0, 34.0]
        >>> conv(x, w, flipped=True).numpy().ravel().tolist()
        [21.0, 32.0, 43.0]

    Source: NNlib's `conv`.
    """
    x, w = float_tensor(x), float_tensor(w)
    axes = len(w.shape) - 2
    if axes not in FORMATS or w.shape[-1] % per_axis("conv", "groups", groups, 1)[0]:
        raise ShapeError(
            f"conv expects a kernel of shape (*filter, in / {groups}, out), where {groups} divides "
            f"out, got {tuple(w.shape)}."
        )
    expect_images("conv", x, axes, w.shape[-2] * groups)
    return correlated(
        "conv",
        x,
        tf.cast(w if flipped else tf.reverse(w, range(axes)), x.dtype),
        per_axis("conv", "stride", stride, axes),
        paddings("conv", pad, axes),
        per_axis("conv", "dilation", dilation, axes),
        groups,
    )


def depthwiseconv(x: Any, w: Any, **options: Any) -> Tensor:
    """A convolution in which each channel has kernels of its own.

    `conv(x, w of each channel, groups=in)`

    Args:
        x: an array of shape `(batch, *n, in)`.
        w: the kernels, an array of shape `(*filter, out / in, in)`.
        **options: `stride`, `pad`, `dilation` and `flipped`, as in `conv`.

    Returns:
        A tensor of shape `(batch, *m, out)`, those of the first channel first.

    Raises:
        ValueError, ShapeError: as `conv`.

    Example:
        >>> x = [[[1.0, 5.0], [2.0, 6.0]]]  # two places, two channels
        >>> depthwiseconv(x, [[[1.0, 10.0]]]).numpy().tolist()
        [[[1.0, 50.0], [2.0, 60.0]]]

    Source: NNlib's `depthwiseconv`.
    """
    w = float_tensor(w)
    if len(w.shape) - 2 not in FORMATS:
        raise ShapeError(
            "depthwiseconv expects a kernel of shape (*filter, out / in, in), "
            f"got {tuple(w.shape)}."
        )
    *size, each, inputs = w.shape
    kernel = tf.reshape(tf.linalg.matrix_transpose(w), (*size, 1, inputs * each))
    return conv(x, kernel, groups=inputs, **options)


def bias_act(σ: Any, x: Any, b: Any) -> Tensor:
    """An activation of numbers with a bias.

    `σ(x + b)`

    Args:
        σ: a function of a tensor, or its name in Keras; None for none.
        x: an array.
        b: the bias, an array that broadcasts against `x`, such as one of shape `(channels,)`;
            False for none.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: if `b` is True, which is no bias.

    Example:
        >>> bias_act(relu, [[1.0, -5.0], [2.0, -6.0]], [1.0, 5.5]).numpy().tolist()
        [[2.0, 0.5], [3.0, 0.0]]

    Source: NNlib's `bias_act!`, which overwrites `x`.
    """
    σ, x = keras.activations.get(σ), float_tensor(x)
    if b is False:
        return σ(x)
    if b is True:
        raise ValueError("bias_act expects a bias, an array, or False for none, got True.")
    return σ(x + tf.cast(float_tensor(b), x.dtype))


def conv_bias_act(x: Any, w: Any, b: Any, σ: Any = None, **options: Any) -> Tensor:
    """A convolution, a bias, and an activation: `Conv(w, b, σ, …)(x)`.

    `σ(conv(x, w, …) + b)`

    Args:
        x: an array of shape `(batch, *n, in)`.
        w: the kernel, an array of shape `(*filter, in / groups, out)`.
        b: the bias, an array of shape `(out,)`; False for none.
        σ: a function of a tensor, or its name in Keras; by default none.
        **options: `stride`, `pad`, `dilation`, `flipped` and `groups`, as in `conv`.

    Returns:
        A tensor of shape `(batch, *m, out)`.

    Raises:
        ValueError, ShapeError: as `conv` and `bias_act`.

    Example:
        >>> x, w = np.reshape([1.0, 2, 3, 4], (1, 4, 1)), np.reshape([1.0, 10.0], (2, 1, 1))
        >>> conv_bias_act(x, w, [-20.0], relu).numpy().ravel().tolist()
        [0.0, 3.0, 14.0]

    Source: NNlib's `conv_bias_act`.
    """
    return bias_act(σ, conv(x, w, **options), b)


# --- Layers ---------------------------------------------------------------------------------------


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
        kind = type(self).__name__
        given = _arguments(kind, sizes, bias)
        *size, inputs, outputs = given.sizes
        self.filter: Numbers = tuple(size)
        self.groups = per_axis(kind, "groups", groups, 1)[0]
        if given.weight is not None:
            inputs, outputs = self.channels_of(given.sizes)
        self.input_channels, self.output_channels = inputs, outputs
        if inputs % self.groups or outputs % self.groups:
            raise ValueError(
                f"{kind} expects groups to divide the channels, {inputs} => {outputs}, "
                f"got {groups}."
            )
        self.activation = keras.activations.get(given.activation or activation)
        self.stride = per_axis(kind, "stride", stride, self.axes)
        self.dilation = per_axis(kind, "dilation", dilation, self.axes)
        self.pad = paddings(kind, self.same(pad) if isinstance(pad, SamePad) else pad, self.axes)
        self.use_bias = given.bias is not False
        self.init = initialiser(init)
        self.build((None, *(None,) * self.axes, self.input_channels))
        given.fill(self, self.kernel, self.bias)

    @property
    def axes(self) -> int:
        """How many axes the kernel moves over."""
        return len(self.filter)

    @property
    def reach(self) -> Numbers:
        """How many numbers the kernel covers, those between its own among them."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.filter, strict=True))

    @property
    def kernel_shape(self) -> Numbers:
        return (*self.filter, self.input_channels // self.groups, self.output_channels)

    def channels_of(self, kernel_shape: Numbers) -> tuple[int, int]:
        """How many channels the input and the output of a kernel have."""
        return kernel_shape[-2] * self.groups, kernel_shape[-1]

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        self.kernel = self.add_weight(shape=self.kernel_shape, initializer=self.init, name="kernel")
        self.bias: Any = None
        if self.use_bias:
            shape = (self.output_channels,)
            self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias")

    def call(self, x: Any, training: bool | None = None) -> Any:
        expect_images(self, x, self.axes, self.input_channels)
        y = self.convolve(tf.cast(x, self.compute_dtype), tf.convert_to_tensor(self.kernel))
        return self.activation(y if self.bias is None else y + self.bias)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The output before bias and activation."""
        return self.correlate(x, tf.reverse(kernel, range(self.axes)))

    def correlate(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The same for a kernel that is turned round already."""
        steps = self.stride, self.pad, self.dilation
        return correlated(self, x, kernel, *steps, self.groups)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sizes": (self.filter, self.input_channels, self.output_channels),
            "activation": saved(self.activation, "an activation", self),
            "stride": self.stride,
            "pad": self.pad,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.use_bias,
            "init": keras.initializers.serialize(self.init),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Conv":
        config["activation"] = loaded(config["activation"])
        return cls(*config.pop("sizes"), **config)

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


def _arguments(kind: str, given: tuple[Any, ...], bias: Any) -> Arguments:
    arguments = Arguments.of(given, bias)
    if arguments is None or not _are_those_of_a_kernel(arguments, given[0]):
        words = ", ".join("an array" if hasattr(a, "shape") else describe(a) for a in given)
        raise ValueError(
            f"{kind} expects a filter of one to three axes, two numbers of channels and an "
            f"activation, got ({words}). Write {kind}((3, 3), 1, 16, relu)."
        )
    return arguments


def _are_those_of_a_kernel(arguments: Arguments, first: Any) -> bool:
    axes = len(arguments.sizes) - 2
    is_filter = isinstance(first, tuple | list) and len(first) == axes
    return axes in FORMATS and (is_filter or arguments.weight is not None)


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

    def __init__(self, *sizes: Any, outpad: int | Sequence[int] = 0, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.outpad = per_axis("ConvTranspose", "outpad", outpad, self.axes, least=0)

    @property
    def kernel_shape(self) -> Numbers:
        return (*self.filter, self.output_channels // self.groups, self.input_channels)

    def channels_of(self, kernel_shape: Numbers) -> tuple[int, int]:
        return kernel_shape[-1], kernel_shape[-2] * self.groups

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        ends = zip(pairs(self.pad), self.outpad, strict=True)
        edges = [(-low, more - high) for (low, high), more in ends]
        moves = zip(edges, self.reach, self.stride, strict=True)
        expect_room(self, x, [(s - r - sum(e)) // s + 1 for e, r, s in moves])
        kernel = spread(tf.reverse(kernel, range(self.axes)), self.dilation)
        y = in_groups(lambda x, w: correlate_back(x, w, self.stride), x, kernel, self.groups)
        return framed(y, tuple(n for edge in edges for n in edge))

    def same(self, pad: SamePad) -> Numbers:
        return pad.of(self.filter, self.dilation, self.stride)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "outpad": self.outpad}

    def _options(self) -> list[str]:
        return [*super()._options(), *options(outpad=(self.outpad, 0))]


def DepthwiseConv(filter: Any, *sizes: Any, **options: Any) -> Conv:
    """A convolution in which each input channel has its own outputs: `groups` is `in`.

    `Conv(filter, in, out, groups=in)`

    Args:
        filter: the size of the kernel, a tuple of one number for each axis; or the
            kernel itself, an array of shape `(*filter, in, out / in)`, of which the last two axes
            become those of a kernel of `Conv` with the former fastest, as in Flux.
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
    if np.ndim(filter) > 1:
        *size, inputs, each = np.shape(filter)
        kernel = np.reshape(np.swapaxes(filter, -1, -2), (*size, 1, inputs * each))
        return Conv(kernel, *sizes, groups=inputs, **options)
    inputs = _arguments("DepthwiseConv", (filter, *sizes), True).sizes[-2]
    return Conv(filter, *sizes, groups=inputs, **options)
