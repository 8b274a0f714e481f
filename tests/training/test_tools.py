import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Adam,
    BatchNorm,
    Chain,
    ClipNorm,
    DataLoader,
    Dense,
    Descent,
    Dropout,
    Momentum,
    NonFiniteError,
    OptimiserChain,
    ShapeError,
    epochs,
    evaluate,
    lr_find,
    mse,
    overfit,
    param,
    params,
    repeated,
    set_seed,
    train,
)
from fluxkeras.training.step import Step, memory_of
from fluxkeras.training.tools import Sweep

rng = np.random.default_rng(0)
X, Y = rng.random((32, 4)), rng.random((32, 2))
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)]


def keras_seeds():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        drawn.append(float(keras.random.uniform(())))
    return drawn[0] == drawn[1]


of_keras_that_seeds = pytest.mark.skipif(
    not keras_seeds(), reason="Keras's seed does not govern what keras.random draws, as in 3.5"
)


def whole(message):
    return f"^{re.escape(message)}$"


def with_everything():
    """A model with random numbers and moving statistics, and two variables beside it."""
    m = Chain(
        Dense(4, 8, "tanh"), BatchNorm(8), Dropout(0.2), keras.layers.Dropout(0.2), Dense(8, 2)
    )
    scale, count = param(1.0), tf.Variable(0.0, trainable=False)

    def loss(x, y):
        count.assign_add(1.0)
        noise = keras.random.normal((2,), stddev=0.01)
        return mse(scale * m(x) + noise, y)

    return m, loss, [*m.weights, *m.non_trainable_variables, scale, count]


OPTIMISERS = {
    "new": lambda: Adam(0.01),
    "Keras's": lambda: keras.optimizers.Adam(0.01, clipnorm=1.0, use_ema=True),
    "chain": lambda: OptimiserChain(ClipNorm(1.0), Momentum(0.01)),
    "accumulating": lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=3),
    "scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)),
}


def everything(variables, opt):
    values = [np.array(v) for v in (*variables, *opt.variables)]
    return values, opt.built, random.getstate(), np.random.get_state()[1].tolist()


def assert_same(before, after):
    for old, new in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(new, old)
    assert before[1:] == after[1:]


class Fault(Exception):
    pass


def with_fault(error):
    def batches():
        yield from BATCHES[:3]
        raise error

    return batches()


def attempts():
    data = DataLoader((X, Y), 8, shuffle=True)
    return {
        "lr_find": lambda loss, opt: lr_find(loss, data, opt, steps=20),
        "lr_find, an error": lambda loss, opt: lr_find(loss, with_fault(Fault()), opt),
        "lr_find, Ctrl-C": lambda loss, opt: lr_find(loss, with_fault(KeyboardInterrupt()), opt),
        "overfit": lambda loss, opt: overfit(loss, BATCHES[0], opt, steps=20, tolerance=100.0),
        "overfit, in vain": lambda loss, opt: overfit(loss, BATCHES[0], opt, steps=20, tolerance=0),
    }


ATTEMPTS = [(attempt, "new") for attempt in attempts()]
KINDS = [("lr_find", kind) for kind in OPTIMISERS if kind != "new"]


@pytest.mark.parametrize(("attempt", "kind"), ATTEMPTS + KINDS)
@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
def test_everything_is_as_it_was(attempt, kind, trained):
    _, loss, variables = with_everything()
    opt = OPTIMISERS[kind]()
    if trained:
        train(loss, BATCHES, opt, progress=False)
    tool = attempts()[attempt]
    before = everything(variables, opt)

    try:
        tool(loss, opt)
    except (Fault, KeyboardInterrupt):
        assert attempt in ("lr_find, an error", "lr_find, Ctrl-C")
    except ValueError as error:
        assert "overfit: in 20 steps" in str(error) and attempt == "overfit, in vain"

    assert_same(before, everything(variables, opt))


