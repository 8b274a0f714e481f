"""Runs under tf.distribute, in processes of their own: TensorFlow's devices are set once each."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from distributed_runs import BATCH, CASES, SAMPLES, STEPS, WORKERS

from fluxkeras import Adam, DataLoader, Dense, Descent, mse, params, train
from fluxkeras.data import part_of
from fluxkeras.training.batch import Batch
from fluxkeras.training.callbacks import StopTraining
from fluxkeras.training.company import GOES_ON, HAS_ENDED, HAS_FAILED, STOPS, Company
from fluxkeras.training.distribution import Distribution, distribution_of
from fluxkeras.training.parts import Parts

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


# --- What is refused, and what one replica does ---------------------------------------------------


@pytest.fixture
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0"])


def made_in(strategy, optimiser=Descent):
    with strategy.scope():
        return Dense(4, 2), optimiser(0.1)


X, Y = np.ones((6, 4), "float32"), np.zeros((6, 2), "float32")


def test_it_is_as_without_a_strategy_with_one_replica(strategy):
    (m, opt), (other, its_opt) = made_in(strategy), (Dense(4, 2), Descent(0.1))
    other.set_weights(m.get_weights())

    history = train(lambda x, y: mse(m(x), y), [(X, Y)] * 3, opt, progress=False)
    expected = train(lambda x, y: mse(other(x), y), [(X, Y)] * 3, its_opt, progress=False)

    np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-6)
    assert "xla" not in history.timing.form


def test_plain_variables_tell_their_strategy(strategy):
    with strategy.scope():
        w, opt = tf.Variable([2.0]), Descent(0.1)

    train(lambda x: tf.reduce_mean(w * x), [X[:, :1]], opt, progress=False)

    np.testing.assert_allclose(w.numpy(), [1.9], rtol=1e-6)


def test_training_in_the_scope_is_refused(strategy):
    m, opt = made_in(strategy)

    with strategy.scope(), pytest.raises(ValueError, match="call train after it"):
        train(lambda x, y: mse(m(x), y), [(X, Y)], opt, progress=False)


def test_an_optimiser_from_outside_is_refused(strategy):
    m, _ = made_in(strategy)

    with pytest.raises(ValueError, match=r"Write with strategy\.scope.*opt = Adam"):
        train(lambda x, y: mse(m(x), y), [(X, Y)], Adam(), progress=False)


def test_two_strategies_are_refused(strategy):
    (m, opt), (other, _) = made_in(strategy), made_in(tf.distribute.MirroredStrategy(["CPU:0"]))

    with pytest.raises(ValueError, match="scope of one strategy"):
        train(lambda x, y: mse(m(x) + other(x), y), [(X, Y)], opt, progress=False)


def test_an_optimiser_of_one_device_builds_in_its_scope():
    m, opt = made_in(strategy := tf.distribute.OneDeviceStrategy("CPU:0"), Adam)
    loss = lambda x, y: mse(m(x), y)  # noqa: E731

    with pytest.raises(ValueError, match=r"opt.build\(params\(m\)\)"):
        train(loss, [(X, Y)], opt, progress=False)
    with strategy.scope():
        opt = Adam(0.1)
        opt.build(params(m))
    history = train(loss, [(X, Y)] * 2, opt, progress=False)

    assert history.losses[1] < history.losses[0]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X[0], Y[0]), r"got shapes \(4,\), \(2,\)"),
        ((X, Y[:5]), r"got shapes \(6, 4\), \(5, 2\)"),
        ((tf.sparse.from_dense(X), Y), "no sparse and ragged"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(batch, message, strategy):
    m, opt = made_in(strategy)
    before = m.get_weights()

    with pytest.raises((TypeError, ValueError), match=f"batch 0.*{message}"):
        train(lambda x, y: mse(m(tf.sparse.to_dense(x)), y), [batch], opt, progress=False)
    np.testing.assert_array_equal(m.kernel, before[0])


def test_a_parameter_server_is_refused():
    variable = SimpleNamespace(device="/job:ps/replica:0/task:0/device:CPU:0")

    with pytest.raises(ValueError, match="no ParameterServerStrategy"):
        distribution_of([variable], [])


def fake(replicas=2, resolver=None):
    return Distribution(SimpleNamespace(num_replicas_in_sync=replicas, cluster_resolver=resolver))


def test_metrics_of_keras_are_refused_with_several_replicas():
    metric = keras.metrics.Mean("accuracy")

    fake(1).refuse_metrics([metric])
    with pytest.raises(ValueError, match="without metrics of Keras's, got accuracy"):
        fake(2).refuse_metrics([metric])


@pytest.mark.parametrize(
    ("task", "expected"), [(("chief", 0), (3, 0)), (("worker", 0), (3, 1)), (("worker", 1), (3, 2))]
)
def test_the_chief_is_the_first_worker(task, expected):
    spec = tf.train.ClusterSpec({"chief": ["a:1"], "worker": ["b:1", "c:1"]})
    resolver = SimpleNamespace(cluster_spec=lambda: spec, task_type=task[0], task_id=task[1])
    distribution = fake(6, resolver)

    assert (distribution.workers, distribution.rank) == expected
    assert distribution.is_chief is (task == ("chief", 0))


@pytest.mark.parametrize("count", [0, 1, 5, 6, 13])
def test_rows_are_shared_once_each(count):
    rows = list(range(count))

    assert [r for i in range(3) for r in rows[part_of(count, 3, i)]] == rows
    assert {len(rows[part_of(count, 3, i)]) for i in range(3)} <= {count // 3, -(-count // 3)}


class Others(Distribution):
    """Two workers, of which the other tells what is given."""

    def __init__(self, *told):
        self.workers, self.rank, self._local, self._told = 2, 0, 1, list(told)

    def table(self, numbers):
        other = self._told.pop(0)
        return np.array([numbers, numbers if other == "the same" else other])


SIGNATURE = Batch((X, Y), 0).signature


def meet(*told):
    """Three calls of two steps, in the company of another worker."""
    company = Company(Others(*told))
    with company.departing():
        for _ in range(3):
            company.go_on(SIGNATURE, 2, None)


def test_workers_who_agree_go_on_to_the_end():
    meet("the same", "the same", "the same", "the same")


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ((GOES_ON, 7), ValueError, "from batch 2 on worker 1 has others"),
        ((HAS_ENDED, 0), ValueError, "from batch 2 on worker 1 has none"),
        ((HAS_FAILED, 0), RuntimeError, "worker 1 left training before batch 2 by an error"),
        ((STOPS, 0), StopTraining, None),
    ],
)
def test_workers_who_do_not_agree_end(told, error, message):
    with pytest.raises(error, match=message):
        meet("the same", told)


def test_a_worker_who_stops_at_the_end_stops_all():
    with pytest.raises(StopTraining):
        meet("the same", "the same", "the same", (STOPS, 0))


def test_each_order_is_told_apart():
    told = []

    class Telling(Others):
        def table(self, numbers):
            told.append(tuple(numbers))
            return super().table(numbers)

    for seed in 1, 1, 2:
        feed = Parts(DataLoader((X, Y), 2, shuffle=True, seed=seed), Telling())
        company = Company(Telling("the same"))
        company.go_on(feed.peek(), 3, feed.order)

    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize("error", [ValueError("mine"), StopTraining(), KeyboardInterrupt()])
def test_who_leaves_tells_the_others_once(error):
    others = Others((GOES_ON, 0))

    with pytest.raises(type(error)), Company(others).departing():
        raise error
    assert not others._told


def test_what_is_shared_by_none_is_told_to_none():
    company = Company(None)

    with company.departing():
        company.go_on(SIGNATURE, 2, None)
    assert company.is_chief and company.any_stops(True) and not company.any_stops(False)


def test_a_lost_worker_is_named():
    with pytest.raises(RuntimeError, match="lost another worker in batches 0 to 1"):
        company = Company(Others("the same"))
        with company.departing():
            company.go_on(SIGNATURE, 2, None)
            raise tf.errors.UnavailableError(None, None, "gone")


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


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_replicas_that_draw_for_themselves_keep_the_same_parameters(n, of_replicas):
    found = of("Dropout", of_replicas[n])
    copies = {name: value for name, value in found.items() if name != "losses"}

    assert np.isfinite(found["losses"]).all() and len(copies) == 6 * n
    for name, value in copies.items():
        np.testing.assert_array_equal(value, copies[f"{name.split()[0]} 0"])


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_evaluate_takes_metrics_of_keras_under_a_strategy(n, of_replicas):
    found = of("metric", of_replicas[n])

    np.testing.assert_allclose(found["found"], found["expected"], rtol=1e-5)


@pytest.mark.slow
def test_central_storage_trains_as_one_device(tmp_path, of_replicas):
    ended(start("central", tmp_path / "central"))
    alone = of(" ".join([*CASES[1], "graph"]), of_replicas[1])

    assert_close(of("central", results(tmp_path / "central")), alone)


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


@pytest.mark.slow
def test_where_a_callback_of_keras_ends_the_epochs_all_end_them(of_workers):
    chief, other = (of("Keras's", arrays) for arrays in of_workers)

    np.testing.assert_array_equal(chief["lengths"], other["lengths"])
    assert 2 <= len(chief["lengths"]) < 9


# --- A worker that is killed ----------------------------------------------------------------------

KILLS, BOUND = 10, 90  # seconds in which the others are to end


def begun(processes):
    for process in processes:
        while "begins" not in (line := process.stdout.readline()):
            assert line, "it has ended"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_where_a_worker_is_killed_the_others_end_and_the_job_goes_on(tmp_path):
    moments, path, kills = random.Random(1), tmp_path / "run.ckpt", 0
    whole = start_workers("kept", tmp_path / "whole", tmp_path / "whole.ckpt")
    begun(whole)
    start = time.monotonic()
    for process in whole:
        ended(process)
    takes = time.monotonic() - start

    while kills < KILLS:
        processes = start_workers("kept", tmp_path / "out", path)
        begun(processes)
        victim = moments.randrange(WORKERS)
        try:
            processes[victim].wait(moments.uniform(0, takes / 3))
        except subprocess.TimeoutExpired:
            processes[victim].kill()
            kills += 1
            for rank, process in enumerate(processes):
                printed, _ = process.communicate(timeout=BOUND)
                assert process.returncode != 0
                assert rank == victim or "train lost another worker" in printed, printed
        else:
            assert_whole(processes, tmp_path)
            path.unlink()
    assert_whole(start_workers("kept", tmp_path / "out", path), tmp_path)


def assert_whole(processes, folder):
    for rank, process in enumerate(processes):
        ended(process)
        found, expected = results(folder / f"out{rank}"), results(folder / f"whole{rank}")
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
