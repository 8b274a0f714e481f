"""What is compiled is used again where it fits, and nowhere else."""

import queue

import keras
import numpy as np
import pytest
import tensorflow as tf
from single_step import model_and_loss, run

from fluxkeras import ADAM, SGD, ShapeError, losses, mse, param, params, repeated
from fluxkeras.training.cache import MOST_KEPT, MOST_LENGTHS, MOST_SHAPES, compiled_for
from fluxkeras.training.feed import feed_of
from fluxkeras.training.step import memory_of
from fluxkeras.training.tuner import Request

rng = np.random.default_rng(0)
X, Y = rng.random((8, 3)), rng.random((8, 2))


def signature_of(*arguments):
    return feed_of([arguments]).peek()


class Traced:
    """A loss, which counts how often Python runs it."""

    def __init__(self, loss):
        self.calls = queue.SimpleQueue()  # a list or number would be a capture that changes
        self.loss = loss

    def __call__(self, *arguments):
        self.calls.put(arguments[0].shape)
        return self.loss(*arguments)

    def traces(self):
        return self.calls.qsize()

    def shapes(self):
        """Those of the first argument, since the last time."""
        return [tuple(self.calls.get()) for _ in range(self.traces())]


# --- Once for each code, captures and signature ---------------------------------------------------


@pytest.mark.parametrize("opt", [ADAM, lambda: ADAM(loss_scale_factor=8.0)])
def test_a_step_is_compiled_once_for_each_signature(opt):
    _, loss = model_and_loss()
    loss, opt = Traced(loss), opt()
    run(loss, opt, X, Y)
    first = loss.traces()
    for _ in range(3):
        run(loss, opt, X, Y)
    assert loss.traces() == first

    run(loss, opt, X[:5], Y[:5])
    run(loss, opt, X, Y)
    assert loss.traces() == first + 1


def test_python_runs_the_objective_once_a_signature():
    _, loss = model_and_loss()
    loss, opt = Traced(loss), ADAM()
    run(loss, opt, X, Y)
    assert loss.traces() == 1

    run(loss, opt, X[:5], Y[:5])
    assert loss.traces() == 2


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_every_form_calls_what_was_traced_once(form):
    _, loss = model_and_loss()
    loss = Traced(loss)
    compiled, feed = compiled_for(loss, [ADAM()], None), feed_of([(X, Y)] * 10)
    runner = compiled.runner(feed.peek(), feed.is_same)
    for request in Request("single"), Request(form, chunk=4):
        plan = runner.plan(request, 0)
        chunk = feed.take(feed.peek(), plan.steps, plan.room)
        (outcome,) = runner.run(plan, chunk, lambda: None)
        assert len(outcome.losses) == (1 if request.form == "single" else 4)

    assert loss.traces() == 1


def test_batches_that_are_all_the_same_have_a_runner_of_their_own():
    _, loss = model_and_loss()
    compiled = compiled_for(loss, [ADAM()], None)
    signature, feed = signature_of(X, Y), feed_of(repeated((X, Y)))
    assert feed.peek() == signature

    one, same = compiled.runner(signature, False), compiled.runner(signature, feed.is_same)

    assert one is not same
    assert compiled.runner(signature, False) is one
    assert compiled.runner(signature, True) is same


def test_a_loss_written_again_with_the_same_captures_is_not_compiled_again():
    model, opt = model_and_loss()[0], ADAM()
    traced = Traced(lambda x, y: mse(model(x), y))

    for _ in range(3):
        run(lambda x, y: traced(x, y), opt, X, Y)

    assert traced.traces() == 1
    assert len(memory_of(opt).compiled) == 1


def test_a_captured_number_that_changed_is_never_stale():
    w, opt = param(0.0), SGD(1.0)
    losses = []
    for scale in 1.0, 2.0, 1.0:
        losses.append(float(run(lambda: scale + w * 0, opt)[0]))  # noqa: B023

    assert losses == [1.0, 2.0, 1.0]
    assert len(memory_of(opt).compiled) == 2


def test_other_optimisers_a_model_or_a_precision_make_it_another(monkeypatch):
    model, loss = model_and_loss()
    a, b = SGD(params(model[0]), 0.1), SGD(params(model[1]), 0.1)
    compiled = compiled_for(loss, [a], None)

    assert compiled_for(loss, [a], None) is compiled
    assert compiled_for(loss, [a, b], None) is not compiled
    assert compiled_for(loss, [b], None) is not compiled
    assert compiled_for(loss, [a], model) is not compiled
    monkeypatch.setattr(keras.config, "floatx", lambda: "float64")
    assert compiled_for(loss, [a], None) is not compiled


