import inspect
import re

import flux_rules as flux
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, ExponentialDecay

from fluxkeras import (
    ADAM,
    ADAMW,
    NADAM,
    SGD,
    AdaBelief,
    ADADelta,
    AdaDelta,
    ADAGrad,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    AMSGrad,
    Descent,
    Lion,
    Momentum,
    NAdam,
    Nesterov,
    OAdam,
    RAdam,
    RMSProp,
    Rprop,
)

FLUX = {
    Descent: flux.descent,
    Momentum: flux.momentum,
    Nesterov: flux.nesterov,
    Rprop: flux.rprop,
    RMSProp: flux.rmsprop,
    AdaGrad: flux.adagrad,
    Adam: flux.adam,
    AdamW: flux.adamw,
    RAdam: flux.radam,
    AdaMax: flux.adamax,
    OAdam: flux.oadam,
    AMSGrad: flux.amsgrad,
    NAdam: flux.nadam,
    AdaBelief: flux.adabelief,
    Lion: flux.lion,
}
ALL = list(FLUX)  # those with a learning rate
FLUX[AdaDelta] = flux.adadelta
SHAPE = (3, 2)

# An epsilon of 0.1 shows where it is added. Learning rates are exact in float32, in which Keras
# holds them.
CASES = [
    (Descent, {"eta": 0.25}),
    (Momentum, {"eta": 0.125, "rho": 0.5}),
    (Nesterov, {"eta": 0.125, "rho": 0.7}),
    (Rprop, {"eta": 0.125}),
    (Rprop, {"eta": 0.125, "ell": (0.3, 3.0), "gamma": (0.1, 0.7)}),
    (RMSProp, {"eta": 0.125, "rho": 0.7, "epsilon": 0.1}),
    (RMSProp, {"eta": 0.125, "epsilon": 0.1, "centred": True}),
    (AdaGrad, {"eta": 0.125, "epsilon": 0.1}),
    (AdaDelta, {"rho": 0.7, "epsilon": 0.1}),
    (Adam, {"eta": 0.125}),
    (Adam, {"eta": 0.125, "beta": (0.7, 0.95), "epsilon": 0.1}),
    (AdamW, {"eta": 0.125, "λ": 0.25, "epsilon": 0.1}),
    (AdamW, {"eta": 0.125, "λ": 0.25, "epsilon": 0.1, "couple": False}),
    (RAdam, {"eta": 0.125, "epsilon": 0.1}),
    (RAdam, {"eta": 0.125, "beta": (0.7, 0.5)}),  # with which no step is rectified
    (AdaMax, {"eta": 0.125, "beta": (0.7, 0.8), "epsilon": 0.1}),
    (OAdam, {"eta": 0.125, "epsilon": 0.1}),
    (AMSGrad, {"eta": 0.125, "epsilon": 0.1}),
    (NAdam, {"eta": 0.125, "epsilon": 0.1}),
    (NAdam, {"eta": 0.125, "beta": (0.999, 0.9999)}),
    (AdaBelief, {"eta": 0.125, "beta": (0.7, 0.95), "epsilon": 0.01}),
    (Lion, {"eta": 0.125, "beta": (0.7, 0.8)}),
]
cases = pytest.mark.parametrize(
    ("rule", "options"), CASES, ids=[f"{rule.__name__}{options}" for rule, options in CASES]
)
rules = pytest.mark.parametrize("rule", ALL)
some = pytest.mark.parametrize("rule", [Descent, RMSProp, AdamW, Lion])  # one of each kind


def random_start(steps=20):
    random = np.random.default_rng(0)
    return random.normal(size=SHAPE), random.normal(size=(steps, *SHAPE))


def keras_variable(value, dtype="float32"):
    return keras.Variable(value, dtype=dtype)


def tf_variable(value, dtype="float32"):
    return tf.Variable(value, dtype=dtype)


def stepped(rule, variable, gradients, compiled=None):
    """The variable after a step for each gradient."""
    return stepped_together(rule, [variable], gradients, compiled)[0]


