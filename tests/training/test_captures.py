import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import Chain, Dense, mse, param, relu, tanh
from fluxkeras.training.captures import Captures

SCALE = 1.0


def fingerprint(*values):
    return Captures(*values).fingerprint


def closure(value):
    return lambda x: x * value


MODEL = Chain(Dense(2, 3, relu), Dense(3, 1))
VARIABLE = param(1.0)
TENSOR = tf.constant([1.0])


@pytest.mark.parametrize(
    "value",
    [
        1, 2.5, float("nan"), "a", None, True, np.float32(3), [1, [2]], {"a": (1, 2)}, {1, 2},
        np.arange(3), MODEL, VARIABLE, TENSOR, tf.nn.relu, mse, keras.layers.Dense,
    ],
    ids=repr,
)  # fmt: skip
def test_a_function_made_again_over_the_same_value_is_the_same(value):
    assert fingerprint(closure(value)) == fingerprint(closure(value))
    assert isinstance(hash(fingerprint(closure(value))), int)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2), (1, 1.0), (1, True), (0.0, -0.0), ("a", "b"), (None, 0), ([1, 2], [1, 3]),
        ([1], (1,)),
        ({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), (np.zeros(3), np.ones(3)),
        (np.zeros(3), np.zeros(3, "float32")), (np.zeros((2, 3)), np.zeros((3, 2))),
        (param(1.0), param(1.0)), (tf.constant(1.0), tf.constant(1.0)), (relu, tanh),
        (Chain(Dense(2, 1)), Chain(Dense(2, 1))),
    ],
    ids=repr,
)  # fmt: skip
def test_a_function_over_another_value_is_another(one, other):
    assert fingerprint(closure(one)) != fingerprint(closure(other))


def test_other_code_is_another_function():
    assert fingerprint(lambda x: x + 1) != fingerprint(lambda x: x + 2)


def test_a_global_counts_by_its_value(monkeypatch):
    def loss(x):
        return (lambda: SCALE * x)()

    before = fingerprint(loss)
    assert fingerprint(loss) == before
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert fingerprint(loss) != before


def test_functions_that_are_called_count_with_their_own_captures():
    scale = 1.0

    def inner(x):
        return x * scale

    def outer(x):
        return inner(x) + inner(x)

    before = fingerprint(outer)
    scale = 2.0
    assert fingerprint(outer) != before


def test_attributes_of_the_users_objects_count():
    class Config:
        beta = 1.0

        def loss(self, x):
            return x * self.beta

    config, space = Config(), types.SimpleNamespace(beta=1.0)
    for holder, f in (
        (config, config.loss),
        (space, closure(space)),
        (config, functools.partial(closure, config)),
    ):
        holder.beta = 1.0
        before = fingerprint(f)
        assert fingerprint(f) == before
        holder.beta = 2.0
        assert fingerprint(f) != before


def test_what_a_module_of_the_users_holds_counts(monkeypatch):
    settings = types.ModuleType("settings_of_the_user")
    settings.beta, settings.unused = 1.0, 1.0
    monkeypatch.setitem(globals(), "settings", settings)

    def loss(x):
        return x * settings.beta

    before = fingerprint(loss)
    settings.unused = 2.0
    assert fingerprint(loss) == before
    settings.beta = 2.0
    assert fingerprint(loss) != before


def test_defaults_count():
    def make(value):
        def loss(x, a=value, *, b=value):
            return x

        return loss

    assert fingerprint(make(1)) == fingerprint(make(1))
    assert fingerprint(make(1)) != fingerprint(make(2))


def test_an_array_changed_in_place_counts():
    weights = np.ones(3)
    before = fingerprint(closure(weights))
    weights[1] = 5
    assert fingerprint(closure(weights)) != before


def test_an_option_of_a_layer_and_freezing_count():
    model = Chain(Dense(2, 3), keras.layers.Dropout(0.5), keras.Sequential([keras.layers.Dense(1)]))
    model(np.ones((1, 2)))
    before = fingerprint(model)

    model[1].rate = 0.1
    changed = fingerprint(model)
    assert changed != before
    model[0].trainable = False
    assert fingerprint(model) != changed
    model[0].trainable, model[1].rate = True, 0.5
    assert fingerprint(model) == before
    model[2].layers[0].trainable = False
    assert fingerprint(model) != before


def test_a_layer_that_has_only_moving_statistics_counts_as_frozen():
    layer = keras.layers.BatchNormalization(center=False, scale=False)
    model = keras.Sequential([keras.Input((3,)), layer])
    before = fingerprint(model)
    layer.trainable = False
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
        ),
        keras.Model(inputs := keras.Input((2,)), keras.layers.Dense(1)(inputs)),
    ],
    ids=["Chain", "Sequential", "Functional"],
)
def test_using_a_model_does_not_make_it_another(model):
    x = np.ones((4, 2))
    model(x)
    before = fingerprint(model)

    model(x, training=True)
    model.set_weights([w + 1 for w in model.get_weights()])
    str(model)

    assert fingerprint(model) == before


def test_what_refers_to_itself_has_a_fingerprint():
    loop = []
    loop.append(loop)

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert fingerprint(loop) == fingerprint(loop)
    assert fingerprint(recursive) == fingerprint(recursive)


def test_what_counts_by_identity_is_kept_alive():
    captured = Captures(closure(tf.constant(1.0)))
    others = [fingerprint(closure(tf.constant(1.0))) for _ in range(100)]

    assert captured.fingerprint not in others


def test_what_is_too_deep_to_compare_is_the_same_as_nothing():
    deep = []
    for _ in range(10_000):
        deep = [deep]

    assert fingerprint(deep) != fingerprint(deep)
    assert isinstance(hash(fingerprint(deep)), int)


@pytest.mark.parametrize(
    "array", [np.array(3.0), np.zeros((3, 4))[:, ::2], np.array(["2020-01-01"], "datetime64[D]")]
)
def test_arrays_of_any_kind_count_by_value(array):
    assert fingerprint(array) == fingerprint(array.copy())
