"""Gradients that are not finite, in loops that look at the weights at their end."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import ADAM, SGD, Lion, NonFiniteError, OptimiserChain, Rprop, param, train
from fluxkeras.rule_chain import ClipGrad
from fluxkeras.training.lasting import LASTING, are_finite, is_lasting

OPTIONS = [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"weight_decay": 0.1}]
VALUES = [np.nan, np.inf, -np.inf]
loops = pytest.mark.parametrize("form", ["graph", "xla"])


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rule", LASTING, ids=lambda rule: f"{rule.__module__}.{rule.__name__}")
def test_a_gradient_that_is_not_finite_lasts_in_the_weights(rule, options, value):
    x, opt = tf.Variable([1.0, 2.0, 3.0]), rule(**options)
    opt.build([x])

    assert is_lasting(opt, [x])
    opt.apply([tf.constant([0.5, 0.5, 0.5])], [x])
    opt.apply([tf.constant([0.5, value, 0.5])], [x])
    for _ in range(3):
        assert not np.isfinite(x.numpy()[1])
        opt.apply([tf.constant([0.5, 0.0, 0.5])], [x])


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Lion(),
        lambda: Lion(),
        lambda: Rprop(),
        lambda: OptimiserChain(ClipGrad(1.0), ADAM()),
        lambda: keras.optimizers.SGD(0.1, clipvalue=1.0),
        lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
        lambda: keras.optimizers.Adam(0.1, use_ema=True),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        lambda: type("Mine", (keras.optimizers.SGD,), {})(),
    ],
)
def test_a_rule_that_may_make_a_gradient_finite_is_not_lasting(make):
    x, opt = tf.Variable([1.0, 2.0]), make()
    opt.build([x])

    assert not is_lasting(opt, [x])


def test_a_constraint_may_make_weights_finite():
    layer = keras.layers.Dense(2, kernel_constraint="non_neg")
    layer.build((None, 3))

    assert not is_lasting(keras.optimizers.SGD(), layer.trainable_variables)
    assert is_lasting(keras.optimizers.SGD(), [layer.bias])


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("value", [0.0, *VALUES])
def test_numbers_are_finite_if_their_sum_is(xla, value):
    values = [tf.ones([3, 2]), tf.constant(2.0, tf.float16), tf.constant([1.0, value], tf.float64)]

    assert bool(are_finite(values, xla)) == np.isfinite(value)


@tf.custom_gradient
def blown_up(x, is_bad):
    """`x`, with a gradient that is infinite where it is bad."""
    return tf.identity(x), lambda g: (tf.where(is_bad, np.inf * g, g), None)


@loops
@pytest.mark.parametrize("bad", [0, 1, 4, 9, 10])
@pytest.mark.parametrize("opt", [SGD, Lion, lambda eta: keras.optimizers.SGD(eta, clipvalue=1.0)])
def test_a_loop_stops_before_a_gradient_that_is_not_finite(form, bad, opt):
    x = param([1.0, 2.0])
    data = [(np.float32(i), i == bad) for i in range(11)]
    loss = lambda y, is_bad: tf.reduce_sum(blown_up(x, is_bad) * [1.0, 2.0]) + 0 * y  # noqa: E731

    with pytest.raises(NonFiniteError, match=rf"^batch {bad} ") as caught:
        train(loss, data, opt(0.25), form=form, chunk=11, progress=False)

    made = np.array([1.0, 2.0])
    for _ in range(bad):  # SGD: eta times the gradient; clipped to 1; by its sign
        made -= 0.25 * np.array([1.0, 2.0 if opt is SGD else 1.0])
    np.testing.assert_allclose(x.numpy(), made, rtol=1e-5)
    assert len(caught.value.history) == bad


@loops
def test_weights_that_are_not_finite_from_the_start_are_no_reason_to_stop(form):
    x = param([1.0, -np.inf])
    loss = lambda y: (x[0] - y) ** 2  # noqa: E731

    history = train(loss, [np.float32(0)] * 8, SGD(0.25), form=form, chunk=4, progress=False)

    np.testing.assert_allclose(history.losses, 0.25 ** np.arange(8))
    assert history.timing.form == form and not history.timing.dropped


def test_weights_that_stop_being_finite_elsewhere_make_a_loop_give_way():
    x, opt = param([1.0, 2.0]), SGD(0.25)
    loss = lambda y: (x[0] - y) ** 2  # noqa: E731
    data = [np.float32(0)] * 8
    train(loss, data, opt, form="graph", chunk=4, progress=False)
    x.assign([1.0, np.inf])

    with pytest.warns(UserWarning, match="it is not finite where single steps are"):
        history = train(loss, data, opt, form="graph", chunk=4, progress=False)

    np.testing.assert_allclose(history.losses, 0.25 ** np.arange(8))


@loops
def test_a_loop_may_have_nothing_to_train(form):
    read, frozen = keras.layers.Dense(1), keras.layers.Dense(1)
    read.build((None, 1))
    frozen.build((None, 1))
    frozen.trainable = False
    loss = lambda x: tf.reduce_mean(frozen(read(x)) ** 2)  # noqa: E731

    history = train(
        loss, [np.ones((1, 1))] * 4, SGD([frozen.kernel], 0.1), form=form, chunk=2, progress=False
    )

    assert len(set(history.losses)) == 1
