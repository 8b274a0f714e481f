import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import SGD, Chain, Dense, mse, param, train
from fluxkeras.parameters import raw
from fluxkeras.training.batch import Batch
from fluxkeras.training.captures import Captures
from fluxkeras.training.objective import Objective, converting
from fluxkeras.training.step import Step, written

X, Y = np.ones((4, 3)), np.ones((4, 2))


def evaluate(loss, *arguments, model=None):
    batch = Batch(arguments, 0)
    return Objective(loss, model).evaluate(batch.structure, batch.tensors())


def objective_of(loss):
    return Objective(loss, parts=Captures(loss).of_keras())


class Access(Step):
    """A step, which tells what its objective reads with a gradient, and what it may write."""

    def __init__(self, objective, *arguments):
        super().__init__(objective, [SGD(0.1)], None, Batch(arguments, 0).signature)
        self.written = written(self.gradient)

    def _read(self, tape):
        self.read = super()._read(tape)
        return self.read


def same(found, expected):
    return {id(raw(v)) for v in found} == {id(raw(v)) for v in expected}


def test_the_loss_is_what_the_function_returns():
    loss, aux = evaluate(lambda x, y: tf.reduce_sum(x) + tf.reduce_sum(y), X, Y)

    assert float(loss) == 20
    assert aux is None


@pytest.mark.parametrize(
    ("result", "aux"),
    [
        (lambda v: (v, {"acc": 1}), {"acc": 1}),
        (lambda v: (v, 2), 2),
        (lambda v: (v, 2, 3), (2, 3)),
        (lambda v: (v, None), None),
    ],
)
def test_what_comes_besides_the_loss_is_handed_on(result, aux):
    assert evaluate(lambda x: result(tf.reduce_sum(x)), X)[1] == aux


def test_the_model_goes_first():
    model = Chain(Dense(3, 2))

    loss, _ = evaluate(lambda m, x, y: mse(m(x), y), X, Y, model=model)

    assert float(loss) == pytest.approx(float(mse(model(X), Y)))


def test_floating_point_arguments_take_keras_precision_and_others_keep_their_type():
    def loss(d, i, flag):
        assert (d["x"].dtype, i.dtype, flag.dtype) == (tf.float32, tf.int64, tf.bool)
        return tf.reduce_sum(d["x"])

    evaluate(loss, {"x": X}, np.arange(3), True)


def test_layers_are_in_training_mode_inside_and_in_inference_mode_outside():
    dropout = keras.layers.Dropout(0.5)
    ones = tf.ones((100, 10))

    inside, _ = evaluate(lambda x: tf.reduce_mean(tf.cast(dropout(x) == 0, tf.float32)), ones)

    assert 0.4 < float(inside) < 0.6
    assert np.all(dropout(ones) == ones)


def test_a_layer_told_its_mode_keeps_to_it():
    dropout = keras.layers.Dropout(0.5)

    loss, _ = evaluate(lambda x: tf.reduce_mean(dropout(x, training=False)), X)

    assert float(loss) == 1


def test_keras_variables_read_are_found_in_order_and_frozen_ones_left_out():
    model = Chain(Dense(3, 4), Dense(4, 2, bias=False))
    frozen = Dense(2, 2)
    frozen.trainable = False

    found = Access(objective_of(lambda x, y: mse(frozen(model(x)), y)), X, Y)

    assert [id(v) for v in found.read] == [id(v) for v in model.trainable_variables]
    assert found.written == []


def test_variables_are_found_wherever_they_are_kept():
    w, b, extra = tf.Variable(2.0), param(1.0), tf.Variable(1.0, trainable=False)
    module = tf.Module()
    module.scale = tf.Variable(3.0)
    hidden = {"b": [b]}

    def loss(x):
        for _ in range(2):
            x = w * x + hidden["b"][0]
        extra.assign_add(1.0)
        return tf.reduce_sum(x) * module.scale

    found = Access(objective_of(loss), X)

    assert {id(v) for v in found.read} == {id(w), id(b), id(module.scale)}
    assert [id(v) for v in found.written] == [id(extra)]
    assert extra.numpy() == 1


def test_looking_changes_nothing():
    model = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])
    model.build((None, 3))
    before = model.get_weights()

    found = Access(objective_of(lambda x: tf.reduce_sum(model(x))), np.random.rand(4, 3))

    normalisation, dropout = model.layers
    moving = [normalisation.moving_mean, normalisation.moving_variance]
    assert same(found.written, [*moving, dropout.seed_generator.state])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_layers_that_are_not_built_yet_are_built_and_found():
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])

    found = Access(objective_of(lambda x, y: mse(model(x), y)), X, Y)

    assert [id(v) for v in found.read] == [id(v) for v in model.trainable_variables]
    assert len(found.read) == 4
    assert model.layers[0].kernel.numpy().std() > 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # AutoGraph's own, on Python 3.13
