"""The loop: train and epochs."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import NonFiniteError, locate
from fluxkeras.training.callbacks import Callbacks, State, StopTraining
from fluxkeras.training.feed import Batch, batches, length
from fluxkeras.training.history import History
from fluxkeras.training.progress import progress_of
from fluxkeras.training.step import Optimiser, Step, compiled_step

__all__ = ["epochs", "train"]

logger = logging.getLogger("fluxkeras")

Callback = Callable[..., Any]


@overload
def train(
    loss: Callable[..., Any],
    data: Iterable[Any],
    opt: Optimiser | list[Optimiser],
    /,
    *,
    cb: Callback | list[Callback] | None = None,
    progress: bool = True,
) -> History: ...
@overload
def train(
    loss: Callable[..., Any],
    model: Any,
    data: Iterable[Any],
    opt: Optimiser | list[Optimiser],
    /,
    *,
    cb: Callback | list[Callback] | None = None,
    progress: bool = True,
) -> History: ...
def train(
    loss: Callable[..., Any],
    *arguments: Any,
    cb: Callback | list[Callback] | None = None,
    progress: bool = True,
) -> History:
    """Train once over the data: `train(loss, data, opt)` or `train(loss, model, data, opt)`.

    `for d in data: opt.update(gradient(loss(*d)))`

    Args:
        loss: the objective: any function that returns a number, or `(number, {"name": value, …})`
            to have more than the loss recorded. It is called with the arguments of a batch, after
            the model, if that is given. Within it, layers are in training mode; a `tf.function`
            that it calls keeps the mode in which that was first called, inside or outside.
        model: goes first into `loss`; an optimiser that names no parameters trains those of it
            that `loss` reads. Without a model, it trains all variables that `loss` reads.
        data: any iterable of batches. A tuple is splatted into `loss`, anything else passed whole.
            Arrays, numbers and nested lists become tensors, of floating-point numbers in Keras's
            precision, `keras.config.floatx()`.
        opt: a Keras optimiser, or several: each trains the parameters that it names, and one may
            name none, to train the others.
        cb: a callable, or several, called after every batch with no argument, or, if it takes one,
            with the `State`. It may call `stop()`.
        progress: whether to show how far training is.

    Returns:
        A `History`, with every step's loss.

    Raises:
        NonFiniteError: the loss of a batch is NaN or infinite. The model is as it was before that
            batch, and the error's `history` holds the steps up to it.
        TypeError, ValueError, ShapeError: something given here, or a batch, does not fit. The
            message names the batch, counted from 0; what is refused has changed nothing.

    Example:
        >>> m = Chain(Dense(784, 32, σ), Dense(32, 10), softmax)
        >>> loss = lambda x, y: mse(m(x), y)
        >>> x, y = np.random.rand(784), np.random.rand(10)
        >>> history = train(loss, [(x, y), (x, y), (x, y)], SGD(params(m), 0.1), progress=False)
        >>> len(history.losses), bool(history.losses[-1] < history.losses[0])
        (3, True)

    Source: Flux's `train!`, of 0.6 and, with a model, of 0.13 and later.
    """
    model, data, optimisers = _arguments(arguments)
    callbacks = Callbacks(cb)
    step = compiled_step(loss, optimisers, model)
    history = History()
    display = progress_of(length(data), wanted=progress)
    try:
        with _stoppable(history):
            for position, batch in enumerate(batches(data)):
                value, aux = _run(step, batch, position)
                history.append(value, aux)
                if callbacks:
                    with display.aside():
                        callbacks(State(position, float(value), aux, model))
                display.update(len(history), float(value))
        with _stoppable(history), display.aside():
            callbacks.finish()
    except BaseException as error:
        error.history = history  # type: ignore[attr-defined]
        raise
    finally:
        display.finish()
    return history


@contextlib.contextmanager
def _stoppable(history: History) -> Iterator[None]:
    """Where `stop` ends what is under way, and the `epochs` around it."""
    try:
        yield
    except StopTraining:
        history.stopped = True
        for running in _running.epochs[-1:]:
            running.stopped = True


def _arguments(arguments: tuple[Any, ...]) -> tuple[Any, Any, list[Optimiser]]:
    if len(arguments) not in (2, 3):
        raise TypeError(
            "train takes (loss, data, opt) or (loss, model, data, opt), got "
            f"{len(arguments) + 1} arguments."
        )
    model, data, opt = (None, *arguments)[-3:]
    optimisers = list(opt) if isinstance(opt, list | tuple) else [opt]
    for optimiser in optimisers:
        if not isinstance(optimiser, keras.optimizers.Optimizer):
            raise TypeError(
                f"train expects an optimiser, such as ADAM(), as its last argument, got "
                f"{type(optimiser).__name__}."
            )
    if not optimisers:
        raise ValueError("train got no optimiser.")
    return model, data, optimisers


def _run(step: Step, batch: Batch, position: int) -> tuple[Any, Any]:
    """One step, with what it returns in NumPy."""
    try:
        loss, aux = step(batch)
    except Exception as error:
        locate(error, f"batch {position} ({batch})")
        raise
    value = loss.numpy()
    if not math.isfinite(value):
        raise NonFiniteError(
            f"batch {position} ({batch}): the loss is {value}. Training stopped before that "
            "update: the model is as it was before that batch. Is there a NaN in the batch, or a "
            "log of 0 or a division by 0 in the objective? If the losses grew, lower the learning "
            "rate."
        )
    return value, tf.nest.map_structure(_numpy, aux)


def _numpy(value: Any) -> Any:
    return value.numpy() if hasattr(value, "numpy") else value


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


def _epochs(n: int) -> Iterator[int]:
    this = _Epochs()
    _running.epochs.append(this)
    try:
        for epoch in range(1, n + 1):
            if not this.stopped:
                _announce(f"Epoch {epoch}")
                yield epoch
    finally:
        _running.epochs.remove(this)


class _Epochs:
    """One `epochs` under way; a `train` within it that was stopped marks it."""

    stopped = False


class _Running(threading.local):
    def __init__(self) -> None:
        self.epochs: list[_Epochs] = []


_running = _Running()


def _announce(message: str) -> None:
    is_shown = logger.hasHandlers() and logger.isEnabledFor(logging.INFO)
    is_our_logger_set = logger.handlers or logger.level or logger.disabled
    if is_shown or is_our_logger_set or logging.root.manager.disable >= logging.INFO:
        logger.info(message)
    else:
        print(f"INFO: {message}", flush=True)
