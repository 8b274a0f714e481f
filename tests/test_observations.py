import collections
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    DataLoader,
    filterobs,
    getobs,
    groupobs,
    joinobs,
    kfolds,
    leavepout,
    mapobs,
    numobs,
    obsview,
    oversample,
    randobs,
    shuffleobs,
    slidingwindow,
    splitobs,
    timeseries_kfolds,
    undersample,
)

Point = collections.namedtuple("Point", "x y")
X = np.arange(20.0).reshape(10, 2)
Y = np.arange(10)
FORMS = {
    "array": X,
    "tensor": tf.constant(X),
    "tuple": (X, Y),
    "named tuple": Point(X, Y),
    "dict": {"x": X, "y": [Y, (X,)]},
    "list": list(range(10)),
    "range": range(10),
}


def listed(indices):
    return [np.asarray(part).tolist() for part in indices]


def joined(indices):
    return np.concatenate(list(map(np.asarray, indices))).astype(int).tolist()


def taken(data, indices):
    whole = data if isinstance(data, tuple | dict) else np.asarray(data)
    return keras.tree.map_structure(lambda part: np.asarray(part)[indices], whole)


def are_equal(a, b):
    assert type(a) is type(b) or isinstance(a, np.ndarray)
    keras.tree.map_structure(np.testing.assert_array_equal, a, b)


# --- numobs, getobs -------------------------------------------------------------------------------


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_observations_are_counted_and_taken_in_their_form(data):
    assert numobs(data) == 10
    for indices in (3, -1, slice(2, 5), range(2, 5), [7, 0], np.array([7, 0])):
        are_equal(getobs(data, indices), taken(data, indices))


def test_all_observations_are_taken_by_default():
    are_equal(getobs((X, Y)), (X, Y))


@pytest.mark.parametrize("take", [getobs, obsview])
def test_consecutive_observations_are_views(take):
    for indices in (slice(2, 5), range(2, 5)):
        assert np.shares_memory(take(X, indices), X)
    np.testing.assert_array_equal(take(X, range(3, -1, -1)), X[3::-1])


@pytest.mark.parametrize(
    "function",
    [
        numobs,
        getobs,
        shuffleobs,
        lambda data: obsview(data, [0]),
        lambda data: mapobs(len, data),
        lambda data: slidingwindow(data, size=1),
        lambda data: kfolds(data),
        lambda data: splitobs(data, at=0.5),
    ],
)
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:3]), ValueError, "arrays of the same number of samples along their first axis"),
        ((), ValueError, "arrays of the same number of samples along their first axis, got no arr"),
        ({"x": None}, TypeError, "arrays of samples along the first axis, got None"),
    ],
)
def test_what_are_no_observations_is_refused(function, data, error, message):
    with pytest.raises(error, match=rf"^\w+ expects {message}"):
        function(data)


# --- splitobs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "at", "sizes"),
    [
        (100, 0.7, [70, 30]),
        (100, (0.1, 0.4), [10, 40, 50]),
        (10, (0.5, 0.3), [5, 3, 2]),
        (10, 3, [3, 7]),
        (10, (3, 2), [3, 2, 5]),
        (10, 0.25, [2, 8]),  # to even
        (10, 0.35, [4, 6]),
        (10, 0.0, [0, 10]),
        (10, 1.0, [10, 0]),
        (10, (0.3, 0.7), [3, 7, 0]),
        (3, (0.5, 0.5), [2, 1, 0]),
        (10, (), [10]),
    ],
)
def test_the_sizes_of_a_split(n, at, sizes):
    parts = splitobs(n, at=at)

    assert [len(part) for part in parts] == sizes
    assert joined(parts) == list(range(n))


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_parts_have_the_form_of_the_data(data):
    train, test = splitobs(data, at=0.7)

    are_equal(train, getobs(data, slice(0, 7)))
    are_equal(test, getobs(data, slice(7, 10)))


def test_a_shuffled_split_keeps_observations_whole():
    parts = splitobs((X, Y), at=(0.3, 0.3), shuffle=True, rng=1)

    for x, y in parts:
        np.testing.assert_array_equal(x, X[y])
    order = np.concatenate([y for _, y in parts])
    assert sorted(order) == list(range(10)) != order.tolist()


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stratified_split_splits_each_label(shuffle):
    labels = np.array(list("ab" * 10 + "a" * 20))

    train, test = splitobs(labels, at=0.7, stratified=labels, shuffle=shuffle)

    assert (train.tolist().count("a"), train.tolist().count("b")) == (21, 7)
    assert (test.tolist().count("a"), test.tolist().count("b")) == (9, 3)


