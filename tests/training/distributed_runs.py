"""Runs on several devices and in several processes, which the tests start: results go to a file.

python distributed_runs.py replicas OUT          # one process, of four devices
python distributed_runs.py worker OUT RANK HOSTS CASES
"""

import json
import os
import sys

WORKERS = 2
STEPS, BATCH, SAMPLES = 100, 33, 133  # of the last batch of an epoch one sample is left


def start_worker(rank, hosts):
    cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": int(rank)}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def start_devices(n):
    import tensorflow as tf

    if n == 1:
        return tf.distribute.get_strategy()
    [cpu] = tf.config.list_physical_devices("CPU")
    several = [tf.config.LogicalDeviceConfiguration()] * n
    tf.config.set_logical_device_configuration(cpu, several)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(n)])


def models():
    import keras

    layers = keras.layers
    return {
        "MLP": lambda: [layers.Dense(32, activation="tanh"), layers.Dense(3)],
        "conv": lambda: [
            layers.Reshape((4, 4, 1)),
            # Its bias would train on rounding errors, since the next layer takes it away.
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(synchronized=True),
            layers.Activation("relu"),
            layers.Flatten(),
            layers.Dense(3),
        ],
        "Dropout": lambda: [layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5),
                            layers.Dense(3)],
    }  # fmt: skip


def optimisers():
    import keras

    from fluxkeras import Adam, AdamW, ClipNorm, OptimiserChain

    return {
        "SGD": lambda: keras.optimizers.SGD(0.02, momentum=0.5),
        "clipped and accumulated": lambda: keras.optimizers.Adam(
            0.003, global_clipnorm=0.05, gradient_accumulation_steps=2
        ),
        "chain": lambda: OptimiserChain(ClipNorm(0.05), Adam(0.003)),
        "AdamW": lambda: AdamW(0.003),
    }


CASES = [("conv", "clipped and accumulated"), ("MLP", "SGD"), ("MLP", "chain"), ("conv", "AdamW")]


class Run:
    """A model, its optimiser and data, made in the scope of a strategy."""

    def __init__(self, strategy, model="MLP", optimiser="SGD"):
        import keras
        import numpy as np

        from fluxkeras import DataLoader, mae, mse

        keras.utils.set_random_seed(1)
        with strategy.scope():
            self.m = keras.Sequential([keras.Input((16,)), *models()[model]()])
            self.opt = optimisers()[optimiser]()
        rng = np.random.default_rng(0)
        self.x, self.y = (rng.normal(size=(SAMPLES, n)).astype("float32") for n in (16, 3))
        self.loader = DataLoader((self.x, self.y), BATCH, shuffle=True, seed=2)
        self.loss = lambda x, y: (mse(self.m(x), y), {"mae": mae(self.m(x), y)})

    def train(self, steps=STEPS, data=None, **options):
        """Epoch after epoch, up to so many steps."""
        from fluxkeras import train

        histories = []
        while sum(map(len, histories)) < steps:
            data_now = self.loader if data is None else data()
            histories.append(train(self.loss, data_now, self.opt, progress=False, **options))
        return histories

    def results(self, histories):
        import numpy as np

        return {
            "losses": np.concatenate([h.losses for h in histories]),
            "mae": np.concatenate([h["mae"] for h in histories]),
            **{f"weight {i}": np.asarray(v.numpy()) for i, v in enumerate(self.m.variables)},
        }


def save(out, results):
    import numpy as np

    flat = {f"{case}/{name}": a for case, found in results.items() for name, a in found.items()}
    np.savez(out, **flat)


def replicas(out, n, cases):
    strategy, results = start_devices(int(n)), {}
    for model, optimiser in CASES[: int(cases)]:
        for form in ("single", "graph"):
            run = Run(strategy, model, optimiser)
            results[f"{model} {optimiser} {form}"] = run.results(run.train(form=form))
    if int(cases) == len(CASES) and int(n) > 1:
        results["Dropout"] = copies(strategy)
        results["metric"] = metric(strategy)
    save(out, results)