@of_keras_that_seeds
def test_training_after_it_is_training_without_it():
    def trained(tool):
        keras.utils.set_random_seed(3)
        _, loss, variables = with_everything()
        opt, data = Adam(0.01), DataLoader((X, Y), 8, shuffle=True)
        tool(loss, data, opt)
        for _ in range(2):
            train(loss, data, opt, progress=False, form="single")
        return [np.array(v) for v in (*variables, *opt.variables)]

    expected = trained(lambda *_: None)
    for tool in lr_find, lambda loss, data, opt: overfit(loss, BATCHES[0], opt, tolerance=1e9):
        for a, b in zip(expected, trained(tool), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_new_optimiser_may_train_something_else_afterwards():
    opt, (first, second) = Adam(0.01), (Chain(Dense(4, 2)), Chain(Dense(4, 2)))

    lr_find(lambda x, y: mse(first(x), y), BATCHES, opt)
    overfit(lambda x, y: mse(first(x), y), BATCHES[0], opt, tolerance=1e9)
    train(lambda x, y: mse(second(x), y), BATCHES, opt, progress=False)

    assert int(opt.iterations) == len(BATCHES)


def test_only_the_parameters_that_an_optimiser_names_are_trained():
    m = Chain(Dense(4, 8), Dense(8, 2))
    opt = Descent(params(m[1]), 0.1)
    loss = lambda x, y: mse(m(x), y)  # noqa: E731
    kernel = m[0].kernel.numpy()

    overfit(loss, BATCHES[0], opt, steps=10, tolerance=1e9, restore=False)
    with pytest.raises(ValueError, match="not below 0"):
        overfit(loss, BATCHES[0], opt, steps=10, tolerance=0, restore=False)

    np.testing.assert_array_equal(m[0].kernel, kernel)
    assert int(opt.iterations) == 11


# --- lr_find --------------------------------------------------------------------------------------


def linear():
    """The loss `w**2`, of which a step at a rate is `w -= 2 * rate * w`."""
    w = param(1.0)
    return w, lambda x: w**2 + 0 * tf.reduce_sum(x)


def by_hand(rates):
    w, losses = np.float32(1), []
    for rate in rates.astype("float32"):
        losses.append(w**2)
        w = w - rate * 2 * w
    return losses


@pytest.mark.parametrize(
    "data",
    [[np.ones(1)], repeated(np.ones(1)), tf.data.Dataset.from_tensors(np.ones(1))],
    ids=["short", "repeated", "tf.data"],
)
def test_each_step_is_made_at_the_next_rate(data):
    _, loss = linear()

    sweep = lr_find(loss, data, Descent(), low=1e-3, high=0.5, steps=30)

    np.testing.assert_allclose(sweep.rates, 1e-3 * 500 ** (np.arange(30) / 29))
    np.testing.assert_allclose(sweep.losses, by_hand(sweep.rates), rtol=1e-4, atol=1e-30)


def test_it_ends_where_the_loss_diverges():
    _, loss = linear()

    sweep = lr_find(loss, [np.ones(1)], Descent(), low=1e-2, high=1e4, steps=200)

    losses = by_hand(sweep.rates)
    means = np.convolve(losses, np.ones(5) / 5, "valid")
    assert means[-1] > means.min() + 3 > means[-2]
    assert len(sweep.rates) == len(sweep.losses) < 200
    assert 0.01 < sweep.suggestion < 1  # beyond 1, a step leads away from the minimum


def test_a_loss_that_is_not_finite_ends_it():
    w, _ = linear()

    sweep = lr_find(lambda x: tf.exp(50 * tf.abs(w)) - 1, [np.ones(1)], Descent(), low=1e-30)

    assert np.isfinite(sweep.losses).all() and 1 < len(sweep.losses) < 100
    with pytest.raises(NonFiniteError, match="batch 0"):
        lr_find(lambda x: w * np.nan, [np.ones(1)], Descent())


def test_data_that_cannot_be_gone_through_again_ends_it():
    _, loss = linear()

    assert len(lr_find(loss, iter([np.ones(1)] * 7), Descent()).losses) == 7
    with pytest.raises(ValueError, match=r"lr_find got no batch: the data, a list, is empty\."):
        lr_find(loss, [], Descent())


def test_a_dataset_of_keras_is_gone_through_again():
    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return np.full(1, float(i))

    w = param(1.0)
    sweep = lr_find(lambda x: 0 * w + tf.reduce_sum(x), Data(), Descent(), steps=5)

    assert sweep.losses.tolist() == [0, 1, 0, 1, 0]


def test_another_rate_compiles_nothing(monkeypatch):
    m, made = Chain(Dense(4, 2)), []
    init = Step.__init__
    monkeypatch.setattr(Step, "__init__", lambda *args: (made.append(1), init(*args))[1])

    lr_find(lambda m, x, y: mse(m(x), y), m, BATCHES, Descent())

    assert len(made) == 1


def test_what_is_compiled_serves_an_optimiser_that_was_built():
    m, opt = Chain(Dense(4, 2)), Adam()
    loss = lambda x, y: mse(m(x), y)  # noqa: E731
    train(loss, BATCHES, opt, progress=False)

    lr_find(loss, BATCHES, opt)

    assert len(memory_of(opt).compiled) == 1


def test_epochs_around_it_go_on():
    _, loss = linear()

    assert [lr_find(loss, [np.ones(1)], Descent()) and n for n in epochs(3)] == [1, 2, 3]


def test_a_real_model_trains_well_at_what_it_suggests():
    m = Chain(Dense(4, 16, "tanh"), Dense(16, 2))
    loss = lambda x, y: mse(m(x), y)  # noqa: E731
    start, data = evaluate(loss, BATCHES), DataLoader((X, Y), 8, shuffle=True)

    opt = Adam(lr_find(loss, data, Adam()).suggestion)
    for _ in range(20):
        train(loss, data, opt, progress=False)

    assert evaluate(loss, BATCHES) < start / 3


def test_the_smoothed_loss_is_the_mean_with_its_neighbours():
    sweep = Sweep(np.geomspace(1, 16, 5), np.array([1.0, 2.0, 6.0, 1.0, 8.0]))

    np.testing.assert_allclose(sweep.smoothed, [3 / 2, 9 / 3, 9 / 3, 15 / 3, 9 / 2])
    long = np.arange(100.0)
    np.testing.assert_allclose(Sweep(long, long).smoothed[3:-3], long[3:-3])
    assert Sweep(long, long**2).smoothed[10] == np.mean(np.arange(7, 14) ** 2)


def test_the_suggestion_is_where_it_falls_most():
    rates = np.geomspace(1e-6, 1, 7)
    losses = np.array([3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 9.0])

    sweep = Sweep(rates, losses)

    np.testing.assert_allclose(sweep.smoothed, [3, 3, 2, 1, 0, 3, 4.5])
    assert sweep.suggestion in rates[2:4]
    assert repr(sweep) == f"Sweep(7 rates from 1e-06 to 1, suggestion {sweep.suggestion:.3g})"


@pytest.mark.parametrize("losses", [[1.0], [1.0, 1.0], [1.0, 2.0, 3.0]])
def test_there_is_no_suggestion_where_it_does_not_fall(losses):
    sweep = Sweep(np.geomspace(1, 2, len(losses)), np.array(losses))

    assert sweep.suggestion is None
    assert repr(sweep).endswith("suggestion none)")


# --- overfit --------------------------------------------------------------------------------------


def test_a_batch_is_learnt():
    m = Chain(Dense(4, 16, "tanh"), Dense(16, 2))
    loss = lambda m, x, y: (mse(m(x), y), {"n": 1.0})  # noqa: E731

    history = overfit(loss, m, BATCHES[0], Adam(0.03))

    assert history.losses[-1] < history.losses[0] / 100 <= history.losses[-2]
    assert len(history["n"]) == len(history)


def test_the_tolerance_may_be_given_and_the_model_kept():
    w, loss = linear()

    history = overfit(loss, np.ones(1), Descent(0.25), tolerance=0.2, restore=False)

    np.testing.assert_allclose(history.losses, [1, 0.25, 0.0625])  # w halves at each step
    assert float(w) == 0.125  # each loss is that before its step


def test_several_optimisers_may_be_given():
    v, w = param(1.0), param(1.0)

    history = overfit(lambda x: v**2 + w**2, np.ones(1), [Descent([v], 0.25), Descent([w], 0.25)])

    np.testing.assert_allclose(history.losses, [2, 0.5, 0.125, 0.03125, 0.0078125])
    assert float(v) == float(w) == 1


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.0, "the loss went from 1 to 1, not below 0.01. It never changes: is the learning rate "
         "0, or does the loss ignore the outputs?"),
        (1.1, "the loss went from 1 to 2.074, not below 0.01. It does not fall: is the learning "
         "rate too high? lr_find suggests one."),
        (0.01, "the loss went from 1 to 0.9224, not below 0.01. Allow more steps, or another "
         "learning rate, which lr_find suggests. Can the model return what the batch holds: is "
         "there a relu or a softmax at its end, or dropout?"),
    ],
)  # fmt: skip
def test_it_tells_that_a_batch_is_not_learnt(rate, message):
    _, loss = linear()

    with pytest.raises(ValueError, match=whole(f"overfit: in 3 steps on one batch {message}")) as e:
        overfit(loss, np.ones(1), Descent(rate), steps=3)

    assert len(e.value.history) == 3


