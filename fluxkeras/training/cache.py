"""The cache: what is compiled for an objective and its optimisers, from one `train` to the next."""

import types
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import keras

from fluxkeras.training.batch import Signature
from fluxkeras.training.captures import PLAIN, Captures
from fluxkeras.training.objective import Objective
from fluxkeras.training.runner import Runner
from fluxkeras.training.step import Optimiser, Step, memory_of

MOST_KEPT = 8  # objectives of an optimiser; the one unused for longest goes first
MOST_SHAPES = 2  # of batches that differ in lengths alone, before those lengths are left open


class Compiled:
    """The runners of an objective, one for each signature of batches."""

    def __init__(self, objective: Objective, optimisers: Sequence[Optimiser], model: Any) -> None:
        self._objective = objective
        self._optimisers = optimisers
        self._model = model
        self._runners: dict[tuple[Signature, bool], Runner] = {}
        self._open: dict[Signature, Signature] = {}
        self._closed: set[Signature] = set()
        self._seen: dict[Any, list[Signature]] = defaultdict(list)

    def begin(self) -> None:
        """A call of `train` begins."""
        for runner in self._runners.values():
            runner.tuner.begin()

    def runner(self, signature: Signature, same: bool) -> Runner:
        """The one for batches of this signature, all of them the same, or not."""
        wanted = self._open.get(signature, signature)
        if (wanted, same) not in self._runners:
            wanted = self._add(signature, same)
        return self._runners[wanted, same]

    def _add(self, signature: Signature, same: bool) -> Signature:
        seen = self._seen[signature.family]
        if len(seen) >= MOST_SHAPES:
            opened = Signature.covering(seen)
            if opened.covers(signature) and self._can_be_open(opened, same):
                self._open[signature] = opened
                return opened
        self._runners[signature, same] = self._runner(signature, same)
        seen.append(signature)
        return signature

    def _can_be_open(self, opened: Signature, same: bool) -> bool:
        """Whether the objective can do without the lengths that are left open."""
        if (opened, same) not in self._runners and opened not in self._closed:
            try:
                self._runners[opened, same] = self._runner(opened, same)
            except Exception:
                self._closed.add(opened)
        return (opened, same) in self._runners

    def _runner(self, signature: Signature, same: bool) -> Runner:
        return Runner(lambda: Step(self._objective, self._optimisers, self._model, signature), same)


def compiled_for(loss: Callable[..., Any], optimisers: Sequence[Optimiser], model: Any) -> Compiled:
    """What is compiled for this objective and these optimisers, from an earlier call if it fits.

    A step is compiled once for each code and captures: what the objective refers to is compared
    by value where it is plain, and a changed number makes a new step, never a stale one.
    """
    captured = Captures(loss, model, [_hyper_parameters(o) for o in optimisers])
    identity = captured.fingerprint, tuple(map(id, optimisers)), keras.config.floatx()
    kept = memory_of(optimisers[0]).compiled
    if identity not in kept:
        # The captures and optimisers are kept, so that no other object takes over their ids.
        objective = Objective(loss, model, captured.of_keras())
        kept[identity] = captured, Compiled(objective, optimisers, model)
    kept.move_to_end(identity)
    if len(kept) > MOST_KEPT:
        kept.popitem(last=False)
    return kept[identity][1]


def _hyper_parameters(optimiser: Optimiser) -> dict[str, Any]:
    """What of an optimiser is compiled in: its options, but not the learning rate's variable."""
    return {
        name: value
        for name, value in vars(optimiser).items()
        if isinstance(value, types.FunctionType)
        or (isinstance(value, PLAIN) and not name.startswith("_") and name != "built")
    }
