"""One step: gradient, guard and update of a batch, traced once for all forms."""

import functools
import itertools
from collections import OrderedDict
from collections.abc import Sequence, Set
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from fluxkeras.checks import undressed, warn
from fluxkeras.parameters import KerasVariable, Variable, key, listed, params, raw
from fluxkeras.training.batch import Signature
from fluxkeras.training.distribution import Distribution, is_number, scope_of
from fluxkeras.training.lasting import are_finite, is_lasting
from fluxkeras.training.objective import Objective, converting

Optimiser: TypeAlias = keras.optimizers.Optimizer
SCALING: type = keras.optimizers.LossScaleOptimizer


class Step:
    """What happens in one step, as functions to be called within a compiled one.

    Python runs the objective once, in `gradient`; every form calls what was traced then.

    Args:
        objective: what is made smaller.
        optimisers: each trains the parameters that it names; one that names none, the others.
        model: the model whose parameters those are, if known.
        signature: that of the batches.
        distribution: the replicas that share a batch, if there are some.
        updates: those that were traced for other signatures, from which most do not differ.

    Attributes:
        gradient: of a batch's tensors; returns the loss, what came besides, and the gradients.
        tells_overflow: whether what comes besides is a pair, of what the objective returned, and
            whether an optimiser that looks for the scale of the loss leaves this step out.
        update: of the gradients.
        at_risk: the variables that may be written before an error of the step comes up.
        written: the variables that the forward pass may write.
        changed: those that a step may write.
        variables: all those that a step reads or writes.
    """

    def __init__(
        self,
        objective: Objective,
        optimisers: Sequence[Optimiser],
        model: Any,
        signature: Signature,
        distribution: Distribution | None = None,
        updates: dict[Any, Any] | None = None,
    ) -> None:
        self.signature = signature
        self.distribution = distribution
        self._objective = objective
        self._optimisers = optimisers
        self._model = model
        try:
            self.gradient = converting(objective, self._trace_gradient)
            if self._build_optimisers():
                self.gradient = self._trace_gradient()
            self.update = self._traced_update({} if updates is None else updates)
        except Exception as error:
            raise undressed(error) from None
        for optimiser, unread in self._unread:
            _warn_of_unread(optimiser, unread)
        self.written = written(self.gradient)
        # In an order that is the same in each process: XLA's speed depends on it.
        changed = _each([*self.written, *written(self.update)])
        self.changed = sorted(changed, key=lambda v: v.name)
        self.variables = _each([*self.gradient.variables, *self.update.variables])
        self.at_risk = self.variables if _may_fail(self.update) else self.written

    def checked(self, *tensors: Any, xla: bool = False) -> tuple[tf.Tensor, Any, tf.Tensor, Any]:
        """What `gradient` returns, and whether the loss and all gradients are finite."""
        loss, aux, gradients = self.gradient(*tensors)
        return loss, aux, self._is_finite(loss, gradients, xla), gradients

    def plain(self, *tensors: Any, xla: bool = False) -> tuple[tf.Tensor, Any, tf.Tensor]:
        """A step that is made whatever the loss: it, what came besides, whether all was finite.

        Where `is_lasting`, that is told of the loss alone: the weights tell the rest.
        """
        if self.is_lasting:
            loss, aux, gradients = self.gradient(*tensors)
            is_finite = tf.math.is_finite(loss)
        else:
            loss, aux, is_finite, gradients = self.checked(*tensors, xla=xla)
        self.update(gradients)
        return loss, aux, is_finite

    @functools.cached_property
    def is_lasting(self) -> bool:
        """Whether weights that are not finite tell of a gradient that was not, and always do."""
        is_local = self.distribution is None and bool(self._updates)
        is_known = is_local and all(itertools.starmap(is_lasting, self._updates))
        return is_known and bool(self.weights_are_finite())

    def weights_are_finite(self) -> tf.Tensor:
        """Whether all are that a step trains."""
        return are_finite(
            [tf.convert_to_tensor(raw(v)) for _, group in self._updates for v in group]
        )

    def keeping(self, *tensors: Any) -> tuple[tf.Tensor, Any, tf.Tensor, list[tf.Tensor]]:
        """A step that is made whatever the loss, and what its variables were before."""
        before = [tf.identity(v) for v in self.changed]
        loss, aux, is_finite, gradients = self.checked(*tensors)
        # An error in the forward pass comes up before anything is updated.
        with tf.control_dependencies([is_finite, *before]):
            self.update(gradients)
        return loss, aux, is_finite, before

    def selecting(self, *tensors: Any) -> tuple[tf.Tensor, Any, tf.Tensor]:
        """A step by XLA that changes no variable unless the loss and the gradients are finite."""
        before = [tf.identity(v) for v in self.changed]
        loss, aux, is_finite, gradients = self.checked(*tensors, xla=True)
        self.update(gradients)
        for variable, value in zip(self.changed, before, strict=True):
            variable.assign(tf.where(is_finite, variable, value))
        return loss, aux, is_finite

    def _is_finite(self, loss: tf.Tensor, gradients: Any, xla: bool) -> tf.Tensor:
        # Who looks for the scale of the loss finds it by gradients that are not finite.
        pairs = zip(self._updates, gradients, strict=True)
        guarded = [g for (opt, _), found in pairs if not isinstance(opt, SCALING) for g in found]
        return are_finite([loss, *map(_values, guarded)], xla)

    def _trace_gradient(self) -> Any:
        def gradient(*tensors: Any) -> tuple[tf.Tensor, Any, Any]:
            loss, aux, gradients = self._shared_gradient(tensors)
            pairs = zip(self._updates, gradients, strict=True)
            looking = [g for (o, _), found in pairs if isinstance(o, SCALING) for g in found]
            self.tells_overflow = bool(looking)
            return loss, (aux, _overflows(looking)) if looking else aux, gradients

        function = tf.function(gradient, autograph=False)
        return function.get_concrete_function(*self.signature.specs)

    def _shared_gradient(self, tensors: Any) -> Any:
        """That of a batch, whether replicas share it or not."""
        if self.distribution is None:
            return self._gradient_of(1.0, tensors)
        samples = self.distribution.samples(self.signature)
        return self.distribution.summed(self._gradient_of, tensors, samples)

    def _gradient_of(self, weight: float, tensors: Any) -> tuple[tf.Tensor, Any, Any]:
        """The loss, what came besides and the gradients, by how much they count."""
        # TensorFlow traces loops several times over for a persistent tape.
        with tf.GradientTape(persistent=len(self._optimisers) > 1) as tape:
            loss, aux = self._objective.evaluate(self.signature.structure, tensors)
            loss = _weighted(loss, weight)
            aux = tf.nest.map_structure(lambda v: _weighted(v, weight) if is_number(v) else v, aux)
            groups = self._groups(self._read(tape))
            scaled = [optimiser.scale_loss(loss) for optimiser, _ in groups]
        self._scale = [o for (o, _), own in zip(groups, scaled, strict=True) if own is not loss]
        gradients = _gradients(tape, groups, scaled)
        self._updates = [(o, variables) for o, _, variables in gradients]
        return loss, aux, [found for _, found, _ in gradients]

    def _build_optimisers(self) -> bool:
        """Make the variables of new optimisers; whether one of them scales the loss by its own.

        That is not done while the gradient is traced, since TensorFlow traces twice what makes
        variables.
        """
        new = [
            (o, own) for o, own in zip(self._optimisers, self._shares, strict=True) if not o.built
        ]
        for optimiser, own in new:
            with scope_of(optimiser.variables[0]):
                optimiser.build(own)
            memory_of(optimiser).parameters = own
        return any(optimiser in self._scale for optimiser, _ in new)

    def _traced_update(self, known: dict[Any, Any]) -> Any:
        def update(gradients: Any) -> None:
            for (optimiser, variables), found in zip(self._updates, gradients, strict=True):
                optimiser.apply(found, variables)

        specs = tf.nest.map_structure(_spec, self.gradient.structured_outputs[2])
        trained = tuple((id(o), *map(key, variables)) for o, variables in self._updates)
        identity = trained, tuple(tf.nest.flatten(specs))
        if identity not in known:
            function = tf.function(update, autograph=False)
            known[identity] = function.get_concrete_function(specs)
        return known[identity]

    def _read(self, tape: tf.GradientTape) -> list[Variable]:
        """The trainable variables that the objective read."""
        # The tape knows TensorFlow's variables alone, and not which ones Keras has frozen since.
        of_keras = {key(v): v for v in self._objective.variables}
        read = [of_keras.get(key(v), v) for v in tape.watched_variables()]
        return [v for v in read if v.trainable]

    def _groups(self, read: list[Variable]) -> list[tuple[Optimiser, list[Variable]]]:
        """Which optimiser trains which variables."""
        is_read = set(map(key, read))
        self._shares = _shares(self._optimisers, read, self._model)
        self._unread: list[tuple[Optimiser, list[Variable]]] = []
        groups = []
        for optimiser, own in zip(self._optimisers, self._shares, strict=True):
            _refuse_new(optimiser, own)
            trainable = [v for v in own if v.trainable]
            self._unread.append((optimiser, [v for v in trainable if key(v) not in is_read]))
            groups.append((optimiser, [v for v in trainable if key(v) in is_read]))
        return groups


