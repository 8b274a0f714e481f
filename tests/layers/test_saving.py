import functools
import inspect
import operator
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import fluxkeras
from fluxkeras import (
    GRU,
    LSTM,
    RNN,
    BatchNorm,
    Chain,
    Conv,
    Dense,
    Embedding,
    GroupNorm,
    LayerNorm,
    MultiHeadAttention,
    Recurrence,
    RNNCell,
    Scale,
    WeightNorm,
    normalise,
    relu,
    softmax,
)
from fluxkeras.layers.saving import loaded, saved

WHOLE = keras.layers.Layer(name="net")


@keras.saving.register_keras_serializable(package="tests of saving")
class Offset:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x + self.by

    def get_config(self):
        return {"by": self.by}


class Unregistered(Offset):
    pass


@pytest.mark.parametrize(
    "function",
    [
        relu,
        softmax,
        keras.activations.relu,
        keras.ops.concatenate,
        tf.concat,
        tf.nn.softplus,
        tf.nn.softmax,
        tf.squeeze,
        tf.image.flip_left_right,
        tf.math.add,
        operator.add,
    ],
)
def test_functions_are_found_again(function):
    assert loaded(saved(function, "a layer 1", WHOLE)) is function


def test_layers_and_objects_are_made_again():
    assert repr(loaded(saved(Dense(2, 3), "a layer 1", WHOLE))) == "Dense(2, 3)"
    assert loaded(saved(Offset(3), "a layer 1", WHOLE)).by == 3


def test_an_object_is_registered():
    message = "Saving net expects a layer 1 that can be made again, got Unregistered(). Give"

    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        saved(Unregistered(3), "a layer 1", WHOLE)


def test_what_is_gone_is_named():
    message = "Loading expects 'mine>Gone' to be registered. Import the module that has it first."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loaded({"object": "mine>Gone", "config": {}})
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loaded({"function": "mine>Gone"})


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (functools.partial(tf.cast, dtype=tf.float16), r"partial\(tf.cast, dtype=tf\.float16\)"),
        (functools.partial(tf.print, output_stream="file:///x"), r"partial\(tf.print, output.*\)"),
        (Offset(1).__call__, r"__call__ \(.*test_saving\.py, line \d+\)"),
        (np.tanh, "tanh"),
    ],
    ids=["object in partial", "path in partial", "method", "ufunc"],
)
def test_what_is_like_a_function_is_to_be_one(function, words):
    with pytest.raises(ValueError, match=rf"found by its name, got {words}\. Write it with def"):
        saved(function, "a layer 1", WHOLE)


@pytest.mark.parametrize("function", [lambda x: x, functools.partial(lambda x, n: x, n=1)])
def test_a_function_is_told_with_its_place(function):
    with pytest.raises(ValueError, match=r"got <lambda> \(.*test_saving\.py, line \d+\)\. Write"):
        saved(function, "a layer 1", WHOLE)


FUNCTIONS = {
    name: function
    for name, function in inspect.getmembers(fluxkeras, inspect.isfunction)
    if name in fluxkeras.__all__
}


def test_all_functions_of_fluxkeras_but_those_of_training_are_found_again():
    trains = {n for n, f in FUNCTIONS.items() if f.__module__.startswith("fluxkeras.training")}
    assert {"save", "load", "train"} <= trains
    for name in FUNCTIONS.keys() - trains:
        function = FUNCTIONS[name]
        assert loaded(saved(function, "a layer 1", WHOLE)) is function, name
    for name in trains:
        with pytest.raises(ValueError, match="can be found by its name"):
            saved(FUNCTIONS[name], "a layer 1", WHOLE)


def test_functions_of_fluxkeras_are_saved_with_a_chain(tmp_path):
    m = Chain(
        Dense(3, 4),
        normalise,
        functools.partial(fluxkeras.pad_constant, pad=(1, 0), value=2.0, dims=-1),
        functools.partial(tf.reshape, shape=(-1, 5, 1)),
        fluxkeras.batched_transpose,
    )
    x = np.random.default_rng(0).random((6, 3)).astype("float32")
    m.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    h = x @ m[0].kernel.numpy()
    h = (h - h.mean(0)) / h.std(0)
    expected = np.pad(h, [(0, 0), (1, 0)], constant_values=2)[:, None]
    np.testing.assert_allclose(again(x), expected, rtol=1e-3, atol=1e-4)
    assert again[2].keywords == m[2].keywords
    assert str(again) == str(m)


