"""The elements of a dataset of TensorFlow's in blocks; `test_feed.py` holds what comes of them."""

import itertools
import threading

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import reading
from fluxkeras.training import blocks
from fluxkeras.training.batch import Batch
from fluxkeras.training.blocks import (
    AHEAD,
    BLOCK_BATCHES,
    BLOCK_BYTES,
    LARGE_BYTES,
    MARKS,
    MOST_BATCHES,
    OF_UNKNOWN,
    QUICK,
    QUICK_ELEMENT,
    READERS,
    Block,
    block_size,
    blocks_of,
    elements_of,
    is_large,
    one_by_one,
)

X = np.arange(6.0).reshape(3, 2)

slices = tf.data.Dataset.from_tensor_slices


def test_a_block_is_taken_in_runs_until_none_is_left():
    batch, block = (
        Batch((X, 1.0), 0),
        Block(Batch((X, 1.0), 0).structure, [np.stack([X] * 5), np.arange(5, dtype="f")]),
    )
    assert block.is_like(batch) and block.signature == batch.signature

    taken = [block.take(2)[1].tolist() for _ in range(3)]

    assert taken == [[0, 1], [2, 3], [4]]
    assert block.left == 0


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (tf.data.Dataset.range(1000), BLOCK_BATCHES),
        (tf.data.Dataset.range(200), 32),  # a sixth, as a power of 2
        (tf.data.Dataset.range(5), 4),
        (tf.data.Dataset.range(5).repeat(), BLOCK_BATCHES),
        (tf.data.Dataset.range(5).filter(lambda i: i > 0), 0),
        (slices(["text"]), 0),
        (slices(tf.ragged.constant([[1], [2, 3]])), 0),
        (slices(np.zeros((2, BLOCK_BYTES // 10), "u1")).repeat(), 8),
        (slices(np.zeros((2, 2 * BLOCK_BYTES), "u1")), 1),
    ],
)
def test_a_block_is_of_bounded_size_and_of_none_where_elements_may_be_long_in_coming(data, size):
    assert block_size(data) == size


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([2, 2, 2, 2, 2, 2], [(4, 2), (2, 2)]),
        ([2, 2, 2, 2, 2, 1], [(4, 2), (1, 2), (1, 1)]),
        ([1, 3, 3, 0], [(1, 1), (2, 3), (1, 0)]),
    ],
)
def test_elements_of_equal_shape_that_follow_each_other_come_in_one_block(lengths, runs):
    data = tf.data.Dataset.from_generator(
        lambda: map(np.ones, lengths), output_signature=tf.TensorSpec((None,))
    ).apply(tf.data.experimental.assert_cardinality(len(lengths)))

    given = [(block.left, len(block.leaves[0])) for block in blocks_of(data, 4)]

    assert given == runs


def test_what_hands_over_blocks_is_made_once_for_a_dataset():
    traces = []
    data = slices(X).map(lambda x: traces.append(1) or x)

    for _ in range(3):
        assert sum(block.left for block in blocks_of(data, 2)) == 3

    assert len(traces) == 1


@pytest.mark.parametrize(("n", "size"), [(10, BLOCK_BATCHES), (1000, 4)])
def test_the_size_of_a_block_is_mended_once_elements_were_seen(n, size):
    data = slices(np.zeros((n, 1000), "f")).repeat().batch(n)
    first = block_size(data)
    next(blocks_of(data, first))

    again = block_size(data)
    assert again == size  # of at most 16 MiB, a power of 2
    assert next(blocks_of(data, again)).whole[0].shape == (size, n, 1000)


def ticking(monkeypatch, seconds):
    """Let a clock go on by so many seconds between one look at it and the next."""
    clock = itertools.count()
    monkeypatch.setattr(blocks.time, "perf_counter", lambda: next(clock) * seconds)


@pytest.mark.parametrize(("wait", "size"), [(QUICK / 2, MOST_BATCHES), (2 * QUICK, BLOCK_BATCHES)])
def test_a_block_of_small_elements_is_larger_where_the_first_came_at_once(wait, size, monkeypatch):
    data = slices(np.zeros((300, 10), "f")).repeat()
    ticking(monkeypatch, wait)

    assert block_size(data) == BLOCK_BATCHES
    next(blocks_of(data, BLOCK_BATCHES))

    assert block_size(data) == size


