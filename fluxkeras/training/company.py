"""Company: workers that take every step of training together, and tell each other of it."""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from fluxkeras.training.batch import Signature
from fluxkeras.training.callbacks import StopTraining
from fluxkeras.training.distribution import Distribution
from fluxkeras.training.tuner import Request

# What a worker tells the others.
GOES_ON, HAS_ENDED, STOPS, HAS_FAILED = range(4)

# What comes of a step, or of the telling, where a worker is gone.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)

STEPS_A_CALL = 32  # of several workers, who cannot each measure what is best for all


class Company:
    """The workers of a strategy, which take every step together.

    Each tells the others, before it trains on some batches, that it goes on; and where it leaves,
    why: those that would go on would wait for it without end.

    Args:
        distribution: theirs; None without a strategy.
    """

    def __init__(self, distribution: Distribution | None) -> None:
        self._distribution = distribution if distribution and distribution.workers > 1 else None
        self._is_present = self._distribution is not None
        self._begun = self._done = 0

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that calls callbacks, writes and prints."""
        return self._distribution is None or self._distribution.is_chief

    def request(self, request: Request) -> Request:
        """What is asked of training, so that all workers choose alike, whatever they measure."""
        if self._distribution is None:
            return request
        form = "graph" if request.form == "auto" else request.form
        return dataclasses.replace(request, form=form, chunk=request.chunk or STEPS_A_CALL)

    def any_stops(self, stops: bool) -> bool:
        """Whether a worker stops."""
        if self._distribution is None:
            return stops
        return bool(self._distribution.table([STOPS if stops else GOES_ON, 0])[:, 0].any())

    def go_on(self, signature: Signature, steps: int, order: Any) -> None:
        """Some steps are next, on batches like this, in an order that was drawn like this.

        Raises:
            StopTraining: another worker stops.
            RuntimeError: another worker left by an error.
            ValueError: another worker has other batches, or none.
        """
        if self._distribution is None:
            return
        self._tell(GOES_ON, zlib.crc32(f"{signature.family} {steps} {order}".encode()))
        self._begun, self._done = self._done, self._done + steps

    @contextlib.contextmanager
    def departing(self) -> Iterator[None]:
        """Where it ends, the others are told."""
        try:
            yield
            self._tell(HAS_ENDED)
        except StopTraining:
            self._tell(STOPS)
            raise
        except LOST as error:
            if self._distribution is None:
                raise
            raise RuntimeError(
                f"train lost another worker in batches {self._begun} to {self._done - 1}: it has "
                "ended, or cannot be reached. Start all workers again: with a checkpoint they go "
                "on where it was written."
            ) from error
        except tf.errors.OpError:  # in a step, which the others notice by themselves
            raise
        except BaseException:
            with contextlib.suppress(Exception):
                self._tell(HAS_FAILED)
            raise

    def _tell(self, state: int, batches: int = 0) -> None:
        if self._distribution is None or not self._is_present:
            return
        self._is_present = False  # unless all go on
        others = self._distribution.table([state, batches])
        if state in (STOPS, HAS_FAILED):
            return
        for worker, (other, theirs) in enumerate(others):
            if other == STOPS:
                raise StopTraining
            if other == HAS_FAILED:
                raise RuntimeError(
                    f"worker {worker} left training before batch {self._done} by an error, which "
                    "it shows itself."
                )
            if (other, theirs) != (state, batches):
                what = "none" if other == HAS_ENDED else "others"
                raise ValueError(
                    "train expects the same batches on all workers, and from batch "
                    f"{self._done} on worker {worker} has {what}. Do they read the same data, in "
                    "the same order, which needs a seed where they shuffle?"
                )
        self._is_present = state == GOES_ON