def test_a_stratified_split_comes_label_by_label():
    parts = splitobs(8, at=0.5, stratified=list("abababab"))

    assert listed(parts) == [[0, 2, 1, 3], [4, 6, 5, 7]]


@pytest.mark.parametrize("at", [-0.1, 1.1, (0.5, 0.6), 11, (4, 7)])
def test_a_split_of_more_than_all_is_refused(at):
    message = f"splitobs expects at from 0 to 1, or up to 10 observations, in all, got {at!r}."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        splitobs(X, at=at)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("splitobs", lambda labels: splitobs(X, at=0.5, stratified=labels)),
        ("kfolds", lambda labels: kfolds(X, stratified=labels)),
        ("oversample", lambda labels: oversample(X, labels)),
        ("undersample", lambda labels: undersample(X, labels)),
    ],
)
def test_another_number_of_labels_is_refused(name, call):
    with pytest.raises(
        ValueError, match=rf"^{name} expects a label for each of 10 observations, got 3\.$"
    ):
        call(["a", "b", "a"])


# --- folds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "sizes"),
    [(10, 5, [2] * 5), (10, 3, [4, 3, 3]), (11, 4, [3, 3, 3, 2]), (3, 3, [1] * 3)],
)
def test_the_sizes_of_folds(n, k, sizes):
    train, validation = kfolds(n, k)

    assert [len(fold) for fold in validation] == sizes
    assert joined(validation) == list(range(n))
    for indices, others in zip(listed(train), listed(validation), strict=True):
        assert indices == [i for i in range(n) if i not in others]


def test_folds_of_data_are_pairs_of_its_form():
    train, validation = kfolds(10, 4)

    for pair, indices, others in zip(kfolds((X, Y), 4), train, validation, strict=True):
        are_equal(pair, ((X[indices], Y[indices]), (X[list(others)], Y[list(others)])))


@pytest.mark.parametrize("stratified", [None, [0, 1] * 5])
def test_shuffled_folds_put_each_observation_aside_once(stratified):
    aside = [y for _, (_, y) in kfolds((X, Y), 5, shuffle=True, stratified=stratified, rng=2)]

    order = np.concatenate(aside).tolist()
    assert sorted(order) == list(range(10)) != order
    for (x, y), _ in kfolds((X, Y), 5, shuffle=True, stratified=stratified):
        np.testing.assert_array_equal(x, X[y])


def test_stratified_folds_share_out_each_label():
    labels = np.array(list("aabaabaab"))

    train, validation = kfolds(9, 3, stratified=labels)

    assert listed(validation) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert all(labels[fold].tolist().count("b") == 1 for fold in validation)
    assert listed(train)[0] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("n", "p", "k"), [(10, 1, 10), (10, 2, 5), (10, 3, 3), (10, 5, 2)])
def test_leavepout_is_kfolds(n, p, k):
    assert listed(leavepout(n, p)[1]) == listed(kfolds(n, k)[1])
    assert len(list(leavepout(X, p))) == k


@pytest.mark.parametrize(
    ("options", "train", "validation"),
    [
        ({"k": 3}, [(0, 4), (0, 6), (0, 8)], [(4, 6), (6, 8), (8, 10)]),
        ({"k": 3, "gap": 1}, [(0, 3), (0, 5), (0, 7)], [(4, 6), (6, 8), (8, 10)]),
        ({"k": 3, "max_train_size": 3}, [(1, 4), (3, 6), (5, 8)], [(4, 6), (6, 8), (8, 10)]),
        ({}, [(0, 5), (0, 6), (0, 7), (0, 8), (0, 9)], [(i, i + 1) for i in range(5, 10)]),
    ],
)
def test_folds_in_time(options, train, validation):
    expected = [[range(*ends) for ends in part] for part in (train, validation)]

    assert list(timeseries_kfolds(10, **options)) == expected
    for pair, *indices in zip(timeseries_kfolds(Y, **options), *expected, strict=True):
        assert listed(pair) == listed(indices)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kfolds(X, 1), "kfolds expects from 2 to 10 folds of 10 observations, got 1."),
        (lambda: kfolds(10, 11), "kfolds expects from 2 to 10 folds of 10 observations, got 11."),
        (
            lambda: kfolds(X, 3, stratified=[0] * 8 + [1] * 2),
            "kfolds expects from 2 to 2 folds of 2 observations, got 3.",
        ),
        (lambda: leavepout(10, 6), "leavepout expects p from 1 to 5, got 6."),
        (lambda: leavepout(X, 0), "leavepout expects p from 1 to 5, got 0."),
        (lambda: timeseries_kfolds(10, k=1), "timeseries_kfolds expects k from 2 to 9, got 1."),
        (
            lambda: timeseries_kfolds(10, gap=-1, max_train_size=3),
            "timeseries_kfolds expects a gap from 0 and a max_train_size from 1, got -1 and 3.",
        ),
        (
            lambda: timeseries_kfolds(10, k=3, gap=4),
            "timeseries_kfolds expects observations before the first fold, at 4: a gap of 4 leaves "
            "none.",
        ),
    ],
)
def test_folds_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


