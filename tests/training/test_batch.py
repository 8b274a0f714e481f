import collections
import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras.training.batch import (
    Batch,
    Chunk,
    Signature,
    Stack,
    is_array,
    is_splatted,
    unpacked,
)

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8"]

X = np.arange(6.0).reshape(3, 2)
Y = np.arange(3)

Point = collections.namedtuple("Point", "x y")


def signature_of(item):
    return Batch(item, 0).signature


def arguments(item):
    """What the objective would be called with."""
    batch = Batch(item, 0)
    return unpacked(batch.structure, batch.tensors())


# --- Signatures -----------------------------------------------------------------------------------

DIFFERENT = [
    (X, Y), (X[:2], Y), (X.astype("f"), Y), (Y, X), ([X, Y],), {"x": X, "y": Y}, {"y": X, "x": Y},
    {"x": Y, "y": X}, (X,), (X, None), (X, Y, None), Point(X, Y), ((X, Y),), (), None, X[0], 1, 1.0,
    True, "text", tf.ragged.constant([[1], [2, 3]]), tf.sparse.from_dense([[0, 1]]),
]  # fmt: skip


def test_batches_are_of_one_signature_where_structure_types_and_shapes_agree():
    again = [
        (X + 1, Y), [(X[:2], Y)][0], (tf.constant(X, tf.float32), Y), (Y - 3, X), ([X * 2, Y],),
        {"x": X - 1, "y": Y}, {"y": X, "x": Y}, {"x": Y, "y": X}, (X * 3,), (X + 1, None),
        (X - 1, Y, None), Point(X + 1, Y), ((X, Y * 2),), (), None, X[1], 2, 3.0, False, "another",
        tf.ragged.constant([[1, 2], [3]]), tf.sparse.from_dense([[1, 1]]),
    ]  # fmt: skip
    signatures = list(map(signature_of, DIFFERENT))

    assert list(map(signature_of, again)) == signatures
    assert list(map(hash, map(signature_of, again))) == list(map(hash, signatures))
    assert len(set(signatures)) == len(DIFFERENT)
    assert signatures[0] != "float64 (3, 2), int64 (3,)"


def test_two_batches_are_alike_if_they_are_of_one_signature():
    items = [item for item in DIFFERENT if not isinstance(item, Point)]
    for (i, one), (j, other) in itertools.product(enumerate(items), repeat=2):
        assert Batch(one, 0).is_like(Batch(other, 1)) == (i == j)


def test_fields_within_make_a_batch_another():
    one, other = Batch({"x": Point(X, Y)}, 0), Batch({"x": (X, Y)}, 1)

    assert not one.is_like(other) and not other.is_like(one)


def test_arrays_among_tensors_are_stacked_as_they_are_now():
    array = np.zeros(2)
    batches = [Batch(tf.constant([5.0, 5.0], tf.float64), 0), Batch(array, 1)]
    stack = Stack(batches[0].signature, batches[0].leaves, 2)
    for batch in batches:
        stack.add(batch)
    array[:] = 7

    assert stack.chunk().tensors[0].numpy().tolist() == [[5.0, 5.0], [0.0, 0.0]]


def test_what_follows_a_batch_of_arrays_is_made_quickly_and_is_the_same():
    first = Batch((X, Y), 0)

    batch = first.following((X + 1, Y + 1))

    assert batch.is_like(Batch((X + 1, Y + 1), 1)) and not batch.is_live
    assert batch.signature == first.signature
    are = zip(batch.tensors(), (X + 1, Y + 1), strict=True)
    assert all(np.array_equal(tensor, array) for tensor, array in are)


@pytest.mark.parametrize("item", DIFFERENT[1:], ids=lambda item: f"{item!r:.30}")
def test_what_is_of_another_kind_does_not_follow(item):
    assert Batch((X, Y), 0).following(item) is None
    assert Batch(item, 0).following((X, Y)) is None