@pytest.mark.parametrize(
    ("wait", "size"), [(QUICK_ELEMENT / 2, OF_UNKNOWN), (2 * QUICK_ELEMENT, 0)]
)
def test_a_dataset_of_unknown_length_comes_in_blocks_once_it_was_quick_to_the_end(
    wait, size, monkeypatch
):
    data = tf.data.Dataset.from_generator(
        lambda: iter(range(60)), output_signature=tf.TensorSpec(())
    )
    ticking(monkeypatch, wait)
    assert block_size(data) == 0
    elements = one_by_one(data)
    assert [float(next(elements)) for _ in range(20)] == list(range(20))
    assert block_size(data) == 0

    assert len(list(elements)) == 40

    assert block_size(data) == size


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (slices(np.zeros((8, LARGE_BYTES // 8), "u1")), True),
        (slices(np.zeros((8, LARGE_BYTES // 8 - 1), "u1")), False),
        (slices(np.zeros((8, LARGE_BYTES), "u1")).batch(1), False),
    ],
    ids=["large", "small", "not known yet"],
)
def test_a_block_is_large_if_copying_it_would_cost(data, expected):
    assert is_large(data, 8) is expected


def test_a_block_is_whole_until_some_are_taken():
    data = slices(X)
    (block,) = blocks_of(data, 3)

    (tensor,) = block.whole
    np.testing.assert_array_equal(tensor, X)
    block.take(1)
    assert block.whole == ()


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_padding_is_told_from_all_that_data_hold(dtype):
    """The mark is a NaN of which data hold none: theirs, of either sign, are no padding."""
    kind = dtype.as_numpy_dtype
    rows = [[0, 1, np.nan], [np.nan], [-np.nan, np.inf], [], [-0.0, 0.0, 0.0]]
    data = tf.data.Dataset.from_generator(
        lambda: (np.array(row, kind) for row in rows),
        output_signature=tf.TensorSpec((None,), dtype),
    ).apply(tf.data.experimental.assert_cardinality(len(rows)))

    given = [row for b in blocks_of(data, 4) for row in b.take(b.left)[0]]

    assert np.isnan(MARKS[dtype])
    for row, expected in zip(given, rows, strict=True):
        np.testing.assert_array_equal(row, np.array(expected, kind))


class Elements:
    """Some elements, from an iterator that tells in which threads it is read and deleted."""

    def __init__(self, length=3):
        self.length = length
        self.deleted_in = []
        self.read_in = []

    def __iter__(self):
        return Iterated(self)


class Iterated:
    def __init__(self, data):
        self.left = iter(range(data.length))
        self.data = data

    def __iter__(self):
        return self

    def __next__(self):
        self.data.read_in.append(threading.current_thread())
        return next(self.left)

    def __del__(self):
        self.data.deleted_in.append(threading.current_thread())


def test_an_iterator_that_came_to_its_end_is_deleted_in_a_thread():
    data = Elements()
    running = set(threading.enumerate())

    assert list(elements_of(data)) == [0, 1, 2]

    for thread in set(threading.enumerate()) - running:
        thread.join()
    assert len(data.deleted_in) == 1 and data.deleted_in[0] not in running


def test_an_iterator_that_is_left_early_is_deleted_at_once():
    data = Elements()
    elements = elements_of(data)
    next(elements)
    elements.close()

    assert data.deleted_in == [threading.current_thread()]


def test_a_thread_that_has_read_reads_again_and_another_one_meanwhile():
    data, other = Elements(), Elements()

    for _ in elements_of(data):
        assert list(elements_of(other)) == [0, 1, 2]
    assert list(elements_of(data)) == [0, 1, 2]

    assert threading.current_thread() not in data.read_in + other.read_in
    assert len(set(data.read_in + other.read_in)) == 2
    assert not set(data.read_in[:4]) & set(other.read_in)


def test_no_more_is_read_ahead_than_is_said_nor_after_one_leaves():
    data = Elements(100)
    elements = elements_of(data)
    next(elements)
    elements.close()

    assert 1 <= len(data.read_in) <= 1 + AHEAD
    read = len(data.read_in)
    list(elements_of(Elements()))  # in the same thread, after all that it had to do
    assert len(data.read_in) == read


def test_an_error_comes_up_at_its_place_and_the_thread_goes_on():
    def generate():
        yield 1.0
        raise ValueError("disk on fire")

    elements = elements_of(
        tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec(()))
    )
    assert float(next(elements)) == 1.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="disk on fire"):
        next(elements)

    count = len(READERS)
    assert list(elements_of(Elements())) == [0, 1, 2]
    assert len(READERS) == count


def test_a_thread_that_still_reads_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    has_ended = threading.Event()

    def generate():
        yield 1
        has_ended.wait(60)

    elements = elements_of(SimpleIterable(generate))
    next(elements)
    count = len(READERS)
    elements.close()

    assert len(READERS) == count  # the one that waits is none of them
    has_ended.set()


class SimpleIterable:
    def __init__(self, generate):
        self.generate = generate

    def __iter__(self):
        return self.generate()


def test_a_dataset_is_optimised_once_and_reads_ahead_in_no_thread_of_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(blocks, "elements_of", lambda data: seen.append(data) or iter([]))
    data = slices(X)

    for _ in range(2):
        list(blocks_of(data, 2))
        list(one_by_one(data))

    assert seen[0] is seen[2] and seen[1] is seen[3]
    assert all(d.options().experimental_optimization.inject_prefetch is False for d in seen)
