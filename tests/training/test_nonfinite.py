"""A loss or a gradient that is not finite: nothing of that step remains, in any form."""

import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ADAM,
    SGD,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    NonFiniteError,
    epochs,
    mse,
    param,
    relu,
    train,
    trainstep,
)

FORMS = {
    "single": {"form": "single"},
    "graph": {"form": "graph", "chunk": 8},
    "xla": {"form": "xla", "chunk": 8},
    "a step by xla": {"form": "xla", "chunk": 1},
}
STEPS = 20
DRAWN = np.random.default_rng(0)
BATCHES = [(DRAWN.random((6, 3)), DRAWN.random((6, 1))) for _ in range(STEPS)]


class Run:
    """Training with all that a step changes: moving statistics, seeds, slots."""

    def __init__(self, form):
        keras.utils.set_random_seed(0)
        self.m = Chain(Dense(3, 4, relu), BatchNorm(4), Dropout(0.3, seed=1), Dense(4, 1))
        self.opt = ADAM(0.01)
        self.loss = lambda x, y: mse(self.m(x), y)
        self.options = {**FORMS[form], "progress": False}

    def train(self, data, **options):
        return train(self.loss, data, self.opt, **self.options, **options)

    def values(self):
        return [np.array(v) for v in (*self.m.variables, *self.opt.variables)]


def assert_same(found, expected):
    for a, b in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def planted(bad, places):
    """The batches with a number that is not finite in some of them."""
    batches = list(BATCHES)
    for place in places:
        x, y = batches[place]
        batches[place] = x, y + bad
    return batches


PLACES = [0, 7, 8, STEPS - 1, *random.Random(0).sample(range(STEPS), 2)]


@pytest.mark.parametrize("place", sorted(set(PLACES)))
@pytest.mark.parametrize("form", FORMS)
def test_all_is_as_it_was_before_that_batch(form, place):
    run, before = Run(form), Run(form)
    bad = random.Random(place).choice([np.nan, np.inf])
    with pytest.raises(NonFiniteError, match=rf"^batch {place} \(.*\): the loss is") as raised:
        run.train(planted(bad, [place]))
    if place:
        before.train(BATCHES[:place])
        assert_same(run, before)

    assert len(raised.value.history) == place
    run.train(BATCHES[place:])
    before.train(BATCHES[place:])
    assert_same(run, before)


@pytest.mark.parametrize("form", FORMS)
def test_stop_ends_training_and_the_epochs_around_it(form):
    run, before = Run(form), Run(form)
    histories = []
    with pytest.warns(UserWarning, match="train stopped at batch 11 .*: the loss is nan"):
        for _ in epochs(3):
            histories.append(run.train(planted(np.nan, [11]), on_nonfinite="stop"))
    before.train(BATCHES[:11])

    assert_same(run, before)
    assert [(len(h), h.stopped) for h in histories] == [(11, True)]


@pytest.mark.parametrize("form", FORMS)
def test_skip_leaves_those_batches_out(form):
    bad = [0, 9, 10, STEPS - 1]
    run, without = Run(form), Run(form)
    with pytest.warns(UserWarning, match="train skips batch 0 .*: the loss is nan") as warned:
        history = run.train(planted(np.nan, bad), on_nonfinite="skip")
    without.train([batch for i, batch in enumerate(BATCHES) if i not in bad])

    assert_same(run, without)
    assert len(warned) == 1
    assert history.skipped == bad
    assert np.flatnonzero(np.isnan(history.losses)).tolist() == bad


def test_callbacks_see_a_batch_that_is_skipped():
    seen = []
    with pytest.warns(UserWarning, match="skips batch 2"):
        Run("single").train(
            planted(np.nan, [2])[:4],
            on_nonfinite="skip",
            cb=lambda state: seen.append((state.step, bool(np.isfinite(state.loss)))),
        )
    assert seen == [(0, True), (1, True), (2, False), (3, True)]


# --- Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [8, 16, STEPS])
@pytest.mark.parametrize("place", [0, 6, 7, 15])
@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_that_is_not_finite_is_not_applied(form, place, steps):
    if place >= steps:
        pytest.skip("the data ends before")
    w = param([1.0, 2.0])
    opt = ADAM(0.01)
    loss = lambda x: tf.reduce_sum(tf.sqrt(tf.reduce_sum((x * w) ** 2)))  # noqa: E731
    data = [(np.float32(i != place),) for i in range(steps)]  # 0 is where the root has no slope
    with pytest.raises(NonFiniteError, match=rf"^batch {place} .*is 0.0, and its gradient"):
        train(loss, data, opt, **FORMS[form], progress=False)

    assert int(opt.iterations) == place
    assert np.isfinite(w.numpy()).all()
    history = train(loss, [*data[place + 1 :], (1.0,)], opt, **FORMS[form], progress=False)
    assert np.isfinite(history.losses).all()


def test_gradients_of_rows_are_looked_at():
    table = tf.Variable(np.ones((5, 2), "float32"))
    loss = lambda i: tf.reduce_sum(tf.sqrt(tf.gather(table, i) - 1.0))  # noqa: E731
    with pytest.raises(NonFiniteError, match="its gradient is not finite"):
        train(loss, [(np.array([1, 3]),)], ADAM(), progress=False)
    np.testing.assert_array_equal(table, np.ones((5, 2)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_aux", [False, True])
def test_the_scale_of_a_loss_is_found_by_gradients_that_are_not_finite(form, with_aux):
    w, v = tf.Variable(1.0), param(1.0)
    inner = keras.optimizers.SGD(0.0)
    opt = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127, dynamic_growth_steps=3)

    def loss(x):
        value = x * w + v
        return (value, {"twice": 2 * value}) if with_aux else value

    data = [(x,) for x in [2.0, 1.0, 0.1, 0.1, 0.1, 0.1, 2.0, 0.1]]
    chunk = min(5, FORMS[form].get("chunk", 5))  # so that it is found in the second one, too
    options = {**FORMS[form], "chunk": chunk, "progress": False}
    history = train(loss, data, [opt, SGD([v], 0.0)], **options)

    # Twice 2**127 is too much for float32. After three steps the scale is doubled.
    assert history.skipped == [0, 6]
    assert float(opt.dynamic_scale) == 2.0**126
    np.testing.assert_allclose(history.losses, [x + 1 for (x,) in data], rtol=1e-6)
    if with_aux:
        np.testing.assert_allclose(history["twice"], 2 * history.losses)


@pytest.mark.parametrize("form", FORMS)
def test_a_fixed_scale_of_the_loss_leaves_the_guard(form):
    w = param(0.0)
    opt = keras.optimizers.SGD(0.1, loss_scale_factor=8.0)

    with pytest.raises(NonFiniteError, match="its gradient is not finite"):
        train(lambda x: tf.sqrt(w * x), [(1.0,)] * 3, opt, **FORMS[form], progress=False)

    assert float(w) == 0.0


def test_a_single_step_tells_by_what_it_returns():
    w = param(0.0)
    assert trainstep(lambda x: tf.sqrt(w * x), (1.0,), ADAM()) == 0.0
    assert float(w) == 0.0


@pytest.mark.parametrize("value", ["ignore", None, True])
def test_what_is_no_choice(value):
    message = f"train expects a on_nonfinite of 'raise', 'stop', 'skip', got {value!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        Run("single").train(BATCHES, on_nonfinite=value)