def test_an_array_of_another_byte_order_does_not_follow():
    assert Batch((X,), 0).following((X.astype(">f8"),)) is None


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ((X, Y), "float64 (3, 2), int64 (3,)"),
        ({"x": X.astype("f"), "y": (True, "text")}, "float32 (3, 2), bool (), string ()"),
        ((), "no tensors"),
        (None, "no tensors"),
        (tf.ragged.constant([[1], [2, 3]]), "int32 (2, None)"),
        (tf.sparse.from_dense([[0, 1]]), "int32 (1, 2)"),
    ],
)
def test_a_signature_prints_types_and_shapes(item, text):
    assert str(signature_of(item)) == text


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(3, 2)], (3, 2)),
        ([(3, 2), (3, 2)], (3, 2)),
        ([(3, 2), (4, 2)], (None, 2)),
        ([(3, 2), (4, 2), (5, 3)], (None, None)),
        ([(), ()], ()),
        ([(0, 1), (1, 0)], (None, None)),
    ],
)
def test_lengths_that_differ_are_left_open_in_what_covers_all(shapes, expected):
    signatures = [signature_of((np.zeros(shape), Y)) for shape in shapes]
    covering = Signature.covering(signatures)

    assert covering == Signature.covering(signatures[::-1])
    assert covering.specs == [tf.TensorSpec(expected, tf.float64), tf.TensorSpec((3,), tf.int64)]
    assert covering.is_static == (None not in expected)
    assert all(covering.covers(signature) for signature in signatures)
    assert covering.covers(covering)


@pytest.mark.parametrize(
    ("shapes", "other", "is_covered"),
    [
        ([(3, 2), (4, 2)], (5, 2), True),
        ([(3, 2), (4, 2)], (3, 3), False),
        ([(3, 2), (4, 3)], (0, 9), True),
        ([(3, 2)], (4, 2), False),
        ([()], (), True),
    ],
)
def test_what_is_compiled_with_open_lengths_covers_others(shapes, other, is_covered):
    covering = Signature.covering([signature_of(np.zeros(shape)) for shape in shapes])

    assert covering.covers(signature_of(np.zeros(other))) == is_covered


def test_signatures_of_a_family_differ_in_lengths_alone():
    family = signature_of((X, Y)).family

    assert signature_of((X[:1, :1], Y[:2])).family == family
    others = [s for s in map(signature_of, DIFFERENT) if s.family == family]
    assert others == [signature_of((X, Y)), signature_of((X[:2], Y))]
    assert len({hash(s.family) for s in map(signature_of, DIFFERENT)}) == len(DIFFERENT) - 1


def test_ragged_and_sparse_tensors_are_covered_as_they_are():
    ragged, sparse = tf.ragged.constant([[1], [2, 3]]), tf.sparse.from_dense([[0, 1]])
    signatures = [signature_of((ragged, sparse, X[:n])) for n in (2, 3)]

    covering = Signature.covering(signatures)

    assert covering.specs[:2] == [
        tf.type_spec_from_value(ragged),
        tf.type_spec_from_value(sparse),
    ]
    assert covering.specs[2].shape.as_list() == [None, 2]
    assert not covering.can_be_stacked and not covering.is_static


def test_another_length_of_every_first_axis():
    assert signature_of((X, {"y": Y})).with_first_axis(7) == signature_of(
        (np.zeros((7, 2)), {"y": np.zeros(7, int)})
    )


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ((X, Y), 6 * 8 + 3 * Y.itemsize),
        ((X.astype("f2"), True), 6 * 2 + 1),
        (X[:0], 0),
        (np.float32(1), 4),
        ((), 0),
        ((X, tf.sparse.from_dense([[0, 1]])), 6 * 8),
    ],
)
def test_the_size_of_a_batch_in_bytes(item, size):
    assert signature_of(item).bytes == size


