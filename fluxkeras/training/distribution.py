"""Distribution: a step shared among the replicas of one of TensorFlow's strategies.

Each replica computes the gradient on its rows of a batch, and counts by how many those are, so
that the sum over the replicas is the gradient on the whole batch. Optimisers get that sum, outside
of the replicas: within, Keras would clip and collect each replica's gradient by itself.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.data import part_of
from fluxkeras.parameters import Variable, raw
from fluxkeras.training.batch import Signature


class Distribution:
    """The replicas of a strategy, of which each worker, a process, has some.

    Args:
        strategy: one of `tf.distribute`.

    Attributes:
        workers: how many there are.
        rank: which of them this is, counted from 0.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.workers, self.rank = _place(strategy.cluster_resolver)
        self._local: int = strategy.num_replicas_in_sync // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes and prints."""
        return self.rank == 0

    def refuse_metrics(self, parts: Iterable[Any]) -> None:
        """Raise if there are metrics of Keras's among the parts of an objective.

        What each replica adds up Keras adds up once more, and a batch may be trained on by several.
        """
        found = [m.name for m in parts if isinstance(m, keras.metrics.Metric)]
        if found and self.strategy.num_replicas_in_sync > 1:
            raise ValueError(
                f"under a {type(self.strategy).__name__} of several replicas, train expects an "
                f"objective without metrics of Keras's, got {', '.join(found)}. Return numbers "
                "besides the loss, of which the history has means, or call evaluate."
            )

    def part(self, count: int) -> slice:
        """Which of so many rows are this worker's: all, where there are too few to share."""
        return slice(0, count) if self.is_small(count) else part_of(count, self.workers, self.rank)

    def is_small(self, count: int) -> bool:
        """Whether there are fewer rows than replicas.

        Each replica then trains on all of them: the mean over no row would be NaN, and TensorFlow
        has no convolution of no image.
        """
        return count < self._local * self.workers

    def summed(self, f: Callable[..., Any], tensors: Sequence[tf.Tensor], count: int) -> Any:
        """The sum over all replicas of what `f(weight, its rows)` returns.

        Of what came besides the loss, single numbers are summed; the rest is that of the first
        replica here.

        Args:
            f: returns the loss, what came besides, and the gradients.
            tensors: this worker's rows of a batch.
            count: how many rows the batch has on all workers.
        """
        own = len(range(count)[self.part(count)])
        if self.is_small(count):
            parts = [slice(0, count)] * self._local
            weights = [1 / self.strategy.num_replicas_in_sync] * self._local
        else:
            parts = [part_of(own, self._local, i) for i in range(self._local)]
            weights = [(part.stop - part.start) / count for part in parts]

        def of_replica(*tensors: tf.Tensor) -> Any:
            context = tf.distribute.get_replica_context()
            replica = tf.get_static_value(context.replica_id_in_sync_group)
            if replica is None:  # TPUs, whose replicas run the same program
                rows = self._equal_rows(tensors, context.replica_id_in_sync_group, parts)
                loss, aux, gradients = f(weights[0], rows)
            else:
                here = int(replica) % self._local
                rows = [t[parts[here]] if t.shape.rank else t for t in tensors]
                loss, aux, gradients = f(weights[here], rows)
            add = functools.partial(context.all_reduce, tf.distribute.ReduceOp.SUM)
            aux = tf.nest.map_structure(lambda v: add(v) if is_number(v) else v, aux)
            return add(loss), aux, add(gradients) if gradients else gradients

        return tf.nest.map_structure(self._first, self.strategy.run(of_replica, tuple(tensors)))

    def _equal_rows(
        self, tensors: Sequence[tf.Tensor], replica: tf.Tensor, parts: list[slice]
    ) -> list[tf.Tensor]:
        """Those of a replica that learns only when it runs which one it is."""
        size = parts[0].stop
        if parts != [slice(i * size, (i + 1) * size) for i in range(self._local)]:
            raise ValueError(
                f"a {type(self.strategy).__name__} of {self._local} replicas takes batches of as "
                "many samples for each. Write DataLoader(…, partial=False)."
            )
        shape, here = [self._local, size], replica % self._local
        return [tf.reshape(t, [*shape, *t.shape[1:]])[here] if t.shape.rank else t for t in tensors]

    def _first(self, value: Any) -> Any:
        """That of the first replica here."""
        return self.strategy.experimental_local_results(value)[0]

    def dataset(self, data: tf.data.Dataset) -> Iterator[Any]:
        """This worker's rows of each batch, as the `AutoShardPolicy` of the data has it."""
        for item in self.strategy.experimental_distribute_dataset(data):
            yield tf.nest.map_structure(self._joined, item)

    def _joined(self, value: Any) -> tf.Tensor:
        parts = self.strategy.experimental_local_results(value)
        return tf.concat(parts, 0) if len(parts) > 1 else parts[0]

    def gathered(self, rows: Any) -> np.ndarray:
        """The rows of all workers, one behind the other."""
        counts = self._gather(tf.constant([len(rows)])).numpy()[:: self._local]
        array: np.ndarray = self._gather(rows).numpy()
        # Each replica gives those of its worker.
        ends = np.cumsum(counts * self._local)
        starts = ends - counts * self._local
        return np.concatenate([array[i : i + n] for i, n in zip(starts, counts, strict=True)])

    def table(self, numbers: Sequence[int]) -> np.ndarray:
        """What each worker gives, in a row for each."""
        rows: np.ndarray = self._gather(tf.constant([numbers], tf.int64)).numpy()
        return rows[:: self._local]

    @functools.cached_property
    def _gather(self) -> Any:
        def gather(rows: tf.Tensor) -> tf.Tensor:
            return self.strategy.gather(self.strategy.run(tf.identity, (rows,)), axis=0)

        return tf.function(gather, autograph=False, reduce_retracing=True)

    def samples(self, signature: Signature) -> int:
        """How many a batch has on all workers.

        Raises:
            TypeError: it is of sparse or ragged tensors, or of open lengths.
            ShapeError: its arrays have not all as many.
        """
        if not signature.can_be_stacked:
            raise TypeError(
                f"a {type(self.strategy).__name__} shares no sparse and ragged tensors. Give train "
                "dense ones: tf.sparse.to_dense(x), x.to_tensor()."
            )
        shapes = [shape for _, shape in signature.parts]
        lengths = {shape[0] for shape in shapes if shape}
        if len(lengths) != 1 or None in lengths:
            got = ", ".join(map(str, shapes)) or "no array"
            raise ShapeError(
                f"under a {type(self.strategy).__name__} train expects the samples of a batch "
                f"along the first axis, as many in each array, got shapes {got}. Write x[None] "
                "for a batch of one sample."
            )
        return lengths.pop() if signature.samples is None else signature.samples