def test_an_option_of_the_optimiser_that_changed_takes_effect():
    w, opt = param(0.0), SGD(1.0, clipnorm=0.5)
    run(lambda: 2.0 * w, opt)
    opt.clipnorm = 0.25
    run(lambda: 2.0 * w, opt)

    assert w.numpy() == -0.75


def test_a_learning_rate_is_no_reason_to_compile_again():
    w, opt = param(0.0), SGD(1.0)
    loss = Traced(lambda x: w * x)
    run(loss, opt, 1.0)
    opt.learning_rate = 0.5
    run(loss, opt, 1.0)

    assert w.numpy() == -1.5
    assert loss.traces() == 1


def test_freezing_takes_effect_at_the_next_call():
    model, loss = model_and_loss()
    opt = SGD(0.1)
    run(loss, opt, X, Y)
    before = model.get_weights()
    model[0].trainable = False

    run(loss, opt, X, Y)

    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


def test_an_optimiser_keeps_a_bounded_number_of_objectives():
    w, opt = param(0.0), SGD(0.1)
    for i in range(MOST_KEPT + 3):
        run(lambda: w * float(i), opt)  # noqa: B023

    assert len(memory_of(opt).compiled) == MOST_KEPT


def test_the_objective_that_was_unused_for_longest_goes_first():
    w, opt = param(0.0), SGD(0.1)
    losses = [Traced(lambda x: w * x) for _ in range(MOST_KEPT + 1)]
    for loss in losses[:-1]:
        run(loss, opt, 1.0)
    run(losses[0], opt, 1.0)
    run(losses[-1], opt, 1.0)  # in place of losses[1]

    run(losses[0], opt, 1.0)
    run(losses[1], opt, 1.0)

    assert [loss.traces() for loss in losses] == [1, 2] + [1] * (MOST_KEPT - 1)


def test_an_objective_that_fails_is_tried_anew():
    w, opt, is_ready = param(2.0), SGD(0.0), queue.SimpleQueue()

    def loss(x):
        if is_ready.empty():
            raise OverflowError("not yet")
        return w * x

    with pytest.raises(OverflowError, match="not yet"):
        run(loss, opt, 3.0)
    is_ready.put(1)

    assert run(loss, opt, 3.0)[0] == 6


# --- Lengths that differ --------------------------------------------------------------------------


def test_lengths_that_differ_are_left_open_after_some_shapes():
    model, loss = model_and_loss()
    loss, opt = Traced(loss), SGD(0.0)

    for n in range(1, MOST_SHAPES + 12):
        x, y = rng.random((n, 3)), rng.random((n, 2))
        value, _ = run(loss, opt, x, y)
        assert float(value) == pytest.approx(float(mse(model(x), y)), rel=1e-5)

    assert loss.shapes() == [*((n, 3) for n in range(1, MOST_SHAPES + 1)), (None, 3)]


def test_several_axes_are_left_open_as_they_are_found_to_differ():
    w, opt = param(1.0), SGD(0.0)
    loss = Traced(lambda x: w * tf.reduce_sum(x))

    for shape in [(2, 3), (4, 3), (5, 3), (5, 4), (7, 3), (6, 9), (2, 2)]:
        assert run(loss, opt, np.ones(shape))[0] == np.prod(shape)

    assert loss.shapes() == [(2, 3), (4, 3), (None, 3), (5, 4), (None, None)]


def test_each_length_has_a_runner_that_is_found_again():
    w, opt = param(1.0), SGD(0.0)
    loss = Traced(lambda x: w * tf.reduce_sum(x))
    compiled = compiled_for(loss, [opt], None)
    signatures = [signature_of(np.ones(n)) for n in range(1, MOST_SHAPES + 5)]

    runners = [compiled.runner(s, False) for s in signatures]

    assert len(set(runners)) == len(signatures)
    assert [compiled.runner(s, False) for s in signatures] == runners
    assert loss.traces() == MOST_SHAPES + 1