# --- mapobs ---------------------------------------------------------------------------------------


def test_mapobs_of_mlutils_documentation():
    data = {"a": np.array([1, 2, 3]), "b": np.array([1, 2, 3])}
    mapped = mapobs(lambda x: {"c": x["a"] + x["b"], "d": x["a"] - x["b"]}, data)

    assert mapped[0] == {"c": 2, "d": 0}
    are_equal(mapped[:2], {"c": np.array([2, 4]), "d": np.array([0, 0])})


class Recorder:
    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(np.asarray(x).tolist())
        return x * 10


@pytest.mark.parametrize(
    ("batched", "one", "several"),
    [("auto", [4], [[4, 5]]), ("never", [4], [4, 5]), ("always", [[4]], [[4, 5]])],
)
def test_what_the_function_is_called_with(batched, one, several):
    f = Recorder()
    mapped = mapobs(f, Y, batched=batched)
    assert numobs(mapped) == 10 and f.seen == []

    assert getobs(mapped, 4) == 40
    assert f.seen == one
    f.seen.clear()
    assert getobs(mapped, [4, 5]).tolist() == [40, 50]
    assert f.seen == several


def test_what_is_mapped_is_split_shuffled_and_folded_without_a_call():
    f = Recorder()
    data = (mapobs(f, Y), Y)

    (train, _), *_ = splitobs(data, at=0.5), shuffleobs(data), *kfolds(data)

    assert f.seen == []
    assert getobs(train)[0].tolist() == [0, 10, 20, 30, 40]
    x, y = shuffleobs(data)
    assert getobs(x).tolist() == (y * 10).tolist()


def test_functions_make_the_parts():
    mapped = mapobs({"x": np.sqrt, "y": (np.log, np.exp)}, np.arange(1, 11))

    assert numobs(mapped) == 10
    assert getobs(mapped, 9) == {"x": np.sqrt(10), "y": (np.log(10), np.exp(10))}
    assert mapped["x"][3] == 2


def test_what_is_mapped_is_iterated_and_printed():
    mapped = mapobs(np.sqrt, Y, batched="never")

    assert list(mapped) == np.sqrt(Y).tolist()
    assert repr(mapped) == "mapobs(sqrt, 10 observations, batched='never')"
    with pytest.raises(IndexError):
        mapped[10]


def test_a_loader_of_what_is_mapped():
    data = (mapobs(lambda i: np.full((2, 2), i), Y, batched="never"), Y)

    for x, y in DataLoader(data, 4, shuffle=True):
        np.testing.assert_array_equal(x, np.broadcast_to(y[:, None, None], x.shape))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mapobs(3, X), TypeError, "mapobs expects a function, got 3."),
        (
            lambda: mapobs(len, X, batched=True),
            ValueError,
            'mapobs expects batched "auto", "never" or "always", got True.',
        ),
        (
            lambda: joinobs(X, mapobs(len, X)),
            TypeError,
            "joinobs expects arrays, got mapobs(…). Map what is joined instead.",
        ),
        (lambda: joinobs(), ValueError, "joinobs expects at least one, got none."),
        (
            lambda: joinobs((X, Y), {"x": X}),
            ValueError,
            "joinobs expects all to be of one form, got (…, …) and {'x': …}.",
        ),
    ],
)
def test_what_cannot_be_mapped_or_joined_is_refused(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


# --- filterobs, groupobs, joinobs, slidingwindow --------------------------------------------------


def test_filterobs_keeps_the_form():
    are_equal(filterobs(lambda point: point.y % 4 == 1, Point(X, Y)), Point(X[1::4], Y[1::4]))


def test_groupobs_groups_by_the_value():
    groups = groupobs(lambda xy: int(xy[1]) % 3, (X, Y))

    assert list(groups) == [0, 1, 2]
    for remainder, (x, y) in groups.items():
        np.testing.assert_array_equal(y, Y[remainder::3])
        np.testing.assert_array_equal(x, X[remainder::3])


def test_joinobs_joins_part_by_part():
    one, other = {"x": X, "y": (Y,)}, {"y": (Y[:2],), "x": X[:2]}

    joined = joinobs(one, other, other)

    np.testing.assert_array_equal(joined["x"], np.concatenate([X, X[:2], X[:2]]))
    np.testing.assert_array_equal(joined["y"][0], np.concatenate([Y, Y[:2], Y[:2]]))


@pytest.mark.parametrize(
    ("size", "stride", "count"), [(6, 1, 15), (6, 3, 5), (20, 1, 1), (7, 5, 3)]
)
def test_windows(size, stride, count):
    data = (np.arange(11, 31), np.arange(60).reshape(20, 3))

    windows = slidingwindow(data, size=size, stride=stride)

    assert numobs(windows) == count
    for i, window in enumerate(zip(*windows)):
        are_equal(window, getobs(data, slice(i * stride, i * stride + size)))
    assert np.shares_memory(windows[1], data[1])


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (11, 1), (3, 0)])
def test_windows_that_do_not_fit_are_refused(size, stride):
    message = (
        f"slidingwindow expects a size from 1 to 10 and a stride from 1, got {size} and {stride}."
    )

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        slidingwindow(X, size=size, stride=stride)