def stepped_together(rule, variables, gradients, compiled):
    rule.build(variables)

    def apply(gradient):
        rule.apply([gradient] * len(variables), variables)

    step = apply if compiled is None else tf.function(apply, jit_compile=compiled)
    for gradient in gradients:
        if not isinstance(gradient, tf.IndexedSlices):
            gradient = tf.cast(gradient, variables[0].dtype)
        step(gradient)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


@cases
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "jit"])
def test_twenty_steps_are_those_of_flux(rule, options, compiled):
    x, gradients = random_start()
    # Keras 3.5 fails on a list that has the two in the other order.
    variables = [tf_variable(x), keras_variable(x)]

    for actual in stepped_together(rule(**options), variables, gradients, compiled):
        wanted = FLUX[rule](x, gradients, **options)
        np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", FLUX)
def test_steps_with_the_defaults_are_those_of_flux(rule):
    x, gradients = random_start(steps=5)

    actual = stepped(rule(), keras_variable(x), gradients)

    np.testing.assert_allclose(actual, FLUX[rule](x, gradients), rtol=1e-6, atol=1e-7)


@cases
def test_float64_variables_keep_their_precision(rule, options):
    x, gradients = random_start(steps=8)

    actual = stepped(rule(**options), tf_variable(x, "float64"), gradients)

    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, FLUX[rule](x, gradients, **options), rtol=1e-12)


@cases
@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 0.02), ("bfloat16", 0.3)])
def test_half_precision_variables_go_where_the_others_go(rule, options, dtype, rtol):
    # bfloat16 has eight bits, and its nearest to the 0.999 of Adam is 0.996: hence the tolerance,
    # which is relative to the way gone. A mean that stays at 0, or a division by 0, exceeds it.
    x, gradients = np.zeros(SHAPE), np.abs(random_start(steps=8)[1]) + 0.5

    actual = stepped(rule(**options), keras_variable(x, dtype), gradients).astype("float64")

    np.testing.assert_allclose(actual, FLUX[rule](x, gradients, **options), rtol=rtol)


@rules
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tiny_gradients_make_no_giant_steps_in_half_precision(rule, dtype):
    gradients = [[0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2]] * 5

    actual = stepped(rule(0.125), keras_variable(np.zeros(6), dtype), gradients)

    # RMSProp's first step is 1 / sqrt(1 - rho) = 3.2 times the learning rate.
    assert np.all(np.abs(actual.astype("float64")) <= 5 * 0.125 * 3.3)
    assert actual[0] == 0 or rule is AMSGrad  # whose mean starts at epsilon


def test_the_variance_of_a_constant_gradient_is_not_taken_below_zero():
    actual = stepped(
        RMSProp(2**-20, epsilon=1.0, centred=True),
        keras_variable(np.zeros(SHAPE)),
        np.full((200, *SHAPE), 0.3),
        compiled=False,
    )

    assert np.all(np.isfinite(actual))


def test_an_epsilon_of_zero_is_none():
    x, gradients = random_start()

    actual = stepped(Adam(epsilon=0.0), tf_variable(x, "float16"), gradients)

    np.testing.assert_allclose(actual, flux.adam(x, gradients, epsilon=0), rtol=0.01, atol=0.001)


