"""Keras's callbacks in `train`: those of the table in the docs, each by what it is for."""

import csv
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    SGD,
    Adam,
    Chain,
    Dense,
    NonFiniteError,
    as_keras_callback,
    as_keras_loss,
    epochs,
    mse,
    stop,
    throttle,
    train,
)

TABLE = Path(__file__).parents[2] / "docs" / "keras_callbacks.md"


def rows():
    """Of the table, by the callback's name: whether it works."""
    found = re.findall(r"^\| `(\w+)` \| (\w+)", TABLE.read_text("utf-8"), re.MULTILINE)
    return {name: works for name, works in found}


def test_the_table_has_all_classes_of_keras_and_each_has_a_test():
    classes = {name for name, v in vars(keras.callbacks).items() if isinstance(v, type)}
    tested = {name for name, works in rows().items() if f"test_{name}" in globals()}

    assert classes <= rows().keys()
    assert tested == rows().keys()


class Problem:
    """A line to be learnt: y = 2x + 1."""

    def __init__(self, batches=4):
        keras.utils.set_random_seed(0)
        x = np.linspace(-1, 1, batches * 8, dtype=np.float32).reshape(batches, 8, 1)
        self.data = [(rows, 2 * rows + 1) for rows in x]
        self.m = Chain(Dense(1, 1))
        self.opt = SGD(0.1)

    def loss(self, x, y):
        error = self.m(x) - y
        return tf.reduce_mean(error**2), {"mae": tf.reduce_mean(abs(error))}

    def train(self, cb=None, data=None, **options):
        data = self.data if data is None else data
        return train(self.loss, data, self.opt, cb=cb, progress=False, **options)


@pytest.fixture
def problem():
    return Problem()


class Recorder(keras.callbacks.Callback):
    """Each hook of training, with the number that it is called with."""

    def __init__(self):
        super().__init__()
        self.calls, self.logs = [], {}

    def on_train_begin(self, logs=None):
        self.calls.append("train begin")

    def on_train_end(self, logs=None):
        self.calls.append("train end")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} begin")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} end")
        self.logs[epoch] = dict(logs)


class BatchRecorder(Recorder):
    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(f"{batch} begin")

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(f"{batch} end")
        self.logs[f"batch {batch}"] = dict(logs)


def test_Callback(problem):
    recorder = BatchRecorder()

    history = problem.train(recorder, problem.data[:2])

    assert recorder.calls == [
        "train begin", "epoch 0 begin", "0 begin", "0 end", "1 begin", "1 end",
        "epoch 0 end", "train end",
    ]  # fmt: skip
    assert recorder.logs["batch 1"] == {"loss": history.losses[1], "mae": history["mae"][1]}
    np.testing.assert_allclose(recorder.logs[0]["loss"], history.losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(recorder.logs[0]["mae"], history["mae"].mean(), rtol=1e-6)
    assert recorder.params == {"verbose": 1, "epochs": 1, "steps": 2}


def test_the_hooks_are_called_as_fit_calls_them():
    ours, theirs = BatchRecorder(), BatchRecorder()
    problem = Problem()

    for _ in epochs(2):
        problem.train(ours)

    x, y = (np.concatenate(part) for part in zip(*problem.data, strict=True))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[theirs])
    assert ours.calls == theirs.calls


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_epochs_are_told_in_any_form(problem, form):
    recorder = Recorder()

    for _ in epochs(2):
        first = problem.train(recorder, form=form, chunk=3)
        second = problem.train(recorder, form=form, chunk=3)

    assert recorder.calls == [
        "train begin", "epoch 0 begin", "epoch 0 end", "epoch 1 begin", "epoch 1 end", "train end",
    ]  # fmt: skip
    mean = np.mean([*first.losses, *second.losses])
    np.testing.assert_allclose(recorder.logs[1]["loss"], mean, rtol=1e-6)


def test_those_that_need_no_batches_do_not_hold_the_loop(problem, tmp_path):
    idle = [
        Recorder(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        throttle(lambda: None, 60),
    ]

    assert problem.train(idle, form="graph", chunk=4).timing.chunk == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda path: BatchRecorder(),
        lambda path: keras.callbacks.ModelCheckpoint(path / "m.keras", save_freq=2),
        lambda path: keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
    ],
)
def test_those_that_need_batches_are_asked_after_each(problem, tmp_path, make):
    assert problem.train([make(tmp_path)], form="graph", chunk=4).timing.form == "single"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("is_within_epochs", [False, True])
