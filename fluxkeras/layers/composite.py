"""Layers that are made of others: their elements, names, printing and saving."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.checks import ShapeError, undressed
from fluxkeras.layers.base import FluxLayer, apply
from fluxkeras.layers.printing import describe, expanded
from fluxkeras.layers.saving import loaded, saved
from fluxkeras.parameters import Variable, held_by, needs_building


class Container(FluxLayer, keras.layers.Layer):
    """A layer made of others, which are there by position and, if wanted, by name.

    Several inputs of a call become a tuple. What the elements have that are no Keras layers, Keras
    counts, trains and saves as well.

    Args:
        layers: the elements, or one list of them.
        named_layers: the same by name, instead of `layers`.
        name: the Keras name.
        connection: what joins the outputs of the layers, if something does.
    """

    connection: Any = None

    def __init__(
        self,
        layers: tuple[Any, ...],
        named_layers: dict[str, Any],
        name: str | None,
        connection: Any = None,
    ) -> None:
        if callable(name):
            named_layers = named_layers | {"name": name}
        reserved = {"layers", "name"} | (set() if connection is None else {"connection"})
        elements, names = _named(type(self).__name__, layers, named_layers, reserved)
        super().__init__(name=name)
        # Keras lists variables in the order in which it is told of their layers.
        inside = map(_layer_of, (*elements, connection))
        self._inside = [layer for layer in inside if layer is not None]
        self._elements, self._names = elements, names
        if connection is not None:
            self.connection = connection
        self._build_if_sizes_are_known()

    @property
    def input_size(self) -> int | None:
        """The length of the last axis of the input, where the first layer knows it."""
        return getattr(self._elements[0], "input_size", None) if self._elements else None

    @property
    def layers(self) -> list[keras.Layer]:
        """The Keras layers within, each once."""
        return list({id(layer): layer for layer in self._inside}.values())

    def _build_if_sizes_are_known(self) -> None:
        if any(map(needs_building, self.layers)):
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

    def __call__(self, *xs: Any, **kwargs: Any) -> Any:
        if not xs and "x" not in kwargs:
            raise ValueError(f"{type(self).__name__} expects an input, got none.")
        return super().__call__(*xs if len(xs) < 2 else (xs,), **kwargs)

    def apply(self, label: Any, element: Any, x: Any) -> Any:
        """What an element makes of `x`. If it does not fit, the error names the element."""
        try:
            return apply(element, x)
        except ShapeError as error:
            raise ShapeError(f"{undressed(error)} (layer {label} of {self.name})") from None

    def __len__(self) -> int:
        return len(self._elements)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self._elements)

    def __getitem__(self, index: int | str | slice) -> Any:
        if isinstance(index, slice):
            names = None if self._names is None else self._names[index]
            return self._made(self._elements[index], names, None, self.connection)
        if isinstance(index, str):
            names = self._names or []
            if index not in names:
                raise KeyError(f"no layer {index!r} in {self!r}")
            index = names.index(index)
        return self._elements[index]

    @classmethod
    def _made(
        cls: Any, elements: list[Any], names: list[str] | None, name: str | None, connection: Any
    ) -> Any:
        first = () if connection is None else (connection,)
        if names is None:
            return cls(*first, *elements, name=name)
        return cls(*first, name=name, **dict(zip(names, elements, strict=True)))

    def mapped(self, f: Callable[[Any], Any]) -> Any:
        """The same of what `f` makes of the elements and of the connection."""
        connection = None if self.connection is None else f(self.connection)
        return self._made(list(map(f, self)), self._names, self.name, connection)

    def get_config(self) -> dict[str, Any]:
        self.check_variables()
        config = {
            "name": self.name,
            "layers": [saved(part, f"a layer {label}", self) for label, part in self.by_label()],
            "names": self._names,
        }
        if self.connection is not None:
            config["connection"] = saved(self.connection, "a connection", self)
        return config

    def check_variables(self) -> None:
        """Raise an error if there are variables of which Keras's files would not have the values.

        Raises:
            ValueError: an element that is no Keras layer has variables of TensorFlow's.
        """
        for label, part in self.by_label():
            if isinstance(part, Container):
                part.check_variables()
            elif not isinstance(part, keras.Layer) and _are_of_tensorflow(_held(part, set())):
                raise ValueError(
                    f"Saving {self.name} expects a layer {label} whose variables Keras can save, "
                    f"got {describe(part)}, which has a tf.Variable. Make it with param(…), or "
                    "write fluxkeras.save(path, model), which keeps any variables."
                )

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        elements = [loaded(part, custom_objects) for part in config["layers"]]
        joins = "connection" in config
        connection = loaded(config["connection"], custom_objects) if joins else None
        return cls._made(elements, config["names"], config["name"], connection)

    def __repr__(self) -> str:
        parts = (f"{label}{source(part)}" for label, part in self.labelled())
        return f"{type(self).__name__}({', '.join(parts)})"

    def __str__(self) -> str:
        return expanded(type(self).__name__, self.labelled(), self)

    def labelled(self) -> list[tuple[str, Any]]:
        """What the layer was made of, in that order, each behind `name = ` if it has a name."""
        first = [] if self.connection is None else [("", self.connection)]
        names = [f"{name} = " for name in self._names] if self._names else [""] * len(self)
        return [*first, *zip(names, self._elements, strict=True)]

    def by_label(self) -> list[tuple[Any, Any]]:
        """The elements, each with its name or its position."""
        return list(zip(self._names or range(len(self)), self._elements, strict=True))


def _named(
    kind: str, layers: tuple[Any, ...], named_layers: dict[str, Any], reserved: set[str]
) -> tuple[list[Any], list[str] | None]:
    """The elements and their names, if they have any."""
    if layers and named_layers:
        raise ValueError(f"{kind} expects layers with names or without, got both.")
    if taken := sorted(reserved & named_layers.keys()):
        raise ValueError(f"{kind} expects a layer to have another name than {taken[0]!r}.")
    if len(layers) == 1 and isinstance(layers[0], list):
        layers = tuple(layers[0])
    elements = list(named_layers.values()) if named_layers else list(layers)
    for position, element in enumerate(elements):
        if not callable(element):
            raise TypeError(
                f"{kind} expects layers and other callables, got {element!r} at {position}."
            )
    return elements, list(named_layers) or None


class Held(keras.layers.Layer):
    """The variables and Keras layers of an object that is no Keras layer, for Keras to find."""

    def __init__(self, parts: list[Any], name: str) -> None:
        super().__init__(name=name)
        self.parts, self.built = parts, True

    @property
    def layers(self) -> list[keras.Layer]:
        """Those of the object."""
        return [part for part in self.parts if isinstance(part, keras.Layer)]


def _layer_of(element: Any) -> keras.Layer | None:
    """The layer by which Keras knows of an element, if it has something to know of."""
    if isinstance(element, keras.Layer):
        return element
    parts = list(_held(element, set()))
    # Keras has no place for variables of TensorFlow's: an object that has some is left to `params`.
    if not parts or _are_of_tensorflow(parts):
        return None
    return Held(parts, getattr(element, "__name__", type(element).__name__))


def _are_of_tensorflow(parts: Iterable[Any]) -> bool:
    return any(isinstance(part, tf.Variable) for part in parts)


def _held(node: Any, seen: set[int]) -> Iterator[Any]:
    """The variables and Keras layers that an object has, found as `params` finds them."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, keras.Layer | Variable):
        yield node
        return
    for part in held_by(node):
        yield from _held(part, seen)


def source(element: Any) -> str:
    """Python that makes an element, as far as it can tell."""
    return repr(element) if isinstance(element, FluxLayer) else describe(element)
