"""The loops on TensorFlow: fluxkeras, Keras's `fit`, and the one that is written by hand."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import fluxkeras
from benchmarks.measure import EVERY_BATCH, FLUXKERAS, THROTTLED
from benchmarks.workloads import WORKLOADS, Data, Workload

Run = Callable[[], Any]


def adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(1e-3)


class Train:
    """`fluxkeras.train`, with one objective and optimiser however often it is called."""

    def __init__(self, workload: Workload, data: Data) -> None:
        model = workload.model()
        self.data = data
        self.opt = adam()
        self.objective = lambda x, y: workload.loss(model(x), y)

    def __call__(self, cb: Callable[[], Any] | None = None) -> fluxkeras.History:
        return fluxkeras.train(self.objective, self.data.given, self.opt, cb=cb, progress=False)


class Noted:
    """A run of `train` that remembers how the last one went."""

    def __init__(self, train: Train, cb: Callable[[], Any] | None = None) -> None:
        self.train = train
        self.cb = cb
        self.note = ""

    def __call__(self) -> tuple[str, float]:
        """The form, and the seconds of training."""
        timing = self.train(self.cb).timing
        self.note = timing.form if timing.chunk == 1 else f"{timing.form} x {timing.chunk}"
        return timing.form, timing.steps


def ways_to_train(workload: Workload, data: Data) -> dict[str, Noted]:
    """One objective for all, so that they differ in the callback alone."""
    train = Train(workload, data)
    ways = {FLUXKERAS: Noted(train), THROTTLED: Noted(train, fluxkeras.throttle(_nothing, 5))}
    if workload.name == WORKLOADS[0].name and workload.batch <= 32 and data.kind == "list":
        ways[EVERY_BATCH] = Noted(train, _nothing)
    return ways


def _nothing() -> None:
    pass


def by_hand(workload: Workload, data: Data, jit: bool) -> Run:
    """Reads every loss, as one does to record or to show it."""
    model, opt = workload.model(), adam()

    @tf.function(jit_compile=jit, reduce_retracing=workload.is_ragged)
    def step(x: Any, y: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = workload.loss(model(x, training=True), y)
        variables = model.trainable_variables
        opt.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda: [float(step(x, y)) for x, y in data.batches()]


def fit(workload: Workload, data: Data, steps_per_execution: int, jit: bool | str) -> Run:
    model = workload.model()
    model.compile(
        optimizer=adam(),
        loss=lambda y, y_hat: workload.loss(y_hat, y),
        steps_per_execution=steps_per_execution,
        jit_compile=jit,
    )
    return lambda: model.fit(**data.for_fit, verbose=0)


def ways_by_hand(workload: Workload, data: Data) -> dict[str, Callable[[], Run]]:
    return {
        "jit" if jit else "no jit": functools.partial(by_hand, workload, data, jit)
        for jit in ((False,) if workload.is_ragged else (False, True))
    }


def ways_to_fit(workload: Workload, data: Data) -> dict[str, Callable[[], Run]]:
    return {
        f"{steps} a call, {name}": functools.partial(fit, workload, data, steps, jit)
        for steps in (1, 50)
        for name, jit in (("no jit", False), ("jit", True), ("auto", "auto"))
    }
