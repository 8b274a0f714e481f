import math
import re

import flux_rules as flux
import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    AccumGrad,
    Adam,
    AdaMax,
    AdamW,
    Chain,
    ClipGrad,
    ClipNorm,
    Dense,
    Descent,
    MixedPrecision,
    Momentum,
    OptimiserChain,
    SignDecay,
    WeightDecay,
    adjust,
    f16,
    mse,
    params,
    train,
)

SHAPE = (3, 2)
modes = pytest.mark.parametrize("compiled", [None, False, True], ids=["eager", "graph", "jit"])


def random_start(steps=8):
    random = np.random.default_rng(0)
    return random.normal(size=SHAPE), random.normal(size=(steps, *SHAPE)) * 2


def stepped(rule, x, gradients, compiled=None, dtype="float32"):
    variable = keras.Variable(x, dtype=dtype)
    rule.build([variable])

    def apply(gradient):
        rule.apply([gradient], [variable])

    step = apply if compiled is None else tf.function(apply, jit_compile=compiled)
    for gradient in gradients:
        step(tf.cast(gradient, dtype))
    return keras.ops.convert_to_numpy(variable)


def clipped(g, omega, p=2):
    norm = np.abs(g).max() if p == math.inf else (np.abs(g) ** p).sum() ** (1 / p)
    return g * min(omega / norm, 1)


# What each does to a gradient.
PARTS = [
    (lambda: WeightDecay(0.25), lambda x, g: g + 0.25 * x),
    (lambda: WeightDecay(), lambda x, g: g + 5e-4 * x),
    (lambda: SignDecay(0.25), lambda x, g: g + 0.25 * np.sign(x)),
    (lambda: SignDecay(), lambda x, g: g + 1e-3 * np.sign(x)),
    (lambda: ClipGrad(0.5), lambda x, g: np.clip(g, -0.5, 0.5)),
    (lambda: ClipGrad(), lambda x, g: g),
    (lambda: ClipNorm(1.5), lambda x, g: clipped(g, 1.5)),
    (lambda: ClipNorm(1.5, 1), lambda x, g: clipped(g, 1.5, 1)),
    (lambda: ClipNorm(1.5, 3.5, throw=False), lambda x, g: clipped(g, 1.5, 3.5)),
    (lambda: ClipNorm(0.5, math.inf), lambda x, g: clipped(g, 0.5, math.inf)),
    (lambda: ClipNorm(), lambda x, g: g),
    (lambda: AccumGrad(1), lambda x, g: g),
]
parts = pytest.mark.parametrize(("part", "expected"), PARTS, ids=[repr(p()) for p, _ in PARTS])


@parts
@modes
def test_a_part_is_an_optimiser_that_subtracts_what_it_makes_of_the_gradient(
    part, expected, compiled
):
    x, gradients = random_start()

    actual = stepped(part(), x, gradients, compiled)

    for g in gradients:
        x = x - expected(x, g)
    np.testing.assert_allclose(actual, x, rtol=1e-6, atol=1e-6)


@modes
def test_the_parts_transform_the_gradient_in_turn(compiled):
    x, gradients = random_start()
    chain = OptimiserChain(ClipNorm(1.5), WeightDecay(0.25), Momentum(0.125, 0.5))

    actual = stepped(chain, x, gradients, compiled)

    v = 0
    for g in gradients:
        v = 0.5 * v + 0.125 * (clipped(g, 1.5) + 0.25 * x)
        x = x - v
    np.testing.assert_allclose(actual, x, rtol=1e-6, atol=1e-6)


def test_the_order_of_the_parts_counts():
    x, gradients = random_start(1)

    first = stepped(OptimiserChain(ClipGrad(0.5), WeightDecay(1.0)), x, gradients)
    second = stepped(OptimiserChain(WeightDecay(1.0), ClipGrad(0.5)), x, gradients)

    np.testing.assert_allclose(first, x - (np.clip(gradients[0], -0.5, 0.5) + x), atol=1e-6)
    np.testing.assert_allclose(second, x - np.clip(gradients[0] + x, -0.5, 0.5), atol=1e-6)