def test_the_size_of_open_lengths_is_not_known():
    assert Signature.covering([signature_of((X, Y)), signature_of((X[:2], Y))]).bytes == 24


# --- An item as tensors ---------------------------------------------------------------------------

VALUES = [
    X, Y, X[0, 0], 1, 1.0, True, 1j, "text", b"bytes", [1, 2], [[1.0], [2.0]], [], ["a", "b"],
    np.float16([1, 2]), np.float32(1), np.int8([1]), np.uint16([1]), np.uint64([2**63]),
    np.array([True, False]), np.complex64([1j]), np.complex128([1j]), np.array(["a", "bc"]),
    np.array(5), np.zeros((0, 3)), np.zeros((2, 0)), X[::-1, ::-1], X.T, np.asfortranarray(X),
    np.broadcast_to(X[0], (4, 2)), X.astype(">f4"), Y.astype(">i2"), range(3),
    tf.constant([1, 2], tf.bfloat16), np.array(tf.constant([1, 2], tf.bfloat16)),
    tf.constant([1, 2], tf.float16), tf.constant("text"), tf.zeros((0, 3)), tf.Variable([1.0, 2.0]),
    keras.Variable([1.0, 2.0]),
]  # fmt: skip


def as_tensorflow_has_it(value):
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("="))  # TensorFlow has no other
    if isinstance(value, range):
        value = np.asarray(value)
    return tf.convert_to_tensor(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{type(v).__name__} {v!r:.20}")
def test_a_value_is_the_tensor_that_tensorflow_makes_of_it(value):
    (given,) = arguments((value,))

    expected = as_tensorflow_has_it(value)
    assert (given.dtype, given.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(given.numpy(), expected.numpy())


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{type(v).__name__} {v!r:.20}")
def test_values_are_stacked_with_a_new_first_axis(value):
    batches = [Batch((value, X + i), i) for i in range(3)]
    stack = Stack(batches[0].signature, batches[0].leaves, 5)
    for batch in batches:
        stack.add(batch)

    chunk = stack.chunk()

    expected = as_tensorflow_has_it(value)
    assert (chunk.count, chunk.stacked, chunk.signature) == (3, True, batches[0].signature)
    assert [t.dtype for t in chunk.tensors] == [expected.dtype, tf.float64]
    assert [tuple(t.shape) for t in chunk.tensors] == [(5, *expected.shape), (5, 3, 2)]
    for i, (v, x) in enumerate(chunk.batches()):
        np.testing.assert_array_equal(v.numpy(), expected.numpy())
        np.testing.assert_array_equal(x, X + i)


def test_a_tuple_is_the_arguments_and_anything_else_is_one():
    assert [is_splatted(v) for v in [(), (1,), [1], {}, Point(1, 2), X]] == [True] * 2 + [False] * 4
    assert len(arguments((X, Y))) == 2
    assert len(arguments([X, Y])) == 1


def test_the_structure_stays_with_tensors_in_place_of_the_parts():
    item = {"a": (X, [Y, None]), "b": Point(1, ()), "c": [[1, 2], [3, 4]], "d": {}}

    (given,) = arguments(item)

    assert list(given) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(given["a"][0], X)
    assert isinstance(given["a"][1], list) and given["a"][1][1] is None
    assert given["b"] == Point(1, ())
    np.testing.assert_array_equal(given["c"], [[1, 2], [3, 4]])
    assert given["d"] == {}


def test_tensors_pass_as_they_are():
    tensors = tf.constant(X), tf.ragged.constant([[1], [2, 3]]), tf.sparse.from_dense([[0, 1]])

    for given, tensor in zip(arguments(tensors), tensors, strict=True):
        assert given is tensor


def test_a_variable_is_read_when_it_is_the_batchs_turn():
    variable = tf.Variable([1.0, 2.0])
    batch = Batch(variable, 0)
    variable.assign([3.0, 4.0])

    assert batch.is_live
    np.testing.assert_array_equal(batch.tensors()[0], [3, 4])


@pytest.mark.parametrize(
    "bad",
    [
        np.array([1, "a", None], object),
        object(),
        [[1, 2], [3]],
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, np.longdouble),
        np.zeros(2, [("a", "f4")]),
        lambda: 1,
    ],
    ids=lambda bad: type(bad).__name__,
)
@pytest.mark.parametrize(
    ("item", "path"),
    [
        (lambda bad: ({"x": bad}, Y), "[0]['x']"),
        (lambda bad: (X, [Y, (bad,)]), "[1][1][0]"),
        (lambda bad: bad, "[0]"),
        (lambda bad: Point(X, bad), "[0][1]"),
    ],
)
def test_what_no_tensor_can_hold_is_refused_with_its_place(bad, item, path):
    if isinstance(bad, list):
        kind = "a list"
    else:
        dtype = f" of dtype {bad.dtype}" if isinstance(bad, np.ndarray) else ""
        kind = f"a {type(bad).__name__}{dtype}"

    with pytest.raises(
        TypeError,
        match="^" + re.escape(f"train cannot make a tensor of batch 1{path}, {kind}: "),
    ) as caught:
        Batch(item(bad), 1)

    assert str(caught.value).endswith(
        "Convert it before, for example with np.asarray(…, dtype='float32')."
    )


def test_masked_elements_are_to_be_filled():
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    message = (
        "train cannot make a tensor of batch 3[1], a MaskedArray of dtype float64: some of its "
        "elements are masked, and a tensor can mask none. Convert it before, for example with "
        ".filled(0)."
    )

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Batch((X, masked), 3)


@pytest.mark.parametrize("mask", [False, [False, False]])
def test_an_array_in_which_nothing_is_masked_is_an_array(mask):
    (tensor,) = Batch(np.ma.masked_array([1.0, 2.0], mask), 0).tensors()

    assert tensor.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [*DTYPES, ">f4", ">i8", "c16"])
