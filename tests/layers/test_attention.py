import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Dense,
    MultiHeadAttention,
    ShapeError,
    dot_product_attention,
    dot_product_attention_scores,
    glorot_uniform,
    make_causal_mask,
    params,
)

rng = np.random.default_rng(0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_attention(q, k, v, bias=0.0, mask=True, nheads=1):
    """One sample after another, one head after another, as `y, α`."""
    shape = (*q.shape[:-2], nheads, q.shape[-2], k.shape[-2])
    bias, mask = np.broadcast_to(bias, shape), np.broadcast_to(mask, shape)
    y, α = np.zeros((*q.shape[:-1], v.shape[-1])), np.zeros(shape)
    d, dv = q.shape[-1] // nheads, v.shape[-1] // nheads
    for sample in np.ndindex(*q.shape[:-2]):
        for h in range(nheads):
            of_k, of_v = slice(h * d, (h + 1) * d), slice(h * dv, (h + 1) * dv)
            fits = q[sample][:, of_k] @ k[sample][:, of_k].T / math.sqrt(d) + bias[sample][h]
            α[sample][h] = softmax(np.where(mask[sample][h], fits, -np.inf))
            y[sample][:, of_v] = α[sample][h] @ v[sample][:, of_v]
    return y, α


def qkv(*batch, q=4, kv=6, d=8, dv=12, dtype="float64"):
    shapes = (*batch, q, d), (*batch, kv, d), (*batch, kv, dv)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def assert_close(ours, expected, **tolerance):
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-6} | tolerance)


# --- dot_product_attention -----------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("nheads", [1, 2, 4])
def test_attention_is_the_formula(batch, nheads):
    q, k, v = qkv(*batch)

    assert_close(
        dot_product_attention(q, k, v, nheads=nheads), numpy_attention(q, k, v, nheads=nheads)
    )


@pytest.mark.parametrize("shape", [(1,), (6,), (4, 6), (2, 4, 6), (3, 1, 1, 6), (3, 2, 4, 6)])
def test_a_bias_and_a_mask_broadcast(shape):
    q, k, v = qkv(3)
    bias, mask = rng.normal(size=shape), rng.random(shape) < 0.7
    mask[..., :1] = True

    with_bias = dot_product_attention(q, k, v, bias, nheads=2)
    with_mask = dot_product_attention(q, k, v, mask=mask, nheads=2)

    assert_close(with_bias, numpy_attention(q, k, v, bias, nheads=2))
    assert_close(with_mask, numpy_attention(q, k, v, mask=mask, nheads=2))
    assert np.all(with_mask[1].numpy()[~np.broadcast_to(mask, (3, 2, 4, 6))] == 0)


def test_a_causal_mask_hides_the_future():
    q, k, v = qkv(3, q=5, kv=5)

    y, α = dot_product_attention(q, k, v, mask="causal", nheads=2)

    assert_close((y, α), numpy_attention(q, k, v, mask=np.tri(5, dtype=bool), nheads=2))
    changed = k.copy()
    changed[:, 3:] += 1
    y_of_changed, _ = dot_product_attention(q, changed, v, mask=make_causal_mask(q), nheads=2)
    np.testing.assert_allclose(y_of_changed[:, :3], y[:, :3])


def test_gradients_of_masked_attention_are_finite():
    q = tf.constant(rng.normal(size=(3, 5, 8)))
    with tf.GradientTape() as tape:
        tape.watch(q)
        y, _ = dot_product_attention(q, q, q, mask="causal")

    assert np.isfinite(tape.gradient(y, q)).all()


def test_a_query_without_keys_gets_nan_as_in_flux():
    q, k, v = qkv(q=2)

    y, _ = dot_product_attention(q, k, v, mask=[[True] * 6, [False] * 6])

    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def test_fdrop_changes_the_weights():
    q, k, v = qkv(3)

    y, α = dot_product_attention(q, k, v, fdrop=lambda α: 2 * α)

    expected_y, expected_α = numpy_attention(q, k, v)
    assert_close((y, α), (2 * expected_y, 2 * expected_α))


