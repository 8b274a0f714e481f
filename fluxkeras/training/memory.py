"""Memory of batches: arrays that TensorFlow takes over as they are."""

import contextlib
import math
import mmap
import os
import weakref
from collections import deque

import numpy as np
import tensorflow as tf

ALIGNMENT = 64  # bytes, which TensorFlow wants of memory that it does not copy
SHAREABLE = "fiu"  # kinds of NumPy's numbers whose memory TensorFlow can take over
LARGE = 2**20  # bytes from which memory is kept for the next chunk
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}

_spare: deque[np.ndarray] = deque(maxlen=4)  # memory of one chunk, while another is trained on


def buffer(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that TensorFlow can take over without a copy."""
    dtype = dtype.newbyteorder("=")
    size = math.prod(shape) * dtype.itemsize
    memory = _large_memory(size) if size >= LARGE else np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array = memory[start : start + size].view(dtype).reshape(shape)
    if size >= LARGE:
        # TensorFlow lets go of the array when no tensor lies in it any more.
        weakref.finalize(array, _spare.append, memory).atexit = False
    return array


def _large_memory(size: int) -> np.ndarray:
    """Such as is not used any more, if there is some: new memory takes more time than a copy."""
    for _ in range(len(_spare)):
        with contextlib.suppress(IndexError):  # another thread took the last
            memory = _spare.popleft()
            if memory.nbytes == size:
                return memory
            _spare.append(memory)
    # NumPy asks the system for huge pages, which may take it 30 ms each.
    return np.frombuffer(mmap.mmap(-1, size, **PRIVATE), np.uint8)


def shared(array: np.ndarray) -> tf.Tensor:
    """An array from `buffer` as a tensor. It must not be written to any more."""
    if array.dtype.kind in SHAREABLE and array.size:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)


def copied(array: np.ndarray) -> tf.Tensor:
    copy = buffer(array.shape, array.dtype)
    copy[...] = array
    return shared(copy)


def gathered(array: np.ndarray, indices: np.ndarray, room: int | None = None) -> tf.Tensor:
    """`array[indices]`, in memory with `room` along the first axis."""
    shape = (*indices.shape, *array.shape[1:])
    memory = buffer(shape if room is None else (room, *shape[1:]), array.dtype)
    rows = memory[: len(indices)].reshape(indices.size, *array.shape[1:])
    np.take(array, indices.ravel(), axis=0, out=rows, mode="clip")
    return shared(memory)
