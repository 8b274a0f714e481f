import collections
import functools
import itertools
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxkeras import DataLoader, Dense, param, prefetch, repeated
from fluxkeras.training import feed as feed_module
from fluxkeras.training.ahead import PATIENCE, Beside, Reader, Sent
from fluxkeras.training.batch import unpacked
from fluxkeras.training.blocks import BLOCK_BATCHES, blocks_of
from fluxkeras.training.feed import feed_of

X = np.arange(6.0).reshape(3, 2)
Y = np.arange(3)

Point = collections.namedtuple("Point", "x y")

# How a feed is gone through: how many steps a chunk, in memory with room for how many.
WAYS = [(1, None), (1, 4), (2, 4), (3, 100), (100, 100)]


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


class Listed(list):
    pass


class Iterated:
    def __iter__(self):
        yield from zip(X, Y)


class Indexed:
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[i], Y[i]


def generator():
    yield from zip(X, Y)


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch):
    monkeypatch.setattr(Reader, "patience", math.inf)


@pytest.fixture(params=WAYS, ids=lambda way: "{} of {}".format(*way))
def way(request):
    return request.param


def chunks(feed, steps=1, room=None):
    while (signature := feed.peek()) is not None:
        chunk = feed.take(signature, steps, room)
        assert chunk.signature == signature and 1 <= chunk.count <= steps
        yield chunk


def in_chunk(chunk):
    """What the objective would be called with for each batch of a chunk, in NumPy."""
    return [
        tf.nest.map_structure(in_numpy, unpacked(chunk.signature.structure, tensors))
        for tensors in chunk.batches()
    ]


def in_numpy(value):
    if isinstance(value, tf.SparseTensor):
        return tf.sparse.to_dense(value).numpy()
    if isinstance(value, tf.RaggedTensor):
        return value.to_list()
    return None if value is None else value.numpy()


def arguments(data, way=(1, None)):
    """What the objective would be called with, in NumPy, for each batch."""
    return [batch for chunk in chunks(feed_of(data), *way) for batch in in_chunk(chunk)]


def iterated(data):
    """The same by a Python loop over tensors."""
    return [
        tf.nest.map_structure(in_numpy, item if isinstance(item, tuple) else (item,))
        for item in data
    ]


def are_equal(given, expected):
    def check(value, wanted):
        assert np.asarray(value).dtype == np.asarray(wanted).dtype
        assert np.shape(value) == np.shape(wanted)
        np.testing.assert_array_equal(value, wanted)

    assert len(given) == len(expected)
    for item, wanted in zip(given, expected, strict=True):
        tf.nest.map_structure(check, item, wanted)


# --- Any iterable, in any chunks, gives the same batches ------------------------------------------

DATA = {
    "list": lambda: list(zip(X, Y)),
    "zip": lambda: zip(X, Y),
    "generator": generator,
    "tuple": lambda: tuple(zip(X, Y)),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
    "tf.data iterator": lambda: iter(tf.data.Dataset.from_tensor_slices((X, Y))),
    "map": lambda: map(lambda i: (X[i], Y[i]), range(3)),
    "deque": lambda: collections.deque(zip(X, Y)),
    "views": lambda: dict(enumerate(zip(X, Y))).values(),
    "numbers": lambda: [(X[i].tolist(), int(Y[i])) for i in range(3)],
    "tensors": lambda: [(tf.constant(X[i]), tf.Variable(Y[i])) for i in range(3)],
    "keras": lambda: [(keras.ops.convert_to_tensor(X[i]), keras.Variable(Y[i])) for i in range(3)],
    "list subclass": lambda: Listed(zip(X, Y)),
    "__iter__": Iterated,
    "__getitem__": lambda: iter(Indexed()),
    "prefetch": lambda: prefetch(generator(), 2),
}


@pytest.mark.parametrize("kind", DATA)
def test_a_tuple_is_splatted_from_any_iterable(kind, way):
    given = arguments(DATA[kind](), way)

    assert len(given) == 3
    for (x, y), expected_x, expected_y in zip(given, X, Y, strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: X,
        lambda: tf.constant(X),
        lambda: list(X),
        X.tolist,
        lambda: iter(X),
        lambda: DataLoader(X),
    ],
)
def test_a_row_that_is_no_tuple_is_passed_whole(make, way):
    given = arguments(make(), way)

    assert [len(a) for a in given] == [1, 1, 1]
    np.testing.assert_array_equal([a[0].ravel() for a in given], X)


