"""One step: gradient, guard and update of a batch, compiled."""

import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from fluxkeras.checks import undressed, warn
from fluxkeras.parameters import KerasVariable, Variable, key, listed, params, raw
from fluxkeras.training.captures import PLAIN, Captures
from fluxkeras.training.feed import Batch
from fluxkeras.training.objective import Objective, access

Optimiser: TypeAlias = keras.optimizers.Optimizer

Groups: TypeAlias = list[tuple[Optimiser, list[Variable]]]

MOST_STEPS = 8  # compiled objectives kept for an optimiser; the one unused for longest goes first


class Step:
    """Trains on one batch: `step(batch)` is the loss before the update, and what came besides.

    It is compiled for each signature of batches. Everything that must hold for one step is inside
    the compiled function: if the loss is not finite, no variable is changed.

    Args:
        objective: what is made smaller.
        optimisers: each trains the parameters that it names; one that names none, the others.
        model: the model whose parameters those are, if known.
    """

    def __init__(self, objective: Objective, optimisers: Sequence[Optimiser], model: Any) -> None:
        self.objective = objective
        self.optimisers = optimisers
        self.model = model
        self.compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, batch: Batch) -> tuple[tf.Tensor, Any]:
        signature = batch.signature()
        if signature not in self.compiled:
            self.compiled[signature] = self._compile(batch)
        return self.compiled[signature](*batch.tensors)

    def _compile(self, batch: Batch) -> Callable[..., Any]:
        try:
            found = access(self.objective, batch)
            groups = _groups(self.optimisers, found.read, self.model)
            step = tf.function(self._step(batch.structure, groups, found.written), autograph=False)
            specs = [tf.type_spec_from_value(tensor) for tensor in batch.tensors]
            return step.get_concrete_function(*specs)
        except Exception as error:
            raise undressed(error) from None

    def _step(self, structure: Any, groups: Groups, written: list[tf.Variable]) -> Any:
        trained = [raw(v) for _, group in groups for v in group]

        def step(*tensors: Any) -> tuple[tf.Tensor, Any]:
            before = [tf.identity(v) for v in written]
            with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
                tape.watch(trained)
                loss, aux = self.objective.evaluate(structure, tensors)
                scaled = [optimiser.scale_loss(loss) for optimiser, _ in groups]
            updates = _updates(tape, groups, scaled)

            def update() -> tf.Tensor:
                for optimiser, gradients, variables in updates:
                    optimiser.apply(gradients, variables)
                return tf.constant(True)

            def restore() -> tf.Tensor:
                for variable, value in zip(written, before, strict=True):
                    variable.assign(value)
                return tf.constant(False)

            tf.cond(tf.math.is_finite(loss), update, restore)
            return loss, aux

        return step


def _updates(
    tape: tf.GradientTape, groups: Groups, scaled: list[tf.Tensor]
) -> list[tuple[Optimiser, list[Any], list[Variable]]]:
    """What to apply: for each optimiser the gradients that there are, and their variables."""
    gradients: dict[tuple[int, int], Any] = {}
    for loss in {id(loss): loss for loss in scaled}.values():  # mostly one, which none has scaled
        sharing = [
            v for (_, group), own in zip(groups, scaled, strict=True) if own is loss for v in group
        ]
        found = tape.gradient(loss, [raw(v) for v in sharing])
        gradients |= {(id(loss), key(v)): g for v, g in zip(sharing, found, strict=True)}
    updates = []
    for (optimiser, group), loss in zip(groups, scaled, strict=True):
        reached = [v for v in group if gradients[id(loss), key(v)] is not None]
        # Keras 3.5 takes both kinds of variables, but not Keras's before TensorFlow's.
        reached.sort(key=lambda v: isinstance(v, KerasVariable))
        if reached:
            updates.append((optimiser, [gradients[id(loss), key(v)] for v in reached], reached))
    if not updates and any(group for _, group in groups):
        raise ValueError(
            "no gradient reaches the variables that the objective reads, so there is nothing to "
            "train. Is there an argmax, a round, a comparison or a tf.stop_gradient on the way, or "
            "NumPy?"
        )
    return updates