def test_two_rules_with_slots_transform_in_turn():
    x, gradients = random_start()

    actual = stepped(OptimiserChain(Momentum(0.5, 0.5), AdaMax(0.125)), x, gradients)

    v, velocities = 0, []
    for g in gradients:
        v = 0.5 * v + 0.5 * g
        velocities.append(v)
    np.testing.assert_allclose(actual, flux.adamax(x, velocities, 0.125), rtol=1e-6, atol=1e-6)


def test_a_chain_of_no_rules_subtracts_the_gradient():
    x, gradients = random_start(1)

    np.testing.assert_allclose(stepped(OptimiserChain(), x, gradients), x - gradients[0], rtol=1e-5)


def test_chains_in_a_chain_are_taken_apart():
    inner = OptimiserChain(ClipGrad(0.5), WeightDecay(0.25))

    chain = OptimiserChain(inner, Descent(0.5))

    assert repr(chain) == ("OptimiserChain(ClipGrad(0.5), WeightDecay(0.25), Descent(0.5))")


def test_adamw_is_adam_and_weight_decay():
    x, gradients = random_start()
    chain = OptimiserChain(Adam(1.0), WeightDecay(0.25), Descent(0.125))

    actual = stepped(chain, x, gradients)

    np.testing.assert_allclose(
        actual, stepped(AdamW(0.125, λ=0.25), x, gradients), rtol=1e-5, atol=1e-6
    )


@modes
@pytest.mark.parametrize("first", [True, False])
def test_accumulated_gradients_make_one_step_of_their_mean(first, compiled):
    x, gradients = random_start(9)
    rules = [AccumGrad(3), ClipGrad(0.5)]
    chain = OptimiserChain(*(rules if first else rules[::-1]), Adam(0.125))

    actual = stepped(chain, x, gradients, compiled)

    groups = gradients.reshape(3, 3, *SHAPE)
    means = (
        np.clip(groups.mean(axis=1), -0.5, 0.5)
        if first
        else np.clip(groups, -0.5, 0.5).mean(axis=1)
    )
    np.testing.assert_allclose(actual, flux.adam(x, means, 0.125), rtol=1e-6, atol=1e-6)
    assert [int(rule.iterations) for rule in chain.rules] == ([9, 3, 3] if first else [9, 9, 3])


def test_nothing_changes_while_gradients_are_accumulated():
    x, gradients = random_start(2)

    for rule in (AccumGrad(3), OptimiserChain(AccumGrad(3), WeightDecay(0.1), Descent(0.1))):
        np.testing.assert_array_equal(stepped(rule, x, gradients), x.astype("float32"))


def test_fluxs_own_example_of_accumulation():
    x, y = tf.Variable([1.0]), tf.Variable([2.0])
    rule = OptimiserChain(AccumGrad(2), WeightDecay(0.01), Descent(0.1))

    rule.apply([tf.constant([33.0]), tf.constant([0.0])], [x, y])
    assert (x.numpy(), y.numpy()) == (1, 2)
    rule.apply([tf.constant([0.0]), tf.constant([444.0])], [x, y])

    np.testing.assert_allclose([x.numpy()[0], y.numpy()[0]], [-0.651, -20.202002], rtol=1e-6)


