"""As `test_user_needs.py`: the rows that touch on what remains when training ends early."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ADAM,
    BatchNorm,
    Chain,
    Checkpoint,
    Dense,
    NonFiniteError,
    early_stopping,
    load,
    loadmodel,
    mse,
    relu,
    save,
    train,
)
from fluxkeras import state as state_of

OF_TRAINING = {*range(1, 15), *range(19, 22)}  # rows 15 to 18 are of training in several places


def test_each_row_has_a_test():
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_user_needs*.py")]
    tested = {int(row) for text in texts for row in re.findall(r"^def test_p(\d\d)_", text, re.M)}

    assert tested >= OF_TRAINING


def with_batchnorm():
    m = Chain(Dense(3, 4, relu), BatchNorm(4), Dense(4, 1))
    return m, lambda x, y: mse(m(x), y)


def batches_with_nan(n, bad):
    drawn = np.random.default_rng(0)
    batches = [(drawn.random((4, 3)), drawn.random((4, 1))) for _ in range(n)]
    batches[bad] = batches[bad][0], batches[bad][1] * np.nan
    return batches


def test_p01_the_weights_are_finite_after_a_nan_label():
    """`TerminateOnNaN` stops when the weights are not finite any more."""
    m, loss = with_batchnorm()
    with pytest.raises(NonFiniteError, match="batch 5"):
        train(loss, batches_with_nan(10, bad=5), ADAM(), progress=False)

    assert all(np.isfinite(w).all() for w in m.get_weights())


def test_p02_steps_that_run_in_one_call_stop_before_the_nan():
    """With `steps_per_execution=5`, five updates are made before the stop."""
    m, loss = with_batchnorm()
    opt = ADAM()
    with pytest.raises(NonFiniteError, match="batch 1"):
        train(loss, batches_with_nan(10, bad=1), opt, form="graph", chunk=5, progress=False)

    assert int(opt.iterations) == 1
    assert all(np.isfinite(w).all() for w in m.get_weights())


def test_p03_a_run_that_was_killed_goes_on_at_the_batch_where_it_was(tmp_path):
    """`BackupAndRestore` begins the epoch anew: six batches are trained on twice."""

    class Killed(BaseException):
        pass

    def run(killed_after=None):
        m = Chain(Dense(3, 1))
        opt = ADAM()
        data = [np.full((2, 3), i, "float32") for i in range(10)]

        def cb(state):
            if state.step + 1 == killed_after:
                raise Killed

        kept = Checkpoint(tmp_path / "run.ckpt", every=0)
        history = train(
            lambda x: (mse(m(x), 0.0), {"item": x[0, 0]}), data, opt, cb=cb, checkpoint=kept,
            progress=False,
        )  # fmt: skip
        return history, int(opt.iterations)

    with pytest.raises(Killed):
        run(killed_after=6)
    history, iterations = run()

    assert history["item"].tolist() == list(range(10))
    assert iterations == 10


def test_p04_killed_while_it_saves_the_last_good_checkpoint_is_there(tmp_path, monkeypatch):
    """`save_weights` writes over the last good file, which is lost."""
    m, loss = with_batchnorm()
    path = tmp_path / "m.ckpt"
    save(path, m)
    expected = m.get_weights()
    train(loss, batches_with_nan(3, bad=2)[:2], ADAM(), progress=False)

    def killed(*_):
        raise SystemExit

    for moment in ("serialize_tensor", "TFRecordWriter"):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(tf.io, moment, killed)
            save(path, m)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "fsync", killed)
        save(path, m)
    load(path, m)

    for found, weight in zip(m.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, weight)


def test_p19_after_ctrl_c_the_history_is_whole_and_the_best_model_can_be_put_back():
    """`on_train_end` never runs, and an epoch is missing from the history."""
    m, loss = with_batchnorm()
    data = batches_with_nan(20, bad=19)[:19]
    best = {}

    def cb(state):
        if state.loss < best.get("loss", np.inf):
            best.update(loss=state.loss, weights=state_of(m))
        if state.step == 12:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised:
        train(loss, data, ADAM(), cb=cb, progress=False)
    history = raised.value.history
    loadmodel(m, best["weights"])

    assert len(history) == 13
    assert best["loss"] == pytest.approx(history.losses.min())


def test_p20_early_stopping_remembers_best_and_patience_when_training_goes_on(tmp_path):
    """A second `fit` begins with no best score, and all of its patience."""
    scores = iter([3.0, 2.0, 5.65, 5.7, 5.8])

    def run(steps, scores):
        m = Chain(Dense(3, 1))
        no_better = early_stopping(lambda: next(scores), 3)
        answers = []

        def cb(state):
            if state.step == steps:
                raise RuntimeError("broken off")
            answers.append(no_better())

        kept = Checkpoint(tmp_path / "run.ckpt")
        train(
            lambda x: mse(m(x), 1.0), [np.ones((2, 3))] * 6, ADAM(), cb=cb, checkpoint=kept,
            progress=False,
        )  # fmt: skip
        return answers

    with pytest.raises(RuntimeError, match="broken off"):
        run(3, scores)  # the fourth step is made, its score not asked for
    assert run(None, scores) == [False, True]  # three in a row above 2: 5.65, 5.7, 5.8
