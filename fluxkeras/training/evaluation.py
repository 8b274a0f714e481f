"""Evaluation: what comes of all batches in inference mode, where nothing is updated."""

import contextlib
import functools
import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, overload

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import at_batch, undressed
from fluxkeras.parameters import Variable
from fluxkeras.training.batch import Signature
from fluxkeras.training.cache import Compiled, kept_in
from fluxkeras.training.captures import Captures
from fluxkeras.training.feed import feed_of
from fluxkeras.training.iterables import length
from fluxkeras.training.keeping import assign, values_of
from fluxkeras.training.objective import (
    METRIC,
    Metric,
    Metrics,
    Objective,
    converting,
    with_metrics,
)
from fluxkeras.training.runner import Compiler
from fluxkeras.training.step import written
from fluxkeras.training.tuner import Request

__all__ = ["evaluate", "predict"]

# What is wanted of a batch: computed from the objective, the structure and the tensors.
Wanted: TypeAlias = Callable[[Objective, Any, Any], Any]


@overload
def evaluate(
    loss: Callable[..., Any], data: Iterable[Any], /, *, metrics: Metrics | None = None
) -> Any: ...
@overload
def evaluate(
    loss: Callable[..., Any], model: Any, data: Iterable[Any], /, *, metrics: Metrics | None = None
) -> Any: ...
def evaluate(loss: Callable[..., Any], *arguments: Any, metrics: Metrics | None = None) -> Any:
    """The mean loss over data: `evaluate(loss, data)` or `evaluate(loss, model, data)`.

    `sum(len(batch) * loss(*batch) for batch in data) / sum(len(batch) for batch in data)`

    Layers are in inference mode: no dropout, and `BatchNorm` uses its running statistics, and
    leaves them. It is the same number, to the last bit, each time. Keras's metrics that the
    objective refers to begin anew, and are afterwards what they were before.

    Args:
        loss: the objective, as in `train`.
        model: goes first into `loss`, if it is given.
        data: any iterable of batches, as in `train`, that comes to an end. The length of the first
            axis of a batch's first array is its number of samples, by which it counts.
        metrics: Keras's metrics by name, as in `train`.

    Returns:
        What `loss` returns, as means: a float; or, where it returns `(loss, {"acc": …})`, that
        float and the means of the values besides, in the same structure: floats, or arrays, of
        which the mean of each element is taken. A value that is the result of a metric of Keras is
        what it has come to after the last batch.

    Raises:
        TypeError, ValueError, ShapeError: something given here, or a batch, does not fit. The
            message names the batch, counted from 0.

    Example:
        >>> m = Chain(Dense(1, 1, init="ones"))
        >>> loss = lambda x, y: mse(m(x), y)
        >>> x, y = np.ones((4, 1)), np.array([[0.0], [0.0], [0.0], [1.0]])
        >>> evaluate(loss, DataLoader((x, y), 3))  # (3 * 1 + 1 * 0) / 4
        0.75
        >>> evaluate(lambda m, x, y: (mse(m(x), y), {"mae": mae(m(x), y)}), m, [(x, y)])
        (0.75, {'mae': 0.75})

    Source: Keras's `Model.evaluate`.
    """
    if len(arguments) not in (1, 2):
        raise TypeError(
            f"evaluate takes (loss, data) or (loss, model, data), got {len(arguments) + 1} "
            "arguments."
        )
    if not callable(loss):
        raise TypeError(f"evaluate expects a function as its objective, got {loss!r}.")
    model, data = (None, *arguments)[-2:]
    weights: list[int] = []
    values: list[Any] = []
    results: list[Any] = []
    with _named("evaluate"):
        compiled = _compiled_for(with_metrics(loss, metrics), model, _loss_and_aux)
        with _anew(compiled.metrics):
            for signature, ((losses, aux), of_metrics) in _outcomes(compiled, data, own_axes=1):
                if samples := _samples(signature):
                    weights += [samples] * len(losses)
                    values.append((losses, aux))
                    results.append(of_metrics)
    if not values:
        raise ValueError("evaluate got no sample: the batches are empty.")
    of_metrics = [np.concatenate(parts) for parts in zip(*results, strict=True)]
    mean = functools.partial(_mean, weights, of_metrics)
    mean_loss, mean_aux = tf.nest.map_structure(mean, *values)
    return mean_loss if mean_aux is None else (mean_loss, mean_aux)