def test_accumulation_twice_over():
    x, gradients = random_start(8)

    actual = stepped(OptimiserChain(AccumGrad(2), AccumGrad(2), Descent(0.5)), x, gradients)

    means = gradients.reshape(2, 4, *SHAPE).mean(axis=1)
    np.testing.assert_allclose(actual, flux.descent(x, means, 0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions(dtype):
    x, gradients = random_start()
    chain = OptimiserChain(ClipNorm(1.5), SignDecay(0.25), Adam(0.125, epsilon=0.1))

    actual = stepped(chain, x, gradients, dtype=dtype)

    expected = stepped(
        OptimiserChain(ClipNorm(1.5), SignDecay(0.25), Adam(0.125, epsilon=0.1)), x, gradients
    )
    np.testing.assert_allclose(actual, expected, rtol=0.02, atol=0.01)
    assert actual.dtype == dtype


def test_a_norm_beyond_float16_is_clipped():
    actual = stepped(ClipNorm(1.0), [0.0, 0.0], [[300.0, 400.0]], dtype="float16")

    np.testing.assert_allclose(actual, [-0.6, -0.8], rtol=0.01)


@pytest.mark.parametrize("compiled", [None, False], ids=["eager", "graph"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_without_a_norm_changes_nothing(compiled, bad):
    chain = OptimiserChain(WeightDecay(0.1), ClipNorm(1.0), Adam())
    variables = [tf.Variable([1.0]), tf.Variable([2.0])]
    chain.build(variables)

    def apply():
        chain.apply([tf.constant([1.0]), tf.constant([bad])], variables)

    error = ValueError if compiled is None else tf.errors.InvalidArgumentError
    with pytest.raises(error, match="ClipNorm expects gradients with a"):
        apply() if compiled is None else tf.function(apply)()

    assert [float(v[0]) for v in variables] == [1, 2]
    assert [int(rule.iterations) for rule in chain.rules] == [0, 0, 0]


@pytest.mark.parametrize("jit", [False, True])
def test_a_guarded_chain_is_built_by_its_first_compiled_step(jit):
    x = tf.Variable([0.0, 0.0])
    chain = OptimiserChain(ClipNorm(1.0), Momentum(1.0))
    step = tf.function(lambda: chain.apply([tf.constant([3.0, 4.0])], [x]), jit_compile=jit)

    step()

    np.testing.assert_allclose(x, [-0.6, -0.8], rtol=1e-6)


def test_a_gradient_without_a_norm_can_be_let_through():
    assert np.isnan(stepped(ClipNorm(1.0, throw=False), [1.0], [[math.nan]]))


def test_rows_that_were_looked_up_are_summed_before_they_are_clipped():
    x = tf.Variable(np.zeros((3, 1), "float32"))
    gradient = tf.IndexedSlices(tf.constant([[3.0], [4.0], [3.0]]), tf.constant([1, 2, 1]), (3, 1))

    OptimiserChain(ClipGrad(5.0), Descent(1.0)).apply([gradient], [x])

    assert x.numpy().ravel().tolist() == [0, -5, -4]


# Learning rates


def test_the_learning_rate_of_a_chain_is_that_of_its_rules():
    chain = OptimiserChain(ClipNorm(1.0), Momentum(0.5), WeightDecay(), Adam(0.25))
    assert float(chain.learning_rate) == 0.25

    chain.learning_rate = 0.125

    assert [float(chain.rules[i].learning_rate) for i in (1, 3)] == [0.125, 0.125]
    assert float(chain.eta) == 0.125
    assert float(OptimiserChain(ClipNorm()).learning_rate) == 1


@modes
def test_a_schedule_counts_the_steps_of_its_rule(compiled):
    x, gradients = random_start(8)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
    chain = OptimiserChain(AccumGrad(2), Descent(schedule))

    actual = stepped(chain, x, gradients, compiled)

    means = gradients.reshape(4, 2, *SHAPE).mean(axis=1)
    for eta, g in zip([0.5, 0.25, 0.125, 0.125], means):
        x = x - eta * g
    np.testing.assert_allclose(actual, x, rtol=1e-5, atol=1e-6)


def test_keras_callbacks_set_the_learning_rate_of_a_chain():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    chain = OptimiserChain(ClipNorm(1.0), Descent(0.5))
    model.compile(optimizer=chain, loss="mse")
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)

    history = model.fit(
        np.ones((4, 3)), np.ones((4, 2)), epochs=2, callbacks=[callback], verbose=0
    ).history

    assert float(chain.learning_rate) == 0.125
    assert history["learning_rate"] == [0.25, 0.125]


# Saving


def chain_of_all():
    return OptimiserChain(
        ClipNorm(1.5, 3, throw=False),
        ClipGrad(0.5),
        AccumGrad(2),
        SignDecay(0.01),
        WeightDecay(0.02),
        Adam(0.25, beta=(0.7, 0.8), decay=0.1),
        use_ema=True,
    )


def test_a_chain_is_made_again_from_its_config_and_its_print():
    chain = chain_of_all()

    restored = keras.optimizers.deserialize(keras.optimizers.serialize(chain))

    for other in (restored, type(chain).from_config(chain.get_config()), eval(repr(chain))):
        assert type(other) is OptimiserChain
        assert repr(other) == repr(chain)
    assert restored.get_config() == chain.get_config()


@pytest.mark.parametrize("part", [p for p, _ in PARTS], ids=[repr(p()) for p, _ in PARTS])
def test_a_part_is_made_again_from_its_config_and_its_print(part):
    rule = part()

    restored = keras.optimizers.deserialize(keras.optimizers.serialize(rule))

    assert restored.get_config() == rule.get_config()
    assert repr(eval(repr(rule), vars(math) | globals())) == repr(rule)


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)), random.normal(size=(8, 2))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    chain = chain_of_all()
    model.compile(optimizer=chain, loss="mse")
    for _ in range(3):
        model.train_on_batch(x, y)
    adjust(chain, 0.125, beta=(0.5, 0.75))

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert repr(loaded.optimizer) == repr(chain)
    assert [int(r.iterations) for r in loaded.optimizer.rules] == [3, 3, 3, 1, 1, 1]

    for each in (model, loaded):
        for _ in range(3):
            each.train_on_batch(x, y)
    for expected, actual in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_checkpoint_holds_all_of_a_chain(tmp_path):
    def made():
        chain, x = OptimiserChain(ClipNorm(1.0), Adam(0.25)), tf.Variable([1.0, 2.0])
        chain.build([x])
        return chain, x

    chain, x = made()
    chain.apply([tf.constant([1.0, 2.0])], [x])
    adjust(chain, 0.125, beta=(0.5, 0.75))
    path = tf.train.Checkpoint(chain=chain, x=x).write(str(tmp_path / "chain"))

    again, y = made()
    tf.train.Checkpoint(chain=again, x=y).read(path).assert_consumed()

    assert repr(again) == repr(chain)
    for each, variable in ((chain, x), (again, y)):
        each.apply([tf.constant([1.0, -2.0])], [variable])
    np.testing.assert_array_equal(x.numpy(), y.numpy())


# Use


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_a_chain_trains_in_every_form(form):
    model = Chain(Dense(3, 4), Dense(4, 2))
    start = [v.numpy() for v in params(model)]
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    chain = OptimiserChain(params(model), ClipNorm(0.5), AccumGrad(2), Adam(0.01))

    history = train(
        lambda x, y: mse(model(x), y), [(x, y)] * 6, chain, form=form, chunk=3, progress=False
    )
    ended = [v.numpy() for v in params(model)]

    for variable, value in zip(params(model), start):
        variable.assign(value)
    single = OptimiserChain(ClipNorm(0.5), AccumGrad(2), Adam(0.01))
    for _ in range(6):
        with tf.GradientTape() as tape:
            loss = mse(model(x), y)
        values = [v.value for v in params(model)]
        single.apply(tape.gradient(loss, values), params(model))
    assert history.losses[-1] < history.losses[0]
    for actual, variable in zip(ended, params(model)):
        np.testing.assert_allclose(actual, variable.numpy(), rtol=1e-4, atol=1e-5)


def test_a_chain_steps_alike_on_several_devices():
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    x, gradients = random_start(4)
    with strategy.scope():
        variable = tf.Variable(x, dtype="float32")
        chain = OptimiserChain(ClipNorm(1.5), AccumGrad(2), Adam(0.125))
        chain.build([variable])

    @tf.function
    def step(gradient):
        strategy.run(lambda g: chain.apply([g / len(devices)], [variable]), args=(gradient,))

    for gradient in gradients:
        step(tf.constant(gradient, "float32"))
        adjust(chain, 0.25)

    chain = OptimiserChain(ClipNorm(1.5), AccumGrad(2), Adam(0.25))
    expected = stepped(chain, x, gradients)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, atol=1e-6)


