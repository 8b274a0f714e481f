import operator
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Bilinear,
    Chain,
    Dense,
    Maxout,
    PairwiseFusion,
    Parallel,
    ShapeError,
    SkipConnection,
    params,
    relu,
    tanh,
)

rng = np.random.default_rng(0)


def numpy_dense(layer, x):
    return x @ np.float64(layer.kernel.numpy()) + np.float64(layer.bias.numpy())


def randoms(*shape):
    return rng.normal(size=shape)


def close(y, expected):
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


# --- Parallel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4)])
def test_parallel_gives_one_input_to_all_layers(shape):
    m = Parallel(tf.subtract, Dense(4, 3), Dense(4, 3))
    x = randoms(*shape)

    close(m(x), numpy_dense(m[0], x) - numpy_dense(m[1], x))


@pytest.mark.parametrize("call", [lambda m, *xs: m(*xs), lambda m, *xs: m(xs)])
def test_parallel_gives_each_layer_its_input(call):
    m = Parallel(tf.subtract, Dense(4, 3), Dense(2, 3))
    x, y = randoms(5, 4), randoms(5, 2)

    close(call(m, x, y), numpy_dense(m[0], x) - numpy_dense(m[1], y))
    close(call(Chain(m, relu), x, y), np.maximum(call(m, x, y), 0))


def test_parallel_gives_its_only_layer_every_input():
    m = Parallel(lambda x, y, z: x + 10 * y + 100 * z, tf.square)

    assert float(m(tf.constant(1.0), tf.constant(2.0), tf.constant(3.0))) == 1 + 40 + 900


def test_a_chain_of_several_inputs_fits_saves_and_exports(tmp_path):
    m = Chain(Parallel(tf.add, Dense(4, 2), Dense(3, 2)), relu)
    x, y = np.float32(randoms(6, 4)), np.float32(randoms(6, 3))
    m.compile("adam", "mse")
    m.fit([x, y], np.ones((6, 2)), verbose=0)
    m.save(tmp_path / "m.keras")
    specs = [keras.layers.InputSpec(shape=(None, n), dtype="float32") for n in (4, 3)]
    m.export(tmp_path / "m", input_signature=[tuple(specs)])

    exported = tf.saved_model.load(tmp_path / "m")

    close(exported.serve((x, y)), m(x, y))
    close(keras.models.load_model(tmp_path / "m.keras")(x, y), m(x, y))
    close(m.predict([x, y], verbose=0), m(x, y))


def test_parallel_has_names():
    m = Parallel(tf.add, α=Dense(10, 2, tanh), β=Dense(5, 2))

    assert m["α"] is m[0] and m["β"] is m[1]
    assert list(m) == [m[0], m[1]]
    assert repr(m) == "Parallel(tf.add, α = Dense(10, 2, tanh), β = Dense(5, 2))"
    assert str(m) == (
        "Parallel(\n"
        "  tf.add,\n"
        "  α = Dense(10 => 2, tanh),             # 22 parameters\n"
        "  β = Dense(5 => 2),                    # 12 parameters\n"
        ")                   # Total: 4 arrays, 34 parameters, 136 bytes."
    )
    assert repr(m[1:]) == "Parallel(tf.add, β = Dense(5, 2))"


@pytest.mark.parametrize(
    ("connection", "join"),
    [
        (tf.add, np.add),
        (operator.mul, np.multiply),
        (keras.ops.maximum, np.maximum),
        (keras.layers.Add(), np.add),
        (keras.layers.Concatenate(), lambda x, y: np.concatenate([x, y], -1)),
        (lambda x, y: tf.concat([x, y], -1), lambda x, y: np.concatenate([x, y], -1)),
    ],
)
def test_connections_are_functions_and_merging_layers_of_keras(connection, join):
    f, g = Dense(4, 3), Dense(4, 3)
    x = randoms(5, 4)

    close(Parallel(connection, f, g)(x), join(numpy_dense(f, x), numpy_dense(g, x)))


def test_a_connection_may_have_parameters():
    m = Parallel(Bilinear((3, 2), 6), Dense(4, 3), Dense(4, 2))
    x = randoms(5, 4)
    w, b = m.connection.weight.numpy(), m.connection.bias.numpy()

    z = np.einsum("bi,oij,bj->bo", numpy_dense(m[0], x), w, numpy_dense(m[1], x)) + b

    close(m(x), z)
    assert len(params(m)) == 6


