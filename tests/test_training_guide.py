"""Every snippet of Flux's training guide, in the order and under the titles of its sections."""

import time

import keras
import numpy as np
import pytest

import fluxkeras as flux
from fluxkeras import ADAM, SGD, Chain, Dense, epochs, params, repeated, softmax, throttle, train, σ


@pytest.fixture
def m():
    return Chain(Dense(784, 32, σ), Dense(32, 10), softmax)


@pytest.fixture
def loss(m):
    return lambda x, y: flux.mse(m(x), y)


@pytest.fixture
def x():
    return np.random.default_rng(0).random(784)


@pytest.fixture
def y():
    return np.random.default_rng(1).random(10)


def test_training(loss, m, x, y):
    objective, data, opt = loss, [(x, y)], SGD(params(m), 0.1)

    before = loss(x, y)
    train(objective, data, opt)

    assert loss(x, y) < before


def test_loss_functions_in_terms_of_a_model(m, x, y):
    def loss(x, y):
        return flux.mse(m(x), y)

    history = train(loss, [(x, y)], SGD(params(m), 0.1))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    fresh = Chain(Dense(784, 32, σ), Dense(32, 10), softmax)
    (w1, b1, w2, b2) = (np.float64(p.numpy()) for p in params(fresh))
    z = sigmoid(x @ w1 + b1) @ w2 + b2
    expected = np.mean((np.exp(z) / np.exp(z).sum() - y) ** 2)
    assert float(flux.mse(fresh(x), y)) == pytest.approx(expected, rel=1e-5)
    assert history.losses.shape == (1,)


def test_loss_functions_calculated_however_you_want(m, x, y):
    def loss(x, y):
        return abs(m(x) - y)[0] ** 3 + 1.0

    history = train(loss, repeated((x, y), 20), SGD(params(m), 0.5))

    assert history.losses[-1] < history.losses[0]


def test_loss_functions_such_as_crossentropy(m, x):
    y = np.eye(10)[3]

    history = train(lambda x, y: flux.crossentropy(m(x), y), repeated((x, y), 30), ADAM())

    assert history.losses[-1] < 0.7 * history.losses[0]


def test_datasets_with_one_data_point(loss, m, x, y):
    data = [(x, y)]

    assert len(train(loss, data, SGD(params(m), 0.1))) == 1


def test_datasets_the_same_data_three_times(x, y):
    losses = []
    for data in [(x, y), (x, y), (x, y)], repeated((x, y), 3):
        keras.utils.set_random_seed(1)
        m = Chain(Dense(784, 32, σ), Dense(32, 10), softmax)
        losses.append(train(lambda m, x, y: flux.mse(m(x), y), m, data, SGD(0.1)).losses)

    assert losses[0].shape == (3,)
    np.testing.assert_array_equal(*losses)


def test_datasets_loaded_separately_and_zipped(loss, m):
    rng = np.random.default_rng(2)
    xs = [rng.random(784), rng.random(784), rng.random(784)]
    ys = [rng.random(10), rng.random(10), rng.random(10)]
    data = zip(xs, ys)

    expected = float(loss(xs[0], ys[0]))
    history = train(loss, data, SGD(params(m), 0.1))

    assert len(history) == 3
    assert history.losses[0] == pytest.approx(expected, rel=1e-5)


def test_datasets_two_epochs_of_hello(capsys):
    epochs(2, lambda: print("hello"))

    assert capsys.readouterr().out == "INFO: Epoch 1\nhello\nINFO: Epoch 2\nhello\n"


def test_datasets_two_epochs_of_hello_as_a_loop(capsys):
    for _ in epochs(2):
        print("hello")

    assert capsys.readouterr().out == "INFO: Epoch 1\nhello\nINFO: Epoch 2\nhello\n"


def test_datasets_train_for_two_epochs(loss, m, x, y):
    histories = []

    epochs(2, lambda: histories.append(train(loss, [(x, y)], SGD(params(m), 0.1))))

    assert histories[1].losses[0] < histories[0].losses[0]


def test_callbacks_printing_training(loss, m, x, y, capsys):
    train(loss, [(x, y)] * 3, SGD(params(m), 0.1), cb=lambda: print("training"), progress=False)

    assert capsys.readouterr().out == "training\n" * 3


def test_callbacks_throttled_evaluation(loss, m, x, y, capsys):
    test_x, test_y = np.random.rand(5, 784), np.random.rand(5, 10)

    def evalcb():
        print(f"{loss(test_x, test_y)=}")

    before = loss(test_x, test_y)
    data = repeated((x, y), 50)
    train(loss, data, SGD(params(m), 0.1), cb=throttle(evalcb, 5), progress=False)

    assert capsys.readouterr().out.count("loss(test_x, test_y)=") == 1
    assert loss(test_x, test_y) != before


def test_callbacks_throttled_to_a_timeout(loss, m, x, y):
    times = []

    train(
        loss,
        repeated((x, y), 100),
        SGD(params(m), 0.1),
        cb=[throttle(lambda: times.append(time.monotonic()), 0.05), lambda: time.sleep(0.002)],
    )

    assert len(times) >= 3
    assert min(np.diff(times)) >= 0.05
