"""What training leaves behind: every step's loss, what came besides, and where the time went."""

import contextlib
import csv
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.training.plotting import plot

__all__ = ["History"]

MOST_PARTS = 256  # of a record that are kept apart


@dataclass
class Timing:
    """Where the time of a call of `train` went, in seconds, and how its steps ran at the end.

    Attributes:
        compiling: tracing, compiling, and first calls of what was compiled.
        data: waiting for batches, and making tensors of them.
        steps: training.
        callbacks: callbacks, and the progress display.
        form: "single" (a step a call), "graph" (a loop), or "xla" (a loop that XLA compiled).
        chunk: the steps of a call.
        dropped: the forms that could not be used, and why.
    """

    compiling: float = 0.0
    data: float = 0.0
    steps: float = 0.0
    callbacks: float = 0.0
    form: str = "single"
    chunk: int = 1
    dropped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self, part: str) -> float:
        """The time since the last lap went into this part: so many seconds."""
        seconds = time.perf_counter() - self._since
        setattr(self, part, getattr(self, part) + seconds)
        self._since += seconds
        return seconds

    def ran_as(self, form: str, chunk: int, dropped: dict[str, str]) -> None:
        self.form, self.chunk = form, chunk
        if dropped:
            self.dropped |= dropped


class Parts:
    """What was recorded, part by part, many of which are joined: by itself, what comes of one step
    takes a hundred times the memory of its numbers.

    Args:
        join: makes one of several; it may raise a TypeError or ValueError where they do not fit.
    """

    def __init__(self, join: Callable[[list[Any]], Any]) -> None:
        self._join = join
        self._blocks: list[Any] = []
        self._recent: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(self._blocks, self._recent)

    def __bool__(self) -> bool:
        return bool(self._blocks or self._recent)

    def add(self, part: Any) -> None:
        self._recent.append(part)
        if len(self._recent) == MOST_PARTS:
            self._blocks += self._joined(self._recent)
            self._recent = []

    def packed(self) -> "Parts":
        """The same, as one part if they fit."""
        self._blocks, self._recent = self._joined(list(self)), []
        return self

    def _joined(self, parts: list[Any]) -> list[Any]:
        if len(parts) < 2:
            return parts
        try:
            return [self._join(parts)]
        except (TypeError, ValueError):
            return parts


