import collections
import gc
import itertools
import json
import re
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import DataLoader, eachobs, prefetch, reading, repeated

Point = collections.namedtuple("Point", "x y")


def test_repeated_gives_the_same_object_n_times():
    batch = ([1], [2])

    assert [item is batch for item in repeated(batch, 3)] == [True] * 3
    assert len(repeated(batch, 3)) == 3


def test_repeated_can_be_gone_through_again():
    data = repeated("x", 2)

    assert list(data) == list(data) == ["x", "x"]


def test_repeated_without_a_number_has_no_end_and_no_length():
    data = repeated("x")

    assert list(itertools.islice(data, 1000)) == ["x"] * 1000
    with pytest.raises(TypeError, match="has no length"):
        len(data)


def test_repeated_zero_times_is_empty():
    assert list(repeated("x", 0)) == []


def test_repeated_a_negative_number_of_times_is_refused():
    with pytest.raises(ValueError, match=r"repeated expects a number of times from 0, got -1\."):
        repeated("x", -1)


@pytest.mark.parametrize("data", [repeated((1, 2), 3), repeated("x")])
def test_the_repr_of_repeated_makes_it_again(data):
    again = eval(repr(data))

    assert (again.batch, again.n) == (data.batch, data.n)


# --- DataLoader -----------------------------------------------------------------------------------

X = np.arange(22.0).reshape(11, 2)
Y = np.arange(11)


@pytest.mark.parametrize("batchsize", [1, 3, 11, 100, np.int64(4)])
@pytest.mark.parametrize("partial", [True, False])
def test_a_data_loader_gives_slices_of_the_first_axis(batchsize, partial):
    data = DataLoader((X, Y), batchsize, partial=partial)

    starts = range(0, 11, batchsize) if partial else range(0, 11 - batchsize + 1, batchsize)
    assert len(data) == len(starts)
    for (x, y), i in zip(data, starts, strict=True):
        np.testing.assert_array_equal(x, X[i : i + batchsize])
        np.testing.assert_array_equal(y, Y[i : i + batchsize])


def test_a_data_loader_gives_single_samples_unless_it_is_told_otherwise():
    assert [batch.tolist() for batch in DataLoader(Y[:3])] == [[0], [1], [2]]


def test_batches_have_the_form_of_the_data():
    data = DataLoader({"x": [X, (Y,)], "p": Point(list(range(11)), tuple(map(np.array, [Y])))}, 4)

    batch = next(iter(data))

    np.testing.assert_array_equal(batch["x"][0], X[:4])
    np.testing.assert_array_equal(batch["x"][1][0], Y[:4])
    np.testing.assert_array_equal(batch["p"].x, range(4))
    np.testing.assert_array_equal(batch["p"].y[0], Y[:4])
    assert [type(v) for v in (batch, batch["x"], batch["x"][1], batch["p"])] == [
        dict, list, tuple, Point,
    ]  # fmt: skip


def test_shuffled_samples_stay_together_and_come_once_each_time_in_another_order():
    data = DataLoader((X, Y), 4, shuffle=True, rng=0)

    orders = []
    for _ in range(3):
        batches = list(data)
        for x, y in batches:
            np.testing.assert_array_equal(x, X[y])
        orders.append([int(i) for _, y in batches for i in y])

    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("rng", [lambda: 5, lambda: np.random.default_rng(5)])
def test_the_same_seed_gives_the_same_orders(rng):
    one, other = (DataLoader(Y, 4, shuffle=True, rng=rng()) for _ in range(2))

    for _ in range(3):
        np.testing.assert_array_equal(np.concatenate(list(one)), np.concatenate(list(other)))


def test_a_seed_is_an_rng_by_another_name():
    orders = [
        DataLoader(np.arange(100), shuffle=True, **o).order() for o in ({"rng": 3}, {"seed": 3})
    ]
    np.testing.assert_array_equal(*orders)
    with pytest.raises(ValueError, match="DataLoader expects an rng or a seed, got both, 1 and 2"):
        DataLoader(np.arange(100), rng=1, seed=2)


