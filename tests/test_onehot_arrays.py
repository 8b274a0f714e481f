import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import onecold, onehot, onehotbatch
from fluxkeras.checks import ShapeError

ABRACADABRA = [
    [1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1],
    [0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    [0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0],
]  # of Flux's documentation, where a column is a letter and "r" counts as "e"


@pytest.mark.parametrize(
    ("x", "labels", "expected"),
    [
        ("b", ("a", "b", "c"), [0, 1, 0]),
        (0, range(3), [1, 0, 0]),
        (np.int64(2), [0, 1, 2], [0, 0, 1]),
        ("c", "abc", [0, 0, 1]),
        (7, np.array([5, 7, 7]), [0, 1, 0]),
        ((1, 2), [(0, 1), (1, 2)], [0, 1]),
        (None, [0, None], [0, 1]),
    ],
)
def test_onehot(x, labels, expected):
    found = onehot(x, labels)

    assert found.dtype == keras.config.floatx()
    np.testing.assert_array_equal(found, expected)
    if labels is not None:
        assert onecold(found, labels) == x


def test_unknown_labels_count_as_the_default():
    np.testing.assert_array_equal(onehot("z", "abc", "c"), [0, 0, 1])
    np.testing.assert_array_equal(
        onehotbatch("abracadabra", "abcde", "e"), np.transpose(ABRACADABRA)
    )


@pytest.mark.parametrize(
    "xs",
    [
        [[0, 1, 2], [2, 1, 0]],
        np.array([[0, 1, 2], [2, 1, 0]]),
        tf.constant([[0, 1, 2], [2, 1, 0]]),
        np.array([[0, 1, 2], [2, 1, 0]], "float32"),
    ],
)
def test_the_classes_come_behind_the_axes_of_the_labels(xs):
    np.testing.assert_array_equal(onehotbatch(xs, range(3)), np.eye(3)[np.asarray(xs, int)])


def test_labels_of_several_kinds_stay_apart():
    np.testing.assert_array_equal(onehotbatch([1, "1", (1,)], ["1", (1,), 1]), np.eye(3)[[2, 0, 1]])
    assert onecold(np.eye(3), ["1", (1,), 1]).tolist() == ["1", (1,), 1]


def test_no_label_gives_no_row():
    assert onehotbatch([], "ab").shape == (0, 2)
    assert onecold(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: onehot("z", ["a", "b"]),
            "onehot expects one of the labels ['a', 'b'], got 'z'. Give a default.",
        ),
        (
            lambda: onehotbatch([0, 5, 1], range(3)),
            "onehotbatch expects one of the labels [0, 1, 2], got 5. Give a default.",
        ),
        (
            lambda: onehot("z", ["a", "b"], "c"),
            "onehot expects one of the labels ['a', 'b'], got 'z'. The default is 'c'.",
        ),
    ],
)
def test_unknown_labels_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("y", "labels", "expected"),
    [
        ([False, True, False], None, 1),
        ([0.3, 0.2, 0.5], ("a", "b", "c"), "c"),
        ([[0.1, 0.9], [0.5, 0.5]], None, [1, 0]),
        (np.transpose(ABRACADABRA), "abcde", list("abeacadabea")),
        (tf.constant([[[1.0, 2.0]], [[2.0, 1.0]]]), [10, 20], [[20], [10]]),
    ],
)
def test_onecold_finds_the_first_of_the_greatest(y, labels, expected):
    np.testing.assert_array_equal(onecold(y, labels), expected)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_onecold_in_a_compiled_function(jit_compile):
    y = np.random.rand(4, 3).astype("float32")
    f = tf.function(lambda y: (onecold(y), onecold(y, [10, 20, 30])), jit_compile=jit_compile)

    indices, labels = f(y)

    np.testing.assert_array_equal(indices, np.argmax(y, 1))
    np.testing.assert_array_equal(labels, 10 * (np.argmax(y, 1) + 1))


@pytest.mark.parametrize(
    ("y", "labels", "message"),
    [
        (np.ones((4, 3)), "ab", "onecold expects an array of shape (..., 2), got (4, 3)."),
        (1.0, None, "onecold expects an array of shape (..., classes), got ()."),
    ],
)
def test_onecold_refuses_another_number_of_classes(y, labels, message):
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        onecold(y, labels)


def test_onecold_refuses_nan():
    with pytest.raises(
        ValueError, match=r"^onecold expects numbers, got a greatest value that is NaN"
    ):
        onecold([[1.0, 2.0], [np.nan, 0.0]])


def test_labels_without_values_are_refused():
    with pytest.raises(TypeError, match=r"^onehotbatch expects labels whose values are known, got"):
        onehotbatch(keras.Input(()), range(3))
