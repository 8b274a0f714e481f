import contextlib
import io
import re
import sys
import time
import types

import numpy as np
import pytest

from fluxkeras import Descent, epochs, param, train
from fluxkeras.training import progress
from fluxkeras.training.plotting import png
from fluxkeras.training.progress import (
    BAR_SECONDS,
    LINE_SECONDS,
    PICTURE_SECONDS,
    Bar,
    Lines,
    Silent,
    progress_of,
)


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


def losses(*values):
    return np.float32(values)


@contextlib.contextmanager
def terminal():
    with contextlib.redirect_stdout(Terminal()) as stream:
        yield stream


def test_a_terminal_gets_keras_bar_with_the_loss(clock):
    with terminal() as stream:
        display = progress_of(print, 3, wanted=True)
        for _ in range(3):
            clock.now += BAR_SECONDS
            display.update(losses(0.5))
        display.finish()

    last = stream.getvalue().replace("\b", "").split("\r")[-1]
    assert isinstance(display, Bar)
    assert "3/3" in last and "━" in last and "loss: 0.5000" in last
    assert stream.getvalue().endswith("\n")


@pytest.mark.parametrize(("columns", "kind"), [(40, Lines), (50, Lines), (51, Bar), (200, Bar)])
def test_a_terminal_that_is_too_narrow_for_the_bar_gets_lines(monkeypatch, columns, kind):
    monkeypatch.setenv("COLUMNS", str(columns))
    with terminal() as stream:
        display = progress_of(print, 30_000, wanted=True)
        for _ in range(3):
            display.update(losses(*[0.00012345] * 10_000))
            time.sleep(BAR_SECONDS)
        display.finish()

    plain = re.sub(r"\x1b\[\d*[mK]|\x08", "", stream.getvalue())
    assert isinstance(display, kind)
    overdrawn = [part for line in plain.split("\n") if "\r" in line for part in line.split("\r")]
    assert max(map(len, overdrawn), default=0) <= columns


def test_the_bar_is_drawn_a_few_times_a_second_and_shows_the_loss_since(clock):
    with terminal() as stream:
        display = Bar(None)
        display.update(losses(8.0))
        drawn = stream.getvalue()
        display.update(losses(1.0))
        assert stream.getvalue() == drawn
        clock.now += BAR_SECONDS
        display.update(losses(2.0))

    assert "loss: 1.5000" in stream.getvalue()


