"""Rounds: epochs, which are announced, and of which Keras's callbacks are told."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np

from fluxkeras.training.callbacks import StopTraining

__all__ = ["epochs"]

logger = logging.getLogger("fluxkeras")


@overload
def epochs(n: int) -> Iterator[int]: ...
@overload
def epochs(n: int, f: Callable[[], Any]) -> None: ...
def epochs(n: int, f: Callable[[], Any] | None = None) -> Iterator[int] | None:
    """Go through something `n` times: `for epoch in epochs(n): …`, or `epochs(n, f)`.

    Each time is announced, `INFO: Epoch 1`, through the logger `fluxkeras` where logging is
    configured to show it, and printed elsewhere. `stop()`, in a callback of `train`, ends it.

    Args:
        n: how many times.
        f: what to do each time, a function of no argument.

    Returns:
        Without `f`, an iterator over the numbers from 1 to `n`.

    Raises:
        ValueError: `n` is not a whole number from 0.

    Example:
        >>> epochs(2, lambda: print("hello"))
        INFO: Epoch 1
        hello
        INFO: Epoch 2
        hello

    Source: Flux 0.6's `@epochs`.
    """
    if not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"epochs expects how many times, a whole number from 0, got {n!r}.")
    if f is None:
        return _epochs(n)
    if not callable(f):
        raise TypeError(
            f"epochs expects a function to call, got {f!r}: epochs(2, lambda: train(…))."
        )
    try:
        for _ in _epochs(n):
            f()
    except StopTraining:  # raised by f itself, outside of train
        pass
    return None


class Round:
    """One `epochs` under way.

    Attributes:
        epoch: which it is, counted from 0.
        total: how many there are.
        stopped: whether this is the last epoch: a `train` within it was stopped.
        trainings: what is told where epochs end, by `end_epoch()`, and that there are no more, by
            `end(is_whole)`; under what tells one from another.
        agree: what several workers make of whether one of them was stopped.
    """

    def __init__(self, total: int) -> None:
        self.epoch, self.total = 0, total
        self.stopped = False
        self.agree: Callable[[bool], bool] = bool
        self.trainings: dict[Any, Any] = {}

    def end_epoch(self) -> None:
        for training in self.trainings.values():
            self.stopped |= training.end_epoch()
        self.stopped = self.agree(self.stopped)

    def end(self, is_whole: bool) -> None:
        for training in self.trainings.values():
            training.end(is_whole)


class _Running(threading.local):
    def __init__(self) -> None:
        self.rounds: list[Round] = []


_running = _Running()


def current_round() -> Round | None:
    """The innermost `epochs` that is under way in this thread."""
    return _running.rounds[-1] if _running.rounds else None


def _epochs(n: int) -> Iterator[int]:
    this = Round(n)
    _running.rounds.append(this)
    is_whole = False
    try:
        for this.epoch in range(n):
            if not this.stopped:
                announce(f"Epoch {this.epoch + 1}")
                yield this.epoch + 1
                this.end_epoch()
        is_whole = True
    finally:
        _running.rounds.remove(this)
        this.end(is_whole)


def announce(message: str) -> None:
    is_shown = logger.hasHandlers() and logger.isEnabledFor(logging.INFO)
    is_our_logger_set = logger.handlers or logger.level or logger.disabled
    if is_shown or is_our_logger_set or logging.root.manager.disable >= logging.INFO:
        logger.info(message)
    else:
        print(f"INFO: {message}", flush=True)
