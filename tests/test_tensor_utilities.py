import bisect
import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ShapeError,
    batched_adjoint,
    batched_mul,
    batched_searchsortedfirst,
    batched_searchsortedlast,
    batched_transpose,
    batched_vec,
    gather,
    param,
    scatter,
    topk,
)

rng = np.random.default_rng(0)
JIT = pytest.mark.parametrize("jit", [False, True])


# --- Products ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # The shapes of NNlib's docstring, with the batch first.
        ((17, 2, 5), (17, 5, 9)),
        ((17, 2, 5), (1, 5, 9)),
        ((1, 2, 5), (17, 5, 9)),
        ((32, 16, 8), (8, 4)),
        ((16, 8), (32, 8, 4)),
    ],
)
def test_batched_mul_is_a_product_of_each(a, b):
    A, B = rng.normal(size=a), rng.normal(size=b)

    np.testing.assert_allclose(batched_mul(A, B), np.einsum("...ij,...jk->...ik", A, B))


def test_batched_mul_of_whole_numbers_and_of_two_dtypes():
    A = np.arange(8).reshape(2, 2, 2)

    assert batched_mul(A, A).dtype == A.dtype
    assert batched_mul(param(np.ones((1, 2, 2))), A).dtype == "float32"


def test_batched_vec_takes_a_vector_for_each_or_for_all():
    A, B = rng.normal(size=(32, 16, 8)), rng.normal(size=(32, 8))

    np.testing.assert_allclose(batched_vec(A, B), np.einsum("kij,kj->ki", A, B))
    np.testing.assert_allclose(batched_vec(A, B[0]), np.einsum("kij,j->ki", A, B[0]))


def test_batched_transpose_and_adjoint():
    A = rng.normal(size=(3, 2, 4)) + 1j * rng.normal(size=(3, 2, 4))

    np.testing.assert_array_equal(batched_transpose(A), A.transpose(0, 2, 1))
    np.testing.assert_array_equal(batched_adjoint(A), A.transpose(0, 2, 1).conj())


# --- Places --------------------------------------------------------------------------------------


def test_gather_is_the_examples_of_flux():
    assert gather([1, 20, 300, 4000], [1, 3, 1]).numpy().tolist() == [20, 4000, 20]
    src = np.array([[1, 2, 3], [4, 5, 6]]).T
    assert gather(src, [0, 2, 0, 2, 0]).numpy().T.tolist() == [[1, 3, 1, 3, 1], [4, 6, 4, 6, 4]]
    src = np.arange(1, 16).reshape(5, 3)
    assert gather(src, [1, 3], [0, 1]).numpy().tolist() == [4, 11]


def test_gather_takes_indices_of_any_shape():
    src, idx = rng.normal(size=(4, 3, 2)), rng.integers(0, 3, (5, 6))

    np.testing.assert_array_equal(gather(src, idx), src[idx])
    np.testing.assert_array_equal(gather(src, idx, idx), src[idx, idx])
    np.testing.assert_array_equal(gather(src, [(3, 2), (0, 1)]), src[[3, 0], [2, 1]])
    assert gather(src, []).shape == (0, 3, 2)


def test_the_gradient_of_gather_counts_every_time():
    src = tf.ones(3)
    with tf.GradientTape() as tape:
        tape.watch(src)
        y = gather(src, [0, 2, 0])

    np.testing.assert_array_equal(tf.convert_to_tensor(tape.gradient(y, src)), [2, 0, 1])


def test_scatter_is_the_examples_of_flux():
    assert scatter("+", [10, 100, 1000], [2, 0, 1]).numpy().tolist() == [100, 1000, 10]
    src = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]).T
    expected = [[5, 1, 0, 0, 4], [13, 5, 0, 0, 8]]
    assert scatter("+", src, [1, 0, 0, 4]).numpy().T.tolist() == expected
    found = scatter("*", [10, 200, 3000], [0, 3, 1], init=10, dstsize=6)
    assert found.numpy().tolist() == [100, 30000, 10, 2000, 10, 10]


# Of the tests of NNlib.
IDX = np.array([[1, 2, 3, 4], [4, 2, 1, 3], [3, 5, 5, 3]]) - 1
SRC = np.ones((3, 1), int) * np.arange(1, 5)
RESULTS = {
    "+": [4, 4, 12, 5, 5],
    "-": [-4, -4, -12, -5, -5],
    "max": [3, 2, 4, 4, 3],
    "min": [1, 2, 1, 1, 2],
    "*": [3, 4, 48, 4, 6],
    "/": [1 / 3, 1 / 4, 1 / 48, 1 / 4, 1 / 6],
    "mean": [2, 2, 3, 2.5, 2.5],
}
INTO = {  # ones sent to 3, 4, 5, 6, 7; for "/" twos
    "+": [5, 6, 9, 8, 9],
    "-": [1, 2, 1, 4, 5],
    "max": [3, 4, 5, 6, 7],
    "min": [1, 1, 1, 1, 1],
    "*": [3, 4, 5, 6, 7],
    "/": [0.75, 1.0, 0.3125, 1.5, 1.75],
    "mean": [4, 5, 6, 7, 8],
}
OPERATIONS = pytest.mark.parametrize("op", RESULTS)