def test_training_that_is_left_is_ended(problem, kind, is_within_epochs):
    recorder = Recorder()

    def broken():
        yield problem.data[0]
        raise kind

    with pytest.raises(kind) as caught:
        if is_within_epochs:
            for _ in epochs(3):
                problem.train(recorder, broken())
        else:
            problem.train(recorder, broken())

    assert recorder.calls == ["train begin", "epoch 0 begin", "train end"]
    assert len(caught.value.history) == 1


def test_epochs_that_are_left_are_ended(problem):
    recorder = Recorder()

    for _ in epochs(3):
        problem.train(recorder)
        break

    assert recorder.calls == ["train begin", "epoch 0 begin", "epoch 0 end", "train end"]


def test_stop_ends_the_epoch_and_the_training(problem):
    recorder = Recorder()

    for _ in epochs(3):
        problem.train([recorder, lambda state: state.step == 1 and stop()])

    assert recorder.calls == ["train begin", "epoch 0 begin", "epoch 0 end", "train end"]


def test_a_callback_stops_training_within_an_epoch(problem):
    class Stopping(Recorder):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    stopping = Stopping()

    for _ in epochs(3):
        history = problem.train(stopping)

    assert (len(history), history.stopped) == (2, True)
    assert stopping.calls[-2:] == ["epoch 0 end", "train end"]
    assert not hasattr(problem.m, "stop_training") or not problem.m.stop_training


def test_the_model_is_the_one_that_is_given_or_referred_to(problem):
    recorder = Recorder()
    problem.train(recorder)
    assert isinstance(recorder.model, keras.Model)
    assert recorder.model.optimizer is problem.opt
    assert recorder.model.layers[0] is problem.m.layers[0]
    np.testing.assert_array_equal(recorder.model(np.ones((1, 1))), problem.m(np.ones((1, 1))))
    recorder.model.trainable = False
    assert not problem.m.trainable

    other = Problem()
    train(lambda m, x, y: mse(m(x), y), other.m, other.data, SGD(0.1), cb=recorder, progress=False)
    assert recorder.model.layers[0] is other.m.layers[0]


def test_a_model_that_is_not_there_is_asked_for():
    class Saving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_weights()

    a, b = Chain(Dense(1, 1)), Chain(Dense(1, 1))
    data = [np.ones((2, 1))]

    with pytest.raises(AttributeError, match=r"no Keras model, or to several.*train\(loss, model"):
        train(lambda x: mse(a(x), b(x)), data, SGD(0.1), cb=Saving(), progress=False)


def test_CSVLogger(problem, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")

    histories = []
    for _ in epochs(2):
        histories.append(problem.train([logger]))

    table = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in table] == ["0", "1"]
    for row, history in zip(table, histories, strict=True):
        np.testing.assert_allclose(float(row["loss"]), history.losses.mean(), rtol=1e-6)
        np.testing.assert_allclose(float(row["mae"]), history["mae"].mean(), rtol=1e-6)


def test_ModelCheckpoint(problem, tmp_path):
    by_batch = str(tmp_path / "{epoch}_{batch}.weights.h5")
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras")),
        keras.callbacks.ModelCheckpoint(by_batch, save_freq=3, save_weights_only=True),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "m.keras", "mae", save_best_only=True, mode="min"
        ),
    ]

    for _ in epochs(2):
        problem.train(callbacks)

    assert {path.name for path in tmp_path.iterdir()} == {
        "1.keras", "2.keras", "m.keras", "1_3.weights.h5", "2_2.weights.h5",
    }  # fmt: skip
    loaded = keras.saving.load_model(tmp_path / "2.keras")
    np.testing.assert_array_equal(loaded.get_weights()[0], problem.m.get_weights()[0])


