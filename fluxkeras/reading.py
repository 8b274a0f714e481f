"""Threads that read what is wanted next."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

IDLE_SECONDS = 1.0  # after which a thread that reads ahead ends, until it is wanted again
PATIENCE = 10.0  # seconds that who leaves off reading ahead waits for what is being read


class Threads:
    """Threads that run tasks in their order.

    Those of `concurrent.futures` wait for more as long as somebody holds on to them, as the
    traceback of an error does, and keep Python from exiting while a task waits for what never
    comes. These end when they have had nothing to do for a while, unless they are to last.

    Args:
        most: how many.
        name: of each.
        is_lasting: whether they stay, though they have nothing to do.
    """

    def __init__(
        self, most: int, name: str = "fluxkeras.prefetch", is_lasting: bool = False
    ) -> None:
        self._most = most
        self._name = name
        self._is_lasting = is_lasting
        self._threads: set[threading.Thread] = set()
        self._running: set[threading.Thread] = set()
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            self._tasks.append((future, task))
            self._changed.notify_all()
            if len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.add(thread)
                thread.start()
        return future

    def rest(self) -> bool:
        """Begin no more tasks, and wait for those that have begun, but not for ever.

        Returns:
            Whether none is left.
        """
        with self._changed:
            self._tasks.clear()
            own = {threading.current_thread()}
            return self._changed.wait_for(lambda: self._running <= own, PATIENCE)

    def close(self) -> None:
        """Rest, and let the threads end."""
        with self._changed:
            self._tasks.clear()
            self._is_closed = True
            self._changed.notify_all()
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(PATIENCE)

    def _work(self) -> None:
        thread = threading.current_thread()
        while True:
            with self._changed:
                self._running.discard(thread)
                self._changed.notify_all()
                patience = None if self._is_lasting else IDLE_SECONDS
                self._changed.wait_for(lambda: self._tasks or self._is_closed, patience)
                if not self._tasks:
                    self._threads.remove(thread)
                    return
                self._running.add(thread)
                future, task = self._tasks.popleft()
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
            del future, task  # a thread that waits holds nothing, and an error not itself


def read_ahead(tasks: Iterable[Callable[[], Any]], n: int, threads: Threads) -> Iterator[Any]:
    """What tasks return, in their order. Threads run up to `n` of them before they are wanted."""
    ahead: deque[Future[Any]] = deque()
    for task in tasks:
        ahead.append(threads.submit(task))
        if len(ahead) > n:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
