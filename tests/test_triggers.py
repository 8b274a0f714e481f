import itertools
import re

import pytest

from fluxkeras import early_stopping, patience, plateau


def calls_until_true(trigger, most=10):
    """How many calls it takes, as in the examples of Flux's documentation."""
    return next((i for i in range(1, most + 1) if trigger()), None)


def test_patience_counts_in_a_row():
    answers = iter([True, True, False, True, True, True, True])
    trigger = patience(lambda: next(answers), 3)

    assert [trigger() for _ in range(7)] == [False] * 5 + [True] * 2


def test_patience_gives_its_arguments_on():
    trigger = patience(lambda a, *, b: a == b, 1)

    assert trigger(1, b=1) and not trigger(1, b=2)


def test_the_examples_of_flux():
    rising = itertools.count(1)
    alternating = iter([-9, 8, -7, 6, -5, 4, -3, 2])

    assert calls_until_true(patience(lambda: True, 3)) == 3
    assert calls_until_true(early_stopping(lambda: next(rising), 3, init_score=0)) == 3
    trigger = plateau(lambda: next(alternating), 3, init_score=10, min_dist=18)
    assert calls_until_true(trigger) == 4


def test_early_stopping_remembers_the_best_score():
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5, 0.6, 0.6, 0.6])
    trigger = early_stopping(lambda: next(losses), 3)

    assert [trigger() for _ in range(8)] == [False] * 7 + [True]


def test_early_stopping_on_what_should_rise():
    trigger = early_stopping(
        lambda x: x, 2, distance=lambda best, score: score - best, init_score=-float("inf")
    )

    assert [trigger(x) for x in [0.1, 0.5, 0.4, 0.6, 0.6, 0.5, 0.4]] == [False] * 6 + [True]


def test_what_stays_the_same_is_no_improvement_only_below_min_dist():
    assert calls_until_true(early_stopping(lambda: 1.0, 2)) is None
    assert calls_until_true(early_stopping(lambda: 1.0, 2, min_dist=1e-9)) == 3


def test_a_plateau_is_left_by_a_change():
    losses = iter([1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    trigger = plateau(lambda: next(losses), 3)

    assert [trigger() for _ in range(7)] == [False] * 6 + [True]


@pytest.mark.parametrize("make", [patience])
def test_what_is_no_function_is_refused(make):
    with pytest.raises(TypeError, match=f"^{re.escape('patience expects a function, got 3.')}$"):
        make(3, 2)