@pytest.mark.parametrize("chunks", [[1] * 6, [6], [2, 4], [3, 1, 2]])
def test_the_bar_shows_the_same_for_any_chunks(clock, chunks):
    given = losses(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    clock.now = -1.0  # before the first drawing
    with terminal() as stream:
        display = Bar(6)
        for chunk in np.split(given, np.cumsum(chunks)[:-1]):
            display.update(chunk)
        assert stream.getvalue() == ""
        display.finish()

    assert "6/6" in stream.getvalue() and "loss: 3.5000" in stream.getvalue()


def test_what_a_callback_prints_begins_a_line_of_its_own(clock):
    with terminal() as stream:
        display = Bar(10)
        display.update(losses(1.0))
        with display.aside():
            print("hello")
            print("again")

    assert stream.getvalue().endswith("\r\x1b[Khello\nagain\n")


def test_a_quiet_callback_leaves_the_bar(clock):
    with terminal() as stream:
        display = Bar(10)
        display.update(losses(1.0))
        drawn = stream.getvalue()
        with display.aside():
            assert sys.stdout.isatty()

    assert stream.getvalue() == drawn


def test_training_that_ends_early_leaves_the_terminal_on_a_new_line(clock):
    with terminal() as stream:
        display = Bar(10)
        for _ in range(2):
            display.update(losses(1.0))
        display.finish()

    assert "2/10" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_elsewhere_there_is_a_line_now_and_then_and_at_the_end(clock, capsys):
    display = progress_of(print, 100, wanted=True)
    for step in range(1, 101):
        clock.now += LINE_SECONDS / 40
        display.update(losses(1 / step))
    display.finish()

    out = capsys.readouterr().out
    assert isinstance(display, Lines)
    assert out.splitlines() == [
        "step 40/100 - 10.0s - loss: 0.025",
        "step 80/100 - 20.0s - loss: 0.0125",
        "step 100/100 - 25.0s - loss: 0.01",
    ]
    assert not set(out) & set("\r\b\x1b")


def test_lines_count_the_steps_of_chunks_and_tell_the_last_loss(clock, capsys):
    display = Lines(None)
    for chunk in losses(8.0, 4.0), losses(2.0), losses(1.0, 0.5, 0.25):
        clock.now += LINE_SECONDS / 2
        display.update(chunk)
    display.finish()

    assert capsys.readouterr().out.splitlines() == [
        "step 3 - 10.0s - loss: 2",
        "step 6 - 15.0s - loss: 0.25",
    ]


def test_no_step_makes_no_line(capsys):
    progress_of(print, 3, wanted=True).finish()

    assert capsys.readouterr().out == ""


def test_it_can_be_turned_off(capsys):
    display = progress_of(print, 3, wanted=False)
    display.update(losses(1.0))
    with display.aside():
        pass
    display.finish()

    assert isinstance(display, Silent)
    assert capsys.readouterr().out == ""


# --- In a notebook --------------------------------------------------------------------------------


class Cell(types.ModuleType):
    """What IPython.display does, but that the pictures of a cell are a list of their versions."""

    def __init__(self):
        super().__init__("IPython.display")
        self.pictures = []

    def Image(self, png):
        assert png.startswith(b"\x89PNG")
        return png

    def display(self, image, *, display_id):
        assert display_id is True
        versions = [image]
        self.pictures.append(versions)
        return types.SimpleNamespace(update=versions.append)


@pytest.fixture
def cell(monkeypatch):
    """The cell of a notebook, in which a training of some steps is shown."""
    pytest.importorskip("matplotlib")
    cell = Cell()
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython.display", cell)
    monkeypatch.setattr(progress, "png", drawn := Drawn())
    cell.drawn = drawn.drawn
    return cell


class Drawn:
    def __init__(self):
        self.drawn = []

    def __call__(self, losses, lengths):
        self.drawn.append((losses.tolist(), lengths))
        return png(losses, lengths)


def show(clock, *values, loss=print):
    display = progress_of(loss, None, wanted=True)
    for value in values:
        clock.now += PICTURE_SECONDS / 2
        display.update(losses(value))
    display.finish()


def test_a_notebook_gets_the_bar_and_a_picture_that_is_drawn_anew(clock, cell, capsys):
    show(clock, 5.0, 4.0, 3.0, 2.0, 1.0)

    (versions,) = cell.pictures
    assert len(versions) == 3
    assert cell.drawn == [([5, 4], [2]), ([5, 4, 3, 2], [4]), ([5, 4, 3, 2, 1], [5])]
    out = capsys.readouterr().out
    assert "loss: 5.0000" in out and "loss: 1.0000" in out


def test_a_training_that_is_soon_over_gets_no_picture(clock, cell, capsys):
    show(clock, 5.0)

    assert cell.pictures == []
    assert "loss: 5.0000" in capsys.readouterr().out


def test_epochs_share_a_picture(clock, cell, capsys):
    for epoch in epochs(3):
        show(clock, *[1.0 / epoch] * epoch)
        show(clock, 8.0, loss=len)  # another objective

    assert len(cell.pictures) == 2
    assert ([1, *np.float32([1 / 2] * 2 + [1 / 3] * 3)], [1, 2, 3]) in cell.drawn[-2:]
    assert ([8, 8, 8], [1, 1, 1]) in cell.drawn[-2:]


def test_an_epoch_without_a_step_is_not_in_the_picture(clock, cell, capsys):
    for epoch in epochs(3):
        show(clock, *[1.0] * 4 * (epoch != 2))

    assert cell.drawn[-1] == ([1.0] * 8, [4, 4])


def test_the_picture_is_whole_after_an_error(monkeypatch, cell, capsys):
    monkeypatch.setattr(progress, "PICTURE_SECONDS", 0.0)
    w = param(np.float32(1.0))

    def data():
        yield np.float32(2.0)
        yield np.float32(4.0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError):
        train(lambda x: x * w, data(), Descent(0.0))

    assert cell.drawn[-1] == ([2.0, 4.0], [2])


def test_without_matplotlib_there_is_the_bar_alone(monkeypatch, clock, cell, capsys):
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)

    show(clock, 3.0, 2.0, 1.0)

    assert cell.pictures == []
    assert "loss: 1.0000" in capsys.readouterr().out
