import collections
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import repeated
from fluxkeras.training.feed import batches, length, unpacked

X = np.arange(6.0).reshape(3, 2)
Y = np.arange(3)

Point = collections.namedtuple("Point", "x y")


class Squares(keras.utils.PyDataset):
    epochs_begun = epochs_ended = 0

    def on_epoch_begin(self):
        self.epochs_begun += 1

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return np.full(2, i), np.full(1, i**2)

    def on_epoch_end(self):
        self.epochs_ended += 1


def arguments(data):
    """What the objective would be called with, in NumPy, for each batch."""
    return [
        tf.nest.map_structure(
            lambda t: t if t is None else t.numpy(), unpacked(b.structure, b.tensors)
        )
        for b in batches(data)
    ]


def generator():
    yield from zip(X, Y)


@pytest.mark.parametrize(
    "data",
    [
        list(zip(X, Y)),
        zip(X, Y),
        generator(),
        tuple(zip(X, Y)),
        tf.data.Dataset.from_tensor_slices((X, Y)),
        iter(tf.data.Dataset.from_tensor_slices((X, Y))),
        map(lambda i: (X[i], Y[i]), range(3)),
        collections.deque(zip(X, Y)),
        [(X[i].tolist(), int(Y[i])) for i in range(3)],
        [(tf.constant(X[i]), tf.Variable(Y[i])) for i in range(3)],
        [(keras.ops.convert_to_tensor(X[i]), keras.Variable(Y[i])) for i in range(3)],
    ],
    ids=lambda data: type(data).__name__,
)
def test_a_tuple_is_splatted_from_any_iterable(data):
    given = arguments(data)

    assert len(given) == 3
    for (x, y), expected_x, expected_y in zip(given, X, Y, strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


@pytest.mark.parametrize("data", [X, tf.constant(X), list(X), X.tolist(), iter(X)])
def test_a_row_that_is_no_tuple_is_passed_whole(data):
    given = arguments(data)

    assert [len(a) for a in given] == [1, 1, 1]
    np.testing.assert_array_equal([a[0] for a in given], X)


def test_dicts_lists_and_named_tuples_are_passed_whole_with_their_parts_as_tensors():
    ((d,), (pair,), (point,)) = arguments([{"a": X, "b": {"c": 1}}, [X, Y], Point(X, (Y, None))])

    np.testing.assert_array_equal(d["a"], X)
    assert d["b"]["c"] == 1
    assert isinstance(pair, list)
    np.testing.assert_array_equal(pair[1], Y)
    assert isinstance(point, Point)
    np.testing.assert_array_equal(point.y[0], Y)
    assert point.y[1] is None


def test_an_empty_tuple_is_a_batch_without_arguments():
    assert arguments(repeated((), 2)) == [(), ()]


def test_dtypes_are_kept_and_python_numbers_take_tensorflows():
    (batch,) = batches([(X, Y, np.uint8(3), np.float16(1), 1, 1.0, True, "text")])

    assert [t.dtype for t in batch.tensors] == [
        tf.float64, tf.int64, tf.uint8, tf.float16, tf.int32, tf.float32, tf.bool, tf.string,
    ]  # fmt: skip


def test_ragged_and_sparse_tensors_pass_as_they_are():
    ragged, sparse = tf.ragged.constant([[1], [2, 3]]), tf.sparse.from_dense([[0, 1]])

    (batch,) = batches([(ragged, sparse)])

    assert batch.tensors[0] is ragged and batch.tensors[1] is sparse


def test_read_only_and_strided_arrays_are_taken():
    strided = np.arange(10.0)[::3]
    strided.flags.writeable = False

    ((x,),) = arguments([(strided,)])

    np.testing.assert_array_equal(x, [0, 3, 6, 9])


def test_a_py_dataset_is_gone_through_once_and_told_so():
    data = Squares()

    given = arguments(data)

    np.testing.assert_array_equal([y for _, y in given], [[0], [1], [4]])
    assert (data.epochs_begun, data.epochs_ended) == (1, 1)


def test_an_item_is_asked_for_only_when_it_is_wanted():
    asked = []

    def source():
        for i in range(3):
            asked.append(i)
            yield i

    items = batches(source())
    for i in range(3):
        next(items)
        assert asked == list(range(i + 1))


def test_batches_of_one_signature_share_it_and_others_do_not():
    same = [b.signature() for b in batches([(X, Y), (X + 1, Y)])]
    others = [(X, Y), (X[:2], Y), (X.astype("f"), Y), (Y, X), ([X, Y],), {"x": X, "y": Y}, (X,)]
    signatures = {b.signature() for b in batches(others)}

    assert same[0] == same[1]
    assert len(signatures) == len(others)


def test_a_batch_prints_types_and_shapes():
    (batch,) = batches([(X, Y)])

    assert str(batch) == "float64 (3, 2), int64 (3,)"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([1, 2], 2),
        (repeated(1, 5), 5),
        (repeated(1), None),
        (zip([1]), None),
        (Squares(), 3),
        (tf.data.Dataset.range(7), 7),
        (tf.data.Dataset.range(7).repeat(), None),
    ],
)
def test_the_length_is_told_where_it_is_known(data, expected):
    assert length(data) == expected


@pytest.mark.parametrize("data", [[], (), X[:0], repeated(1, 0), tf.data.Dataset.range(0)])
def test_empty_data_is_refused(data):
    message = f"train got no batch: the data, a {type(data).__name__}, is empty."

    with pytest.raises(ValueError, match=re.escape(message)):
        list(batches(data))


@pytest.mark.parametrize("data", [zip(X, Y), generator(), iter([1])])
def test_exhausted_data_is_told_from_empty_data(data):
    list(data)
    kind = type(data).__name__

    with pytest.raises(ValueError, match=f"this {kind} is exhausted, since a {kind} can be gone"):
        list(batches(data))


@pytest.mark.parametrize("data", [3, None, {"x": X}, "text"])
def test_data_that_is_no_iterable_of_batches_is_refused(data):
    message = f"train expects data to be an iterable of batches, got {type(data).__name__}."

    with pytest.raises(TypeError, match=message):
        list(batches(data))


@pytest.mark.parametrize("bad", [np.array([1, "a", None], object), object(), [[1, 2], [3]]])
def test_what_no_tensor_can_hold_is_refused_with_its_place(bad):
    with pytest.raises(TypeError, match=r"cannot make a tensor of batch 1\[0\]\['x'\]"):
        list(batches([(X, Y), ({"x": bad}, Y)]))


def test_an_error_in_the_data_keeps_its_type_and_tells_the_batch():
    def source():
        yield 1
        yield 2
        raise OverflowError("disk on fire")

    with pytest.raises(OverflowError, match="while the data was asked for batch 2: disk on fire"):
        list(batches(source()))
