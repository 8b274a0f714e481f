import contextlib
import os
import re
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from checkpoint_runs import BATCHES, DATA, BrokenOff, Run, X, Y

from fluxkeras import (
    ADAM,
    Adam,
    Chain,
    Checkpoint,
    CheckpointError,
    DataLoader,
    Dense,
    Momentum,
    NonFiniteError,
    early_stopping,
    epochs,
    logitbinarycrossentropy,
    mse,
    param,
    params,
    repeated,
    save,
    stop,
    throttle,
    train,
)
from fluxkeras.training import checkpoint as module
from fluxkeras.training.records import read

FORMS = ["single", "graph", "xla"]


def assert_same(found, expected):
    for a, b in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def broken_off(after, **options):
    with pytest.raises(BrokenOff):
        Run(**options).epochs(break_off_after=after)


# --- A run that was broken off becomes the one that was not ---------------------------------------


QUICK = [*((f, "DataLoader") for f in FORMS), *(("single", data) for data in DATA)]


@pytest.mark.parametrize(
    ("form", "data"),
    [
        pytest.param(form, data, marks=[] if (form, data) in QUICK else pytest.mark.slow)
        for form in FORMS
        for data in DATA
    ],
)
def test_a_run_goes_on_at_the_exact_batch(form, data, tmp_path):
    whole = Run(data, form=form)
    histories = whole.epochs()

    for after in (2, 4):
        path = tmp_path / f"{after}.ckpt"
        broken_off(after, data=data, path=path, form=form)
        again = Run(data, path, form)
        found = again.epochs()

        assert_same(again, whole)
        for one, other in zip(found, histories, strict=True):
            np.testing.assert_array_equal(one.losses, other.losses)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_may_be_broken_off_again_and_again(form, tmp_path):
    whole = Run("DataLoader", form=form)
    whole.epochs()
    options = {"data": "DataLoader", "path": tmp_path / "a.ckpt", "form": form}

    for _ in range(4):
        broken_off(1, **options)
    again = Run(**options)
    again.epochs()

    assert_same(again, whole)


def test_it_says_where_it_goes_on(tmp_path, capsys):
    broken_off(5, data="generator", path=tmp_path / "a.ckpt", form="single")
    capsys.readouterr()
    Run("generator", tmp_path / "a.ckpt", "single").epochs()

    assert capsys.readouterr().out == (
        "INFO: a.ckpt: training goes on at batch 6, after those before it were read again and left "
        "out\n"
    )


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    first = Run(path=tmp_path / "a.ckpt")
    histories = first.epochs()
    again = Run(path=tmp_path / "a.ckpt")
    found = again.epochs()

    assert_same(again, first)
    assert capsys.readouterr().out == "INFO: a.ckpt: this call of train was finished before\n" * 3
    for one, other in zip(found, histories, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)
    longer = again.epochs(2)
    assert [len(history) for history in longer] == [7, 7]
    assert int(again.opt.iterations) == 5 * 7


def test_a_checkpoint_may_be_made_anew_for_each_call(tmp_path):
    def run(n):
        m = Chain(Dense(4, 2, init="ones"))
        opt = ADAM(0.01)
        loss = lambda x, y: mse(m(x), y)  # noqa: E731
        lengths = [
            len(train(loss, BATCHES, opt, checkpoint=Checkpoint(tmp_path / "a"), progress=False))
            for _ in range(n)
        ]
        return lengths, int(opt.iterations)

    assert run(2) == ([7, 7], 14)
    assert run(3) == ([7, 7, 7], 21)


def test_what_was_interrupted_goes_on_in_the_same_process(tmp_path):
    whole, run = Run(), Run(path=tmp_path / "a.ckpt")
    whole.epochs()
    with pytest.raises(BrokenOff):
        run.epochs(break_off_after=4)
    run.epochs(2)  # the one that was broken off, and the last

    assert_same(run, whole)


def test_a_range_goes_on_at_the_exact_number(tmp_path):
    def run(path, fail_at=None):
        w = param(0.0)

        def cb(state):
            if state.step == fail_at:
                raise BrokenOff

        train(
            lambda i: (w - tf.cast(i, "float32")) ** 2, range(9), ADAM(0.1), cb=cb,
            checkpoint=Checkpoint(path), form="graph", progress=False,
        )  # fmt: skip
        return float(w)

    with pytest.raises(BrokenOff):
        run(tmp_path / "a", fail_at=5)
    assert run(tmp_path / "a") == run(tmp_path / "b")