# Errors


def says(message):
    return re.escape(message) + "$"


def test_what_is_no_rule_is_refused():
    message = (
        "OptimiserChain expects rules of fluxkeras, got 0.1 at 1. An optimiser of Keras's makes "
        "its steps by itself: write fluxkeras.Adam, not keras.optimizers.Adam."
    )
    with pytest.raises(TypeError, match=says(message)):
        OptimiserChain(ClipNorm(), 0.1)
    with pytest.raises(TypeError, match="expects rules of fluxkeras, got <keras"):
        OptimiserChain(keras.optimizers.Adam())


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (lambda: Adam(clipnorm=1.0), "clipnorm"),
        (lambda: Adam(weight_decay=0.1, use_ema=True), "weight_decay, use_ema"),
        (lambda: Adam([tf.Variable(1.0)]), "parameters"),
    ],
)
def test_options_of_a_part_are_refused(part, names):
    message = (
        f"OptimiserChain expects rules without options of Keras's and parameters, got {names} "
        "of Adam at 0. Give them to the chain."
    )
    with pytest.raises(ValueError, match=says(message)):
        OptimiserChain(part())


def test_a_rule_in_use_is_refused():
    message = (
        "OptimiserChain expects new rules, got a Descent at {} that is in use already. "
        "Make another one."
    )
    rule = Descent()
    with pytest.raises(ValueError, match=says(message.format(1))):
        OptimiserChain(rule, rule)
    OptimiserChain(rule)
    with pytest.raises(ValueError, match=says(message.format(0))):
        OptimiserChain(rule)


