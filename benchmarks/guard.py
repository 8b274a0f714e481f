"""What it costs that a loss that is not finite stops training and changes nothing."""

import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from benchmarks.loops import Train
from benchmarks.measure import interleaved, seconds_of
from benchmarks.workloads import BATCHNORM, Workload, data_of, titled
from fluxkeras.training.batch import Batch, Chunk
from fluxkeras.training.captures import Captures
from fluxkeras.training.forms import Loop, Single, Snapshot
from fluxkeras.training.objective import Objective
from fluxkeras.training.step import Step
from fluxkeras.training.tuner import SECONDS_A_CALL

WORKLOADS = (
    titled("MLP 784-32-10, batch 32"),
    titled("MLP 784-512-512-10, batch 32"),
    BATCHNORM,
)
TRIED, SECONDS_A_RUN, RUNS_OF_LOOP = 16, 0.1, 3

Run = Callable[[], Any]


def guard_ratios(repeats: int) -> dict[str, float]:
    """The time with the guard in times of that without, for each model and form."""
    ratios = {}
    for workload in WORKLOADS:
        print(f"{workload.title}, guard", file=sys.stderr, flush=True)
        for form, (guarded, plain) in _pairs(workload).items():
            seconds = interleaved({"guarded": guarded, "plain": plain}, repeats)
            pairs = zip(*seconds.values(), strict=True)
            ratios[f"{workload.title}, {form}"] = median(a / b for a, b in pairs)
    return ratios


def _pairs(workload: Workload) -> dict[str, tuple[Run, Run]]:
    step, tensors = _step(workload.of_steps(1))
    pairs = {}
    for name, xla in (("a step a call", False), ("a step a call, XLA", True)):
        pairs[name] = _singles(step, tensors, xla)
    for name, xla in (("graph", False), ("xla", True)):
        pairs[name] = _loops(step, tensors, xla)
    return pairs


def _step(workload: Workload) -> tuple[Step, tuple[tf.Tensor, ...]]:
    train = Train(workload, data_of(workload, "list"))
    objective = Objective(train.objective, None, Captures(train.objective).of_keras())
    batch = Batch(train.data.given[0], 0)
    return Step(objective, [train.opt], None, batch.signature), batch.tensors()


def _singles(step: Step, tensors: tuple[tf.Tensor, ...], xla: bool) -> tuple[Run, Run]:
    steps: tuple[Any, Any] = step, _unguarded(step)
    runs = [partial(Single(s, xla=xla), tensors, _nothing) for s in steps]
    for run in runs:
        run()
    times = max(1, int(SECONDS_A_RUN / min(seconds_of(runs[1]) for _ in range(3))))
    guarded, plain = (partial(_again, times, run) for run in runs)
    return guarded, plain


def _loops(step: Step, tensors: tuple[tf.Tensor, ...], xla: bool) -> tuple[Run, Run]:
    """Loops of as many steps as `train` would run in a call."""
    snapshot = Snapshot(step.variables)
    none: Any = SimpleNamespace(take=_nothing, restore=_nothing)
    pairs = ((step, snapshot), (_unguarded(step), none))
    _, tried = _loop_pair(pairs, tensors, xla, TRIED)
    tried()
    pace = min(seconds_of(tried) for _ in range(3)) / TRIED
    runs = _loop_pair(pairs, tensors, xla, max(2, int(SECONDS_A_CALL / pace)))
    for run in runs:
        run()
    guarded, plain = (partial(_again, RUNS_OF_LOOP, run) for run in runs)
    return guarded, plain


def _loop_pair(
    pairs: tuple[tuple[Any, Any], ...], tensors: tuple[tf.Tensor, ...], xla: bool, steps: int
) -> tuple[Run, Run]:
    stacked = tuple(tf.stack([tensor] * steps) for tensor in tensors)
    guarded, plain = (
        partial(
            Loop(step, snapshot, xla=xla, room=steps, same=False),
            Chunk(step.signature, stacked, steps, True),
            _nothing,
        )
        for step, snapshot in pairs
    )
    return guarded, plain


def _unguarded(step: Step) -> Any:
    """A step that looks at no number: TensorFlow leaves out what nobody asks for."""

    def run(*tensors: Any, xla: bool = False) -> Any:
        loss, aux, gradients = step.gradient(*tensors)
        step.update(gradients)
        return loss, aux, tf.constant(True)

    return SimpleNamespace(
        signature=step.signature,
        gradient=step.gradient,
        tells_overflow=False,
        is_lasting=False,
        at_risk=[],
        changed=[],
        keeping=run,
        selecting=run,
        plain=run,
    )


def _again(times: int, run: Run) -> None:
    for _ in range(times):
        run()


def _nothing(*_: Any) -> None:
    pass