class Watcher(keras.callbacks.Callback):
    """A callback as users write them, with a list and a count of its own."""

    def __init__(self, limit=3):
        super().__init__()
        self.limit, self.batches, self.means = limit, 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.means.append(logs["loss"])


class KerasRun(Run):
    """Epochs with Keras's callbacks, two calls of `train` each, which improve only at first."""

    def __init__(self, path=None, data="DataLoader"):
        super().__init__(data, path, "single")
        self.watcher = Watcher()
        self.callbacks = [
            keras.callbacks.EarlyStopping("loss", patience=3, min_delta=0.2),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=0.2),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            keras.callbacks.History(),
            self.watcher,
        ]

    def train(self, fail_at=None):
        """Up to nine epochs, if no error comes after so many steps."""
        done = 0

        def fail():
            nonlocal done
            done += 1
            if done == fail_at:
                raise BrokenOff

        for _ in epochs(9):
            for _ in range(2):
                train(self.loss, self.data(), self.opt, cb=[*self.callbacks, fail], **self.options)

    def seen(self):
        stopping, reducing, _, history, watcher = self.callbacks[:5]
        return [
            *(stopping.best, stopping.wait, stopping.best_epoch, stopping.stopped_epoch),
            *(reducing.best, reducing.wait, float(self.opt.learning_rate)),
            *(history.history["loss"], history.epoch, watcher.batches, watcher.means),
        ]


class Interrupted(KerasRun):
    """One that a signal reaches within a step."""

    def __init__(self, path=None, at=0):
        super().__init__(path)
        plain, steps = self.loss, tf.Variable(0, trainable=False)

        def loss(x, y):
            steps.assign_add(1)
            number = tf.where(steps == at, signal.SIGINT, 0)  # the signal 0 does nothing
            tf.py_function(lambda n: os.kill(os.getpid(), int(n)), [number], [])
            return plain(x, y), {"step": steps}

        self.loss = loss
        self.seen_by_function = []
        self.callbacks.append(throttle(self.see, 0))

    def see(self, state):
        self.seen_by_function.append((state.step, state.loss, int(state.aux["step"])))

    def seen(self):
        return self.seen_by_function


@pytest.mark.parametrize("at", [1, 10, 14])
def test_callbacks_are_told_of_the_step_in_which_a_signal_came(at, tmp_path):
    whole = Interrupted()
    whole.train()
    run, again = Interrupted(tmp_path / "a.ckpt", at), Interrupted(tmp_path / "a.ckpt", at)
    with pytest.raises(KeyboardInterrupt) as raised:
        run.train()
    again.train()

    assert len(raised.value.history) == (at - 1) % 7 + 1
    assert run.watcher.batches == len(run.seen()) == at - 1
    assert run.seen() + again.seen() == whole.seen()
    assert again.watcher.batches == whole.watcher.batches
    assert again.watcher.means == whole.watcher.means
    assert_same(again, whole)


@pytest.mark.parametrize("fail_at", [3, 7, 10, 14, 15, 40, 45])
def test_the_callbacks_of_keras_go_on(fail_at, tmp_path):
    whole = KerasRun()
    whole.train()
    assert 3 < len(whole.watcher.means) < 9

    with pytest.raises(BrokenOff):
        KerasRun(tmp_path / "a.ckpt").train(fail_at)
    again = KerasRun(tmp_path / "a.ckpt")
    again.train()

    assert_same(again, whole)
    assert again.seen() == whole.seen()


def test_the_file_of_a_logger_goes_on(tmp_path):
    def run(name, fail_at=None):
        run = KerasRun(tmp_path / f"{name}.ckpt")
        run.callbacks.append(keras.callbacks.CSVLogger(str(tmp_path / name), append=True))
        run.train(fail_at)

    run("whole")
    with pytest.raises(BrokenOff):
        run("broken", 40)
    run("broken")

    assert (tmp_path / "broken").read_text() == (tmp_path / "whole").read_text()


def test_the_options_of_a_callback_are_those_of_the_program(tmp_path):
    with pytest.raises(BrokenOff):
        KerasRun(tmp_path / "a.ckpt").train(20)
    again = KerasRun(tmp_path / "a.ckpt")
    again.callbacks[0].patience = 1
    again.watcher.limit = 7
    again.train()

    assert (again.callbacks[0].patience, again.watcher.limit) == (1, 7)
    assert again.callbacks[0].wait == 1