def test_scores_are_those_of_attention():
    q, k, v = qkv(3)
    bias = rng.normal(size=(4, 6))

    α = dot_product_attention_scores(
        q.reshape(3, 4, 2, 4), k.reshape(3, 6, 2, 4), bias, mask=np.eye(4, 6) == 0
    )

    expected = numpy_attention(q, k, v, bias, mask=np.eye(4, 6) == 0, nheads=2)[1]
    np.testing.assert_allclose(α, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_any_dtype_and_batch(dtype, jit_compile):
    call = tf.function(
        lambda q, k, v: dot_product_attention(q, k, v, mask=np.tri(4, 6) == 1, nheads=2),
        jit_compile=jit_compile,
        input_signature=[
            tf.TensorSpec((None, 4, 8), dtype),
            tf.TensorSpec((None, 6, 8), dtype),
            tf.TensorSpec((None, 6, 12), dtype),
        ],
    )
    tolerance = 1e-2 if dtype == "float16" else 1e-4

    for batch in 1, 3:
        arrays = qkv(batch, dtype=dtype)
        y, α = call(*arrays)
        expected = numpy_attention(
            *(a.astype("float64") for a in arrays), mask=np.tri(4, 6) == 1, nheads=2
        )
        assert y.dtype == α.dtype == dtype
        assert_close((y, α), expected, rtol=tolerance, atol=tolerance)


def test_lengths_may_be_unknown():
    spec = tf.TensorSpec((None, None, 8))
    call = tf.function(
        lambda q: dot_product_attention(q, q, q, mask="causal"), input_signature=[spec]
    )
    q = qkv(3, dtype="float32")[0]

    assert_close(call(q), numpy_attention(q, q, q, mask=np.tri(4, dtype=bool)), atol=1e-5)


@pytest.mark.parametrize(("shape", "dims"), [((2, 4, 3), -2), ((4, 3), 0), ((3, 4), 1), ((4,), -1)])
def test_a_causal_mask_is_a_lower_triangle(shape, dims):
    mask = make_causal_mask(np.zeros(shape), dims=dims)

    assert mask.dtype == tf.bool
    np.testing.assert_array_equal(mask, np.tri(4, dtype=bool))


AXIS = "attention expects {} of the same shape but for axis {}, got {} and {}."


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((4, 8), (6, 7), (6, 12), AXIS.format("queries and keys", -2, (4, 8), (6, 7))),
        (
            (3, 4, 8),
            (2, 6, 8),
            (2, 6, 12),
            AXIS.format("queries and keys", -2, (3, 4, 8), (2, 6, 8)),
        ),
        ((4, 8), (6, 8), (5, 12), AXIS.format("keys and values", -1, (6, 8), (5, 12))),
        ((8,), (8,), (8,), AXIS.format("queries and keys", -2, (8,), (8,))),
    ],
)
def test_shapes_must_agree(q, k, v, message):
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        dot_product_attention(np.ones(q), np.ones(k), np.ones(v))


