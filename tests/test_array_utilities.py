import collections
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Dense,
    batch,
    batch_sequence,
    batchseq,
    chunk,
    falses_like,
    fill_like,
    group_counts,
    group_indices,
    normalise,
    ones_like,
    rand_like,
    randn_like,
    rescale,
    rpad,
    rpad_constant,
    stack,
    trues_like,
    unbatch,
    unsqueeze,
    unstack,
    zeros_like,
)
from fluxkeras.checks import ShapeError

Point = collections.namedtuple("Point", "x y")
X = np.arange(24.0, dtype="float32").reshape(4, 3, 2)
KINDS = [np.asarray, tf.constant]


def is_kind(kind, *found):
    return all(tf.is_tensor(f) == (kind is tf.constant) for f in found)


# --- batch, stack ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_batch_stacks_along_a_new_first_axis(kind):
    found = batch([kind(x) for x in X])

    assert is_kind(kind, found)
    np.testing.assert_array_equal(found, X)


def test_a_batch_has_the_form_of_an_observation():
    xs = [Point(i, {"a": [i, i], "b": (X[i],)}) for i in range(4)]

    found = batch(xs)

    assert isinstance(found, Point)
    np.testing.assert_array_equal(found.x, range(4))
    np.testing.assert_array_equal(found.y["a"], [[i, i] for i in range(4)])
    np.testing.assert_array_equal(found.y["b"][0], X)


def test_numbers_make_a_vector():
    np.testing.assert_array_equal(batch(i**2 for i in range(3)), [0, 1, 4])


def test_unbatch_is_the_reverse_of_batch():
    xs = [{"a": X[i], "b": (np.float32(i),)} for i in range(4)]

    found = unbatch(batch(xs))

    assert len(found) == 4
    for x, y in zip(xs, found):
        np.testing.assert_array_equal(x["a"], y["a"])
        assert x["b"] == y["b"]


@pytest.mark.parametrize("dims", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_stack_and_unstack(kind, dims):
    stacked = stack([kind(x) for x in (X, X + 1)], dims)
    np.testing.assert_array_equal(stacked, np.stack([X, X + 1], dims))

    back = unstack(stacked, dims)
    assert is_kind(kind, stacked, *back)
    np.testing.assert_array_equal(back[1], X + 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: batch([]), ValueError, "batch expects at least one observation, got none."),
        (lambda: stack([]), ValueError, "stack expects at least one array, got none."),
        (
            lambda: batch([[1, 2], [1, 2, 3]]),
            ShapeError,
            "batch expects arrays of one shape, got (2,) and (3,).",
        ),
        (
            lambda: batch([(1, 2), (1,)]),
            ValueError,
            "batch expects all to be of one form, got (…, …) and (…,).",
        ),
        (
            lambda: unbatch((X, X[:2])),
            ShapeError,
            "unbatch expects parts with first axes of one length, got [2, 4].",
        ),
        (
            lambda: unbatch(3.0),
            ShapeError,
            "unbatch expects an axis 0 of known length, got an array of shape ().",
        ),
        (
            lambda: unstack(X, 3),
            ShapeError,
            "unstack expects an axis of an array of shape (4, 3, 2), got dims=3.",
        ),
    ],
)
def test_what_cannot_be_stacked_is_refused(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("dims", [0, 1, 3, -1, -4])
@pytest.mark.parametrize("kind", KINDS)
def test_unsqueeze(kind, dims):
    found = unsqueeze(kind(X), dims=dims)

    assert is_kind(kind, found)
    np.testing.assert_array_equal(found, np.expand_dims(X, dims))
    np.testing.assert_array_equal(unsqueeze(dims=dims)(kind(X)), found)


def test_a_chain_saves_and_prints_an_unsqueeze(tmp_path):
    m = Chain(unsqueeze(dims=-1), Dense(1, 4))
    assert repr(m) == "Chain(unsqueeze(dims=-1), Dense(1, 4))"
    m.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(np.ones((2, 3))), m(np.ones((2, 3))))


@pytest.mark.parametrize("dims", [4, -5])
def test_unsqueeze_refuses_an_axis_that_the_result_has_not(dims):
    message = f"unsqueeze expects dims from 0 to 3 for an array of shape (4, 3, 2), got {dims}."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        unsqueeze(X, dims=dims)


# --- chunk ----------------------------------------------------------------------------------------


def ranges(*lengths):
    ends = np.cumsum(lengths).tolist()
    return [range(end - n, end) for end, n in zip(ends, lengths)]


