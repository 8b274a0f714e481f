import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import AlphaDropout, Chain, Dense, Dropout, ShapeError, dropout

BOTH = pytest.mark.parametrize("kind", [Dropout, AlphaDropout])


def ones(*shape, dtype=tf.float32):
    return tf.ones(shape, dtype)


# --- What is dropped -----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_dropout_drops_with_probability_p_and_scales_the_rest(p):
    y = Dropout(p, seed=1)(ones(100, 100), training=True).numpy()

    assert np.mean(y == 0) == pytest.approx(p, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_dropout_is_the_formula(p):
    floor = -1.7580993408473766  # flux_api.md: selu(-inf)
    scale = 1 / math.sqrt((1 - p) * (1 + p * floor**2))
    shift = -scale * floor * p
    x = np.random.default_rng(0).normal(size=(200, 200)).astype("float32")

    y = AlphaDropout(p, seed=1)(x, training=True).numpy()

    dropped = np.isclose(y, scale * floor + shift, rtol=1e-5)
    assert dropped.mean() == pytest.approx(p, abs=0.02)
    np.testing.assert_allclose(y[~dropped], (scale * x + shift)[~dropped], rtol=1e-4, atol=1e-5)
    assert y.mean() == pytest.approx(0, abs=0.03)
    assert y.std() == pytest.approx(1, abs=0.03)


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_dropped_of_p_0(kind, training):
    np.testing.assert_array_equal(kind(0)(ones(3, 4), training=training), np.ones((3, 4)))


@BOTH
def test_all_is_dropped_of_p_1_and_no_gradient_is_left(kind):
    x = ones(3, 4)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = kind(1)(x, training=True)

    np.testing.assert_array_equal(y, np.zeros((3, 4)))
    gradient = tape.gradient(y, x)
    np.testing.assert_array_equal(0 if gradient is None else gradient, 0)


def test_the_gradient_passes_where_the_numbers_do():
    x = ones(50)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Dropout(0.5)(x, training=True)

    np.testing.assert_array_equal(tape.gradient(y, x), y)


@pytest.mark.parametrize(
    ("dims", "shared"), [(0, (1, 2)), (-1, (0, 1)), ((0, 2), (1,)), ([0, 1], (2,)), ((0, 1, 2), ())]
)
def test_masks_vary_along_dims_only(dims, shared):
    y = Dropout(0.5, dims=dims, seed=1)(ones(30, 31, 32), training=True).numpy()

    first = y[tuple(slice(0, 1) if axis in shared else slice(None) for axis in range(3))]
    np.testing.assert_array_equal(y, np.broadcast_to(first, y.shape))
    assert 0.2 < np.mean(first == 0) < 0.8


# --- When ----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("active", "training", "drops"),
    [
        (None, None, False),
        (None, False, False),
        (None, True, True),
        (True, False, True),
        (True, None, True),
        (False, True, False),
    ],
)
def test_active_wins_over_training(kind, active, training, drops):
    layer = kind(0.5, active=active)
    later = kind(0.5)
    later.active = active

    for model in layer, later, Chain(layer):
        y = model(ones(200), training=training)
        assert bool(tf.reduce_any(y != 1.0)) is drops


# --- Seeds ---------------------------------------------------------------------------------------


@BOTH
def test_the_same_seed_gives_the_same_masks_in_every_form(kind):
    x = ones(5, 60)

    def three(compile):
        layer = kind(0.5, seed=3)
        call = compile(lambda x: layer(x, training=True))
        return np.stack([call(x) for _ in range(3)])

    masks = three(lambda call: call)

    assert np.any(masks[0] != masks[1]) and np.any(masks[1] != masks[2])
    np.testing.assert_array_equal(masks, three(tf.function))
    np.testing.assert_array_equal(masks, three(tf.function(jit_compile=True)))


@BOTH
def test_masks_follow_the_seed_of_the_run(kind):
    def mask():
        return kind(0.5)(ones(100), training=True).numpy()

    keras.utils.set_random_seed(1)
    first, second = mask(), mask()
    keras.utils.set_random_seed(1)

    np.testing.assert_array_equal(first, mask())
    assert np.any(first != second)


@BOTH
def test_no_operation_is_random_but_the_bits_of_philox(kind):
    layer = kind(0.5)
    call = tf.function(lambda x: layer(x, training=True))

    graph = call.get_concrete_function(tf.TensorSpec((None, 4))).graph

    random = [op for op in graph.get_operations() if "Random" in op.type]
    assert {op.type for op in random} == {"StatelessRandomUniformFullIntV2"}
    assert {int(tf.get_static_value(op.inputs[3])) for op in random} == {
        tf.random.Algorithm.PHILOX.value
    }


