"""Chain and Dense: layers that are called one after another, and the fully connected one."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from fluxkeras.checks import ShapeError, undressed
from fluxkeras.data import is_nested_list
from fluxkeras.layers.printing import describe, expanded
from fluxkeras.parameters import needs_building

__all__ = ["Chain", "Dense"]


class FluxLayer:
    """What a call of our layers adds to a call of Keras's: plain lists, and errors as raised."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(np.asarray(a) if is_nested_list(a) else a for a in args)
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        except ShapeError as error:
            raise undressed(error) from None


class Switchable(FluxLayer):
    """A layer that does something else while training, as `trainmode` and `testmode` have it.

    Attributes:
        active: True to do it always, False never; None, the default, as Keras's `training` says.
    """

    active: bool | None = None

    def is_active(self, training: bool | None) -> bool:
        """Whether to do now what is done while training, given the `training` of `call`."""
        return bool(training if self.active is None else self.active)


@keras.saving.register_keras_serializable(package="fluxkeras")
class Dense(FluxLayer, keras.layers.Dense):
    """A fully connected layer, built at construction.

    `y = σ(x @ W + b)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`: the length of the last axis of the input and of
            the output; then, if wanted, `σ`, the activation: a function of a tensor, or its name in
            Keras (default: none).
        bias: whether there is a `b`, which starts at zero.
        init: how `W`, of shape `(in, out)`, starts: a Keras initialiser or its name, or a function
            of `(shape, dtype)`.
        **keras_options: those of `keras.layers.Dense`, such as `name` and `kernel_regularizer`.

    Returns:
        A layer. It takes inputs of shape `(..., in)`, one sample `(in,)` among them, and returns
        `(..., out)`.

    Raises:
        ShapeError: when called on an input of another last axis.

    Example:
        >>> layer = Dense(784, 32, σ)
        >>> layer(np.random.rand(784)).shape, layer(np.random.rand(8, 784)).shape
        (TensorShape([32]), TensorShape([8, 32]))
        >>> print(layer)
        Dense(784 => 32, σ)

    Source: Flux's `Dense`, whose `W` is `(out, in)`.
    """

    def __init__(
        self,
        *sizes: Any,
        bias: bool = True,
        init: Any = "glorot_uniform",
        **keras_options: Any,
    ) -> None:
        in_size, out_size, activation = _dense_arguments(sizes)
        keras_options.setdefault("activation", activation)
        super().__init__(out_size, use_bias=bias, kernel_initializer=init, **keras_options)
        self.input_size = in_size
        self.build((None, in_size))

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        super().build((None, self.input_size))
        # Keras's own check knows no sample without a batch axis; `call` checks instead.
        self.input_spec = None

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not len(x.shape) or x.shape[-1] not in (None, self.input_size):
            raise ShapeError(
                f"{self} expects inputs of shape (..., {self.input_size}), got {tuple(x.shape)}."
            )
        return super().call(x)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["sizes"] = [self.input_size, config.pop("units")]
        config["bias"] = config.pop("use_bias")
        config["init"] = config.pop("kernel_initializer")
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Dense":
        return cls(*config.pop("sizes"), **config)

    def __repr__(self) -> str:
        return self._call(", ")

    def __str__(self) -> str:
        return self._call(" => ")

    def _call(self, arrow: str) -> str:
        words = [f"{self.input_size}{arrow}{self.units}"]
        if self.activation is not keras.activations.linear:
            words.append(describe(self.activation))
        if not self.use_bias:
            words.append("bias=False")
        return f"Dense({', '.join(words)})"


def _dense_arguments(sizes: tuple[Any, ...]) -> tuple[int, int, Any]:
    if sizes and isinstance(sizes[0], tuple | list):
        sizes = (*sizes[0], *sizes[1:])
    is_size = [isinstance(n, int | np.integer) and n > 0 for n in sizes[:2]]
    if is_size != [True, True] or len(sizes) > 3:
        words = ", ".join(map(describe, sizes))
        raise ValueError(
            f"Dense expects two sizes and an activation, got ({words}). Write Dense(784, 32, relu)."
        )
    in_size, out_size, activation = (*sizes, None)[:3]
    return int(in_size), int(out_size), activation


