"""What is trained: models, losses, and data of each kind."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras import DataLoader, repeated

LENGTHS = np.linspace(5, 40, 12).astype(int)  # of sequences that differ from batch to batch
FEATURES = 16

Batch = tuple[np.ndarray, np.ndarray]


def mse(y_hat: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean((y_hat - y) ** 2)


def crossentropy(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, logits))


@dataclass(frozen=True)
class Workload:
    """A model and what it is trained with.

    Attributes:
        kind: "mlp", "lenet", "batchnorm", "lstm", or "ragged", which has batches of many lengths.
        sizes: of the layers of an MLP, or of an LSTM and its number of time steps.
        steps: how many one timed run takes.
    """

    kind: str
    name: str
    batch: int
    steps: int
    sizes: tuple[int, ...] = ()
    activation: str = "relu"
    loss: Callable[[Any, Any], tf.Tensor] = crossentropy

    @property
    def title(self) -> str:
        return f"{self.name}, batch {self.batch}"

    @property
    def is_ragged(self) -> bool:
        return self.kind == "ragged"

    def of_steps(self, steps: int) -> "Workload":
        return replace(self, steps=steps)

    def model(self) -> keras.Model:
        keras.utils.set_random_seed(0)
        return keras.Sequential(LAYERS[self.kind](self))

    def arrays(self) -> Batch:
        """All samples of a run."""
        rng = np.random.default_rng(0)
        samples = self.batch * self.steps
        if self.kind == "lstm":
            x = rng.random((samples, self.sizes[1], FEATURES), dtype="float32")
            return x, rng.random((samples, 1), dtype="float32")
        shape = self.sizes[:1] if self.kind == "mlp" else (28, 28, 1)
        y = np.eye(10, dtype="float32")[rng.integers(10, size=samples)]
        return rng.random((samples, *shape), dtype="float32"), y

    def ragged_batches(self) -> list[Batch]:
        rng = np.random.default_rng(0)
        times = itertools.islice(itertools.cycle(rng.permutation(LENGTHS)), self.steps)
        return [
            (
                rng.random((self.batch, time, FEATURES), dtype="float32"),
                rng.random((self.batch, 1), dtype="float32"),
            )
            for time in times
        ]


def _mlp(workload: Workload) -> list[Any]:
    first, *hidden, last = workload.sizes
    return [
        keras.Input((first,)),
        *(keras.layers.Dense(size, workload.activation) for size in hidden),
        keras.layers.Dense(last, "softmax" if workload.loss is mse else None),
    ]


def _lenet(workload: Workload) -> list[Any]:
    return [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(6, 5, activation="relu"),
        keras.layers.MaxPool2D(),
        keras.layers.Conv2D(16, 5, activation="relu"),
        keras.layers.MaxPool2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(120, "relu"),
        keras.layers.Dense(84, "relu"),
        keras.layers.Dense(10),
    ]


def _batchnorm(workload: Workload) -> list[Any]:
    return [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(8, 3, strides=2),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Conv2D(16, 3, strides=2),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]


def _lstm(workload: Workload) -> list[Any]:
    times = None if workload.is_ragged else workload.sizes[1]
    return [
        keras.Input((times, FEATURES)),
        keras.layers.LSTM(workload.sizes[0]),
        keras.layers.Dense(1),
    ]


LAYERS = {
    "mlp": _mlp,
    "lenet": _lenet,
    "batchnorm": _batchnorm,
    "lstm": _lstm,
    "ragged": _lstm,
}

SMALL, LARGE = (784, 32, 10), (784, 512, 512, 10)
WORKLOADS = [
    Workload("mlp", "MLP 784-32-10", 1, 2000, SMALL, "sigmoid", mse),
    Workload("mlp", "MLP 784-32-10", 32, 400, SMALL, "sigmoid", mse),
    Workload("mlp", "MLP 784-32-10", 512, 100, SMALL, "sigmoid", mse),
    Workload("mlp", "MLP 784-512-512-10", 32, 100, LARGE),
    Workload("mlp", "MLP 784-512-512-10", 128, 50, LARGE),
    Workload("lenet", "LeNet", 32, 60),
    Workload("lenet", "LeNet", 128, 30),
    Workload("lstm", "LSTM(128), 50 steps", 32, 20, (128, 50), loss=mse),
    Workload("ragged", "LSTM(32), 12 lengths", 16, 96, (32,), loss=mse),
]
BATCHNORM = Workload("batchnorm", "Conv net, BatchNormalization", 32, 60)


def titled(title: str) -> Workload:
    return next(workload for workload in WORKLOADS if workload.title == title)


@dataclass(frozen=True)
class Data:
    """The same samples in the form that each loop wants.

    Attributes:
        kind: what a user of `train` has.
        given: what `train` is given.
        batches: makes what the loop written by hand goes through.
        for_fit: the arguments of `fit`, in the fastest form that it takes for this kind.
        source: data of one source are the same to `fit`.
    """

    kind: str
    given: Any
    batches: Callable[[], Iterable[Any]]
    for_fit: dict[str, Any]
    source: str

    def in_numpy(self) -> Iterable[Any]:
        """The batches for a loop that knows nothing of TensorFlow."""
        batches = self.batches()
        return batches.as_numpy_iterator() if isinstance(batches, tf.data.Dataset) else batches


KINDS = ("list", "DataLoader", "tf.data", "repeated")


def kinds_of(workload: Workload) -> tuple[str, ...]:
    return ("list", "tf.data") if workload.is_ragged else KINDS


def data_of(workload: Workload, kind: str) -> Data:
    if workload.is_ragged:
        return _ragged(workload, kind)
    x, y = workload.arrays()
    size = workload.batch

    def slices() -> Iterable[Batch]:
        return ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size))

    for_fit = {"x": x, "y": y, "batch_size": size, "shuffle": False}
    match kind:
        case "list":
            batches = [(x.copy(), y.copy()) for x, y in slices()]
            return Data(kind, batches, lambda: batches, for_fit, "arrays")
        case "DataLoader":
            return Data(kind, DataLoader((x, y), size), slices, for_fit, "arrays")
        case "tf.data":
            dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(size)
            return Data(kind, dataset, lambda: dataset, {"x": dataset}, "dataset")
        case _:
            batch, n = next(iter(slices())), workload.steps
            x[:], y[:] = (np.tile(part, (n, *[1] * (part.ndim - 1))) for part in batch)
            return Data(
                kind, repeated(batch, n), lambda: itertools.repeat(batch, n), for_fit, "arrays"
            )


def _ragged(workload: Workload, kind: str) -> Data:
    batches = workload.ragged_batches()
    spec = (
        tf.TensorSpec((workload.batch, None, FEATURES)),
        tf.TensorSpec((workload.batch, 1)),
    )
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    given = batches if kind == "list" else dataset
    return Data(kind, given, lambda: given, {"x": dataset}, "dataset")
