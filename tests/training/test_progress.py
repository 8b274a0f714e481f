import contextlib
import io
import sys

import pytest

from fluxkeras.training import progress
from fluxkeras.training.progress import BAR_SECONDS, LINE_SECONDS, Bar, Lines, Silent, progress_of


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@contextlib.contextmanager
def terminal():
    with contextlib.redirect_stdout(Terminal()) as stream:
        yield stream


def test_a_terminal_gets_keras_bar_with_the_loss(clock):
    with terminal() as stream:
        display = progress_of(3, wanted=True)
        for step in 1, 2, 3:
            clock.now += BAR_SECONDS
            display.update(step, 0.5)
        display.finish()

    last = stream.getvalue().replace("\b", "").split("\r")[-1]
    assert isinstance(display, Bar)
    assert "3/3" in last and "━" in last and "loss: 0.5000" in last
    assert stream.getvalue().endswith("\n")


def test_the_bar_is_drawn_a_few_times_a_second_and_shows_the_loss_since(clock):
    with terminal() as stream:
        display = Bar(None)
        display.update(1, 8.0)
        drawn = stream.getvalue()
        display.update(2, 1.0)
        assert stream.getvalue() == drawn
        clock.now += BAR_SECONDS
        display.update(3, 2.0)

    assert "loss: 1.5000" in stream.getvalue()


def test_what_a_callback_prints_begins_a_line_of_its_own(clock):
    with terminal() as stream:
        display = Bar(10)
        display.update(1, 1.0)
        with display.aside():
            print("hello")
            print("again")

    assert stream.getvalue().endswith("\r\x1b[Khello\nagain\n")


def test_a_quiet_callback_leaves_the_bar(clock):
    with terminal() as stream:
        display = Bar(10)
        display.update(1, 1.0)
        drawn = stream.getvalue()
        with display.aside():
            assert sys.stdout.isatty()

    assert stream.getvalue() == drawn


def test_training_that_ends_early_leaves_the_terminal_on_a_new_line(clock):
    with terminal() as stream:
        display = Bar(10)
        for step in 1, 2:
            display.update(step, 1.0)
        display.finish()

    assert "2/10" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_elsewhere_there_is_a_line_now_and_then_and_at_the_end(clock, capsys):
    display = progress_of(100, wanted=True)
    for step in range(1, 101):
        clock.now += LINE_SECONDS / 40
        display.update(step, 1 / step)
    display.finish()

    out = capsys.readouterr().out
    assert isinstance(display, Lines)
    assert out.splitlines() == [
        "step 40/100 - 10.0s - loss: 0.025",
        "step 80/100 - 20.0s - loss: 0.0125",
        "step 100/100 - 25.0s - loss: 0.01",
    ]
    assert not set(out) & set("\r\b\x1b")


def test_no_step_makes_no_line(capsys):
    progress_of(3, wanted=True).finish()

    assert capsys.readouterr().out == ""


def test_it_can_be_turned_off(capsys):
    display = progress_of(3, wanted=False)
    display.update(1, 1.0)
    with display.aside():
        pass
    display.finish()

    assert isinstance(display, Silent)
    assert capsys.readouterr().out == ""
