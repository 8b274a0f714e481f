"""Parts: the rows of each batch that one of several workers trains on."""

import math
from typing import Any

import tensorflow as tf

from fluxkeras.checks import at_batch
from fluxkeras.data import DataLoader
from fluxkeras.training.ahead import Feed
from fluxkeras.training.batch import Part
from fluxkeras.training.distribution import Distribution
from fluxkeras.training.feed import Items, feed_of, most_ahead
from fluxkeras.training.iterables import iterator


def feed_for(data: Any, distribution: Distribution | None) -> Feed:
    """The feed that suits the data, of this worker's part of it, if there are several workers."""
    if distribution is None or distribution.workers == 1:
        return feed_of(data)
    return Parts(data, distribution)


def order_of(data: Any) -> Any:
    """The state of the generator by which a `DataLoader` was shuffled for the time through."""
    return data.state()["rng"] if isinstance(data, DataLoader) else None


class Parts(Items):
    """This worker's rows of each batch. All workers take as many batches at a time."""

    patience = math.inf

    def __init__(self, data: Any, distribution: Distribution) -> None:
        self._distribution = distribution
        self._shard = distribution.rank, distribution.workers
        if isinstance(data, DataLoader) and data.shard not in (None, self._shard):
            raise ValueError(
                f"train expects a DataLoader with shard={self._shard} on this worker, or none, got "
                f"{data.shard}."
            )
        items = distribution.dataset(data) if isinstance(data, tf.data.Dataset) else data
        super().__init__(iterator(items), data, most_ahead(data))
        self.order = order_of(data)

    def _taken(self, item: Any) -> Part:
        batch = super()._taken(item)
        position = self._position - 1
        with at_batch(position, batch.signature):
            samples = self._distribution.samples(batch.signature)
        if isinstance(self._data, tf.data.Dataset):
            samples = int(self._distribution.table([samples]).sum())
        elif isinstance(self._data, DataLoader) and self._data.shard:
            samples = self._data.size(position)
        else:
            return Part(batch, samples, self._distribution.part(samples))
        if self._distribution.is_small(samples):
            batch.leaves = [self._distribution.gathered(leaf) for leaf in batch.leaves]
        return Part(batch, samples)