def test_the_lengths_that_are_remembered_are_bounded_and_the_one_unused_for_longest_goes():
    w, opt = param(1.0), SGD(0.0)
    loss = Traced(lambda x: w * tf.reduce_sum(x))
    compiled = compiled_for(loss, [opt], None)
    runners = {n: compiled.runner(signature_of(np.ones(n)), False) for n in range(1, 6)}
    for n in range(10, 9 + MOST_LENGTHS):
        compiled.runner(signature_of(np.ones(n)), False)
        assert compiled.runner(signature_of(np.ones(5)), False) is runners[5]

    found = [compiled.runner(signature_of(np.ones(n)), False) is runners[n] for n in runners]

    assert found == [True, True, False, False, True]  # the first two are compiled as they are
    assert loss.traces() == MOST_SHAPES + 1


def test_batches_of_other_types_or_structures_are_of_other_families():
    w, opt = param(1.0), SGD(0.0)
    loss = Traced(lambda x: w * tf.reduce_sum(tf.cast(tf.nest.flatten(x)[0], "float32")))
    traced = Traced(lambda shape, x: loss.loss(x))

    for n in range(1, MOST_SHAPES + 3):
        for x in np.ones(n), np.ones(n, "int32"), {"x": np.ones(n)}, np.ones((n, 1)):
            run(traced, opt, 1.0, x)

    assert traced.traces() == 4 * (MOST_SHAPES + 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # AutoGraph's own, on Python 3.13
@pytest.mark.parametrize(
    "mean",
    [
        lambda x, w: tf.reduce_sum(w * x) / x.shape[0],
        lambda x, w: tf.reduce_sum(w * x) * (1 / x.shape[0]),
        lambda x, w: sum(w * row for row in tf.unstack(x)) / x.shape[0],
    ],
)
def test_an_objective_that_needs_the_length_is_compiled_for_each(mean):
    w, opt = param(2.0), SGD(0.0)
    loss = Traced(lambda x: mean(x, w))
    lengths = range(1, MOST_SHAPES + 6)

    for _ in range(2):
        for n in lengths:
            assert run(loss, opt, np.full(n, 3.0))[0] == pytest.approx(6)

    assert [shape for shape in loss.shapes() if shape != (None,)] == [(n,) for n in lengths]


def test_a_wrong_length_of_features_is_refused_as_the_third_shape_too():
    _, loss = model_and_loss()
    opt = SGD(0.1)
    for n in range(1, MOST_SHAPES + 1):
        run(loss, opt, X[:n], Y[:n])

    for _ in range(2):
        with pytest.raises(
            ShapeError, match=r"expects inputs of shape \(\.\.\., 3\), got \(8, 7\)"
        ):
            run(loss, opt, np.ones((8, 7)), Y)

    run(loss, opt, X, Y)


# --- Losses that layers collect -------------------------------------------------------------------


class Active(keras.layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_sum(x))
        return x


def penalised(trainable=True):
    dense = keras.layers.Dense(2, bias_regularizer="l1", name="fined")
    model = keras.Sequential([keras.Input((3,)), dense, Active(name="active")])
    model.trainable = trainable
    return model


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, x, y: mse(model(x), y) + losses(model),
        lambda model, x, y: mse(model(x), y) + sum(model.losses),
        lambda model, x, y: mse(model(x), y) + sum(model.get_layer("fined").losses),
        lambda model, x, y: model.compute_loss(x, y, model(x)),
    ],
)
def test_losses_that_the_objective_reads_are_not_told_of(loss):
    model = penalised()
    model.compile(loss="mse")

    run(loss, SGD(0.1), X, Y, model=model)


@pytest.mark.filterwarnings("error")
def test_losses_that_the_objective_leaves_out_are_told_of_once():
    model, opt = penalised(), SGD(0.1)
    message = (
        r"leaves out the losses of these layers: fined, active\. They come of a regularizer or "
        r"of add_loss, and train nothing unless .* returns: \+ losses\(model\)\.$"
    )

    def loss(x, y):
        return mse(model(x), y)

    with pytest.warns(UserWarning, match=message):
        run(loss, opt, X, Y)
    run(loss, opt, X, Y)
    run(loss, opt, X[:5], Y[:5])


def test_losses_of_what_is_frozen_are_not_told_of():
    model, w = penalised(), param(1.0)
    model = keras.Sequential([keras.Input((3,)), model.layers[0]])
    model.trainable = False

    run(lambda x, y: mse(w * model(x), y), SGD(0.1), X, Y)