class History:
    """The record of one call of `train`.

    Attributes:
        losses: every step's loss before its update, a NumPy array of shape `(steps,)`.
        aux: what the objective returned besides the loss, in the same structure, each value
            stacked along a new first axis of length `steps` (a list, where shapes differ); a list
            of every step's, where their structure differs; None if there was nothing.
        stopped: whether `stop` ended training before the data did.
        skipped: the steps that were left out, a list of their numbers: those whose loss or gradient
            was not finite, with `on_nonfinite="skip"`, and those whose scaled loss overflowed, by
            which Keras's `LossScaleOptimizer` finds its scale.
        timing: the seconds spent in `compiling`, `data`, `steps` and `callbacks`, the `form` in
            which the last steps ran, with how many a call (`chunk`), and the forms that could not
            be used, with the reason (`dropped`).

    `history["acc"]` is the value that the objective returned under that name, `history["loss"]` the
    losses, `len(history)` the number of steps. `print(history)` says how training went, what a step
    took, and where the time went.

    Example:
        >>> m = Chain(Dense(2, 1))
        >>> def loss(x, y):
        ...     error = mse(m(x), y)
        ...     return error, {"rmse": tf.sqrt(error)}
        >>> x, y = np.random.rand(8, 2), np.random.rand(8, 1)
        >>> history = train(loss, repeated((x, y), 5), SGD(0.1), progress=False)
        >>> history.losses.shape, history["rmse"].shape
        ((5,), (5,))
        >>> print(history)
        History(5 steps, loss ... to ...)
        single: ... a step
        ...: ... compiling, ... data, ... steps, ... callbacks
    """

    def __init__(self) -> None:
        self.stopped = False
        self.skipped: list[int] = []
        self.timing = Timing()
        self._losses = Parts(np.concatenate)
        self._aux = Parts(_together)
        self._steps = 0

    def extend(self, losses: np.ndarray, aux: Any) -> None:
        """Record some steps: `aux` has an axis of their number in front of each value."""
        self._losses.add(losses)
        self._steps += len(losses)
        if aux is not None:
            self._aux.add((len(losses), aux))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: all but the timing."""
        return {
            "losses": self.losses,
            "aux": list(self._aux.packed()),
            "stopped": self.stopped,
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; named tuples have become plain ones."""
        self._losses, self._aux = Parts(np.concatenate), Parts(_together)
        self._steps = len(state["losses"])
        if self._steps:
            self._losses.add(state["losses"])
        for part in state["aux"]:
            self._aux.add(part)
        self.stopped, self.skipped = state["stopped"], list(state["skipped"])

    @property
    def losses(self) -> np.ndarray:
        if not self._losses:
            return np.empty(0, np.float32)
        losses: np.ndarray
        (losses,) = self._losses.packed()
        return losses

    @property
    def aux(self) -> Any:
        if not self._aux:
            return None
        try:
            return self._joined_aux()
        except (TypeError, ValueError):  # the structure differs from step to step
            return [of_step(aux, i) for steps, aux in self._aux for i in range(steps)]

    def _joined_aux(self) -> Any:
        return tf.nest.map_structure(_joined, *(aux for _, aux in self._aux))

    def to_dict(self) -> dict[str, list[Any]]:
        """The values of every step by name, as lists of Python's numbers: for JSON, or pandas.

        Returns:
            A dict with `"loss"` and the names of what the objective returned besides: `"a.b"` for a
            dict in a dict, `"a[0]"` for an element of a tuple or list, `"aux"` for what has no
            name. Where its structure differs from step to step, `"aux"` lists it as it is.

        Example:
            >>> m = Chain(Dense(1, 1, init="ones"))
            >>> loss = lambda x: (mse(m(x), x), {"mae": mae(m(x), x)})
            >>> history = train(loss, [np.ones((2, 1))] * 2, SGD(0.1), progress=False)
            >>> history.to_dict()
            {'loss': [0.0, 0.0], 'mae': [0.0, 0.0]}
        """
        others = {name: values for name, values in self._columns().items() if name != "loss"}
        return {"loss": self.losses.tolist(), **others}

    def _columns(self) -> dict[str, list[Any]]:
        if not self._aux:
            return {}
        try:
            return dict(_columns(next(iter(self._aux))[1], self._joined_aux(), ""))
        except (TypeError, ValueError):  # the structure differs from step to step
            return {"aux": [_plain(aux) for aux in self.aux]}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table of `to_dict` with a line for each step, counted from 0.

        Args:
            path: the file. An array among the values fills one cell, as a list.

        Example:
            >>> m = Chain(Dense(1, 1, init="ones"))
            >>> data = [np.ones((2, 1))] * 2
            >>> history = train(lambda x: mse(m(x), x), data, SGD(0.1), progress=False)
            >>> history.to_csv(folder / "history.csv")
            >>> print((folder / "history.csv").read_text())
            step,loss
            0,0.0
            1,0.0
        """
        columns = self.to_dict()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["step", *columns])
            table.writerows(zip(range(len(self)), *columns.values(), strict=True))

    def plot(
        self,
        *names: str,
        smooth: int | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> list[Any]:
        """Draw the losses, and what else was recorded: `plot(history)`, which see.

        Example:
            >>> m = Chain(Dense(2, 1))
            >>> data = repeated((np.ones((8, 2)), np.ones((8, 1))), 200)
            >>> history = train(lambda x, y: mse(m(x), y), data, SGD(0.1), progress=False)
            >>> (axes,) = history.plot(path=folder / "loss.png")
        """
        return plot(self, *names, smooth=smooth, path=path)

    def __getitem__(self, name: str) -> Any:
        if name == "loss":
            return self.losses
        aux = self.aux
        if not isinstance(aux, dict) or name not in aux:
            raise KeyError(
                f"no {name!r} in the history: did the objective return (loss, {{{name!r}: …}})?"
            )
        return aux[name]

    def __len__(self) -> int:
        return self._steps

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if not self._steps:
            return "History(no steps)"
        first, last = self.losses[[0, -1]]
        ending = ", stopped" if self.stopped else ""
        steps = "1 step" if len(self) == 1 else f"{len(self)} steps"
        return f"History({steps}, loss {first:.4g} to {last:.4g}{ending})"

    def __str__(self) -> str:
        if not self._steps:
            return repr(self)
        t = self.timing
        form = t.form if t.chunk == 1 else f"{t.form}, {t.chunk} steps a call"
        dropped = "".join(f" (without {name}: {why})" for name, why in t.dropped.items())
        total = t.compiling + t.data + t.steps + t.callbacks
        return (
            f"{self!r}\n"
            f"{form}: {_seconds(total / self._steps)} a step{dropped}\n"
            f"{_seconds(total)}: {_seconds(t.compiling)} compiling, {_seconds(t.data)} data, "
            f"{_seconds(t.steps)} steps, {_seconds(t.callbacks)} callbacks"
        )


def of_step(aux: Any, i: int) -> Any:
    """What the objective returned besides in one of several steps."""
    if aux is None:
        return None
    return tf.nest.map_structure(lambda value: value if value is None else value[i], aux)


def _columns(like: Any, aux: Any, name: str) -> Iterator[tuple[str, list[Any]]]:
    """The values in `aux`, which is of the structure of `like`, and their names."""
    if isinstance(like, dict):
        for part in like:
            yield from _columns(like[part], aux[part], f"{name}.{part}" if name else str(part))
    elif isinstance(like, list | tuple):
        for i, part in enumerate(like):
            yield from _columns(part, aux[i], f"{name or 'aux'}[{i}]")
    elif like is not None:
        yield name or "aux", _plain(aux)


def _plain(values: Any) -> Any:
    """With lists and Python's numbers in place of arrays."""
    return tf.nest.map_structure(lambda v: v.tolist() if hasattr(v, "tolist") else v, values)


def _joined(*parts: Any) -> Any:
    if parts[0] is None:
        return None
    if len({np.shape(part)[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _together(parts: Sequence[tuple[int, Any]]) -> tuple[int, Any]:
    """What was returned besides in some steps, and that in the next, of one structure and shape."""
    joined = tf.nest.map_structure(_stacked, *(aux for _, aux in parts))
    return sum(steps for steps, _ in parts), joined


def _stacked(*parts: Any) -> Any:
    return None if parts[0] is None else np.concatenate(parts)


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


@contextlib.contextmanager
def with_history(history: History) -> Iterator[None]:
    """Where errors take along the steps that were made."""
    try:
        yield
    except BaseException as error:
        error.history = history  # type: ignore[attr-defined]
        raise