@pytest.mark.parametrize(
    ("mine", "kerass"),
    [
        (Descent(0.25), keras.optimizers.SGD(0.25)),
        (Momentum(0.25, 0.8), keras.optimizers.SGD(0.25, momentum=0.8)),
        (Nesterov(0.25, 0.8), keras.optimizers.SGD(0.25, momentum=0.8, nesterov=True)),
        (SGD(0.25, clipnorm=0.5), keras.optimizers.SGD(0.25, clipnorm=0.5)),
        (Adam(0.25, epsilon=0.0), keras.optimizers.Adam(0.25, epsilon=0.0)),
        (
            AdamW(0.25, λ=0.5, epsilon=0.0),
            keras.optimizers.AdamW(0.25, weight_decay=0.5, epsilon=0.0),
        ),
        (AdaMax(0.25), keras.optimizers.Adamax(0.25, epsilon=1e-8)),
        (AdaDelta(), keras.optimizers.Adadelta(1.0, rho=0.9, epsilon=1e-8)),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_the_steps_are_kerass_where_the_rules_agree(mine, kerass):
    x, gradients = random_start(steps=8)

    actual = stepped(mine, keras_variable(x), gradients)
    expected = stepped(kerass, keras_variable(x), gradients)

    # Keras rounds Adam's beta before it corrects the mean, and not before it takes the mean.
    rtol = 1e-4 if isinstance(mine, Adam) else 1e-6
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


@rules
@pytest.mark.parametrize("compiled", [None, False], ids=["eager", "graph"])
def test_a_row_that_was_looked_up_twice_gets_the_sum_of_its_gradients(rule, compiled):
    x, gradients = random_start(steps=5)
    rows = tf.constant([1, 2, 1])
    sparse = [tf.IndexedSlices(tf.cast(g, tf.float32), rows, tf.constant(SHAPE)) for g in gradients]
    dense = [np.stack([0 * g[0], g[0] + g[2], g[1]]) for g in gradients]

    actual = stepped(rule(0.125), keras_variable(x), sparse, compiled)

    np.testing.assert_allclose(
        actual, stepped(rule(0.125), keras_variable(x), dense), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("rule", [Descent, Momentum, Adam, Rprop])
def test_an_embedding_learns_in_fit_without_a_warning(rule):
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 3)])
    before = model.get_weights()[0]
    model.compile(optimizer=rule(0.125), loss="mse", jit_compile=False)

    model.fit(np.array([[1, 1], [3, 1]]), np.zeros((2, 2, 3)), batch_size=2, verbose=0)

    moved = np.any(model.get_weights()[0] != before, axis=1)
    assert moved.tolist() == [False, True, False, True, False]


# Calling forms


@some
@pytest.mark.parametrize("container", [list, tuple])
def test_the_parameters_may_come_before_the_learning_rate(rule, container):
    parameters = container([keras.Variable(1.0), tf.Variable(2.0)])

    opt = rule(parameters, 0.25)

    assert type(opt.params) is list
    assert all(a is b for a, b in zip(opt.params, parameters, strict=True))
    assert float(opt.learning_rate) == 0.25


@rules
def test_the_parameters_alone_leave_the_default_learning_rate(rule):
    opt = rule([tf.Variable(1.0)])

    assert repr(opt) == repr(rule())


@rules
def test_without_parameters_there_are_none(rule):
    assert rule().params is None
    assert rule(0.25).params is None
    assert rule(eta=0.25).params is None


def test_the_weights_of_a_layer_are_parameters():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))

    assert Adam(layer.trainable_variables).params == layer.trainable_variables


@rules
def test_the_parameters_are_not_the_optimisers_own_state(rule, tmp_path):
    x = tf.Variable([1.0, 2.0, 3.0])

    opt = rule([x], 0.25)

    assert all(tuple(v.shape) != (3,) for v in opt.variables)
    saved = tf.train.Checkpoint(opt=opt).save(str(tmp_path / "opt"))
    assert all(shape != [3] for _, shape in tf.train.list_variables(saved))
    assert "params" not in opt.get_config()


@rules
def test_a_changed_list_of_parameters_is_not_the_optimisers(rule):
    parameters = [tf.Variable(1.0)]
    opt = rule(parameters)

    parameters.clear()

    assert len(opt.params) == 1


def test_the_old_names_are_other_names():
    assert SGD is Descent
    assert ADAM is Adam
    assert ADAMW is AdamW
    assert NADAM is NAdam
    assert ADAGrad is AdaGrad
    assert ADADelta is AdaDelta


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (Descent, ["eta"]),
        (Momentum, ["eta", "rho"]),
        (Nesterov, ["eta", "rho"]),
        (Rprop, ["eta", "ell", "gamma"]),
        (RMSProp, ["eta", "rho", "epsilon", "centred"]),
        (AdaGrad, ["eta", "epsilon"]),
        (AdaDelta, ["rho", "epsilon"]),
        (AdamW, ["eta", "beta", "λ", "epsilon", "couple"]),
        (Lion, ["eta", "beta"]),
        *[(rule, ["eta", "beta", "epsilon"]) for rule in (Adam, RAdam, AdaMax, OAdam, AMSGrad)],
        *[(rule, ["eta", "beta", "epsilon"]) for rule in (NAdam, AdaBelief)],
    ],
)
def test_the_signature_shows_the_names_of_flux(rule, names):
    assert list(inspect.signature(rule).parameters) == [*names, "keras_options"]


