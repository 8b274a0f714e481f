import copy
import inspect
import math
import pickle
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Dense,
    ShapeError,
    glorot_normal,
    glorot_uniform,
    identity_init,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    nfan,
    ones32,
    orthogonal,
    rand32,
    randn32,
    sparse_init,
    truncated_normal,
    zeros32,
)

RANDOM = [
    glorot_uniform,
    glorot_normal,
    kaiming_uniform,
    kaiming_normal,
    truncated_normal,
    lecun_normal,
    orthogonal,
    sparse_init(sparsity=0.5),
    rand32,
    randn32,
]
ALL = [*RANDOM, identity_init, ones32, zeros32]


# --- nfan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "fans"),  # flux_api.md, section 11, with matrices as (in, out)
    [((), (1, 1)), ((7,), (1, 7)), ((10, 20), (10, 20)), ((3, 3, 2, 10), (18, 90))],
)
def test_fans_are_those_of_flux(shape, fans):
    assert nfan(*shape) == fans
    assert nfan(shape) == fans


def test_fans_of_kernels_of_layers():
    assert nfan(Dense(10, 20).kernel.shape) == (10, 20)


# --- Distributions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "bound"),
    [
        (glorot_uniform, math.sqrt(6 / (200 + 300))),
        (glorot_uniform(gain=2), 2 * math.sqrt(6 / (200 + 300))),
        (kaiming_uniform, math.sqrt(3) * math.sqrt(2) / math.sqrt(200)),
        (kaiming_uniform(gain=1), math.sqrt(3) / math.sqrt(200)),
    ],
)
def test_uniform_ones_fill_their_interval(init, bound):
    x = init(200, 300).numpy()

    assert bound * 0.999 < abs(x).max() <= bound * (1 + 1e-6)
    assert x.mean() == pytest.approx(0, abs=0.01 * bound)
    assert x.std() == pytest.approx(bound / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        (glorot_normal, math.sqrt(2 / (200 + 300))),
        (glorot_normal(gain=3), 3 * math.sqrt(2 / (200 + 300))),
        (kaiming_normal, math.sqrt(2) / math.sqrt(200)),
        (kaiming_normal(gain=1), 1 / math.sqrt(200)),
        (lecun_normal, 1 / math.sqrt(200)),
        (randn32, 1.0),
    ],
)
def test_normal_ones_are_not_cut_off_at_two_deviations(init, std):
    x = init(200, 300).numpy() / std

    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(1, rel=0.01)
    assert np.mean(abs(x) > 2) == pytest.approx(0.0455, abs=0.004)


def test_convolutions_have_the_fans_of_their_window():
    x = kaiming_uniform(3, 3, 20, 30).numpy()

    bound = math.sqrt(6 / (3 * 3 * 20))
    assert bound * 0.99 < abs(x).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "lo", "hi"),
    [(0, 1, -2, 2), (0, 1, 0, 0.5), (1, 2, -1, 1.5), (0, 10, -2, 2), (0, 0.1, -2, 2)],
)
def test_truncated_normal_has_the_moments_of_the_formula(mean, std, lo, hi):
    grid = np.linspace(lo, hi, 100_001)
    density = np.exp(-(((grid - mean) / std) ** 2) / 2)
    density /= density.sum()
    expected = (grid * density).sum()
    deviation = math.sqrt(((grid - expected) ** 2 * density).sum())

    x = truncated_normal(50_000, mean=mean, std=std, lo=lo, hi=hi).numpy()

    assert lo <= x.min() and x.max() <= hi
    assert x.mean() == pytest.approx(expected, abs=0.02 * deviation)
    assert x.std() == pytest.approx(deviation, rel=0.02)


def test_truncated_normal_warns_of_a_mean_far_outside():
    with pytest.warns(UserWarning, match="mean is more than 2 std from lo and hi"):
        x = truncated_normal(100, mean=20, lo=-1, hi=1).numpy()

    assert np.all((x >= -1) & (x <= 1))


def test_rand32_is_uniform_from_0_to_1():
    x = rand32(50_000).numpy()

    assert 0 <= x.min() < 1e-3 and 1 - 1e-3 < x.max() < 1
    assert x.std() == pytest.approx(1 / math.sqrt(12), rel=0.01)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (5, 5), (3, 3, 2, 4)])
@pytest.mark.parametrize("gain", [1, 2.5])
def test_orthogonal_has_orthonormal_rows_or_columns(shape, gain):
    W = orthogonal(*shape, gain=gain).numpy().reshape(-1, shape[-1]) / gain

    product = W @ W.T if W.shape[0] < W.shape[1] else W.T @ W
    assert W.shape == (math.prod(shape[:-1]), shape[-1])
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)