def test_a_first_loss_of_which_there_is_no_hundredth_needs_a_tolerance():
    w = param(1.0)
    message = (
        "overfit expects a tolerance, since the first loss is -1, of which a hundredth means "
        "nothing: overfit(loss, batch, opt, tolerance=…)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        overfit(lambda x: -w, np.ones(1), Descent())

    assert float(w) == 1
    assert len(overfit(lambda x: -w, np.ones(1), Descent(1.0), tolerance=-3.0)) == 4


# --- What does not fit ----------------------------------------------------------------------------


def test_wrong_arguments_are_refused():
    w, loss = linear()
    opt = Descent()
    with pytest.raises(TypeError, match=whole(
        "lr_find takes (loss, data, opt) or (loss, model, data, opt), got 2 arguments."
    )):  # fmt: skip
        lr_find(loss, opt)
    with pytest.raises(TypeError, match=whole(
        "overfit takes (loss, batch, opt) or (loss, model, batch, opt), got 5 arguments."
    )):  # fmt: skip
        overfit(loss, 1, 2, 3, 4)
    for tool in lr_find, overfit:
        with pytest.raises(TypeError, match=whole(
            f"{tool.__name__} expects an optimiser, such as ADAM(), as its last argument, got str."
        )):  # fmt: skip
            tool(loss, [1], "adam")
    for low, high in [(0, 1), (2, 1), (1, np.inf), (np.nan, 1)]:
        with pytest.raises(ValueError, match="lr_find expects 0 < low < high, got low="):
            lr_find(loss, [1], opt, low=low, high=high)
    for steps in 2, 3.5:
        with pytest.raises(ValueError, match="lr_find expects steps, a whole number from 3, got"):
            lr_find(loss, [1], opt, steps=steps)
    for steps in 0, 3.5:
        with pytest.raises(ValueError, match="overfit expects steps, a whole number from 1, got"):
            overfit(loss, [1], opt, steps=steps)
    with pytest.raises(TypeError, match="lr_find expects data to be an iterable of batches, got i"):
        lr_find(loss, 1, opt)
    with pytest.raises(TypeError, match=r"lr_find takes one optimiser, got 2\."):
        lr_find(loss, [1], [opt, opt])
    assert float(w) == 1 and not opt.built


def test_a_rate_that_is_not_a_number_is_refused():
    _, loss = linear()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)
    message = "adjust expects a learning rate that is a number, got a Adam with a schedule or a fun"
    with pytest.raises(ValueError, match=f"^{message}"):
        lr_find(loss, [np.ones(1)], Adam(schedule))


