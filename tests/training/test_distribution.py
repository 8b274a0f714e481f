"""Runs under tf.distribute, in processes of their own: TensorFlow's devices are set once each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from distributed_runs import BATCH, CASES, SAMPLES, STEPS, WORKERS

SCRIPT = Path(__file__).with_name("distributed_runs.py")
SIZES = [BATCH] * (SAMPLES // BATCH) + [SAMPLES % BATCH]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"},
    )  # fmt: skip


def ended(process, seconds=300):
    """What a process has printed, which is to end well."""
    printed, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, printed
    return printed


def start_workers(command, out, *arguments):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(WORKERS)]
    hosts = ",".join(f"localhost:{s.getsockname()[1]}" for s in sockets)
    for s in sockets:
        s.close()
    return [start(command, f"{out}{rank}", rank, hosts, *arguments) for rank in range(WORKERS)]


def results(path):
    with np.load(f"{path}.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def of(case, arrays):
    return {name.partition("/")[2]: a for name, a in arrays.items() if name.startswith(f"{case}/")}


def replicas(folder, counts, cases):
    for n in counts:
        ended(start("replicas", folder / f"{n}", n, cases))
    return {n: results(folder / f"{n}") for n in counts}


def workers(folder, cases):
    for process in start_workers("worker", folder / "worker", cases):
        ended(process)
    return [results(folder / f"worker{rank}") for rank in range(WORKERS)]


@pytest.fixture(scope="module")
def of_replicas(tmp_path_factory):
    return replicas(tmp_path_factory.mktemp("replicas"), (1, 2, 4), len(CASES))


@pytest.fixture(scope="module")
def of_workers(tmp_path_factory):
    return workers(tmp_path_factory.mktemp("workers"), len(CASES))


def assert_close(found, expected):
    assert found.keys() == expected.keys() and found
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_two_replicas_and_two_workers_train_as_one_device(tmp_path):
    of_replicas = replicas(tmp_path, (1, 2), 1)
    case = " ".join(CASES[0])
    alone = of(f"{case} graph", of_replicas[1])

    assert len(alone["losses"]) == STEPS
    assert_close(of(f"{case} graph", of_replicas[2]), alone)
    for arrays in workers(tmp_path, 1):
        assert_close(of(case, arrays), alone)


# --- Replicas in one process ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["single", "graph"])
@pytest.mark.parametrize(("model", "optimiser"), CASES)
@pytest.mark.parametrize("n", [2, 4])
def test_replicas_train_as_one_device(n, model, optimiser, form, of_replicas):
    case = f"{model} {optimiser} {form}"
    alone = of(case, of_replicas[1])

    assert len(alone["losses"]) == STEPS
    assert_close(of(case, of_replicas[n]), alone)


@pytest.mark.slow
def test_P15_gradients_are_averaged_over_replicas_not_summed(of_replicas):
    # A doubled learning rate would show in the second loss.
    losses = [of("MLP SGD graph", of_replicas[n])["losses"][1] for n in (1, 2, 4)]

    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.slow
def test_P16_a_replica_without_a_sample_makes_no_nan(of_replicas):
    last = [i for i in range(STEPS) if SIZES[i % len(SIZES)] == 1]

    for n in (2, 4):
        for model, optimiser in CASES:
            found = of(f"{model} {optimiser} graph", of_replicas[n])
            assert last and np.isfinite(found["losses"][last]).all()
            assert all(np.isfinite(value).all() for value in found.values())


# --- Workers --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimiser"), CASES)
def test_P17_P18_workers_train_as_one_device(model, optimiser, of_workers, of_replicas):
    alone = of(f"{model} {optimiser} graph", of_replicas[1])

    for arrays in of_workers:
        assert_close(of(f"{model} {optimiser}", arrays), alone)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["generator", "prefetch", "tf.data", "shard"])
def test_any_data_is_shared_by_the_workers(data, of_workers):
    for arrays in of_workers:
        assert len(of("list", arrays)["losses"]) == 10
        assert_close(of(data, arrays), of("list", arrays))


@pytest.mark.slow
def test_a_repeated_batch_is_shared_by_the_workers(of_workers):
    one, other = (of("repeated", arrays) for arrays in of_workers)

    assert len(one["losses"]) == 10 and one["losses"][-1] < one["losses"][0]
    assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "throttled"])
def test_callbacks_run_on_the_chief_and_stop_all(kind, of_workers):
    chief, other = (of(kind, arrays) for arrays in of_workers)

    assert len(chief["seen"]) == 7 and not len(other["seen"])
    np.testing.assert_array_equal(chief["lengths"], other["lengths"])
    if kind == "plain":
        assert chief["lengths"].tolist() == [5, 2]
