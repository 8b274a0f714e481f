"""Records: nested data with arrays in it, in one file that is there whole or not at all.

The file is a TFRecord, in which TensorFlow guards each record by checksums: first the data as JSON,
with a number in place of each array, then the arrays as TensorFlow serialises tensors. Reading it
runs no code.
"""

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fluxkeras.checks import CheckpointError

FORMAT = 1

PLAIN = bool | int | float | str | None


class Log:
    """A list of nested data that only grows. What it has is not encoded again by each `write`."""

    def __init__(self) -> None:
        self.packed: list[bytes] = []

    def append(self, tree: Any) -> None:
        self.packed.append(tf.io.serialize_tensor(tf.constant(_records(tree))).numpy())


def write(path: Path, tree: Any) -> None:
    """Put nested data into a file. What the file held before is there until this is whole."""
    records = _records(tree)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    try:
        with tf.io.TFRecordWriter(str(beside)) as writer:
            for record in records:
                writer.write(record)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error  # what a full disk is to everyone else
    _flush(beside)
    beside.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(path.parent)


def read(path: Path) -> Any:
    """The nested data of a file, with NumPy arrays.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is damaged, of a later format, or something else.
    """
    with path.open("rb"):
        pass  # TensorFlow's message of a file that cannot be read would be another
    try:
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        version = json.loads(records[0])["fluxkeras"]
        if version == FORMAT:
            return _tree(records)
    except (tf.errors.OpError, ValueError, TypeError, LookupError) as error:
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint of fluxkeras: {_first_line(error)}. Nothing was "
            "loaded. Delete it, or move it away, to train from the start."
        ) from error
    raise CheckpointError(
        f"{path} is of format {version!r}, and this fluxkeras reads format {FORMAT}. Another "
        "version of fluxkeras wrote it: use that one, or train from the start with another path."
    )


def _records(tree: Any) -> list[bytes]:
    """What describes nested data, then its arrays."""
    tensors: list[tf.Tensor] = []
    encoded = _encoded(tree, tensors)
    header = {"fluxkeras": FORMAT, "tree": encoded, "types": [t.dtype.name for t in tensors]}
    return [json.dumps(header).encode(), *(tf.io.serialize_tensor(t).numpy() for t in tensors)]


def _tree(records: list[bytes]) -> Any:
    header, *arrays = records
    described = json.loads(header)
    pairs = zip(arrays, described["types"], strict=True)
    return _decoded(described["tree"], [_parsed(record, name) for record, name in pairs])


def _parsed(record: bytes, type_name: str) -> np.ndarray:
    array: np.ndarray = tf.io.parse_tensor(record, tf.as_dtype(type_name)).numpy()
    return array


def _flush(path: Path) -> None:
    """Have the disk hold what was written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encoded(node: Any, tensors: list[tf.Tensor]) -> Any:
    """As JSON: a list stays one, and an object tells what else it stands for."""
    if isinstance(node, PLAIN) and not isinstance(node, np.generic):
        return node
    if isinstance(node, Mapping):
        return {"dict": [[_encoded(part, tensors) for part in item] for item in node.items()]}
    if isinstance(node, list | tuple):
        parts = [_encoded(part, tensors) for part in node]
        return parts if isinstance(node, list) else {"tuple": parts}
    is_log = isinstance(node, Log)
    tensors.append(tf.constant(node.packed, tf.string) if is_log else _tensor(node))
    return {"log" if is_log else "array": len(tensors) - 1}


def _tensor(node: Any) -> tf.Tensor:
    try:
        return tf.convert_to_tensor(node)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "a checkpoint holds numbers, texts and arrays, and lists, tuples and dicts of those, "
            f"got an object of type {type(node).__name__}: {reprlib.repr(node)}. What a state() "
            "returns is to be made of the former."
        ) from error


def _decoded(node: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(node, list):
        return [_decoded(part, arrays) for part in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "array":
        return arrays[value]
    if kind == "log":
        return [_tree(_parsed(packed, "string").tolist()) for packed in arrays[value]]
    parts: Iterator[Any] = (_decoded(part, arrays) for part in value)
    return {"tuple": tuple, "dict": dict}[kind](parts)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