def test_errors_name_the_batch():
    m = Chain(Dense(4, 2))
    loss = lambda x, y: mse(m(x), y)  # noqa: E731
    for tool in (
        lambda: lr_find(loss, [(X[:, :3], Y)], Adam()),
        lambda: overfit(loss, (X[:, :3], Y), Adam()),
    ):
        with pytest.raises(ShapeError, match=r"^batch 0 \(float64 \(32, 3\), .*Dense\(4 => 2\)"):
            tool()
    with pytest.raises(ShapeError, match=r"batch 1 \(float64 \(32, 3\)"):
        lr_find(loss, [(X, Y), (X[:, :3], Y)], Adam())


# --- set_seed -------------------------------------------------------------------------------------


def drawn():
    x = tf.data.Dataset.range(50).shuffle(50).batch(50).get_single_element()
    return [
        random.random(),
        np.random.rand(),
        keras.random.normal((2,)).numpy(),
        tf.random.normal((2,)).numpy(),
        Dense(3, 3).kernel.numpy(),
        [b.tolist() for b in DataLoader(np.arange(20), 20, shuffle=True)],
        Dropout(0.5)(np.ones((4, 4)), training=True).numpy(),
        x.numpy(),
    ]


@of_keras_that_seeds
@pytest.mark.parametrize("seed", [0, 7, np.int64(2**32 - 1)])
def test_a_seed_governs_all_that_is_drawn(seed):
    set_seed(seed)
    first = drawn()
    others = drawn()
    set_seed(seed)

    for a, b, other in zip(first, drawn(), others, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, other)


@of_keras_that_seeds
def test_it_is_keras_seed():
    set_seed(5)
    first = drawn()
    keras.utils.set_random_seed(5)

    for a, b in zip(first, drawn(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_determinism_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(1))

    set_seed(1)
    assert not asked
    set_seed(1, deterministic=True)
    assert asked


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, None, "1"])
def test_what_is_no_seed_is_refused(seed):
    message = f"set_seed expects a whole number from 0, below 2**32, got {seed!r}."
    with pytest.raises(ValueError, match=whole(message)):
        set_seed(seed)