@pytest.mark.parametrize("rule", FLUX)
def test_every_rule_is_a_keras_optimiser(rule):
    assert isinstance(rule(), keras.optimizers.Optimizer)


@some
@pytest.mark.parametrize("eta", [1, np.float32(0.25), np.float64(0.25), np.int64(1)])
def test_any_real_number_is_a_learning_rate(rule, eta):
    assert float(rule(eta).learning_rate) == eta
    assert float(rule(learning_rate=eta).learning_rate) == eta


@rules
def test_a_schedule_or_a_function_is_a_learning_rate(rule):
    x, gradients = random_start(steps=5)
    expected = stepped(rule(0.25), tf_variable(x), gradients)
    constant = keras.optimizers.schedules.PiecewiseConstantDecay([100], [0.25, 0.5])

    for eta in (constant, lambda: 0.25):
        actual = stepped(rule(eta), tf_variable(x), gradients, compiled=False)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_kerass_names_win_over_fluxs():
    assert repr(Descent(0.1, learning_rate=0.25)) == "Descent(0.25)"
    assert repr(RMSProp(centered=True)) == repr(RMSProp(centred=True))
    assert repr(AdamW(λ=1, weight_decay=0.5)) == repr(AdamW(λ=0.5))


@pytest.mark.parametrize("rule", [RMSProp, AdamW])
@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 0.5},
        {"clipvalue": 0.5},
        {"global_clipnorm": 0.5},
        {"weight_decay": 0.25},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
        {"loss_scale_factor": 4.0, "epsilon": 0.1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_options_of_keras_change_the_steps_and_are_saved(rule, options):
    plain = {k: v for k, v in options.items() if k == "epsilon"}
    x, gradients = random_start(steps=4)
    opt = rule(0.125, name="mine", **options)
    again = rule.from_config(opt.get_config())

    actual = stepped(opt, keras_variable(x), gradients)

    assert opt.name == again.name == "mine"
    assert np.all(np.isfinite(actual))
    assert not np.allclose(actual, stepped(rule(0.125, **plain), keras_variable(x), gradients))
    np.testing.assert_array_equal(actual, stepped(again, keras_variable(x), gradients))


def test_accumulated_gradients_make_the_step_of_their_mean():
    x, gradients = random_start()
    halved = Adam(0.125, gradient_accumulation_steps=2)

    actual = stepped(halved, keras_variable(x), gradients)

    means = gradients.reshape(10, 2, *SHAPE).mean(axis=1)
    np.testing.assert_allclose(actual, flux.adam(x, means, 0.125), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [Descent, Momentum, Nesterov, RMSProp, Adam, AdaGrad, NAdam])
@pytest.mark.parametrize("compiled", [None, True], ids=["eager", "jit"])
def test_decay_is_that_of_flux_06(rule, compiled):
    x, gradients = random_start(steps=6)
    # There, the gradient, or the step, is divided by 1 + decay * n.
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.125, 1, 0.5)

    actual = stepped(rule(0.125, decay=0.5), keras_variable(x), gradients, compiled)

    expected = stepped(rule(schedule), keras_variable(x), gradients)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
    if rule is Descent:
        byhand = x - sum(0.125 * g / (1 + 0.5 * n) for n, g in enumerate(gradients))
        np.testing.assert_allclose(actual, byhand, rtol=1e-6, atol=1e-6)


def test_decay_is_something_else_in_flux_06s_adamw_and_adadelta():
    assert repr(ADAMW(decay=0.5)) == repr(AdamW(λ=0.5, couple=False))
    assert repr(ADADelta(decay=0.5)) == repr(AdaDelta())


@pytest.mark.parametrize("couple", [True, False])
@pytest.mark.parametrize("excluded", [{"var_names": ["bias"]}, {"var_list": "bias"}])
def test_what_is_excluded_from_weight_decay_does_not_decay(excluded, couple):
    kernel, bias = keras.Variable(1.0, name="kernel"), keras.Variable(1.0, name="bias")
    opt = AdamW(0.125, λ=0.5, couple=couple)

    opt.exclude_from_weight_decay(**{k: [bias] if v == "bias" else v for k, v in excluded.items()})
    opt.apply([tf.constant(0.0)] * 2, [kernel, bias])

    assert float(kernel) == 1 - (0.125 if couple else 1) * 0.5
    assert float(bias) == 1


