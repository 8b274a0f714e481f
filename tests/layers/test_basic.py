import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Bilinear,
    Chain,
    Dense,
    Diagonal,
    Embedding,
    EmbeddingBag,
    Scale,
    ShapeError,
    flatten,
    identity_init,
    onehotbatch,
    params,
    relu,
    tanh,
)

rng = np.random.default_rng(0)


def randoms(*shape):
    return rng.normal(size=shape)


def close(y, expected):
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def saved_and_loaded(layer, path):
    Chain(layer).save(path / "m.keras")
    return keras.models.load_model(path / "m.keras")[0]


# --- flatten -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 4), (5,), (0, 4, 3)])
def test_flatten_keeps_the_batch_axis(shape):
    x = randoms(*shape)

    np.testing.assert_array_equal(flatten(x), x.reshape(shape[0], int(np.prod(shape[1:]))))


@pytest.mark.parametrize("spec", [(None, 4, 3), (5, None, 3), (None, None, None)])
def test_flatten_leaves_sizes_open(spec):
    x = tf.constant(randoms(5, 4, 3))
    call = tf.function(flatten, input_signature=[tf.TensorSpec(spec, tf.float64)])

    np.testing.assert_array_equal(call(x), flatten(x))


def test_flatten_of_a_number():
    with pytest.raises(ShapeError, match=r"^flatten expects an array of shape \(batch, \.\.\.\)"):
        flatten(3.0)


def test_flatten_is_an_element_of_a_chain_that_saves(tmp_path):
    m = Chain(flatten, Dense(12, 2))
    m.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(m) == "Chain(flatten, Dense(12, 2))"
    assert m(randoms(5, 4, 3)).shape == (5, 2)


# --- Scale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (5, 1)])
def test_scale_is_the_formula(shape):
    layer = Scale(3, tanh, init="random_normal")
    layer.bias.assign([1.0, 2.0, 3.0])
    x = randoms(*shape)

    close(layer(x), np.tanh(x * layer.weight.numpy() + [1, 2, 3]))


def test_scale_broadcasts_as_flux_has_it():
    layer = Scale([[1.0], [2.0], [3.0], [4.0]], False, tf.square)

    close(layer([1.0, 10.0]), [[1, 100], [4, 400], [9, 900], [16, 1600]])
    close(Scale(2)([[1.0], [2.0], [3.0]]), [[1, 1], [2, 2], [3, 3]])


def test_scale_starts_as_the_identity():
    x = randoms(5, 2, 3).astype("float32")

    np.testing.assert_array_equal(Scale(2, 3)(x), x)
    np.testing.assert_array_equal(Scale((2, 3), bias=False)(x), x)
    assert [tuple(p.shape) for p in params(Scale(2, 3))] == [(2, 3), (2, 3)]
    assert len(params(Scale(2, 3, bias=False))) == 1


def test_scale_takes_arrays():
    assert Scale([1.0, 2.0], [3.0, 4.0], relu)([5.0, -6.0]).numpy().tolist() == [8.0, 0.0]
    assert Scale(np.array([1.0, 2.0]))([5.0, 6.0]).numpy().tolist() == [5.0, 12.0]
    assert Scale(np.array([1.0, 2.0]), False).bias is None
    assert Scale(2, bias=[1.0, 2.0])([0.0, 0.0]).numpy().tolist() == [1.0, 2.0]


def test_diagonal_is_its_older_name():
    assert Diagonal is Scale


@pytest.mark.parametrize("shape", [(4,), (3, 2), ()])
def test_scale_names_itself_and_both_shapes(shape):
    message = f"Scale(2, 3, relu) expects inputs of shape (..., 2, 3), got {shape}."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Scale(2, 3, relu)(np.ones(shape))


# --- Bilinear ------------------------------------------------------------------------------------


def numpy_bilinear(layer, x, y):
    z = np.einsum("...i,oij,...j->...o", x, np.float64(layer.weight.numpy()), y)
    return z + layer.bias.numpy() if layer.use_bias else z