@pytest.mark.parametrize("kind", [Parallel, PairwiseFusion])
def test_the_number_of_inputs_is_that_of_the_layers(kind):
    m = kind(tf.add, relu, relu)
    message = f"{kind.__name__} of 2 layers expects one input or 2, got 3."

    for xs in [np.ones((3, 2))] * 3, (tuple([np.ones((3, 2))] * 3),):
        with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
            m(*xs)
    with pytest.raises(ValueError, match=f"^{kind.__name__} expects an input, got none.$"):
        m()


def test_the_number_of_inputs_is_told_of_a_layer_in_a_chain():
    m = Chain(Parallel(tf.add, relu, relu), name="net")
    message = "Parallel of 2 layers expects one input or 2, got 3. (layer 0 of net)"

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        m(np.ones(2), np.ones(2), np.ones(2))


@pytest.mark.parametrize("kind", [Parallel, PairwiseFusion])
def test_there_are_layers_and_a_connection(kind):
    with pytest.raises(ValueError, match=f"^{kind.__name__} expects one layer or more, got none.$"):
        kind(tf.add)
    with pytest.raises(TypeError, match=r"expects a connection that can be called, got 3. Write"):
        kind(3, relu)
    with pytest.raises(TypeError, match=r"expects layers and other callables, got 3 at 1."):
        kind(tf.add, relu, 3)
    with pytest.raises(ValueError, match="with names or without, got both"):
        kind(tf.add, relu, a=relu)


@pytest.mark.parametrize("kind", [Parallel, PairwiseFusion])
@pytest.mark.parametrize("name", ["layers", "connection", "name"])
def test_some_names_are_taken(kind, name):
    message = f"{kind.__name__} expects a layer to have another name than '{name}'."

    with pytest.raises(ValueError, match=re.escape(message)):
        kind(tf.add, **{name: relu})


# --- PairwiseFusion ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda m, *xs: m(*xs), lambda m, *xs: m(xs)])
def test_pairwise_fusion_gives_each_layer_its_input_and_the_output_before(call):
    m = PairwiseFusion(tf.subtract, Dense(4, 3), Dense(3, 2), Dense(2, 5))
    x = randoms(6, 4), randoms(6, 3), randoms(6, 2)

    y = call(m, *x)

    assert isinstance(y, tuple) and len(y) == 3
    first = numpy_dense(m[0], x[0])
    second = numpy_dense(m[1], first - x[1])
    third = numpy_dense(m[2], second - x[2])
    for got, expected in zip(y, (first, second, third)):
        close(got, expected)


def test_pairwise_fusion_as_flux_tests_it():
    m = PairwiseFusion(
        lambda *pair: tf.concat(pair, 0), lambda x: x + 1, lambda x: x + 2, lambda x: x**3
    )

    assert [y.numpy().tolist() for y in m([2], [10], [20])] == [[3], [5, 12], [125, 1728, 8000]]
    assert [y.numpy().tolist() for y in m([7])] == [[8], [10, 9], [1000, 729, 343]]


def test_pairwise_fusion_gives_one_input_to_all():
    m = PairwiseFusion(tf.add, a=Dense(4, 4), b=Dense(4, 4))
    x = randoms(4)

    y, z = m(x)

    close(y, numpy_dense(m["a"], x))
    close(z, numpy_dense(m["b"], x + y.numpy()))


# --- SkipConnection ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (5, 4)])
def test_skip_connection_joins_output_first_and_input(shape):
    m = SkipConnection(Dense(4, 4), tf.subtract)
    x = randoms(*shape)

    close(m(x), numpy_dense(m[0], x) - x)


def test_skip_connection_prints_as_the_call_that_made_it():
    m = SkipConnection(Chain(Dense(4, 4), relu), tf.add)

    assert repr(m) == "SkipConnection(Chain(Dense(4, 4), relu), tf.add)"
    assert str(m) == (
        "SkipConnection(\n"
        "  Chain(\n"
        "    Dense(4 => 4),                      # 20 parameters\n"
        "    relu,\n"
        "  ),\n"
        "  tf.add,\n"
        ")"
    )


def test_skip_connection_as_flux_documents_it():
    m = SkipConnection(
        Chain(Dense(5, 20, tanh), Dense(20, 9, tanh)), Bilinear((9, 5), 3, bias=False)
    )

    assert m(randoms(32, 5)).shape == (32, 3)


# --- Maxout --------------------------------------------------------------------------------------


def test_maxout_takes_the_greatest_of_each_number():
    m = Maxout(Dense(4, 3), Dense(4, 3), Dense(4, 3))
    x = randoms(5, 4)

    close(m(x), np.max([numpy_dense(f, x) for f in m], axis=0))
    close(m(x[0]), m(x)[0])


