"""Linear regression on real cars: miles per gallon from weight, power and five other numbers.

By hand first, a gradient and an update a step, then the same by `train`. Both end where the formula
of least squares does: 3.2 miles per gallon off on cars that were held out, where the mean is 7.9
off. After `other/housing` of Flux's model zoo. Takes about a minute on two busy cores.

Needs the cars of mlxtend: pip install ".[examples]"
"""

import sys

import numpy as np
import tensorflow as tf
from mlxtend.data import autompg_data

from fluxkeras import Descent, gradient, mse, param, params, repeated, setup, train, update

STEPS, SLACK = (200, 1.01) if "--quick" in sys.argv else (1000, 1.001)

# cylinders, displacement, horsepower, weight, acceleration, year, origin; the last is the name
cars, mpg = autompg_data()
order = np.random.default_rng(0).permutation(len(cars))
cars, mpg = cars[order, :7], mpg[order, np.newaxis]
known, unseen = slice(0, 300), slice(300, None)

scaled = (cars - cars[known].mean(0)) / cars[known].std(0)
x, y = tf.constant(scaled, tf.float32), tf.constant(mpg, tf.float32)


def linear():
    return param(np.zeros((7, 1))), param(np.zeros(1))


def predict(x):
    return x @ W + b


def loss(x, y):
    return mse(predict(x), y)


def error(prediction):
    """The root of the mean squared error of unseen cars, in miles per gallon."""
    return float(np.sqrt(np.mean((prediction - mpg[unseen]) ** 2)))


# By hand.
W, b = linear()
opt = setup(Descent(0.1), [W, b])
for _ in range(STEPS):
    (gradients,) = gradient(lambda: loss(x[known], y[known]), params(W, b))
    update(opt, [W, b], gradients)
by_hand = error(predict(x[unseen]))

# The same, as `train` does it: hundreds of steps in one call.
W, b = linear()
print(train(loss, repeated((x[known], y[known]), STEPS), Descent(0.1), progress=False))
by_train = error(predict(x[unseen]))

# What least squares has a formula for.
with_ones = np.column_stack([scaled, np.ones(len(cars))])
solution, *_ = np.linalg.lstsq(with_ones[known], mpg[known], rcond=None)
best, mean = error(with_ones[unseen] @ solution), error(mpg[known].mean())

print(f"miles per gallon off: {by_hand:.3f} by hand, {by_train:.3f} by train")
print(f"least squares {best:.3f}, always the mean {mean:.3f}")
assert max(by_hand, by_train) < SLACK * best < mean / 2