# --- random ---------------------------------------------------------------------------------------

RANDOM = {
    "shuffleobs": shuffleobs,
    "randobs": lambda data, **options: randobs(data, 20, **options),
    "splitobs": lambda data, **options: splitobs(data, at=0.5, shuffle=True, **options)[0],
    "kfolds": lambda data, **options: next(kfolds(data, shuffle=True, **options))[1],
    "oversample": lambda data, **options: oversample(data, [0] * 7 + [1] * 3, **options)[0],
    "undersample": lambda data, **options: undersample(data, [0] * 7 + [1] * 3, **options)[0],
}


@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_what_governs_what_is_drawn(draw):
    y = np.arange(10)
    seeded, again = draw(y, rng=3), draw(y, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(seeded, again)

    keras.utils.set_random_seed(1)
    first, second = draw(y).tolist(), draw(y).tolist()
    keras.utils.set_random_seed(1)
    assert draw(y).tolist() == first != second


def test_randobs_draws_with_replacement():
    x, y = randobs((X, Y), 100, rng=0)

    assert len(x) == 100 and set(y) <= set(range(10))
    np.testing.assert_array_equal(x, X[y])
    x, y = randobs((X, Y))
    np.testing.assert_array_equal(x, X[y])


# --- balance --------------------------------------------------------------------------------------

CLASSES = np.array(list("abbbbabbbc"))  # 2 of a, 7 of b, 1 of c


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("fraction", "least"), [(1, 7), (0.5, 4), (0.1, 1)])  # 3.5 rounds to even
def test_oversample_repeats_what_is_rare(shuffle, fraction, least):
    y, labels = oversample(Y, CLASSES, fraction=fraction, shuffle=shuffle)

    assert labels.tolist() == CLASSES[y].tolist()
    assert set(y) == set(range(10))
    for label, size in ("a", 2), ("b", 7), ("c", 1):
        times = collections.Counter(y[labels == label].tolist())
        assert sum(times.values()) == max(size, least)
        assert max(times.values()) - min(times.values()) <= 1


def test_what_is_repeated_in_order_comes_behind():
    y, _ = oversample(Y, CLASSES, shuffle=False)

    assert y.tolist() == [*range(10), 0, 5, 0, 5, 0, *[9] * 6]


@pytest.mark.parametrize("shuffle", [False, True])
def test_undersample_leaves_as_many_of_each(shuffle):
    labels = np.array(list("aabbbbab"))

    x, y = undersample(np.arange(8), labels, shuffle=shuffle)

    assert y.tolist() == labels[x].tolist()
    assert sorted(y) == list("aaabbb") and len(set(x)) == 6
    if not shuffle:
        assert x.tolist() == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("balance", [oversample, undersample])
def test_the_last_of_a_tuple_is_the_classes(balance):
    x, y, labels = balance((X, Y, CLASSES), rng=0)
    (x2, y2), labels2 = balance((X, Y), CLASSES, rng=0)

    are_equal((x, y, labels), (x2, y2, labels2))
    np.testing.assert_array_equal(x, X[y])


@pytest.mark.parametrize("balance", [oversample, undersample])
def test_without_classes_nothing_is_balanced(balance):
    message = f"{balance.__name__} expects classes, or a tuple that ends with them, got ndarray."

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        balance(X)
