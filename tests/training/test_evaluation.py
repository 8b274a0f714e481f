import copy
import gc
import re
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    SGD,
    BatchNorm,
    Chain,
    DataLoader,
    Dense,
    Dropout,
    ShapeError,
    evaluate,
    mse,
    param,
    predict,
    repeated,
    train,
)
from fluxkeras.training import evaluation, feed
from fluxkeras.training.step import Step
from fluxkeras.training.tuner import Plan, Tuner

rng = np.random.default_rng(0)
X, Y = rng.random((22, 4), "float32"), rng.random((22, 2), "float32")
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 22, 4)]  # the last one has 2 samples


@pytest.fixture
def m():
    return Chain(Dense(4, 8, "tanh"), Dense(8, 2))


def by_hand(m, x):
    """A perceptron in NumPy, in float64."""
    w1, b1, w2, b2 = (w.astype("float64") for w in m.get_weights())
    return np.tanh(x @ w1 + b1) @ w2 + b2


def once(items):
    yield from items


KINDS = {
    "list": lambda x, y: BATCHES,
    "generator": lambda x, y: once(BATCHES),
    "DataLoader": lambda x, y: DataLoader((x, y), 4),
    "tf.data": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(4),
    "tf.data one by one": lambda x, y: tf.data.Dataset.from_generator(
        lambda: iter(BATCHES), output_signature=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2]))
    ),
}


# --- evaluate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_loss_is_that_of_all_samples(m, kind):
    expected = np.mean((by_hand(m, X) - Y) ** 2)

    result = evaluate(lambda x, y: mse(m(x), y), KINDS[kind](X, Y))

    assert type(result) is float
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_the_model_may_go_first(m):
    assert evaluate(lambda m, x, y: mse(m(x), y), m, BATCHES) == evaluate(
        lambda x, y: mse(m(x), y), BATCHES
    )


def test_batches_count_by_their_samples():
    data = [(np.zeros((3, 2)),), (np.ones((1, 2)),)]

    assert evaluate(lambda x: tf.reduce_mean(x), data) == 1 / 4


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([{"rate": 5.0, "x": np.zeros((1, 2))}, {"rate": 5.0, "x": np.ones((3, 2))}], 3 / 4),
        ([(np.float32(0),), (np.float32(1),)], 1 / 2),  # numbers: a sample each
        ([(np.zeros((0, 2)),), (np.ones((3, 2)),)], 1.0),  # the mean of nothing is NaN
    ],
)
def test_the_samples_are_those_of_the_first_array_with_an_axis(batches, expected):
    def loss(batch):
        return tf.reduce_mean(batch["x"] if isinstance(batch, dict) else batch)

    assert evaluate(loss, batches) == expected


def test_other_values_are_means_in_the_same_structure(m):
    def loss(x, y):
        error = m(x) - y
        values = {"each": tf.reduce_mean(error, 0), "n": (tf.shape(x)[0], None), "hit": x[0, 0] > 2}
        return tf.reduce_mean(error**2), values

    result, values = evaluate(loss, BATCHES)

    error = by_hand(m, X) - Y
    np.testing.assert_allclose(result, np.mean(error**2), rtol=1e-6)
    np.testing.assert_allclose(values["each"], error.mean(0), rtol=1e-5)
    assert values["each"].dtype == np.float64
    assert values["n"] == (pytest.approx((5 * 4 * 4 + 2 * 2) / 22), None)
    assert values["hit"] == 0.0 and type(values["hit"]) is float


