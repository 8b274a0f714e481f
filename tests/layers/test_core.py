import functools
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import fluxkeras
from fluxkeras import (
    LSTM,
    Chain,
    Conv,
    Dense,
    Descent,
    Embedding,
    Parallel,
    ShapeError,
    WeightNorm,
    activations,
    flatten,
    mse,
    param,
    params,
    relu,
    softmax,
    tanh,
    train,
    σ,
)
from fluxkeras.training.captures import Captures

rng = np.random.default_rng(0)


def numpy_dense(layer, x):
    y = x @ np.float64(layer.kernel.numpy())
    return y + np.float64(layer.bias.numpy()) if layer.use_bias else y


# --- Dense ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (1, 4), (5, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_is_an_affine_map_of_the_last_axis(shape, bias):
    layer = Dense(4, 3, bias=bias, init="random_normal")
    if bias:
        layer.bias.assign([1.0, 2.0, 3.0])
    x = rng.random(shape)

    y = layer(x)

    assert y.shape == (*shape[:-1], 3)
    np.testing.assert_allclose(y, numpy_dense(layer, x), rtol=1e-5)


@pytest.mark.parametrize("activation", [tanh, "tanh", tf.math.tanh, keras.activations.tanh])
def test_dense_takes_any_activation(activation):
    layer = Dense(4, 3, activation)
    x = rng.random((5, 4))

    np.testing.assert_allclose(layer(x), np.tanh(numpy_dense(layer, x)), rtol=1e-5)


@pytest.mark.parametrize("layer", [Dense((4, 3), σ), Dense([4, 3], σ), Dense(np.int64(4), 3, σ)])
def test_dense_takes_its_sizes_as_a_pair_too(layer):
    assert repr(layer) == "Dense(4, 3, σ)"


@pytest.mark.parametrize("name", activations.__all__)
def test_every_activation_is_an_argument_an_element_and_a_function(name):
    activation = getattr(fluxkeras, name)
    dense = Dense(4, 6)
    x = rng.random((5, 4))
    expected = activation(dense(x))

    as_argument = Dense(4, 6, activation)
    as_argument.set_weights(dense.get_weights())
    as_element = Chain(dense, activation)

    for model in as_argument, as_element, tf.function(as_element):
        y = model(x)
        assert y.shape == expected.shape
        if name != "rrelu":
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_dense_is_keras_dense_and_built():
    layer = Dense(4, 3)

    assert isinstance(layer, keras.layers.Dense)
    assert layer.built
    assert tuple(layer.kernel.shape) == (4, 3)


@pytest.mark.parametrize(
    "init", ["ones", keras.initializers.Ones(), lambda shape, dtype: tf.ones(shape, dtype)]
)
def test_dense_starts_from_an_initialiser(init):
    layer = Dense(4, 3, init=init)

    np.testing.assert_array_equal(layer.kernel.numpy(), np.ones((4, 3)))
    np.testing.assert_array_equal(layer.bias.numpy(), np.zeros(3))


def test_dense_starts_glorot_uniform():
    bound = np.sqrt(6 / (300 + 200))  # flux_api.md, section 11
    kernel = Dense(300, 200).kernel.numpy()

    assert bound * 0.99 < abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


def test_dense_takes_keras_options():
    layer = Dense(4, 3, name="head", kernel_regularizer="l2")

    assert layer.name == "head"
    assert len(layer.losses) == 1


@pytest.mark.parametrize("x", [[0.1, 0.2, 0.3, 0.4], [[0.1, 0.2, 0.3, 0.4]], [1, 2, 3, 4]])
def test_dense_takes_plain_lists(x):
    layer = Dense(4, 3)

    np.testing.assert_allclose(layer(x), numpy_dense(layer, np.array(x)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (2, 5), ()])
def test_dense_names_itself_and_both_shapes_when_they_differ(shape):
    message = f"Dense(4 => 3, σ) expects inputs of shape (..., 4), got {shape}."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Dense(4, 3, σ)(np.ones(shape))


@pytest.mark.parametrize("arguments", [(4,), (), (4, 0), (4, 3.0), (4, 3, σ, σ), (σ, 4, 3)])
def test_dense_of_odd_arguments_shows_how_to_write_it(arguments):
    with pytest.raises(ValueError, match=re.escape("Write Dense(784, 32, relu).")):
        Dense(*arguments)


