"""Tools: training on trial, after which everything is as it was before."""

import contextlib
import copy
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import NonFiniteError, at_batch
from fluxkeras.data import DataLoader, repeated
from fluxkeras.rule_state import adjust
from fluxkeras.training.cache import compiled_for
from fluxkeras.training.callbacks import State
from fluxkeras.training.history import History
from fluxkeras.training.keeping import assign, random_state, set_random_state, values_of
from fluxkeras.training.loop import listed, split, train
from fluxkeras.training.parts import feed_for
from fluxkeras.training.plotting import plot_sweep
from fluxkeras.training.step import Optimiser

__all__ = ["lr_find", "overfit", "set_seed"]

RECENT = 5  # losses whose mean tells whether training diverges
DIVERGED = 3  # times the first loss, above the least: training diverges
WIDTH = 1 / 16  # of all losses, those that the mean of one with its neighbours is of
LEARNT = 0.01  # of the first loss: a batch is learnt


@dataclass(frozen=True, repr=False)
class Sweep:
    """What `lr_find` has found.

    Attributes:
        rates: the learning rates, an array of shape `(steps,)`.
        losses: the loss at each of them, before its update, of the same shape.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """The mean of each loss and its neighbours, a sixteenth of all, or three."""
        beside = min(max(1, int(len(self.losses) * WIDTH / 2)), (len(self.losses) - 1) // 2)
        window = np.ones(2 * beside + 1)
        sums = np.convolve(self.losses, window, "same")
        return sums / np.convolve(np.ones(len(self.losses)), window, "same")

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls most steeply; None if it does not fall."""
        smoothed = self.smoothed
        fall = smoothed[: int(np.argmin(smoothed)) + 1]
        return float(self.rates[np.argmin(np.gradient(fall))]) if len(fall) > 1 else None

    def plot(self, path: str | os.PathLike[str] | None = None) -> list[Any]:
        """Draw the losses over the rates, with matplotlib, as `plot` draws a history.

        Args:
            path: a file to save the picture to.
        """
        return plot_sweep(self, path)

    def __repr__(self) -> str:
        found = "none" if self.suggestion is None else f"{self.suggestion:.3g}"
        low, high = self.rates[0], self.rates[-1]
        return f"Sweep({len(self.rates)} rates from {low:.3g} to {high:.3g}, suggestion {found})"