# Saving


VARIANTS = [
    *[rule(**options) for rule, options in CASES],
    RMSProp(0.25, centred=True, clipnorm=1.0),
    Adam(0.25, (0.5, 0.75), 0.125, global_clipnorm=0.5, decay=0.125),
    AdamW(0.25, λ=0.5, couple=False, clipvalue=0.5),
]
variants = pytest.mark.parametrize("opt", VARIANTS, ids=repr)


@variants
def test_a_rule_is_made_again_from_its_config(opt):
    again = type(opt).from_config(opt.get_config())
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(opt))

    for other in (again, restored):
        assert type(other) is type(opt)
        assert repr(other) == repr(opt)
        assert other.get_config() == opt.get_config()
        assert other.params is None


@some
def test_a_schedule_is_made_again_from_the_config(rule):
    opt = rule(ExponentialDecay(0.25, 10, 0.5))

    again = keras.optimizers.deserialize(keras.optimizers.serialize(opt))

    assert type(again) is rule
    assert again.get_config() == opt.get_config()


@variants
def test_the_printed_rule_is_the_call_that_makes_it(opt):
    again = eval(repr(opt))

    assert type(again) is type(opt)
    assert again.get_config() | {"name": ""} == opt.get_config() | {"name": ""}


@pytest.mark.parametrize(
    ("opt", "printed"),
    [
        (Descent(), "Descent(0.1)"),
        (Momentum(), "Momentum(0.01, rho=0.9)"),
        (Nesterov(), "Nesterov(0.001, rho=0.9)"),
        (RMSProp(), "RMSProp(0.001, rho=0.9, epsilon=1e-08)"),
        (Rprop(), "Rprop(0.001, ell=(0.5, 1.2), gamma=(1e-06, 50.0))"),
        (AdaGrad(), "AdaGrad(0.1, epsilon=1e-08)"),
        (AdaDelta(), "AdaDelta(0.9, epsilon=1e-08)"),
        (Adam(), "Adam(0.001, beta=(0.9, 0.999), epsilon=1e-08)"),
        (OAdam(), "OAdam(0.001, beta=(0.5, 0.9), epsilon=1e-08)"),
        (AdaBelief(), "AdaBelief(0.001, beta=(0.9, 0.999), epsilon=1e-16)"),
        (Lion(), "Lion(0.001, beta=(0.9, 0.999))"),
        (AdamW(), "AdamW(0.001, beta=(0.9, 0.999), λ=0.0, epsilon=1e-08)"),
        (Adam(clipnorm=1.0), "Adam(0.001, beta=(0.9, 0.999), epsilon=1e-08, clipnorm=1.0)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_defaults_are_those_of_flux(opt, printed):
    assert repr(opt) == printed


def test_a_changed_learning_rate_shows():
    opt = Descent(0.1)
    opt.learning_rate = 0.003

    assert repr(opt) == "Descent(0.003)"


def test_a_schedule_shows_as_the_call_that_made_it():
    opt = Descent(ExponentialDecay(0.25, 10, 0.5))
    first = repr(opt)
    opt.learning_rate = CosineDecay(0.25, 10)

    for text in first, repr(opt):
        assert repr(eval(text)) == text
    assert first == (
        "Descent(ExponentialDecay(initial_learning_rate=0.25, decay_steps=10, decay_rate=0.5, "
        "staircase=False))"
    )


def test_a_rule_can_be_printed_while_a_function_is_traced():
    opt, seen = Adam(), []

    tf.function(lambda: seen.append(repr(opt)))()

    assert seen == [repr(opt)]


@rules
def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(rule, tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)), random.normal(size=(8, 2))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    opt = rule(model.trainable_variables, 0.01)
    model.compile(optimizer=opt, loss="mse", run_eagerly=True)
    losses = [float(model.train_on_batch(x, y)) for _ in range(4)]
    assert losses[-1] < losses[0]

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is rule
    assert int(loaded.optimizer.iterations) == 4
    assert len(loaded.optimizer.variables) == len(opt.variables)

    for each in (model, loaded):
        for _ in range(3):
            each.train_on_batch(x, y)
    for expected, actual in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_the_loss_scaling_of_mixed_precision_takes_the_rules():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="mixed_float16")])
    model.compile(optimizer=keras.optimizers.LossScaleOptimizer(AdamW(0.01)), loss="mse")

    history = model.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=10, verbose=0)

    assert history.history["loss"][-1] < history.history["loss"][0]