def test_maxout_makes_its_layers():
    m = Maxout(lambda: Dense(5, 7, tanh), 3)

    assert repr(m) == "Maxout(Dense(5, 7, tanh), Dense(5, 7, tanh), Dense(5, 7, tanh))"
    assert len({id(layer) for layer in m}) == 3
    assert len(params(m)) == 6
    assert m.count_params() == 126  # as Flux documents


@pytest.mark.parametrize("arguments", [(), ([],), (relu, 0)])
def test_maxout_has_layers(arguments):
    with pytest.raises(ValueError, match=r"^Maxout expects one layer or more, got none. Write "):
        Maxout(*arguments)


# --- All -----------------------------------------------------------------------------------------


MODELS = {
    "Parallel": lambda: Parallel(tf.add, α=Dense(4, 3), β=Chain(Dense(4, 3), relu)),
    "PairwiseFusion": lambda: PairwiseFusion(operator.add, Dense(4, 4), Dense(4, 4)),
    "SkipConnection": lambda: SkipConnection(Dense(4, 4, tanh), keras.layers.Concatenate()),
    "Maxout": lambda: Maxout(lambda: Dense(4, 2), 2),
}
EACH = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@EACH
def test_errors_name_the_layer_within(make):
    m = make()
    label = "α" if isinstance(m, Parallel) else "0"

    with pytest.raises(ShapeError, match=rf"got \(2, 5\)\. \(layer {label} of {m.name}\)$"):
        m(np.ones((2, 5)))


@EACH
def test_layers_within_are_built_trained_and_counted(make):
    m = make()

    assert m.built
    assert [id(v) for v in m.trainable_variables] == [id(v) for v in params(m)]
    assert len(params(m)) == 2 * len(m)
    assert m.count_params() == sum(v.shape.num_elements() for v in params(m))


@EACH
def test_they_save_and_load_in_a_chain(make, tmp_path):
    m = Chain(Dense(6, 4), make())
    x = randoms(5, 6)

    m.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(m)
    tf.nest.map_structure(np.testing.assert_array_equal, again(x), m(x))


@EACH
def test_they_take_part_in_models_of_keras(make):
    inputs = keras.Input((4,))
    m = make()
    model = keras.Model(inputs, m(inputs))
    x = randoms(5, 4)

    for got, expected in zip(tf.nest.flatten(model(x)), tf.nest.flatten(m(x))):
        close(got, expected)


def test_layers_of_keras_within_are_built_with_the_chain():
    m = Chain(Dense(4, 3), Parallel(tf.add, keras.layers.Dense(2), Dense(3, 2)))

    assert m.built
    assert len(params(m)) == 6


def test_layers_of_keras_within_are_built_by_the_first_call():
    m = Parallel(tf.add, keras.layers.Dense(2), keras.layers.Dense(2))

    assert not m.built
    assert "not built yet" in str(m)
    assert m(randoms(5, 3)).shape == (5, 2)
    assert m.built
    assert len(params(m)) == 4


def test_a_lambda_as_a_connection_cannot_be_saved(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"an older model")
    m = Chain(SkipConnection(Dense(4, 4), lambda y, x: y + x, name="skip"))

    with pytest.raises(ValueError, match=r"^Saving skip expects a connection that .* got <lambda>"):
        m.save(tmp_path / "m.keras")
    assert (tmp_path / "m.keras").read_bytes() == b"an older model"


def test_errors_show_the_call_that_was_meant():
    with pytest.raises(TypeError, match=r"Write SkipConnection\(Dense\(3, 3\), tf\.add\)\.$"):
        SkipConnection(Dense(3, 3), 3)
    with pytest.raises(
        TypeError, match=r"^Maxout expects layers and other callables, got 'a' at 0"
    ):
        Maxout("a", 3)


def in_graph(m):
    return tf.function(m, autograph=False)  # AutoGraph makes an error of its own of any


@pytest.mark.parametrize("wrap", [lambda m: m, in_graph, Chain], ids=["eager", "graph", "chain"])
@pytest.mark.parametrize(
    ("m", "message"),
    [
        (
            SkipConnection(Dense(2, 3), tf.add),
            "SkipConnection(Dense(2, 3), tf.add) expects shapes that go together, "
            "got (5, 3) and (5, 2).",
        ),
        (
            Maxout(Dense(2, 3), Dense(2, 4)),
            "Maxout(Dense(2, 3), Dense(2, 4)) expects shapes that go together, "
            "got (5, 3) and (5, 4).",
        ),
    ],
    ids=["SkipConnection", "Maxout"],
)
def test_shapes_that_do_not_go_together_are_told(m, message, wrap):
    with pytest.raises(ShapeError, match=re.escape(message)):
        wrap(m)(tf.ones((5, 2)))
