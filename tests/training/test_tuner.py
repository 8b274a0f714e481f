"""The tuner, on a clock that does not tick by itself."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxkeras.training.tuner import (
    GUESS,
    LEAST_TIMED,
    MOST_BYTES,
    MOST_FASTER,
    MOST_LENGTHS,
    MOST_LOST,
    PIECE_SECONDS,
    PIECES,
    SECONDS_A_CALL,
    TRIALS,
    Account,
    Arm,
    Request,
    Tuner,
)

PACE = 1e-4  # seconds a step


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
            done += self.call_of(tuner, request, done, steps - done)
        return self

    def call_of(self, tuner, request, done, most):
        """How many steps one call has made."""
        while True:
            plan = tuner.plan(request, done)
            # XLA compiles for each length, and anything else for all.
            made = plan.arm if plan.arm.form == "xla" else plan.arm.key
            if made in self.compiled or self.compile(tuner, plan, made):
                break
        count = min(plan.steps, most)
        seconds = self.call + count * self.pace(plan.arm)
        tuner.ran(plan.arm, count, seconds, plan.steps)
        self.trained += seconds
        self.calls.append((plan.arm.form, count))
        return count

    def pace(self, arm):
        alone = f"{arm.form} alone" if arm.room is None else ""
        return self.paces.get(alone, self.paces[arm.form])

    def compile(self, tuner, plan, made):
        form = plan.arm.form
        seconds = self.compiling[form]
        if seconds is None:
            tuner.drop(form, "it does not compile")
            return False
        self.compiled.add(made)
        tuner.compiled(plan.arm, seconds)
        if form != "single":
            self.spent += seconds
            self.ratios.append(self.spent / max(self.trained, 1e-9))
        return True

    @property
    def form(self):
        return self.calls[-1][0]


class Lengths(Machine):
    """Goes through batches of lengths that a step leaves open, which come in turn."""

    def __init__(self, paces, compiling):
        super().__init__(paces, compiling)
        self.account = Account(is_open=True)
        self.tuners = {}

    def go_through(self, lengths, request=None):
        request = request or Request(total=len(lengths))
        for tuner in self.tuners.values():
            tuner.begin()
        for done, length in enumerate(lengths):
            if length not in self.tuners:
                self.tuners[length] = Tuner(account=self.account)
            self.call_of(self.tuners[length], request, done, 1)
        return self

    @property
    def of_xla(self):
        """The lengths that XLA has compiled for."""
        return {n for n, tuner in self.tuners.items() if tuner in self.account.lengths}


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
    machine.train(tuner, 20_000)

    lost = sum((paces[form] - paces[best]) * steps for form, steps in machine.calls)
    assert lost < 3 * MOST_LOST * machine.trained  # two forms, and the trial that is under way


@pytest.mark.parametrize("paces", [FAST_XLA, SLOW_XLA, SINGLE_BEST])
def test_little_time_is_spent_in_slower_forms(paces):
    machine = Machine(paces, COMPILING).train(Tuner(), 20_000)

    best = min(paces, key=paces.get)
    others = [(form, n) for form, n in machine.calls if form not in ("single", best)]
    seconds = sum(paces[form] * steps for form, steps in others)
    # Graph serves until xla may be compiled.
    assert seconds < 0.01 * machine.trained or "graph" in dict(others)
    assert machine.calls[0] == ("single", 1)


def test_a_disturbance_of_some_short_steps_decides_nothing():
    arm = Arm("single", None)
    for _ in range(20):
        arm.ran(1, LEAST_TIMED / 4)

    for _ in range(2):
        arm.ran(1, LEAST_TIMED)

    assert arm.pace == pytest.approx(LEAST_TIMED / 4)


def test_a_form_whose_first_calls_are_slow_is_tried_for_longer():
    """Its memory is new then, for example."""
    first, then = [1.5e-3] * 3, [0.7e-3] * 3
    arm = Arm("xla", 10)
    for pace in first:
        arm.ran(10, 10 * pace)
    assert not arm.is_on_trial(1e-3)
    arm.ran(10, 1.1e-2)
    assert arm.is_on_trial(1e-3)

    for pace in then:
        arm.ran(10, 10 * pace)

    assert arm.pace == pytest.approx(0.7e-3)


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [(1.001e-3, 0.01), (2e-3, 0.02 / 2 / MOST_LOST)],
)
def test_what_has_lost_is_tried_again_the_sooner_the_less_that_costs(pace, seconds):
    """After 0.1 s of training, not before a tenth of that."""
    arm = Arm("single", None)
    arm.ran(10, 10 * pace)
    arm.last = 0.1

    assert not arm.is_due(0.1 + 0.99 * seconds, best=1e-3)
    assert arm.is_due(0.1 + 1.01 * seconds, best=1e-3)


def test_a_form_that_was_disturbed_in_its_first_calls_is_tried_again():
    machine = Machine({"single": 0.01, "graph": 0.01, "xla": 0.05}, COMPILING)
    tuner = Tuner()
    machine.train(tuner, 2000)
    assert machine.calls[-1][0] != "xla"

    machine.paces["xla"] = 0.001  # that something else took the machine is over
    machine.train(tuner, 20_000)
    assert machine.calls[-1][0] == "xla"
    slow = sum(count for form, count in machine.calls if form != "xla")
    assert slow < 12_000


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


@pytest.mark.parametrize(("pace", "steps"), [(3e-5, 30), (SECONDS_A_CALL / 5, 5)])
def test_a_call_trains_on_the_batches_that_lie_together_if_it_has_the_time(pace, steps):
    tuner, request = Tuner(), Request(together=30)
    paces = {"single": 10 * pace, "graph": 5 * pace, "xla": pace}
    Machine(paces, COMPILING).train(tuner, 20_000, request)

    plan = tuner.plan(request)

    assert (plan.arm.form, plan.steps, plan.room) == ("xla", steps, 30)


@pytest.mark.parametrize(
    ("total", "seconds"),
    [(2000, 2000 * PACE / PIECES), (200, PIECE_SECONDS), (10**6, SECONDS_A_CALL)],
)
def test_what_is_read_beside_is_trained_on_in_pieces(total, seconds):
    tuner = Tuner()
    Machine({"single": 1e-3, "graph": 1e-3, "xla": PACE}, COMPILING).train(tuner, 10**5)

    beside, alone = (tuner.plan(Request(total=total, is_beside=b)).steps for b in (True, False))

    assert beside * PACE == pytest.approx(seconds, rel=0.01)
    assert alone * PACE == pytest.approx(SECONDS_A_CALL, rel=0.01)


@pytest.mark.parametrize(
    ("form", "most", "leaves"),
    [("xla", math.inf, True), ("xla", 1, False), ("graph", math.inf, False), ("single", 1, False)],
)
def test_loops_by_xla_leave_a_core(form, most, leaves):
    assert Tuner().plan(Request(form=form, most=most)).arm.leaves_core == leaves


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


@pytest.mark.parametrize("steps", [2, 20])
def test_calls_of_few_steps_leave_what_long_ones_have_shown(steps):
    machine, tuner = Machine(FAST_XLA, COMPILING, call=1e-3), Tuner()
    machine.train(tuner, 50_000)
    for _ in range(300):
        machine.train(tuner, steps)
    shorts = len(machine.calls)
    machine.train(tuner, 50_000)

    assert {form for form, _ in machine.calls[shorts:]} == {"xla"}


def test_calls_of_few_steps_do_not_decide_for_long_ones():
    machine, tuner = Machine(FAST_XLA | {"graph": 9e-4}, COMPILING, call=1e-2), Tuner()
    for _ in range(3000):
        machine.train(tuner, 2)
    machine.train(tuner, 50_000)

    assert machine.form == "xla"


def test_a_single_step_takes_no_loop():
    machine, tuner = Machine(FAST_XLA | {"xla alone": 8e-4}, COMPILING, call=1e-3), Tuner()
    for _ in range(5000):
        machine.train(tuner, 1)

    assert machine.calls[-1] == ("xla", 1)
    assert {key for key in machine.compiled if not isinstance(key, Arm)} == {("single", None)}


# --- Lengths that are left open -------------------------------------------------------------------

OPEN = {"single": 5e-3, "graph": 6e-3, "xla": 2e-3}
TWELVE = list(range(12))


def test_xla_is_found_for_each_length_that_comes_again():
    machine = Lengths(OPEN, COMPILING).go_through(TWELVE * 1000)

    assert machine.of_xla == set(TWELVE)
    assert max(machine.ratios) <= 1
    assert machine.calls[-1] == ("xla", 1)
    assert {machine.account.took["xla"]} == {COMPILING["xla"]}


def test_a_length_is_compiled_for_when_training_on_it_has_taken_as_long():
    machine = Lengths(OPEN, COMPILING)
    done = {n: 0 for n in TWELVE}
    for n in TWELVE * 1000:
        before = machine.of_xla
        machine.go_through([n], Request())
        if machine.of_xla == before:
            done[n] += 1
        elif not before:
            assert done[n] * OPEN["single"] >= 0.99 * GUESS["xla"] * COMPILING["single"]
        else:
            assert done[n] * OPEN["single"] >= 0.99 * COMPILING["xla"]

    assert machine.of_xla == set(TWELVE)


@pytest.mark.parametrize("times", [1, TRIALS, 10])
def test_lengths_that_hardly_come_again_are_not_compiled_for(times):
    lengths = [n for n in range(5000) for _ in range(times)]

    machine = Lengths(OPEN, COMPILING).go_through(lengths, Request())

    assert machine.of_xla == set()
    assert machine.trained > 40 * COMPILING["xla"]


def test_a_length_that_comes_often_is_compiled_for_and_those_around_it_are_not():
    lengths = [n for i in range(1000) for n in (7, 100 + i)]

    machine = Lengths(OPEN, COMPILING).go_through(lengths)

    assert machine.of_xla == {7}


def test_a_length_of_which_little_is_left_is_not_compiled_for():
    # Each of them has taken 0.6 s, what xla may take, after 120 of 200 times.
    assert Lengths(OPEN, COMPILING).go_through(TWELVE * 200).of_xla == set()
    assert Lengths(OPEN, COMPILING).go_through(TWELVE * 400).of_xla == set(TWELVE)


def test_short_calls_compile_for_lengths_once_there_are_enough_of_them():
    machine = Lengths(OPEN, COMPILING)
    for _ in range(300):
        machine.go_through(TWELVE * 2)

    assert machine.of_xla == set(TWELVE)
    assert max(machine.ratios) <= 1


def test_xla_compiles_for_a_bounded_number_of_lengths():
    lengths = list(range(MOST_LENGTHS + 20))

    machine = Lengths(OPEN, COMPILING).go_through(lengths * 400, Request())

    assert len(machine.of_xla) == MOST_LENGTHS
    assert {form for form, _ in machine.calls[-len(lengths) :]} == {"single", "xla"}


def test_xla_that_is_no_faster_for_some_lengths_is_not_tried_for_all():
    machine = Lengths(OPEN | {"xla": 6e-3}, COMPILING).go_through(TWELVE * 1000)

    assert len(machine.of_xla) == 1
    assert machine.form == "single"


def test_what_xla_does_not_compile_is_dropped_for_all_lengths():
    machine = Lengths(OPEN, COMPILING | {"xla": None}).go_through(TWELVE * 1000)

    assert machine.of_xla == set()
    assert all(t.dropped == {"xla": "it does not compile"} for t in machine.tuners.values())


def test_a_loop_is_compiled_once_for_all_lengths():
    machine = Lengths(OPEN | {"graph": 1e-3}, COMPILING | {"xla": None}).go_through(TWELVE * 200)

    assert machine.spent == COMPILING["graph"]
    assert machine.form == "graph"


def test_xla_that_is_asked_for_compiles_for_a_bounded_number_of_lengths():
    lengths = range(MOST_LENGTHS + 20)

    machine = Lengths(OPEN, COMPILING).go_through([*lengths, *lengths], Request(form="xla"))

    assert machine.of_xla == set(range(MOST_LENGTHS))
    assert [f for f, _ in machine.calls[: len(lengths)]] == ["xla"] * MOST_LENGTHS + ["single"] * 20