def predict(m: Callable[..., Any], data: Iterable[Any]) -> Any:
    """What a model returns for all batches, joined along the first axis.

    `np.concatenate([m(batch) for batch in data])`

    Layers are in inference mode, as in `evaluate`.

    Args:
        m: a model, or any other function of tensors.
        data: any iterable of batches, as in `train`, that comes to an end. A tuple is splatted into
            `m`, anything else, such as an array, is passed whole.

    Returns:
        A NumPy array of shape `(samples, …)`, or, where `m` returns several tensors in tuples,
        lists or dicts, the same with such arrays.

    Raises:
        TypeError, ValueError, ShapeError: something given here, or a batch, does not fit. The
            message names the batch, counted from 0.

    Example:
        >>> m = Chain(Dense(1, 1, init="ones"))
        >>> predict(m, DataLoader(np.arange(5.0)[:, np.newaxis], 2)).ravel().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
        >>> predict(lambda x, y: {"sum": m(x) + y}, [(np.ones((2, 1)), np.ones((2, 1)))])
        {'sum': array([[2.],
               [2.]], dtype=float32)}

    Source: Keras's `Model.predict`.
    """
    if not callable(m):
        raise TypeError(f"predict expects a model, or another function, got {m!r}.")
    if isinstance(data, np.ndarray | tf.Tensor):
        raise TypeError(
            "predict expects data to be an iterable of batches, got an array of shape "
            f"{tuple(data.shape)}. For one batch write [batch], for more DataLoader(x, 32)."
        )
    with _named("predict", "the model"):
        # A model that a layer has as an attribute would be given attributes itself.
        compiled = _compiled_for(functools.partial(m), None, _outputs)
        parts = [outputs for _, (outputs, _) in _outcomes(compiled, data, own_axes=2)]
    return tf.nest.map_structure(_joined, *parts)


class Inference:
    """What is done for a batch, in the form of a `Step` that makes no update.

    Its loss is 0, which every form goes on after. Besides come what is wanted, and what the metrics
    have come to.
    """

    tells_overflow = is_lasting = False
    changed: tuple[Any, ...] = ()

    def __init__(
        self, objective: Objective, wanted: Wanted, metrics: list[Metric], signature: Signature
    ) -> None:
        self.signature = signature
        self._objective = objective
        self._wanted = wanted
        self._metrics = metrics
        try:
            self.gradient = converting(objective, self._trace)
        except Exception as error:
            raise undressed(error) from None
        self.at_risk = self.variables = written(self.gradient)

    def plain(self, *tensors: Any, xla: bool = False) -> tuple[tf.Tensor, Any, tf.Tensor]:
        loss, wanted, _ = self.gradient(*tensors)
        return loss, wanted, tf.constant(True)

    keeping = plain

    def _trace(self) -> Any:
        def infer(*tensors: Any) -> tuple[tf.Tensor, Any, list[Any]]:
            wanted = self._wanted(self._objective, self.signature.structure, tensors)
            # One that has no variables yet is not called by the objective.
            results = [metric.result() for metric in self._metrics if metric.variables]
            return tf.zeros(()), (wanted, tf.nest.flatten(results)), []

        function = tf.function(infer, autograph=False)
        return function.get_concrete_function(*self.signature.specs)


class Inferences(Compiled):
    """The runners of an objective that is not trained."""

    def __init__(self, captured: Captures, objective: Objective, wanted: Wanted) -> None:
        super().__init__(captured, objective, [], None)
        self.metrics = [value for value in captured.kept if isinstance(value, METRIC)]
        self._wanted = wanted

    def _compiler(self, signature: Signature, same: bool) -> Compiler:
        def trace() -> Any:
            return Inference(self._objective, self._wanted, self.metrics, signature)

        compiler = Compiler(trace, same, self._turn)
        # What was measured is to be the same number when it is measured again.
        compiler.account.dropped["xla"] = "it rounds otherwise"
        return compiler


class Memory:
    """What is compiled of functions that refer to a variable: it lives and dies with that."""

    def __init__(self) -> None:
        self.compiled: OrderedDict[Any, Inferences] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, ()  # a copy of the variable starts anew


def _compiled_for(function: Callable[..., Any], model: Any, wanted: Wanted) -> Inferences:
    """What is compiled for this function, from an earlier call if it fits: as for `train`."""
    captured = Captures(function, model)
    identity = captured.fingerprint, wanted, keras.config.floatx()
    owner = next((value for value in captured.kept if isinstance(value, Variable)), None)
    memory: Memory = Memory()
    if owner is not None:
        memory = vars(owner).setdefault("_fluxkeras", memory)

    def make() -> Inferences:
        return Inferences(captured, Objective(function, model, captured.of_keras()), wanted)

    return kept_in(memory.compiled, identity, make)


