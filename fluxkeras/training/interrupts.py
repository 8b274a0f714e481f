"""Interrupts: Ctrl-C and SIGTERM wait until a step is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupts:
    """Within it, a signal that comes while steps are held takes effect when they are released.

    A second one does not wait. What a signal does is what it did before: Ctrl-C raises
    `KeyboardInterrupt`, and a handler of the user's is called. SIGTERM, which would end the process
    at once, raises `SystemExit`, so that the program can tidy up.

    Attributes:
        held: whether steps are under way.
    """

    def __init__(self) -> None:
        self.held = False
        self._handlers: dict[int, Any] = {}
        self._waiting: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> "Interrupts":
        # Python handles signals in the main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None stands for a handler that was not installed by Python.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
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

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers[number]
        if callable(handler):
            handler(number, frame)
        else:
            raise SystemExit(128 + number)  # as a shell tells that a signal ended a program