def test_options_of_a_chain_that_its_rules_have_are_refused():
    with pytest.raises(ValueError, match=says("Put AccumGrad(n) first.")):
        OptimiserChain(Adam(), gradient_accumulation_steps=2)
    message = (
        "OptimiserChain expects rules that have their own learning rates, got {}. "
        "Give it to a rule: OptimiserChain(ClipNorm(1), Adam(0.001))."
    )
    for name in ("eta", "learning_rate", "decay"):
        with pytest.raises(TypeError, match=says(message.format(name))):
            OptimiserChain(Adam(), **{name: 0.1})


def test_rules_without_a_learning_rate_have_no_decay():
    message = "WeightDecay expects no decay, got 0.1. It has no learning rate."
    with pytest.raises(ValueError, match=says(message)):
        WeightDecay(decay=0.1)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2"])
def test_a_number_of_gradients_below_one_is_refused(n):
    message = f"AccumGrad expects a number of gradients from 1, got {n!r}. Write AccumGrad(4)."
    with pytest.raises(ValueError, match=says(message)):
        AccumGrad(n)


@pytest.mark.parametrize("p", [0, -1, math.nan, "2"])
def test_what_is_no_norm_is_refused(p):
    message = (
        f"ClipNorm expects a number above 0 as p, got {p!r}. Write p=2 for the Euclidean norm, "
        "math.inf for the largest element."
    )
    with pytest.raises(ValueError, match=says(message)):
        ClipNorm(1.0, p)


@pytest.mark.parametrize(
    ("rule", "name"),
    [(WeightDecay, "λ"), (SignDecay, "λ"), (ClipGrad, "delta"), (ClipNorm, "omega")],
)
def test_numbers_below_zero_are_refused(rule, name):
    message = f"{rule.__name__} expects a number of 0 or more as {name}, got -1. It is "
    with pytest.raises(ValueError, match=re.escape(message)):
        rule(-1)