def test_another_number_of_callbacks_is_refused(tmp_path):
    with pytest.raises(BrokenOff):
        KerasRun(tmp_path / "a.ckpt").train(3)
    again = KerasRun(tmp_path / "a.ckpt")
    del again.callbacks[0]
    before = again.values()

    with pytest.raises(CheckpointError, match="6 callbacks, and cb has or refers to 5"):
        again.train()

    assert again.watcher.means == []
    for value, expected in zip(again.values(), before, strict=False):
        np.testing.assert_array_equal(value, expected)


def test_a_callback_of_keras_may_say_itself_what_is_kept(tmp_path):
    class Own(keras.callbacks.Callback):
        said = None

        def state(self):
            return {"my": "state"}

        def load_state(self, state):
            self.said = state

    for fail_at in 3, None:
        run = KerasRun(tmp_path / "a.ckpt")
        run.callbacks.append(own := Own())
        with contextlib.suppress(BrokenOff):
            run.train(fail_at)

    assert own.said == {"my": "state"}


def test_what_finished_calls_hold_is_not_encoded_again(tmp_path, monkeypatch):
    serialised = []
    serialise = tf.io.serialize_tensor
    monkeypatch.setattr(tf.io, "serialize_tensor", lambda t: serialised.append(t) or serialise(t))
    run, counts = Run(path=tmp_path / "a.ckpt"), []

    for _ in range(6):
        run.epochs(1)
        counts.append(len(serialised))

    assert len(set(np.diff(counts)[1:])) == 1


def test_two_objectives_with_an_optimiser_each(tmp_path):
    def run(path=None, fail_at=None):
        keras.utils.set_random_seed(2)
        a, b = Chain(Dense(2, 3, "tanh"), Dense(3, 1)), Chain(Dense(1, 2, "tanh"), Dense(2, 2))
        opts = [Adam(params(a), 0.05), Momentum(params(b), 0.05)]
        x = np.random.rand(5, 2)
        losses = [
            lambda: logitbinarycrossentropy(a(b(a(x))), 1.0),
            lambda: mse(b(a(x)), x),
        ]
        kept = Checkpoint(path) if path else None
        for i in range(6):
            if i == fail_at:
                raise BrokenOff
            data = repeated((), 3)
            train(losses[i % 2], data, opts[i % 2], checkpoint=kept, form="graph", progress=False)
        return [np.array(v) for part in (a, b, *opts) for v in part.variables]

    expected = run()
    for fail_at in (1, 3, 4):
        path = tmp_path / f"{fail_at}.ckpt"
        with pytest.raises(BrokenOff):
            run(path, fail_at)
        for found, value in zip(run(path), expected, strict=True):
            np.testing.assert_array_equal(found, value)


def test_plain_variables_of_tensorflow(tmp_path):
    def run(n, path):
        w = tf.Variable([1.0, 2.0])
        steps = tf.Variable(0)

        def loss(x):
            steps.assign_add(1)
            return tf.reduce_sum((w * x) ** 2)

        data = [(1.0,)] * n + [("broken",)] * (5 - n)
        train(loss, data, Momentum(0.1), checkpoint=Checkpoint(path), progress=False)
        return w.numpy(), int(steps)

    with pytest.raises(Exception, match="batch 3"):
        run(3, tmp_path / "a")
    found, expected = run(5, tmp_path / "a"), run(5, tmp_path / "b")
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1] == 5


def test_a_variable_that_batches_of_another_shape_alone_use(tmp_path):
    data = [np.ones((2, 3)), np.ones(3)] * 3

    def run(path, fail_at=None):
        w, times = param(1.0), tf.Variable(0, trainable=False)

        def loss(x):
            if len(x.shape) == 1:
                times.assign_add(1)
            return tf.reduce_sum(w * x)

        def cb(state):
            if state.step == fail_at:
                raise BrokenOff

        train(loss, data, ADAM(), cb=cb, checkpoint=Checkpoint(path), progress=False)
        return int(times)

    for fail_at in (1, 2, 4):
        with pytest.raises(BrokenOff):
            run(tmp_path / str(fail_at), fail_at)
        assert run(tmp_path / str(fail_at)) == 3


# --- What is kept besides -------------------------------------------------------------------------


