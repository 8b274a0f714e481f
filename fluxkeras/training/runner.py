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

# What XLA does differently, or not at all: it draws other random numbers from the same seed.
NOT_FOR_XLA = ("Random", "TruncatedNormal", "Multinomial", "PyFunc")


class Runner:
    """Trains on batches of one signature.

    Args:
        trace: makes the step that is done for each.
        same: whether all batches of a chunk are one and the same.
        can_xla: whether XLA may compile it, which it does anew for each shape.
    """

    def __init__(self, trace: Callable[[], Step], same: bool, can_xla: bool) -> None:
        start = time.perf_counter()
        self._step = trace()
        self._same = same
        self._forms: dict[Arm, Callable[..., Outcome]] = {}
        self._warm: set[Arm] = set()
        size = self._step.signature.bytes + _bytes(self._step.gradient.structured_outputs[1])
        self.tuner = Tuner(size, self._step.signature.can_be_stacked, can_xla)
        self.tuner.compiled(self.tuner.single, time.perf_counter() - start)

    def plan(self, request: Request, done: int) -> Plan:
        """How to go on, `done` steps after the beginning, in a form that is compiled."""
        plan = self.tuner.plan(request, done)
        while plan.arm not in self._forms:
            start = time.perf_counter()
            try:
                self._form(plan.arm)
            except Exception as error:
                if plan.arm is self.tuner.single:
                    raise
                self._drop(plan.arm, error, request)
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
        if is_xla and (unfit := _unfit_for_xla(self._step)):
            raise TypeError(f"XLA does otherwise, or cannot do: {unfit}")
        if arm.room is None:
            return Single(self._step, xla=is_xla)
        return Loop(self._step, self._snapshot, xla=is_xla, room=arm.room, same=self._same)

    @functools.cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(self._step.variables)

    def _drop(self, arm: Arm, error: BaseException, request: Request | None = None) -> None:
        first_line = str(error).strip().partition("\n")[0]
        why = f"{type(error).__name__}: {first_line}"
        self.tuner.drop(arm.form, why)
        if request and request.form != "auto":
            warn(f"form={request.form!r} is not for this objective, whose steps run singly: {why}")


def _unfit_for_xla(step: Step) -> str:
    graph = step.gradient.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return ", ".join(sorted({n.op for n in nodes if any(part in n.op for part in NOT_FOR_XLA)}))


def _bytes(structure: Any) -> int:
    """The size of the tensors in a structure, as far as their shapes are known."""
    tensors = [value for value in tf.nest.flatten(structure) if isinstance(value, tf.Tensor)]
    return sum(t.dtype.size * (t.shape.num_elements() or 0) for t in tensors)