@pytest.mark.parametrize("name", ["bias", "mask"])
@pytest.mark.parametrize("shape", [(5,), (3, 6), (3, 4, 6), (1, 3, 2, 4, 6)])
def test_a_bias_and_a_mask_must_fit(name, shape):
    q, k, v = qkv(3)
    message = (
        f"attention expects a {name} of a shape that broadcasts to (..., heads, queries, keys), "
        f"here (3, 2, 4, 6), got {shape}."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        dot_product_attention(q, k, v, nheads=2, **{name: np.ones(shape)})


def test_a_causal_mask_is_for_as_many_keys_as_queries():
    with pytest.raises(ShapeError, match=re.escape("here (3, 1, 4, 6), got (4, 4).")):
        dot_product_attention(*qkv(3), mask="causal")


def test_a_mask_by_name_is_causal():
    message = "attention expects the mask \"causal\" or an array, got 'future'."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dot_product_attention(*qkv(3), mask="future")


def test_heads_divide_the_features():
    message = "attention expects numbers of features that nheads=3 divides, got shape (2, 4, 8)."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        dot_product_attention(*qkv(2), nheads=3)


# --- MultiHeadAttention --------------------------------------------------------------------------


def numpy_dense(dense, x):
    y = x @ np.float64(dense.kernel.numpy())
    return y + np.float64(dense.bias.numpy()) if dense.use_bias else y


def numpy_layer(layer, q, k, v, *args, **kwargs):
    projections = zip((layer.q_proj, layer.k_proj, layer.v_proj), (q, k, v))
    y, α = numpy_attention(
        *(numpy_dense(dense, x) for dense, x in projections), *args, nheads=layer.nheads, **kwargs
    )
    return numpy_dense(layer.out_proj, y), α


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_layer_projects_attends_and_projects(bias, batch):
    layer = MultiHeadAttention((5, 6, 7), (8, 12), 9, nheads=4, bias=bias)
    for p in params(layer):
        p.assign(rng.normal(size=p.shape))
    q, k, v = (rng.normal(size=(*batch, n, d)) for n, d in ((3, 5), (4, 6), (4, 7)))
    added, mask = rng.normal(size=(3, 4)), np.tri(3, 4) == 1

    assert_close(layer(q, k, v), numpy_layer(layer, q, k, v), rtol=1e-3, atol=1e-5)
    assert_close(
        layer(q, k, v, added, mask=mask),
        numpy_layer(layer, q, k, v, added, mask=mask),
        rtol=1e-3,
        atol=1e-5,
    )


def test_keys_and_values_default_to_what_came_before():
    layer = MultiHeadAttention(8, nheads=2)
    q, k = rng.normal(size=(2, 4, 8)), rng.normal(size=(2, 6, 8))

    assert_close(layer(q), layer(q, q, q))
    assert_close(layer(q, k), layer(q, k, k))
    assert_close(layer(q, mask="causal"), layer(q, mask=np.tri(4) == 1))


@pytest.mark.parametrize(
    ("dims", "shapes", "source", "text"),
    [
        ((64,), [(64, 64)] * 4, "64", "64"),
        ((np.int64(64),), [(64, 64)] * 4, "64", "64"),
        (
            (64, 1024, 1024),
            [(64, 1024)] * 3 + [(1024, 1024)],
            "64, 1024, 1024",
            "64 => 1024 => 1024",
        ),
        (
            ((4, (8, 16), 2),),
            [(4, 8), (4, 8), (4, 16), (16, 2)],
            "4, (8, 16), 2",
            "4 => (8, 16) => 2",
        ),
        (
            ([1, 2, 3], [8, 16], 5),
            [(1, 8), (2, 8), (3, 16), (16, 5)],
            "(1, 2, 3), (8, 16), 5",
            "(1, 2, 3) => (8, 16) => 5",
        ),
    ],
)
def test_dims_in_every_form_of_flux(dims, shapes, source, text):
    layer = MultiHeadAttention(*dims)

    projections = layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj
    assert [p.kernel.shape for p in projections] == shapes
    assert layer.nheads == 8
    assert not any(p.use_bias for p in projections)
    assert len(params(layer)) == 4
    assert repr(layer) == f"MultiHeadAttention({source}, nheads=8)"
    assert str(layer) == f"MultiHeadAttention({text}, nheads=8)"
    assert repr(eval(repr(layer))) == repr(layer)


def test_printing_of_options():
    layer = MultiHeadAttention(4, nheads=2, bias=True, dropout_prob=0.25)
    text = "MultiHeadAttention(4, nheads=2, bias=True, dropout_prob=0.25)"

    assert str(layer) == repr(layer) == text


def test_weights_are_dropped_while_training_and_scaled():
    layer = MultiHeadAttention(8, nheads=2, dropout_prob=0.5)
    x = rng.normal(size=(4, 20, 8))
    α = layer(x)[1].numpy()

    dropped = layer(x, training=True)[1].numpy()

    assert 0.4 < np.mean(dropped == 0) < 0.6
    np.testing.assert_allclose(dropped[dropped != 0], 2 * α[dropped != 0], rtol=1e-4)


@pytest.mark.parametrize(
    "init", ["glorot_uniform", keras.initializers.GlorotUniform(), glorot_uniform]
)
def test_each_projection_starts_with_numbers_of_its_own(init):
    kernels = [p.numpy() for p in params(MultiHeadAttention(8, init=init))]

    assert len({kernel.tobytes() for kernel in kernels}) == 4
    assert all(np.abs(kernel).max() <= math.sqrt(6 / 16) for kernel in kernels)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_values_and_gradients_are_the_same(jit_compile):
    layer = MultiHeadAttention(8, 16, 4, nheads=2)
    x = tf.constant(rng.normal(size=(2, 5, 8)), tf.float32)

    def run(x):
        with tf.GradientTape() as tape:
            y, α = layer(x, mask="causal")
            loss = tf.reduce_sum(y**2)
        return y, α, *tape.gradient(loss, [v.value for v in params(layer)])

    assert_close(
        tf.function(run, jit_compile=jit_compile)(x), [a.numpy() for a in run(x)], atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_dtype_of_the_layer_is_that_of_its_parts(dtype):
    layer = MultiHeadAttention(8, nheads=2, dtype=dtype)

    y, α = layer(rng.normal(size=(2, 5, 8)))

    assert y.dtype == α.dtype == dtype
    assert {p.dtype for p in params(layer)} == {dtype}


def test_saving(tmp_path):
    m = Chain(
        Dense(3, 8),
        MultiHeadAttention(8, (4, 6), 5, nheads=2, bias=True, dropout_prob=0.5),
        keras.layers.Identity(),
    )
    x = rng.normal(size=(2, 7, 3))
    expected = m(x)

    m.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(m)
    assert_close(again(x), [a.numpy() for a in expected], rtol=0, atol=0)


def test_it_is_a_keras_layer_of_functional_models(tmp_path):
    layer = MultiHeadAttention(8, nheads=2)
    q, k = keras.Input((None, 8)), keras.Input((None, 8))
    mask = keras.Input((1, None, None), dtype="bool")
    model = keras.Model([q, k, mask], layer(q, k, mask=mask))
    arrays = [rng.normal(size=(2, n, 8)) for n in (4, 6)]
    allowed = np.tile(np.tri(4, 6) == 1, (2, 1, 1, 1))
    expected = [a.numpy() for a in layer(*arrays, mask=allowed)]

    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")

    assert_close(model([*arrays, allowed]), expected)
    assert_close(again([*arrays, allowed]), expected)


def test_a_chain_goes_on_with_the_output():
    m = Chain(Dense(3, 8), MultiHeadAttention(8), lambda result: result[0], Dense(8, 2))

    assert m(rng.normal(size=(2, 7, 3))).shape == (2, 7, 2)


@pytest.mark.parametrize("shapes", [[(8,)], [(2, 4, 7)], [(4, 8), (4, 7)], [(4, 8)] * 2 + [(4, 9)]])
def test_a_layer_says_which_inputs_it_expects(shapes):
    layer = MultiHeadAttention(8)
    given = ", ".join(map(str, shapes + shapes[-1:] * (3 - len(shapes))))
    message = (
        "MultiHeadAttention(8, nheads=8) expects queries, keys and values of shapes "
        f"(..., time, 8), (..., time, 8), (..., time, 8), got {given}."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        layer(*map(np.ones, shapes))


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((), ""),
        ((8, 8), "8, 8"),
        ((0,), "0"),
        ((8, (8, 8, 8), 8), "8, (8, 8, 8), 8"),
        (((8, 8), 8, 8), "(8, 8), 8, 8"),
        ((8, 8, (8, 8)), "8, 8, (8, 8)"),
        (("a",), "a"),
        ((8.5,), "8.5"),
    ],
)
def test_dims_are_of_these_forms(dims, words):
    message = (
        "MultiHeadAttention expects numbers of features d, or in, qkv, out, "
        f"got ({words}). Write MultiHeadAttention(64, 1024, 64)."
    )

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MultiHeadAttention(*dims)


@pytest.mark.parametrize(("dims", "nheads"), [((9,), 8), ((8, (8, 9), 8), 4), ((8,), 0)])
def test_heads_divide_the_dims(dims, nheads):
    message = rf"^MultiHeadAttention expects numbers of features that nheads={nheads} divides, got"

    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(*dims, nheads=nheads)