def validated(path, scores, at_most=100):
    """Training that stops after three scores that are no better: how many steps it makes."""
    m = Chain(Dense(4, 2))
    given = iter(scores)
    enough = early_stopping(lambda: next(given), 3)
    seen = []

    def cb():
        seen.append(None)
        if len(seen) > at_most:
            raise BrokenOff
        if enough():
            stop()

    return train(
        lambda x, y: mse(m(x), y), repeated(BATCHES[0], 50), ADAM(),
        cb=cb, checkpoint=Checkpoint(path), progress=False,
    )  # fmt: skip


def test_early_stopping_remembers_its_best_score_and_its_patience(tmp_path):
    scores = [5.0, 1.0, 3.0, 2.0, 4.0, 0.5, 0.4]
    with pytest.raises(BrokenOff):
        validated(tmp_path / "a", scores, at_most=4)

    # The fifth callback did not come to its end, so that its score was never seen.
    history = validated(tmp_path / "a", scores[4:])
    assert history.stopped and len(history) == 6


def test_a_stopped_run_stays_stopped(tmp_path):
    def run():
        m = Chain(Dense(4, 2, init="ones"))
        kept, opt = Checkpoint(tmp_path / "a"), ADAM()
        loss = lambda x, y: mse(m(x), y)  # noqa: E731
        return [
            train(loss, BATCHES, opt, cb=lambda state: state.step == 3 and stop(), checkpoint=kept,
                  progress=False) for _ in epochs(5)
        ]  # fmt: skip

    assert [len(history) for history in run()] == [4]
    again = run()
    assert [len(history) for history in again] == [4] and again[0].stopped


class Counter:
    """A callback of the user's that keeps something."""

    def __init__(self):
        self.seen = []

    def __call__(self, state):
        self.seen.append(state.step)

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]


def test_callbacks_of_the_user_are_kept_and_steps_are_counted_on(tmp_path):
    def run(data):
        m, counter = Chain(Dense(4, 2)), Counter()
        kept = Checkpoint(tmp_path / "a")
        loss = lambda x, y: mse(m(x), y)  # noqa: E731
        train(loss, data, ADAM(), cb=[counter], checkpoint=kept, progress=False)
        return counter.seen

    with pytest.raises(Exception, match="batch 3"):
        run([*BATCHES[:3], (0.0,)])
    assert run(BATCHES) == list(range(7))


def test_a_state_that_a_callback_refuses_leaves_the_file(tmp_path):
    def run(data, counter):
        m = Chain(Dense(4, 2))
        kept = Checkpoint(tmp_path / "a")
        loss = lambda x, y: mse(m(x), y)  # noqa: E731
        train(loss, data, ADAM(), cb=counter, checkpoint=kept, progress=False)

    class Refusing(Counter):
        def load_state(self, state):
            raise OverflowError("my own words")

    with pytest.raises(Exception, match="batch 3"):
        run([*BATCHES[:3], (0.0,)], Counter())
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(OverflowError, match="my own words"):
        run(BATCHES, Refusing())

    assert (tmp_path / "a").read_bytes() == before


def test_the_history_goes_on_with_all_its_values(tmp_path):
    def run(data):
        m = Chain(Dense(4, 2, init="ones"))

        def loss(x, y):
            value = mse(m(x), y)
            return value, {"root": tf.sqrt(value), "parts": (x[:2, 0], None)}

        kept = Checkpoint(tmp_path / "a")
        return train(loss, data, ADAM(), checkpoint=kept, progress=False)

    with pytest.raises(Exception, match="batch 3") as raised:
        run([*BATCHES[:3], (0.0,)])
    assert len(raised.value.history) == 3
    history = run(BATCHES)

    np.testing.assert_allclose(history["root"], np.sqrt(history.losses), rtol=1e-6)
    expected = np.stack([x[:2, 0] for x, _ in BATCHES])
    np.testing.assert_array_equal(history["parts"][0], expected)


def test_a_loss_that_is_not_finite_leaves_the_batch_before_in_the_file(tmp_path):
    def run(data, path=tmp_path / "a"):
        m = Chain(Dense(4, 2, init="ones"))
        loss = lambda x, y: mse(m(x), y)  # noqa: E731
        history = train(loss, data, ADAM(), checkpoint=Checkpoint(path), progress=False)
        return history.losses

    bad = [*BATCHES[:4], (BATCHES[0][0] * np.nan, BATCHES[0][1])]
    with pytest.raises(NonFiniteError, match="batch 4"):
        run(bad)
    np.testing.assert_array_equal(run(BATCHES), run(BATCHES, tmp_path / "b"))