# Errors


def says(message):
    return re.escape(message) + "$"


@some
@pytest.mark.parametrize("eta", [-0.1, float("nan"), float("inf"), -1])
@pytest.mark.parametrize("keyword", [None, "eta", "learning_rate"])
def test_a_rate_that_is_no_length_is_refused(rule, eta, keyword):
    message = (
        f"{rule.__name__} expects a learning rate of 0 or more, got {eta}. "
        "It is the length of a step against the gradient."
    )
    with pytest.raises(ValueError, match=says(message)):
        rule(eta) if keyword is None else rule(**{keyword: eta})


@some
def test_a_rate_after_the_parameters_is_read_as_well(rule):
    with pytest.raises(ValueError, match="expects a learning rate of 0 or more, got -1"):
        rule([tf.Variable(1.0)], -1)


@some
def test_an_empty_list_of_parameters_is_refused(rule):
    message = (
        f"{rule.__name__} expects the parameters to train, got an empty list. "
        "Nothing would be trained: the model has no trainable variables, or is not built yet "
        "(call it on a batch first)."
    )
    with pytest.raises(ValueError, match=says(message)):
        rule([], 0.1)


@some
@pytest.mark.parametrize(
    ("first", "got"),
    [
        (keras.layers.Dense(2), "Dense"),
        (keras.Sequential(), "Sequential"),
        (tf.Module(), "Module"),
        ("0.1", "str"),
        ({"eta": 0.1}, "dict"),
        (None, "NoneType"),
        (np.zeros(2), "ndarray"),
        ([tf.Variable(1.0), keras.layers.Dense(2)], "a list with Dense at index 1"),
        ((0.1, 0.2), "a list with float at index 0"),
        ([tf.constant(1.0)], "a list with EagerTensor at index 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_neither_rate_nor_parameters_is_refused(rule, first, got):
    message = (
        f"{rule.__name__} expects a learning rate or a list of parameters first, got {got}. "
        "Pass params(model)."
    )
    with pytest.raises(TypeError, match=says(message)):
        rule(first)


@pytest.mark.parametrize("rule", [Adam, AdamW, Lion])
@pytest.mark.parametrize("beta", [0.9, (0.9,), (0.9, 0.99, 0.999), ("0.9", 0.9)])
def test_a_beta_that_is_no_pair_is_refused(rule, beta):
    message = f"{rule.__name__} expects a pair of numbers from 0 to 1 as beta, got {beta!r}. It is "
    with pytest.raises(TypeError, match=re.escape(message)):
        rule(0.001, beta)


@pytest.mark.parametrize(
    ("rule", "name", "value", "expected"),
    [
        (Momentum, "rho", 1.5, "a number from 0 to 1"),
        (RMSProp, "rho", -0.1, "a number from 0 to 1"),
        (AdaDelta, "rho", float("nan"), "a number from 0 to 1"),
        (Rprop, "ell", (-1, 2), "a pair of numbers of 0 or more"),
        (Rprop, "gamma", (0.1, -2), "a pair of numbers of 0 or more"),
        (Adam, "beta", (0.9, 1.1), "a pair of numbers from 0 to 1"),
        (Adam, "epsilon", -1e-8, "a number of 0 or more"),
        (Adam, "decay", -1, "a number of 0 or more"),
        (AdamW, "λ", -1, "a number of 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(rule, name, value, expected):
    message = f"{rule.__name__} expects {expected} as {name}, got {value!r}. It is "
    with pytest.raises(ValueError, match=re.escape(message)):
        rule(**{name: value})
