"""What `fit` does with an optimiser, `train` does: the same weights from the same start."""

import keras
import numpy as np
import pytest

from fluxkeras import AccumGrad, Descent, OptimiserChain, epochs, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[RNG.integers(3, size=48)]
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]

CCE = keras.losses.CategoricalCrossentropy(from_logits=True)

O = keras.optimizers  # noqa: E741
DECAY = keras.optimizers.schedules


def model():
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(8, "tanh")
    return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, dtype="float32")])


def fitted(optimiser, n=2, **options):
    m = model()
    m.compile(optimiser, CCE, **options)
    record = m.fit(X, Y, batch_size=8, epochs=n, shuffle=False, verbose=0)
    return m, record.history["loss"]


def trained(optimiser, n=2, **options):
    m = model()
    losses = []
    for _ in epochs(n):
        history = train(
            lambda m, x, y: CCE(y, m(x)), m, BATCHES, optimiser, progress=False, **options
        )
        losses.append(history.losses.astype(np.float64).mean())
    return m, losses


def assert_same(ours, theirs, **tolerances):
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


FORMS = pytest.mark.parametrize("form", ["single", "graph", "xla"])

OPTIMISERS = {
    "exponential": lambda: O.SGD(DECAY.ExponentialDecay(0.1, 3, 0.5)),
    "cosine": lambda: O.Adam(DECAY.CosineDecay(0.01, 10)),
    "piecewise": lambda: O.SGD(DECAY.PiecewiseConstantDecay([4, 9], [0.1, 0.05, 0.01])),
    "accumulation": lambda: O.SGD(0.1, gradient_accumulation_steps=2),
    "accumulation with a tail": lambda: O.Adam(0.01, gradient_accumulation_steps=5),
    "clipnorm": lambda: O.SGD(0.1, clipnorm=0.05),
    "global_clipnorm": lambda: O.SGD(0.1, global_clipnorm=0.05),
    "clipvalue": lambda: O.SGD(0.1, clipvalue=0.01),
    "weight_decay": lambda: O.AdamW(0.01, weight_decay=0.1),
}


@FORMS
@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_an_option_of_an_optimiser(make, form):
    theirs, their_losses = fitted(make())

    ours, our_losses = trained(make(), form=form, chunk=4)

    assert_same(ours, theirs, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-5)


# At the end of `fit`, Keras puts the means into the model. No call of `train` is known to be last.
@FORMS
@pytest.mark.parametrize("frequency", [None, 5])
def test_the_moving_average_of_weights(form, frequency):
    def make():
        options = {"ema_momentum": 0.9, "ema_overwrite_frequency": frequency}
        return O.SGD(0.1, use_ema=True, **options)

    theirs, _ = fitted(make())

    optimiser = make()
    ours, _ = trained(optimiser, form=form, chunk=4)
    optimiser.finalize_variable_values(ours.trainable_variables)

    assert_same(ours, theirs, rtol=2e-5, atol=2e-6)


# Flux adds up what Keras takes the mean of.
@FORMS
def test_accumulation_as_in_flux(form):
    theirs, _ = fitted(O.SGD(0.1, gradient_accumulation_steps=2))

    ours, _ = trained(OptimiserChain(AccumGrad(2), Descent(0.1)), form=form, chunk=4)

    assert_same(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.fixture
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


MIXED = pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)


def of_policy(policy, **options):
    optimiser = O.Adam(0.01)
    scales = policy == "mixed_float16"  # as `compile` does by itself
    return O.LossScaleOptimizer(optimiser, **options) if scales else optimiser


@FORMS
@MIXED
def test_mixed_precision(policy, form):
    theirs, their_losses = fitted(O.Adam(0.01))

    ours, our_losses = trained(of_policy(policy), form=form, chunk=4)

    # The rounding of a gradient of 8 or 11 bits moves a weight by a part of the rate a step.
    assert_same(ours, theirs, atol=0.01)
    np.testing.assert_allclose(our_losses, their_losses, rtol=0.02)


@FORMS
@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_a_scale_that_is_too_large_is_halved_as_in_fit(policy, form):
    theirs = of_policy(policy, initial_scale=2.0**24)
    ours = of_policy(policy, initial_scale=2.0**24)

    # XLA may compute in more than half precision, where a larger scale fits.
    fitted(theirs, jit_compile=form == "xla")
    trained(ours, form=form, chunk=4)

    assert float(ours.dynamic_scale) == float(theirs.dynamic_scale) < 2.0**24
    assert int(ours.inner_optimizer.iterations) == int(theirs.inner_optimizer.iterations)
