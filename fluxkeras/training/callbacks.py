"""What happens between steps: callbacks, how often, and the way out."""

import functools
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = ["State", "stop", "throttle"]


@dataclass(frozen=True)
class State:
    """Where training stands, for a callback that takes an argument.

    Attributes:
        step: the batch just trained on, counted from 0 in this call of `train`.
        loss: its loss, before the update.
        aux: what the objective returned besides, with NumPy arrays in place of tensors, or None.
        model: the model, if `train` was given one.

    Example:
        >>> m = Chain(Dense(2, 1, init="zeros"))
        >>> loss = lambda x, y: mse(m(x), y)
        >>> data = [(np.zeros((4, 2)), np.ones((4, 1)))] * 2
        >>> show = lambda state: print(state.step, round(state.loss, 2))
        >>> history = train(loss, data, SGD(0.1), cb=show, progress=False)
        0 1.0
        1 0.64
    """

    step: int
    loss: float
    aux: Any = None
    model: Any = None


class StopTraining(Exception):
    """Raised by `stop`. `train` and `epochs` end on it."""


def stop() -> NoReturn:
    """End training, called from a callback: `train` returns its history, `epochs` ends with it.

    Raises:
        StopTraining: which those two catch. It does not return.

    Example:
        >>> m = Chain(Dense(2, 1))
        >>> loss = lambda x, y: mse(m(x), y)
        >>> data = repeated((np.ones((4, 2)), np.ones((4, 1))))  # no end
        >>> enough = lambda state: state.loss < 1e-3 and stop()
        >>> history = train(loss, data, SGD(0.1), cb=enough, progress=False)
        >>> bool(history.losses[-1] < 1e-3)
        True

    Source: Flux 0.6's `stop`.
    """
    raise StopTraining


class throttle:
    """Call `f` at most once in `timeout` seconds, however often it is asked for.

    The first call runs at once; those that come within `timeout` seconds after it ended are
    dropped.

    Args:
        f: any function.
        timeout: seconds.
        leading: run the first call of each window at once. Otherwise it runs when the window ends.
        trailing: keep the last call that was dropped, and run it when the window ends.

    Returns:
        A function of the same arguments, which returns what `f` last returned. What waits for the
        end of its window runs at the first call after it, or when training ends.

    Raises:
        TypeError: `f` is no function.
        ValueError: `timeout` is no number from 0.

    Example:
        >>> greet = throttle(print, 60)
        >>> for name in ["Ada", "Alan", "Grace"]:
        ...     greet(name)
        Ada

    Source: Flux's `throttle`.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        timeout: float,
        leading: bool = True,
        trailing: bool = False,
    ) -> None:
        if not callable(f):
            raise TypeError(f"throttle expects a function, got {f!r}.")
        if not timeout >= 0:
            raise ValueError(f"throttle expects a timeout of at least 0 seconds, got {timeout!r}.")
        functools.update_wrapper(self, f)
        self._f = f
        self.timeout = timeout
        self.leading = leading
        self.trailing = trailing
        self._waiting: Callable[[], Any] | None = None
        self._opens = -math.inf
        self._result: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(self._f, *args, **kwargs)
        if self._waiting and self._is_open():
            self.finish()
        if self._is_open() and self.leading:
            self._run(call)
        elif self._is_open():
            self._waiting = call
            self._opens = time.monotonic() + self.timeout
        elif self.trailing:
            self._waiting = call
        return self._result

    def finish(self) -> None:
        """Run the call that waits for the end of its window, if there is one."""
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            self._run(waiting)

    def _is_open(self) -> bool:
        return time.monotonic() >= self._opens

    def _run(self, call: Callable[[], Any]) -> None:
        self._result = call()
        self._opens = time.monotonic() + self.timeout


class Callbacks:
    """The callbacks of one call of `train`.

    Args:
        cb: a callable or several, each of which takes no argument, or the `State`.
    """

    def __init__(self, cb: Callable[..., Any] | Iterable[Callable[..., Any]] | None) -> None:
        if callable(cb) or not isinstance(cb, Iterable):
            cb = [] if cb is None else [cb]
        self._callbacks: list[Any] = list(cb)
        self._takes_state = [_takes_state(callback) for callback in self._callbacks]

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(self._callbacks)

    @property
    def want_every_batch(self) -> bool:
        """Whether some of them are not throttled."""
        return not all(isinstance(callback, throttle) for callback in self._callbacks)

    def __call__(self, state: State) -> None:
        for callback, takes_state in zip(self._callbacks, self._takes_state, strict=True):
            callback(state) if takes_state else callback()

    def finish(self) -> None:
        """Run what throttled callbacks still hold back."""
        for callback in self._callbacks:
            if isinstance(callback, throttle):
                callback.finish()


def _takes_state(callback: Any) -> bool:
    if not callable(callback):
        raise TypeError(f"cb expects a callable or a list of them, got {callback!r}.")
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some built-in functions have none
        return False
    for arguments in (), (None,):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise TypeError(
        f"a callback takes no argument, or one, the state of training: got {signature}."
    )
