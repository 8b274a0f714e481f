"""The tuner, on a clock that does not tick by itself."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxkeras.training.tuner import (
    GUESS,
    MOST_BYTES,
    MOST_FASTER,
    SECONDS_A_CALL,
    TRIALS,
    Request,
    Tuner,
)


class Machine:
    """Runs plans at set costs, in seconds, and keeps account of them.

    Args:
        paces: of a step in each form, and in one "alone" if that is another.
        compiling: of each form; None where it cannot be compiled.
        call: what a call costs beside its steps.
    """

    def __init__(self, paces, compiling, call=0.0):
        self.paces, self.compiling, self.call = paces, compiling, call
        self.compiled = set()
        self.trained = 0.0
        self.spent = 0.0
        self.ratios = []
        self.calls = []

    def train(self, tuner, steps, request=None):
        request = request or Request(total=steps)
        tuner.begin()
        done = 0
        while done < steps:
            plan = tuner.plan(request, done)
            if plan.arm not in self.compiled and not self.compile(tuner, plan):
                continue
            count = min(plan.steps, steps - done)
            seconds = self.call + count * self.pace(plan.arm)
            tuner.ran(plan.arm, count, seconds)
            self.trained += seconds
            self.calls.append((plan.arm.form, count))
            done += count
        return self

    def pace(self, arm):
        alone = f"{arm.form} alone" if arm.room is None else ""
        return self.paces.get(alone, self.paces[arm.form])

    def compile(self, tuner, plan):
        form = plan.arm.form
        seconds = self.compiling[form]
        if seconds is None:
            tuner.drop(form, "it does not compile")
            return False
        self.compiled.add(plan.arm)
        tuner.compiled(plan.arm, seconds)
        if form != "single":
            self.spent += seconds
            self.ratios.append(self.spent / max(self.trained, 1e-9))
        return True

    @property
    def form(self):
        return self.calls[-1][0]


FAST_XLA = {"single": 1e-3, "graph": 4e-4, "xla": 3e-5}
SLOW_XLA = {"single": 8e-3, "graph": 7e-3, "xla": 5e-2}
SINGLE_BEST = {"single": 1e-3, "graph": 2e-3, "xla": 3e-3}
COMPILING = {"single": 0.2, "graph": 0.05, "xla": 0.5}


@pytest.mark.parametrize(
    ("paces", "best"), [(FAST_XLA, "xla"), (SLOW_XLA, "graph"), (SINGLE_BEST, "single")]
)
def test_the_fastest_form_is_found_and_kept(paces, best):
    tuner = Tuner()
    machine = Machine(paces, COMPILING)
    machine.train(tuner, 5000)
    assert machine.form == best

    machine.calls.clear()
    machine.train(tuner, 500)

    assert {form for form, _ in machine.calls} == {best}


@pytest.mark.parametrize("paces", [FAST_XLA, SLOW_XLA, SINGLE_BEST])
def test_no_more_than_a_few_calls_are_made_in_slower_forms(paces):
    machine = Machine(paces, COMPILING).train(Tuner(), 20_000)

    best = min(paces, key=paces.get)
    others = [form for form, _ in machine.calls if form not in ("single", best)]
    assert len(others) <= TRIALS or "graph" in others  # graph serves until xla may be compiled
    assert machine.calls[0] == ("single", 1)


@settings(max_examples=200, deadline=None)
@given(
    paces=st.fixed_dictionaries(dict.fromkeys(("single", "graph", "xla"), st.floats(1e-5, 1e-1))),
    single=st.floats(0.01, 5.0),
    off=st.fixed_dictionaries(dict.fromkeys(("graph", "xla"), st.floats(0.1, 1.0))),
    calls=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_compiling_takes_no_longer_than_training_has_if_the_guess_is_right(
    paces, single, off, calls
):
    compiling = {form: GUESS[form] * single * off[form] for form in GUESS} | {"single": single}
    machine, tuner = Machine(paces, compiling), Tuner()

    for steps in calls:
        machine.train(tuner, steps)

    assert all(ratio <= 1 + 1e-9 for ratio in machine.ratios)


@pytest.mark.parametrize("times", [2, 5])
def test_compiling_that_takes_longer_than_guessed_exceeds_training_by_as_much(times):
    compiling = {form: times * GUESS[form] * 0.2 for form in GUESS} | {"single": 0.2}

    machine = Machine(FAST_XLA, compiling).train(Tuner(), 100_000)

    assert machine.form == "xla"
    assert 1 < max(machine.ratios) <= times


def test_a_short_run_compiles_nothing_else():
    machine = Machine(FAST_XLA, COMPILING).train(Tuner(), 20)

    assert machine.calls == [("single", 1)] * 20


def test_a_run_that_is_about_to_end_compiles_nothing_else():
    # xla may be compiled after 0.6 s, and then 0.1 s of training are left.
    paces = {"single": 1e-3, "graph": 1e-3, "xla": 3e-5}
    machine = Machine(paces, COMPILING).train(Tuner(), 750)

    assert "xla" not in {form for form, _ in machine.calls}


def test_short_runs_compile_once_there_are_enough_of_them():
    machine, tuner = Machine(FAST_XLA, COMPILING), Tuner()
    for _ in range(100):
        machine.train(tuner, 50)

    assert machine.form == "xla"
    assert max(machine.ratios) <= 1


def test_a_run_of_unknown_length_is_taken_for_a_long_one():
    machine = Machine(FAST_XLA, COMPILING).train(Tuner(), 5000, Request(total=None))

    assert machine.form == "xla"


@pytest.mark.parametrize("paces", [FAST_XLA, SLOW_XLA, SINGLE_BEST])
def test_a_call_takes_about_as_long_as_it_may(paces):
    machine = Machine(paces, COMPILING).train(Tuner(), 50_000)

    room = int(MOST_FASTER * SECONDS_A_CALL / paces["single"])
    for form, steps in machine.calls[-20:-1]:
        most = {"single": 1, "graph": math.inf, "xla": room}[form]
        assert steps == min(most, max(1, int(SECONDS_A_CALL / paces[form])))


def test_the_cost_of_a_call_is_no_reason_for_short_chunks():
    paces = {"single": 1e-3, "graph": 2e-4, "xla": 1e-4}
    machine = Machine(paces, COMPILING, call=3e-4).train(Tuner(), 100_000)

    form, steps = machine.calls[-2]
    # n steps take 0.3 ms + n * 0.1 ms: all of 50 ms
    assert (form, steps) == ("xla", pytest.approx(497, rel=0.02))


def test_a_form_that_does_not_compile_is_dropped_and_told():
    tuner = Tuner()
    machine = Machine(FAST_XLA, COMPILING | {"xla": None}).train(tuner, 5000)

    assert machine.form == "graph"
    assert tuner.dropped == {"xla": "it does not compile"}
    assert tuner.plan(Request(form="xla")).arm.form == "single"


def test_what_is_dropped_from_choice_alone_may_be_asked_for():
    tuner = Tuner()
    tuner.drop("xla", "unchecked", for_good=False)

    assert tuner.plan(Request(form="xla")).arm.form == "xla"
    assert Machine(FAST_XLA, COMPILING).train(tuner, 5000).form == "graph"


def test_a_callback_on_every_batch_lets_single_steps_and_those_of_xla_compete():
    machine = Machine(FAST_XLA, COMPILING).train(Tuner(), 5000, Request(most=1))

    assert {form for form, _ in machine.calls} == {"single", "xla"}
    assert {steps for _, steps in machine.calls} == {1}
    assert machine.form == "xla"


@pytest.mark.parametrize("form", ["single", "graph", "xla"])
def test_a_form_that_is_asked_for_is_planned_at_once(form):
    plan = Tuner().plan(Request(form=form))

    assert plan.arm.form == form
    assert (plan.room is None) == (form == "single")


@pytest.mark.parametrize("form", ["graph", "xla", "auto"])
@pytest.mark.parametrize("chunk", [2, 7, 100])
def test_a_chunk_that_is_asked_for_is_kept_to(form, chunk):
    tuner, request = Tuner(), Request(form=form, chunk=chunk)
    machine = Machine(FAST_XLA, COMPILING).train(tuner, 5000, request)

    plan = tuner.plan(request)
    assert (plan.arm.form, plan.steps) == ("xla" if form == "auto" else form, chunk)
    assert {s for f, s in machine.calls[:-1] if f != "single"} == {chunk}


def test_xla_has_room_for_a_fixed_number():
    tuner = Tuner()
    Machine(FAST_XLA, COMPILING).train(tuner, 20_000)

    rooms = {tuner.plan(Request(most=most)).room for most in (2, 3, 100, math.inf)}

    assert len(rooms) == 1
    assert tuner.plan(Request(most=3)).steps == 3


@pytest.mark.parametrize("size", [MOST_BYTES // 10, MOST_BYTES, 3 * MOST_BYTES])
def test_a_chunk_is_bounded_by_memory(size):
    machine = Machine(FAST_XLA, COMPILING).train(Tuner(size), 20_000)

    assert max(steps for _, steps in machine.calls) == max(1, MOST_BYTES // size)


def test_a_step_by_xla_alone_is_tried_where_its_loop_is_slow():
    tuner = Tuner()
    machine = Machine(SLOW_XLA | {"xla alone": 2e-3}, COMPILING).train(tuner, 20_000)

    assert machine.calls[-1] == ("xla", 1)
    assert tuner.plan(Request()).room is None
    assert max(machine.ratios) <= 1


def test_a_form_that_becomes_slow_gives_way():
    tuner = Tuner()
    machine = Machine(dict(FAST_XLA), COMPILING).train(tuner, 20_000)
    assert machine.form == "xla"

    machine.paces["xla"] = 5e-3
    machine.train(tuner, 20_000)

    assert machine.form == "graph"