def test_without_a_seed_orders_differ():
    a, b = (np.concatenate(list(DataLoader(np.arange(50), 7, shuffle=True))) for _ in range(2))

    assert np.any(a != b)


def test_a_smaller_last_batch_that_is_left_out_is_of_other_samples_each_time():
    data = DataLoader(Y, 4, shuffle=True, partial=False, rng=0)

    left_out = [set(Y) - set(np.concatenate(list(data))) for _ in range(3)]

    assert [len(samples) for samples in left_out] == [3, 3, 3]
    assert left_out[0] != left_out[1]


def test_a_batch_is_a_copy():
    x = X.copy()
    batch = next(iter(DataLoader(x, 3)))
    batch[:] = -1

    np.testing.assert_array_equal(x, X)


def test_no_samples_make_no_batch():
    assert len(DataLoader(X[:0], 3)) == 0
    assert list(DataLoader(X[:0], 3)) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "DataLoader(11 samples, batchsize=1)"),
        ({"batchsize": 4, "shuffle": True}, "DataLoader(11 samples, batchsize=4, shuffle=True)"),
        (
            {"batchsize": 4, "shuffle": True, "partial": False},
            "DataLoader(11 samples, batchsize=4, shuffle=True, partial=False)",
        ),
    ],
)
def test_a_data_loader_prints_its_samples_and_options(options, text):
    assert repr(DataLoader((X, Y), **options)) == text


@pytest.mark.parametrize("batchsize", [0, -2, 1.0, "4", None])
def test_a_batchsize_that_is_no_whole_number_from_1_is_refused(batchsize):
    message = (
        "DataLoader expects a batchsize, a whole number from 1, or -1 for single samples, got "
        f"{batchsize!r}."
    )

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DataLoader(X, batchsize)


@pytest.mark.parametrize(
    ("data", "numbers"),
    [((X, Y[:3]), "11, 3"), ({"x": X, "y": [Y[1:], Y]}, "11, 10, 11"), ((), "no array")],
)
def test_arrays_of_other_numbers_of_samples_are_refused(data, numbers):
    message = "DataLoader expects arrays of the same number of samples along their first axis, got "

    with pytest.raises(ValueError, match=f"^{message}{numbers}\\.$"):
        DataLoader(data)


@pytest.mark.parametrize(
    ("data", "bad"), [(3, "3"), ((X, "text"), "'text'"), ({"x": None}, "None")]
)
def test_what_has_no_first_axis_is_refused(data, bad):
    message = f"DataLoader expects arrays of samples along the first axis, got {bad}."

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        DataLoader(data)


def as_lists(batches):
    return [tuple(part.tolist() for part in batch) for batch in batches]


def test_single_samples_come_without_a_batch_axis():
    data = DataLoader({"x": X, "y": Y}, -1)

    assert len(data) == 11
    for i, sample in enumerate(data):
        assert sample["x"].shape == (2,) and sample["y"] == i


def test_eachobs_gives_single_samples_unless_it_is_told_otherwise():
    assert [int(y) for y in eachobs(Y)] == list(range(11))
    assert [batch.tolist() for batch in eachobs(Y[:3], 2)] == [[0, 1], [2]]
    assert eachobs(Y, shuffle=True, partial=False).shuffle


@pytest.mark.parametrize("data", [tf.constant(X), list(range(11)), range(11)])
def test_tensors_and_lists_become_arrays(data):
    np.testing.assert_array_equal(next(iter(DataLoader(data, 4))), np.asarray(data)[:4])


@pytest.mark.parametrize(
    ("collate", "expected"),
    [
        (False, lambda batch: [(X[i], Y[i]) for i in batch]),
        (True, lambda batch: (X[batch], Y[batch])),
        (lambda batch: [int(y) for _, y in batch], lambda batch: [int(i) for i in batch]),
    ],
)
def test_collate_makes_the_batches(collate, expected):
    data = DataLoader((X, Y), 4, collate=collate)

    assert len(data) == 3
    for found, start in zip(data, range(0, 11, 4), strict=True):
        keras.tree.map_structure(
            np.testing.assert_array_equal, found, expected(Y[start : start + 4])
        )


