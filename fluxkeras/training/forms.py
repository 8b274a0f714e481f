"""The forms in which steps run: one a call, or many in a loop of TensorFlow's or of XLA's.

| form | what is compiled | guard |
|---|---|---|
| single | a step of a small model | what the variables were before it is put back |
| single | the gradient of a step, and its update | the update is not called |
| graph | a loop over the batches of a chunk | a snapshot of the variables before it |
| xla | the same loop, with room for so many batches | the same |
| xla | a step | old values are selected |
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.training.batch import Chunk
from fluxkeras.training.step import Step

SMALL_BYTES = 2**21  # of the variables of a step, which are copied in less time than a call takes


@dataclass(frozen=True)
class Outcome:
    """What came of some steps.

    Attributes:
        losses: of shape `(steps,)`.
        aux: what the objective returned besides, each value with an axis of length `steps` in
            front; None if there was nothing.
        is_made: False for one step whose loss or gradient was not finite: it changed nothing.
        overflows: which of them were left out by an optimiser that looks for the scale of the loss.
    """

    losses: np.ndarray
    aux: Any
    is_made: bool = True
    overflows: Sequence[int] = ()


class Trouble(Exception):
    """A loop came upon an error, or a step that is not finite; variables are as before the loop.

    Attributes:
        end: where it ended, in the chunk: a step before that is not finite. An error is its cause.
    """

    end = 0


class CompiledFunction:
    """A function that TensorFlow compiled, called with tensors of the types that it is made for.

    Calling it as the operation that it is saves the 0.1 ms in which TensorFlow matches arguments
    with their names. On several devices, that operation would want numbers where they are not.

    Args:
        function: what is compiled.
        specs: of its arguments.
        xla: whether XLA compiles it.
    """

    def __init__(
        self, function: Callable[..., Any], specs: Sequence[tf.TypeSpec] = (), xla: bool = False
    ) -> None:
        def concrete(function: Callable[..., Any], xla: bool) -> Any:
            made = tf.function(function, autograph=False, jit_compile=xla or None)
            return made.get_concrete_function(*specs)

        self._function = concrete(function, xla)
        gpus, cpus = map(tf.config.list_logical_devices, ("GPU", "CPU"))
        self._is_operation = not gpus and len(cpus) < 2
        if xla and self._is_operation:
            # XLA compiles what is called in a function, but not what is called as an operation.
            self._function = concrete(self._function, False)
        self._captured = list(self._function.captured_inputs)
        self._types = [output.dtype for output in self._function.outputs]

    def __call__(self, *tensors: Any) -> list[tf.Tensor]:
        """The tensors in what the function returns, without their structure."""
        if not self._is_operation:
            return _flat(self._function(*tensors))
        outputs = tf.raw_ops.StatefulPartitionedCall(
            args=[*_flat(tensors), *self._captured], Tout=self._types, f=self._function
        )
        return outputs or []


class Single:
    """One step a call, which changes nothing unless its loss and gradients are finite.

    What the variables were before it is put back, or, where copying them costs more than a call,
    its update is called once all is known to be finite. XLA selects between old and new values:
    either of those takes it longer.

    Args:
        step: what is done.
        xla: whether XLA compiles it.
    """

    def __init__(self, step: Step, *, xla: bool = False) -> None:
        self._step = step
        self._aux = step.gradient.structured_outputs[1]
        self._parts = len(_flat(self._aux))
        self._keeps = not xla and bytes_of(step.changed) <= SMALL_BYTES
        self._update: CompiledFunction | None = None
        if xla or self._keeps:
            run = step.selecting if xla else step.keeping
        else:
            run = step.checked
            self._update = CompiledFunction(step.update, step.update.structured_input_signature[0])
        self._run = CompiledFunction(run, step.signature.specs, xla)
        # XLA writes variables at the end.
        self._at_risk = Snapshot(step.at_risk) if step.at_risk and not xla else None

    @functools.cached_property
    def _changed(self) -> "Snapshot":
        return Snapshot(self._step.changed)

    def __call__(self, tensors: tuple[Any, ...], meanwhile: Callable[[], None]) -> Outcome:
        """Train on a batch; `meanwhile` runs beside it where the device is not the host."""
        at_risk = self._at_risk.take() if self._at_risk else []
        rest: list[tf.Tensor] = []  # what the variables were, or the gradients
        is_made = False
        try:
            loss, *values = self._run(*tensors)
            aux, (finite, *rest) = values[: self._parts], values[self._parts :]
            meanwhile()
            is_finite = bool(finite)
            if is_finite and self._update:
                self._update(*rest)
            is_made = is_finite
        finally:
            if not is_made and self._keeps and rest:
                self._changed.restore(*rest)
            elif not is_made and self._at_risk:
                self._at_risk.restore(*at_risk)
        aux = _in_numpy(self._aux, aux, lambda value: np.asarray(value)[np.newaxis])
        return _outcome(self._step, loss.numpy()[np.newaxis], aux, is_made)


class Loop:
    """A step for each batch of a chunk, in one call.

    Args:
        step: what is done for each batch.
        snapshot: that of the step's variables.
        xla: whether XLA compiles it.
        room: how many batches there is room for.
        same: whether chunks hold a single batch, which is trained on again and again.
    """

    def __init__(
        self, step: Step, snapshot: "Snapshot", *, xla: bool, room: int, same: bool
    ) -> None:
        self._step = step
        self._aux = step.gradient.structured_outputs[1]
        self._snapshot = snapshot
        self._xla = xla
        self._rows = 1 if same else room if xla else None
        self._room = room if xla else None
        specs = [tf.TensorSpec([self._rows, *s.shape], s.dtype) for s in step.signature.specs]
        range_specs = [tf.TensorSpec((), tf.int32)] * 2
        loop = tf.function(self._loop, autograph=False, jit_compile=xla or None)
        is_lasting = step.is_lasting  # found out by looking at weights, which is not to be traced

        def looking(*tensors: tf.Tensor) -> list[tf.Tensor]:
            *outputs, is_finite = loop(*tensors)
            # XLA's loop is slower where XLA looks as well.
            return [*outputs, is_finite & step.weights_are_finite() if is_lasting else is_finite]

        self._function = CompiledFunction(looking, [*range_specs, *specs])
        # A loop of no steps compiles, and trains on nothing.
        nothing = [tf.zeros([1 if n is None else n for n in s.shape], s.dtype) for s in specs]
        self._function(_count(0), _count(0), *nothing)

    def takes(self, chunk: Chunk) -> bool:
        """Whether it is compiled for the memory that a chunk lies in."""
        return chunk.stacked and all(self._rows in (None, t.shape[0]) for t in chunk.tensors)

    def __call__(
        self, chunk: Chunk, meanwhile: Callable[[], None], start: int = 0, stop: int | None = None
    ) -> Outcome:
        """Train on a chunk, or on some of its batches; `meanwhile` runs beside it where the device
        is not the host.

        Raises:
            Trouble: see there.
        """
        before = self._snapshot.take()
        stop = chunk.count if stop is None else stop
        count = stop - start
        try:
            losses, *aux, end, is_finite = self._function(
                _count(start), _count(stop), *chunk.tensors
            )
            meanwhile()
            losses = losses.numpy()[:count]
            aux = _in_numpy(self._aux, aux, lambda value: value[:count])
        except Exception as error:
            self._snapshot.restore(*before)
            raise Trouble from error
        if not is_finite:
            self._snapshot.restore(*before)
            trouble = Trouble()
            trouble.end = int(end)
            raise trouble
        return _outcome(self._step, losses, aux)

    def _loop(self, start: tf.Tensor, stop: tf.Tensor, *stacked: tf.Tensor) -> list[tf.Tensor]:
        loss, aux, _ = self._step.gradient.structured_outputs
        size = stop - start if self._room is None else self._room
        records = [
            tf.TensorArray(value.dtype, size, element_shape=value.shape)
            for value in [loss, *_tensors(aux)]
        ]

        def more(i: tf.Tensor, is_finite: tf.Tensor, *_: Any) -> tf.Tensor:
            return (i < stop) & is_finite

        def body(i: tf.Tensor, _: tf.Tensor, *records: tf.TensorArray) -> tuple[Any, ...]:
            batch = [rows[0 if self._rows == 1 else i] for rows in stacked]
            loss, aux, is_finite = self._step.plain(*batch, xla=self._xla)
            values = zip(records, [loss, *_tensors(aux)], strict=True)
            return i + 1, is_finite, *(record.write(i - start, value) for record, value in values)

        end, is_finite, *of_all = tf.while_loop(more, body, (start, tf.constant(True), *records))
        return [*(values.stack() for values in of_all), end, is_finite]


def _outcome(step: Step, losses: np.ndarray, aux: Any, is_made: bool = True) -> Outcome:
    if not step.tells_overflow:
        return Outcome(losses, aux, is_made)
    aux, overflows = aux
    return Outcome(losses, aux, is_made, np.flatnonzero(overflows & is_made).tolist())


class Snapshot:
    """The values of variables, to go back to.

    Taking it copies nothing: what is taken is the memory of the variables, which TensorFlow no
    longer writes to while it is held.
    """

    def __init__(self, variables: list[tf.Variable]) -> None:
        def take() -> list[tf.Tensor]:
            return [tf.identity(v) for v in variables]

        def restore(*values: tf.Tensor) -> None:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

        specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
        self.take = CompiledFunction(take)
        self.restore = CompiledFunction(restore, specs)


def bytes_of(structure: Any) -> int:
    """The size of the tensors and variables in a structure, as far as their shapes are known."""
    tensors = [v for v in tf.nest.flatten(structure) if isinstance(v, tf.Tensor | tf.Variable)]
    return sum(t.dtype.size * (t.shape.num_elements() or 0) for t in tensors)


def _tensors(structure: Any) -> list[Any]:
    return [value for value in tf.nest.flatten(structure) if value is not None]


def _flat(structure: Any) -> list[tf.Tensor]:
    """The tensors in a structure, those that sparse and ragged ones are made of."""
    flat = tf.nest.flatten(structure, expand_composites=True)
    return [tensor for tensor in flat if tensor is not None]


def _in_numpy(like: Any, tensors: list[tf.Tensor], f: Callable[[Any], Any]) -> Any:
    """`f` of the NumPy array of each tensor, in a structure that was flat."""
    if like is None:
        return None
    left = iter(tensors)
    places = tf.nest.flatten(like, expand_composites=True)
    flat = [None if place is None else next(left) for place in places]
    structure = tf.nest.pack_sequence_as(like, flat, expand_composites=True)
    return tf.nest.map_structure(
        lambda value: f(value.numpy()) if hasattr(value, "numpy") else value, structure
    )


@functools.lru_cache(maxsize=256)
def _count(n: int) -> tf.Tensor:
    return tf.constant(n)
