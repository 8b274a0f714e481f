import functools

import pytest

from fluxkeras import State, stop, throttle
from fluxkeras.training import callbacks
from fluxkeras.training.callbacks import Callbacks, StopTraining


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set: `clock.now = 3.0`."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    return clock


def calls_of(clock, f, times):
    """Call f at each of the times, with the time."""
    for t in times:
        clock.now = 100.0 + t
        f(t)


# The expected calls follow from Flux's definition (src/utils.jl): a window of `timeout` seconds
# opens when f has run; what comes within it is dropped, or, with trailing, waits for its end.
@pytest.mark.parametrize(
    ("options", "during", "at_the_end"),
    [
        ({}, [0, 5, 11], []),
        ({"trailing": True}, [0, 4, 9], [11]),
        ({"leading": False}, [0], [11]),
        ({"leading": False, "trailing": True}, [4, 9], [11]),
    ],
)
def test_throttle_calls_as_flux_does(clock, options, during, at_the_end):
    called = []
    f = throttle(called.append, 5, **options)

    calls_of(clock, f, [0, 1, 4, 5, 6, 9, 11])

    assert called == during
    f.finish()
    f.finish()
    assert called == during + at_the_end


def test_throttle_counts_its_timeout_from_the_end_of_a_call(clock):
    starts = []

    def slow(t):
        starts.append(t)
        clock.now += 3

    calls_of(clock, throttle(slow, 5), [0, 5, 7, 8, 9])

    assert starts == [0, 8]


def test_throttle_passes_arguments_on_and_returns_the_last_result(clock):
    f = throttle(lambda *args, **kwargs: (args, kwargs), 5)

    assert f(1, b=2) == ((1,), {"b": 2})
    assert f(3) == ((1,), {"b": 2})


def test_throttle_tries_again_at_once_after_an_error(clock):
    attempts = []

    def fail():
        attempts.append(1)
        raise OSError

    f = throttle(fail, 5)
    for _ in range(2):
        with pytest.raises(OSError):
            f()

    assert len(attempts) == 2


def test_throttle_keeps_the_name_and_the_signature():
    def evaluate(state):
        """Says how good it is."""

    f = throttle(evaluate, 5)

    assert (f.__name__, f.__doc__) == ("evaluate", "Says how good it is.")
    Callbacks(f)(State(0, 1.0))


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_throttle_refuses_an_odd_timeout(timeout):
    with pytest.raises(ValueError, match="a timeout of at least 0 seconds"):
        throttle(print, timeout)


def test_throttle_refuses_what_is_no_function():
    with pytest.raises(TypeError, match="throttle expects a function, got 5"):
        throttle(5, print)


def test_stop_raises_what_ends_training():
    with pytest.raises(StopTraining):
        stop()


def test_callbacks_take_no_argument_or_the_state():
    seen = []
    state = State(step=3, loss=0.5, aux={"acc": 1}, model="m")

    class Recorder:
        def method(self, state):
            seen.append(("method", state))

        def __call__(self):
            seen.append(("object", None))

    Callbacks(
        [
            lambda: seen.append(("none", None)),
            lambda s: seen.append(("one", s)),
            lambda s=None: seen.append(("optional", s)),
            lambda *args: seen.append(("any", args)),
            Recorder().method,
            Recorder(),
            functools.partial(lambda a, s: seen.append((a, s)), "partial"),
        ]
    )(state)

    assert seen == [
        ("none", None), ("one", state), ("optional", None), ("any", ()),
        ("method", state), ("object", None), ("partial", state),
    ]  # fmt: skip


def test_no_callbacks_are_none():
    assert not Callbacks(None)
    assert not Callbacks([])
    assert Callbacks(print)


@pytest.mark.parametrize("cb", [3, [print, 3]])
def test_a_callback_that_cannot_be_called_is_refused(cb):
    with pytest.raises(TypeError, match=r"^cb expects a callable or a list of them, got 3\.$"):
        Callbacks(cb)


def test_a_callback_of_two_arguments_is_refused():
    with pytest.raises(TypeError, match=r"takes no argument, or one, the state .*got \(a, b\)"):
        Callbacks(lambda a, b: None)


def test_what_throttled_callbacks_hold_back_runs_at_the_end(clock):
    called = []
    both = Callbacks([throttle(lambda: called.append(1), 5, trailing=True), lambda: None])

    both(State(0, 1.0))
    both(State(1, 1.0))
    assert called == [1]
    both.finish()
    assert called == [1, 1]
