"""Iterables: what Python does not know of data that can be gone through."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras


def length(data: Any) -> int | None:
    """The number of items, where it is known."""
    if isinstance(data, keras.utils.PyDataset):
        return None if data.num_batches is None else int(data.num_batches)
    try:
        return len(data)
    except TypeError:  # no length, or a tf.data.Dataset without a known one
        return None


def iterator(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return _py_dataset(data)
    if not isinstance(data, Mapping | str | bytes):
        try:
            return iter(data)
        except TypeError as error:
            if error.__traceback__ and error.__traceback__.tb_next:  # in a function of the data
                raise
    raise TypeError(
        f"train expects data to be an iterable of batches, got {type(data).__name__}. "
        "For one batch write [batch]."
    )


def _py_dataset(data: keras.utils.PyDataset) -> Iterator[Any]:
    # Python would iterate it by __getitem__ alone, which knows no end.
    if hasattr(data, "on_epoch_begin"):  # not in Keras 3.5
        data.on_epoch_begin()
    position = 0
    while data.num_batches is None or position < data.num_batches:
        yield data[position]
        position += 1
    data.on_epoch_end()


def why_empty(data: Any) -> str:
    kind = type(data).__name__
    if isinstance(data, Iterator):
        return (
            f"train got no batch: this {kind} is exhausted, since a {kind} can be gone through "
            "only once. For several epochs keep the batches in a list, such as list(zip(xs, ys)), "
            f"or make the {kind} anew for each."
        )
    return f"train got no batch: the data, a {kind}, is empty."
