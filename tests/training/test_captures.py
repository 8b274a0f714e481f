import dataclasses
import functools
import types
from collections import deque

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
    ids=lambda value: getattr(value, "__name__", repr(value)),
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
    ids=lambda value: getattr(value, "__name__", repr(value)),
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


class Config:
    alpha = 1.0

    def __init__(self):
        self.beta, self.unused, self.items = 1.0, 1.0, {"gamma": 1.0}

    def loss(self, x):
        return x * self.beta * self.alpha

    def __getitem__(self, name):
        return self.items[name]

    @property
    def delta(self):
        return self.beta

    @staticmethod
    def of_a_global(x):
        return x * SCALE

    def __call__(self, x):
        return x * SCALE


@dataclasses.dataclass
class Slotted:
    __slots__ = ("beta",)
    beta: float


class OfKeras(keras.Model):
    def __init__(self):
        super().__init__()
        self.beta = 1.0

    def call(self, x):
        return x * self.beta * SCALE


def bare_module():
    module = tf.Module()
    module.beta = 1.0
    return module


def set_scale(_, value):
    globals()["SCALE"] = value


def set_attribute(name):
    return lambda holder, value: setattr(holder, name, value)


@pytest.mark.parametrize(
    ("make", "use", "change"),
    [
        (Config, lambda c: c.loss, set_attribute("beta")),
        (Config, lambda c: lambda x: c.loss(x), set_attribute("beta")),
        (Config, lambda c: lambda x: x * c.delta, set_attribute("beta")),
        (Config, lambda c: lambda x: x * c["gamma"], lambda c, v: c.items.update(gamma=v)),
        (Config, lambda c: c.loss, lambda c, v: setattr(type(c), "alpha", v)),
        (Config, lambda c: lambda x: x * type(c).alpha, lambda c, v: setattr(type(c), "alpha", v)),
        (Config, lambda c: lambda x: x * Config.alpha, lambda c, v: setattr(Config, "alpha", v)),
        (Config, lambda c: c, set_scale),
        (Config, lambda c: lambda x: c.of_a_global(x), set_scale),
        (Config, lambda c: lambda x: c(x), set_scale),
        (OfKeras, lambda m: lambda x: m(x), set_scale),
        (OfKeras, lambda m: lambda x: m(x), set_attribute("beta")),
        (lambda: Slotted(1.0), lambda s: lambda x: x * s.beta, set_attribute("beta")),
        (bare_module, lambda s: lambda x: x * s.beta, set_attribute("beta")),
        (
            lambda: types.SimpleNamespace(inner=types.SimpleNamespace(beta=1.0)),
            lambda s: functools.partial(lambda s, x: x * s.inner.beta, s),
            lambda s, v: setattr(s.inner, "beta", v),
        ),
        (
            lambda: keras.losses.Huber(delta=1.0),
            lambda h: lambda x: h(x, x),
            lambda h, v: h._fn_kwargs.update(delta=v),
        ),
        (
            lambda: keras.regularizers.L2(1.0),
            lambda r: lambda x: r(x),
            set_attribute("l2"),
        ),
        (lambda: deque([1.0]), lambda d: lambda x: x * d[0], lambda d, v: d.__setitem__(0, v)),
        (
            lambda: np.array([1.0, None], object),
            lambda a: lambda x: x * a[0],
            lambda a, v: a.__setitem__(0, v),
        ),
    ],
)
def test_a_number_that_the_code_reads_counts_wherever_it_is(make, use, change):
    holder = make()
    change(holder, 1.0)
    before = fingerprint(use(holder))
    assert fingerprint(use(holder)) == before
    change(holder, 2.0)
    assert fingerprint(use(holder)) != before
    change(holder, 1.0)
    assert fingerprint(use(holder)) == before


def test_an_attribute_that_no_code_names_does_not_count():
    config = Config()
    before = fingerprint(config.loss)
    config.unused = 2.0
    assert fingerprint(config.loss) == before


def test_what_a_module_of_the_users_holds_counts(monkeypatch):
    settings, package = types.ModuleType("user.settings"), types.ModuleType("user")
    settings.beta, settings.unused, package.settings = 1.0, 1.0, settings
    monkeypatch.setitem(globals(), "package", package)

    def loss(x):
        return x * package.settings.beta

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


def test_what_was_found_does_not_depend_on_the_names_to_begin_with():
    config = types.SimpleNamespace(alpha=1.0, beta=types.SimpleNamespace(gamma=2.0), delta=3.0)
    loss = lambda x: x * config.beta.gamma  # noqa: E731
    names = Captures(loss).names

    for likely in (names, {"delta"}, {*names, "delta"}, names - {"gamma"}):
        assert Captures(loss, likely=likely).fingerprint == Captures(loss).fingerprint

    before = Captures(loss, likely=names).fingerprint
    config.delta = 4.0  # which no code names
    assert Captures(loss, likely=names).fingerprint == before
    config.beta.gamma = 5.0
    assert Captures(loss, likely=names).fingerprint != before


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


def test_a_layer_that_was_called_is_the_same_layer():
    lstm = keras.layers.LSTM(2)
    lstm.build((None, 3, 1))
    loss = lambda x: tf.reduce_sum(lstm(x))  # noqa: E731
    before = Captures(loss).fingerprint
    loss(np.ones((1, 3, 1)))
    assert Captures(loss).fingerprint == before
