import keras
import numpy as np
import pytest
import tensorflow as tf
from single_step import model_and_loss, run

from fluxkeras import ADAM, SGD, param, params

rng = np.random.default_rng(0)
X, Y = rng.random((8, 3)), rng.random((8, 2))


def test_a_step_is_gradient_descent():
    w = param([1.0, 2.0])

    loss, _ = run(lambda x: tf.reduce_sum(w**2 * x), SGD(0.1), [3.0, 5.0])

    # dl/dw = 2wx = (6, 20)
    assert float(loss) == 1 * 3 + 4 * 5
    np.testing.assert_allclose(w.numpy(), [1 - 0.6, 2 - 2.0], atol=1e-6)


def test_an_optimiser_that_names_parameters_trains_those_alone():
    model, loss = model_and_loss()
    before = model.get_weights()

    run(loss, SGD(params(model[1]), 0.1), X, Y)

    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


def test_an_optimiser_that_names_none_trains_what_the_model_holds_and_the_objective_reads():
    model, _ = model_and_loss()
    w, before = param(1.0), model.get_weights()

    run(lambda m, x: tf.reduce_mean(m[0](x)) * w, SGD(0.1), X, model=model)

    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [True, True, False, False]
    assert w.numpy() == 1


def test_several_optimisers_each_train_their_own_and_one_the_rest():
    a, b, c = param(1.0), param(1.0), tf.Variable(1.0)

    run(lambda: a + 2 * b + 3 * c, [SGD([a], 0.1), keras.optimizers.SGD(0.01), SGD([c], 0.2)])

    np.testing.assert_allclose([a.numpy(), b.numpy(), c.numpy()], [0.9, 0.98, 0.4], rtol=1e-6)


def test_at_most_one_of_several_optimisers_names_none():
    _, loss = model_and_loss()

    with pytest.raises(ValueError, match="train got 2 optimisers that name no parameters"):
        run(loss, [SGD(0.1), ADAM()], X, Y)


def test_a_variable_that_no_gradient_reaches_is_left():
    a, b = param(1.0), param(1.0)

    run(lambda: a + tf.stop_gradient(b), ADAM())

    assert (a.numpy() != 1, b.numpy()) == (True, 1)


def test_parameters_that_the_objective_does_not_read_are_named_in_a_warning():
    model, loss = model_and_loss()
    other = param(np.ones((2, 2)), name="other")
    before = model.get_weights()

    with pytest.warns(
        UserWarning, match=r"does not read these parameters of the Descent.*: other \(2, 2\)\."
    ):
        run(loss, SGD([other], 0.1), X, Y)

    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(other.numpy(), np.ones((2, 2)))


@pytest.mark.parametrize("freeze", [False, True])
def test_an_objective_that_reads_nothing_trainable_is_refused(freeze):
    model, loss = model_and_loss()
    model.trainable = not freeze

    with pytest.raises(ValueError, match="the objective reads no trainable variable"):
        run(loss if freeze else lambda x, y: tf.reduce_mean(x), SGD(0.1), X, Y)


def test_an_optimiser_that_has_trained_others_is_refused():
    opt, w = ADAM(), param(1.0, name="new")
    _, loss = model_and_loss()
    run(loss, opt, X, Y)

    with pytest.raises(ValueError, match=r"has trained other parameters before.*: new \(\)\."):
        run(lambda: w * 2, opt)
    assert w.numpy() == 1


def test_an_objective_through_which_no_gradient_comes_is_refused():
    model, _ = model_and_loss()

    with pytest.raises(ValueError, match="no gradient reaches the variables that the objective"):
        run(lambda x, y: tf.reduce_mean(tf.round(model(x))), SGD(0.1), X, Y)


def test_a_named_parameter_that_is_frozen_is_left():
    model, loss = model_and_loss()
    opt = SGD(params(model), 0.1)
    model[0].trainable = False
    before = model.get_weights()

    run(loss, opt, X, Y)

    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


@pytest.mark.parametrize(
    "scaling",
    [
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
        lambda: SGD(0.1, loss_scale_factor=128.0),
    ],
)
def test_an_optimiser_that_scales_the_loss_makes_the_same_step(scaling):
    w = param([1.0, 2.0])

    loss, _ = run(lambda x: tf.reduce_sum(w**2 * x), scaling(), [3.0, 5.0])

    assert float(loss) == 23
    np.testing.assert_allclose(w.numpy(), [0.4, 0.0], atol=1e-6)


