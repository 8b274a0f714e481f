import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Adam,
    BatchNorm,
    Chain,
    Checkpoint,
    CheckpointError,
    DataLoader,
    Dense,
    Dropout,
    History,
    early_stopping,
    load,
    mse,
    param,
    save,
    setup,
    train,
)

BATCH = np.random.default_rng(0).random((6, 3)), np.random.default_rng(1).random((6, 2))


def model():
    return Chain(Dense(3, 4), BatchNorm(4), Dropout(0.3), Dense(4, 2))


def trained(steps=3):
    m, opt = model(), Adam(0.1)
    train(lambda x, y: mse(m(x), y), [BATCH] * steps, opt, progress=False)
    return m, opt


def values(*things):
    return [np.array(v) for thing in things for v in thing.variables]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_models_and_optimisers_come_back_with_seeds_slots_and_statistics(tmp_path):
    m, opt = trained()
    save(tmp_path / "a", m, opt)
    other, new = model(), Adam(0.5)
    load(tmp_path / "a", other, new)

    assert_equal(values(other, new), values(m, opt))
    for one, its in ((m, opt), (other, new)):
        train(lambda x, y, one=one: mse(one(x), y), [BATCH] * 2, its, progress=False)
    assert_equal(values(other, new), values(m, opt))


def test_an_optimiser_with_parameters_of_its_own(tmp_path):
    m = model()
    opt = setup(Adam(0.1), m)
    train(lambda m, x, y: mse(m(x), y), m, [BATCH], opt, progress=False)
    save(tmp_path / "a", opt)
    new = setup(Adam(0.1), model())
    load(tmp_path / "a", new)

    assert_equal(values(new), values(opt))


def test_keras_models_variables_modules_and_collections(tmp_path):
    def things(start):
        module = tf.Module()
        module.v = tf.Variable(start)
        return [
            keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
            {"w": param([start, 2.0]), "rest": (tf.Variable([start, 1]), [module])},
            tf.Variable(start, trainable=False),
        ]

    first, second = things(1.0), things(5.0)
    save(tmp_path / "a", *first)
    load(tmp_path / "a", *second)

    assert_equal(second[0].get_weights(), first[0].get_weights())
    assert float(second[1]["w"][0]) == 1.0
    assert float(second[1]["rest"][0][0]) == 1.0 and float(second[1]["rest"][1][0].v) == 1.0
    assert float(second[2]) == 1.0


def test_what_has_a_state_of_its_own(tmp_path):
    loader = DataLoader(np.arange(6), 2, shuffle=True, rng=1)
    batches = iter(loader)
    next(batches)
    trigger = early_stopping(lambda x: x, 2)
    trigger(1.0), trigger(2.0)
    history = History()
    history.extend(np.array([1.0, 0.5], "float32"), None)
    save(tmp_path / "a", loader, trigger, history)

    again, waiting, record = DataLoader(np.arange(6), 2, shuffle=True), None, History()
    waiting = early_stopping(lambda x: x, 2)
    load(tmp_path / "a", again, waiting, record)

    assert_equal(list(again), list(batches))
    assert waiting(1.5) is True
    assert record.losses.tolist() == [1.0, 0.5]


def refused(path, *things, match):
    models = [thing for thing in things if isinstance(thing, keras.Model)]
    before = values(*models)
    with pytest.raises(CheckpointError, match=match):
        load(path, *things)
    assert_equal(values(*models), before)


def test_what_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "a"
    m, opt = trained()
    save(path, m, opt)

    refused(path, model(), match=r"expects a file that holds 1 things: .*a holds 2 things")
    refused(path, opt, m, match="thing 0, has")
    other = Chain(Dense(3, 5), BatchNorm(5), Dropout(0.3), Dense(5, 2))
    refused(path, other, Adam(), match=re.escape("'kernel' of float32 (3, 5) was expected"))
    refused(path, model(), DataLoader(np.arange(3)), match="thing 1, is not of a DataLoader")
    half = Chain(Dense(3, 4), BatchNorm(4), Dropout(0.3))
    refused(path, half, opt, match="thing 0, has 9 variables, and the Chain given has 7")


def test_a_state_that_its_owner_refuses_changes_nothing(tmp_path):
    path = tmp_path / "a"
    loader = DataLoader(np.arange(6), 2, shuffle=True, rng=1)
    save(path, trained()[0], loader, DataLoader(np.arange(6), 2, shuffle=True))
    other, its_loader = model(), DataLoader(np.arange(6), 2, shuffle=True, rng=2)
    before = values(other), its_loader.state()

    with pytest.raises(ValueError, match=r"expects a state with .* no state of a generator"):
        load(path, other, its_loader, DataLoader(np.arange(6), 2))

    assert_equal(values(other), before[0])
    assert its_loader.state() == before[1]


def test_the_file_of_a_run_is_not_for_load(tmp_path):
    m = model()
    train(lambda x, y: mse(m(x), y), [BATCH], Adam(), checkpoint=Checkpoint(tmp_path / "a"),
          progress=False)  # fmt: skip

    refused(tmp_path / "a", m, match="holds a run of train, to be given to it")


def test_what_has_no_state_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"save expects what has variables, .* got 3"):
        save(tmp_path / "a", 3)
    assert not (tmp_path / "a").exists()


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "a", model())
