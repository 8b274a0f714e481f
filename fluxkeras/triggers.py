"""Triggers: functions that say when enough is enough."""

import math
import operator
from collections.abc import Callable
from typing import Any

__all__ = ["early_stopping", "patience", "plateau"]

Distance = Callable[[Any, Any], Any]


def patience(predicate: Callable[..., Any], wait: int) -> Callable[..., bool]:
    """A function that is true once `predicate` has been true `wait` times in a row.

    Args:
        predicate: any function.
        wait: how many times.

    Returns:
        A function of the same arguments, which calls `predicate` each time.

    Raises:
        TypeError: `predicate` is no function.

    Example:
        >>> trigger = patience(lambda loss: loss < 1, 3)
        >>> [trigger(loss) for loss in [0.5, 0.4, 2.0, 0.3, 0.2, 0.1, 0.1]]
        [False, False, False, False, False, True, True]

    Source: Flux's `patience`.
    """
    if not callable(predicate):
        raise TypeError(f"patience expects a function, got {predicate!r}.")
    return Trigger(predicate, wait)


def early_stopping(
    f: Callable[..., Any],
    delay: int,
    *,
    distance: Distance = operator.sub,
    init_score: Any = math.inf,
    min_dist: float = 0,
) -> Callable[..., bool]:
    """A function that is true once `f` has not improved `delay` times in a row.

    It counts calls with `distance(best, f()) < min_dist`.

    Args:
        f: returns a score, such as the loss on a validation set; less is better.
        delay: how many times.
        distance: of the best score so far and the score, positive where that is better: with
            `lambda best, score: score - best` and `init_score=-math.inf`, more is better.
        init_score: the best score before the first call.
        min_dist: what counts as no improvement.

    Returns:
        A function of the arguments of `f`, which calls it each time.

    Example:
        >>> stop_now = early_stopping(lambda loss: loss, 2)
        >>> [stop_now(loss) for loss in [3.0, 2.0, 2.5, 2.4]]
        [False, False, False, True]

    Source: Flux's `early_stopping`.
    """

    def judge(best: Any, score: Any) -> tuple[bool, Any]:
        improvement = distance(best, score)
        return bool(improvement < min_dist), best if improvement < 0 else score

    return Trigger(Compared(f, init_score, judge), delay)


def plateau(
    f: Callable[..., Any],
    width: int,
    *,
    distance: Distance = operator.sub,
    init_score: Any = math.inf,
    min_dist: float = 1e-6,
) -> Callable[..., bool]:
    """A function that is true once `f` has hardly changed `width` times in a row.

    It counts calls with `abs(distance(last, f())) < min_dist`.

    Args:
        f: returns a score, such as the loss on a validation set.
        width: how many times.
        distance: of the last score and the score.
        init_score: the last score before the first call.
        min_dist: what counts as a change.

    Returns:
        A function of the arguments of `f`, which calls it each time.

    Example:
        >>> is_flat = plateau(lambda loss: loss, 2, min_dist=0.1)
        >>> [is_flat(loss) for loss in [3.0, 2.0, 1.95, 1.99]]
        [False, False, False, True]

    Source: Flux's `plateau`.
    """

    def judge(last: Any, score: Any) -> tuple[bool, Any]:
        return bool(abs(distance(last, score)) < min_dist), score

    return Trigger(Compared(f, init_score, judge), width)


class Trigger:
    """Whether a predicate was true so many times in a row; a `Checkpoint` keeps its `state`."""

    def __init__(self, predicate: Callable[..., Any], wait: int) -> None:
        self._predicate = predicate
        self._wait = wait
        self._count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        self._count = self._count + 1 if self._predicate(*args, **kwargs) else 0
        return self._count >= self._wait

    def state(self) -> dict[str, Any]:
        return {"count": self._count, "score": getattr(self._predicate, "score", None)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._count = state["count"]
        if isinstance(self._predicate, Compared):
            self._predicate.score = state["score"]


class Compared:
    """Compares what `f` returns with a score that it remembers."""

    def __init__(
        self, f: Callable[..., Any], score: Any, judge: Callable[[Any, Any], tuple[bool, Any]]
    ) -> None:
        self._f = f
        self._judge = judge
        self.score = score

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        answer, self.score = self._judge(self.score, self._f(*args, **kwargs))
        return answer