def test_python_control_flow_over_tensors_is_converted():
    w = param(2.0)

    def loss(x):
        total = w * 0.0
        for i in tf.range(3):
            if tf.reduce_sum(x) > 0:
                total += w * tf.cast(i, tf.float32)
            else:
                total -= w
        while total < 100.0:
            total *= 10.0
        return total

    objective = Objective(loss)
    value, _, ((gradient,),) = Access(objective, X).gradient(tf.constant(X))

    assert objective.is_converted
    assert (float(value), float(gradient)) == (600, 300)  # 3 * w * 100


@pytest.mark.filterwarnings("ignore")
def test_control_flow_whose_source_is_not_to_be_found_is_refused(caplog):
    namespace = {"tf": tf, "w": param(2.0)}
    exec("loss = lambda x: w if tf.reduce_sum(x) > 0 else -w", namespace)

    with pytest.raises(TypeError, match="the objective has a Python `if`, `for` or `while` over"):
        Access(objective_of(namespace["loss"]), X)


def test_an_objective_without_control_flow_is_left_to_python():
    def loss(x):
        return tf.reduce_sum(x) * w

    w = param(1.0)
    objective = Objective(loss)

    Access(objective, X)

    assert not objective.is_converted


def test_what_can_be_traced_is_traced_once():
    objective, traces = Objective(lambda: 0.0), []

    assert converting(objective, lambda: traces.append(1) or "traced") == "traced"
    assert (traces, objective.is_converted) == ([1], False)


@pytest.mark.parametrize(("error", "times"), [(TypeError, 2), (ValueError, 1)])
def test_errors_that_control_flow_does_not_cause_are_raised_as_they_are(error, times):
    objective, converted = Objective(lambda: 0.0), []
    first, second = error("first"), error("second")

    def trace():
        converted.append(objective.is_converted)
        raise second if objective.is_converted else first

    with pytest.raises(error) as caught:
        converting(objective, trace)

    assert caught.value is first
    assert converted == [False, True][:times]
    assert not objective.is_converted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # AutoGraph's own, on Python 3.13
def test_an_error_behind_control_flow_is_raised_and_not_the_control_flow():
    def loss(x):
        if tf.reduce_sum(x) > 0:
            x = x + 1
        raise ValueError("of the user's")

    objective = Objective(loss)

    with pytest.raises(ValueError, match=r"^of the user's$"):
        Access(objective, X)
    assert not objective.is_converted


def test_a_type_error_of_the_user_is_raised_as_it_is():
    def loss(x):
        return param(1.0) + {}["missing"] if False else len(5)

    with pytest.raises(TypeError, match=r"^object of type 'int' has no len\(\)$"):
        Access(objective_of(loss), X)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (
            None,
            TypeError,
            "must return a number, the loss, but returned None. Is a `return` missing?",
        ),
        ([1.0], TypeError, "but returned [1.0]"),
        ({"loss": 1.0}, TypeError, "but returned {'loss': 1.0}"),
        (
            tf.ones((4, 2)),
            ValueError,
            "but returned a tensor of shape (4, 2). Reduce it, for example",
        ),
        (tf.ones(1), ValueError, "but returned a tensor of shape (1,)."),
        ((tf.ones(3), {}), ValueError, "but returned a tensor of shape (3,)."),
        (tf.constant(1), TypeError, "floating-point loss, but returned int32"),
    ],
)
def test_an_objective_that_returns_no_number_is_refused(returned, error, message):
    with pytest.raises(error, match=re.escape(message)):
        evaluate(lambda x: returned, X)


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (lambda x, y: 0.0, (X,)),
        (lambda x: 0.0, (X, Y)),
        (functools.partial(lambda a, x: 0.0, 1), ()),
    ],
)
def test_a_batch_of_another_number_of_arguments_is_refused(loss, arguments):
    message = rf"the objective takes \(.*\), and this batch is {len(arguments)} argument\(s\)\."

    with pytest.raises(TypeError, match=message):
        evaluate(loss, *arguments)


def test_an_objective_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="train expects a function as its objective, got 3"):
        Objective(3)


def test_an_array_of_numpy_may_come_first():
    W, x = param(np.ones((3, 1))), np.ones((2, 3), "float32")

    train(lambda: tf.reduce_sum(x @ W), [()], SGD([W], 0.1), progress=False)

    np.testing.assert_allclose(W, np.full((3, 1), 1 - 0.2), rtol=1e-6)


@pytest.mark.parametrize(
    "objective", [lambda W, x: tf.reduce_sum(x * np.exp(W)), lambda W, x: W * np.sum(np.exp(x))]
)
def test_numpy_in_an_objective_is_an_error_that_names_the_way_out(objective):
    W = param(1.0)
    message = r"^batch 0 \(float64 \(2,\)\): the objective computes with NumPy what has no value"

    with pytest.raises(TypeError, match=message) as caught:
        train(objective, W, [np.ones(2)], SGD([W], 0.1), progress=False)

    assert any(entry.frame.code.name == "<lambda>" for entry in caught.traceback)