def _outcomes(compiled: Compiled, data: Any, own_axes: int) -> Iterator[tuple[Signature, Any]]:
    """What came of one batch after another, or of several that ran in one call.

    Args:
        own_axes: how many axes may have another length from call to call, the first of which counts
            the batches.
    """
    feed, done, expected = feed_of(data), 0, None
    request = Request(total=length(data), together=feed.together)
    compiled.begin()
    while (signature := feed.peek()) is not None:
        with at_batch(done, signature):
            runner = compiled.runner(signature, feed.is_same)
            plan = runner.plan(request, done)
            chunk = feed.take(signature, plan.steps, plan.room)
        meanwhile = functools.partial(feed.prepare, plan.steps, plan.room)
        outcomes = runner.run(plan, chunk, meanwhile)
        while True:
            with at_batch(done, signature):
                if (outcome := next(outcomes, None)) is None:
                    break
                shapes = tf.nest.map_structure(lambda v: np.shape(v)[own_axes:], outcome.aux[0])
                if expected is not None and shapes != expected:
                    raise ValueError(
                        "what comes of this batch does not go with what came of those before: its "
                        f"shapes are {shapes}, and were {expected}."
                    )
            expected = shapes
            done += len(outcome.losses)
            yield signature, outcome.aux


def _loss_and_aux(objective: Objective, structure: Any, tensors: Any) -> Any:
    return objective.evaluate(structure, tensors, training=False)


def _outputs(objective: Objective, structure: Any, tensors: Any) -> Any:
    function: Any = objective.function  # a partial one
    m = function.func
    names = list(inspect.signature(m.call).parameters) if isinstance(m, keras.Layer) else []
    if "training" in names[: len(structure)]:  # which a second input would be taken for
        raise TypeError(
            f"the model takes {names[0]}, and this batch is a tuple of {len(structure)}, which is "
            "splatted into it. For the inputs alone write predict(m, (x for x, y in data))."
        )
    outputs = objective.outputs(structure, tensors, training=False)
    for output in tf.nest.flatten(outputs):
        if output is not None and tf.TensorShape(getattr(output, "shape", ())).rank == 0:
            raise ValueError(
                "predict expects outputs with the samples along their first axis, got a number."
            )
    return outputs


def _samples(signature: Signature) -> int:
    """The length of the first axis of the first array; 1 where there is none."""
    shapes = [part[1] if isinstance(part, tuple) else part.shape for part in signature.parts]
    return next((int(shape[0]) for shape in shapes if len(shape)), 1)


@contextlib.contextmanager
def _anew(metrics: list[Metric]) -> Iterator[None]:
    """Where metrics have seen nothing yet; afterwards they are what they were before."""
    variables = [v for metric in metrics for v in metric.variables]
    before = values_of(variables)
    for metric in metrics:
        metric.reset_state()
    try:
        yield
    finally:
        for metric in metrics:
            metric.reset_state()  # those that have variables only now, too
        assign(variables, before)


def _mean(weights: list[int], of_metrics: list[np.ndarray], *parts: Any) -> Any:
    if parts[0] is None:
        return None
    try:
        values = np.concatenate(parts).astype(np.float64)
    except ValueError:
        raise TypeError(
            "evaluate takes the mean of what the objective returns, which are to be numbers: got "
            f"{parts[0].ravel().tolist()[0]!r}."
        ) from None
    if any(np.array_equal(values, results, equal_nan=True) for results in of_metrics):
        weights = [0] * (len(values) - 1) + [1]
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        mean = np.average(values, axis=0, weights=weights)
    return mean if np.ndim(mean) else float(mean)


def _joined(*parts: Any) -> Any:
    """The rows of all batches, of which each part stacks some."""
    if parts[0] is None:
        return None
    return np.concatenate([rows for part in parts for rows in part])


@contextlib.contextmanager
def _named(caller: str, function: str = "the objective") -> Iterator[None]:
    """Where errors name who was called, with what, also from parts that mostly serve `train`."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            message = re.sub(r"\btrain (?=expects|got|cannot)", f"{caller} ", error.args[0])
            error.args = (message.replace("the objective", function), *error.args[1:])
        raise
