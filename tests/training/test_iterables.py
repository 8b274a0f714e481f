"""What is known of data; `test_feed.py` holds what comes of going through them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import DataLoader, prefetch, repeated
from fluxkeras.training.iterables import length

X = np.arange(6.0).reshape(3, 2)


class Three(keras.utils.PyDataset):
    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([1, 2], 2),
        (repeated(1, 5), 5),
        (repeated(1), None),
        (zip([1]), None),
        (Three(), 3),
        (tf.data.Dataset.range(7), 7),
        (tf.data.Dataset.range(7).repeat(), None),
        (DataLoader(X, 2), 2),
        (prefetch([1, 2], 1), 2),
        (prefetch(iter([1]), 1), None),
    ],
)
def test_the_length_is_told_where_it_is_known(data, expected):
    assert length(data) == expected
