import csv
import json

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import History
from fluxkeras.training import history as history_module
from fluxkeras.training.history import MOST_PARTS, Timing, of_step


def stacked(values):
    return tf.nest.map_structure(lambda *v: None if v[0] is None else np.stack(v), *values)


def filled(*auxes, chunks=None):
    """A history of steps of the losses 1, 1/2, 1/3, …, of which so many are recorded at a time."""
    history, start = History(), 0
    for steps in chunks or [1] * len(auxes):
        losses = 1 / np.arange(start + 1, start + steps + 1, dtype=np.float32)
        aux = auxes[start : start + steps]
        history.extend(losses, None if aux[0] is None else stacked(aux))
        start += steps
    return history


CHUNKS = [[1, 1, 1], [3], [2, 1], [1, 2]]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_losses_are_an_array_of_every_step(chunks):
    history = filled(None, None, None, chunks=chunks)

    assert isinstance(history.losses, np.ndarray)
    assert history.losses.dtype == np.float32
    np.testing.assert_allclose(history.losses, [1, 1 / 2, 1 / 3])
    np.testing.assert_array_equal(history["loss"], history.losses)
    assert len(history) == 3
    assert history.aux is None


def test_steps_can_be_recorded_after_the_losses_were_looked_at():
    history = filled(None, None, chunks=[2])
    np.testing.assert_allclose(history.losses, [1, 1 / 2])

    history.extend(np.float32([1 / 3]), None)

    np.testing.assert_allclose(history.losses, [1, 1 / 2, 1 / 3])
    assert repr(history) == "History(3 steps, loss 1 to 0.3333)"


@pytest.mark.parametrize("chunks", CHUNKS)
def test_other_values_are_stacked_in_their_structure(chunks):
    auxes = [{"a": i, "b": (np.full(2, i), 5 + i), "none": None} for i in range(3)]
    history = filled(*auxes, chunks=chunks)

    np.testing.assert_array_equal(history["a"], [0, 1, 2])
    np.testing.assert_array_equal(history.aux["b"][0], [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(history["b"][1], [5, 6, 7])
    assert history["none"] is None


@pytest.mark.parametrize("chunks", [[1, 1, 1], [2, 1]])
def test_other_values_of_different_shapes_are_a_list(chunks):
    history = filled(np.zeros(2), np.ones(2), np.zeros(3), chunks=chunks)

    assert [v.shape for v in history.aux] == [(2,), (2,), (3,)]
    np.testing.assert_array_equal(history.aux[1], np.ones(2))


@pytest.mark.parametrize("chunks", [[1, 1, 1], [2, 1]])
def test_other_values_whose_structure_changes_are_a_list_of_every_steps(chunks):
    history = filled({"a": 1}, {"a": 3}, {"b": 2}, chunks=chunks)

    assert history.aux == [{"a": 1}, {"a": 3}, {"b": 2}]


def test_a_value_that_is_none_in_some_steps_alone_changes_the_structure():
    assert filled({"a": 1, "b": None}, {"c": 2}).aux == [{"a": 1, "b": None}, {"c": 2}]


def test_one_of_several_steps_is_taken_out():
    aux = {"a": np.arange(3), "b": [np.eye(3), None]}

    last = of_step(aux, -1)

    assert last["a"] == 2
    np.testing.assert_array_equal(last["b"][0], [0, 0, 1])
    assert last["b"][1] is None
    assert of_step(None, 0) is None


def test_a_name_that_was_not_returned_is_refused():
    with pytest.raises(KeyError, match="no 'acc' in the history"):
        filled(None)["acc"]
    with pytest.raises(KeyError, match="no 'acc' in the history"):
        filled({"b": 1})["acc"]


def test_an_empty_history_is_true_and_prints():
    assert History()
    assert History().losses.shape == (0,)
    assert repr(History()) == str(History()) == "History(no steps)"


def test_a_history_prints_its_first_and_last_loss():
    history = filled(None, None)
    assert repr(history) == "History(2 steps, loss 1 to 0.5)"
    assert repr(filled(None)) == "History(1 step, loss 1 to 1)"
    history.stopped = True
    assert repr(history) == "History(2 steps, loss 1 to 0.5, stopped)"


# --- As a table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_dict_has_a_list_of_numbers_for_each_name(chunks):
    auxes = [
        {"acc": i / 2, "in": {"er": i, "none": None}, "two": (i, np.arange(2))} for i in range(3)
    ]
    table = filled(*auxes, chunks=chunks).to_dict()

    assert table == {
        "loss": [1.0, 0.5, float(np.float32(1 / 3))],
        "acc": [0.0, 0.5, 1.0],
        "in.er": [0, 1, 2],
        "two[0]": [0, 1, 2],
        "two[1]": [[0, 1]] * 3,
    }
    assert type(table["in.er"][0]) is int
    assert json.loads(json.dumps(table)) == table


@pytest.mark.parametrize("chunks", [[1, 1, 1], [2, 1]])
@pytest.mark.parametrize(
    ("auxes", "others"),
    [
        ([None] * 3, {}),
        ([1.0, 2.0, 3.0], {"aux": [1, 2, 3]}),
        ([(1, 2), (3, 4), (5, 6)], {"aux[0]": [1, 3, 5], "aux[1]": [2, 4, 6]}),
        ([{"loss": 9, "a": 1}] * 3, {"a": [1, 1, 1]}),  # history["loss"] are the losses, too
        ([np.zeros(1), np.zeros(1), np.ones(2)], {"aux": [[0], [0], [1, 1]]}),
        ([{"a": 1}, {"a": 2}, {"b": 3}], {"aux": [{"a": 1}, {"a": 2}, {"b": 3}]}),
        ([[1, 2], [3, 4], [5]], {"aux": [[1, 2], [3, 4], [5]]}),
    ],
)
def test_a_dict_has_what_has_no_name(chunks, auxes, others):
    assert filled(*auxes, chunks=chunks).to_dict() == {
        "loss": [1.0, 0.5, float(np.float32(1 / 3))],
        **others,
    }


def test_a_csv_has_a_line_for_each_step(tmp_path):
    auxes = [{"acc": 0.25, "v": np.arange(2)}, {"acc": np.nan, "v": np.ones(2, int)}]

    filled(*auxes).to_csv(tmp_path / "history.csv")

    with (tmp_path / "history.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["step", "loss", "acc", "v"],
            ["0", "1.0", "0.25", "[0, 1]"],
            ["1", "0.5", "nan", "[1, 1]"],
        ]


def test_an_empty_history_is_an_empty_table(tmp_path):
    assert History().to_dict() == {"loss": []}

    History().to_csv(str(tmp_path / "history.csv"))

    assert (tmp_path / "history.csv").read_bytes() == b"step,loss\n"


# --- Where the time went --------------------------------------------------------------------------


class Clock:
    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(history_module, "time", clock)
    return clock


def test_a_lap_is_the_time_since_the_last_one(clock):
    timing = Timing()
    for part, seconds in [("data", 1), ("steps", 2), ("data", 4), ("callbacks", 8)]:
        clock.now += seconds
        timing.lap(part)

    assert (timing.compiling, timing.data, timing.steps, timing.callbacks) == (0, 5, 2, 8)


def test_the_form_is_that_of_the_last_steps_and_all_that_were_dropped_are_told():
    timing = Timing()
    assert (timing.form, timing.chunk, timing.dropped) == ("single", 1, {})

    timing.ran_as("xla", 50, {"graph": "slow"})
    timing.ran_as("graph", 20, {"xla": "broken"})

    assert (timing.form, timing.chunk) == ("graph", 20)
    assert timing.dropped == {"graph": "slow", "xla": "broken"}


def timed(clock, **parts):
    history = filled(None, None, None, None, chunks=[1, 3])
    history.timing = Timing()
    for part, seconds in parts.items():
        clock.now += seconds
        history.timing.lap(part)
    return history


@pytest.mark.parametrize(
    ("form", "chunk", "described"),
    [
        ("single", 1, "single"),
        ("xla", 1, "xla"),
        ("graph", 3, "graph, 3 steps a call"),
        ("xla", 50, "xla, 50 steps a call"),
    ],
)
def test_a_history_prints_three_lines(clock, form, chunk, described):
    history = timed(clock, compiling=2.0, data=0.5, steps=0.1234, callbacks=0.000056)
    history.timing.ran_as(form, chunk, {})

    assert str(history).splitlines() == [
        "History(4 steps, loss 1 to 0.25)",
        f"{described}: 656 ms a step",  # 2.623456 / 4
        "2.62 s: 2 s compiling, 500 ms data, 123 ms steps, 56 µs callbacks",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4 * 3e-6, "3 µs"), (4 * 0.0012346, "1.23 ms"), (4.0, "1 s"), (4 * 86.4, "86.4 s")],
)
def test_the_time_of_a_step_is_that_of_all_parts(clock, seconds, text):
    parts = dict.fromkeys(["compiling", "data", "steps", "callbacks"], seconds / 4)

    assert f"single: {text} a step\n" in str(timed(clock, **parts))


