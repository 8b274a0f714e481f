"""The elements of a dataset of TensorFlow's in blocks; `test_feed.py` holds what comes of them."""

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras.training.batch import Batch
from fluxkeras.training.blocks import BLOCK_BATCHES, BLOCK_BYTES, Block, block_size, blocks_of

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
        (tf.data.Dataset.range(5), BLOCK_BATCHES),
        (tf.data.Dataset.range(5).filter(lambda i: i > 0), 0),
        (slices(["text"]), 0),
        (slices(tf.ragged.constant([[1], [2, 3]])), 0),
        (slices(np.zeros((2, BLOCK_BYTES // 10), "u1")), 10),
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


@pytest.mark.parametrize("n", [1, 300])
def test_the_size_of_a_block_is_mended_once_elements_were_seen(n):
    data = slices(np.zeros((4 * n, 1000), "f")).batch(n)
    first = block_size(data)
    for _ in blocks_of(data, first):
        pass

    again = block_size(data)
    assert again == max(1, min(BLOCK_BATCHES, BLOCK_BYTES // (n * 4000)))
    taken = [block.take(block.left) for block in blocks_of(data, again)]
    assert [len(rows[0]) for rows in taken] == [again] * (4 // again) or n == 1
    assert sum(len(rows[0]) for rows in taken) == 4
    assert all(rows[0].shape[1:] == (n, 1000) for rows in taken)