def _each(variables: list[tf.Variable]) -> list[tf.Variable]:
    return list({id(v.handle): v for v in variables}.values())


def _gradients(
    tape: tf.GradientTape, groups: list[tuple[Optimiser, list[Variable]]], scaled: list[tf.Tensor]
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


def _spec(gradient: Any) -> tf.TypeSpec:
    if isinstance(gradient, tf.Tensor):
        return tf.TensorSpec(gradient.shape, gradient.dtype)  # without its name
    return tf.type_spec_from_value(gradient)


def _weighted(value: tf.Tensor, weight: float) -> tf.Tensor:
    return value if weight == 1.0 else value * tf.cast(weight, value.dtype)


def _values(gradient: Any) -> tf.Tensor:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _overflows(gradients: list[Any]) -> tf.Tensor:
    """Whether one of them is not finite, as Keras finds out: of a scaled loss."""
    return ~tf.reduce_all([tf.reduce_all(tf.math.is_finite(_values(g))) for g in gradients])


def _shares(
    optimisers: Sequence[Optimiser], read: list[Variable], model: Any
) -> list[list[Variable]]:
    """The parameters of each optimiser: those that it names, or all that no other does."""
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
    return [rest if own is None else own for own in named]


def _warn_of_unread(optimiser: Optimiser, unread: list[Variable]) -> None:
    if unread:
        warn(
            f"the objective does not read these parameters of the {type(optimiser).__name__}, "
            f"which are left as they are: {listed(unread)}. Does the objective call another model "
            "than the one whose parameters the optimiser was given?"
        )


def _refuse_new(optimiser: Optimiser, group: list[Variable]) -> None:
    known = memory_of(optimiser).parameters if optimiser.built else None
    known_keys = set(map(key, group if known is None else known))
    if unknown := [v for v in group if key(v) not in known_keys]:
        raise ValueError(
            f"this {type(optimiser).__name__} has trained other parameters before, and a Keras "
            f"optimiser takes no new ones: {listed(unknown)}. Make a new optimiser, or name all "
            "of its parameters at the start: ADAM(params(m1, m2))."
        )


class Memory:
    """What an optimiser remembers between calls of `train`: it lives and dies with it."""

    def __init__(self) -> None:
        self.parameters: list[Variable] | None = None
        self.compiled: OrderedDict[Any, Any] = OrderedDict()  # see `cache`
        self.names: Set[str] = frozenset()  # see `captures`
        self.runs: dict[Any, Any] = {}  # see `checkpoint`


def memory_of(optimiser: Optimiser) -> Memory:
    # Not by setattr, since Keras would track, and save, the variables within.
    memory: Memory = vars(optimiser).setdefault("_fluxkeras", Memory())
    return memory


FALLIBLE = "Assert", "CheckNumerics", "PyFunc"  # parts of the names of operations


def _may_fail(function: Any) -> bool:
    """Whether a traced function has operations that are there to raise errors, or run Python."""
    return any(part in n.op for nodes in bodies(function) for n in nodes for part in FALLIBLE)


def bodies(function: Any) -> list[Any]:
    """The nodes of the graph of a traced function, and those of each function within it."""
    graph = function.graph.as_graph_def()
    return [graph.node, *(within.node_def for within in graph.library.function)]


READERS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}


def written(function: Any) -> list[tf.Variable]:
    """The variables that a traced function hands to an operation that does more than read.

    Calls of other functions and control flow count as such: what they do within is not looked at.
    """
    captured = function.captured_inputs
    inputs = function.inputs[len(function.inputs) - len(captured) :]
    placeholders = dict(zip(map(id, inputs), captured, strict=True))
    by_handle = {id(v.handle): v for v in function.variables}
    handed = {
        id(placeholders[id(tensor)])
        for operation in function.graph.get_operations()
        if operation.type not in READERS
        for tensor in operation.inputs
        if id(tensor) in placeholders
    }
    return [v for handle, v in by_handle.items() if handle in handed]
