"""Checkpoints: training that goes on where it was, in another process too."""

import contextlib
import math
import os
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxkeras.checks import CheckpointError, warn
from fluxkeras.parameters import Variable, key
from fluxkeras.training.ahead import Feed
from fluxkeras.training.cache import Compiled
from fluxkeras.training.captures import Captures
from fluxkeras.training.distribution import Distribution
from fluxkeras.training.forms import Outcome
from fluxkeras.training.history import History
from fluxkeras.training.keeping import (
    Stateful,
    assign,
    check,
    random_state,
    set_random_state,
    values_of,
)
from fluxkeras.training.keras_callbacks import AllCallbacks
from fluxkeras.training.parts import feed_for, order_of
from fluxkeras.training.records import Log, read, write
from fluxkeras.training.step import Optimiser, memory_of

__all__ = ["Checkpoint"]

MOST_SAVING = 0.05  # the part of the time that goes into saving, at most

_under_way = set[Path]()  # the files that calls of train are being kept in


class Checkpoint:
    """A file from which `train` goes on after it was interrupted, killed, or has failed.

    `train(loss, data, opt, checkpoint=Checkpoint("run.ckpt"))` saves now and then, at the end, and
    when it is left by an error. The same program, run again, goes on at the exact batch: calls of
    `train` that were finished return their history without a step, and the one that was not begins
    with the first batch that it has not trained on. In a form that is given, the weights become
    those of a run without a stop, to the bit.

    | kept | how |
    |---|---|
    | variables of the model and of the optimisers, trained or not | values |
    | seeds: of Keras layers, of Python's and NumPy's global generators | states |
    | a `DataLoader`'s permutation | the state of its generator |
    | other data | the number of batches, which are read again and left out |
    | what `cb` is or refers to, if it has `state()` and `load_state(state)` | state |
    | Keras's callbacks in `cb` | their attributes that are numbers and arrays, but no options |
    | losses, and what the objective returned besides | arrays |

    Data that is drawn at random must come in the same order again: it needs a seed, as does
    `tf.data`'s `shuffle`. Data of finished calls is not gone through again, unless it is an
    iterator: an iterable of one's own that draws as it is gone through should draw each time by a
    new generator, seeded by the epoch. `early_stopping` and its like have a state. What else a
    program keeps between calls of `train`, it keeps itself.

    Args:
        path: the file. What it held is replaced in one go, once all is written. To train from the
            start, delete it.
        every: seconds between two saves; more, where saving would take over 5 % of the time.
        steps: save after each so many steps instead.

    Raises:
        ValueError: `every` or `steps` is no number that is meant.
        CheckpointError: by `train`, if the file is damaged, or does not fit the model, the
            optimisers or the data, or another call of `train` that is under way is kept in it.
            Nothing was changed.
        OSError: by `train`, at its beginning, if nothing can be written there. Later, that is a
            warning.

    Example:
        >>> def run(data):
        ...     m = Chain(Dense(1, 1, init="zeros"))
        ...     loss = lambda x: mse(m(x), x + 1)
        ...     opt = Adam(0.1)
        ...     kept = Checkpoint(folder / "run.ckpt")
        ...     return m, train(loss, data, opt, checkpoint=kept, progress=False)
        >>> x = np.ones((4, 1))
        >>> try:
        ...     run([(x,), (x,), ("no number",)])
        ... except Exception as error:
        ...     print(type(error).__name__)
        ShapeError
        >>> m, history = run([(x,), (x,), (x,)])  # goes on at the third
        INFO: run.ckpt: training goes on at batch 2
        >>> len(history)
        3

    Source: TensorFlow's `tf.train.CheckpointManager`; Keras's `BackupAndRestore`, which begins the
    epoch anew.
    """

    def __init__(
        self, path: str | os.PathLike[str], every: float = 30.0, *, steps: int | None = None
    ) -> None:
        if not every >= 0:
            raise ValueError(f"Checkpoint expects seconds between two saves, got {every!r}.")
        if steps is not None and (not isinstance(steps, int | np.integer) or steps < 1):
            raise ValueError(
                f"Checkpoint expects how many steps are between two saves, a whole number from 1, "
                f"got {steps!r}."
            )
        self.path = Path(path)
        self.every = math.inf if steps else every
        self.steps = steps
        self._run: Run | None = None

    def call(
        self,
        compiled: Compiled,
        optimisers: Sequence[Optimiser],
        data: Any,
        history: History,
        callbacks: AllCallbacks,
    ) -> "Call":
        """What keeps the call of `train` that begins."""
        self._run = self._run_of(optimisers)
        return Call(self, self._run, compiled, data, history, callbacks)

    def _run_of(self, optimisers: Sequence[Optimiser]) -> "Run":
        """The run in this process that the optimisers belong to; else one from the file."""
        place = self.path.resolve()
        memories = [memory_of(optimiser).runs for optimiser in optimisers]
        run = next((runs[place] for runs in memories if place in runs), None)
        if run is None and self._run and not self._run.is_broken_off:
            run = self._run
        if run is None or (run.is_written and not place.exists()):
            run = Run(place)
        for runs in memories:
            runs[place] = run
        return run