def test_EarlyStopping(problem):
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    problem.train()
    seen = []

    for epoch in epochs(9):
        problem.opt.learning_rate = 0.1 if epoch < 3 else 1.5  # from there it diverges
        problem.train(stopping)
        seen.append([w.copy() for w in problem.m.get_weights()])

    assert len(seen) < 9
    best = seen[stopping.best_epoch]
    for weight, expected in zip(problem.m.get_weights(), best, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_EarlyStopping_restores_after_an_interrupt(problem):
    stopping = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)

    def interrupted():
        yield from problem.data
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for epoch in epochs(3):
            problem.train(stopping, problem.data if epoch == 1 else interrupted())
            best = problem.m.get_weights()

    for weight, expected in zip(problem.m.get_weights(), best, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_ReduceLROnPlateau(problem):
    reducing = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)

    for _ in epochs(3):
        history = problem.train(reducing, form="graph", chunk=2)

    np.testing.assert_allclose(problem.opt.learning_rate, 0.1 * 0.5**2, rtol=1e-6)
    assert history.timing.compiling < 0.5  # nothing anew


def test_LearningRateScheduler(problem, tmp_path):
    rates = []
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")

    for _ in epochs(3):
        problem.train([scheduler, lambda: rates.append(float(problem.opt.learning_rate)), logger])

    np.testing.assert_allclose(rates, np.repeat([0.1, 0.05, 0.1 / 3], 4), rtol=1e-6)
    assert "learning_rate" in (tmp_path / "log.csv").read_text().splitlines()[0]


def test_BackupAndRestore(tmp_path):
    backup = tmp_path / "backup"
    problem = Problem()
    keeping = keras.callbacks.BackupAndRestore(backup)
    with pytest.raises(RuntimeError):
        for epoch in epochs(3):
            problem.train(keeping)
            if epoch == 2:
                raise RuntimeError
    assert backup.exists()

    again = Problem()
    keeping = keras.callbacks.BackupAndRestore(backup)
    steps, weights = [], []
    for _ in epochs(3):
        steps.append(len(again.train(keeping)))
        weights.append(again.m.get_weights())

    assert steps == [0, 0, 4]
    np.testing.assert_array_equal(weights[1][0], problem.m.get_weights()[0])
    assert not backup.exists()


def test_TerminateOnNaN(problem):
    data = [problem.data[0], (np.full((8, 1), np.nan), np.ones((8, 1))), problem.data[1]]

    with pytest.warns(UserWarning, match="train stopped at batch 1"):
        for _ in epochs(3):
            history = problem.train(keras.callbacks.TerminateOnNaN(), data)

    assert (len(history), history.stopped) == (1, True)
    with pytest.raises(NonFiniteError):
        problem.train(Recorder(), data)


def test_LambdaCallback(problem):
    seen = []
    hooks = ["on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end",
             "on_epoch_end", "on_train_end"]  # fmt: skip

    def noting(name):
        return lambda *args: seen.append(name)

    callback = keras.callbacks.LambdaCallback(**{name: noting(name) for name in hooks})
    problem.train(callback, problem.data[:1])

    assert seen == hooks


def test_TensorBoard(problem, tmp_path):
    pytest.importorskip("tensorboard")
    by_epoch = keras.callbacks.TensorBoard(tmp_path / "epoch", histogram_freq=1)
    by_batch = keras.callbacks.TensorBoard(tmp_path / "batch", update_freq="batch")
    profiling = keras.callbacks.TensorBoard(tmp_path / "profile", profile_batch=2)
    chunks = {}

    for _ in epochs(2):
        chunks["epoch"] = problem.train(by_epoch, form="graph", chunk=4).timing.chunk
    chunks["batch"] = problem.train(by_batch, form="graph", chunk=4).timing.chunk
    chunks["profile"] = problem.train(profiling, form="graph", chunk=4).timing.chunk

    def tags(folder):
        found = set()
        for path in (tmp_path / folder / "train").iterdir():
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                found |= {value.tag for value in event.summary.value}
        return found

    assert chunks == {"epoch": 4, "batch": 1, "profile": 1}
    assert {"epoch_loss", "epoch_mae", "epoch_learning_rate"} <= tags("epoch")
    assert {"batch_loss", "batch_mae"} <= tags("batch")


