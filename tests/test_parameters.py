import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import Chain, Dense, param, params
from fluxkeras.parameters import listed


class TwoWeights(tf.Module):
    def __init__(self):
        self.a = tf.Variable(1.0)
        self.fixed = tf.Variable(2.0, trainable=False)
        self.b = param([3.0])


def assert_same(found, expected):
    assert [id(v) for v in found] == [id(v) for v in expected]


@pytest.mark.parametrize("value", [2, 2.5, [1, 2], [[1.0], [2.0]], np.ones((2, 3)), np.float64(1)])
def test_a_param_is_trainable_and_in_keras_precision(value):
    p = param(value)

    assert p.trainable
    assert p.dtype == "float32"
    np.testing.assert_array_equal(p.numpy(), np.float32(value))


def test_a_param_takes_part_in_operations_and_gradients():
    w = param([[1.0, 2.0], [3.0, 4.0]])

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum((w @ np.array([1.0, 1.0])) ** 2)

    assert float(loss) == 3.0**2 + 7.0**2
    np.testing.assert_array_equal(tape.gradient(loss, w.value), [[6.0, 6.0], [14.0, 14.0]])


def test_params_of_a_chain_are_its_layers_in_order():
    chain = Chain(Dense(3, 2), Dense(2, 1, bias=False))

    assert_same(params(chain), [chain[0].kernel, chain[0].bias, chain[1].kernel])


def test_params_of_a_keras_model_are_its_trainable_variables():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )

    assert_same(params(model), model.trainable_variables)
    assert len(params(model)) == 4


def test_params_of_several_models_hold_shared_ones_once():
    chain = Chain(Dense(3, 2), Dense(2, 1))

    assert_same(params(chain, chain[1:], chain[0].kernel), params(chain))
    assert_same(params(chain[0].kernel, chain[0].kernel.value), [chain[0].kernel])


def test_params_of_a_module_include_those_of_keras():
    module = TwoWeights()

    assert_same(params(module), [module.a, module.b])


def test_params_of_containers_objects_and_functions():
    w, b, c = param(1.0), tf.Variable(2.0), param(3.0)

    def predict(x):
        return w * x + b

    expected = [w, b]
    assert_same(params([w, {"b": b}]), expected)
    assert_same(params(types.SimpleNamespace(w=w, b=(b,))), expected)
    assert_same(params(functools.partial(lambda w, b, x: w * x + b, w, b)), expected)
    assert_same(sorted(params(predict), key=id), sorted(expected, key=id))
    assert_same(params(types.SimpleNamespace(f=types.MethodType(predict, c))), [c, b, w])


def test_params_of_a_chain_include_those_of_plain_callables():
    module = TwoWeights()
    module_call = lambda x: module.a * x  # noqa: E731

    chain = Chain(Dense(2, 2), module_call)

    assert_same(params(chain), [*params(chain[0]), module.a, module.b])


def test_params_leave_out_what_is_frozen():
    chain = Chain(Dense(3, 2), Dense(2, 1))
    chain[0].trainable = False

    assert_same(params(chain), params(chain[1]))
    assert params(tf.Variable(1.0, trainable=False)) == []


def test_params_end_where_objects_refer_to_each_other():
    a, b = types.SimpleNamespace(w=param(1.0)), types.SimpleNamespace(w=param(2.0))
    a.other, b.other = b, a

    assert_same(params(a), [a.w, b.w])


@pytest.mark.parametrize(
    "model",
    [
        keras.layers.Dense(3, name="late"),
        keras.Sequential([keras.layers.Dense(3, name="late")], name="late"),
    ],
)
def test_params_of_an_unbuilt_layer_are_refused(model):
    with pytest.raises(ValueError, match=r"'late' \((Dense|Sequential)\) has no parameters yet"):
        params(model)


def test_params_of_a_model_whose_layers_are_built_need_no_call():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = Dense(3, 2)
            self.drop = keras.layers.Dropout(0.5)

    assert len(params(Model())) == 2


def test_variables_are_listed_with_name_and_shape():
    text = listed([param([1.0], name="w"), tf.Variable([[1.0]], name="v")])

    assert text == "w (1,), v (1, 1)"