def test_dicts_lists_and_named_tuples_are_passed_whole_with_their_parts_as_tensors(way):
    items = [{"a": X, "b": {"c": 1}}, [X, Y], Point(X, (Y, None))]
    ((d,), (pair,), (point,)) = arguments(items, way)

    np.testing.assert_array_equal(d["a"], X)
    assert d["b"]["c"] == 1
    assert isinstance(pair, list)
    np.testing.assert_array_equal(pair[1], Y)
    assert isinstance(point, Point)
    np.testing.assert_array_equal(point.y[0], Y)
    assert point.y[1] is None


def test_an_empty_tuple_is_a_batch_without_arguments(way):
    assert arguments(repeated((), 2), way) == [(), ()]
    assert arguments([(), ()], way) == [(), ()]


def test_dtypes_are_kept_and_python_numbers_take_tensorflows(way):
    item = X, Y, np.uint8(3), np.float16(1), 1, 1.0, True, "text"
    (chunk,) = chunks(feed_of([item]), *way)

    assert [t.dtype for t in chunk.tensors] == [
        tf.float64, tf.int64, tf.uint8, tf.float16, tf.int32, tf.float32, tf.bool, tf.string,
    ]  # fmt: skip


def test_ragged_and_sparse_tensors_pass_as_they_are(way):
    ragged, sparse = tf.ragged.constant([[1], [2, 3]]), tf.sparse.from_dense([[0, 1]])

    first, second = chunks(feed_of([(ragged, sparse)] * 2), *way)

    for chunk in first, second:
        assert not chunk.stacked
        assert chunk.tensors[0] is ragged and chunk.tensors[1] is sparse


def test_read_only_and_strided_arrays_are_taken(way):
    strided = np.arange(10.0)[::3]
    strided.flags.writeable = False

    ((x,),) = arguments([(strided,)], way)

    np.testing.assert_array_equal(x, [0, 3, 6, 9])


def test_a_py_dataset_is_gone_through_once_and_told_so(way):
    data = Squares()

    given = arguments(data, way)

    np.testing.assert_array_equal([y for _, y in given], [[0], [1], [4]])
    assert (data.epochs_begun, data.epochs_ended) == (1, 1)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=5),
)
def test_chunks_of_changing_lengths_give_the_same_items(lengths, ways):
    data = [(np.full(n, i), i) for i, n in enumerate(lengths)]
    feed, given, ways = feed_of(data), [], itertools.cycle(ways)

    while (signature := feed.peek()) is not None:
        given += in_chunk(feed.take(signature, *next(ways)))

    assert [i for _, i in given] == list(range(len(data)))
    for x, i in given:
        np.testing.assert_array_equal(x, np.full(lengths[i], i))


@pytest.mark.parametrize(
    "odd",
    [(X[:2], Y), (X.astype("f"), Y), ([X, Y],), {"x": X, "y": Y}, (X,), (X, None), (X.tolist(), Y)],
    ids=["shape", "dtype", "list", "dict", "fewer", "None", "float32"],
)
def test_a_batch_of_another_signature_begins_the_next_chunk(odd):
    data = [(X, Y), (X + 1, Y), odd, odd, (X, Y)]

    feed = feed_of(data)
    found = list(chunks(feed, 100, 100))

    assert [chunk.count for chunk in found] == [2, 2, 1]
    are_equal([b for chunk in found for b in in_chunk(chunk)], arguments(data))
    assert feed.peek() is None


def test_batches_of_one_signature_share_it():
    feed = feed_of([X, X + 1])
    first = feed.peek()
    feed.take(first, 1, None)

    assert feed.peek() is first