def test_orthogonal_prefers_no_sign():
    corner = [orthogonal(2, 2).numpy()[0, 0] > 0 for _ in range(200)]

    assert 60 < sum(corner) < 140


@pytest.mark.parametrize(
    ("rows", "sparsity", "zeros"), [(10, 0.25, 3), (10, 0.9, 9), (10, 0, 0), (10, 1, 10), (4, 7, 4)]
)
def test_sparse_init_has_as_many_zeros_in_each_column(rows, sparsity, zeros):
    x = sparse_init(rows, 50, sparsity=sparsity).numpy()

    np.testing.assert_array_equal((x == 0).sum(axis=0), np.full(50, zeros))


def test_what_sparse_init_leaves_is_normal_and_anywhere():
    x = sparse_init(100, 500, sparsity=0.3, std=0.1).numpy()

    left = x[x != 0]
    assert left.mean() == pytest.approx(0, abs=0.002)
    assert left.std() == pytest.approx(0.1, rel=0.02)
    np.testing.assert_allclose((x == 0).mean(axis=1), np.full(100, 0.3), atol=0.1)


def test_sparse_init_is_of_deviation_001_by_default():
    assert sparse_init(200, 200, sparsity=0).numpy().std() == pytest.approx(0.01, rel=0.02)


# --- What is not random --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3)])
def test_identity_init_of_a_matrix_is_the_identity(shape):
    np.testing.assert_array_equal(identity_init(*shape), np.eye(*shape))
    np.testing.assert_array_equal(identity_init(*shape, gain=3), 3 * np.eye(*shape))


def test_identity_init_of_a_vector_is_zero():
    np.testing.assert_array_equal(identity_init(4, gain=3), np.zeros(4))


@pytest.mark.parametrize("window", [(3,), (4,), (3, 5), (3, 3, 3)])
def test_identity_init_passes_a_convolutions_input_on(window):
    conv = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[len(window)]
    x = np.random.default_rng(0).random((2, *[6] * len(window), 3), np.float32)

    y = conv(3, window, padding="same", kernel_initializer=identity_init)(x)

    np.testing.assert_allclose(y, x, atol=1e-6)


@pytest.mark.parametrize(("shift", "axes"), [(1, 0), (-2, 0), ((1, 2), (0, 1)), ([0, 1], (0, 1))])
@pytest.mark.parametrize("shape", [(4, 5), (3, 3, 2, 2)])
def test_identity_init_is_rolled_by_the_shift(shift, axes, shape):
    expected = np.roll(identity_init(*shape).numpy(), shift, axes)

    np.testing.assert_array_equal(identity_init(*shape, shift=shift), expected)


def test_zeros_and_ones():
    np.testing.assert_array_equal(zeros32(2, 3), np.zeros((2, 3)))
    np.testing.assert_array_equal(ones32(2, 3), np.ones((2, 3)))


# --- Forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ALL, ids=repr)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_arrays_are_of_the_shape_and_dtype_asked_for(init, dtype):
    for x in init(4, 6, dtype=dtype), init((4, 6), dtype=dtype), init([4, 6], tf.as_dtype(dtype)):
        assert x.shape == (4, 6)
        assert x.dtype == dtype
        assert np.all(np.isfinite(x.numpy().astype("float64")))


@pytest.mark.parametrize("init", ALL, ids=repr)
def test_arrays_are_of_keras_precision_but_for_those_named_32(init):
    names_its_dtype = repr(init).endswith("32")
    keras.config.set_floatx("float64")
    try:
        assert init(4, 6).dtype == ("float32" if names_its_dtype else "float64")
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("init", [glorot_uniform, kaiming_normal, lecun_normal, ones32, rand32])
def test_scalars_vectors_and_empty_arrays(init):
    assert init(()).shape == ()
    assert init(tf.TensorShape([3])).shape == (3,)
    assert init(np.int64(3)).shape == (3,)
    assert init(0, 3).shape == (0, 3)
    assert init(0, 0).shape == (0, 0)


def test_keywords_alone_give_an_initialiser_that_keeps_them():
    init = truncated_normal(lo=0)(hi=0.5)

    x = init(1000).numpy()

    assert repr(init) == "truncated_normal(lo=0, hi=0.5)"
    assert x.min() >= 0 and x.max() <= 0.5
    assert init(1000, hi=3).numpy().max() > 0.5
    assert repr(truncated_normal) == "truncated_normal"