def central(out):
    import tensorflow as tf

    start_devices(2)
    devices = ["CPU:0", "CPU:1"]
    run = Run(tf.distribute.experimental.CentralStorageStrategy(devices, devices[0]), *CASES[1])
    save(out, {"central": run.results(run.train())})


def metric(strategy):
    """What a metric of Keras's comes to in `evaluate`, which runs on one device."""
    import keras
    import numpy as np

    from fluxkeras import DataLoader, evaluate, mse

    run = Run(strategy)
    _, means = evaluate(
        lambda x, y: (mse(run.m(x), y), {"mae": (y, run.m(x))}),
        DataLoader((run.x, run.y), BATCH),
        metrics={"mae": keras.metrics.MeanAbsoluteError()},
    )
    expected = np.mean(np.abs(run.m(run.x).numpy() - run.y))
    return {"found": np.array(means["mae"]), "expected": expected}


def copies(strategy):
    """What each replica has of the parameters of a model that does something of its own in each."""
    run = Run(strategy, "Dropout", "SGD")
    losses = run.results(run.train())["losses"]
    own = [strategy.experimental_local_results(v.value) for v in run.m.trainable_variables]
    return {"losses": losses} | {
        f"{i} {j}": copy.numpy() for i, found in enumerate(own) for j, copy in enumerate(found)
    }


def worker(out, rank, hosts, cases):
    strategy, results = start_worker(rank, hosts.split(",")), {}
    for model, optimiser in CASES[: int(cases)]:
        run = Run(strategy, model, optimiser)
        results[f"{model} {optimiser}"] = run.results(run.train())
    if int(cases) == len(CASES):
        results |= other_data(strategy, int(rank))
        results |= stops(strategy)
    save(out, results)


def other_data(strategy, rank):
    """The same batches, as other data has them."""
    import tensorflow as tf

    from fluxkeras import DataLoader, prefetch, repeated

    results = {}
    run = Run(strategy)
    x, y = run.x, run.y
    kinds = {
        "list": lambda: list(DataLoader((x, y), BATCH)),
        "generator": lambda: iter(list(DataLoader((x, y), BATCH))),
        "prefetch": lambda: prefetch(DataLoader((x, y), BATCH), 2),
        "tf.data": lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH),
        "shard": lambda: DataLoader((x, y), BATCH, shard=(rank, WORKERS)),
        "repeated": lambda: repeated((x[:BATCH], y[:BATCH]), 5),
    }
    for name, data in kinds.items():
        run = Run(strategy)
        results[name] = run.results(run.train(10, data))
    return results


def stops(strategy):
    """Who calls callbacks, and that all stop where the chief does."""
    import keras
    import numpy as np

    from fluxkeras import epochs, stop, throttle, train

    seen = []

    def cb(state):
        seen.append(state.step)
        if len(seen) == 7:
            stop()

    # It is told of epochs on the chief alone, and stops where they end.
    stopping = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9, start_from_epoch=1)
    results = {}
    for name, callback in ("plain", cb), ("throttled", throttle(cb, 0)), ("Keras's", stopping):
        seen.clear()
        run = Run(strategy)
        lengths = [
            len(train(run.loss, run.loader, run.opt, cb=callback, progress=False))
            for _ in epochs(9)
        ]
        results[name] = {"lengths": np.array(lengths), "seen": np.array(seen)}
    return results


def kept(out, rank, hosts, path):
    from fluxkeras import Checkpoint

    run = Run(start_worker(rank, hosts.split(",")), *CASES[0])
    print("begins", flush=True)
    histories = run.train(2000, checkpoint=Checkpoint(path, steps=3))
    save(out, {"kept": run.results(histories)})


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands = {"replicas": replicas, "central": central, "worker": worker, "kept": kept}
    commands[command](*arguments)