class Run:
    """The calls of `train` that one file is kept of, as far as this process has made them.

    Attributes:
        calls: how many are finished.
        histories: theirs.
        saved: what the file holds of an earlier process, or of a call that was broken off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0
        self.histories = Log()
        self.is_broken_off = self.is_written = False
        self.saved: Any = None
        self.read()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # where nothing can be written, the time to say so is before training
        self._groups: list[tuple[weakref.ref[Compiled], list[Variable]]] = []
        self._sizes: list[int] = []  # of the groups, when the first step of each was traced
        self._known: set[int] = set()

    def read(self) -> None:
        """What the file holds is to be gone on from, if there is one."""
        if self.path.exists():
            self.saved = read(self.path)
            if "groups" not in self.saved:
                raise CheckpointError(
                    f"{self.path} was written by save, and is for load. Give train's checkpoint "
                    "another path."
                )

    def take_note(self, compiled: Compiled) -> None:
        """Remember the variables of a call, in an order that is the same in every process."""
        group = next((own for made, own in self._groups if made() is compiled), None)
        if group is None:
            group = []
            self._groups.append((weakref.ref(compiled), group))
        new = [v for v in compiled.variables if key(v) not in self._known]
        group += new
        self._known.update(map(key, new))
        if len(self._sizes) < len(self._groups):
            self._sizes.append(len(new))

    def tree(self) -> dict[str, Any]:
        """What the file is to hold of the variables."""
        return {"groups": [values_of(own) for _, own in self._groups], "sizes": list(self._sizes)}

    def restore(self) -> None:
        """Put what the file holds into the variables that are known so far."""
        groups = list(zip((own for _, own in self._groups), self.saved["groups"], strict=False))
        for variables, values in groups:
            check(variables, values, str(self.path))
        for expected, size in zip(self._sizes, self.saved["sizes"], strict=False):
            if expected != size:
                raise CheckpointError(
                    f"{self.path} holds {size} variables of the model and its optimisers, and "
                    f"those given have {expected}. Are they the ones that it was written of? "
                    "Nothing was changed."
                )
        for variables, values in groups:
            assign(variables, values)


class Call:
    """One call of `train` of a run that is kept.

    Attributes:
        is_over: whether it was finished in an earlier process.
        is_passed: whether another came after it there, which callbacks know of.
        untold: what came of the last steps, if callbacks have not been called for them: a signal
            came within those.
    """

    untold: Outcome | None = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        run: Run,
        compiled: Compiled,
        data: Any,
        history: History,
        callbacks: AllCallbacks,
    ) -> None:
        self._checkpoint, self._run, self._compiled = checkpoint, run, compiled
        self._data, self._history = data, history
        found = [v for v in Captures(*callbacks).kept if isinstance(v, Stateful) and v is not data]
        own = [v for v in found if not isinstance(v, type | History)]
        self._stateful = [*own, *callbacks.of_keras()]
        if run.path in _under_way:
            raise CheckpointError(
                f"{run.path} is kept of a call of train that is under way, around this one or in "
                "another thread. Give this one a Checkpoint of another path."
            )
        if run.is_broken_off:
            run.read()
        saved = run.saved or {"call": -1, "is_finished": True}
        self._is_last = run.calls == saved["call"]
        self._is_resumed = run.calls <= saved["call"]
        self.is_over = self._is_resumed and (not self._is_last or saved["is_finished"])
        self.is_passed = self.is_over and not self._is_last
        self._has_begun = False
        run.is_broken_off = True
        _under_way.add(run.path)
        self._last_save, self._cost = time.monotonic(), 0.0

    def feed(self, distribution: Distribution | None) -> Feed:
        """That of the data, in the order that it had."""
        if self._is_resumed and self._is_last:
            self._load_order(self._run.saved["loader"])
        feed = feed_for(self._data, distribution)
        self._loader = order_of(self._data)
        return feed

    def _load_order(self, order: Any) -> None:
        own = order_of(self._data)
        if (order is None) != (own is None):
            raise CheckpointError(
                f"{self._run.path} holds {'no' if order is None else 'the'} order of a DataLoader "
                f"that shuffles, and the data is a {type(self._data).__name__} that "
                f"{'does not' if own is None else 'does'}. Is it the same data? Nothing "
                "was changed."
            )
        if order is not None:
            self._data.load_state({"position": 0, "rng": order})

    def begin(self, feed: Feed) -> str | None:
        """Go on where the file was written, now that the variables are there; what to say of it."""
        self._run.take_note(self._compiled)
        if not self._is_resumed:
            return None
        saved, name = self._run.saved, self._run.path.name
        if self._is_last and len(saved["callbacks"]) != len(self._stateful):
            raise CheckpointError(
                f"{self._run.path} holds the states of {len(saved['callbacks'])} callbacks, and "
                f"cb has or refers to {len(self._stateful)}. Nothing was changed."
            )
        history = [*saved["histories"], saved["history"]][self._run.calls]
        done = len(history["losses"])
        is_read_again = isinstance(self._data, Iterator)
        # What the next call goes through anew need not be gone through now.
        if not self.is_over or is_read_again:
            self._skip(feed, done)
        self._run.restore()
        self._history.load_state(history)
        if self._is_last and saved["untold"]:
            self.untold = Outcome(*saved["untold"])
        if self.is_over:
            return f"{name}: this call of train was finished before"
        how = ", after those before it were read again and left out" if is_read_again else ""
        return f"{name}: training goes on at batch {done}{how}"

    def go_on(self) -> None:
        """Callbacks have begun, which may have set variables: put all in its state."""
        if self._is_resumed and self._is_last:
            self._run.restore()
            for thing, state in zip(self._stateful, self._run.saved["callbacks"], strict=True):
                thing.load_state(state)
            set_random_state(self._run.saved["random"])
        self._has_begun = True

    def _skip(self, feed: Feed, count: int) -> None:
        if (skipped := feed.skip(count)) < count:
            raise CheckpointError(
                f"{self._run.path} was written after {count} batches, and the data has {skipped}. "
                "Is it the same data? Nothing was changed."
            )

    @property
    def told(self) -> int:
        """The number of steps that callbacks have been called for."""
        return len(self._history) - (len(self.untold.losses) if self.untold else 0)

    def left(self, done: int) -> float:
        """How many steps may run before the next save."""
        steps = self._checkpoint.steps
        return steps - done % steps if steps else math.inf

    def save_if_due(self) -> None:
        """Save, if it is time."""
        steps = self._checkpoint.steps
        since = time.monotonic() - self._last_save
        is_time = since >= max(self._checkpoint.every, self._cost / MOST_SAVING)
        if is_time or (steps and len(self._history) % steps == 0):
            self._save(is_finished=False)

    def finish(self) -> None:
        """The call has come to its end."""
        if not self.is_over:
            self._save(is_finished=True)
        _under_way.discard(self._run.path)
        self._run.histories.append(self._history.state())
        self._run.calls += 1
        self._run.is_broken_off = False
        if self._run.saved and self._run.saved["call"] < self._run.calls:
            self._run.saved = None  # all of it is in its place

    def leave(self, is_whole: bool) -> None:
        """The call was left by an error, after a whole step or not."""
        _under_way.discard(self._run.path)
        with contextlib.suppress(Exception):  # the error that is under way counts
            if is_whole and len(self._history) and self._has_begun and not self.is_over:
                self._save(is_finished=False)

    def _save(self, is_finished: bool) -> None:
        """A failure is for the user to know of, but no reason to stop."""
        start = time.monotonic()
        try:
            self._write(is_finished)
        except OSError as error:
            warn(f"{self._run.path} could not be written, and is as it was: {error}")
        self._last_save = time.monotonic()
        self._cost = self._last_save - start

    def _write(self, is_finished: bool) -> None:
        self._run.take_note(self._compiled)
        if self._compiled.distribution and not self._compiled.distribution.is_chief:
            return
        untold = self.untold
        tree = {
            "call": self._run.calls,
            "is_finished": is_finished,
            "histories": self._run.histories,
            "history": self._history.state(),
            "untold": untold and [untold.losses, untold.aux, untold.is_made],
            **self._run.tree(),
            "loader": self._loader,
            "callbacks": [thing.state() for thing in self._stateful],
            "random": random_state(),
        }
        write(self._run.path, tree)
        self._run.is_written = True


class Unkept:
    """A call of `train` without a checkpoint."""

    is_over = is_passed = False
    untold: Outcome | None = None
    told = 0

    def __init__(self, data: Any) -> None:
        self._data = data

    def feed(self, distribution: Distribution | None) -> Feed:
        return feed_for(self._data, distribution)

    def begin(self, feed: Feed) -> None:
        pass

    def left(self, done: int) -> float:
        return math.inf

    def save_if_due(self) -> None:
        pass

    def leave(self, is_whole: bool) -> None:
        pass

    go_on = finish = save_if_due
