"""The cache: what is compiled for an objective and its optimisers, from one `train` to the next."""

import itertools
import threading
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import keras

from fluxkeras.checks import warn
from fluxkeras.parameters import Variable, key
from fluxkeras.training.batch import Signature
from fluxkeras.training.captures import PLAIN, Captures
from fluxkeras.training.distribution import Distribution, copies_of, distribution_of, refuse_scope
from fluxkeras.training.objective import Objective
from fluxkeras.training.runner import Compiler, Runner
from fluxkeras.training.step import Optimiser, Step, memory_of

MOST_KEPT = 8  # objectives of an optimiser; the one unused for longest goes first
MOST_SHAPES = 2  # of batches that differ in lengths alone, before those lengths are left open
MOST_LENGTHS = 256  # whose times are remembered, of those that are left open

# What code names that adds up the losses of layers: by itself, or by a method of Keras's.
READING_LOSSES = {"losses", "compute_loss"}

Made = TypeVar("Made")
Key: TypeAlias = tuple[Signature, bool]  # and whether all batches are the same

_turn = threading.Lock()  # of the threads that look for what is compiled


class Compiled:
    """The runners of an objective, one for each signature of batches. Threads take turns in it.

    Attributes:
        captured: what the objective refers to. It is kept, as the optimisers are, so that no other
            object takes over an id.
        distribution: the replicas that share each batch; None without a strategy.
    """

    def __init__(
        self,
        captured: Captures,
        objective: Objective,
        optimisers: Sequence[Optimiser],
        model: Any,
    ) -> None:
        self.captured = captured
        self._objective = objective
        self._optimisers = optimisers
        self._model = model
        self._runners: dict[Key, Runner] = {}
        self._of_lengths: OrderedDict[Key, Runner] = OrderedDict()
        self._open: dict[Key, Compiler] = {}
        self._closed: set[Signature] = set()
        self._seen: dict[Any, list[Signature]] = defaultdict(list)
        self._updates: dict[Any, Any] = {}
        self._has_warned = False
        self.distribution: Distribution | None = None
        self._turn = threading.RLock()

    @property
    def variables(self) -> list[Variable]:
        """All that training reads or writes, each once.

        Those that the objective only reaches through a library are there once it has been traced.
        """
        compilers = [*(r.compiler for r in self._runners.values()), *self._open.values()]
        known = self._known
        found: dict[int, Variable] = {}
        for variable in known:
            found.setdefault(key(variable), variable)
        # A step knows the copies that replicas have of these.
        copies = {id(copy) for v in known for copy in copies_of(v)} if self.distribution else set()
        for variable in itertools.chain(*(compiler.variables for compiler in compilers)):
            if id(variable) not in copies:
                found.setdefault(key(variable), variable)
        return list(found.values())

    @property
    def _known(self) -> list[Variable]:
        """The variables that are known without a step."""
        of_keras = [self._objective.variables, *(o.variables for o in self._optimisers)]
        referred_to = [v for v in self.captured.kept if isinstance(v, Variable)]
        named = [getattr(optimiser, "params", None) or () for optimiser in self._optimisers]
        return list(itertools.chain(*of_keras, referred_to, *named))

    def distribute(self) -> None:
        """Have replicas share each batch, if the variables are of a strategy."""
        self.distribution = distribution_of(self._known, self._optimisers)
        if self.distribution:
            self.distribution.refuse_metrics(self.captured.kept)

    def begin(self) -> None:
        """A call of `train` begins."""
        with self._turn:
            for runner in (*self._runners.values(), *self._of_lengths.values()):
                runner.tuner.begin()

    def runner(self, signature: Signature, same: bool) -> Runner:
        """The one for batches of this signature, all of them the same, or not."""
        wanted = signature, same
        with self._turn:
            if wanted in self._of_lengths:
                self._of_lengths.move_to_end(wanted)
                return self._of_lengths[wanted]
            if wanted not in self._runners:
                return self._added(signature, same)
            return self._runners[wanted]

    def _added(self, signature: Signature, same: bool) -> Runner:
        if compiler := self._with_open_lengths(signature, same):
            runner = self._of_lengths[signature, same] = Runner(compiler)
            if len(self._of_lengths) > MOST_LENGTHS:
                self._of_lengths.popitem(last=False)
            return runner
        runner = self._runners[signature, same] = Runner(self._compiler(signature, same))
        self._seen[signature.family].append(signature)
        return runner

    def _with_open_lengths(self, signature: Signature, same: bool) -> Compiler | None:
        """One that covers this signature, too, if the objective can do without its lengths."""
        seen = self._seen[signature.family]
        if len(seen) < MOST_SHAPES:
            return None
        opened = Signature.covering(seen)
        if not opened.covers(signature) or opened in self._closed:
            return None
        if (opened, same) not in self._open:
            try:
                self._open[opened, same] = self._compiler(opened, same)
            except Exception:
                self._closed.add(opened)
        return self._open.get((opened, same))

    def _compiler(self, signature: Signature, same: bool) -> Compiler:
        compiler = Compiler(
            lambda: Step(
                self._objective,
                self._optimisers,
                self._model,
                signature,
                self.distribution,
                self._updates,
            ),
            same,
            self._turn,
        )
        self._warn_of_losses()
        return compiler

    def _warn_of_losses(self) -> None:
        if not self._has_warned and (names := self._objective.left_out):
            self._has_warned = True
            warn(
                f"the objective leaves out the losses of these layers: {', '.join(names)}. They "
                "come of a regularizer or of add_loss, and train nothing unless the objective "
                "adds them to what it returns: + losses(model)."
            )


def compiled_for(loss: Callable[..., Any], optimisers: Sequence[Optimiser], model: Any) -> Compiled:
    """What is compiled for this objective and these optimisers, from an earlier call if it fits.

    A step is compiled once for each code and captures: what the objective refers to is compared
    by value where it is plain, and a changed number makes a new step, never a stale one.
    """
    refuse_scope()
    memory = memory_of(optimisers[0])
    options = [_hyper_parameters(o) for o in optimisers]
    captured = Captures(loss, model, options, likely=memory.names)
    memory.names = captured.names
    identity = captured.fingerprint, tuple(map(id, optimisers)), keras.config.floatx()

    def make() -> Compiled:
        reads_losses = bool(captured.names & READING_LOSSES)
        objective = Objective(loss, model, captured.of_keras(), reads_losses)
        compiled = Compiled(captured, objective, optimisers, model)
        compiled.distribute()
        return compiled

    compiled: OrderedDict[Any, Compiled] = memory.compiled
    return kept_in(compiled, identity, make)


def kept_in(kept: OrderedDict[Any, Made], identity: Any, make: Callable[[], Made]) -> Made:
    """What is kept under this identity, made if it is not there; what is unused goes."""
    with _turn:
        if identity not in kept:
            kept[identity] = make()
        kept.move_to_end(identity)
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
        return kept[identity]


def _hyper_parameters(optimiser: Optimiser) -> dict[str, Any]:
    """What of an optimiser is compiled in: its options, but not the learning rate's variable."""
    return {
        name: value
        for name, value in vars(optimiser).items()
        if isinstance(value, types.FunctionType)
        or (isinstance(value, PLAIN) and not name.startswith("_") and name != "built")
    }
