import re
from queue import SimpleQueue

import flux_rules as flux
import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    AccumGrad,
    AdaDelta,
    Adam,
    AdamW,
    Chain,
    ClipGrad,
    ClipNorm,
    Dense,
    Descent,
    MixedPrecision,
    Momentum,
    OptimiserChain,
    RMSProp,
    Rprop,
    WeightDecay,
    adjust,
    flush,
    freeze,
    param,
    params,
    setup,
    thaw,
    train,
    update,
)


def says(message):
    return re.escape(message) + "$"


def squared(m, x):
    return tf.reduce_mean(m(x) ** 2)


X = np.ones((4, 3), "float32")


# setup, update


@pytest.mark.parametrize(
    "rule",
    [Adam(0.25), OptimiserChain(ClipNorm(), Adam()), keras.optimizers.SGD(0.25)],
    ids=["rule", "chain", "of Keras"],
)
def test_setup_makes_a_new_optimiser_for_the_parameters(rule):
    first, second = Dense(3, 2), Chain(Dense(3, 2), Dense(2, 1))

    opts = [setup(rule, model) for model in (first, second)]

    assert not rule.built or isinstance(rule, OptimiserChain)
    assert getattr(rule, "params", None) is None
    for opt, model in zip(opts, (first, second)):
        assert opt is not rule
        assert opt.built
        assert opt.get_config() == rule.get_config()
        assert [id(v) for v in opt.params] == [id(v) for v in params(model)]
        train(squared, model, [X], opt, progress=False)
        assert int(opt.iterations) == 1


def test_setup_of_a_chain_leaves_its_rules_alone():
    rule = OptimiserChain(ClipNorm(), Adam())

    opt = setup(rule, Dense(3, 2))

    assert not set(map(id, opt.rules)) & set(map(id, rule.rules))


def test_setup_warns_if_there_is_nothing_to_train():
    layer = Dense(3, 2)
    layer.trainable = False

    with pytest.warns(UserWarning, match="setup found nothing to train"):
        setup(Adam(), layer)


def test_update_makes_the_steps_of_the_rule():
    x, gradients = np.array([1.0, 2.0]), np.random.default_rng(0).normal(size=(5, 2))
    w = param(x)
    opt = setup(Adam(0.125), w)

    for g in gradients:
        opt, w = update(opt, w, [tf.constant(g, "float32")])

    np.testing.assert_allclose(w.numpy(), flux.adam(x, gradients, 0.125), rtol=1e-6)


def test_update_takes_nested_gradients_and_leaves_out_none():
    v, w = param(1.0), param([1.0, 2.0])
    opt = setup(Descent(1.0), [v, w])

    state, model = update(opt, [v, w], [None, [tf.constant([1.0, 1.0])]])
    update(opt, [v, w], (None, None))

    assert state is opt and model[1] is w
    assert float(v) == 1
    assert w.numpy().tolist() == [0, 1]


def test_update_of_a_bare_rule_is_refused():
    message = (
        "update expects an optimiser that knows its parameters, got a bare rule, Descent(0.1). "
        "Write opt = setup(Descent(), model), once, before the first update."
    )
    with pytest.raises(ValueError, match=says(message)):
        update(Descent(), param(1.0), [tf.constant(1.0)])


@pytest.mark.parametrize(
    ("gradients", "got"),
    [([], "[]"), ([tf.zeros(2), tf.zeros(2)], "[(2,), (2,)]"), ([tf.zeros(3)], "[(3,)]")],
)
def test_gradients_that_do_not_fit_are_refused(gradients, got):
    x = param([1.0, 2.0])
    message = (
        f"update expects gradients of the shapes [(2,)], got {got}. There is one for each of "
        "params(model), in that order."
    )
    with pytest.raises(ValueError, match=says(message)):
        update(setup(Descent(), x), x, gradients)


def test_gradients_that_are_no_list_are_refused():
    x = param(1.0)
    with pytest.raises(TypeError, match="update expects a list of gradients, got dict"):
        update(setup(Descent(), x), x, {"x": 1.0})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: setup(0.1, param(1.0)), "setup"),
        (lambda: update(0.1, param(1.0), []), "update"),
        (lambda: adjust(0.1, 0.2), "adjust"),
    ],
)
def test_what_is_no_optimiser_is_refused(call, name):
    message = f"{name} expects an optimiser, got 0.1. Write Adam(0.001)."
    with pytest.raises(TypeError, match=says(message)):
        call()


# adjust


