"""What a step of `train` costs beside the same step in a loop written by hand.

`python benchmarks/overhead.py` prints medians of interleaved repeats, all from one run, and their
ratio to the loop written by hand. The absolute times mean little on a machine that does other work.
"""

import contextlib
import io
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from fluxkeras import Chain, Dense, mse, softmax, throttle, train, σ

STEPS, REPEATS = 300, 9


class Terminal(io.StringIO):
    def isatty(self):
        return True


def model():
    keras.utils.set_random_seed(0)
    return Chain(Dense(784, 32, σ), Dense(32, 10), softmax)


def by_hand(data):
    m, opt = model(), keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = mse(m(x, training=True), y)
        variables = m.trainable_variables
        opt.apply(tape.gradient(loss, variables), variables)
        return loss

    def run():
        for x, y in data:
            float(step(x, y))

    return run


def by_train(data, progress=False, cb=None):
    m, opt = model(), keras.optimizers.Adam()

    def run():
        with contextlib.redirect_stdout(Terminal()):
            train(lambda x, y: mse(m(x), y), data, opt, cb=cb, progress=progress)

    return run


def measure(batch_size):
    rng = np.random.default_rng(0)
    x = rng.random((batch_size, 784), dtype="float32")
    data = [(x, rng.random((batch_size, 10), dtype="float32"))] * STEPS
    loops = {
        "by hand": by_hand(data),
        "train": by_train(data),
        "train, progress bar": by_train(data, progress=True),
        "train, throttled callback": by_train(data, cb=throttle(lambda: None, 5)),
    }
    seconds = {name: [] for name in loops}
    for repeat in range(REPEATS + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            if repeat:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) / STEPS for name, times in seconds.items()}


if __name__ == "__main__":
    for batch_size in 1, 32, 512:
        medians = measure(batch_size)
        print(f"batch {batch_size}")
        for name, median in medians.items():
            ratio = median / medians["by hand"]
            print(f"  {name:<28}{median * 1e6:7.0f} µs a step, {ratio:.2f} of the loop by hand")