@pytest.mark.parametrize("lead", [(), (32,), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_bilinear_is_the_formula(lead, bias):
    layer = Bilinear((5, 6), 7, tanh, bias=bias)
    if bias:
        layer.bias.assign(np.arange(7.0))
    x, y = randoms(*lead, 5), randoms(*lead, 6)

    expected = np.tanh(numpy_bilinear(layer, x, y))

    close(layer(x, y), expected)
    close(layer((x, y)), expected)
    close(Chain(layer)(x, y), expected)


def test_bilinear_of_one_input():
    layer = Bilinear(5, 7)
    x = randoms(32, 5)

    close(layer(x), numpy_bilinear(layer, x, x))
    assert Chain(layer, Dense(7, 2)).built


def test_bilinear_starts_as_flux_does():
    # flux_api.md, section 11: nfan(out, in1, in2) = (out * in1, out * in2)
    bound = np.sqrt(6 / (8 * 30 + 8 * 40))
    weight = Bilinear((30, 40), 8).weight.numpy()

    assert weight.shape == (8, 30, 40)
    assert bound * 0.99 < abs(weight).max() <= bound
    assert not Bilinear((30, 40), 8).bias.numpy().any()


def test_bilinear_takes_arrays():
    W = randoms(4, 8, 16)
    layer = Bilinear(W, False, tanh)

    assert str(layer) == "Bilinear((8, 16) => 4, tanh, bias=False)"
    close(layer.weight, W)


def test_bilinear_tells_how_many_inputs_it_takes():
    message = r"^Bilinear\(\(3, 2\) => 5\) expects one or two inputs, got 3\.$"

    with pytest.raises(ShapeError, match=message):
        Bilinear((3, 2), 5)((np.ones(3), np.ones(2), np.ones(2)))


@pytest.mark.parametrize(
    ("first", "second"), [((5,), (5,)), ((5, 6), (5, 5)), ((3, 5), (4, 6)), ((), (6,))]
)
def test_bilinear_names_itself_and_all_shapes(first, second):
    message = (
        f"Bilinear((5, 6) => 7) expects inputs of shapes (..., 5) and (..., 6), "
        f"got {first} and {second}."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Bilinear((5, 6), 7)(np.ones(first), np.ones(second))


# --- Embedding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (7,), (10, 12), (2, 3, 4)])
def test_embedding_looks_up_indices_of_any_shape(shape):
    layer = Embedding(26, 4)
    x = rng.integers(0, 26, shape)

    np.testing.assert_array_equal(layer(x), layer.embeddings.numpy()[x])


def test_embedding_as_flux_documents_it():
    layer = Embedding(26, 4, init=identity_init(gain=22))
    expected = np.zeros((7, 4))
    expected[0, 2] = expected[1, 0] = expected[4, 3] = 22

    np.testing.assert_array_equal(layer(1), [0, 22, 0, 0])
    np.testing.assert_array_equal(layer([2, 0, 19, 13, 3, 14, 6]), expected)
    labels = "abcdefghijklmnopqrstuvwxyz"
    np.testing.assert_array_equal(layer(onehotbatch("cat&dog", labels, "n")), expected)


@pytest.mark.parametrize("dtype", [bool, "float32", "float64"])
def test_embedding_takes_one_hot_arrays(dtype):
    layer = Embedding(5, 3)
    x = rng.integers(0, 5, (2, 4))

    close(layer(np.eye(5)[x].astype(dtype)), layer(x))


def test_embedding_starts_normal():
    weight = Embedding(100, 200).embeddings.numpy()

    assert weight.shape == (100, 200)
    assert abs(weight.mean()) < 0.03
    assert weight.std() == pytest.approx(1, abs=0.03)


def test_embedding_takes_an_array():
    W = randoms(5, 3)

    close(Embedding(W).embeddings, W)


@pytest.mark.parametrize("is_onehot", [False, True])
def test_the_padding_vector_starts_at_zero_and_is_not_trained(is_onehot):
    layer = Embedding(4, 3, padding_idx=1)
    x = np.array([[0, 1], [1, 2]])
    x = np.eye(4, dtype=bool)[x] if is_onehot else x

    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(y)
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.embeddings.value)).numpy()

    np.testing.assert_array_equal(layer.embeddings[1], np.zeros(3))
    np.testing.assert_array_equal(y[0, 1], np.zeros(3))
    np.testing.assert_array_equal(gradient, [[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("padding_idx", [-1, 4])
def test_padding_is_one_of_the_indices(padding_idx):
    message = f"Embedding expects a padding_idx from 0 to 3, got {padding_idx}."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Embedding(4, 3, padding_idx=padding_idx)


def test_one_hot_arrays_are_of_the_length_of_the_vocabulary():
    message = "Embedding(4 => 3) expects one-hot inputs of shape (..., 4), got (2, 5)."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Embedding(4, 3)(np.ones((2, 5), bool))


def test_indices_may_have_become_fractions():
    layer = Embedding(4, 3)

    np.testing.assert_array_equal(layer([[3.0, 1.0]]), layer([[3, 1]]))


def test_an_embedding_trains_in_fit():
    m = Chain(Embedding(10, 4), flatten, Dense(12, 1))
    m.compile("adam", "mse")

    m.fit(rng.integers(0, 10, (8, 3)), np.ones((8, 1)), verbose=0)


# --- EmbeddingBag --------------------------------------------------------------------------------


REDUCE = {"mean": np.mean, "sum": np.sum, "max": np.max}
EACH = pytest.mark.parametrize("reduction", REDUCE)
BOTH = [False, True]


@EACH
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_embedding_bag_reduces_the_last_axis(reduction, shape):
    layer = EmbeddingBag(26, 4, reduction)
    x = rng.integers(0, 26, shape)

    close(layer(x), REDUCE[reduction](layer.embeddings.numpy()[x], axis=-2))
    close(layer(np.eye(26, dtype=bool)[x]), layer(x))


@EACH
@pytest.mark.parametrize(
    ("form", "in_chain"),
    [
        ("ragged", False),
        *itertools.product(["lists", "arrays", "one-hot", "offsets", "pair"], BOTH),
    ],
)
def test_embedding_bag_takes_bags_of_any_lengths(reduction, form, in_chain):
    layer = EmbeddingBag(26, 4, reduction)
    bags = [[11, 1, 12], [2, 13, 3, 14], [5]]
    flat = [index for bag in bags for index in bag]
    inputs = {
        "lists": (bags,),
        "arrays": (list(map(np.array, bags)),),
        "one-hot": ([np.eye(26, dtype=bool)[bag] for bag in bags],),
        "ragged": (tf.ragged.constant(bags),),
        "offsets": (flat, [0, 3, 7]),
        "pair": ((np.array(flat), np.array([0, 3, 7])),),
    }[form]

    y = Chain(layer)(*inputs) if in_chain else layer(*inputs)

    weight = layer.embeddings.numpy()
    close(y, [REDUCE[reduction](weight[bag], axis=0) for bag in bags])


def test_embedding_bag_as_flux_documents_it():
    layer = EmbeddingBag(26, 3, init=identity_init(gain=100))

    close(layer([1]), [0, 100, 0])
    close(layer([2, 2, 0]), [100 / 3, 0, 200 / 3])
    close(layer([[2, 0, 2], [1, 0]]), [[100 / 3, 0, 200 / 3], [50, 50, 0]])
    close(
        layer(np.transpose([[0, 0, 0, 0], [0, 1, 2, 3]])),
        [[100, 0, 0], [50, 50, 0], [50, 0, 50], [50, 0, 0]],
    )
    close(layer([10, 0, 11, 1, 12, 2, 13], [0, 3]), [[100 / 3, 0, 0], [0, 25, 25]])
    assert layer(rng.integers(0, 26, (5, 5, 10))).shape == (5, 5, 3)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_offsets_in_a_compiled_function(jit_compile):
    layer = EmbeddingBag(26, 4)
    x, offsets = tf.constant([11, 1, 12, 2, 13, 3, 14]), tf.constant([0, 3])

    close(tf.function(layer, jit_compile=jit_compile)(x, offsets), layer(x, offsets))


@pytest.mark.parametrize("offsets", [[1, 3], [0, 0], [0, 2, 1], [0, 3], [], [[0, 1]]])
def test_offsets_start_at_0_grow_and_end_within(offsets):
    message = (
        "EmbeddingBag(26 => 4) expects offsets that start at 0, grow, and stay below the number of "
        f"indices, 3, got {offsets}."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        EmbeddingBag(26, 4)([7, 8, 9], offsets)


@pytest.mark.parametrize("bags", [[[1, 2], []], [[3], [4, 5], []], [[], []]])
def test_bags_are_not_empty(bags):
    with pytest.raises(ShapeError, match=r"expects bags of one index or more, got lengths .*0"):
        EmbeddingBag(26, 4)(bags)


@pytest.mark.parametrize("x", [3, np.eye(26, dtype=bool)[3]])
def test_one_index_is_no_bag(x):
    message = "EmbeddingBag(26 => 4) expects bags of indices, got just one index."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        EmbeddingBag(26, 4)(x)


@pytest.mark.parametrize(
    ("given", "words"), [("median", "'median'"), (tf.reduce_sum, "tf.reduce_sum")]
)
def test_reductions_are_three(given, words):
    message = f"EmbeddingBag expects a reduction of mean, sum, max, got {words}."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        EmbeddingBag(26, 4, given)


# --- All -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "source", "text"),
    [
        (Scale(3), "Scale(3)", "Scale(3)"),
        (Scale(2, 3, relu, bias=False), "Scale(2, 3, relu, bias=False)", None),
        (Bilinear(5, 7, relu), "Bilinear(5, 7, relu)", "Bilinear(5 => 7, relu)"),
        (Bilinear((5, 6), 7), "Bilinear((5, 6), 7)", "Bilinear((5, 6) => 7)"),
        (Bilinear(5, 6, 7), "Bilinear((5, 6), 7)", "Bilinear((5, 6) => 7)"),
        (Embedding(26, 4), "Embedding(26, 4)", "Embedding(26 => 4)"),
        (
            Embedding((26, 4), padding_idx=0),
            "Embedding(26, 4, padding_idx=0)",
            "Embedding(26 => 4, padding_idx=0)",
        ),
        (EmbeddingBag(26, 4), "EmbeddingBag(26, 4)", "EmbeddingBag(26 => 4)"),
        (EmbeddingBag(6, 4, "max"), "EmbeddingBag(6, 4, 'max')", "EmbeddingBag(6 => 4, 'max')"),
    ],
)
def test_printing_and_saving(layer, source, text, tmp_path):
    assert repr(layer) == source
    assert str(layer) == (text or source)
    assert repr(eval(source)) == source

    again = saved_and_loaded(layer, tmp_path)

    assert repr(again) == source
    for got, expected in zip(again.get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", [Scale, Bilinear, Embedding, EmbeddingBag])
@pytest.mark.parametrize("arguments", [(), (0,), (3, 2.5), (relu, 3), (3, 4, relu, relu)])
def test_odd_arguments_are_shown(kind, arguments):
    with pytest.raises(
        ValueError, match=rf"^{kind.__name__} expects (.*sizes.*, got \(|a reduction of)"
    ):
        kind(*arguments)


@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (lambda b: Scale(3, bias=b), "Scale(3)", (3,)),
        (lambda b: Bilinear(3, 2, bias=b), "Bilinear(3 => 2)", (2,)),
        (lambda b: Scale(np.ones(3), b), "Scale(3)", (3,)),
    ],
)
def test_a_bias_fits_or_is_refused(make, name, shape):
    message = f"{name} expects a bias of shape {shape}, got (5,)."

    make(np.ones(shape))
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        make(np.ones(5))


@pytest.mark.parametrize("layer", [Scale(3, lambda x: x), Bilinear(3, 2, lambda x: x)])
def test_a_lambda_as_an_activation_cannot_be_saved(layer):
    message = (
        f"Saving {layer.name} expects an activation that can be found by its name, got <lambda>"
    )

    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        layer.get_config()


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
@pytest.mark.parametrize("index", [7, 4, -1])
def test_indices_are_in_range(make, index):
    layer = make(4, 2)
    message = rf"{make.__name__}\(4 => 2\) expects indices from 0 to 3, got {index}\."

    with pytest.raises(ValueError, match=message):
        layer([0, index])
    np.testing.assert_array_equal(Embedding(np.eye(4))([0, 3]), np.eye(4)[[0, 3]])
