"""What a Keras callback keeps from batch to batch, which a checkpoint is to hold."""

import inspect
import warnings
from typing import Any

import keras
import numpy as np

from fluxkeras.training.keeping import Stateful

OF_FILES = {"append_header"}  # what a `CSVLogger` finds out of the file that it goes on with

NUMBERS = bool | int | float | np.ndarray | np.generic | None


class CallbackState:
    """The numbers and arrays that a Keras callback has, such as the best value and the patience.

    Its options stay those of the program: an attribute that is called like an argument of its
    constructor, and whatever else is no number. A callback with methods `state()` and
    `load_state(state)` says itself what is kept.

    Args:
        callback: the callback.
    """

    def __init__(self, callback: keras.callbacks.Callback) -> None:
        self._callback = callback
        self._options = {
            "params",
            *OF_FILES,
            *inspect.signature(type(callback).__init__).parameters,
        }

    def state(self) -> Any:
        """What there is now, which does not change with the callback."""
        if isinstance(self._callback, Stateful):
            return self._callback.state()
        return {name: _copied(value) for name, value in self._kept().items()}

    def load_state(self, state: Any) -> None:
        """Put it back, after the callback was told that training begins."""
        if isinstance(self._callback, Stateful):
            self._callback.load_state(state)
            return
        if isinstance(self._callback, keras.callbacks.EarlyStopping):
            _choose_direction(self._callback)
        for name in self._kept().keys() & state.keys():
            setattr(self._callback, name, state[name])

    def _kept(self) -> dict[str, Any]:
        own = vars(self._callback).items()
        return {n: value for n, value in own if n not in self._options and _is_numbers(value)}


def _choose_direction(callback: keras.callbacks.EarlyStopping) -> None:
    """Have it see whether less is better, since Keras 3.5 then forgets what was best."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an epoch that has not the value to look at
        keras.callbacks.EarlyStopping.on_epoch_end(callback, 0, {})


def _is_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_numbers(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_numbers, value))
    return isinstance(value, NUMBERS) and getattr(value, "dtype", None) != np.dtype(object)


def _copied(value: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: np.array(x) if isinstance(x, np.ndarray) else x, value
    )