def test_forms_that_were_dropped_are_told(clock):
    history = timed(clock, steps=4.0)
    history.timing.ran_as("graph", 3, {"xla": "TypeError: no kernel"})

    assert str(history).splitlines()[1] == (
        "graph, 3 steps a call: 1 s a step (without xla: TypeError: no kernel)"
    )
    assert len(str(history).splitlines()) == 3


# --- Many steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", ["equal", "varied", "other structures", "some without"])
def test_steps_one_by_one_are_recorded_as_they_are(shapes):
    history, n = History(), 3 * MOST_PARTS + 5
    expected = []
    for i in range(n):
        aux = {
            "a": np.full((1, 2), i),
            "b": (np.full((1, 1 + i % 2 * (shapes == "varied")), -i), None),
        }
        if shapes == "other structures" and i % 300 == 7:
            aux = {"c": np.full(1, i)}
        if shapes == "some without" and i % 3:
            aux = None
        else:
            expected.append(aux)
        history.extend(np.array([i], "float32"), aux)

    np.testing.assert_array_equal(history.losses, np.arange(n))
    assert repr(history) == f"History({n} steps, loss 0 to {n - 1})"
    if shapes == "other structures":
        assert [sorted(aux) for aux in history.aux] == [sorted(aux) for aux in expected]
        return
    np.testing.assert_array_equal(history["a"], np.concatenate([aux["a"] for aux in expected]))
    found = history["b"][0]
    assert [v.tolist() for v in found] == [aux["b"][0][0].tolist() for aux in expected]
    again = History()
    again.load_state(history.state())
    assert again["b"][1] is None and len(again) == n
    np.testing.assert_array_equal(again["a"], history["a"])