# --- When it saves --------------------------------------------------------------------------------


def steps_in(path):
    return len(read(path)["history"]["losses"])


@pytest.mark.parametrize("form", FORMS)
def test_steps_are_exact_in_every_form(form, tmp_path):
    path, seen = tmp_path / "a", []
    m = Chain(Dense(4, 2))
    train(
        lambda x, y: mse(m(x), y), repeated(BATCHES[0], 20), ADAM(), form=form, chunk=8,
        cb=throttle(lambda: seen.append(steps_in(path) if path.exists() else 0), 0),
        checkpoint=Checkpoint(path, steps=6), progress=False,
    )  # fmt: skip

    assert sorted(set(seen)) == [0, 6, 12, 18]  # a callback comes before the save of its step
    assert steps_in(path) == 20


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_seconds_go_by_between_saves(tmp_path, monkeypatch):
    clock, saved = Clock(), []
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "write", lambda path, tree: saved.append(clock.now))
    m = Chain(Dense(4, 2))

    def cb():
        clock.now += 4.0

    train(
        lambda x, y: mse(m(x), y), repeated(BATCHES[0], 10), ADAM(), cb=cb,
        checkpoint=Checkpoint(tmp_path / "a", every=10), progress=False,
    )  # fmt: skip

    assert saved == [12.0, 24.0, 36.0, 40.0]  # the last at the end


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    clock, saved = Clock(), []
    monkeypatch.setattr(module, "time", clock)

    def write(path, tree):
        clock.now += 1.0
        saved.append(clock.now)

    monkeypatch.setattr(module, "write", write)
    m = Chain(Dense(4, 2))

    def cb():
        clock.now += 0.5

    train(
        lambda x, y: mse(m(x), y), repeated(BATCHES[0], 200), ADAM(), cb=cb,
        checkpoint=Checkpoint(tmp_path / "a", every=0.1), progress=False,
    )  # fmt: skip

    assert np.diff(saved[:-1]).tolist() == [21.0] * (len(saved) - 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to Linux's /dev/full")
def test_a_full_disk_does_not_end_training(tmp_path):
    m = Chain(Dense(4, 2))
    full = tmp_path / "a.new"
    full.symlink_to("/dev/full")
    kept, lengths = Checkpoint(tmp_path / "a", steps=4), []
    with pytest.warns(UserWarning, match="a could not be written, .*No space left") as warned:
        for _ in range(2):
            loss, opt = lambda x, y: mse(m(x), y), ADAM()
            lengths.append(len(train(loss, BATCHES, opt, checkpoint=kept, progress=False)))

    assert lengths == [7, 7]
    assert len(warned) == 4  # at step 4 and at the end, twice
    assert not (tmp_path / "a").exists()
    full.unlink()
    train(loss, BATCHES, opt, checkpoint=kept, progress=False)
    saved = read(tmp_path / "a")
    assert [len(h["losses"]) for h in [*saved["histories"], saved["history"]]] == [7, 7, 7]


def test_a_save_that_fails_counts_as_one_that_took_time(tmp_path, monkeypatch):
    clock, tried = Clock(), []
    monkeypatch.setattr(module, "time", clock)

    def write(path, tree):
        tried.append(clock.now)
        clock.now += 1.0
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "write", write)
    m = Chain(Dense(4, 2))

    def cb():
        clock.now += 1.0

    with pytest.warns(UserWarning, match="a could not be written"):
        train(
            lambda x, y: mse(m(x), y), repeated(BATCHES[0], 100), ADAM(), cb=cb,
            checkpoint=Checkpoint(tmp_path / "a", every=0.1), progress=False,
        )  # fmt: skip

    assert set(np.diff(tried[:-1])) == {21.0}


def test_where_nothing_can_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").touch()
    m = Chain(Dense(4, 2))
    before = m.get_weights()
    with pytest.raises(OSError, match="file"):
        train(
            lambda x, y: mse(m(x), y), BATCHES, ADAM(), progress=False,
            checkpoint=Checkpoint(tmp_path / "file" / "a"),
        )  # fmt: skip

    for weights, expected in zip(m.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, expected)


# --- What does not fit is refused -----------------------------------------------------------------