@pytest.mark.parametrize("compiled", [None, False, True], ids=["eager", "graph", "jit"])
@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (Descent, {"eta": 0.25}, {"eta": 0.5}),
        (Momentum, {"eta": 0.25, "rho": 0.5}, {"eta": 0.5, "rho": 0.25}),
        (RMSProp, {"rho": 0.5, "epsilon": 0.1}, {"rho": 0.25, "epsilon": 0.2}),
        (Rprop, {"eta": 0.125}, {"ell": (0.25, 2.0), "gamma": (0.1, 0.3)}),
    ],
)
def test_what_is_adjusted_holds_from_the_next_step_on(rule, before, after, compiled):
    x = np.array([1.0, 2.0, 3.0])
    w, opt, traces = param(x), rule(**before), []
    opt.build([w])

    def apply(g):
        traces.append(None)
        opt.apply([g], [w])

    step = apply if compiled is None else tf.function(apply, jit_compile=compiled)
    gradients = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    for g in gradients[:2]:
        step(tf.constant(g))
    middle = w.numpy()
    slots = [v.numpy() for v in opt.variables]
    assert adjust(opt, **after) is opt
    for g in gradients[2:]:
        step(tf.constant(g))

    # The same steps by an optimiser that starts in the middle with the new numbers.
    other, v = rule(**before | after), param(middle)
    other.build([v])
    for variable, value, name in zip(other.variables, slots, (u.name for u in other.variables)):
        if name not in {"learning_rate", "rho", "epsilon", "ell", "gamma"}:
            variable.assign(value)
    for g in gradients[2:]:
        other.apply([tf.constant(g)], [v])
    np.testing.assert_allclose(w.numpy(), v.numpy(), rtol=1e-6)
    assert compiled is None or len(traces) == 1
    assert all(getattr(opt, name) == value for name, value in after.items() if name != "eta")


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_train_goes_on_with_adjusted_numbers_and_compiles_nothing_anew(form):
    model, traced = Dense(3, 2), SimpleQueue()
    opt = OptimiserChain(params(model), ClipNorm(1.0), Momentum(0.125, 0.5))

    def loss(x):
        traced.put(None)
        return tf.reduce_sum(model(x))  # of which the gradient is constant

    def moved():
        before = model.kernel.numpy()
        train(loss, [X] * 4, opt, form=form, chunk=2, progress=False)
        return np.abs(model.kernel.numpy() - before)

    moved()
    count = traced.qsize()
    adjust(opt, 0.0, rho=0.0)

    np.testing.assert_array_equal(moved(), 0)
    assert traced.qsize() == count


def test_a_callback_adjusts_while_train_runs():
    x = param(0.0)
    opt = Descent([x], 1.0)
    seen = []

    def callback():
        seen.append(float(x))
        adjust(opt, opt.learning_rate.numpy().item() / 2)

    train(lambda g: g * x, [1.0] * 4, opt, cb=callback, progress=False)

    assert seen == [-1, -1.5, -1.75, -1.875]


def test_every_rule_of_a_chain_that_has_it_takes_the_value():
    opt = OptimiserChain(WeightDecay(0.1), AccumGrad(2), Momentum(0.1), AdamW(0.2, λ=0.3))

    adjust(opt, 0.5, λ=0.25, beta=(0.5, 0.75))

    assert repr(opt) == (
        "OptimiserChain(WeightDecay(0.25), AccumGrad(2), Momentum(0.5, rho=0.9), "
        "AdamW(0.5, beta=(0.5, 0.75), λ=0.25, epsilon=1e-08))"
    )


def test_the_learning_rate_of_a_keras_optimiser_is_adjusted():
    assert float(adjust(keras.optimizers.Adam(0.5), 0.25).learning_rate) == 0.25


def test_attributes_are_adjusted_alike():
    rule = Adam(0.5, decay=0.25)

    rule.beta = (0.5, 0.75)
    rule.decay = 0

    assert repr(rule) == "Adam(0.5, beta=(0.5, 0.75), epsilon=1e-08)"