def test_several_values_besides_are_a_tuple():
    loss = lambda x: (tf.reduce_mean(x), tf.reduce_max(x), 1.0)  # noqa: E731

    assert evaluate(loss, [np.array([1.0, 3.0])]) == (2.0, (3.0, 1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_makes_the_mean_so(bad):
    data = [(np.full(2, value),) for value in (1.0, bad, 2.0)]

    np.testing.assert_equal(evaluate(tf.reduce_mean, data), bad)


def test_infinities_of_both_signs_are_no_number():
    assert np.isnan(evaluate(tf.reduce_mean, [(np.array([np.inf]),), (np.array([-np.inf]),)]))


def model_of_two_modes():
    return Chain(Dense(4, 8), BatchNorm(8), Dropout(0.5), keras.layers.Dropout(0.5), Dense(8, 2))


def test_layers_are_in_inference_mode_and_nothing_is_written():
    m = model_of_two_modes()
    train(lambda x, y: mse(m(x), y), BATCHES, SGD(0.1), progress=False)
    before = [np.array(v) for v in (*m.weights, *m.non_trainable_variables)]
    expected = mse(m(X), Y)  # outside of train, layers are in inference mode

    result = evaluate(lambda x, y: mse(m(x), y), [(X, Y)] * 3)
    outputs = predict(m, [X])

    np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_allclose(outputs, m(X), rtol=1e-5, atol=1e-6)
    for old, new in zip(before, (*m.weights, *m.non_trainable_variables), strict=True):
        np.testing.assert_array_equal(new, old)


def test_training_goes_on_as_if_nothing_had_been_evaluated():
    def trained(between):
        keras.utils.set_random_seed(1)
        m, opt = model_of_two_modes(), SGD(0.1)
        for _ in range(2):
            train(lambda x, y: mse(m(x), y), BATCHES, opt, progress=False, form="single")
            between(m)
        return m.get_weights()

    expected = trained(lambda m: None)
    found = trained(lambda m: (evaluate(lambda x, y: mse(m(x), y), BATCHES), predict(m, [X])))

    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_is_built_by_the_first_batch():
    m = keras.Sequential([keras.layers.Dense(2)])

    result = evaluate(lambda x, y: mse(m(x), y), BATCHES)

    (w, b) = m.get_weights()
    np.testing.assert_allclose(result, np.mean((X @ w + b - Y) ** 2), rtol=1e-5)


def test_control_flow_over_tensors_is_converted(m):
    def loss(x, y):
        error = mse(m(x), y)
        if error > 1e6:
            error = 0.0 * error
        return error

    np.testing.assert_allclose(evaluate(loss, BATCHES), np.mean((by_hand(m, X) - Y) ** 2), 1e-6)


def test_a_function_without_variables_is_evaluated():
    assert evaluate(lambda x: tf.reduce_mean(x), [np.ones((2, 2))]) == 1


def test_a_changed_model_and_a_changed_number_are_seen(m):
    scale = 1.0
    loss = lambda x, y: scale * mse(m(x), y)  # noqa: E731
    first = evaluate(loss, BATCHES)

    scale = 2.0
    assert evaluate(loss, BATCHES) == 2 * first
    m.layers[1].kernel.assign(m.layers[1].kernel + 1)
    np.testing.assert_allclose(evaluate(loss, BATCHES), 2 * np.mean((by_hand(m, X) - Y) ** 2), 1e-6)


# --- Chunks ---------------------------------------------------------------------------------------


def in_calls_of(steps):
    """A tuner that runs so many steps a call."""

    class Fixed(Tuner):
        def plan(self, request, done=0):
            if steps == 1 or "graph" in self.dropped:
                return Plan(self.single, 1, None)
            return Plan(self._arm("graph", self._memory), steps, steps)

    return Fixed


def recurrent():
    layers = [keras.layers.Reshape((4, 1)), keras.layers.SimpleRNN(3), keras.layers.Dense(2)]
    return keras.Sequential(layers)


def convolutional():
    layers = [keras.layers.Reshape((2, 2, 1)), keras.layers.Conv2D(3, 2), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


@pytest.mark.parametrize("build", [model_of_two_modes, recurrent, convolutional])
def test_the_numbers_are_the_same_in_any_chunk(monkeypatch, build):
    m = build()
    data = [(rng.random((n, 4)), rng.random((n, 2))) for n in [32] * 11 + [7] * 3]
    loss = lambda x, y: (mse(m(x), y), {"out": m(x)[0]})  # noqa: E731
    results = []
    for steps in 1, 4, 50:
        monkeypatch.setattr("fluxkeras.training.runner.Tuner", in_calls_of(steps))
        clear(m)
        results.append(evaluate(loss, data))

    for mean_loss, aux in results[1:]:
        assert mean_loss == results[0][0]
        np.testing.assert_array_equal(aux["out"], results[0][1]["out"])


@pytest.mark.parametrize("steps", [2, 50])
def test_outputs_are_joined_in_their_order_in_any_chunk(monkeypatch, m, steps):
    data = [rng.random((n, 4)) for n in [4] * 7 + [2] + [4] * 3 + [3, 5, 5]]  # the last are open
    monkeypatch.setattr("fluxkeras.training.runner.Tuner", in_calls_of(steps))

    outputs = predict(m, data)

    np.testing.assert_allclose(outputs, by_hand(m, np.concatenate(data)), rtol=1e-5, atol=1e-6)


def clear(m):
    for variable in m.variables:
        vars(variable).pop("_fluxkeras", None)


def test_steps_run_together_where_there_are_many(m, monkeypatch):
    forms, plan = set(), Tuner.plan

    def spy(self, request, done=0):
        planned = plan(self, request, done)
        forms.add((planned.arm.form, planned.steps > 1))
        return planned

    monkeypatch.setattr(Tuner, "plan", spy)

    result = evaluate(lambda x, y: mse(m(x), y), repeated(BATCHES[0], 3000))

    assert forms == {("single", False), ("graph", True)}  # and XLA, which rounds otherwise, never
    np.testing.assert_allclose(result, np.mean((by_hand(m, X[:4]) - Y[:4]) ** 2), rtol=1e-6)


def test_a_generator_is_read_ahead_since_nothing_changes(monkeypatch, m):
    monkeypatch.setattr("fluxkeras.training.runner.Tuner", in_calls_of(3))
    read = []

    def batches():
        for i, batch in enumerate(BATCHES):
            read.append(i)
            yield batch

    taken = []
    take = feed.Items.take

    def spy(self, signature, steps, room):
        chunk = take(self, signature, steps, room)
        taken.append(chunk.count)
        return chunk

    monkeypatch.setattr(feed.Items, "take", spy)
    evaluate(lambda x, y: mse(m(x), y), batches())

    assert taken == [3, 2, 1]


# --- What is compiled is kept ---------------------------------------------------------------------


@pytest.fixture
def traces(monkeypatch):
    made = []

    class Counted(evaluation.Inference):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(evaluation, "Inference", Counted)
    return made


def test_a_function_is_traced_once_for_a_signature(m, traces):
    for _ in range(3):
        evaluate(lambda x, y: mse(m(x), y), BATCHES)  # a new lambda of the same code
    assert len(traces) == 2  # batches of 4 samples, and of 2
    for _ in range(3):
        predict(m, [X])
    assert len(traces) == 3


def test_training_does_not_trace_anew_because_of_it(m, monkeypatch):
    made, opt, init = [], SGD(0.1), Step.__init__
    monkeypatch.setattr(Step, "__init__", lambda *args: (made.append(1), init(*args))[1])
    for _ in range(3):
        train(lambda x, y: mse(m(x), y), BATCHES[:2], opt, progress=False)
        evaluate(lambda x, y: mse(m(x), y), BATCHES[:2])
        predict(m, [X])

    assert len(made) == 1


def test_lengths_that_vary_are_left_open(m, traces):
    data = [(rng.random((n, 4)), rng.random((n, 2))) for n in range(1, 12)]

    result = evaluate(lambda x, y: mse(m(x), y), data)

    assert len(traces) == 3
    x, y = (np.concatenate(parts) for parts in zip(*data, strict=True))
    np.testing.assert_allclose(result, np.mean((by_hand(m, x) - y) ** 2), rtol=1e-6)


def test_what_is_compiled_dies_with_the_model():
    m = Chain(Dense(4, 2))
    evaluate(lambda m, x, y: mse(m(x), y), m, BATCHES)
    predict(m, [X])
    layer = weakref.ref(m.layers[0])

    del m
    keras.backend.clear_session()
    gc.collect()

    assert layer() is None


def test_no_more_than_some_functions_are_kept():
    w = param(1.0)
    for scale in range(12):
        evaluate(lambda x, scale=scale: scale * w * tf.reduce_mean(x), [np.ones(2)])

    assert len(vars(w)["_fluxkeras"].compiled) == 8


def test_variables_can_still_be_copied():
    w = param([1.0, 2.0])
    assert evaluate(lambda x: tf.reduce_sum(w * x), [np.ones(2)]) == 3

    other = copy.deepcopy([w])[0]

    np.testing.assert_array_equal(other, w)
    assert evaluate(lambda x: tf.reduce_sum(other * x), [np.ones(2)]) == 3


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_joined(m, kind):
    outputs = predict(lambda x, y: m(x), KINDS[kind](X, Y))

    assert isinstance(outputs, np.ndarray) and outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, by_hand(m, X), rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_an_array_is_passed_whole(m):
    np.testing.assert_allclose(predict(m, DataLoader(X, 5)), by_hand(m, X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predict(m, [(X[:3],), (X[3:],)]), predict(m, [X[:3], X[3:]]))


def test_structures_are_kept(m):
    def f(x, y):
        return {"out": m(x), "more": (tf.argmax(y, -1), [y[..., tf.newaxis] > 0.5, None])}

    result = predict(f, BATCHES)

    np.testing.assert_allclose(result["out"], by_hand(m, X), rtol=1e-5, atol=1e-6)
    ids, (mask, nothing) = result["more"]
    np.testing.assert_array_equal(ids, np.argmax(Y, -1))
    np.testing.assert_array_equal(mask, Y[..., np.newaxis] > 0.5)
    assert mask.dtype == bool and nothing is None


def test_a_keras_model_of_several_inputs_is_called_as_keras_would():
    a, b = keras.Input((2,)), keras.Input((3,))
    m = keras.Model([a, b], [keras.layers.Concatenate()([a, b]), b])
    first, second = X[:, :2], rng.random((22, 3), "float32")

    joined, same = predict(m, [[first[:10], second[:10]], [first[10:], second[10:]]])

    np.testing.assert_array_equal(joined, np.hstack([first, second]))
    np.testing.assert_array_equal(same, second)


def test_float16_and_strings_stay_as_they_are():
    texts, halves = predict(
        lambda x: (tf.strings.as_string(x), tf.cast(x, tf.float16)), [np.arange(3), np.arange(2)]
    )

    assert texts.tolist() == [b"0", b"1", b"2", b"0", b"1"]
    assert halves.dtype == np.float16


def test_keras_predicts_the_same(m):
    np.testing.assert_allclose(
        predict(m, [X]), m.predict(X, verbose=0), rtol=1e-6, atol=1e-7
    )  # fmt: skip


# --- What does not fit ----------------------------------------------------------------------------


def whole(message):
    return f"^{re.escape(message)}$"


def test_wrong_arguments_are_refused(m):
    loss = lambda x, y: mse(m(x), y)  # noqa: E731
    with pytest.raises(TypeError, match=whole(
        "evaluate takes (loss, data) or (loss, model, data), got 1 arguments."
    )):  # fmt: skip
        evaluate(loss)
    with pytest.raises(TypeError, match=r"evaluate expects a function as its objective, got 3\."):
        evaluate(3, BATCHES)
    with pytest.raises(TypeError, match=whole(
        "evaluate expects data to be an iterable of batches, got int. For one batch write [batch]."
    )):  # fmt: skip
        evaluate(loss, 3)
    with pytest.raises(ValueError, match=r"evaluate got no batch: the data, a list, is empty\."):
        evaluate(loss, [])
    with pytest.raises(ValueError, match=r"evaluate got no sample: the batches are empty\."):
        evaluate(loss, [(X[:0], Y[:0])])
    with pytest.raises(TypeError, match=r"predict expects a model, or another function, got 3\."):
        predict(3, BATCHES)
    with pytest.raises(ValueError, match="predict got no batch: this generator is exhausted"):
        predict(m, once([]))
    with pytest.raises(TypeError, match=whole(
        "predict expects data to be an iterable of batches, got an array of shape (22, 4). For one "
        "batch write [batch], for more DataLoader(x, 32)."
    )):  # fmt: skip
        predict(m, X)


def test_errors_name_the_batch(m):
    loss = lambda x, y: mse(m(x), y)  # noqa: E731
    bad = [*BATCHES[:3], (X[:4, :3], Y[:4])]
    message = (
        r"batch 3 \(float32 \(4, 3\), float32 \(4, 2\)\).*Dense\(4 => 8, tanh\) expects inputs"
    )
    with pytest.raises(ShapeError, match=message):
        evaluate(loss, bad)
    with pytest.raises(ShapeError, match=message):
        predict(lambda x, y: m(x), bad)
    with pytest.raises(TypeError, match=r"evaluate cannot make a tensor of batch 1\[0\], a object"):
        evaluate(lambda x: tf.reduce_mean(x), [(X,), (object(),)])


@pytest.mark.parametrize("steps", [1, 4])
def test_an_error_of_tensorflow_names_the_batch_in_any_chunk(monkeypatch, steps):
    monkeypatch.setattr("fluxkeras.training.runner.Tuner", in_calls_of(steps))

    def loss(x):
        tf.debugging.assert_less(x, tf.constant(5, x.dtype))
        return tf.reduce_mean(tf.cast(x, tf.float32))

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        evaluate(loss, [(np.array([i]),) for i in range(8)])
    assert "batch 5" in str(caught.value) or "batch 5" in "".join(caught.value.__notes__)


def test_an_error_in_the_data_tells_where(m):
    def batches():
        yield X
        raise RuntimeError("the disk is gone")

    with pytest.raises(
        RuntimeError, match="while the data was asked for batch 1: the disk is gone"
    ):
        predict(m, batches())


def test_a_tuple_for_a_model_of_one_input_is_refused(m):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    for model, name in (m, "x"), (other, "inputs"):
        with pytest.raises(TypeError, match=re.escape(
            f"the model takes {name}, and this batch is a tuple of 2, which is splatted into it. "
            "For the inputs alone write predict(m, (x for x, y in data))."
        )):  # fmt: skip
            predict(model, BATCHES)
    with pytest.raises(TypeError, match=re.escape("the model takes (x), and this batch is 2")):
        predict(lambda x: m(x), BATCHES)


def test_outputs_without_a_first_axis_are_refused():
    message = "batch 0 .*: predict expects outputs with the samples along their first axis, got a n"
    with pytest.raises(ValueError, match=message):
        predict(lambda x: {"sum": tf.reduce_sum(x)}, [X])


def test_outputs_that_cannot_be_joined_are_refused():
    message = r"batch 2 .*does not go with what .*: its shapes are \(3,\), and were \(4,\)"
    with pytest.raises(ValueError, match=message):
        predict(lambda x: x, [X, X, X[:, :3]])


def test_values_that_have_no_mean_are_refused():
    with pytest.raises(TypeError, match=re.escape(
        "evaluate takes the mean of what the objective returns, which are to be numbers: got b'a'."
    )):  # fmt: skip
        evaluate(lambda x: (tf.reduce_mean(x), tf.constant("a")), [X])
    with pytest.raises(ValueError, match=r"batch 5 .*shapes are \(\(\), \(2, 4\)\), and were"):
        evaluate(lambda x, y: (tf.reduce_mean(x), x), BATCHES)


def test_a_signature_that_differs_in_structure_is_another(m):
    loss = lambda batch: mse(m(batch["x"]), batch["y"])  # noqa: E731
    data = [{"x": X, "y": Y}, {"y": Y, "x": X, "z": 1}]

    np.testing.assert_allclose(evaluate(loss, data), np.mean((by_hand(m, X) - Y) ** 2), rtol=1e-6)
