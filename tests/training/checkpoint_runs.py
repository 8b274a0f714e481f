"""What the tests of checkpoints share: a run that can be broken off, and made again as in another
process."""

import keras
import numpy as np
import tensorflow as tf

from fluxkeras import (
    ADAM,
    BatchNorm,
    Chain,
    Checkpoint,
    DataLoader,
    Dense,
    Dropout,
    mse,
    prefetch,
    relu,
    repeated,
    throttle,
    train,
)

SAMPLES, BATCH = 40, 6
X = np.random.default_rng(0).random((SAMPLES, 4)).astype("float32")
Y = np.random.default_rng(1).random((SAMPLES, 2)).astype("float32")
BATCHES = [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, SAMPLES, BATCH)]


class BrokenOff(Exception):
    pass


def of_arrays(shuffle_seed=None):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    return (data if shuffle_seed is None else data.shuffle(SAMPLES, shuffle_seed)).batch(BATCH)


# What makes the data of a run, and what then gives that of each epoch.
DATA = {
    "list": lambda: lambda loader=BATCHES: loader,
    "DataLoader": lambda: same(DataLoader((X, Y), BATCH, shuffle=True)),
    "DataLoader with a seed": lambda: same(DataLoader((X, Y), BATCH, shuffle=True, rng=3)),
    "DataLoader that collates": lambda: same(
        DataLoader((X, Y), BATCH, shuffle=True, rng=3, collate=True)
    ),
    "repeated": lambda: same(repeated(BATCHES[0], 7)),
    "tf.data": lambda: same(of_arrays()),
    "tf.data, shuffled": lambda: same(of_arrays(shuffle_seed=5)),
    "zip": lambda: lambda: zip(*zip(*BATCHES, strict=True), strict=True),
    "generator": lambda: lambda: (batch for batch in BATCHES),
    "prefetch": lambda: lambda: prefetch((batch for batch in BATCHES), 2),
    "random generator": lambda: lambda: ((x + np.random.rand(), y) for x, y in BATCHES),
}


def same(data):
    return lambda: data


class Run:
    """Some epochs with all that a step changes: moving statistics, seeds, slots."""

    def __init__(self, data="list", path=None, form="graph", **options):
        keras.utils.set_random_seed(1)
        self.m = Chain(Dense(4, 8, relu), BatchNorm(8), Dropout(0.3), Dense(8, 2))
        self.opt = ADAM(0.01)
        self.loss = lambda x, y: mse(self.m(x), y)
        self.data = DATA[data]()
        self.options = options | {"form": form, "chunk": 2, "progress": False}
        if path is not None:
            self.options["checkpoint"] = Checkpoint(path, every=0)

    def epochs(self, n=3, break_off_after=None):
        """The histories of the epochs, if they are not broken off after so many steps in all."""
        left = break_off_after

        def cb():
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise BrokenOff

        every_batch = {} if break_off_after is None else {"cb": throttle(cb, 0)}
        return [train(self.loss, self.data(), self.opt, **every_batch, **self.options)
                for _ in range(n)]  # fmt: skip

    def values(self):
        return [np.array(v) for v in (*self.m.variables, *self.opt.variables)]