def test_memory_is_for_as_many_batches_as_there_is_room_for(way):
    steps, room = way
    (chunk, *_) = chunks(feed_of([(X, True, "text", Y)] * 9), *way)

    assert chunk.count == min(steps, 9)
    assert chunk.stacked == (room is not None)
    axes = (room,) if room else ()
    assert [tuple(t.shape) for t in chunk.tensors] == [(*axes, *s) for s in ((3, 2), (), (), (3,))]


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def test_a_chunk_goes_with_the_batches_that_there_are_when_data_is_slow(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(feed_module, "time", clock)
    monkeypatch.setattr(Reader, "patience", PATIENCE)

    def slow(i):
        clock.now += 0.4 * PATIENCE
        return np.int32(i)

    found = list(chunks(feed_of(map(slow, range(10))), 100, 100))

    assert [chunk.count for chunk in found] == [4, 4, 2]  # 3 * 0.4 is more than 1
    assert [i for chunk in found for (i,) in in_chunk(chunk)] == list(range(10))


# --- What may depend on the model is not read ahead -----------------------------------------------


@pytest.mark.parametrize("way", [(1, None), (1, 4)])
def test_an_item_is_asked_for_only_when_it_is_wanted(way):
    asked = []

    def source():
        for i in range(3):
            asked.append(i)
            yield i

    for i, _ in enumerate(chunks(feed_of(source()), *way)):
        assert asked == list(range(i + 1))


layer, number = Dense(2, 2), param(2.0)


class Scaled:
    def __init__(self):
        self.scale = tf.Variable(2.0)

    def by(self, x):
        return self.scale * x


def multiplied_by(factor):
    return lambda x: factor * x


OPAQUE = {
    "generator": generator,
    "list subclass": lambda: Listed(X),
    "its iterator": lambda: iter(Listed(X)),
    "__iter__": Iterated,
    "__getitem__": Indexed,
    "iter of __getitem__": lambda: iter(Indexed()),
    "reversed __getitem__": lambda: reversed(Indexed()),
    "zip": lambda: zip(X, generator()),
    "map": lambda: map(np.square, (x for x in X)),
    "enumerate": lambda: enumerate(generator()),
    "nested": lambda: enumerate(zip(X, map(np.square, Iterated()))),
    "filter": lambda: filter(None, [1, 2]),
    "islice": lambda: itertools.islice(generator(), 2),
    "map of a layer": lambda: map(layer, list(X)),
    "map of a global layer": lambda: map(lambda x: layer(x[None]), X),
    "map of a global number": lambda: map(lambda x: x * number, X),
    "map of a closure": lambda: map(multiplied_by(tf.Variable(2.0)), X),
    "map of a default": lambda: map(lambda x, w=number: x * w, X),
    "map of a bound method": lambda: map(Scaled().by, X),
    "map of a layer's method": lambda: map(layer.call, X),
    "map of a partial": lambda: map(functools.partial(np.multiply, number), X),
    "map of a module": lambda: map(multiplied_by(tf.Module()), X),
    "zip of a map": lambda: zip(Y, map(lambda x: x * number, X)),
}


@pytest.mark.parametrize("kind", OPAQUE)
def test_one_item_at_a_time_is_read_of_what_may_depend_on_the_model(kind):
    assert feed_of(OPAQUE[kind]()).most == 1


INDEPENDENT = {
    "list": lambda: [X],
    "tuple": lambda: (X,),
    "set": lambda: {1, 2},
    "range": lambda: range(3),
    "ndarray": lambda: X,
    "tensor": lambda: tf.constant(X),
    "keys": {1: X}.keys,
    "values": {1: X}.values,
    "items": {1: X}.items,
    "deque": lambda: collections.deque(X),
    "repeated": lambda: repeated(X),
    "repeat": lambda: itertools.repeat(X),
    "DataLoader": lambda: DataLoader(X),
    "DataLoader of texts": lambda: DataLoader(np.array(["a", "b"])),
    "PyDataset": Squares,
    "tf.data": lambda: tf.data.Dataset.range(3),
    "tf.data of unknown length": lambda: tf.data.Dataset.range(3).filter(lambda i: i > 0),
}
WITHIN = {
    "itself": lambda data: data,
    "zip": lambda data: zip(data, range(9)),
    "map": lambda data: map(np.shape, data),
    "enumerate": enumerate,
    "iter": iter,
    "all of them": lambda data: map(lambda pair: pair, zip(iter(enumerate(data, 2**70)), X)),
}


NOT_SEEN_WITHIN = ["PyDataset", "tensor"]  # whose iterators do not show what they are of


@pytest.mark.parametrize(
    ("kind", "within"),
    [
        (kind, within)
        for kind in INDEPENDENT
        for within in WITHIN
        if kind not in NOT_SEEN_WITHIN or within == "itself"
    ],
)
def test_any_number_is_read_of_what_cannot_depend_on_the_model(kind, within):
    assert feed_of(WITHIN[within](INDEPENDENT[kind]())).most == math.inf


@pytest.mark.parametrize(
    "data", [[1], (1,), range(3), range(2**70), X, {1: 2}.values(), collections.deque([1])]
)
def test_any_number_is_read_of_what_is_reversed(data):
    assert feed_of(reversed(data)).most == math.inf


def test_prefetch_tells_how_many_may_be_read():
    assert feed_of(prefetch(generator(), 3)).most == 3


def test_a_map_whose_function_is_of_arrays_alone_is_read_ahead():
    mean = X.mean(0)

    assert feed_of(map(lambda x: x - mean + np.sqrt(len(Y)), X)).most == math.inf


def filled_again():
    """A source that gives the same array each time, with other numbers."""
    buffer = np.zeros(2)
    for i in range(7):
        buffer[:] = i
        yield buffer, i


@pytest.mark.parametrize(
    "data",
    [filled_again, lambda: map(lambda item: item, filled_again()), lambda: zip(filled_again())],
)
def test_an_array_that_is_filled_again_gives_the_values_of_the_time(data, way):
    given = arguments(data(), way)

    np.testing.assert_array_equal(
        [tf.nest.flatten(batch)[0] for batch in given], np.outer(range(7), [1, 1])
    )


@pytest.mark.parametrize("n", [1, 3, 10])
def test_prefetch_gives_the_values_of_the_time(n, way):
    given = arguments(prefetch(filled_again(), n), way)

    np.testing.assert_array_equal([x for x, _ in given], np.outer(range(7), [1, 1]))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i4", "u1", "?", "c8", "c16", ">f4", "U3"])
@pytest.mark.parametrize("source", ["list", "repeated", "DataLoader"])
def test_later_changes_of_an_array_do_not_reach_its_tensor(dtype, source, way):
    x = np.ones((3, 2), dtype)
    before = x.astype(x.dtype.newbyteorder("=")).tolist()
    data = {"list": [x] * 3, "repeated": repeated(x, 3), "DataLoader": DataLoader(x, 3)}[source]
    (chunk, *_) = chunks(feed_of(data), *way)

    x[:] = 0

    ((given,), *_) = in_chunk(chunk)
    texts = np.char.decode(given.astype("S")).tolist() if dtype == "U3" else given.tolist()
    assert texts == before


# --- DataLoader -----------------------------------------------------------------------------------

SAMPLES = 11
ARRAYS = {
    "float64": lambda a: a,
    "float32": lambda a: a.astype("f4"),
    "float16": lambda a: a.astype("f2"),
    "big-endian float32": lambda a: a.astype(">f4"),
    "big-endian int64": lambda a: a.astype(">i8"),
    "uint8": lambda a: a.astype("u1"),
    "bool": lambda a: a % 2 == 0,
    "complex64": lambda a: (a * 1j).astype("c8"),
    "complex128": lambda a: a * 1j,
    "text": lambda a: a.astype(str),
    "columns reversed": lambda a: a[:, ::-1],
    "every other sample": lambda a: np.repeat(a, 2, 0)[::2],
    "Fortran order": np.asfortranarray,
    "read-only": lambda a: np.broadcast_to(a[:, :, None], (*a.shape, 2)),
    "numbers": lambda a: a[:, 0],
    "of no size": lambda a: a[:, :0],
    "tensor": tf.constant,
    "tuple": lambda a: (a, a[:, 0] > 2),
    "dict": lambda a: {"x": a, "y": {"z": a.astype("i4")}},
    "nested": lambda a: ({"x": [a, a[:, 0]]}, Point(a + 1, (a + 2,))),
    "one text": lambda a: (a, a[:, 0].astype(str)),
}


@pytest.mark.parametrize(
    "options", [{}, {"partial": False}, {"shuffle": True}, {"shuffle": True, "partial": False}]
)
@pytest.mark.parametrize("kind", ARRAYS)
def test_chunks_of_a_data_loader_are_its_batches(kind, options, way):
    data = ARRAYS[kind](np.arange(2.0 * SAMPLES).reshape(SAMPLES, 2))

    given = arguments(DataLoader(data, 2, rng=3, **options), way)

    are_equal(given, arguments(list(DataLoader(data, 2, rng=3, **options))))
    assert len(given) == SAMPLES // 2 + options.get("partial", True)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}])
def test_every_epoch_of_a_data_loader_has_an_order_of_its_own(options, way):
    ours, theirs = (DataLoader(np.arange(64), 8, rng=3, **options) for _ in range(2))

    epochs = [arguments(ours, way) for _ in range(3)]

    for epoch in epochs:
        are_equal(epoch, arguments(list(theirs)))
    assert np.array_equal(epochs[0], epochs[1]) == (not options)


def test_the_last_smaller_batch_is_a_chunk_of_its_own():
    found = list(chunks(feed_of(DataLoader(np.arange(11), 2)), 3, 4))

    assert [chunk.count for chunk in found] == [3, 2, 1]
    assert [tuple(chunk.tensors[0].shape) for chunk in found] == [(4, 2), (4, 2), (1,)]
    assert [chunk.stacked for chunk in found] == [True, True, False]


def test_a_data_loader_with_fewer_samples_than_a_batch_gives_those(way):
    ((x,),) = arguments(DataLoader(np.arange(3), 100), way)

    np.testing.assert_array_equal(x, np.arange(3))


# --- repeated -------------------------------------------------------------------------------------


def test_repeated_gives_a_single_row_and_the_count():
    feed = feed_of(repeated((X, Y), 7))
    found = list(chunks(feed, 3, 4))

    assert feed.is_same
    assert [chunk.count for chunk in found] == [3, 3, 1]
    for chunk in found:
        assert [tuple(t.shape) for t in chunk.tensors] == [(1, 3, 2), (1, 3)]
        are_equal(in_chunk(chunk), [(X, Y)] * chunk.count)


def test_repeated_without_end_goes_on():
    feed = feed_of(repeated(X))
    for chunk in itertools.islice(chunks(feed, 10**6, 100), 100):
        assert chunk.count == 10**6
    assert feed.peek() is not None


def test_repeated_ragged_tensors_come_one_by_one(way):
    ragged = tf.ragged.constant([[1], [2, 3]])

    assert arguments(repeated(ragged, 3), way) == [(ragged.to_list(),)] * 3


# --- tf.data --------------------------------------------------------------------------------------


def of_shapes(*shapes, signature, known=True):
    """A dataset of arrays of some shapes, that tells another one of all."""
    data = tf.data.Dataset.from_generator(
        lambda: (np.arange(math.prod(s), dtype="f4").reshape(s) for s in shapes),
        output_signature=tf.TensorSpec(signature),
    )
    known_length = tf.data.experimental.assert_cardinality(len(shapes))
    return data.apply(known_length) if known else data


def rows_of(rows):
    return tf.data.Dataset.from_generator(
        lambda: rows, output_signature=tf.TensorSpec((None,))
    ).apply(tf.data.experimental.assert_cardinality(len(rows)))


slices = tf.data.Dataset.from_tensor_slices

DATASETS = {
    "scalars": lambda: tf.data.Dataset.range(10),
    "many": lambda: tf.data.Dataset.range(500).batch(3),
    "large": lambda: slices(np.arange(3 * 2**19, dtype="f8").reshape(3, -1)),
    "dict": lambda: slices({"a": np.arange(6).reshape(3, 2), "b": {"c": [1.0, 2.0, 3.0]}}),
    "nested": lambda: slices((np.arange(3), {"c": [1.0, 2.0, 3.0]}, (X, Y))),
    "None": lambda: tf.data.Dataset.range(3).map(lambda i: (i, None)),
    "bool": lambda: slices([True, False]),
    "complex": lambda: slices(np.arange(3) * (1 + 2j)),
    "text": lambda: slices((["a", "bc", ""], Y)),
    "bfloat16": lambda: slices(tf.constant([1, 2], tf.bfloat16)),
    "ragged": lambda: slices(tf.ragged.constant([[1], [2, 3], []])),
    "sparse": lambda: slices(tf.sparse.from_dense([[0, 1], [1, 0]])),
    "of no size": lambda: slices(np.zeros((3, 0))),
    "smaller last": lambda: slices((X, Y)).batch(2),
    "known first": lambda: slices((X, Y)).batch(2, drop_remainder=True),
    "first unknown": lambda: of_shapes((2, 3), (1, 3), (0, 3), (4, 3), signature=(None, 3)),
    "all empty": lambda: of_shapes((0,), (0,), signature=(None,)),
    "two unknown": lambda: of_shapes((2, 3), (1, 2), (1, 0), (4, 1), signature=(None, None)),
    "inner unknown": lambda: of_shapes((2, 3, 2), (2, 1, 2), signature=(2, None, 2)),
    "outer unknown": lambda: of_shapes((2, 3, 2), (1, 3, 4), signature=(None, 3, None)),
    "runs": lambda: of_shapes(
        *[(n, 2) for n in [3] * 70 + [0, 0, 5] + [3] * 70], signature=(None, 2)
    ),
    "two unknown, none empty": lambda: of_shapes((2, 3), (1, 2), (5, 2), signature=(None, None)),
    "of unknown size": lambda: of_shapes((2, 0), (3, 0), signature=(None, 0)),
    "zeros and ones": lambda: rows_of([[0.0, 0.0], [1.0], [], [0.0, 1.0, np.nan], [np.nan]]),
    "smaller last bool": lambda: slices([True, False, True, True, False]).batch(2),
    "smaller last, one of them": lambda: slices({"x": X, "y": (Y, Y * 1j)}).batch(2),
    "smaller last, in one argument": lambda: slices(X).batch(2),
    "unknown rank": lambda: of_shapes((2, 3), (2,), (2, 3), signature=None),
    "unknown and scalar": lambda: tf.data.Dataset.zip(
        (of_shapes((2,), (1,), (2,), signature=(None,)), tf.data.Dataset.range(3))
    ),
    "unknown cardinality": lambda: of_shapes(
        (2, 3), (2, 3), (1, 3), signature=(None, 3), known=False
    ),
    "filter": lambda: tf.data.Dataset.range(20).filter(lambda i: i % 3 == 0),
    "shuffled": lambda: tf.data.Dataset.range(100).shuffle(
        10, seed=1, reshuffle_each_iteration=False
    ),
    "infinite, then few": lambda: tf.data.Dataset.range(3).repeat().take(100),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_a_dataset_gives_the_elements_that_iterating_it_gives(kind, way):
    data = DATASETS[kind]()

    are_equal(arguments(data, way), iterated(data))


@pytest.mark.parametrize("size", [3, 64, 100])
@pytest.mark.parametrize("drop", [True, False])
def test_a_chunk_goes_over_the_ends_of_blocks(size, drop):
    data = slices(np.arange(2 * 500 + 1)).batch(2, drop_remainder=drop)

    found = list(chunks(feed_of(data), size, 128))

    last = [500 % size] * bool(500 % size) + [1] * (not drop)
    assert [chunk.count for chunk in found] == [size] * (500 // size) + last
    are_equal([b for chunk in found for b in in_chunk(chunk)], iterated(data))


def test_a_large_block_is_trained_on_where_it_lies(monkeypatch):
    data, wholes = slices(np.random.rand(400, 2**13)), []
    monkeypatch.setattr(
        "fluxkeras.training.feed.blocks_of",
        lambda *given: (wholes.append(block.whole) or block for block in blocks_of(*given)),
    )
    feed = feed_of(data)
    assert feed.together == BLOCK_BATCHES

    found = list(chunks(feed, feed.together, room=feed.together))

    assert [chunk.count for chunk in found] == [64] * 6 + [16]
    assert all(c.tensors[0] is whole[0] for c, whole in zip(found[:6], wholes, strict=False))
    assert found[6].tensors[0].shape[0] == 64  # what XLA is compiled for
    are_equal([b for chunk in found for b in in_chunk(chunk)], iterated(data))


@pytest.mark.parametrize("known", [True, False])
def test_an_error_in_a_dataset_comes_up_after_the_blocks_before_it(known, way):
    def refusing(i):
        with tf.control_dependencies([tf.debugging.assert_less(i, np.int64(70))]):
            return tf.identity(i)

    data = tf.data.Dataset.range(100).map(refusing)
    data = data if known else data.filter(lambda i: i >= 0)
    given, feed = [], feed_of(data)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        for chunk in chunks(feed, *way):
            given += [int(i) for (i,) in in_chunk(chunk)]

    asked = "batches 64 to 79" if known else "batch 70"
    where = f"while the data was asked for {asked}"
    assert getattr(caught.value, "__notes__", [where]) == [where]  # from Python 3.11
    assert given == list(range(64 if known else 70))


def test_a_dataset_that_counts_how_often_it_is_read_is_read_once():
    read = []

    def source():
        for i in range(5):
            read.append(i)
            yield np.zeros(i, "f4")

    data = tf.data.Dataset.from_generator(source, output_signature=tf.TensorSpec((None,)))
    arguments(data.apply(tf.data.experimental.assert_cardinality(5)))

    assert read == list(range(5))


def test_an_infinite_dataset_goes_on(way):
    found = chunks(feed_of(tf.data.Dataset.range(3).repeat()), *way)
    items = [int(i) for chunk in itertools.islice(found, 10) for (i,) in in_chunk(chunk)]

    assert items == [i % 3 for i in range(len(items))]


# --- Read ahead -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from([Sent, Beside]),
    lengths=st.lists(st.integers(1, 2), min_size=1, max_size=12),
    calls=st.lists(
        st.tuples(st.sampled_from(["never", "before", "after", "both"]), st.sampled_from(WAYS)),
        min_size=1,
        max_size=6,
    ),
    end=st.sampled_from([None, OverflowError]),
)
def test_what_is_read_ahead_comes_in_its_place(kind, lengths, calls, end):
    def read(i):
        if i == len(lengths):
            raise end("disk on fire")
        return np.full(lengths[i], i), i

    def go_through():
        read_ahead = ahead.prepare if kind is Sent else ahead.begin
        for when, way in itertools.cycle(calls):
            if when in ("before", "both"):
                read_ahead(*way)
            if (signature := ahead.peek()) is None:
                return
            if when in ("after", "both"):
                read_ahead(*way)
                ahead.wait()
            given.extend(in_chunk(ahead.take(signature, *way)))

    ahead, given = kind(feed_of(map(read, range(len(lengths) + bool(end))))), []
    if end:
        with pytest.raises(end, match=f"asked for batch {len(lengths)}: disk on fire"):
            go_through()
    else:
        go_through()

    are_equal(given, [(np.full(n, i), np.int32(i)) for i, n in enumerate(lengths)])


def test_chunks_are_sent_ahead_to_a_device_that_is_not_the_host(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"])

    for data in [X], DataLoader(X), zip(X, Y), prefetch(generator(), 3):
        assert type(feed_of(data)) is Sent
    assert not isinstance(feed_of(generator()), Sent)
    assert not isinstance(feed_of(repeated(X)), Sent)
    assert feed_of(prefetch(generator(), 3)).most == 3


@pytest.mark.parametrize("data", [[X], (X, X), X, DataLoader((X, Y), 2)])
def test_a_thread_reads_what_can_be_gone_through_once_more(data):
    assert type(feed_of(data)) is Beside


@pytest.mark.parametrize(
    "data",
    [
        zip(X, Y), iter([X]), map(np.negative, X), generator(), repeated(X), Listed([X]),
        DataLoader((X, Y), 2, collate=list), Squares(), tf.data.Dataset.range(3),
    ],
    ids=["zip", "iterator", "map", "generator", "repeated", "subclass", "collate", "PyDataset",
         "tf.data"],
)  # fmt: skip
def test_no_thread_reads_what_is_gone_or_calls_what_is_not_ours(data):
    assert not isinstance(feed_of(data), Beside)


def test_a_variable_is_read_when_it_is_its_turn():
    v = tf.Variable(0.0)
    feed = feed_of([(v,), (v,)])

    found = []
    while (signature := feed.peek()) is not None:
        chunk = feed.take(signature, 2, 2)
        feed.begin(2, 2)
        feed.wait()
        v.assign_add(1.0)
        found += in_chunk(chunk)

    are_equal(found, [(np.float32(0.0),), (np.float32(1.0),)])


def test_memory_that_is_not_in_use_stays_behind():
    (chunk,) = chunks(feed_of([(X, Y), (X + 1, Y)]), 4, 4)

    sent = chunk.on_device()

    assert [tuple(t.shape) for t in sent.tensors] == [(4, 3, 2), (4, 3)]
    are_equal(in_chunk(sent), in_chunk(chunk))
    assert not np.any(sent.tensors[0][2:])


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        [],
        (),
        X[:0],
        repeated(1, 0),
        tf.data.Dataset.range(0),
        tf.data.Dataset.range(3).filter(lambda i: i > 5),
        DataLoader(X[:0]),
        DataLoader(X, 4, partial=False),
        prefetch([], 2),
    ],
)
def test_empty_data_is_refused(data, way):
    message = f"train got no batch: the data, a {type(data).__name__}, is empty."

    with pytest.raises(ValueError, match=re.escape(message)):
        arguments(data, way)


@pytest.mark.parametrize("make", [lambda: zip(X, Y), generator, lambda: iter([1])])
def test_exhausted_data_is_told_from_empty_data(make, way):
    data = make()
    list(data)
    kind = type(data).__name__

    with pytest.raises(ValueError, match=f"this {kind} is exhausted, since a {kind} can be gone"):
        arguments(data, way)


@pytest.mark.parametrize("data", [3, None, {"x": X}, "text", b"text"])
def test_data_that_is_no_iterable_of_batches_is_refused(data):
    message = f"train expects data to be an iterable of batches, got {type(data).__name__}."

    with pytest.raises(TypeError, match=message):
        arguments(data)


@pytest.mark.parametrize("bad", [np.array([1, "a", None], object), object(), [[1, 2], [3]]])
def test_what_no_tensor_can_hold_is_refused_with_its_place(bad, way):
    with pytest.raises(TypeError, match=r"cannot make a tensor of batch 1\[0\]\['x'\]"):
        arguments([(X, Y), ({"x": bad}, Y)], way)


def failing():
    yield 1
    yield 2
    raise OverflowError("disk on fire")


def failing_at(i):
    if i == 3:
        raise OverflowError("disk on fire")
    return i


FAILING = {
    "generator": failing,
    "zip": lambda: zip(failing()),
    "prefetch": lambda: prefetch(failing(), 5),
    "map": lambda: map(failing_at, (1, 2, 3, 4)),
}


@pytest.mark.parametrize("kind", FAILING)
def test_an_error_in_the_data_keeps_its_type_and_tells_the_batch(kind, way):
    message = r"^while the data was asked for batch 2: disk on fire$"

    with pytest.raises(OverflowError, match=message):
        arguments(FAILING[kind](), way)


@pytest.mark.parametrize("kind", FAILING)
def test_what_comes_before_an_error_is_handed_out_first(kind, way):
    found = chunks(feed_of(FAILING[kind]()), *way)
    given = []

    with pytest.raises(OverflowError):
        for chunk in found:
            given += in_chunk(chunk)

    assert [tf.nest.flatten(batch)[0] for batch in given] == [1, 2]


def test_an_error_comes_up_each_time_that_one_looks():
    feed = feed_of(FAILING["map"]())
    chunk = feed.take(feed.peek(), 10, 10)

    assert chunk.count == 2
    for _ in range(2):
        with pytest.raises(OverflowError, match="asked for batch 2: disk on fire"):
            feed.peek()


# --- Leaving batches out --------------------------------------------------------------------------

PAIRS = [(np.full(2, i), np.full(1, -i)) for i in range(7)]
SKIPPED = {
    "list": lambda: PAIRS,
    "generator": lambda: (pair for pair in PAIRS),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(
        tuple(map(np.stack, zip(*PAIRS, strict=True)))
    ),
    "DataLoader": lambda: DataLoader(tuple(map(np.stack, zip(*PAIRS, strict=True))), 1),
    "repeated": lambda: repeated(PAIRS[0], 7),
    "prefetch": lambda: prefetch(PAIRS, 2),
}


@pytest.mark.parametrize("has_peeked", [False, True])
@pytest.mark.parametrize("kind", SKIPPED)
def test_batches_are_left_out(kind, has_peeked):
    def rest(count):
        feed = feed_of(SKIPPED[kind]())
        if has_peeked:
            feed.peek()
        skipped, found = feed.skip(count), []
        while signature := feed.peek():
            found += [[t.numpy().tolist() for t in b] for b in feed.take(signature, 2, 2).batches()]
        return skipped, found

    _, of_all = rest(0)
    for count in (1, 3, 7):
        skipped, found = rest(count)
        assert skipped == count
        assert found == of_all[count:]
    assert rest(9) == (7, [])
