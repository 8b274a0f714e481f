"""Reading ahead: what feeds have in common, and those that read another one before it is asked."""

import contextlib
import functools
import math
from concurrent.futures import Future
from typing import Any, Protocol

from fluxkeras.reading import Threads
from fluxkeras.training.batch import Chunk, Signature

PATIENCE = 0.05  # seconds after which a chunk goes with the batches that there are

_copying = Threads(1, "fluxkeras.feed")


class Feed(Protocol):
    """Hands out the batches of some data in their order."""

    most: float  # how many may be read before those before them are trained on
    is_same: bool  # whether all are one and the same
    together: int | None  # how many lie together, and need not be copied to be trained on at once
    is_beside: bool  # whether the next batches are read while steps run that leave a core
    order: Any  # what the order of the batches was drawn by, where that matters

    @property
    def is_live(self) -> bool:
        """Whether the next batch is to be read when it is its turn."""

    def peek(self) -> Signature | None:
        """The signature of the next batch; None at the end."""

    def take(self, signature: Signature, steps: int, room: int | None) -> Chunk:
        """The next batches, of the signature that `peek` told: at least one, at most `steps`.

        They are stacked in memory for `room`; without room, it is one that is not stacked.
        """

    def skip(self, count: int) -> int:
        """Leave out the next batches; how many there were to leave out."""

    def prepare(self, steps: int, room: int | None) -> None:
        """Another device is at work: the next chunk may be read, and sent there."""

    def begin(self, steps: int, room: int | None) -> None:
        """Steps are about to run that leave a core: a thread may read the next chunk."""

    def wait(self) -> None:
        """Until nothing is being read."""


class Reader:
    """What feeds have in common that read nothing ahead."""

    most = math.inf
    is_same = False
    is_beside = False
    together: int | None = None
    order: Any = None
    patience = PATIENCE

    @property
    def is_live(self) -> bool:
        """Whether the next batch is to be read when it is its turn."""
        return False

    def prepare(self, steps: int, room: int | None) -> None:
        pass

    begin = prepare

    def wait(self) -> None:
        pass


class Ahead(Reader):
    """Another feed, whose next chunk is read before it is asked for."""

    def __init__(self, feed: Feed) -> None:
        self.most = feed.most
        self.together = feed.together
        self._feed = feed
        self._chunk: Chunk | None = None

    def peek(self) -> Signature | None:
        return self._chunk.signature if self._chunk else self._feed.peek()

    def take(self, signature: Signature, steps: int, room: int | None) -> Chunk:
        chunk, self._chunk = self._chunk, None
        return chunk or self._feed.take(signature, steps, room)

    def skip(self, count: int) -> int:
        return self._feed.skip(count)

    def _read(self, steps: int, room: int | None) -> Chunk | None:
        """The next chunk, unless there is one that was not asked for yet."""
        if self._chunk:
            return None
        # An error in the data comes up again when it is that batch's turn.
        with contextlib.suppress(Exception):
            signature = self._feed.peek()
            if signature and not self._feed.is_live:
                self._chunk = self._feed.take(signature, steps, room)
        return self._chunk


class Sent(Ahead):
    """Another feed, whose next chunk is sent to the device while the last one is trained on."""

    def prepare(self, steps: int, room: int | None) -> None:
        if chunk := self._read(steps, room):
            self._chunk = chunk.on_device()


class Beside(Ahead):
    """Another feed, whose next chunk is copied by a thread while the last one is trained on."""

    is_beside = True

    def __init__(self, feed: Feed) -> None:
        super().__init__(feed)
        self._reading: Future[Any] | None = None

    def peek(self) -> Signature | None:
        self.wait()
        return super().peek()

    def begin(self, steps: int, room: int | None) -> None:
        self._reading = _copying.submit(functools.partial(self._read, steps, room))

    def wait(self) -> None:
        if self._reading:
            self._reading.result()
            self._reading = None