@OPERATIONS
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_scatter_is_that_of_flux(op, dtype):
    found = scatter(op, SRC.astype(dtype), IDX)

    assert found.dtype == dtype or (op in ("/", "mean") and found.dtype == "float32")
    np.testing.assert_allclose(found, RESULTS[op], rtol=1e-6)
    # [1, 2] .* src, whose first axis is the last one here.
    both = scatter(op, SRC[..., np.newaxis] * np.array([1.0, 2.0]), IDX)
    np.testing.assert_allclose(both[:, 0], RESULTS[op], rtol=1e-6)


@OPERATIONS
def test_scatter_starts_from_init(op):
    src = np.full((3, 4), 2.0 if op == "/" else 1.0)

    for start, (old, expected) in enumerate(zip([3, 4, 5, 6, 7], INTO[op])):
        found = scatter(op, src, IDX, init=float(old))
        np.testing.assert_allclose(found[start], expected)


@OPERATIONS
def test_where_nothing_is_sent_is_what_leaves_others_as_they_are(op):
    empty = {"*": 1, "/": 1, "max": -np.inf, "min": np.inf}.get(op, 0)

    assert scatter(op, [2.0], [1])[0] == empty
    if op in ("max", "min"):
        least = np.iinfo("int32").min if op == "max" else np.iinfo("int32").max
        assert scatter(op, [2], [1])[0] == least


def test_scatter_to_several_axes():
    src, idx = rng.normal(size=(3, 2)), [(0, 1), (2, 0), (0, 1)]
    expected = np.zeros((3, 2, 2))
    for k, place in enumerate(idx):
        expected[place] += src[k]

    np.testing.assert_allclose(scatter("+", src, idx), expected)
    larger = scatter("+", src, idx, dstsize=(4, 3, 2))
    assert larger.shape == (4, 3, 2)
    np.testing.assert_allclose(larger[:3, :2], expected)


@OPERATIONS
def test_the_gradients_of_scatter(op):
    src = rng.uniform(0.5, 2.0, (3, 4))

    def call(src):
        return scatter(op, src, IDX, dstsize=6, init=1.0)

    (found,), (expected,) = tf.test.compute_gradient(call, [src], delta=1e-6)

    np.testing.assert_allclose(found, expected, atol=1e-7)


@OPERATIONS
@JIT
def test_scatter_and_gather_compile(op, jit):
    @tf.function(
        input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec((None, 4), tf.int32)],
        jit_compile=jit,
    )
    def call(src, idx):
        return gather(scatter(op, src, idx, dstsize=5), [3, 1, 0])

    found = call(SRC.astype("float32"), IDX.astype("int32"))

    np.testing.assert_allclose(found, np.asarray(RESULTS[op])[[3, 1, 0]], rtol=1e-6)


def test_a_compiled_function_finds_the_size_of_the_destination():
    call = tf.function(lambda src, idx: scatter("+", src, idx))

    np.testing.assert_array_equal(call(tf.constant(SRC), tf.constant(IDX)), RESULTS["+"])


# --- Orders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [0, 1, -1])
@pytest.mark.parametrize("rev", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_topk_is_the_beginning_of_a_sort(dims, rev, dtype):
    x = rng.permutation(60).reshape(3, 5, 4).astype(dtype)
    order = np.argsort(-x if rev else x, dims)
    expected = np.take(order, range(3), dims)

    values, indices = topk(x, 3, dims=dims, rev=rev)

    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, dims))


@pytest.mark.parametrize("rev", [False, True])
@pytest.mark.parametrize("dims", [-1, 0])
@JIT
def test_searches_are_those_of_bisect(rev, dims, jit):
    sign = -1 if rev else 1
    xp = sign * np.sort(sign * rng.integers(0, 9, (4, 10)), -1)
    x = rng.integers(-1, 11, (4, 7))
    rows = [(sorted(sign * row), sign * wanted) for row, wanted in zip(xp, x)]
    first = [[bisect.bisect_left(row, w) for w in wanted] for row, wanted in rows]
    last = [[bisect.bisect_right(row, w) - 1 for w in wanted] for row, wanted in rows]
    turn = (lambda a: np.transpose(a)) if dims == 0 else np.asarray

    for f, expected in (batched_searchsortedfirst, first), (batched_searchsortedlast, last):
        call = tf.function(lambda xp, x, f=f: f(xp, x, dims=dims, rev=rev), jit_compile=jit)
        found = call(tf.constant(turn(xp)), tf.constant(turn(x)))
        np.testing.assert_array_equal(found, turn(expected))


