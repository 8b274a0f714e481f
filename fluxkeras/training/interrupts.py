"""Interrupts: Ctrl-C and SIGTERM wait until a step is whole."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupts:
    """Within it, a signal that comes while steps are held takes effect when they are released.

    A second one does not wait. What a signal does is what it did before: Ctrl-C raises
    `KeyboardInterrupt`, and a handler of the user's is called. SIGTERM, which would end the process
    at once, raises `SystemExit`, so that the program can tidy up. What is raised in a finalizer,
    where Python ignores it, is raised again at the next release.

    Attributes:
        held: whether steps are under way.
    """

    def __init__(self) -> None:
        self.held = False
        self._handlers: dict[int, Any] = {}
        self._waiting: tuple[int, FrameType | None] | None = None
        self._raised: BaseException | None = None
        self._last: tuple[int, FrameType | None] | None = None
        self._hook = sys.unraisablehook

    def __enter__(self) -> "Interrupts":
        self.hold()  # whoever leaves here by an error does not come to the exit
        # Python handles signals in the main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None stands for a handler that was not installed by Python.
                if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN):
                    self._handlers[number] = handler
                    signal.signal(number, self._on_signal)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._on_ignored
        self.held = False
        return self

    def __exit__(self, *_: Any) -> None:
        self.hold()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if sys.unraisablehook == self._on_ignored:
            sys.unraisablehook = self._hook
        self._raised = None
        self.release()

    def hold(self) -> None:
        """Steps begin: what they change is not whole."""
        self.held = True

    def release(self) -> None:
        """The steps are done, and recorded."""
        self.held = False
        if self._waiting:
            (number, frame), self._waiting = self._waiting, None
            self._deliver(number, frame)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Within it, a first signal waits for the end."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.held and not self._waiting:
            self._waiting = number, frame
        else:
            self._waiting = None
            self._deliver(number, frame)

    def _on_ignored(self, unraisable: Any) -> None:
        if self._raised is not None and unraisable.exc_value is self._raised:
            self._waiting, self._raised = self._last, None
        else:
            self._hook(unraisable)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers[number]
        try:
            if not callable(handler):
                raise SystemExit(128 + number)  # as a shell tells that a signal ended a program
            handler(number, frame)
        except BaseException as error:
            self._raised, self._last = error, (number, frame)
            raise
