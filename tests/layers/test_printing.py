import functools
import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import Chain, Dense, Parallel, SkipConnection, leakyrelu, param, relu, softmax, σ
from fluxkeras.layers.printing import describe


class Affine:
    def __init__(self):
        self.weights = [param([1.0, 2.0])]

    def __call__(self, x):
        return x * self.weights[0]


class Named(Affine):
    def __repr__(self):
        return "a named one"


def test_a_chain_prints_its_layers_and_counts_as_flux_does():
    m = Chain(Dense(784, 32, σ), Dense(32, 10), softmax)

    # 784·32+32 = 25,120; 32·10+10 = 330; 25,450 numbers of 4 bytes are 99.41 KiB.
    assert str(m) == (
        "Chain(\n"
        "  Dense(784 => 32, σ),                  # 25_120 parameters\n"
        "  Dense(32 => 10),                      # 330 parameters\n"
        "  softmax,\n"
        ")                   # Total: 4 arrays, 25_450 parameters, 99.41 KiB."
    )


def test_a_chain_of_chains_prints_with_names_and_non_trainable_parameters():
    body = Chain(Dense(2, 3, relu), keras.layers.BatchNormalization())
    m = Chain(body=body, drop=keras.layers.Dropout(0.5), head=Dense(3, 1, bias=False))

    assert str(m) == (
        "Chain(\n"
        "  body = Chain(\n"
        "    Dense(2 => 3, relu),                # 9 parameters\n"
        "    BatchNormalization(),               # 6 parameters, plus 6 non-trainable\n"
        "  ),\n"
        "  drop = Dropout(rate=0.5),\n"
        "  head = Dense(3 => 1, bias=False),     # 3 parameters\n"
        ")                   # Total: 5 arrays, 18 parameters, plus 6 non-trainable, 96 bytes."
    )


def test_a_chain_that_is_not_built_says_so():
    m = Chain(keras.layers.Dense(3))

    assert "  Dense(units=3),                       # not built yet\n" in str(m)
    m(np.ones((1, 2)))
    assert "# 9 parameters" in str(m)


def test_the_sum_is_told_where_there_is_something_to_add_up():
    two, three = Chain(Dense(2, 3), relu), Chain(Dense(2, 3), Dense(3, 1, bias=False))

    assert str(two).splitlines()[-1] == ")"
    assert str(three).splitlines()[-1].endswith("# Total: 3 arrays, 12 parameters, 48 bytes.")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (tf.nn.softmax, "tf.nn.softmax"),
        (tf.squeeze, "tf.squeeze"),
        (tf.add, "tf.add"),
        (tf.math.log1p, "tf.math.log1p"),
        (keras.ops.log1p, "keras.ops.log1p"),
        (operator.add, "operator.add"),
        (softmax, "softmax"),
    ],
)
def test_functions_of_libraries_print_as_they_are_called(function, text):
    m = Chain(Dense(2, 3, function), function)

    assert repr(m) == f"Chain(Dense(2, 3, {text}), {text})"
    assert repr(eval(repr(m))) == repr(m)


def test_numbers_that_will_not_train_are_told():
    m = Chain(*(Dense(1, 1) for _ in range(4)))
    m[0].kernel.assign([[0.0]])
    m[1].kernel.assign([[np.nan]])
    m[2].bias.assign([-np.inf])

    lines = str(m).splitlines()

    assert lines[1].endswith("# 2 parameters  (all zero)")
    assert lines[2].endswith("# 2 parameters  (some NaN)")
    assert lines[3].endswith("# 2 parameters  (some Inf)")
    assert lines[4].endswith("# 2 parameters")


def test_layers_side_by_side_print_inside_a_chain():
    m = Chain(Parallel(tf.add, a=Dense(2, 3), b=SkipConnection(relu, tf.multiply)), Affine())

    assert str(m) == (
        "Chain(\n"
        "  Parallel(\n"
        "    tf.add,\n"
        "    a = Dense(2 => 3),                  # 9 parameters\n"
        "    b = SkipConnection(\n"
        "      relu,\n"
        "      tf.multiply,\n"
        "    ),\n"
        "  ),\n"
        "  Affine(),                             # 2 parameters\n"
        ")                   # Total: 3 arrays, 11 parameters, 44 bytes."
    )


def test_parameters_that_functions_close_over_are_counted():
    d = Dense(2, 3)

    assert "  <lambda>,                             # 9 parameters\n" in str(Chain(lambda x: d(x)))


def test_a_chain_prints_while_it_is_compiled():
    m, seen = Chain(Dense(2, 1)), []

    @tf.function
    def call(x):
        seen.append(str(m))
        return m(x)

    call(tf.ones((1, 2)))

    assert seen == [str(m)]


def test_a_long_line_keeps_its_comment_apart():
    m = Chain(keras.layers.Dense(2, activation="relu", kernel_initializer="ones", use_bias=False))
    m(np.ones((1, 1)))

    assert "use_bias=False), # 2 parameters\n" in str(m)


@pytest.mark.parametrize(
    ("element", "text"),
    [
        (relu, "relu"),
        (σ, "σ"),
        (Dense(2, 3, σ), "Dense(2 => 3, σ)"),
        (keras.layers.Dropout(0.3), "Dropout(rate=0.3)"),
        (keras.layers.Flatten(), "Flatten()"),
        (keras.layers.TimeDistributed(Chain(lambda x: x)), "TimeDistributed()"),
        (functools.partial(leakyrelu, a=0.2), "partial(leakyrelu, a=0.2)"),
        (functools.partial(tf.pow, 2), "partial(tf.pow, 2)"),
        (Affine(), "Affine()"),
        (Named(), "a named one"),
        (keras.Sequential([keras.layers.Flatten()], name="net"), "Sequential('net')"),
    ],
)
def test_an_element_is_described_as_the_call_that_made_it(element, text):
    assert describe(element) == text


def test_a_layer_whose_arguments_keras_cannot_tell_prints_its_class():
    class Apply(keras.layers.Layer):
        def __init__(self, f):
            super().__init__()
            self.f = f

    assert describe(Apply(len)) == "Apply()"


def test_a_repr_makes_the_chain_again():
    m = Chain(Dense(4, 3, σ), Dense(3, 2, bias=False), softmax)

    assert (
        repr(eval(repr(m))) == repr(m) == "Chain(Dense(4, 3, σ), Dense(3, 2, bias=False), softmax)"
    )