@pytest.mark.parametrize(
    ("arguments", "options", "lengths"),
    [
        ([3], {}, [4, 4, 2]),
        ([5], {}, [2] * 5),
        ([10], {}, [1] * 10),
        ([20], {}, [1] * 10),
        ([4], {}, [3, 3, 3, 1]),
        ([], {"size": 2}, [2] * 5),
        ([], {"size": 4}, [4, 4, 2]),
        ([], {"size": [2, 4, 4]}, [2, 4, 4]),
        ([[0, 0, 0, 1, 1, 1, 1, 2, 3, 3]], {}, [3, 4, 1, 2]),
        ([[0] * 10], {"npartitions": 2}, [10, 0]),
    ],
)
def test_the_sizes_of_chunks(arguments, options, lengths):
    expected = [list(r) for r in ranges(*lengths)]

    assert [list(part) for part in chunk(range(10), *arguments, **options)] == expected
    assert chunk(list(range(10)), *arguments, **options) == expected
    for part, there in zip(chunk(np.arange(10), *arguments, **options), expected, strict=True):
        np.testing.assert_array_equal(part, there)


@pytest.mark.parametrize(("dims", "axis"), [(0, 0), (1, 1), (-1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_along_an_axis(kind, dims, axis):
    found = chunk(kind(X), 2, dims=dims)

    assert is_kind(kind, *found)
    split = -(-X.shape[axis] // 2)
    for part, there in zip(found, np.split(X, [split], axis), strict=True):
        np.testing.assert_array_equal(part, there)


def test_no_elements_make_no_chunk():
    assert chunk([], 3) == []


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, "chunk expects a number of parts or their size, got both or neither."),
        ([2], {"size": 2}, "chunk expects a number of parts or their size, got both or neither."),
        ([0], {}, "chunk expects a whole number from 1, got 0."),
        ([], {"size": -1}, "chunk expects a whole number from 1, got -1."),
        ([], {"size": [1, 2]}, "chunk expects sizes that add up to 4, got [1, 2]."),
        (
            [[0, 1, 0, 1]],
            {},
            "chunk expects a sorted number of a part, from 0, for each of 4 elements, got "
            "[0, 1, 0, 1].",
        ),
    ],
)
def test_chunk_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        chunk(X, *arguments, **options)


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        list("abbca"),
        "abbca",
        np.array(list("abbca")),
        tf.constant([97, 98, 98, 99, 97]),
        np.array([0.5, 1.5, 1.5, 2.5, 0.5]),
    ],
)
def test_groups(x):
    a, b, c = sorted(set(np.asarray(list(x)).tolist()))

    assert group_counts(x) == {a: 2, b: 2, c: 1}
    assert group_indices(x) == {a: [0, 4], b: [1, 2], c: [3]}
    assert list(group_counts(x)) == [a, b, c]
    assert not any(isinstance(element, np.generic) for element in group_indices(x))


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rpad_constant_of_mlutils_documentation(kind):
    x = kind([[1, 2], [3, 4]])

    def check(found, expected):
        assert is_kind(kind, found)
        np.testing.assert_array_equal(found, expected)

    check(rpad_constant(kind([1, 2]), 4, -1), [1, 2, -1, -1])
    check(rpad_constant(kind([1, 2, 3]), 2), [1, 2, 3])
    check(rpad_constant(x, 4, dims=0), [[1, 2], [3, 4], [0, 0], [0, 0]])
    check(rpad_constant(x, 4), [[1, 2, 0, 0], [3, 4, 0, 0], [0] * 4, [0] * 4])
    check(rpad_constant(x, (3, 4)), [[1, 2, 0, 0], [3, 4, 0, 0], [0] * 4])
    check(rpad_constant(x, 3, dims=(1,)), [[1, 2, 0], [3, 4, 0]])
    check(rpad(x, 3, 7), [[1, 2], [3, 4], [7, 7]])


def test_rpad_constant_refuses_other_numbers_of_lengths():
    with pytest.raises(
        ValueError, match=r"^rpad_constant expects a length for each of 3 axes, got"
    ):
        rpad_constant(X, (1, 2))


SEQUENCES = [X[0], np.concatenate([X[1], X[2]]), X[3][:1]]


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_are_padded_at_their_ends(kind):
    expected = np.full((3, 6, 2), -1.0)
    for i, sequence in enumerate(SEQUENCES):
        expected[i, : len(sequence)] = sequence

    found = batch_sequence(list(map(kind, SEQUENCES)), pad=-1)
    steps = batchseq(list(map(kind, SEQUENCES)), -1)

    assert is_kind(kind, found, *steps)
    np.testing.assert_array_equal(found, expected)
    assert len(steps) == 6
    np.testing.assert_array_equal(np.stack(steps, 1), expected)


@pytest.mark.parametrize(
    ("n", "expected"), [(2, [[1, 4], [2, 5]]), (4, [[1, 4], [2, 5], [3, 0], [0, 0]])]
)
def test_batchseq_of_so_many_steps(n, expected):
    found = batchseq([[1, 2, 3], [4, 5]], 0, n)

    assert [step.tolist() for step in found] == expected