def test_dense_takes_arrays():
    W, b = rng.random((4, 3)), rng.random(3)
    x = rng.random((5, 4))

    for layer in Dense(W, b, tanh), Dense(W.tolist(), b.tolist(), tanh), Dense(W, tanh, bias=b):
        np.testing.assert_allclose(layer(x), np.tanh(x @ W + b), rtol=1e-5)
        assert repr(layer) == "Dense(4, 3, tanh)"
    np.testing.assert_allclose(Dense(W)(x), x @ W, rtol=1e-5)
    assert len(params(Dense(W))) == 2  # W alone gets a bias of zeros
    assert len(params(Dense(W, False, tanh))) == 1
    np.testing.assert_allclose(Dense(4, 3, bias=b).bias, b, rtol=1e-6)


def test_dense_of_arrays_saves_them(tmp_path):
    m = Chain(Dense(rng.random((4, 3)), rng.random(3), tf.math.tanh))
    m.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    x = rng.random((5, 4))
    np.testing.assert_array_equal(again(x), m(x))


@pytest.mark.parametrize(
    "make", [lambda b: Dense(4, 3, bias=b), lambda b: Dense(np.ones((4, 3)), b)]
)
def test_dense_refuses_a_bias_of_another_shape(make):
    message = "Dense(4 => 3) expects a bias of shape (3,), got (2,)."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        make(np.ones(2))


def test_dense_with_a_lambda_cannot_be_saved():
    layer = Dense(4, 3, lambda x: x, name="head")

    with pytest.raises(
        ValueError, match=r"^Saving head expects an activation that .* got <lambda>"
    ):
        layer.get_config()


def test_dense_comes_back_from_its_config():
    layer = Dense(4, 3, σ, bias=False, init="ones", name="head")

    again = Dense.from_config(layer.get_config())

    assert repr(again) == "Dense(4, 3, σ, bias=False)"
    assert again.name == "head"
    np.testing.assert_array_equal(again.kernel.numpy(), np.ones((4, 3)))


# --- Chain ---------------------------------------------------------------------------------------


@pytest.fixture
def m():
    return Chain(Dense(6, 4, σ), Dense(4, 3), softmax)


def test_chain_calls_one_layer_after_another(m):
    x = rng.random((5, 6))

    z = numpy_dense(m[1], 1 / (1 + np.exp(-numpy_dense(m[0], x))))

    np.testing.assert_allclose(m(x), np.exp(z) / np.exp(z).sum(-1, keepdims=True), rtol=1e-5)


def test_chain_is_a_built_keras_model(m):
    assert isinstance(m, keras.Model)
    assert m.built
    assert m.count_params() == 6 * 4 + 4 + 4 * 3 + 3
    m.summary(print_fn=lambda line: None)


def test_chain_answers_one_sample_with_one_answer(m):
    x = rng.random(6)

    assert m(x).shape == (3,)
    np.testing.assert_allclose(m(x), m(x[None])[0], rtol=1e-6)
    np.testing.assert_allclose(m(list(x)), m(x), rtol=1e-6)


def test_chain_lends_layers_of_keras_a_batch_axis_for_one_sample():
    m = Chain(Dense(6, 4), keras.layers.Dense(3), keras.layers.BatchNormalization(), softmax)
    x = rng.random(6)

    assert m(x).shape == (3,)
    np.testing.assert_allclose(m(x), m(x[None])[0], rtol=1e-6)


def test_chain_gives_its_layers_by_position(m):
    first, second, last = m

    assert len(m) == 3
    assert m[0] is first and m[1] is second
    assert m[-1] is last is softmax
    with pytest.raises(IndexError):
        m[3]


def test_a_slice_of_a_chain_is_a_chain_that_shares_its_layers(m):
    tail = m[1:]

    assert isinstance(tail, Chain)
    assert repr(tail) == "Chain(Dense(4, 3), softmax)"
    assert tail[0] is m[1]
    x = rng.random((5, 6))
    np.testing.assert_allclose(tail(m[0](x)), m(x), rtol=1e-6)
    m[1].bias.assign([5.0, 6.0, 7.0])
    np.testing.assert_allclose(tail(m[0](x)), m(x), rtol=1e-6)