@keras.saving.register_keras_serializable(package="fluxkeras")
class Chain(FluxLayer, keras.Model):
    """Layers called one after another: a Keras model.

    `Chain(f, g, h)(x) == h(g(f(x)))`

    Args:
        *layers: layers, chains and any other callables of one tensor; or one list of them.
        name: the Keras name of the model.
        **named_layers: the same by name, `Chain(encoder=…, decoder=…)`, instead of `*layers`.

    Returns:
        A `keras.Model`, built already if its first layer knows the size of its input. `m[0]`,
        `m[-1]` and `m["encoder"]` are its layers, `m[1:]` is a chain that shares them. A sample
        without batch axis gives an answer without one.

    Raises:
        ShapeError: when called, if a layer gets another shape than it expects.

    Example:
        >>> m = Chain(Dense(784, 32, σ), Dense(32, 10), softmax)
        >>> m(np.random.rand(784)).shape
        TensorShape([10])
        >>> print(m)
        Chain(
          Dense(784 => 32, σ),                  # 25_120 parameters
          Dense(32 => 10),                      # 330 parameters
          softmax,
        )                   # Total: 4 arrays, 25_450 parameters, 99.41 KiB.

    Source: Flux's `Chain`.
    """

    def __init__(self, *layers: Any, name: str | None = None, **named_layers: Any) -> None:
        super().__init__(name=name)
        elements, self._names = _chain_elements(layers, named_layers)
        self._elements = elements
        self._build_if_sizes_are_known()

    @property
    def input_size(self) -> int | None:
        """The length of the last axis of the input, where the first layer knows it."""
        return getattr(self[0], "input_size", None) if len(self) else None

    def _build_if_sizes_are_known(self) -> None:
        if any(isinstance(e, keras.Layer) and needs_building(e) for e in self):
            if self.input_size is None:
                return
            try:
                self.compute_output_spec(keras.KerasTensor((None, self.input_size)))
            except Exception:
                # The input has more axes than the two guessed here: the first call builds.
                return
        self.build((None, self.input_size) if self.input_size else None)

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        for label, element in zip(self._labels(), self._elements, strict=True):
            try:
                x = _apply(element, x)
            except ShapeError as error:
                raise ShapeError(f"{undressed(error)} (layer {label} of {self.name})") from None
        return x

    def __len__(self) -> int:
        return len(self._elements)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self._elements)

    def __getitem__(self, index: int | str | slice) -> Any:
        if isinstance(index, slice):
            if self._names is None:
                return Chain(*self._elements[index])
            return Chain(**dict(zip(self._names[index], self._elements[index], strict=True)))
        if isinstance(index, str):
            names = self._names or []
            if index not in names:
                raise KeyError(f"no layer {index!r} in {self!r}")
            index = names.index(index)
        return self._elements[index]

    def get_config(self) -> dict[str, Any]:
        elements = [keras.saving.serialize_keras_object(element) for element in self._elements]
        return {"name": self.name, "layers": elements, "names": self._names}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Chain":
        elements = [
            keras.saving.deserialize_keras_object(element, custom_objects=custom_objects)
            for element in config["layers"]
        ]
        if config["names"] is None:
            return cls(*elements, name=config["name"])
        return cls(name=config["name"], **dict(zip(config["names"], elements, strict=True)))

    def __repr__(self) -> str:
        return f"Chain({', '.join(f'{label}{_source(e)}' for label, e in self.labelled())})"

    def __str__(self) -> str:
        return expanded("Chain", self.labelled(), self)

    def labelled(self) -> list[tuple[str, Any]]:
        """The layers, each behind `name = ` where the chain's layers are named."""
        labels = [f"{name} = " for name in self._names] if self._names else [""] * len(self)
        return list(zip(labels, self._elements, strict=True))

    def _labels(self) -> Any:
        return self._names or range(len(self))


def _chain_elements(
    layers: tuple[Any, ...], named_layers: dict[str, Any]
) -> tuple[list[Any], list[str] | None]:
    if layers and named_layers:
        raise ValueError("Chain expects layers with names or without, got both.")
    if len(layers) == 1 and isinstance(layers[0], list):
        layers = tuple(layers[0])
    elements = list(named_layers.values()) if named_layers else list(layers)
    for position, element in enumerate(elements):
        if not callable(element):
            raise TypeError(
                f"Chain expects layers and other callables, got {element!r} at {position}."
            )
    return elements, list(named_layers) or None


def _apply(element: Callable[[Any], Any], x: Any) -> Any:
    """Call a layer; those of Keras that want a batch axis are lent one for a single sample."""
    is_foreign = isinstance(element, keras.Layer) and not isinstance(element, FluxLayer)
    if is_foreign and len(getattr(x, "shape", ())) == 1:
        return keras.tree.map_structure(lambda y: y[0], element(x[None]))
    return element(x)


def _source(element: Any) -> str:
    return repr(element) if isinstance(element, FluxLayer) else describe(element)