@pytest.mark.parametrize(
    ("seqs", "shapes"), [([X[0], X[0][:, :1]], "(3, 2), (3, 1)"), ([], "of none")]
)
@pytest.mark.parametrize("function", [batchseq, batch_sequence])
def test_sequences_that_differ_in_more_than_lengths_are_refused(function, seqs, shapes):
    message = (
        f"{function.__name__} expects sequences that differ in their lengths alone, got shapes "
        f"{shapes}."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        function(seqs)


# --- scaling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [0, -1, (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_scaling_by_its_formula(kind, dtype, dims):
    x = np.random.default_rng(0).normal(3, 2, X.shape).astype(dtype)
    σ = np.sqrt(np.mean((x - x.mean(dims, keepdims=True)) ** 2, dims, keepdims=True))
    least, most = x.min(dims, keepdims=True), x.max(dims, keepdims=True)

    normalised, rescaled = normalise(kind(x), dims=dims, eps=0.1), rescale(kind(x), dims=dims)

    assert is_kind(kind, normalised, rescaled)
    assert normalised.dtype == rescaled.dtype == dtype
    expected = (x - x.mean(dims, keepdims=True)) / (σ + 0.1)
    np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rescaled, (x - least) / (most - least + 1e-5), rtol=1e-5)


def test_epsilon_is_outside_of_the_root():
    x = np.array([-1.0, 1.0]) * 1e-5  # of standard deviation 1e-5

    np.testing.assert_allclose(normalise(x), [-0.5, 0.5])


def test_what_is_constant_becomes_zero():
    np.testing.assert_array_equal(normalise(np.ones(3)), np.zeros(3))
    np.testing.assert_array_equal(rescale([2, 2]), np.zeros(2))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_compiled_function_of_an_unknown_batch(jit_compile):
    def f(x):
        parts = chunk(x, 2, dims=1)
        return normalise(x), rescale(x), stack(parts[:1] * 2), unsqueeze(x, dims=1), zeros_like(x)

    x = tf.constant(X)
    shape = None if jit_compile else 4
    compiled = tf.function(f, [tf.TensorSpec([shape, 3, 2])], jit_compile=jit_compile)
    for found, expected in zip(compiled(x), f(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_axis_of_unknown_length_is_not_split():
    message = "chunk expects an axis 0 of known length, got an array of shape (None, 3)."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        chunk(keras.Input((3,)), 2)


def test_gradients_pass():
    x = tf.constant(X[0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(stack(chunk(rpad(unsqueeze(x, dims=1), 4, 0), 2))[0] ** 2)

    np.testing.assert_array_equal(tape.gradient(y, x), 2 * X[0] * [[1], [1], [0]])


# --- like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "value"),
    [(zeros_like, 0), (ones_like, 1), (trues_like, True), (falses_like, False)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_filled(kind, function, value):
    x = kind(np.zeros((2, 3), "float16"))
    dtype = "bool" if isinstance(value, bool) else "float16"

    for found, shape in (function(x), (2, 3)), (function(x, size=(4, 1)), (4, 1)):
        assert is_kind(kind, found) and found.dtype == dtype and found.shape == shape
        np.testing.assert_array_equal(found, np.full(shape, value))


@pytest.mark.parametrize("kind", KINDS)
def test_filled_with_another_dtype(kind):
    found = fill_like(kind(X), 3, "int32", (2,))

    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, [3, 3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [zeros_like, ones_like, trues_like, rand_like, randn_like])
def test_the_size_may_come_in_place_of_the_dtype(function, kind):
    x = kind(np.zeros((2, 3), "float32"))

    for size, shape in ((4, 1), (4, 1)), (5, (5,)), ((), ()):
        assert function(x, size).shape == shape
        assert function(x, size).dtype == function(x).dtype


@pytest.mark.parametrize(
    ("function", "mean", "deviation"), [(rand_like, 0.5, 12**-0.5), (randn_like, 0, 1)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_random(kind, function, mean, deviation):
    x = kind(np.zeros((100, 100), "float32"))

    found = function(x, seed=1)

    assert is_kind(kind, found) and found.dtype == "float32" and found.shape == (100, 100)
    assert abs(np.mean(found) - mean) < 0.05 and abs(np.std(found) - deviation) < 0.05
    np.testing.assert_array_equal(function(x, seed=1), found)
    assert np.any(np.asarray(function(x)) != np.asarray(function(x)))
    assert function(x, "float64", (2,)).dtype == "float64"


def test_keras_tensors_are_tensors():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, unsqueeze(normalise(inputs, dims=-1), dims=-1))

    assert model(np.ones((2, 4))).shape == (2, 4, 1)
