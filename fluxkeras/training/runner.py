"""The runner: trains on the batches of one signature, in the form that the tuner asks for."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from fluxkeras.checks import warn
from fluxkeras.training.batch import Chunk
from fluxkeras.training.forms import Loop, Outcome, Single, Snapshot, Trouble, bytes_of
from fluxkeras.training.step import Step, bodies
from fluxkeras.training.tuner import Account, Arm, Plan, Request, Tuner

# What XLA does otherwise, or not at all: it draws other random numbers from the same seed.
NOT_FOR_XLA = ("Random", "TruncatedNormal", "Multinomial", "PyFunc")
PHILOX = 1  # among TensorFlow's random algorithms
# What it does without the checks that TensorFlow makes on a CPU: it is for the user to ask for.
UNCHECKED = ("Assert", "CheckNumerics", "Gather")


class Unchecked(TypeError):
    """XLA would do it, but for whoever asks for it alone."""


class Compiler:
    """Makes the forms of one step, each of them once.

    Args:
        trace: makes the step that is done for each batch.
        same: whether all batches of a chunk are one and the same.
        turn: the lock by which threads that train by the same objective take turns.

    Attributes:
        seconds: that tracing took.
        variables: all those that the step reads or writes.
        warm: what has run before: TensorFlow optimises what runs for the first time.
        account: what the tuners of the lengths that are left open share.
    """

    def __init__(
        self,
        trace: Callable[[], Step],
        same: bool,
        turn: contextlib.AbstractContextManager[Any],
    ) -> None:
        start = time.perf_counter()
        self._step = trace()
        self.seconds = time.perf_counter() - start
        self._same = same
        self.turn = turn
        self.forms: dict[tuple[str, int | None], Callable[..., Outcome]] = {}
        self.warm: set[Any] = set()
        self.variables = self._step.variables
        signature = self._step.signature
        self.bytes = bytes_of(self._step.gradient.structured_outputs[1])
        self.bytes += 0 if same else signature.bytes
        self.account = Account(is_open=signature.can_be_stacked and not signature.is_static)

    def form(self, arm: Arm, is_asked_for: bool) -> Callable[..., Outcome]:
        if arm.key not in self.forms:
            self.forms[arm.key] = self._compile(arm, is_asked_for)
        return self.forms[arm.key]

    def _compile(self, arm: Arm, is_asked_for: bool) -> Callable[..., Outcome]:
        is_xla = arm.form == "xla"
        if is_xla:
            self._check_xla(is_asked_for)
        if arm.room is None:
            return Single(self._step, xla=is_xla)
        if not self._step.signature.can_be_stacked:
            raise TypeError("sparse and ragged tensors cannot be stacked")
        return Loop(self._step, self._snapshot, xla=is_xla, room=arm.room, same=self._same)

    def _check_xla(self, is_asked_for: bool) -> None:
        """Raise what speaks against XLA."""
        if self._step.distribution:
            raise TypeError("XLA compiles no step of several replicas")
        if not self._step.signature.can_be_stacked:
            raise TypeError("XLA takes no sparse and ragged tensors")
        operations = _operations(self._step)
        if unfit := _naming(operations, NOT_FOR_XLA):
            raise TypeError(f"XLA does otherwise, or not at all: {unfit}")
        if not is_asked_for and (unchecked := _naming(operations, UNCHECKED)):
            raise Unchecked(f"XLA makes no checks in {unchecked}")

    @functools.cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(self._step.variables)


class Runner:
    """Trains on batches of one signature.

    Args:
        compiler: that of the step. Signatures whose lengths it leaves open have one in common.
    """

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self._asked_for = "auto"
        self._reading = 0.0
        self._planned = 1
        self.tuner = Tuner(compiler.bytes, compiler.account)
        if not compiler.account.took:
            self.tuner.compiled(self.tuner.single, compiler.seconds)

    def plan(self, request: Request, done: int) -> Plan:
        """How to go on, `done` steps after the beginning, in a form that is compiled."""
        with self.compiler.turn:
            self._asked_for = request.form
            plan = self.tuner.plan(request, done)
            while plan.arm.key not in self.compiler.forms:
                start = time.perf_counter()
                try:
                    self._form(plan.arm)
                except Exception as error:
                    if plan.arm is self.tuner.single:
                        raise
                    self._drop(plan.arm, error)
                self.tuner.compiled(plan.arm, time.perf_counter() - start)
                plan = self.tuner.plan(request, done)
            return plan

    def run(
        self, plan: Plan, chunk: Chunk, meanwhile: Callable[[], None], reading: float = 0.0
    ) -> Iterator[Outcome]:
        """Train on a chunk in one go, or, where that does not do, batch by batch.

        Args:
            meanwhile: is called while steps run, where the device is not the host.
            reading: the seconds that the chunk took, which differ between forms, too.
        """
        self._reading, self._planned = reading, plan.steps
        form = self.compiler.forms[plan.arm.key]
        if not isinstance(form, Loop):
            yield from self._one_by_one(plan.arm, chunk.batches(), meanwhile)
        elif form.takes(chunk):
            yield from self._looped(plan.arm, form, chunk, meanwhile)
        else:
            yield from self._singly(chunk, meanwhile, 0)

    def _looped(
        self, arm: Arm, form: Loop, chunk: Chunk, meanwhile: Callable[[], None]
    ) -> Iterator[Outcome]:
        """In one go, but for a step that is not finite, which is looked for by halves."""
        start, bad = 0, chunk.count + 1  # which steps are made, and before which one is not finite
        why: BaseException | None = None  # the loop will not do
        while start < chunk.count and why is None:
            stop = chunk.count if bad > chunk.count else max(start + 1, (start + bad) // 2)
            if stop == bad:
                (outcome,) = self._singly(chunk, meanwhile, start, stop)
                bad = chunk.count + 1
                if outcome.is_made:
                    why = FloatingPointError("it is not finite where single steps are")
            else:
                part = functools.partial(form, chunk, meanwhile, start, stop)
                try:
                    outcome = self._timed(arm, stop - start, part)
                except Trouble as trouble:
                    bad, why = trouble.end, trouble.__cause__
                    continue
            yield outcome
            start = stop
        if why is not None:
            yield from self._singly(chunk, meanwhile, start)
            self._drop(arm, why)  # of the loop alone, since the steps have run

    def _singly(
        self, chunk: Chunk, meanwhile: Callable[[], None], start: int, stop: int | None = None
    ) -> Iterator[Outcome]:
        return self._one_by_one(self.tuner.single, chunk.batches(start, stop), meanwhile)

    def _one_by_one(
        self, arm: Arm, batches: Iterator[tuple[Any, ...]], meanwhile: Callable[[], None]
    ) -> Iterator[Outcome]:
        for tensors in batches:
            try:
                yield self._timed(arm, 1, functools.partial(self._form(arm), tensors, meanwhile))
            except Exception as error:
                # XLA compiles a step, which may fail, when it first runs.
                if arm is self.tuner.single or self._is_warm(arm):
                    raise
                self._drop(arm, error)
                arm = self.tuner.single
                yield self._timed(arm, 1, functools.partial(self._form(arm), tensors, meanwhile))

    def is_warm(self, plan: Plan) -> bool:
        """Whether the form has run before."""
        return self._is_warm(plan.arm)

    def _is_warm(self, arm: Arm) -> bool:
        return self._warmth(arm) in self.compiler.warm

    def _warmth(self, arm: Arm) -> Any:
        # XLA compiles for each length, when a step of it first runs.
        return arm if arm.form == "xla" else arm.key

    def _timed(self, arm: Arm, steps: int, run: Callable[[], Outcome]) -> Outcome:
        with self.compiler.turn:
            start = time.perf_counter()
            outcome = run()
            seconds = time.perf_counter() - start
            if self._is_warm(arm):
                self.tuner.ran(arm, steps, seconds + self._reading, self._planned)
                self._reading = 0.0
            else:
                self.tuner.compiled(arm, seconds)
                self.compiler.warm.add(self._warmth(arm))
            return outcome

    def _form(self, arm: Arm) -> Callable[..., Outcome]:
        return self.compiler.form(arm, is_asked_for=self._asked_for != "auto")

    def _drop(self, arm: Arm, error: BaseException) -> None:
        first_line = str(error).strip().partition("\n")[0]
        self.tuner.drop(arm.form, first_line, for_good=not isinstance(error, Unchecked))
        if self._asked_for != "auto":
            warn(
                f"form={arm.form!r} is not for this objective, whose steps run singly: {first_line}"
            )


def _operations(step: Step) -> set[str]:
    """The types of all operations of a step, those of functions within it too."""
    return set(itertools.chain.from_iterable(map(_operations_in, bodies(step.gradient))))


def _operations_in(nodes: Any) -> Iterator[str]:
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        inputs = [by_name.get(name.partition(":")[0]) for name in node.input]
        # A length that is looked up in a shape, as TensorFlow does for a mean, is there.
        of_shape = node.op == "GatherV2" and inputs[0] and inputs[0].op == "Shape"
        if not of_shape and not _draws_same_bits(node.op, inputs):
            yield node.op


def _draws_same_bits(operation: str, inputs: list[Any]) -> bool:
    """Whether random bits are those of an algorithm that XLA does not choose for itself."""
    if operation != "StatelessRandomUniformFullIntV2" or not inputs[3]:
        return False
    return list(inputs[3].attr["value"].tensor.int_val) == [PHILOX]


def _naming(operations: set[str], parts: tuple[str, ...]) -> str:
    return ", ".join(sorted(op for op in operations if any(part in op for part in parts)))