def test_collate_joins_texts():
    assert next(iter(DataLoader(list("abcd"), 2, collate="".join))) == "ab"


@pytest.mark.parametrize("options", [{"collate": True}, {"batchsize": -1}])
def test_who_gathers_rows_is_told_where_batches_are_made_otherwise(options):
    assert not any(isinstance(a, np.ndarray) for a in DataLoader((X, Y), **options).arrays)


@pytest.mark.parametrize("batchsize", [3, -1])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_threads_give_the_same_batches(batchsize, num_workers):
    options = {"batchsize": batchsize, "shuffle": True, "rng": 1}
    parallel = DataLoader((X, Y), parallel=True, num_workers=num_workers, **options)

    alone = DataLoader((X, Y), **options)
    for _ in range(2):
        for a, b in zip(parallel, alone, strict=True):
            np.testing.assert_array_equal(a[0], b[0])
    gc.collect()
    assert readers() == []


def test_threads_run_beside_each_other():
    barrier = threading.Barrier(3, timeout=10)

    def waits_for_two_others(samples):
        barrier.wait()
        return samples

    data = DataLoader(Y[:6], 2, collate=waits_for_two_others, parallel=True, num_workers=3)

    assert [[int(y) for y in batch] for batch in data] == [[0, 1], [2, 3], [4, 5]]


def test_an_error_in_a_thread_comes_up_at_its_place():
    def fails_at_4(samples):
        return samples if 4 not in samples else 1 / 0

    batches = iter(DataLoader(Y, 2, collate=fails_at_4, parallel=True))

    assert [len(next(batches)), len(next(batches))] == [2, 2]
    with pytest.raises(ZeroDivisionError):
        next(batches)


@pytest.mark.parametrize("options", [{"collate": 3}, {"num_workers": -1}, {"num_workers": 1.5}])
def test_options_that_mean_nothing_are_refused(options):
    (name,) = options
    wanted = {"collate": "collate to be a function", "num_workers": "num_workers, a whole number"}

    with pytest.raises((TypeError, ValueError), match=f"^DataLoader expects {wanted[name]}"):
        DataLoader(X, **options)


def test_without_a_seed_the_global_one_governs():
    orders = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        orders.append(np.concatenate(list(DataLoader(Y, 4, shuffle=True))).tolist())

    assert orders[0] == orders[1] != sorted(orders[0])


# --- state ----------------------------------------------------------------------------------------

LOADERS = {
    "plain": {},
    "shuffled": {"shuffle": True},
    "shuffled, whole batches": {"shuffle": True, "partial": False},
    "shuffled, one by one": {"shuffle": True, "batchsize": -1},
    "parallel": {"shuffle": True, "parallel": True},
    "collated": {"shuffle": True, "collate": True},
}


@pytest.mark.parametrize("given", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("options", LOADERS.values(), ids=LOADERS)
def test_another_loader_goes_on_where_a_state_was_taken(options, given):
    options = {"batchsize": 4, **options}
    data = DataLoader((X, Y), rng=1, **options)
    batches = itertools.chain.from_iterable(data for _ in range(20))
    list(itertools.islice(batches, given))

    state = json.loads(json.dumps(data.state()))
    expected = as_lists(itertools.islice(batches, 25))
    again = DataLoader((X, Y), rng=2, **options)
    again.load_state(state)

    assert again.state() == state
    rest = itertools.chain.from_iterable(again for _ in range(20))
    assert as_lists(itertools.islice(rest, 25)) == expected


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "partial": False}, {}])
def test_the_order_is_what_is_left_of_it(options):
    data = DataLoader(Y, 4, rng=1, **options)
    data.load_state({"position": 1, "rng": data.state()["rng"]})
    whole = DataLoader(Y, 4, rng=1, **options).order()

    assert len(whole) == min(len(data) * 4, 11)
    np.testing.assert_array_equal(data.order(), whole[4:])
    assert len(data.order()) == len(whole)


