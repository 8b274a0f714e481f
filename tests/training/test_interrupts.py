import contextlib
import io
import os
import random
import re
import signal
import sys
import threading
import time

import keras
import numpy as np
import pytest

from fluxkeras import ADAM, BatchNorm, Chain, Dense, Dropout, mse, relu, repeated, throttle, train
from fluxkeras.training.interrupts import SIGNALS, Interrupts

FORMS = ["single", "graph", "xla"]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_waits_until_steps_are_released(number, error):
    done = []
    with pytest.raises(error) as raised, Interrupts() as interrupts:
        interrupts.hold()
        send(number)
        done.append("a step")
        interrupts.release()
        done.append("never")
    assert done == ["a step"]
    if error is SystemExit:
        assert raised.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_steps_under_way_it_does_not_wait(number):
    with pytest.raises((KeyboardInterrupt, SystemExit)), Interrupts():
        send(number)
        pytest.fail("not interrupted")


def test_a_second_one_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        interrupts.hold()
        send(signal.SIGINT)
        done.append("the first")
        send(signal.SIGINT)
        done.append("the second")
    assert done == ["the first"]
    assert interrupts.held is False


def test_one_that_waits_takes_effect_at_the_end():
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        interrupts.hold()
        send(signal.SIGINT)


@pytest.mark.parametrize("moment", ["put up", "put back"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_comes_while_handlers_change_waits(number, moment, monkeypatch):
    before, is_sent, change = [*map(signal.getsignal, SIGNALS)], [], signal.signal

    def change_and_send(changed, handler):
        if moment == "put back" and changed == number and handler in before:
            send(number)
        previous = change(changed, handler)
        if moment == "put up" and not is_sent:
            is_sent.append(True)
            send(signal.SIGINT)
        return previous

    monkeypatch.setattr(signal, "signal", change_and_send)
    with pytest.raises((KeyboardInterrupt, SystemExit)), Interrupts() as interrupts:
        interrupts.release()

    assert [*map(signal.getsignal, SIGNALS)] == before


def test_the_handler_of_the_user_is_called_and_put_back():
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        own = signal.getsignal(signal.SIGTERM)
        with Interrupts() as interrupts:
            interrupts.hold()
            send(signal.SIGTERM)
            assert not called
            interrupts.release()
            assert called == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            interrupts.hold()
            send(signal.SIGINT)
            interrupts.release()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone():
    handlers = []

    def run():
        with Interrupts() as interrupts:
            interrupts.hold()
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert handlers == [signal.getsignal(signal.SIGINT)]


# --- train ----------------------------------------------------------------------------------------


class Run:
    """Training with all that a step changes: moving statistics, seeds, slots."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.m = Chain(Dense(3, 4, relu), BatchNorm(4), Dropout(0.3, seed=1), Dense(4, 1))
        self.opt = ADAM(0.01)
        self.loss = lambda x, y: mse(self.m(x), y)
        rng = np.random.default_rng(0)
        self.batch = rng.random((6, 3)), rng.random((6, 1))

    def train(self, n=None, **options):
        options = {"progress": False} | options
        return train(self.loss, repeated(self.batch, n), self.opt, **options)

    def values(self):
        return [np.array(v) for v in (*self.m.variables, *self.opt.variables)]


def assert_whole(run, history, form):
    """What a run that ends after so many steps has."""
    again = Run()
    again.train(8, form=form, chunk=8)
    losses = again.train(len(history), form=form, chunk=8).losses
    np.testing.assert_array_equal(history.losses, losses)
    for found, expected in zip(run.values(), again.values(), strict=True):
        np.testing.assert_array_equal(found, expected)


def interrupted(run, number, delay, has_begun=None, **options):
    """The exception that ends a run without end, to which a signal is sent once it has begun."""
    before = signal.getsignal(number)
    has_begun = has_begun or (lambda: signal.getsignal(number) != before)

    def send_later():
        while not has_begun():
            time.sleep(0.001)
        time.sleep(delay)
        send(number)

    timer = threading.Thread(target=send_later)
    timer.start()
    with pytest.raises((KeyboardInterrupt, SystemExit)) as raised:
        run.train(**options)
    timer.join()
    return raised.value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", FORMS)
def test_training_ends_with_a_whole_step_at_any_moment(form, number):
    moments = random.Random(FORMS.index(form) * 100 + number)
    run = Run()
    run.train(8, form=form, chunk=8)  # compiles
    for _ in range(5):
        before = len(run.opt.variables), int(run.opt.iterations)
        error = interrupted(run, number, moments.uniform(0.0, 0.1), form=form, chunk=8)
        assert int(run.opt.iterations) == before[1] + len(error.history)
        assert np.isfinite(error.history.losses).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_history_has_what_the_weights_have(form):
    run = Run()
    run.train(8, form=form, chunk=8)  # compiles
    error = interrupted(run, signal.SIGINT, 0.2, form=form, chunk=8)

    assert len(error.history) > 0
    assert_whole(run, error.history, form)


@pytest.mark.parametrize("form", FORMS)
def test_while_a_step_is_traced_nothing_is_left_half_made(form):
    run = Run()
    error = interrupted(run, signal.SIGINT, 0.05, form=form, chunk=8)

    history = run.train(20, form=form, chunk=8)
    assert len(error.history) + len(history) == int(run.opt.iterations)


def test_a_callback_that_takes_long_is_interrupted_at_once():
    run = Run()
    threading.Timer(1.0, send, [signal.SIGINT]).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.train(cb=throttle(lambda: time.sleep(30), 60))
    assert time.monotonic() - start < 15


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("cb", [None, lambda: print("a line")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", FORMS)
def test_the_terminal_is_as_it_was_after_a_signal(form, number, cb):
    run, moments = Run(), random.Random(number)
    run.train(8, form=form, chunk=8)  # compiles
    for _ in range(3):
        with contextlib.redirect_stdout(Terminal()) as stream:
            interrupted(
                run, number, moments.uniform(0.0, 0.2), has_begun=stream.getvalue,
                form=form, chunk=8, cb=cb, progress=True,
            )  # fmt: skip
            assert sys.stdout is stream
        assert stream.getvalue().endswith("\n")
        hidden = re.findall(r"\x1b\[\?\d+[lh]", stream.getvalue())  # modes of the terminal
        assert not hidden


def test_training_in_a_callback_hands_a_signal_on():
    run, inner = Run(), Run()
    ends = []

    def cb():
        try:
            interrupted(inner, signal.SIGINT, 0.5)
        finally:
            ends.append(len(inner.train(1)))

    before = signal.getsignal(signal.SIGINT)
    history = run.train(2, cb=throttle(cb, 60))

    assert len(history) == 2 and ends == [1]
    assert signal.getsignal(signal.SIGINT) is before


class Late:
    """Something whose finalizer is under way when a signal comes."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        send(self.number)
        for _ in range(1000):  # Python calls handlers between its instructions
            pass


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_within_a_finalizer_is_not_lost(form, number, error):
    run = Run()

    def data():
        for i in range(100):
            late = Late(number) if i == 5 else None
            del late
            yield run.batch

    hook = sys.unraisablehook
    with pytest.raises(error) as raised:
        train(run.loss, data(), run.opt, form=form, progress=False)

    assert 5 <= len(raised.value.history) <= 6
    assert int(run.opt.iterations) == len(raised.value.history)
    assert sys.unraisablehook is hook


def test_what_others_raise_in_a_finalizer_is_ignored_as_ever(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)

    class Faulty:
        def __del__(self):
            raise OverflowError

    run = Run()
    batches = [run.batch] * 3
    history = train(run.loss, batches, run.opt, cb=lambda: bool(Faulty()), progress=False)

    assert len(history) == 3
    assert [unraisable.exc_type for unraisable in seen] == [OverflowError] * 3