def test_two_optimisers_one_of_which_scales_the_loss():
    a, b = param(1.0), param(1.0)

    run(lambda: a + 2 * b, [SGD([a], 0.1), SGD(0.01, loss_scale_factor=64.0)])

    np.testing.assert_allclose([a.numpy(), b.numpy()], [0.9, 0.98], rtol=1e-6)


def test_an_objective_that_reads_other_variables_for_another_structure_trains_them():
    a, b = param(1.0), param(1.0)
    loss, opt = lambda d: a * d["a"] if "a" in d else b * d["b"], SGD([a, b], 0.1)

    with pytest.warns(UserWarning, match="does not read these parameters"):
        run(loss, opt, {"a": 1.0})
        run(loss, opt, {"b": 2.0})

    np.testing.assert_allclose([a.numpy(), b.numpy()], [0.9, 0.8], rtol=1e-6)


def test_losses_that_layers_collect_can_be_added_to_the_objective():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, kernel_regularizer="l2", activity_regularizer="l1"),
        ]
    )

    for n in 8, 5:  # each is traced anew
        x = np.abs(X[:n])
        model(x)
        expected = float(sum(model.losses))
        assert len(model.losses) == 2
        loss, _ = run(lambda x: 0.0 * tf.reduce_sum(model(x)) + sum(model.losses), SGD(0.0), x)
        assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # AutoGraph's own, on Python 3.13
@pytest.mark.parametrize("where", ["objective", "model", "branch"])
def test_layers_train_inside_of_compiled_functions_and_branches(where):
    model = normalised_model()
    moving = model.layers[1].moving_mean
    compiled = tf.function(model)

    def plain(x):
        return tf.reduce_mean(model(x) ** 2)

    def branch(x):
        if tf.reduce_sum(x) > 0:
            return tf.reduce_mean(model(x) ** 2)
        return 0.0

    losses = {
        "objective": tf.function(plain),
        "model": lambda x: tf.reduce_mean(compiled(x) ** 2),
        "branch": branch,
    }
    opt = SGD(0.0)
    seen = [float(run(losses[where], opt, X)[0]) for _ in range(3)]

    assert len(set(seen)) == 3  # Dropout is new each time
    after = moving.numpy()
    assert np.all(after != 0)
    run(losses[where], opt, X * np.nan)
    np.testing.assert_array_equal(moving.numpy(), after)


def test_a_compiled_objective_keeps_its_own_traces():
    dropout, w = keras.layers.Dropout(0.5), param(1.0)
    loss = tf.function(lambda x: w * tf.reduce_mean(dropout(x)))
    x = tf.ones((40, 5))
    assert float(loss(x)) == 1

    inside = run(loss, SGD(0.0), x)[0]

    assert float(inside) != 1
    assert float(loss(x)) == 1


def normalised_model():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_changes_no_variable(bad):
    model, opt, count = normalised_model(), ADAM(), tf.Variable(0.0, trainable=False)

    def loss(x, y):
        count.assign_add(1.0)
        return tf.reduce_mean(model(x)) + tf.reduce_mean(y)

    run(loss, opt, X, Y)
    state = [*model.variables, *opt.variables, count, model.layers[2].seed_generator.state]
    before = [v.numpy() for v in state]

    value, _ = run(loss, opt, X, Y * bad)
    assert not np.isfinite(value)
    for old, variable in zip(before, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)

    run(loss, opt, X, Y)
    assert all(
        np.any(old != v.numpy()) for old, v in zip(before, state, strict=True) if v.shape == (4,)
    )
    assert count.numpy() == 2


def test_a_step_leaves_moving_statistics_as_keras_does():
    model = normalised_model()
    moving = model.layers[1].moving_mean
    inputs = model.layers[0](X).numpy().mean(0)

    run(lambda x: tf.reduce_mean(model(x)), SGD(0.1), X)

    np.testing.assert_allclose(moving.numpy(), 0.01 * inputs, rtol=1e-4)  # momentum 0.99


def test_an_optimiser_that_has_trained_can_be_saved(tmp_path):
    model, loss = model_and_loss()
    opt = ADAM(params(model))
    model.compile(opt, "mse")
    run(loss, opt, X, Y)

    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")

    for old, new in zip(opt.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(new.numpy(), old.numpy())


def test_a_learning_rate_changed_between_steps_takes_effect():
    w, opt = param(0.0), SGD(1.0)
    run(lambda: 1.0 * w, opt)
    opt.learning_rate = 0.5
    run(lambda: 1.0 * w, opt)

    assert w.numpy() == -1.5