def _groups(optimisers: Sequence[Optimiser], read: list[Variable], model: Any) -> Groups:
    """Which optimiser trains which variables."""
    named = [getattr(optimiser, "params", None) for optimiser in optimisers]
    if named.count(None) > 1:
        raise ValueError(
            f"train got {named.count(None)} optimisers that name no parameters. One may: it trains "
            "those that no other names. Name the others' parameters: SGD(params(m), 0.1)."
        )
    is_read = set(map(key, read))
    is_taken = {key(v) for group in named for v in group or ()}
    candidates = params(model) or read
    rest = [v for v in candidates if key(v) in is_read and key(v) not in is_taken]
    if not read or (None in named and not rest):
        raise ValueError(
            "the objective reads no trainable variable, so there is nothing to train. Does it call "
            "the model, and through operations of TensorFlow or Keras, not NumPy's? Is the model "
            "trainable?"
        )
    groups = []
    for optimiser, own in zip(optimisers, named, strict=True):
        group = rest if own is None else own
        trainable = [v for v in group if v.trainable]
        _warn_of_unread(optimiser, [v for v in trainable if key(v) not in is_read])
        _build(optimiser, group)
        groups.append((optimiser, [v for v in trainable if key(v) in is_read]))
    return groups


def _warn_of_unread(optimiser: Optimiser, unread: list[Variable]) -> None:
    if unread:
        warn(
            f"the objective does not read these parameters of the {type(optimiser).__name__}, "
            f"which are left as they are: {listed(unread)}. Does the objective call another model "
            "than the one whose parameters the optimiser was given?"
        )


def _build(optimiser: Optimiser, group: list[Variable]) -> None:
    if not optimiser.built:
        optimiser.build(group)
        memory(optimiser).parameters = group
    known = set(map(key, memory(optimiser).parameters or group))
    if unknown := [v for v in group if key(v) not in known]:
        raise ValueError(
            f"this {type(optimiser).__name__} has trained other parameters before, and a Keras "
            f"optimiser takes no new ones: {listed(unknown)}. Make a new optimiser, or name all "
            "of its parameters at the start: ADAM(params(m1, m2))."
        )


class Memory:
    """What an optimiser remembers between calls of `train`: it lives and dies with it."""

    def __init__(self) -> None:
        self.parameters: list[Variable] | None = None
        self.steps: OrderedDict[Any, tuple[Any, Step]] = OrderedDict()


def memory(optimiser: Optimiser) -> Memory:
    # Not by setattr, since Keras would track, and save, the variables within.
    return vars(optimiser).setdefault("_fluxkeras", Memory())


def compiled_step(loss: Callable[..., Any], optimisers: Sequence[Optimiser], model: Any) -> Step:
    """The step for this objective and these optimisers: the one of an earlier call, if it fits.

    A step is compiled once for each code and captures: what the objective refers to is compared
    by value where it is plain, and a changed number makes a new step, never a stale one.
    """
    captured = Captures(loss, model, [_hyper_parameters(o) for o in optimisers])
    identity = captured.fingerprint, tuple(map(id, optimisers)), keras.config.floatx()
    steps = memory(optimisers[0]).steps
    if identity not in steps:
        # The captures and optimisers are kept, so that no other object takes over their ids.
        objective = Objective(loss, model, captured.of_keras())
        steps[identity] = captured, Step(objective, optimisers, model)
    steps.move_to_end(identity)
    if len(steps) > MOST_STEPS:
        steps.popitem(last=False)
    return steps[identity][1]


def _hyper_parameters(optimiser: Optimiser) -> dict[str, Any]:
    """What of an optimiser is compiled in: its options, but not the learning rate's variable."""
    return {
        name: value
        for name, value in vars(optimiser).items()
        if isinstance(value, types.FunctionType)
        or (isinstance(value, PLAIN) and not name.startswith("_") and name != "built")
    }