def test_chain_names_its_layers():
    m = Chain(encoder=Dense(6, 2, tanh), decoder=Dense(2, 6), name="autoencoder")

    assert m["encoder"] is m[0] and m["decoder"] is m[1]
    assert m.name == "autoencoder"
    assert repr(m) == "Chain(encoder = Dense(6, 2, tanh), decoder = Dense(2, 6))"
    assert m[1:]["decoder"] is m[1]
    with pytest.raises(KeyError, match="no layer 'middle' in Chain"):
        m["middle"]


def test_chain_takes_a_list_of_layers():
    layers = [Dense(6, 2), relu]

    assert list(Chain(layers)) == layers


def test_an_empty_chain_is_the_identity():
    x = rng.random((2, 3)).astype("float32")

    np.testing.assert_array_equal(Chain()(x), x)
    assert Chain().built


def test_chain_takes_any_callable_and_nested_chains():
    m = Chain(lambda x: x * 2, Chain(Dense(6, 4), relu), tf.nn.softplus, keras.layers.Flatten())
    x = rng.random((5, 6))

    expected = np.log1p(np.exp(np.maximum(numpy_dense(m[1][0], 2 * x), 0)))

    np.testing.assert_allclose(m(x), expected, rtol=1e-5)
    assert len(params(m)) == 2


def test_chain_passes_a_list_of_tensors_on_to_a_layer_that_takes_one():
    m = Chain(keras.layers.Add(), relu)
    x = tf.constant([[1.0, -2.0]])

    np.testing.assert_array_equal(m([x, x]), [[2.0, 0.0]])


def test_chain_may_hold_a_layer_twice():
    d = Dense(4, 4)
    m = Chain(d, relu, d)
    x = rng.random((5, 4))

    np.testing.assert_allclose(m(x), numpy_dense(d, np.maximum(numpy_dense(d, x), 0)), rtol=1e-5)
    assert len(params(m)) == 2


def test_chain_builds_the_keras_layers_whose_size_follows():
    m = Chain(Dense(6, 4), keras.layers.BatchNormalization(), keras.layers.Dense(3))

    assert m.built
    assert [tuple(p.shape) for p in params(m)] == [(6, 4), (4,), (4,), (4,), (4, 3), (3,)]
    before = m[2].kernel.numpy()
    m(rng.random((5, 6)))
    np.testing.assert_array_equal(m[2].kernel.numpy(), before)


def test_chain_of_unknown_size_is_built_by_its_first_call():
    m = Chain(keras.layers.Dense(4), keras.layers.Dense(3))

    assert not m.built
    assert m(rng.random((5, 6))).shape == (5, 3)
    assert m.built
    assert len(params(m)) == 4


def test_chain_whose_layers_want_more_axes_is_built_by_its_first_call():
    m = Chain(Dense(6, 4), keras.layers.LSTM(3))

    assert not m.built
    assert m(rng.random((5, 7, 6))).shape == (5, 3)


def test_chain_names_the_layer_that_does_not_fit():
    m = Chain(Dense(6, 4, σ), Dense(5, 3), softmax, name="net")
    message = "Dense(5 => 3) expects inputs of shape (..., 5), got (2, 4). (layer 1 of net)"

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        m(np.ones((2, 6)))


def test_chain_names_the_layer_that_does_not_fit_in_a_nested_chain():
    m = Chain(relu, Chain(head=Dense(5, 3), name="inner"), name="outer")
    message = (
        "Dense(5 => 3) expects inputs of shape (..., 5), got (2, 4). "
        "(layer head of inner) (layer 1 of outer)"
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        m(np.ones((2, 4)))


def test_chain_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match=re.escape("layers and other callables, got 3 at 1.")):
        Chain(relu, 3)


def test_chain_has_names_for_all_layers_or_none():
    with pytest.raises(ValueError, match="layers with names or without, got both"):
        Chain(relu, head=relu)


def test_chain_is_in_inference_mode_unless_told():
    m = Chain(keras.layers.Dropout(0.5, seed=0), keras.layers.BatchNormalization())
    x = np.ones((50, 4), "float32")

    np.testing.assert_allclose(m(x), x / np.sqrt(1 + 1e-3), rtol=1e-6)
    assert np.any(m(x, training=True) != m(x))


def test_chain_saves_loads_and_continues(m, tmp_path):
    x = rng.random((5, 6))
    named = Chain(body=m, scale=keras.layers.Rescaling(2.0), name="net")

    named.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(named)
    assert again.name == "net"
    np.testing.assert_array_equal(again(x), named(x))


