"""How a layer is asked for: by its sizes, or by the array that it starts with."""

from typing import Any, NamedTuple

import keras
import numpy as np

from fluxkeras.checks import ShapeError
from fluxkeras.data import is_nested_list
from fluxkeras.layers.printing import describe


class Arguments(NamedTuple):
    """Sizes, or an array that has them; whether there is a bias, or the bias; an activation."""

    sizes: tuple[int, ...]
    weight: np.ndarray | None
    bias: bool | np.ndarray
    activation: Any

    @classmethod
    def of(cls, given: tuple[Any, ...], bias: Any) -> "Arguments | None":
        """Read `sizes…, σ` or `weight, bias, σ`; None if it is neither."""
        weight, rest, sizes = None, list(given), []
        if given and _is_array(given[0]):
            weight, *rest = given
            weight = np.asarray(weight)
            sizes = list(weight.shape)
            if rest and (isinstance(rest[0], bool) or _is_array(rest[0])):
                bias = rest.pop(0)
        else:
            while rest and isinstance(rest[0], int | np.integer | tuple | list):
                sizes += keras.tree.flatten(rest.pop(0))
        activation = rest.pop(0) if rest else None
        is_activation = callable(activation) or isinstance(activation, str | dict | None)
        if rest or not is_activation or not sizes or not all(map(_is_size, sizes)):
            return None
        bias = bias if isinstance(bias, bool) else np.asarray(bias)
        return cls(tuple(map(int, sizes)), weight, bias, activation)

    def fill(self, layer: keras.Layer, weight: Any, bias: Any) -> None:
        """Put the arrays that were given into the variables of `layer`."""
        for variable, array in (weight, self.weight), (bias, self.bias):
            if isinstance(array, np.ndarray):
                if array.shape != tuple(variable.shape):
                    raise ShapeError(
                        f"{layer} expects a {variable.name} of shape {tuple(variable.shape)}, "
                        f"got {array.shape}."
                    )
                variable.assign(array)


def _is_array(x: Any) -> bool:
    if isinstance(x, list):
        return is_nested_list(x) and not all(map(_is_size, x))
    return len(getattr(x, "shape", ())) > 0


def _is_size(n: Any) -> bool:
    return isinstance(n, int | np.integer) and not isinstance(n, bool) and bool(n > 0)


def options(layer: Any) -> list[str]:
    """How the activation and a missing bias of a layer print."""
    has_activation = layer.activation is not keras.activations.linear
    words = [describe(layer.activation)] if has_activation else []
    return words if layer.use_bias else [*words, "bias=False"]
