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


def made(path, form):
    run = Run("DataLoader", form=form)
    run.options["checkpoint"] = Checkpoint(path, steps=3)
    return run


def train(path, form, connection):
    """What a process does: train to the end, saving every other moment."""
    run = made(path, form)
    connection.send("begins")
    run.epochs(EPOCHS)
    connection.send(run.values())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_killed_at_random_moments_it_ends_with_the_weights_of_a_run_without_a_stop(form, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxkeras", "checkpoint_runs"])
    moments = random.Random(form)
    whole = made(tmp_path / "whole", form)
    start = time.monotonic()
    whole.epochs(EPOCHS)
    takes = time.monotonic() - start

    path, kills, ends = tmp_path / "a.ckpt", 0, 0
    while kills < KILLS // 3 + 1 or not ends:
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(path, form, theirs))
        process.start()
        assert ours.recv() == "begins"
        if ours.poll(moments.uniform(0.0, takes / 2)):
            for found, expected in zip(ours.recv(), whole.values(), strict=True):
                np.testing.assert_array_equal(found, expected)
            ends += 1
            path.unlink()
        else:
            process.kill()
            kills += 1
            if path.exists():
                read(path)
        process.join()