@pytest.mark.parametrize("in_chunk", [False, True])
def test_only_own_memory_is_shared_not_the_users(dtype, in_chunk):
    x = np.ones((4, 2), dtype)
    batch = Batch(x, 0)
    if in_chunk:
        stack = Stack(batch.signature, batch.leaves, 2)
        stack.add(batch)
        (tensors,) = stack.chunk().batches()
    else:
        tensors = batch.tensors()

    x[...] = 0

    np.testing.assert_array_equal(tensors[0], np.ones((4, 2)))


def test_an_array_is_copied_when_it_is_wanted_not_before():
    x = np.ones(3)
    batch = Batch(x, 0)
    x[...] = 2

    np.testing.assert_array_equal(batch.tensors()[0], [2, 2, 2])


def test_arrays_of_small_numbers_are_copied_as_bytes_and_others_by_tensorflow():
    assert all(is_array(np.zeros(2, dtype)) for dtype in DTYPES)
    for value in np.zeros(2, "c16"), np.zeros(2, "U3"), np.zeros(2, "M8[s]"), 1.0, tf.zeros(2):
        assert not is_array(value)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_chunk_of_a_single_row_gives_it_again_and_again(rows):
    tensor = tf.reshape(tf.range(rows * 2), (rows, 2))
    chunk = Chunk(signature_of(np.zeros(2, "i4")), (tensor,), 3, stacked=True)

    given = [t.numpy().tolist() for (t,) in chunk.batches()]

    assert given == [[0, 1]] * 3 if rows == 1 else [[0, 1], [2, 3], [4, 5]]


def test_a_chunk_that_is_not_stacked_is_its_batch():
    tensors = tf.constant(X), tf.sparse.from_dense([[0, 1]])
    chunk = Chunk(signature_of(tensors), tensors, 1, stacked=False)

    ((x, sparse),) = chunk.batches()

    assert x is tensors[0] and sparse is tensors[1]