def test_who_reads_ahead_may_set_the_position():
    data = DataLoader(Y, 4, shuffle=True, rng=1)
    first = [batch.tolist() for batch in data]
    started = DataLoader(Y, 4, shuffle=True, rng=1)
    iter(started)
    following = [batch.tolist() for batch in data]

    for position, expected in (0, first), (2, first[2:]), (3, following):
        again = DataLoader(Y, 4, shuffle=True)
        again.load_state(started.state() | {"position": position})
        assert [batch.tolist() for batch in again] == expected


def test_the_state_is_that_of_the_last_time_through_that_was_begun():
    data = DataLoader(Y, 4)
    one = iter(data)
    next(one)
    other = iter(data)
    next(other), next(other), next(one)

    assert data.state()["position"] == 2


@pytest.mark.parametrize(
    "state",
    [{}, {"position": 4, "rng": {}}, {"position": -1, "rng": {}}, {"position": 1, "rng": None}],
)
def test_a_state_of_another_loader_is_refused(state):
    data = DataLoader(Y, 4, shuffle=True, rng=1)
    before = data.state()
    message = (
        "DataLoader(11 samples, batchsize=4, shuffle=True) expects a state with a position up to 3 "
        f"and a state of a generator, got {state}."
    )

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        data.load_state(state)
    assert data.state() == before


def test_a_state_with_a_generator_is_refused_where_nothing_is_shuffled():
    state = DataLoader(Y, 4, shuffle=True).state()

    with pytest.raises(ValueError, match=r"expects a state with a position up to 3 and no state"):
        DataLoader(Y, 4).load_state(state)


# --- prefetch -------------------------------------------------------------------------------------


def readers():
    return [t.name for t in threading.enumerate() if t.name.startswith("fluxkeras.prefetch")]


class Source:
    """An iterator over the numbers from 0, which tells how many were read."""

    def __init__(self, end=20):
        self.read = threading.Semaphore(0)
        self.count = 0
        self.end = end

    def __iter__(self):
        return self

    def __next__(self):
        if self.count == self.end:
            raise StopIteration
        self.count += 1
        self.read.release()
        return self.count - 1

    def wait_until(self, count):
        for _ in range(count):
            assert self.read.acquire(timeout=10)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_prefetch_gives_the_same_items(n):
    assert list(prefetch(range(9), n)) == list(range(9))
    assert list(prefetch([], n)) == []
    assert list(prefetch([None, (), None], n)) == [None, (), None]


def test_prefetch_can_be_gone_through_as_often_as_its_data():
    data = prefetch([1, 2], 3)

    assert list(data) == list(data) == [1, 2]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_as_many_items_are_read_ahead_and_no_more(n):
    source = Source()
    items = iter(prefetch(source, n))
    assert source.count == 0

    for given in range(1, 11):
        assert next(items) == given - 1
        source.wait_until(n + 1 if given == 1 else 1)
        assert source.count == given + n
    items.close()
    assert source.count == 10 + n


def test_the_reader_is_another_thread_that_ends_with_the_items():
    names = []

    def source():
        for i in range(5):
            names.append(threading.current_thread().name)
            yield i

    for _ in prefetch(source(), 2):
        pass

    assert len(set(names)) == 1 and names[0].startswith("fluxkeras.prefetch")
    assert readers() == []


def test_the_reader_ends_when_the_items_are_left():
    for left in prefetch(Source(), 3):
        if left == 4:
            assert len(readers()) == 1
            break

    gc.collect()
    assert readers() == []


def test_no_reader_is_started_before_the_first_item_is_wanted():
    iter(prefetch(Source(), 3))

    assert readers() == []