@overload
def lr_find(
    loss: Callable[..., Any],
    data: Iterable[Any],
    opt: Optimiser,
    /,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> Sweep: ...
@overload
def lr_find(
    loss: Callable[..., Any],
    model: Any,
    data: Iterable[Any],
    opt: Optimiser,
    /,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> Sweep: ...
def lr_find(
    loss: Callable[..., Any],
    *arguments: Any,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> Sweep:
    """Look for a learning rate: train a few steps, each at a higher one than the last.

    `rate = low * (high / low) ** (step / (steps - 1))`

    It ends early where the loss diverges: where the mean of the last 5 is above the least such mean
    by 3 times the first loss, or the loss is not finite. Afterwards the model and the optimiser,
    its learning rate too, are as they were before, to the bit, as are the generators of Python,
    NumPy, Keras and a `DataLoader`; also after an error or Ctrl-C.

    Args:
        loss: the objective, as in `train`.
        model: goes first into `loss`, if it is given.
        data: any iterable of batches. It is gone through again where it has fewer than `steps`; an
            iterator, which cannot be, ends the search.
        opt: an optimiser whose learning rate is a number.
        low: the first learning rate.
        high: the last one.
        steps: how many.

    Returns:
        An object with the arrays `rates`, `losses` and `smoothed`, the mean of each loss and its
        neighbours; with the `suggestion`, the rate at which `smoothed` falls most steeply, or None
        if it does not fall; and with a method `plot(path=None)`.

    Raises:
        NonFiniteError: the loss of the first batch is NaN or infinite.
        TypeError, ValueError, ShapeError: something given here, or a batch, does not fit.

    Example:
        >>> m = Chain(Dense(2, 8, tanh), Dense(8, 1))
        >>> x = np.random.rand(64, 2)
        >>> data, opt = DataLoader((x, x.sum(1, keepdims=True)), 16), Adam()
        >>> found = lr_find(lambda x, y: mse(m(x), y), data, opt)
        >>> found
        Sweep(... rates from 1e-07 to ..., suggestion ...)
        >>> axes = found.plot(folder / "rates.png")
        >>> opt = adjust(opt, found.suggestion)

    Source: Leslie N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.
    """
    model, data, opt = split("lr_find", "data", arguments)
    if isinstance(opt, list | tuple):
        raise TypeError(f"lr_find takes one optimiser, got {len(opt)}.")
    if not isinstance(data, Iterable | keras.utils.PyDataset):
        raise TypeError(
            "lr_find expects data to be an iterable of batches, got "
            f"{type(data).__name__}. For one batch write [batch]."
        )
    if not 0 < low < high < math.inf:
        raise ValueError(f"lr_find expects 0 < low < high, got low={low!r} and high={high!r}.")
    if not isinstance(steps, int | np.integer) or steps < 3:
        raise ValueError(f"lr_find expects steps, a whole number from 3, got {steps!r}.")
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    with _generators_left_alone(data):
        batches = _cycled(data)
        if not (first := list(itertools.islice(batches, 1))):
            raise ValueError(f"lr_find got no batch: the data, a {type(data).__name__}, is empty.")
        with _on_trial(loss, model, first, [opt]) as (trial,):
            adjust(trial, low)

            # `train` asks a generator for a batch when those before have been trained on.
            def sweep() -> Iterator[Any]:
                for rate, batch in zip(rates, itertools.chain(first, batches), strict=False):
                    if _diverges(losses):
                        return
                    adjust(trial, float(rate))
                    yield batch

            def record(state: State) -> None:
                losses.append(state.loss)

            try:
                train(loss, model, sweep(), trial, cb=record, progress=False, form="single")
            except NonFiniteError:
                if not losses:
                    raise
    return Sweep(rates[: len(losses)], np.array(losses))


@overload
def overfit(
    loss: Callable[..., Any],
    batch: Any,
    opt: Optimiser | list[Optimiser],
    /,
    *,
    steps: int = 500,
    tolerance: float | None = None,
    restore: bool = True,
) -> History: ...
@overload
def overfit(
    loss: Callable[..., Any],
    model: Any,
    batch: Any,
    opt: Optimiser | list[Optimiser],
    /,
    *,
    steps: int = 500,
    tolerance: float | None = None,
    restore: bool = True,
) -> History: ...
def overfit(
    loss: Callable[..., Any],
    *arguments: Any,
    steps: int = 500,
    tolerance: float | None = None,
    restore: bool = True,
) -> History:
    """Train on one batch until it is learnt: `overfit(loss, batch, opt)`, a test of a model.

    What cannot learn one batch by heart will not learn from many: the loss or the labels are wrong,
    no gradient arrives, or the learning rate does not fit. `overfit(loss, model, batch, opt)` is
    for a loss that takes the model first.

    Args:
        loss: the objective, as in `train`.
        *arguments: as in `train`, with one batch in place of the data.
        steps: how many steps it may take.
        tolerance: the loss below which the batch is learnt; by default a hundredth of the first.
        restore: whether the model, the optimiser and the generators of random numbers are put back
            to what they were before, as by `lr_find`.

    Returns:
        The `History`, up to the step whose loss is below the tolerance.

    Raises:
        ValueError: the batch is not learnt in so many steps. The error's `history` holds them.
        NonFiniteError, TypeError, ShapeError: as in `train`.

    Example:
        >>> m = Chain(Dense(2, 32, tanh), Dense(32, 1))
        >>> loss = lambda x, y: mse(m(x), y)
        >>> x = np.random.rand(4, 2)
        >>> history = overfit(loss, (x, x.sum(1, keepdims=True)), Adam(0.01))
        >>> bool(history.losses[-1] < 0.01 * history.losses[0])
        True

    Source: Andrej Karpathy, "A Recipe for Training Neural Networks", 2019.
    """
    model, batch, opt = split("overfit", "batch", arguments)
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"overfit expects steps, a whole number from 1, got {steps!r}.")
    goal = tolerance

    def check(state: State) -> None:
        nonlocal goal
        if goal is None and state.loss > 0:
            goal = LEARNT * state.loss
        if goal is None or state.loss < goal:
            raise _Ended

    data = repeated(batch, steps)
    with contextlib.ExitStack() as stack:
        if restore:
            stack.enter_context(_generators_left_alone(data))
            opt = stack.enter_context(_on_trial(loss, model, data, listed(opt)))
        try:
            history = train(loss, model, data, opt, cb=check, progress=False)
        except _Ended as ended:
            if goal is not None:
                return ended.history
            raise ValueError(_no_goal(ended.history.losses[0])) from None
    error = ValueError(_why_not(history.losses, goal))
    error.history = history  # type: ignore[attr-defined]
    raise error


class _Ended(Exception):
    """Ends the training of `overfit`; `train` gives it its history."""

    history: History


def _no_goal(first: float) -> str:
    return (
        f"overfit expects a tolerance, since the first loss is {first:.4g}, of which a hundredth "
        "means nothing: overfit(loss, batch, opt, tolerance=…)."
    )


def _why_not(losses: np.ndarray, goal: Any) -> str:
    first, last = float(losses[0]), float(losses[-1])
    if np.all(losses == first):
        advice = "It never changes: is the learning rate 0, or does the loss ignore the outputs?"
    elif last >= first:
        advice = "It does not fall: is the learning rate too high? lr_find suggests one."
    else:
        advice = (
            "Allow more steps, or another learning rate, which lr_find suggests. Can the model "
            "return what the batch holds: is there a relu or a softmax at its end, or dropout?"
        )
    return (
        f"overfit: in {len(losses)} steps on one batch the loss went from {first:.4g} to "
        f"{last:.4g}, not below {goal:.4g}. {advice}"
    )


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed what draws random numbers: Python, NumPy, TensorFlow and Keras.

    `keras.utils.set_random_seed(seed)`, which it is but for its second argument and for NumPy's
    integers: use either. What fluxkeras draws (initial weights, `Dropout`, the orders of a
    `DataLoader`) comes from those generators. In old versions of Keras, such as 3.5, what
    `keras.random` draws without a seed of its own is not governed by it.

    Args:
        seed: a whole number from 0, below 2**32.
        deterministic: whether TensorFlow is to use none but operations that give the same to the
            bit each time, on a GPU too, and slower; until the program ends.

    Raises:
        ValueError: `seed` is no such number.

    Example:
        >>> set_seed(1)
        >>> first = np.random.rand(), Dense(2, 2).kernel.numpy()
        >>> set_seed(1)
        >>> bool(np.random.rand() == first[0] and np.all(Dense(2, 2).kernel == first[1]))
        True

    Source: Julia's `Random.seed!`, of which Flux's documentation speaks.
    """
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"set_seed expects a whole number from 0, below 2**32, got {seed!r}.")
    keras.utils.set_random_seed(int(seed))
    if deterministic:
        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def _on_trial(
    loss: Callable[..., Any], model: Any, data: Any, optimisers: Sequence[Optimiser]
) -> Iterator[list[Optimiser]]:
    """Optimisers to train with: afterwards all variables have the values that they had before."""
    trial = [opt if opt.built else _copied(opt) for opt in optimisers]
    compiled = compiled_for(loss, trial, model)
    feed = feed_for(data, compiled.distribution)
    signature: Any = feed.peek()  # there is a batch
    with at_batch(0, signature):
        # Tracing tells which variables a step reads, or makes.
        compiled.runner(signature, feed.is_same)
    variables = compiled.variables
    before = values_of(variables)
    try:
        yield trial
    finally:
        assign(variables, before)


@contextlib.contextmanager
def _generators_left_alone(data: Any) -> Iterator[None]:
    """What it draws from the generators of Python, NumPy and the data is drawn again later."""
    own = getattr(data, "rng", None) if isinstance(data, DataLoader) else None
    of_data = own and own.bit_generator.state
    of_all = random_state()
    try:
        yield
    finally:
        set_random_state(of_all)
        if own:
            own.bit_generator.state = of_data


def _copied(opt: Optimiser) -> Optimiser:
    """Another one like it: a new one is not to know what the trial was about."""
    copied = type(opt).from_config(opt.get_config())
    copied.__dict__["params"] = getattr(opt, "params", None)  # as Rule does, past Keras's tracking
    return copied


def _cycled(data: Any) -> Iterator[Any]:
    """The batches, again and again."""
    if isinstance(data, DataLoader):
        data = copy.copy(data)  # it remembers how far it has been read
    is_empty = False
    while not is_empty:
        is_empty = True
        # Python would iterate a PyDataset by __getitem__ alone, which knows no end.
        is_indexed = isinstance(data, keras.utils.PyDataset)
        for batch in map(data.__getitem__, range(data.num_batches)) if is_indexed else data:
            is_empty = False
            yield batch
        # What is an iterator is exhausted now.


def _diverges(losses: list[float]) -> bool:
    if len(losses) < RECENT:
        return False
    means = np.convolve(losses, np.full(RECENT, 1 / RECENT), "valid")
    scale = max(abs(losses[0]), abs(means.min()))
    return bool(means[-1] > means.min() + DIVERGED * scale)
