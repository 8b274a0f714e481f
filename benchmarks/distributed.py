"""`train` under tf.distribute beside a loop by hand, and an estimate for many workers.

`python -m benchmarks.distributed` compares in one process of two devices, then in two processes,
which also tell the time that summing over workers takes.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import interleaved
from benchmarks.workloads import Batch, Workload, titled
from fluxkeras import train

REPEATS, STEPS, DEVICES = 9, 60, 2
WORKLOADS = "MLP 784-32-10, batch 32", "MLP 784-512-512-10, batch 128", "LeNet, batch 128"
SIZES = 1 << 10, 1 << 22  # bytes that are summed over workers, to tell latency from bandwidth
WORKERS = 8, 64, 512


def mirrored() -> tf.distribute.Strategy:
    [cpu] = tf.config.list_physical_devices("CPU")
    several = [tf.config.LogicalDeviceConfiguration()] * DEVICES
    tf.config.set_logical_device_configuration(cpu, several)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(DEVICES)])


def train_beside_hand(strategy: tf.distribute.Strategy) -> None:
    """Print the microseconds of a step, in the median of the rounds, and the median of ratios."""
    print(f"{type(strategy).__name__} of {strategy.num_replicas_in_sync} replicas")
    for title in WORKLOADS:
        workload = titled(title).of_steps(STEPS)
        x, y = workload.arrays()
        starts = range(0, len(x), workload.batch)
        data = [(x[i : i + workload.batch], y[i : i + workload.batch]) for i in starts]
        loops = {
            "fluxkeras": _ours(strategy, workload, data),
            "by hand": _by_hand(strategy, workload, x, y),
        }
        interleaved(loops, 5)  # the form that is the fastest is found meanwhile
        seconds = interleaved(loops, REPEATS)
        own, hand = (median(s) / STEPS * 1e6 for s in seconds.values())
        ratio = median(h / o for o, h in zip(*seconds.values(), strict=True))
        print(f"{title}: {own:,.0f} us a step, by hand {hand:,.0f}: {ratio:.2f} times as fast")


def _ours(strategy: tf.distribute.Strategy, workload: Workload, data: list[Batch]) -> Any:
    """`train` over a list of batches."""
    with strategy.scope():
        m, opt = workload.model(), keras.optimizers.Adam()

    def loss(x: Any, y: Any) -> Any:
        return workload.loss(m(x), y)

    return lambda: train(loss, data, opt, progress=False)


def _by_hand(strategy: tf.distribute.Strategy, workload: Workload, x: Any, y: Any) -> Any:
    """The loop of TensorFlow's guide to distributed training, over a dataset that it shares out."""
    with strategy.scope():
        m, opt = workload.model(), keras.optimizers.Adam()
        opt.build(m.trainable_variables)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(workload.batch).prefetch(2)
    distributed = strategy.experimental_distribute_dataset(dataset)

    def of_replica(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = workload.loss(m(x, training=True), y) / strategy.num_replicas_in_sync
        opt.apply(tape.gradient(loss, m.trainable_variables), m.trainable_variables)
        return loss

    @tf.function
    def step(x: Any, y: Any) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(of_replica, (x, y)), axis=None)

    return lambda: [float(step(x, y)) for x, y in distributed]


def sums_over_workers(strategy: tf.distribute.Strategy) -> None:
    """One of two workers: print the seconds that a sum takes, for each size."""
    seconds = []
    for size in SIZES:
        numbers = tf.zeros([size // 4])

        def of_replica(numbers: tf.Tensor) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(numbers))

        @tf.function
        def total(numbers: tf.Tensor, of_replica: Callable[..., Any] = of_replica) -> tf.Tensor:
            return strategy.run(of_replica, (numbers,))

        total(numbers)
        taken = []
        for _ in range(50):
            start = time.perf_counter()
            total(numbers).numpy()
            taken.append(time.perf_counter() - start)
        seconds.append(median(taken))
    print(json.dumps(seconds))


def efficiency(step: float, bytes: int, workers: int, latency: float, bandwidth: float) -> float:
    """The part of the time that goes into steps, where a ring of workers sums gradients.

    `step / (step + 2 * (workers - 1) * (latency + bytes / workers / bandwidth))`

    Args:
        step: seconds of a step of one worker.
        bytes: of the gradients.
        workers: how many there are.
        latency: seconds from one worker to the next.
        bandwidth: bytes a second from one worker to the next.
    """
    summing = 2 * (workers - 1) * (latency + bytes / workers / bandwidth)
    return step / (step + summing)


def two_workers() -> str:
    """What the first of two processes prints, which run this as workers."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    workers = []
    for rank in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": rank}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        command = [sys.executable, "-m", "benchmarks.distributed"]
        workers.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    first, _ = [worker.communicate()[0] for worker in workers]
    return first


def estimate(small: float, large: float) -> None:
    """Print the efficiency of many workers, by the seconds that two took for sums."""
    # Of two workers, a ring sends half of the bytes twice.
    latency, bandwidth = small / 2, SIZES[1] / (large - small)
    print(
        f"sum over 2 processes: {small * 1e3:.2f} ms for {SIZES[0]} B, {large * 1e3:.2f} ms for "
        f"{SIZES[1]} B: {latency * 1e3:.2f} ms and {bandwidth / 1e9:.2f} GB/s from one to the next"
    )
    networks = {"as here": (latency, bandwidth), "25 us, 12 GB/s": (25e-6, 12e9)}
    for network, (latency, bandwidth) in networks.items():
        for step, size in ((0.02, 4 << 20), (0.2, 100 << 20)):
            found = [f"{efficiency(step, size, n, latency, bandwidth):.2f}" for n in WORKERS]
            print(
                f"{network}, steps of {step * 1e3:.0f} ms, {size >> 20} MB of gradients: "
                f"{', '.join(found)} with {', '.join(map(str, WORKERS))} workers"
            )


def main() -> None:
    if "TF_CONFIG" in os.environ:
        workers = tf.distribute.MultiWorkerMirroredStrategy()
        train_beside_hand(workers)
        sums_over_workers(workers)
        return
    train_beside_hand(mirrored())
    *rows, seconds = two_workers().splitlines()
    print("\n".join(rows))
    estimate(*json.loads(seconds))


if __name__ == "__main__":
    main()