def test_an_error_comes_up_at_its_place_and_ends_the_reader():
    def source():
        yield 1
        yield 2
        raise OverflowError("disk on fire")

    given = []
    with pytest.raises(OverflowError, match=r"^disk on fire$"):
        for item in prefetch(source(), 10):
            given.append(item)

    assert given == [1, 2]
    assert readers() == []


def test_arrays_are_copied_so_that_their_memory_can_be_filled_again():
    buffer = np.zeros(3)

    def source():
        for i in range(6):
            buffer[:] = i
            yield buffer, {"x": [buffer, i]}

    items = list(prefetch(source(), 3))

    for i, (x, d) in enumerate(items):
        np.testing.assert_array_equal(x, [i] * 3)
        np.testing.assert_array_equal(d["x"][0], [i] * 3)
        assert d["x"][1] == i


def test_other_things_are_not_copied():
    thing = object()

    assert next(iter(prefetch([thing], 1))) is thing


def test_prefetch_is_as_long_as_its_data_and_prints_it():
    data = prefetch(repeated(1, 3), 2)

    assert len(data) == 3
    assert repr(data) == "prefetch(repeated(1, 3), 2)"
    with pytest.raises(TypeError, match="has no len"):
        len(prefetch(iter([1]), 2))


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None])
def test_prefetch_of_no_whole_number_is_refused(n):
    message = f"prefetch expects how many items to read ahead, a whole number from 1, got {n!r}."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prefetch([1], n)


@pytest.mark.parametrize("data", [3, None, len])
def test_prefetch_of_what_cannot_be_iterated_is_refused(data):
    message = rf"^prefetch expects an iterable, got {type(data).__name__}\.$"

    with pytest.raises(TypeError, match=message):
        prefetch(data, 2)


def test_lists_and_variables_are_copied_too():
    numbers, nested = [0.0], [[0.0], [0.0]]
    variable, of_keras = tf.Variable([0.0]), keras.Variable([0.0])

    def source():
        for i in range(1, 6):
            numbers[0] = nested[1][0] = float(i)
            variable.assign([i])
            of_keras.assign([i])
            yield numbers, nested, variable, {"v": of_keras}

    for i, (a, b, c, d) in enumerate(prefetch(source(), 3), start=1):
        assert (a, b, c.tolist(), d["v"].tolist()) == ([i], [[0.0], [i]], [i], [i])


def test_a_reader_that_has_nothing_to_do_ends_and_another_goes_on(monkeypatch):
    monkeypatch.setattr(reading, "IDLE_SECONDS", 0.01)
    items = iter(prefetch(Source(), 2))

    for expected in range(6):
        assert next(items) == expected
        deadline = time.monotonic() + 10
        while readers():
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_read_that_never_returns_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    never = threading.Event()

    def source():
        yield 1
        never.wait(60)

    items = iter(prefetch(source(), 2))
    assert next(items) == 1
    start = time.monotonic()
    items.close()

    assert time.monotonic() - start < 10
    assert all(t.daemon for t in threading.enumerate() if t.name in readers())
    never.set()


@pytest.mark.parametrize("collate", [None, np.stack])
def test_the_loaders_of_workers_share_each_batch_of_the_same_order(collate):
    whole = DataLoader(np.arange(23), 5, shuffle=True, seed=4)
    shared = [
        DataLoader(np.arange(23), 5, shuffle=True, seed=4, shard=(rank, 3), collate=collate)
        for rank in range(3)
    ]

    for _ in range(2):
        for batch, *parts in zip(whole, *shared, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), batch)
            assert len(parts[0]) == 2 or len(batch) < 5
    assert [whole.size(i) for i in range(5)] == [5, 5, 5, 5, 3]


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), 1, (0.0, 1), "01"])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(ValueError, match=r"Write shard=\(0, 2\)"):
        DataLoader(np.arange(4), 2, shard=shard)
    with pytest.raises(ValueError, match="batchsize -1"):
        DataLoader(np.arange(4), -1, shard=(0, 2))
