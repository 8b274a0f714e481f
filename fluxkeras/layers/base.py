"""What the layers here share: how they are called, and how they know that they train."""

from collections.abc import Callable
from numbers import Number
from typing import Any

import keras
import numpy as np

from fluxkeras.checks import ShapeError, undressed
from fluxkeras.nested import is_nested_list


class FluxLayer:
    """What a call of our layers adds to a call of Keras's: plain lists, and errors as raised."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*map(as_array, args), **kwargs)  # type: ignore[misc]
        except ShapeError as error:
            raise undressed(error) from None


def as_array(x: Any) -> Any:
    """Numbers and lists of numbers as arrays, also within a tuple; uneven lists as several."""
    if isinstance(x, tuple):
        return tuple(map(as_array, x))
    if isinstance(x, Number) or is_nested_list(x):
        try:
            return np.asarray(x)
        except ValueError:
            return [as_array(part) for part in x]
    return x


class Switchable(FluxLayer):
    """A layer that does something else while training, as `trainmode` and `testmode` have it.

    Attributes:
        active: True to do it always, False never; None, the default, as Keras's `training` says.
    """

    active: bool | None = None

    def is_active(self, training: bool | None) -> bool:
        """Whether to do now what is done while training, given the `training` of `call`."""
        return bool(training if self.active is None else self.active)


def apply(element: Callable[[Any], Any], x: Any) -> Any:
    """Call a layer; those of Keras that want a batch axis are lent one for a single sample."""
    is_foreign = isinstance(element, keras.Layer) and not isinstance(element, FluxLayer)
    if is_foreign and len(getattr(x, "shape", ())) == 1:
        return keras.tree.map_structure(lambda y: y[0], element(x[None]))
    return element(x)