def test_what_is_loaded_has_plain_arguments_only():
    options = {"output_stream": "file:///x"}
    config = {"partial": {"function": "tf.print"}, "arguments": [], "options": options}

    with pytest.raises(
        ValueError, match=r"^Loading expects the arguments of tf.print to be numbers"
    ):
        loaded(config)


@pytest.mark.parametrize("name", ["tf.load_op_library", "fluxkeras.relu"])
def test_only_what_is_registered_is_called_while_loading(name):
    with pytest.raises(ValueError, match=f"^Loading expects '{name}' to be registered"):
        loaded({"object": name, "config": {}})


# --- Initialisers --------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests of saving")
def twice(x):
    return 2 * x


@keras.saving.register_keras_serializable(package="tests of saving")
def sevens(shape, kind):
    return tf.fill(shape, tf.cast(7, kind))


WITH_INIT = {
    "Dense": lambda init: Dense(2, 3, init=init).kernel,
    "Embedding": lambda init: Embedding(2, 3, init=init).embeddings,
    "Scale": lambda init: Scale(2, init=init).weight,
    "Conv": lambda init: Conv((3,), 1, 2, init=init).kernel,
    "BatchNorm": lambda init: BatchNorm(3, init_gamma=init).gamma,
    "RNN": lambda init: RNN(2, 3, init_recurrent_kernel=init).cell.recurrent_kernel,
    "GRU": lambda init: GRU(2, 3, init_kernel=init).cell.kernel,
    "MultiHeadAttention": lambda init: MultiHeadAttention(8, init=init).q_proj.kernel,
}


@pytest.mark.parametrize("make", WITH_INIT.values(), ids=WITH_INIT)
def test_functions_of_shape_and_dtype_are_initialisers(make):
    assert tf.reduce_all(make(sevens) == 7) and tf.reduce_all(make("ones") == 1)


WITH_FUNCTIONS = {
    "Dense": lambda f, i: Dense(2, 3, f, init=i),
    "Conv": lambda f, i: Conv((3,), 1, 2, f, init=i),
    "Scale": lambda f, i: Scale(2, f, init=i),
    "BatchNorm": lambda f, i: BatchNorm(3, f, init_beta=i),
    "LayerNorm": lambda f, i: LayerNorm(3, f),
    "GroupNorm": lambda f, i: GroupNorm(4, 2, f, init_gamma=i),
    "RNN": lambda f, i: RNN(2, 3, f, init_kernel=i),
    "RNNCell": lambda f, i: RNNCell(2, 3, f, init_recurrent_kernel=i),
    "LSTM": lambda f, i: LSTM(2, 3, recurrent_activation=f, init_kernel=i),
    "Recurrence": lambda f, i: Recurrence(RNNCell(2, 3, f, init_kernel=i)),
    "WeightNorm": lambda f, i: WeightNorm(Dense(2, 3, f, init=i)),
}
EACH = pytest.mark.parametrize("make", WITH_FUNCTIONS.values(), ids=WITH_FUNCTIONS)


@EACH
def test_registered_functions_of_layers_are_found_again(make, tmp_path):
    model = Chain(make(twice, sevens))
    model.save(tmp_path / "m.keras")

    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(model)
    assert again.get_config() == model.get_config()


@EACH
def test_lambdas_of_layers_are_named(make, tmp_path):
    with pytest.raises(ValueError, match=r"got <lambda> \(.*test_saving\.py, line \d+\)\. Write"):
        Chain(make(lambda x: x, sevens)).save(tmp_path / "m.keras")
    assert not (tmp_path / "m.keras").exists()


def test_a_lambda_that_initialises_is_named():
    message = "Saving an initialiser expects a function that can be found by its name, got <lambda>"

    for layer in (
        Dense(2, 3, init=lambda s, d: tf.ones(s, d)),
        GRU(2, 3, init_kernel=lambda s, d: tf.ones(s, d)),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            layer.get_config()


class Sum:
    def __call__(self, x, total):
        return x + total, x + total

    def initialstates(self):
        return tf.zeros(1)


def test_a_cell_of_the_users_is_registered():
    message = "expects a cell that can be made again, got Sum(). Give Sum a"

    # Keras counts the cells that were named before.
    with pytest.raises(ValueError, match=rf"^Saving plain_cell(_\d+)? {re.escape(message)}"):
        Chain(Recurrence(Sum(), name="r")).get_config()
