"""What only a GPU can show. Elsewhere these tests are skipped."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import ADAM, Chain, DataLoader, Dense, cpu, get_device, gpu, mse, params, relu, train
from fluxkeras.training.ahead import Sent
from fluxkeras.training.feed import feed_of

X = np.random.default_rng(0).random((64, 8), dtype="float32")
Y = np.random.default_rng(1).random((64, 3), dtype="float32")
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]


@pytest.fixture(autouse=True)
def needs_a_gpu():
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("needs a GPU, and TensorFlow sees none")


pytestmark = pytest.mark.gpu


def run(device, form, data):
    keras.utils.set_random_seed(1)
    with tf.device(device):
        m = Chain(Dense(8, 16, relu), Dense(16, 3))
    history = train(
        lambda x, y: mse(m(x), y), data, ADAM(params(m), 0.01), form=form, chunk=2, progress=False
    )
    return m, history


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
@pytest.mark.parametrize(
    "data", [BATCHES, DataLoader((X, Y), 16), tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)],
    ids=["list", "DataLoader", "tf.data"],
)  # fmt: skip
def test_it_trains_as_on_the_cpu(form, data):
    m, history = run("GPU:0", form, data)
    other, expected = run("CPU:0", form, data)

    assert get_device(m) == "GPU:0"
    np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-3)
    for weight, value in zip(m.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-3, atol=1e-4)


def test_the_next_chunk_is_sent_ahead():
    feed = feed_of(BATCHES)
    assert isinstance(feed, Sent)

    feed.take(feed.peek(), 2, 2)
    feed.prepare(2, 2)
    chunk = feed.take(feed.peek(), 2, 2)

    assert all("GPU:0" in tensor.device for tensor in chunk.tensors)


def test_arrays_and_models_go_there_and_back():
    m = Dense(8, 3)

    assert get_device(gpu(X)) == "GPU:0" and get_device(cpu(gpu(X))) == "CPU:0"
    assert get_device(gpu(m)) == "GPU:0" and get_device(cpu(m)) == "CPU:0"
