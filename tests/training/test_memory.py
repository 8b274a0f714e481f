import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras.training.memory import ALIGNMENT, LARGE, buffer, gathered, shared

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8"]


@pytest.mark.parametrize("dtype", [*DTYPES, ">f4", ">i8"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (7, 5), (1000, 3)])
def test_memory_is_aligned_and_of_the_machines_byte_order(dtype, shape):
    array = buffer(shape, np.dtype(dtype))

    assert array.ctypes.data % ALIGNMENT == 0 or not array.size
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype).newbyteorder("="))
    assert array.dtype.isnative and array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7, 5)])
def test_the_memory_of_numbers_is_shared_with_the_tensor(dtype, shape):
    array = buffer(shape, np.dtype(dtype))
    array[...] = 0
    tensor = shared(array)
    assert (tensor.dtype, tuple(tensor.shape)) == (tf.as_dtype(array.dtype), shape)

    array[...] = 1

    is_shared = np.dtype(dtype).kind in "fiu"
    np.testing.assert_array_equal(tensor, np.full(shape, is_shared, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_lives_as_long_as_its_tensor(dtype):
    expected = (np.arange(5000) % 2).astype(dtype)
    array = buffer((5000,), np.dtype(dtype))
    array[...] = expected
    tensor = shared(array)
    del array
    gc.collect()
    others = [np.full(5000, 1, dtype) for _ in range(50)]

    np.testing.assert_array_equal(tensor, expected)
    del others


@pytest.mark.parametrize("dtype", [*DTYPES, ">f4", ">i8"])
@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 0), (6, 3, 1)])
@pytest.mark.parametrize(
    ("indices", "room"),
    [
        (np.array([3, 1]), None),
        (np.array([[5, 0], [1, 1]]), None),
        (np.array([[5, 0], [1, 1]]), 4),
        (np.array([[5], [0]]), 2),
    ],
)
def test_rows_are_gathered_by_their_indices(dtype, shape, indices, room):
    array = np.resize(np.arange(7), shape).astype(dtype)

    tensor = gathered(array, indices, room)

    rows = room or len(indices)
    assert tuple(tensor.shape) == (rows, *indices.shape[1:], *shape[1:])
    np.testing.assert_array_equal(tensor[: len(indices)], array[indices])


def test_large_memory_is_used_again_once_no_tensor_lies_in_it():
    def numbers(value):
        array = buffer((LARGE // 4,), np.dtype("f"))
        array[...] = value
        return shared(array)

    first = numbers(1)
    part, address = first[:3], np.asarray(memoryview(first)).ctypes.data
    second = numbers(2)
    assert np.asarray(memoryview(second)).ctypes.data != address
    del first
    gc.collect()

    third = numbers(3)

    np.testing.assert_array_equal(part, [1, 1, 1])
    np.testing.assert_array_equal(second, np.full(LARGE // 4, 2))
    np.testing.assert_array_equal(third, np.full(LARGE // 4, 3))
    del part, second, third
    gc.collect()
    addresses = {np.asarray(memoryview(numbers(i))).ctypes.data for i in range(20)}
    assert len(addresses) <= 4


def test_threads_share_large_memory_without_mixing_it_up():
    def work(value):
        for _ in range(200):
            array = buffer((LARGE,), np.dtype("u1"))
            array[...] = value
            assert (array == value).all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