# --- Shapes and dtypes ---------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("jit", [False, True])
def test_any_shape_and_dtype(kind, dtype, jit):
    layer = kind(0.5, dtype=dtype, seed=1)
    call = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec((None, 8), dtype)],
        jit_compile=jit,
    )

    for batch in 0, 1, 5:
        y = call(ones(batch, 8, dtype=dtype))
        assert y.shape == (batch, 8)
        assert y.dtype == dtype
    assert layer(ones(8, dtype=dtype), training=True).shape == (8,)


def test_masks_are_the_same_in_every_dtype():
    masks = [
        Dropout(0.3, dtype=dtype, seed=2)(ones(100, dtype=dtype), training=True).numpy() == 0
        for dtype in ("float16", "float32", "float64")
    ]

    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_whole_numbers_become_fractions():
    y = Dropout(0.2, active=True, seed=1)(tf.ones(100, tf.int32))

    assert set(np.unique(y)) == {0.0, np.float32(1.25)}


# --- Printing, saving, errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Dropout(0.5), "Dropout(0.5)"),
        (Dropout(1), "Dropout(1)"),
        (Dropout(0.5, dims=1), "Dropout(0.5, dims=(1,))"),
        (Dropout(0.5, dims=(0, 3), seed=2), "Dropout(0.5, dims=(0, 3), seed=2)"),
        (AlphaDropout(0.25, active=False), "AlphaDropout(0.25, active=False)"),
    ],
)
def test_printing(layer, text):
    assert str(layer) == repr(layer) == text
    assert repr(eval(text)) == text


@pytest.mark.parametrize(
    "layer",
    [Dropout(0.4, dims=(0, -1), active=True, seed=4), AlphaDropout(0.4, active=True, seed=5)],
)
def test_saving(layer, tmp_path):
    model = Chain(Dense(4, 6), layer)
    model.save(tmp_path / "m.keras")

    loaded = keras.models.load_model(tmp_path / "m.keras")

    assert repr(loaded) == repr(model)
    x = np.ones((3, 4))
    np.testing.assert_array_equal(model(x), loaded(x))


def test_dropout_is_keras_dropout():
    assert isinstance(Dropout(0.5), keras.layers.Dropout)


@BOTH
@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_p_is_a_probability(kind, p):
    message = f"{kind.__name__} expects a probability p from 0 to 1, got {p}."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(p)


@pytest.mark.parametrize("dims", [2, -3, (0, 5)])
def test_dims_are_axes_of_the_input(dims):
    layer = Dropout(0.5, dims=dims)
    message = f"{layer} expects inputs with those axes, got shape (3, 4)."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        layer(ones(3, 4), training=True)


# --- The function ---------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_the_function_drops_whether_it_trains_or_not(p):
    y = dropout(np.ones((200, 100)), p, seed=1).numpy()

    # 20000 draws: six standard deviations of their mean.
    assert abs(np.mean(y == 0) - p) < 6 * math.sqrt(p * (1 - p) / 20000)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p))


def test_the_function_at_its_ends():
    x = np.arange(6.0)

    np.testing.assert_array_equal(dropout(x, 0), x)
    np.testing.assert_array_equal(dropout(x, 1), np.zeros(6))
    assert dropout([1, 2], 0.5).dtype == "float32"


@pytest.mark.parametrize("dims", [0, (0, 2), -1])
def test_the_function_varies_its_mask_along_dims_only(dims):
    y = dropout(np.ones((30, 20, 40)), 0.5, dims=dims, seed=2).numpy()

    others = tuple(set(range(3)) - {axis % 3 for axis in np.ravel(dims)})
    assert np.all(y.max(others) == y.min(others))
    assert len(np.unique(y.max(others))) == 2


def test_the_function_takes_a_seed():
    x, generator = np.ones(50), keras.random.SeedGenerator(1)

    np.testing.assert_array_equal(dropout(x, 0.5, seed=3), dropout(x, 0.5, seed=3))
    assert np.any(dropout(x, 0.5, seed=generator) != dropout(x, 0.5, seed=generator))


@pytest.mark.parametrize("jit", [False, True])
def test_the_function_draws_anew_where_it_is_compiled(jit):
    call = tf.function(
        lambda x: dropout(x, 0.5), input_signature=[tf.TensorSpec((None, 9))], jit_compile=jit
    )
    x = np.ones((50, 9), "float32")

    assert set(np.unique(call(x))) == {0, 2}
    assert np.any(call(x) != call(x))


def test_the_function_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"^dropout expects a probability p from 0 to 1, got 2\.$"):
        dropout([1.0], 2)
    message = "dropout expects inputs with those axes, got shape (1,)."
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        dropout([1.0], 0.5, dims=1)
