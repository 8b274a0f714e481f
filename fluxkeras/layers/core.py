"""Chain and Dense: layers that are called one after another, and the fully connected one."""

import inspect
from typing import Any

import keras

from fluxkeras.checks import ShapeError
from fluxkeras.layers.arguments import Arguments, options
from fluxkeras.layers.base import FluxLayer, as_array
from fluxkeras.layers.base import Switchable as Switchable
from fluxkeras.layers.composite import Container
from fluxkeras.layers.printing import describe
from fluxkeras.layers.saving import initialiser, loaded, saved

__all__ = ["Chain", "Dense"]


@keras.saving.register_keras_serializable(package="fluxkeras")
class Dense(FluxLayer, keras.layers.Dense):
    """A fully connected layer, built at construction.

    `y = σ(x @ W + b)`

    Args:
        *sizes: `in, out`, or one tuple `(in, out)`: the length of the last axis of the input and of
            the output; or the array `W`, of shape `(in, out)`, and if wanted the `bias`. Then, if
            wanted, `σ`, the activation: a function of a tensor, or its name in Keras (default:
            none).
        bias: whether there is a `b`, which starts at zero; or the array, of shape `(out,)`.
        init: how `W`, of shape `(in, out)`, starts: a Keras initialiser or its name, or a function
            of `(shape, dtype)`.
        **keras_options: those of `keras.layers.Dense`, such as `name` and `kernel_regularizer`.

    Returns:
        A layer. It takes inputs of shape `(..., in)`, one sample `(in,)` among them, and returns
        `(..., out)`.

    Raises:
        ValueError: if the arguments are none of the above.
        ShapeError: if the bias does not fit; when called on an input of another last axis.

    Example:
        >>> layer = Dense(784, 32, σ)
        >>> layer(np.random.rand(784)).shape, layer(np.random.rand(8, 784)).shape
        (TensorShape([32]), TensorShape([8, 32]))
        >>> print(layer)
        Dense(784 => 32, σ)
        >>> Dense(np.ones((2, 3)), [1.0, 2.0, 3.0], relu)([1.0, 1.0]).numpy().tolist()
        [3.0, 4.0, 5.0]

    Source: Flux's `Dense`, whose `W` is `(out, in)`.
    """

    def __init__(
        self,
        *sizes: Any,
        bias: Any = True,
        init: Any = "glorot_uniform",
        **keras_options: Any,
    ) -> None:
        given = Arguments.of(sizes, bias)
        if given is None or len(given.sizes) != 2:
            words = ", ".join(map(describe, sizes))
            raise ValueError(
                f"Dense expects two sizes and an activation, got ({words}). "
                "Write Dense(784, 32, relu)."
            )
        keras_options.setdefault("activation", given.activation)
        super().__init__(
            given.sizes[1],
            use_bias=given.bias is not False,
            kernel_initializer=initialiser(init),
            **keras_options,
        )
        self.input_size = given.sizes[0]
        self.build((None, self.input_size))
        given.fill(self, self.kernel, self.bias)

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
        activation = saved(self.activation, "an activation", self)
        config = {**super().get_config(), "activation": activation}
        config["sizes"] = [self.input_size, config.pop("units")]
        config["bias"] = config.pop("use_bias")
        config["init"] = config.pop("kernel_initializer")
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Dense":
        config["activation"] = loaded(config["activation"])
        return cls(*config.pop("sizes"), **config)

    def __repr__(self) -> str:
        return self._call(", ")

    def __str__(self) -> str:
        return self._call(" => ")

    def _call(self, arrow: str) -> str:
        words = [f"{self.input_size}{arrow}{self.units}"]
        return f"Dense({', '.join([*words, *options(self)])})"


class Form:
    """What the input of the first call was like: an object that changes, so that none else does."""

    specs: Any = None