def distribution_of(
    variables: Iterable[Variable], optimisers: Sequence[keras.optimizers.Optimizer]
) -> Distribution | None:
    """The strategy in whose scope variables were made; None without one.

    Raises:
        ValueError: there are several, or one that trains without waiting for all replicas; or an
            optimiser is not of its scope.
    """
    variables = list(variables)
    if any("/job:ps" in raw(v).device for v in variables):
        raise ValueError(
            "train works with no ParameterServerStrategy, whose workers do not wait for each "
            "other. Use a MirroredStrategy, or a MultiWorkerMirroredStrategy."
        )
    found = list({id(s): s for s in map(_strategy_of, variables) if s is not None}.values())
    if len(found) > 1:
        names = " and ".join(type(s).__name__ for s in found)
        raise ValueError(
            f"train expects variables made in the scope of one strategy, got some of {names}."
        )
    if not found:
        return None
    for optimiser in optimisers:
        if _strategy_of(optimiser.variables[0]) is not found[0]:
            raise ValueError(
                f"train expects an optimiser made in the scope of the {type(found[0]).__name__}, "
                f"as the model was, got a {type(optimiser).__name__} made outside. Write with "
                f"strategy.scope(): opt = {type(optimiser).__name__}(…)."
            )
    return _distribution(found[0])


# One for each strategy, which has compiled how workers tell each other.
_distribution = functools.lru_cache(maxsize=4)(Distribution)


def refuse_scope() -> None:
    """Raise in the scope of a strategy, where TensorFlow updates no variables."""
    if tf.distribute.has_strategy():
        raise ValueError(
            f"train is called in the scope of a {type(tf.distribute.get_strategy()).__name__}. "
            "Make the model and the optimiser in the scope, and call train after it: the variables "
            "know their strategy."
        )


def copies_of(variable: Variable) -> Sequence[tf.Variable]:
    """Those that the replicas here have of a variable, if it is of a strategy."""
    strategy = _strategy_of(variable)
    copies: Sequence[tf.Variable] = (
        strategy.experimental_local_results(raw(variable)) if strategy else ()
    )
    return copies


@contextlib.contextmanager
def scope_of(variable: Variable) -> Iterator[None]:
    """That in which the variable was made, for an optimiser to make more of its kind.

    Raises:
        ValueError: it was made in that of a `OneDeviceStrategy`, which its variables do not know.
    """
    strategy = _strategy_of(variable)
    try:
        with strategy.scope() if strategy else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        if strategy or "scope()" not in str(error):
            raise
        raise ValueError(
            "train expects an optimiser made in the scope of a OneDeviceStrategy to have its "
            "variables already. Make a new one, and write with strategy.scope(): "
            "opt.build(params(m))."
        ) from error


def _strategy_of(variable: Variable) -> Any:
    return getattr(raw(variable), "distribute_strategy", None)


def is_number(value: Any) -> bool:
    """Whether it is one of what means are taken."""
    return isinstance(value, tf.Tensor) and value.shape.rank == 0 and value.dtype.is_floating


def _place(resolver: Any) -> tuple[int, int]:
    """How many workers there are, and which of them this is: the chief comes first."""
    cluster = resolver.cluster_spec().as_dict() if resolver else {}
    tasks = [(kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, ())))]
    if len(tasks) < 2:
        return 1, 0
    return len(tasks), tasks.index((resolver.task_type, resolver.task_id))
