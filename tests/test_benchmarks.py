"""The benchmarks count right, and run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bars import Bar, Results, bars_of, speedup
from benchmarks.distributed import efficiency
from benchmarks.measure import BY_HAND, FIT, FLUXKERAS, THROTTLED, Row, fastest, interleaved, settle
from benchmarks.report import bars_list, table

ROOT = Path(__file__).parents[1]


def made_up():
    times = {
        FLUXKERAS: [1.0, 2.0, 3.0],
        THROTTLED: [1.0, 2.0, 3.0],
        BY_HAND: [11.0, 22.0, 90.0],
        FIT: [7.0, 14.0, 24.0],
    }
    return Row("MLP 784-32-10, batch 1", "list", 100, times)


class Clock:
    """Tells the seconds that runs say they took."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, seconds, log=None, name=""):
        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


def test_loops_run_in_turn_and_none_always_after_the_same():
    clock, logs = Clock(), ([], [])
    times = {"a": 1, "b": 2, "c": 3}

    for log in logs:
        seconds = interleaved({n: clock.run(s, log, n) for n, s in times.items()}, 6, clock)
        assert seconds == {n: [s] * 6 for n, s in times.items()}

    rounds = list(zip(*[iter(logs[0])] * 3, strict=True))
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert {names[0] for names in rounds} == {"a", "b", "c"}
    assert logs[0] == logs[1]


def test_the_fastest_way_is_found_and_one_that_fails_is_left_out():
    clock = Clock()

    def fails():
        raise ValueError

    ways = {"slow": lambda: clock.run(2), "fails": fails, "fast": lambda: clock.run(1)}
    assert fastest(ways, clock=clock)[0] == "fast"
    with pytest.raises(ValueError):
        fastest({"fails": fails})


@pytest.mark.parametrize(
    ("forms", "rounds"), [(["xla"] * 9, 3), (["single", "graph", "xla", "xla", "xla", "xla"], 5)]
)
def test_a_run_settles_when_its_form_does(forms, rounds):
    clock, left = Clock(), list(forms)

    def run():
        clock.now += 1
        return left.pop(0), 1.0

    settle(run, least=3, most=100, clock=clock)

    assert len(forms) - len(left) == rounds


def test_medians_and_ratios():
    figures = made_up()

    assert figures.microseconds(FLUXKERAS) == 2 / 100 * 1e6
    assert figures.ratio(BY_HAND, FLUXKERAS) == 11
    assert speedup(figures) == 7


def test_bars_pass_and_miss():
    bars = {bar.text: bar for bar in bars_of(Results([made_up()], {"m": 1.2}, {}, {"m": 1.05}))}

    assert bars["as fast as the better loop on TensorFlow (0.95 counts)"].passed
    assert bars["10 times as fast as by hand"].worst[1] == 11
    assert bars["8 times as fast as fit"].missed == {"MLP 784-32-10, batch 1, list": 7}
    assert not bars["1.15 times the loop by hand: 20 steps, compiling included"].passed
    assert bars["1.10 times the unguarded step"].passed
    assert bars["1.01 times the time without the throttled callback"].passed


def test_the_report_tells_figures_and_what_misses():
    lines = table([made_up()]).splitlines()
    assert lines[0].count("|") == lines[2].count("|")
    assert "20,000" in lines[2]

    text = bars_list([Bar("fast", 2, True, {"a": 3, "b": 1.5}), Bar("small", 1, False, {"c": 0.5})])
    assert text.splitlines() == [
        "MISS  at least fast: 1.5x (b), 1 of 2",
        "      - 1.5x b",
        "PASS  at most small: 0.5x (c), 1 of 1",
    ]


def test_the_efficiency_of_a_ring_of_workers():
    # 14 times a message of a millisecond's latency, and an eighth of 8 MB at 1 GB/s.
    assert efficiency(0.1, 8_000_000, 8, 0.001, 1e9) == pytest.approx(0.1 / (0.1 + 14 * 0.002))
    assert efficiency(0.1, 8_000_000, 1, 0.001, 1e9) == 1


@pytest.mark.slow
def test_the_benchmarks_run(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", tmp_path],
        cwd=ROOT, check=True, capture_output=True, timeout=900,
    )  # fmt: skip

    rows = json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))["rows"]
    assert len(rows) == 2
    for row in rows:
        assert all(row["microseconds"][loop] > 0 for loop in (FLUXKERAS, BY_HAND, FIT))