def test_chain_fits_and_exports_as_a_keras_model(m, tmp_path):
    x, y = rng.random((20, 6)), rng.random((20, 3))
    m.compile("adam", "mse")

    history = m.fit(x, y, epochs=5, verbose=0).history["loss"]
    m.export(tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")

    assert history[-1] < history[0]
    np.testing.assert_allclose(saved.serve(tf.constant(x, tf.float32)), m(x), rtol=1e-5)


NEEDS_SIGNATURE = pytest.mark.skipif(
    "input_signature" not in inspect.signature(keras.Model.export).parameters,
    reason="this Keras exports a model as it was first called",
)


@NEEDS_SIGNATURE
def test_chain_exports_before_it_was_called(tmp_path):
    m = Chain(Dense(6, 4, σ), lambda x: 2 * x)
    x = tf.constant(rng.random((5, 6)), tf.float32)

    m.export(tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")

    np.testing.assert_allclose(saved.serve(x), m(x), rtol=1e-5)


@NEEDS_SIGNATURE
@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: Chain(Dense(6, 4), keras.layers.LSTM(3)), [(7, 6)]),
        (lambda: Chain(LSTM(6, 4), Dense(4, 2)), [(7, 6)]),
        (lambda: Chain(Conv((3, 3), 1, 2, relu), flatten, Dense(32, 2)), [(6, 6, 1)]),
        (lambda: Chain(Parallel(tf.add, Dense(3, 2), Dense(4, 2)), relu), [(3,), (4,)]),
    ],
)
def test_chain_exports_as_it_was_called(make, shapes, from_file, tmp_path):
    m = make()
    xs = tuple(tf.constant(rng.random((5, *shape)), tf.float32) for shape in shapes)
    y = m(*xs)
    if from_file:
        m.save(tmp_path / "m.keras")
        m = keras.models.load_model(tmp_path / "m.keras")

    m.export(tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")

    two = tuple(x[:2] for x in xs)
    served = saved.serve(two if len(two) > 1 else two[0])
    np.testing.assert_allclose(served, y[:2], rtol=1e-4, atol=1e-6)


def test_a_call_leaves_a_chain_the_same_to_what_is_compiled():
    m = Chain(Dense(6, 4), WeightNorm(Dense(4, 2)))
    before = Captures(m).fingerprint

    m(rng.random((5, 6)))

    assert Captures(m).fingerprint == before


@NEEDS_SIGNATURE
def test_chain_of_indices_exports_as_it_was_called(tmp_path):
    m = Chain(Embedding(3, 4), flatten)  # three numbers in a row are one-hot, if they are fractions
    x = tf.constant([[0, 1, 2]])
    y = m(x)

    m.export(tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")

    np.testing.assert_array_equal(saved.serve(x), y)


@NEEDS_SIGNATURE
@pytest.mark.parametrize("from_file", [False, True])
def test_indices_in_a_row_are_a_batch_where_no_layer_knows_a_size(from_file, tmp_path):
    m = Chain(Embedding(5, 3), Dense(3, 2))
    x = np.array([1, 2, 3, 4])
    m(x)
    if from_file:
        m.save(tmp_path / "m.keras")
        m = keras.models.load_model(tmp_path / "m.keras")

    m.export(tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")

    expected = m[0].embeddings.numpy()[x[:3]] @ m[1].kernel.numpy()
    np.testing.assert_allclose(saved.serve(x[:3]), expected, rtol=1e-5)


@NEEDS_SIGNATURE
def test_whole_numbers_in_a_row_are_a_sample_where_a_layer_knows_their_number(tmp_path):
    m = Chain(Dense(3, 2))
    m(np.array([1, 2, 3]))
    x = np.array([[1, 2, 3], [4, 5, 6]])

    m.export(tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")

    np.testing.assert_allclose(saved.serve(x), x @ m[0].kernel.numpy(), rtol=1e-5)


@NEEDS_SIGNATURE
def test_chain_exports_with_a_signature_where_its_layers_know_no_size(tmp_path):
    m = Chain(Embedding(10, 4), flatten, Dense(12, 2), name="words")
    x = tf.constant([[1, 2, 3]])

    with pytest.raises(ValueError, match=r"^Exporting words expects to be told the shape of its"):
        m.export(tmp_path / "saved")
    spec = keras.layers.InputSpec(shape=(None, 3), dtype="int32")
    m.export(tmp_path / "saved", input_signature=[spec])
    saved = tf.saved_model.load(tmp_path / "saved")

    np.testing.assert_allclose(saved.serve(x), m(x), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_chain_in_a_compiled_function_gives_the_same(m, jit_compile):
    x = tf.constant(rng.random((5, 6)), tf.float32)

    np.testing.assert_allclose(tf.function(m, jit_compile=jit_compile)(x), m(x), rtol=1e-5)


# --- Several inputs, activations -----------------------------------------------------------------


def test_chain_makes_a_tuple_of_several_inputs():
    m = Chain(lambda xy: xy[0] - xy[1], relu)
    x, y = tf.constant([3.0, 1.0]), tf.constant([1.0, 2.0])

    assert m(x, y).numpy().tolist() == m((x, y)).numpy().tolist() == [2.0, 0.0]
    assert [int(a) for a in Chain(lambda x: x)(1, 2, 3)] == [1, 2, 3]  # Flux's own example
    assert [int(a) for a in Chain()(1, 2, 3)] == [1, 2, 3]


def test_chain_has_inputs():
    with pytest.raises(ValueError, match=r"^Chain expects an input, got none\.$"):
        Chain(relu)()


@pytest.mark.parametrize("name", ["layers", "name"])
def test_some_names_are_taken(name):
    message = f"Chain expects a layer to have another name than '{name}'."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Chain(**{name: relu})


def test_activations_are_the_outputs_of_every_layer(m):
    x = rng.random((5, 6))

    outputs = m.activations(x)

    assert isinstance(outputs, tuple) and len(outputs) == 3
    np.testing.assert_allclose(outputs[0], m[0](x), rtol=1e-6)
    np.testing.assert_allclose(outputs[1], m[1](m[0](x)), rtol=1e-6)
    np.testing.assert_allclose(outputs[2], m(x), rtol=1e-6)


def test_activations_of_one_sample_of_several_inputs_and_of_no_layer():
    m = Chain(first=lambda xy: xy[0] + xy[1], second=lambda x: 2 * x)

    first, second = m.activations(np.ones(3), np.ones(3))

    assert first.numpy().tolist() == [2.0] * 3 and second.numpy().tolist() == [4.0] * 3
    assert first.dtype == "float32"
    assert Chain().activations(np.ones(3)) == ()


def test_activations_names_the_layer_that_does_not_fit(m):
    with pytest.raises(ShapeError, match=rf"\(layer 0 of {m.name}\)$"):
        m.activations(np.ones(5))


# --- Any object is a layer -----------------------------------------------------------------------


class Affine:
    """As the guide of Flux has it: a class with parameters that can be called."""

    def __init__(self, W, b):
        self.W, self.b = param(W), param(b)

    def __call__(self, x):
        return x @ self.W + self.b


class TensorFlows:
    def __init__(self):
        self.first, self.second = tf.Variable(1.0), param(1.0)

    def __call__(self, x):
        return self.first * x + self.second


class Twice:
    def __init__(self, layer):
        self.parts = {"layer": layer, "name": "twice"}

    def __call__(self, x):
        return self.parts["layer"](self.parts["layer"](x))


@pytest.fixture
def mixed():
    return Chain(
        Dense(6, 4), Affine(rng.random((4, 3)), np.zeros(3)), Twice(Affine(np.eye(3), [1, 2, 3]))
    )


def test_objects_with_parameters_are_layers(mixed):
    x = rng.random((5, 6))
    expected = numpy_dense(mixed[0], x) @ np.float64(mixed[1].W.numpy()) + [2, 4, 6]

    np.testing.assert_allclose(mixed(x), expected, rtol=1e-5)
    inner = mixed[2].parts["layer"]
    expected_order = [mixed[0].kernel, mixed[0].bias, mixed[1].W, mixed[1].b, inner.W, inner.b]
    for variables in mixed.trainable_variables, params(mixed):
        assert [id(v) for v in variables] == [id(v) for v in expected_order]
    assert mixed.count_params() == 28 + 15 + 12
    assert "  Affine(),                             # 15 parameters\n" in str(mixed)
    assert "  Twice(),                              # 12 parameters\n" in str(mixed)
    assert "# Total: 6 arrays, 55 parameters, 220 bytes." in str(mixed)


def test_objects_with_parameters_train_with_keras_and_with_train(mixed):
    x, y = rng.random((20, 6)), rng.random((20, 3))
    before = [v.numpy() for v in params(mixed)]
    mixed.compile("adam", "mse")
    mixed.fit(x, y, verbose=0)
    between = [v.numpy() for v in params(mixed)]
    train(lambda x, y: mse(mixed(x), y), [(x, y)], Descent(0.1), progress=False)

    for a, b, v in zip(before, between, params(mixed)):
        assert np.any(a != b) and np.any(b != v.numpy())


def test_objects_with_parameters_save_their_weights(mixed, tmp_path):
    other = Chain(
        Dense(6, 4), Affine(np.zeros((4, 3)), np.zeros(3)), Twice(Affine(np.eye(3), np.zeros(3)))
    )
    mixed.save_weights(tmp_path / "m.weights.h5")

    other.load_weights(tmp_path / "m.weights.h5")

    x = rng.random((5, 6))
    np.testing.assert_array_equal(other(x), mixed(x))


def test_objects_with_parameters_count_once_in_nested_chains():
    affine = Affine(np.eye(3), np.zeros(3))
    m = Chain(affine, Chain(affine, Twice(affine)))

    assert len(m.trainable_variables) == 2
    assert m.count_params() == 12


def test_layers_that_objects_have_are_those_of_the_chain():
    m = Chain(Twice(keras.layers.Dense(3)))
    d = Dense(3, 2)
    closed = Chain(lambda x: d(x))

    assert not m.built
    assert "  Twice(),                              # not built yet\n" in str(m)
    m(rng.random((5, 3)))
    assert [layer.layers for layer in m.layers] == [[m[0].parts["layer"]]]
    assert len(m.trainable_variables) == 2
    assert [id(v) for v in closed.trainable_variables] == [id(d.kernel), id(d.bias)]


def test_variables_of_tensorflow_are_found_by_params_alone():
    m = Chain(Dense(3, 3), TensorFlows())

    assert len(m.trainable_variables) == 2
    assert [id(v) for v in params(m)[2:]] == [id(m[1].first), id(m[1].second)]


@keras.saving.register_keras_serializable(package="tests")
class Savable(Affine):
    def get_config(self):
        return {"W": self.W.numpy().tolist(), "b": self.b.numpy().tolist()}


@keras.saving.register_keras_serializable(package="tests")
def double(x):
    return 2 * x


def named(x):
    return x


def test_registered_objects_and_functions_save_and_load(tmp_path):
    m = Chain(Savable(np.eye(3), np.zeros(3)), double, tf.nn.softplus)
    m[0].W.assign(2 * np.eye(3))
    m.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    x = rng.random((5, 3))
    np.testing.assert_array_equal(again(x), m(x))
    assert again[1] is double


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (lambda x: x, "that can be found by its name, got <lambda> ("),
        (named, "that can be found by its name, got named ("),
        (functools.partial(named, 1), "that can be found by its name, got named ("),
        (Affine([[1.0]], [0.0]), "that can be made again, got Affine(). Give Affine a method "),
    ],
)
def test_saving_says_what_could_not_be_loaded_and_how_to_register_it(part, told, tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(b"an older model")
    m = Chain(body=Chain(relu, part, name="inner"), name="outer")

    with pytest.raises(ValueError, match=f"^{re.escape('Saving inner expects a layer 1 ' + told)}"):
        m.save(path)
    with pytest.raises(
        ValueError, match=r'@keras\.saving\.register_keras_serializable\(package="mine"\)'
    ):
        m.save(path)
    assert path.read_bytes() == b"an older model"


class OfTensorFlow:
    """A layer of a plain object's, with a variable that Keras does not know of."""

    def __init__(self):
        self.w = tf.Variable([2.0])

    def __call__(self, x):
        return self.w * x

    def get_config(self):
        return {}


@pytest.mark.parametrize("around", [lambda m: m, lambda m: Chain(Dense(3, 3), m)])
@pytest.mark.parametrize(
    "save", [lambda m, f: m.save(f / "m.keras"), lambda m, f: m.save_weights(f / "m.weights.h5")]
)
def test_what_keras_would_lose_is_not_saved(around, save, tmp_path):
    m = around(Chain(Dense(3, 3), OfTensorFlow(), name="mine"))
    message = r"^Saving mine expects a layer 1 whose .* OfTensorFlow\(\), which has a tf\.Variable"

    with pytest.raises(ValueError, match=message):
        save(m, tmp_path)

    assert not list(tmp_path.iterdir())