@pytest.mark.parametrize(
    ("opt", "changes", "error", "message"),
    [
        (Adam(0.5), {}, TypeError, "adjust expects something to change, got nothing. "),
        (
            Momentum(0.5),
            {"rho": 0.25, "beta": (0.5, 0.5)},
            ValueError,
            "adjust expects a hyper-parameter of Momentum(0.5, rho=0.9), got beta. "
            "It has decay, eta, rho.",
        ),
        (AdaDelta(), {"eta": 0.1}, ValueError, "got eta. It has epsilon, rho."),
        (AccumGrad(2), {"n": 3}, ValueError, "got n. It has none."),
        (Momentum(0.5), {"eta": 0.1, "rho": 2}, ValueError, "expects a number from 0 to 1 as rho"),
        (Momentum(0.5), {"rho": 0.25, "eta": -1}, ValueError, "expects a learning rate of 0"),
        (Momentum(0.5), {"rho": 0.25, "eta": "1"}, TypeError, "expects a number as the learning"),
        (
            Momentum(lambda: 0.5),
            {"eta": 0.25},
            ValueError,
            "adjust expects a learning rate that is a number, got a Momentum with a schedule or a "
            "function for it. Make it with a number, Adam(0.001), to adjust that.",
        ),
        (keras.optimizers.SGD(), {"momentum": 0.5}, ValueError, "It has eta."),
    ],
)
def test_what_cannot_be_adjusted_is_refused_and_nothing_changed(opt, changes, error, message):
    before = [v.numpy() for v in opt.variables]

    with pytest.raises(error, match=re.escape(message)):
        adjust(opt, **changes)

    for value, variable in zip(before, opt.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


# freeze, thaw


def test_what_is_frozen_stays_in_the_next_train_and_moves_when_thawed():
    model = Chain(Dense(3, 2), Dense(2, 1))
    opt = setup(Adam(0.125), model)

    def moved():
        before = [v.numpy() for v in model.weights]
        train(squared, model, [X] * 3, opt, progress=False)
        return [bool(np.any(v != w.numpy())) for v, w in zip(before, model.weights)]

    assert moved() == [True] * 4
    freeze(model[0])
    assert moved() == [False, False, True, True]
    thaw(model)
    assert moved() == [True] * 4
    freeze(model[1].kernel)
    assert moved() == [True, True, False, True]
    thaw([model[1].kernel])
    assert moved() == [True] * 4
    freeze(model)
    thaw(model[0].kernel)
    assert moved() == [True, False, False, False]
    thaw(model)
    assert moved() == [True] * 4


def test_what_is_frozen_first_can_be_thawed_later():
    model = Chain(Dense(3, 2), Dense(2, 1))
    opt = Adam(params(model), 0.125)
    freeze({"first": model[0]}, (model[1].bias,))
    train(squared, model, [X], opt, progress=False)
    before = [v.numpy() for v in model.weights]

    thaw(opt)
    train(squared, model, [X], opt, progress=False)

    assert all(np.any(v != w.numpy()) for v, w in zip(before, model.weights))


@pytest.mark.parametrize("function", [freeze, thaw])
def test_what_cannot_be_frozen_is_refused_and_nothing_changed(function):
    layer = Dense(3, 2)
    layer.kernel.trainable = False
    message = (
        f"{function.__name__} expects layers, keras.Variables and optimisers that name their "
        "parameters, got a tf.Variable, w (2,). Make parameters with param(…)."
    )
    with pytest.raises(TypeError, match=says(message)):
        function(layer, tf.Variable([1.0, 2.0], name="w"))
    with pytest.raises(TypeError, match=re.escape("got Adam(0.001")):
        function(layer, Adam())

    assert (layer.kernel.trainable, layer.bias.trainable) == (False, True)


# flush


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
@pytest.mark.parametrize("count", range(1, 9))
def test_flush_makes_the_step_of_the_mean_of_what_is_left(form, count):
    """As Adam does with the means of each four gradients, and of the rest."""
    gradients = np.random.default_rng(count).normal(size=(2, count, 3)).astype("float32")
    x = param(np.ones(3))
    opt = OptimiserChain(AccumGrad(4), ClipGrad(0.5), Adam(0.125))

    for epoch in gradients:
        options = {"form": form, "chunk": 3, "progress": False}
        train(lambda g: tf.reduce_sum(g * x), list(epoch), opt, **options)
        assert flush(opt) is opt

    parts = [epoch[i : i + 4] for epoch in gradients for i in range(0, count, 4)]
    means = np.clip([part.mean(axis=0) for part in parts], -0.5, 0.5)
    np.testing.assert_allclose(x, flux.adam(np.ones(3), means, 0.125), rtol=1e-5, atol=1e-6)
    assert [int(rule.iterations) for rule in opt.rules[1:]] == [len(parts)] * 2


def test_flush_of_a_chain_in_higher_precision():
    x = keras.Variable([1.0], dtype="float16")
    opt = MixedPrecision(AccumGrad(4), Descent(0.5))

    for gradient in (0.25, 0.75):
        opt.apply([tf.constant([gradient], "float16")], [x])
    flush(opt)

    assert (x.numpy().tolist(), int(opt.rules[1].iterations)) == ([0.75], 1)


def test_flush_does_nothing_where_nothing_is_left():
    x = tf.Variable([1.0])
    opt = OptimiserChain(AccumGrad(2), Descent(0.5))

    flush(opt)
    opt.apply([tf.constant([1.0])], [x])
    opt.apply([tf.constant([1.0])], [x])
    flush(flush(opt))

    assert (float(x[0]), int(opt.iterations)) == (0.5, 2)


@pytest.mark.parametrize(
    "opt",
    [
        Adam(),
        OptimiserChain(),
        OptimiserChain(ClipGrad(1.0), AccumGrad(2)),
        keras.optimizers.SGD(gradient_accumulation_steps=2),
        "Adam",
    ],
)
def test_flush_refuses_what_does_not_begin_with_accumulation(opt):
    with pytest.raises(TypeError, match=r"^flush expects a chain that begins with AccumGrad, got "):
        flush(opt)
