"""Runs that are killed at random moments, in processes of their own."""

import multiprocessing
import random
import time

import numpy as np
import pytest
from checkpoint_runs import Run

from fluxkeras import Checkpoint
from fluxkeras.training.records import read

EPOCHS, KILLS = 40, 50


def train(path, form, connection):
    """What a process does: train to the end, saving every other moment."""
    run = Run("DataLoader", form=form)
    run.options["checkpoint"] = Checkpoint(path, steps=3)
    connection.send("begins")
    run.epochs(EPOCHS)
    connection.send(run.values())


class Processes:
    """Runs of one form, each in a process of its own."""

    def __init__(self, form, path):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["fluxkeras", "checkpoint_runs"])
        self.form, self.path = form, path

    def run(self, seconds=None):
        """The weights at the end; None if the process was killed after so many seconds."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=train, args=(self.path, self.form, theirs))
        process.start()
        theirs.close()  # so that a process that fails is noticed
        assert ours.recv() == "begins"
        weights = ours.recv() if ours.poll(seconds) else process.kill()
        process.join()
        return weights


@pytest.mark.slow
@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_killed_at_random_moments_it_ends_with_the_weights_of_a_run_without_a_stop(form, tmp_path):
    moments = random.Random(form)
    processes = Processes(form, tmp_path / "a.ckpt")
    start = time.monotonic()
    whole = processes.run()
    takes = time.monotonic() - start
    processes.path.unlink()

    kills = 0
    while kills < KILLS // 3 + 1:
        # A machine that is busier than it was would else kill each process before it saves.
        most = takes / 2 * (1 + kills / 5)
        weights = processes.run(moments.uniform(0, most))
        if weights is None:
            kills += 1
            if processes.path.exists():
                read(processes.path)
        else:
            assert_equal(weights, whole)
            processes.path.unlink()
    assert_equal(processes.run(), whole)


def assert_equal(weights, whole):
    for found, expected in zip(weights, whole, strict=True):
        np.testing.assert_array_equal(found, expected)