def refused(path, model, data=BATCHES, opt=None, match="", kept=None):
    before, kept = model.get_weights(), kept or Checkpoint(path)
    with pytest.raises(CheckpointError, match=match):
        train(lambda x, y: mse(model(x), y), data, opt or ADAM(), checkpoint=kept, progress=False)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.fixture
def kept(tmp_path):
    """The file of a run of a Chain(Dense(4, 2)) and ADAM, broken off after 4 batches."""
    m, path = Chain(Dense(4, 2)), tmp_path / "a.ckpt"
    with pytest.raises(Exception, match="batch 4"):
        train(
            lambda x, y: mse(m(x), y), [*BATCHES[:4], (0.0,)], ADAM(), checkpoint=Checkpoint(path),
            progress=False,
        )  # fmt: skip
    return path


def test_another_model(kept):
    expected = (
        "a.ckpt: a variable 'kernel' of float32 (4, 3) was expected, and the file has 'kernel' of "
        "float32 (4, 2). Is the model the one that it was written of? Nothing was changed."
    )
    refused(kept, Chain(Dense(4, 3), Dense(3, 2)), match=re.escape(expected))


def test_another_optimiser(kept):
    refused(kept, Chain(Dense(4, 2)), opt=Momentum(0.1), match="was expected, and the file has")


@pytest.mark.parametrize("rules", [(keras.optimizers.SGD, Adam), (Adam, keras.optimizers.SGD)])
def test_an_optimiser_that_has_more_variables_or_fewer(rules, tmp_path):
    written_of, given = rules
    with pytest.raises(Exception, match="batch 4"):
        m = Chain(Dense(4, 2))
        kept = Checkpoint(tmp_path / "a")
        data = [*BATCHES[:4], (0.0,)]
        train(lambda x, y: mse(m(x), y), data, written_of(0.1), checkpoint=kept, progress=False)

    refused(tmp_path / "a", Chain(Dense(4, 2)), opt=given(0.1), match="holds .* variables of the")


@pytest.mark.parametrize("shuffles", [False, True])
def test_data_that_does_not_shuffle_as_that_before_did(shuffles, tmp_path):
    data = [BATCHES, DataLoader((X, Y), 6, shuffle=True)]
    m, kept = Chain(Dense(4, 2)), Checkpoint(tmp_path / "a")
    with pytest.raises(BrokenOff):
        train(
            lambda x, y: mse(m(x), y), data[shuffles], ADAM(), checkpoint=kept, progress=False,
            cb=broken_off_at_once,
        )  # fmt: skip

    match = ["no order of .* DataLoader that does", "the order of .* list that does not"]
    refused(tmp_path / "a", m, data[not shuffles], match=match[shuffles])


def broken_off_at_once():
    raise BrokenOff


@pytest.mark.parametrize("is_same", [True, False])
def test_a_file_that_is_kept_of_another_call_meanwhile(is_same, tmp_path):
    m, opt = Chain(Dense(4, 2)), ADAM()
    kept = Checkpoint(tmp_path / "a", steps=2)
    within = kept if is_same else Checkpoint(tmp_path / "a")

    def cb(state):
        if state.step == 4:
            refused(tmp_path / "a", m, opt=opt if is_same else ADAM(), kept=within,
                    match="a call of train that is under way")  # fmt: skip

    history = train(lambda x, y: mse(m(x), y), BATCHES, opt, cb=cb, checkpoint=kept, progress=False)

    assert len(history) == steps_in(tmp_path / "a") == 7


def test_less_data(kept):
    refused(kept, Chain(Dense(4, 2)), BATCHES[:2], match="after 4 batches, and the data has 2")


def test_a_damaged_file(kept):
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    refused(kept, Chain(Dense(4, 2)), match="a.ckpt is damaged")


def test_a_file_that_save_wrote(tmp_path):
    m = Chain(Dense(4, 2))
    save(tmp_path / "a", m)
    refused(tmp_path / "a", m, match="was written by save, and is for load")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": -1}, "Checkpoint expects seconds between two saves, got -1."),
        ({"every": float("nan")}, "Checkpoint expects seconds between two saves, got nan."),
        ({"steps": 0}, "a whole number from 1, got 0."),
        ({"steps": 1.5}, "a whole number from 1, got 1.5."),
    ],
)
def test_what_is_no_interval(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Checkpoint("a", **options)