@pytest.mark.parametrize("init", RANDOM, ids=repr)
def test_seeds(init):
    generator = keras.random.SeedGenerator(5)
    drawn = init(4, 6, seed=generator), init(4, 6, seed=generator)
    again = init(seed=keras.random.SeedGenerator(5))
    keras.utils.set_random_seed(1)
    first, second = init(4, 6), init(4, 6)
    keras.utils.set_random_seed(1)

    np.testing.assert_array_equal(first, init(4, 6))
    assert np.any(first != second)
    np.testing.assert_array_equal(init(4, 6, seed=3), init(seed=3)(4, 6))
    assert np.any(init(4, 6, seed=3) != init(4, 6, seed=4))
    np.testing.assert_array_equal(drawn, (again(4, 6), again(4, 6)))
    assert np.any(drawn[0] != drawn[1])


@pytest.mark.parametrize("init", ALL, ids=repr)
def test_any_layer_takes_them_and_saves_them(init, tmp_path):
    model = Chain(Dense(4, 6, init=init), keras.layers.Dense(6, kernel_initializer=init))
    model(np.ones((1, 4)))

    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")

    assert repr(loaded[0].kernel_initializer) == repr(init)
    np.testing.assert_array_equal(model(np.ones((2, 4))), loaded(np.ones((2, 4))))


@pytest.mark.parametrize(
    "init", [glorot_uniform(gain=np.float64(2), seed=3, dtype=tf.float64), orthogonal, zeros32]
)
@pytest.mark.parametrize(
    "remade",
    [
        lambda init: type(init).from_config(init.get_config()),
        lambda init: keras.initializers.get(keras.initializers.serialize(init)),
        lambda init: pickle.loads(pickle.dumps(init)),
        copy.deepcopy,
    ],
)
def test_they_survive_their_configuration(init, remade):
    copied = remade(init)

    assert copied(4, 5).dtype == init(4, 5).dtype
    np.testing.assert_array_equal(copied(4, 5, **SEEDED(init)), init(4, 5, **SEEDED(init)))


def SEEDED(init):
    return {} if "zeros" in repr(init) else {"seed": 3}


def test_a_generator_is_saved_with_its_seed():
    init = randn32(seed=keras.random.SeedGenerator(5))
    expected = init(3)

    loaded = keras.initializers.get(keras.initializers.serialize(init))

    np.testing.assert_array_equal(loaded(3), expected)


def test_keras_attention_takes_them():
    layer = keras.layers.MultiHeadAttention(2, 3, kernel_initializer=glorot_uniform(gain=2))

    assert layer(np.ones((1, 4, 6)), np.ones((1, 4, 6))).shape == (1, 4, 6)


def test_their_signature_and_documentation_are_those_of_the_function():
    assert list(inspect.signature(glorot_uniform).parameters) == ["shape", "gain", "seed", "dtype"]
    assert "glorot_uniform" in inspect.getdoc(glorot_uniform)


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: glorot_uniform(gian=2),
            TypeError,
            "glorot_uniform expects the keywords gain, seed, dtype, got 'gian'.",
        ),
        (
            lambda: glorot_uniform(3, -4),
            ValueError,
            "glorot_uniform expects sizes, integers from 0, got (3, -4).",
        ),
        (lambda: ones32(3.0), ValueError, "ones32 expects sizes, integers from 0, got (3.0)."),
        (
            lambda: nfan("ab"),
            ValueError,
            "nfan expects sizes, integers from 0, got ('a', 'b').",
        ),
        (lambda: orthogonal(3), ShapeError, "orthogonal expects two or more sizes, got (3,)."),
        (
            lambda: sparse_init(3, sparsity=0.5),
            ShapeError,
            "sparse_init expects two sizes, rows and columns, got (3,).",
        ),
        (
            lambda: sparse_init(3, 3, sparsity=-0.5),
            ValueError,
            "sparse_init expects a sparsity from 0 to 1, got -0.5.",
        ),
        (
            lambda: truncated_normal(3, lo=2, hi=1),
            ValueError,
            "truncated_normal expects std above 0 and lo below hi, got std=1.0, lo=2, hi=1.",
        ),
        (
            lambda: truncated_normal(3, std=0),
            ValueError,
            "truncated_normal expects std above 0 and lo below hi, got std=0, lo=-2.0, hi=2.0.",
        ),
    ],
)
def test_errors_say_what_was_expected(call, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()
