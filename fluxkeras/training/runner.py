"""The runner: trains on the batches of one signature, in the form that the tuner asks for."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from fluxkeras.checks import warn
from fluxkeras.training.batch import Chunk
from fluxkeras.training.forms import Loop, Outcome, Single, Snapshot, Trouble
from fluxkeras.training.step import Step
from fluxkeras.training.tuner import Arm, Plan, Request, Tuner

# What XLA does otherwise, or not at all: it draws other random numbers from the same seed.
NOT_FOR_XLA = ("Random", "TruncatedNormal", "Multinomial", "PyFunc")
# What it does without the checks that TensorFlow makes on a CPU: it is for the user to ask for.
UNCHECKED = ("Assert", "CheckNumerics", "Gather")


class Unchecked(TypeError):
    """XLA would do it, but for whoever asks for it alone."""


class Runner:
    """Trains on batches of one signature.

    Args:
        trace: makes the step that is done for each.
        same: whether all batches of a chunk are one and the same.
    """

    def __init__(self, trace: Callable[[], Step], same: bool) -> None:
        start = time.perf_counter()
        self._step = trace()
        self._same = same
        self._forms: dict[Arm, Callable[..., Outcome]] = {}
        self._warm: set[Arm] = set()
        self._asked_for = "auto"
        size = self._step.signature.bytes + _bytes(self._step.gradient.structured_outputs[1])
        self.tuner = Tuner(size)
        self.tuner.compiled(self.tuner.single, time.perf_counter() - start)

    def plan(self, request: Request, done: int) -> Plan:
        """How to go on, `done` steps after the beginning, in a form that is compiled."""
        self._asked_for = request.form
        plan = self.tuner.plan(request, done)
        while plan.arm not in self._forms:
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

    def run(self, plan: Plan, chunk: Chunk, meanwhile: Callable[[], None]) -> Iterator[Outcome]:
        """Train on a chunk in one go, or, where that does not do, batch by batch.

        Args:
            meanwhile: is called while steps run, where the device is not the host.
        """
        form = self._forms[plan.arm]
        if not isinstance(form, Loop):
            yield from self._one_by_one(plan.arm, chunk, meanwhile)
            return
        error = None
        try:
            if form.takes(chunk):
                yield self._timed(plan.arm, chunk.count, functools.partial(form, chunk, meanwhile))
                return
        except Trouble as trouble:
            error = trouble.__cause__
        yield from self._one_by_one(self.tuner.single, chunk, meanwhile)
        if error:  # of the loop alone, since the steps have run
            self._drop(plan.arm, error)

    def _one_by_one(
        self, arm: Arm, chunk: Chunk, meanwhile: Callable[[], None]
    ) -> Iterator[Outcome]:
        for tensors in chunk.batches():
            try:
                yield self._timed(arm, 1, functools.partial(self._form(arm), tensors, meanwhile))
            except Exception as error:
                # XLA compiles a step, which may fail, when it first runs.
                if arm is self.tuner.single or arm in self._warm:
                    raise
                self._drop(arm, error)
                arm = self.tuner.single
                yield self._timed(arm, 1, functools.partial(self._form(arm), tensors, meanwhile))

    def is_warm(self, plan: Plan) -> bool:
        """Whether the form has run before: TensorFlow optimises what runs for the first time."""
        return plan.arm in self._warm

    def _timed(self, arm: Arm, steps: int, run: Callable[[], Outcome]) -> Outcome:
        start = time.perf_counter()
        outcome = run()
        seconds = time.perf_counter() - start
        if arm in self._warm:
            self.tuner.ran(arm, steps, seconds)
        else:
            self.tuner.compiled(arm, seconds)
            self._warm.add(arm)
        return outcome

    def _form(self, arm: Arm) -> Callable[..., Outcome]:
        if arm not in self._forms:
            self._forms[arm] = self._compile(arm)
        return self._forms[arm]

    def _compile(self, arm: Arm) -> Callable[..., Outcome]:
        is_xla = arm.form == "xla"
        if is_xla:
            self._check_xla()
        if arm.room is None:
            return Single(self._step, xla=is_xla)
        if not self._step.signature.can_be_stacked:
            raise TypeError("sparse and ragged tensors cannot be stacked")
        return Loop(self._step, self._snapshot, xla=is_xla, room=arm.room, same=self._same)

    def _check_xla(self) -> None:
        """Raise what speaks against XLA."""
        if not self._step.signature.is_static:
            raise TypeError("XLA compiles anew for each shape, and there are many")
        operations = _operations(self._step)
        if unfit := _naming(operations, NOT_FOR_XLA):
            raise TypeError(f"XLA does otherwise, or not at all: {unfit}")
        if self._asked_for == "auto" and (unchecked := _naming(operations, UNCHECKED)):
            raise Unchecked(f"XLA makes no checks in {unchecked}")

    @functools.cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(self._step.variables)

    def _drop(self, arm: Arm, error: BaseException) -> None:
        first_line = str(error).strip().partition("\n")[0]
        self.tuner.drop(arm.form, first_line, for_good=not isinstance(error, Unchecked))
        if self._asked_for != "auto":
            warn(
                f"form={arm.form!r} is not for this objective, whose steps run singly: {first_line}"
            )


def _operations(step: Step) -> set[str]:
    """The types of all operations of a step, those of functions within it too."""
    graph = step.gradient.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


def _naming(operations: set[str], parts: tuple[str, ...]) -> str:
    return ", ".join(sorted(op for op in operations if any(part in op for part in parts)))


def _bytes(structure: Any) -> int:
    """The size of the tensors in a structure, as far as their shapes are known."""
    tensors = [value for value in tf.nest.flatten(structure) if isinstance(value, tf.Tensor)]
    return sum(t.dtype.size * (t.shape.num_elements() or 0) for t in tensors)