def test_a_vector_is_searched_for_all():
    xp, x = np.array([1.0, 2, 4]), rng.uniform(0, 5, (3, 6))

    found = batched_searchsortedfirst(xp, x)

    np.testing.assert_array_equal(found, np.searchsorted(xp, x))
    np.testing.assert_array_equal(batched_searchsortedfirst(xp, x.T, dims=0), found.numpy().T)


def test_the_documented_searches_of_flux():
    xp, x = [1, 3, 5, 7, 9], [4, 5, 8]

    # [3, 3, 5] and [2, 3, 4], which count from 1.
    assert batched_searchsortedfirst(xp, x).numpy().tolist() == [2, 2, 4]
    assert batched_searchsortedlast(xp, x).numpy().tolist() == [1, 2, 3]
    assert batched_searchsortedlast(xp, [0, 2.5]).numpy().tolist() == [-1, 0]


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: batched_mul(np.ones((2, 3, 4)), np.ones((2, 3, 4))),
            ShapeError,
            "batched_mul expects as many columns as rows, in as many matrices, got (2, 3, 4) and "
            "(2, 3, 4).",
        ),
        (
            lambda: batched_mul(np.ones((2, 3, 4)), np.ones((3, 4, 4))),
            ShapeError,
            "batched_mul expects as many columns as rows, in as many matrices, got (2, 3, 4) and "
            "(3, 4, 4).",
        ),
        (
            lambda: batched_mul(np.ones(3), np.ones((2, 3, 4))),
            ShapeError,
            "batched_mul expects matrices of shape (batch, rows, columns), got (3,).",
        ),
        (
            lambda: batched_vec(np.ones((2, 3, 4)), np.ones((3, 4))),
            ShapeError,
            "batched_vec expects as many columns as rows, in as many matrices, got (2, 3, 4) and "
            "(3, 4).",
        ),
        (
            lambda: batched_transpose(np.ones((3, 4))),
            ShapeError,
            "batched_transpose expects matrices of shape (batch, rows, columns), got (3, 4).",
        ),
        (
            lambda: gather([1, 2], [0.5]),
            TypeError,
            "gather expects indices that are whole numbers, got float32.",
        ),
        (
            lambda: gather([1, 2], [0, 2]),
            ValueError,
            "gather expects indices from 0 to 1 along axis 0, got 2.",
        ),
        (
            lambda: gather([1, 2], [0], [1]),
            ShapeError,
            "gather expects indices of at most 1 axes, those of an array of shape (2,), got "
            "indices of 2.",
        ),
        (
            lambda: gather(np.ones((2, 2)), [0], [1, 0]),
            ShapeError,
            "gather expects indices of one shape, got (1,) and (2,).",
        ),
        (
            lambda: scatter("add", [1], [0]),
            ValueError,
            "scatter expects an operation of '+', '-', 'max', 'min', '*', '/', 'mean', got 'add'.",
        ),
        (
            lambda: scatter("+", [1, 2], [0]),
            ShapeError,
            "scatter expects a source of shape (*(1,), …), as the indices have, got (2,).",
        ),
        (
            lambda: scatter("+", [1, 2], [0, -1]),
            ValueError,
            "scatter expects indices from 0 along axis 0, got -1.",
        ),
        (
            lambda: scatter("*", [1, 2], [0, 3], dstsize=3),
            ValueError,
            "scatter expects indices from 0 to 2 along axis 0, got 3.",
        ),
        (
            lambda: scatter("+", np.ones((2, 4)), [0, 1], dstsize=(2, 3)),
            ShapeError,
            "scatter expects a dstsize of 1 lengths and of (4,), the other axes of the source, "
            "got (2, 3).",
        ),
        (
            lambda: topk([1, 2, 3], 4),
            ValueError,
            "topk expects k to be a whole number from 1 to 3, got 4.",
        ),
        (
            lambda: topk([1, 2, 3], 1, dims=1),
            ShapeError,
            "topk expects an axis of an array of shape (3,), got dims=1.",
        ),
        (
            lambda: batched_searchsortedlast(np.ones((2, 3)), np.ones((3, 3))),
            ShapeError,
            "batched_searchsortedlast expects arrays that differ in the length of axis -1 alone, "
            "got (2,) and (3,) besides.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, words):
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        make()