def test_History(problem):
    kept = keras.callbacks.History()

    for _ in epochs(3):
        problem.train(kept)

    assert kept.epoch == [0, 1, 2]
    assert len(kept.history["loss"]) == len(kept.history["mae"]) == 3


def test_ProgbarLogger(problem, capsys):
    for _ in epochs(2):
        problem.train(keras.callbacks.ProgbarLogger())

    assert "4/4" in capsys.readouterr().out


def test_CallbackList(problem):
    recorder = Recorder()
    listed = keras.callbacks.CallbackList([recorder])

    history = problem.train(listed, form="graph", chunk=4)

    assert recorder.calls == ["train begin", "epoch 0 begin", "epoch 0 end", "train end"]
    assert history.timing.chunk == 4


def test_RemoteMonitor(problem):
    pytest.importorskip("requests")
    with pytest.warns(UserWarning, match="Could not reach RemoteMonitor"):
        problem.train(keras.callbacks.RemoteMonitor(root="http://localhost:9"))


def test_SwapEMAWeights(problem):
    def optimiser():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)

    problem.opt = optimiser()
    x, y = (np.concatenate(part) for part in zip(*problem.data, strict=True))
    theirs = keras.Sequential([keras.layers.Dense(1)])
    theirs.build((None, 1))
    theirs.set_weights(problem.m.get_weights())
    theirs.compile(optimiser(), "mse")
    swapping = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    theirs.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[swapping])

    ours = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    for _ in epochs(2):
        problem.train(ours)

    for weight, expected in zip(problem.m.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5)


def test_OrbaxCheckpoint(problem, tmp_path):
    if not hasattr(keras.callbacks, "OrbaxCheckpoint"):
        pytest.skip("an older Keras")
    pytest.importorskip("orbax.checkpoint")
    problem.m.compile(problem.opt)
    keeping = keras.callbacks.OrbaxCheckpoint(tmp_path, monitor="loss")

    for _ in epochs(2):
        timing = problem.train(keeping, form="graph", chunk=4).timing

    trained = problem.m.get_weights()
    problem.m.set_weights([np.zeros_like(w) for w in trained])
    problem.m.load_weights(tmp_path)
    for ours, theirs in zip(problem.m.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert timing.chunk == 4


@pytest.mark.parametrize("takes_state", [False, True])
def test_a_callback_of_train_in_fit(problem, takes_state):
    states = []
    f = states.append if takes_state else lambda: states.append(None)
    x, y = (np.concatenate(part) for part in zip(*problem.data, strict=True))
    problem.m.compile("sgd", loss=as_keras_loss(mse), metrics=["mae"])

    options = {"batch_size": 8, "epochs": 2, "verbose": 0}
    problem.m.fit(x, y, callbacks=[as_keras_callback(f)], **options)

    assert len(states) == 8
    if takes_state:
        assert [state.step for state in states] == list(range(8))
        assert states[0].aux.keys() == {"mae"} and states[0].model is problem.m


def test_stop_and_throttle_in_fit(problem):
    calls, late = [], []
    waiting = throttle(lambda: late.append(1), 60, leading=False)
    problem.m.compile("sgd", loss="mse")
    x, y = problem.data[0]

    def enough(state):
        calls.append(state.step)
        if state.step == 2:
            stop()

    callbacks = [as_keras_callback(enough), as_keras_callback(waiting)]
    problem.m.fit(x, y, batch_size=1, epochs=3, verbose=0, callbacks=callbacks)

    assert calls == [0, 1, 2]
    assert late == [1]


@pytest.mark.parametrize(
    ("f", "message"),
    [(3, "as_keras_callback expects a function, got 3"), (lambda a, b: 0, "takes no argument")],
)
def test_what_is_no_callback_is_refused(f, message):
    with pytest.raises(TypeError, match=message):
        as_keras_callback(f)


def test_several_optimisers_are_given_as_keras_gives_them():
    a, b = Chain(Dense(1, 1)), Chain(Dense(1, 1))
    both = [SGD(a.trainable_variables, 0.1), Adam(b.trainable_variables, 0.2)]
    recorder = Recorder()

    train(lambda x: mse(a(x), b(x)), [np.ones((2, 1))], both, cb=recorder, progress=False)

    assert recorder.model.optimizer.optimizers == both