@keras.saving.register_keras_serializable(package="fluxkeras")
class Chain(Container, keras.Model):
    """Layers called one after another: a Keras model.

    `Chain(f, g, h)(x) == h(g(f(x)))`

    Args:
        *layers: layers, chains and any other callables of one tensor; or one list of them.
        name: the Keras name of the model.
        **named_layers: the same by name, `Chain(encoder=…, decoder=…)`, instead of `*layers`.

    Returns:
        A `keras.Model`, built already if its first layer knows the size of its input. `m[0]`,
        `m[-1]` and `m["encoder"]` are its layers, `m[1:]` is a chain that shares them, and
        `m.activations(x)` are the outputs of all. A sample without batch axis gives an answer
        without one; several inputs go to the first layer as a tuple. Any object with `param`s that
        can be called is a layer: Keras counts, trains and saves these with the model.
        `m.save("m.keras")` keeps it, and `m.export(folder)` the function of inputs as in its first
        call.

    Raises:
        ValueError: if a layer is called `layers` or `name`; when saved, if a layer could not be
            found again.
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
        self._first = Form()
        super().__init__(layers, named_layers, name)
        self._first.specs = None  # it may have been called on a guess, to be built

    def call(self, x: Any, training: bool | None = None) -> Any:
        if self._first.specs is None and all(map(_has_rank, keras.tree.flatten(x))):
            of_sample = self.input_size is not None
            self._first.specs = keras.tree.map_structure(
                lambda t: _spec(tuple(t.shape), t.dtype, of_sample), x
            )
        for label, element in self.by_label():
            x = self.apply(label, element, x)
        return x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seen": _plain(self._first.specs)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Chain":
        chain: Chain = super().from_config(config, custom_objects)
        chain._first.specs = _from_plain(config.get("seen"))
        return chain

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.get_config()  # raises what Keras would raise after it has emptied the file
        super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        self.check_variables()
        super().save_weights(*args, **kwargs)

    def export(self, *args: Any, input_signature: Any = None, **options: Any) -> None:
        shape = (self.get_build_config() or {}).get("input_shape")
        if input_signature is None and (self._first.specs or shape):
            input_signature = [self._first.specs or _spec(shape, self.input_dtype)]
        if input_signature is None and self.built:
            raise ValueError(
                f"Exporting {self.name} expects to be told the shape of its input, of which its "
                "first layer knows nothing. Call it on a batch before, or write m.export(folder, "
                "input_signature=[keras.layers.InputSpec(shape=(None, 28, 28))])."
            )
        if input_signature is not None:
            shapes = keras.tree.map_structure(lambda x: tuple(x.shape), tuple(input_signature))
            # Keras traces the model for the shape given here and for that of `build`.
            self.build(shapes[0] if len(shapes) == 1 else shapes)
            if "input_signature" in inspect.signature(super().export).parameters:
                options["input_signature"] = input_signature
        super().export(*args, **options)

    def activations(self, *xs: Any) -> tuple[Any, ...]:
        """The outputs of all layers, the last of which is that of the chain.

        >>> m = Chain(Dense(3, 2), relu)
        >>> hidden, y = m.activations([1.0, 2.0, 3.0])
        >>> bool(tf.reduce_all(y == relu(hidden)))
        True
        """

        def converted(x: Any) -> Any:
            return self.dtype_policy.convert_input(x, self.autocast, self.input_dtype)

        x = keras.tree.map_structure(converted, as_array(xs[0] if len(xs) == 1 else xs))
        outputs = []
        for label, element in self.by_label():
            x = self.apply(label, element, x)
            outputs.append(x)
        return tuple(outputs)


def _has_rank(x: Any) -> bool:
    return getattr(x.shape, "rank", 0) is not None


def _spec(shape: Any, dtype: Any, of_sample: bool = True) -> Any:
    """Inputs of a shape, or several, with any batch in the place of that one.

    Numbers in a row are one sample; or, if not `of_sample`, a batch of indices if they are whole.
    """
    if shape and isinstance(shape[0], tuple | list):
        return tuple(_spec(part, dtype, of_sample) for part in shape)
    dtype = keras.backend.standardize_dtype(dtype)
    one = shape if of_sample or "int" not in dtype else ()
    return keras.layers.InputSpec(shape=(None, *(shape[1:] or one)), dtype=dtype)


def _plain(specs: Any) -> Any:
    """What a file has of them."""
    if isinstance(specs, tuple | list):
        return list(map(_plain, specs))
    return specs and {"shape": list(specs.shape), "dtype": specs.dtype}


def _from_plain(specs: Any) -> Any:
    if isinstance(specs, list):
        return tuple(map(_from_plain, specs))
    return specs and keras.layers.InputSpec(**specs)
