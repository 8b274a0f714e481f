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

    Example:
        >>> trigger = patience(lambda loss: loss < 1, 3)
        >>> [trigger(loss) for loss in [0.5, 0.4, 2.0, 0.3, 0.2, 0.1, 0.1]]
        [False, False, False, False, False, True, True]

    Source: Flux's `patience`.
    """
    if not callable(predicate):
        raise TypeError(f"patience expects a function, got {predicate!r}.")
    count = 0

    def trigger(*args: Any, **kwargs: Any) -> bool:
        nonlocal count
        count = count + 1 if predicate(*args, **kwargs) else 0
        return count >= wait

    return trigger


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
    best = init_score

    def is_no_better(*args: Any, **kwargs: Any) -> bool:
        nonlocal best
        score = f(*args, **kwargs)
        improvement = distance(best, score)
        best = best if improvement < 0 else score
        return bool(improvement < min_dist)

    return patience(is_no_better, delay)


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
    last = init_score

    def is_level(*args: Any, **kwargs: Any) -> bool:
        nonlocal last
        score = f(*args, **kwargs)
        change = abs(distance(last, score))
        last = score
        return bool(change < min_dist)

    return patience(is_level, width)
