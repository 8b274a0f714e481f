"""What training leaves behind: every step's loss, and what the objective returned besides."""

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["History"]


class History:
    """The record of one call of `train`.

    Attributes:
        losses: every step's loss before its update, a NumPy array of shape `(steps,)`.
        aux: what the objective returned besides the loss, in the same structure, each value
            stacked along a new first axis of length `steps` (a list, where shapes differ); a list
            of every step's, where their structure differs; None if there was nothing.
        stopped: whether `stop` ended training before the data did.

    `history["acc"]` is the value that the objective returned under that name, `history["loss"]` the
    losses, `len(history)` the number of steps.

    Example:
        >>> m = Chain(Dense(2, 1))
        >>> def loss(x, y):
        ...     error = mse(m(x), y)
        ...     return error, {"rmse": tf.sqrt(error)}
        >>> x, y = np.random.rand(8, 2), np.random.rand(8, 1)
        >>> history = train(loss, repeated((x, y), 5), SGD(0.1), progress=False)
        >>> history.losses.shape, history["rmse"].shape
        ((5,), (5,))
    """

    def __init__(self) -> None:
        self.stopped = False
        self._losses: list[np.floating[Any]] = []
        self._aux: list[Any] = []

    def append(self, loss: np.floating[Any], aux: Any) -> None:
        self._losses.append(loss)
        if aux is not None:
            self._aux.append(aux)

    @property
    def losses(self) -> np.ndarray:
        return np.array(self._losses, dtype=None if self._losses else np.float32)

    @property
    def aux(self) -> Any:
        if not self._aux:
            return None
        try:
            return tf.nest.map_structure(lambda *values: _stacked(values), *self._aux)
        except (TypeError, ValueError):  # the structure differs from step to step
            return list(self._aux)

    def __getitem__(self, name: str) -> np.ndarray:
        if name == "loss":
            return self.losses
        aux = self.aux
        if not isinstance(aux, dict) or name not in aux:
            raise KeyError(
                f"no {name!r} in the history: did the objective return (loss, {{{name!r}: …}})?"
            )
        return aux[name]

    def __len__(self) -> int:
        return len(self._losses)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if not self._losses:
            return "History(no steps)"
        first, last = self._losses[0], self._losses[-1]
        ending = ", stopped" if self.stopped else ""
        steps = "1 step" if len(self) == 1 else f"{len(self)} steps"
        return f"History({steps}, loss {first:.4g} to {last:.4g}{ending})"


def _stacked(values: tuple[Any, ...]) -> Any:
    return np.stack(values) if len({np.shape(v) for v in values}) == 1 else list(values)