# --- Mixed precision ------------------------------------------------------------------------------

HALF = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@HALF
@modes
@pytest.mark.parametrize("make", [lambda: Momentum(1e-4), lambda: Adam(1e-4)])
def test_steps_of_a_copy_are_those_of_float32(make, dtype, compiled):
    x, _ = random_start()
    x = np.asarray(tf.cast(tf.cast(x, dtype), "float64"))
    gradients = np.ones((20, *SHAPE))

    found = stepped(MixedPrecision(make()), x, gradients, compiled, dtype)

    expected = stepped(make(), x, gradients)
    assert np.any(expected != x)
    np.testing.assert_array_equal(found, tf.cast(expected, dtype))


@HALF
@modes
def test_small_steps_are_not_lost(dtype, compiled):
    found = stepped(MixedPrecision(Descent(1e-4)), [1.0], np.ones((60, 1)), compiled, dtype)

    np.testing.assert_array_equal(found, tf.cast([1 - 60e-4], dtype))
    assert stepped(Descent(1e-4), [1.0], np.ones((60, 1)), compiled, dtype) == 1


def test_a_chain_steps_in_float32_and_takes_variables_of_any_kind():
    x, w = tf.Variable(tf.constant([1.0, 2.0], "float16")), keras.Variable([3.0])
    rule = MixedPrecision([x, w], ClipNorm(1.0), Descent(0.5))

    rule.build([x, w])

    rule.apply([tf.constant([3.0, 4.0], "float16")], [x])
    rule.apply([tf.constant([0.5])], [w])

    np.testing.assert_allclose(x, [1 - 0.3, 2 - 0.4], rtol=1e-3)
    np.testing.assert_allclose(w, [2.75])
    assert {v.dtype for v in rule.copies} == {"float32"}
    assert repr(rule) == "MixedPrecision(ClipNorm(1.0, p=2.0), Descent(0.5))"


@modes
def test_what_is_written_to_a_parameter_goes_over_into_its_copy(compiled):
    x = keras.Variable([1.0, 2.0], dtype="float16")
    rule = MixedPrecision(Descent(1e-4))
    rule.build([x])

    def apply():
        rule.apply([tf.ones(2, "float16")], [x])

    step = apply if compiled is None else tf.function(apply, jit_compile=compiled)
    step()
    x.assign([1.0, 5.0])
    step()

    np.testing.assert_allclose(rule.copies[0], [1 - 2e-4, 5 - 1e-4], rtol=1e-6)


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_a_half_model_trains_saves_its_copies_and_goes_on(form, tmp_path):
    model = f16(Chain(Dense(3, 4, "tanh"), Dense(4, 1)))
    x = np.ones((8, 3), "float16")
    opt = MixedPrecision(Adam(0.01))

    history = train(lambda x: mse(model(x), 2 * x[:, :1]), [x] * 30, opt, form=form, progress=False)

    assert history.losses[-1] < history.losses[0] / 4
    again = MixedPrecision.from_config(opt.get_config())
    again.build(params(model))
    again.load_own_variables({str(i): v for i, v in enumerate(map(np.asarray, opt.variables))})
    for copy, old in zip(again.copies, opt.copies, strict=True):
        np.testing.assert_array_equal(copy, old)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OptimiserChain(ClipNorm(1.0), MixedPrecision(Adam())),
            "OptimiserChain expects no MixedPrecision in it, got one at 1. Write "
            "MixedPrecision(OptimiserChain(…)).",
        ),
        (
            lambda: MixedPrecision(Adam(), dtype="int32"),
            "MixedPrecision expects a floating-point dtype, got 'int32'.",
        ),
        (
            lambda: MixedPrecision(Adam()).apply([tf.ones(1)]),
            "MixedPrecision expects the variables of the gradients, got none.",
        ),
    ],
)
def test_mixed_precision_refuses_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
