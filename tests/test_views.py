import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    BatchView,
    DataLoader,
    Descent,
    ObsView,
    batchsize,
    getobs,
    mapobs,
    numobs,
    obsview,
    param,
    splitobs,
    train,
)
from fluxkeras.training.independence import is_independent

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


class Watched:
    """Counts what is asked for, as `mapobs` calls it."""

    def __init__(self):
        self.asked = []

    def __call__(self, x):
        self.asked.append(np.size(x))
        return 10 * x


# --- ObsView --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "indices", [slice(None), range(2, 9), range(8, 0, -2), [7, 1, 1, -1], np.arange(10) % 3 == 0]
)
def test_an_obsview_is_those_observations(indices):
    view = ObsView((X, {"y": Y}), indices)
    x, y = X[indices], Y[indices]

    assert len(view) == numobs(view) == len(y)
    np.testing.assert_array_equal(getobs(view)[0], x)
    np.testing.assert_array_equal(view[1:3][1]["y"], y[1:3])
    np.testing.assert_array_equal(view[[2, 0]][0], x[[2, 0]])
    assert view[-1][1]["y"] == y[-1]
    assert [obs[1]["y"] for obs in view] == y.tolist()


def test_an_obsview_asks_for_nothing_before_it_is_asked():
    f = Watched()
    view = ObsView(mapobs(f, Y, batched="never"), range(2, 8))
    first, rest = splitobs(obsview(view, [5, 3, 1]), at=1)
    assert f.asked == []

    assert [getobs(first, 0), rest[0], rest[-1]] == [70, 50, 30]

    assert isinstance(rest, ObsView) and f.asked == [1, 1, 1]


def test_consecutive_observations_of_an_obsview_are_views():
    assert np.shares_memory(ObsView(X, range(2, 8))[1:3], X)
    assert np.shares_memory(ObsView(ObsView(X, range(2, 8)), slice(1, 4))[0:2], X)


def test_loaders_take_views():
    batches = list(DataLoader((ObsView((X, Y), [9, 8, 7]), [1, 2, 3]), 2))

    (x, y), labels = batches[0]
    np.testing.assert_array_equal(x, X[[9, 8]])
    assert y.tolist() == [9, 8] and labels.tolist() == [1, 2]


# --- BatchView ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 5, 10])
@pytest.mark.parametrize("partial", [True, False])
def test_a_batchview_is_the_batches_of_a_loader(size, partial):
    view = BatchView((X, Y), size, partial=partial)

    batches = list(DataLoader((X, Y), size, partial=partial))

    assert batchsize(view) == size and len(view) == numobs(view) == len(batches)
    for i, ((x, y), batch) in enumerate(zip(view, batches, strict=True)):
        np.testing.assert_array_equal(x, batch[0])
        np.testing.assert_array_equal(y, batch[1])
        np.testing.assert_array_equal(view[i - len(view)][0], batch[0])
        assert np.shares_memory(x, X)


def test_several_batches_are_one():
    view = BatchView(Y, 3)

    assert view[[3, 0]].tolist() == [9, 0, 1, 2]
    assert view[1:3].tolist() == [3, 4, 5, 6, 7, 8]
    assert view[[]].tolist() == []
    assert obsview(view, [2, 0])[0].tolist() == [6, 7, 8]
    assert [batch.tolist() for batch in DataLoader(BatchView(Y, 4), -1)][-1] == [8, 9]


@pytest.mark.parametrize(
    ("collate", "expected"),
    [(True, [[0, 1], [2, 3]]), (False, [0, 1]), (lambda obs: sum(map(np.sum, obs)), 6)],
)
def test_a_batchview_collates(collate, expected):
    found = BatchView(X, 2, collate=collate)[0]

    found = [int(x[0] / 2) for x in found] if collate is False else np.asarray(found).tolist()
    assert found == expected


def test_a_batchview_of_too_few_observations_warns():
    with pytest.warns(UserWarning, match=r"^BatchView has batches of 10: there are no 16 "):
        view = BatchView(Y, 16, partial=False)

    assert batchsize(view) == 10 and view[0].tolist() == Y.tolist()


def test_views_are_trained_on():
    w = param(1.0)

    history = train(lambda x: w * tf.reduce_sum(x), BatchView(X, 4), Descent(0.0), progress=False)

    np.testing.assert_allclose(history.losses, [X[i : i + 4].sum() for i in (0, 4, 8)])


@pytest.mark.parametrize("kind", [BatchView, ObsView])
def test_views_may_be_read_ahead_unless_they_depend_on_the_model(kind):
    w = param(1.0)

    assert is_independent(kind(mapobs(lambda x: 2 * x, X)))
    assert not is_independent(kind(mapobs(lambda x: w.numpy() * x, X)))
    assert not is_independent(BatchView(X, collate=lambda obs: w.numpy()))


def test_views_print():
    assert repr(BatchView(Y, 3)) == "BatchView(4 batches, batchsize=3)"
    assert repr(ObsView(Y, [1, 2])) == "ObsView(2 observations)"


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: ObsView(X, 3), TypeError, "ObsView expects indices, got one, 3: write getobs."),
        (lambda: ObsView(X, [10]), IndexError, "index 10 is out of bounds for axis 0 with size 10"),
        (
            lambda: BatchView((X, Y[:9])),
            ValueError,
            "BatchView expects arrays of the same number of samples along their first axis, got "
            "10, 9.",
        ),
        (
            lambda: BatchView(X, 0),
            ValueError,
            "BatchView expects a batchsize, a whole number from 1, got 0.",
        ),
        (
            lambda: BatchView(X, collate="sum"),
            TypeError,
            "BatchView expects collate to be a function, got 'sum'.",
        ),
        (lambda: BatchView(X, 3)[4], IndexError, "range object index out of range"),
        (lambda: batchsize(X), TypeError, "batchsize expects a BatchView, got ndarray."),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, words):
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        make()
