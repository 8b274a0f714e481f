"""How far training is: Keras's bar on a terminal, a line now and then elsewhere.

A notebook gets the bar, and above it a picture of the losses.
"""

import contextlib
import importlib.util
import io
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import keras
import numpy as np

from fluxkeras.training.plotting import png
from fluxkeras.training.rounds import current_round

BAR_SECONDS = 0.1  # between two drawings of the bar: smooth to the eye, nothing beside a step
PICTURE_SECONDS = 2.0  # between two drawings of the picture, each of which takes some 0.1 s
TEXT_COLUMNS = 50  # what stands beside the bar
LINE_SECONDS = 10.0  # between two lines of a log


class Progress(Protocol):
    """Shows steps as they are made."""

    def update(self, losses: np.ndarray) -> None:
        """These are the losses of the steps made since the last time."""

    def aside(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, others may print."""

    def finish(self) -> None: ...


def progress_of(loss: Callable[..., Any], target: int | None, wanted: bool) -> Progress:
    """The display that fits standard output.

    Args:
        loss: the objective: within `epochs`, there is one picture for each.
        target: how many steps there will be, if that is known.
        wanted: whether there is to be any.
    """
    if not wanted:
        return Silent()
    # Callbacks print above the bar by way of sys.stdout, which all threads share.
    if threading.current_thread() is not threading.main_thread():
        return Lines(target)
    if "ipykernel" in sys.modules:  # as Keras finds out that it is in a notebook
        return Bar(target, _picture_of(loss))
    return Bar(target) if _has_room_for_bar(sys.stdout) else Lines(target)


def _has_room_for_bar(stream: Any) -> bool:
    """Whether it is a terminal, and wide enough: what goes on in the next line is not overdrawn."""
    isatty = getattr(stream, "isatty", None)  # some programs put their own stream there, or None
    return bool(isatty and isatty()) and shutil.get_terminal_size().columns > TEXT_COLUMNS


def _picture_of(loss: Callable[..., Any]) -> "Picture | None":
    """That of the `epochs` under way, or a new one; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    this = current_round()
    # A lambda in the loop is a new function in each epoch, of the same code.
    key = Picture, getattr(loss, "__code__", id(loss))
    picture = this.trainings.setdefault(key, Picture()) if this else Picture()
    picture.begin()
    return picture


class Silent:
    """Shows nothing."""

    def update(self, losses: np.ndarray) -> None:
        pass

    def aside(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def finish(self) -> None:
        pass


class Lines(Silent):
    """A line from time to time and one at the end, for output that goes to a file."""

    def __init__(self, target: int | None) -> None:
        self._target = "" if target is None else f"/{target}"
        self._start = time.monotonic()
        self._next = self._start + LINE_SECONDS
        self._steps = 0
        self._loss = 0.0

    def update(self, losses: np.ndarray) -> None:
        self._steps += len(losses)
        self._loss = float(losses[-1])
        if time.monotonic() >= self._next:
            self._print()
            self._next = time.monotonic() + LINE_SECONDS

    def finish(self) -> None:
        if self._steps:
            self._print()

    def _print(self) -> None:
        seconds = time.monotonic() - self._start
        print(
            f"step {self._steps}{self._target} - {seconds:.1f}s - loss: {self._loss:.4g}",
            flush=True,
        )


class Bar:
    """Keras's progress bar, drawn a few times a second, with the loss since the last time."""

    def __init__(self, target: int | None, picture: "Picture | None" = None) -> None:
        width = max(1, min(20, shutil.get_terminal_size().columns - TEXT_COLUMNS))
        self._bar = keras.utils.Progbar(target, width, stateful_metrics=["loss"], interval=0)
        self._above = _AboveBar(sys.stdout, self)
        self._target = target
        self._picture = picture
        self._next = 0.0
        self._steps = self._drawn = 0
        self._sum = 0.0
        self._is_open = False

    def update(self, losses: np.ndarray) -> None:
        self._steps += len(losses)
        self._sum += float(losses.sum())
        if self._picture:
            self._picture.add(losses)
        if time.monotonic() >= self._next and self._steps != self._target:
            self._draw(finalize=False)

    def finish(self) -> None:
        if self._steps > self._drawn:
            self._draw(finalize=True)
        elif self._is_open:
            print()
        self._is_open = False
        if self._picture and current_round() is None:
            self._picture.end(is_whole=True)

    def aside(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.redirect_stdout(self._above)

    def clear(self, stream: TextIO) -> None:
        """Take the bar away until it is drawn again, so that other output begins a line."""
        if self._is_open:
            stream.write("\r\x1b[K")
            self._is_open = False

    def _draw(self, finalize: bool) -> None:
        if self._picture and self._picture.is_due:
            self.clear(sys.stdout)  # the first one takes a place below what is there
            self._picture.draw()
        recent = self._sum / (self._steps - self._drawn)
        self._bar.update(self._steps, [("loss", recent)], finalize=finalize)
        self._drawn, self._sum = self._steps, 0.0
        self._next = time.monotonic() + BAR_SECONDS
        self._is_open = not finalize


class _AboveBar(io.TextIOBase):
    """A stream whose writers find no bar in their way."""

    def __init__(self, stream: TextIO, bar: Bar) -> None:
        self._stream = stream
        self._bar = bar

    def write(self, text: str) -> int:
        self._bar.clear(self._stream)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


class Picture:
    """The losses, drawn in a notebook and drawn anew, in its place, every few seconds.

    Within `epochs` it shows those of all epochs, and is told of their end.
    """

    def __init__(self) -> None:
        self._losses: list[np.ndarray] = []
        self._lengths: list[int] = []
        self._next = time.monotonic() + PICTURE_SECONDS  # a training that is over before needs none
        self._handle: Any = None

    def begin(self) -> None:
        """A call of `train` begins."""
        self._lengths.append(0)

    def add(self, losses: np.ndarray) -> None:
        self._losses.append(losses)
        self._lengths[-1] += len(losses)

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    def draw(self) -> None:
        """Show it, or show in its place what it is now."""
        self._losses = [np.concatenate(self._losses)]
        display = importlib.import_module("IPython.display")
        image = display.Image(png(self._losses[0], [n for n in self._lengths if n]))
        if self._handle is None:
            self._handle = display.display(image, display_id=True)
        else:
            self._handle.update(image)
        self._next = time.monotonic() + PICTURE_SECONDS

    def end_epoch(self) -> bool:
        """Nothing ends because of a picture."""
        return False

    def end(self, is_whole: bool) -> None:
        """Show the steps since it was drawn last."""
        if self._handle is not None:
            self.draw()
