"""The tuner: which form, and how many steps a call, chosen by the times of the run's own steps."""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

SECONDS_A_CALL = 0.05  # Ctrl-C, the progress bar and a throttled callback wait no longer
PIECES, PIECE_SECONDS = 6, 0.01  # at least, where the first is waited for, and others read beside
TRIAL_SECONDS = 0.01  # of a first chunk, as if the form were no faster than single steps
LEAST_TRIALS, TRIALS = 2, 3  # times taken of a form before it is judged: one may be disturbed
MOST_TRIALS, NEAR = 8, 1.2  # of one whose best time is near the best pace: the first are slow
LEAST_TIMED = 0.004  # seconds of steps that a time is taken of: what disturbs them is about as long
# What has lost is tried again after a tenth of the time that training had taken then, and so seldom
# that it costs no more than this part of it.
AGAIN, MOST_LOST = 0.1, 0.003
MOST_FASTER = 16  # how much faster XLA may be than single steps: there is room for that many
MOST_BYTES = 2**24  # that a chunk takes up
MOST_LENGTHS = 64  # that XLA compiles one step for, where it is traced with lengths left open
UNKNOWN_PACE = 1e-3  # seconds a step, before any was timed

# What a form takes to compile, in times of what the single one took.
GUESS = {"graph": 0.5, "xla": 3.0}

FORMS = ("auto", "single", "graph", "xla")


@dataclass(frozen=True)
class Request:
    """What one call of `train` leaves to choose.

    Attributes:
        form: the form to be used, or "auto".
        chunk: the steps a call, if they are given.
        most: how many steps may run in a call.
        total: how many there will be, if that is known.
        together: how many steps' batches lie together in memory, if they do.
        is_beside: whether those of the next call are read while one runs that leaves a core.
    """

    form: str = "auto"
    chunk: int | None = None
    most: float = math.inf
    total: int | None = None
    together: int | None = None
    is_beside: bool = False

    def within(self, feed: Any) -> "Request":
        """What is left to choose with batches from a feed."""
        most = min(self.most, feed.most)
        return replace(self, most=most, together=feed.together, is_beside=feed.is_beside)


class Tally:
    """What training has taken."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.before = 0.0  # seconds in earlier calls of `train`

    def begin(self) -> None:
        """A call of `train` begins."""
        self.before = self.seconds

    def ran(self, steps: int, seconds: float) -> None:
        self.steps += steps
        self.seconds += seconds


class Arm:
    """A form with room for some steps a call, and what is known of it.

    Without room, it is for one step a call, which is not stacked.
    """

    def __init__(self, form: str, room: int | None) -> None:
        self.form = form
        self.room = room
        self.key = form, room
        self.compiling: float | None = None  # seconds
        self.pace = math.inf  # seconds a step: the median of the last calls
        self.times: deque[float] = deque(maxlen=5)
        self.last = 0.0  # seconds of training before it last ran
        self._of_long = False  # whether those are the times of calls of as many steps as planned
        self._trials = Tally()
        self._untimed = Tally()

    @property
    def leaves_core(self) -> bool:
        """Whether it has little to do for a second core, as XLA's loops."""
        return self.form == "xla" and self.room is not None

    def ran(self, steps: int, seconds: float, is_short: bool = False) -> None:
        self._untimed.ran(steps, seconds)
        if self._untimed.seconds >= LEAST_TIMED:
            self._time(self._untimed.seconds / self._untimed.steps, is_short)
            self._trials.ran(1, self._untimed.seconds)
            self._untimed = Tally()

    def _time(self, seconds: float, is_short: bool) -> None:
        """Take a step's time; not of a short call, whose few steps share its cost, but for want."""
        if is_short and self._of_long:
            return
        if not is_short and not self._of_long:
            self._of_long = True
            self.times.clear()
        self.times.append(seconds)
        self.pace = sorted(self.times)[(len(self.times) - 1) // 2]

    def is_on_trial(self, best: float) -> bool:
        count = self._trials.steps
        if count < LEAST_TRIALS:
            return True
        is_near = self.pace > best and min(self.times) < NEAR * best
        return count < (MOST_TRIALS if is_near else TRIALS if self.pace < 2 * best else 0)

    def is_due(self, seconds: float, best: float) -> bool:
        """Whether what has lost is to be tried again, `seconds` of training after the beginning."""
        trial = min(self._trials.seconds, TRIALS * SECONDS_A_CALL)
        lost = trial * (1 - best / self.pace)
        return seconds - self.last > max(AGAIN * self.last, lost / MOST_LOST)

    def try_again(self) -> None:
        """Forget all times but the best: the machine may have been busy then."""
        self.times = deque([min(self.times)], self.times.maxlen)
        self._trials = Tally()
        self._untimed = Tally()


@dataclass(frozen=True)
class Plan:
    """How the next call runs: in which form, at most how many steps, in memory with which room."""

    arm: Arm
    steps: int
    room: int | None


class Account:
    """What the tuners of one traced step share: one for each length that it leaves open.

    Args:
        is_open: whether there are such lengths.

    Attributes:
        all: what all training has taken.
        spent: seconds of compiling other forms than the single one.
        took: seconds that compiling each form took, the last time.
        shared: the forms that are compiled for all lengths, each with its room.
        lengths: the tuners of those that XLA has compiled for.
        dropped: why forms are not chosen.
        impossible: those of them that are not planned, either, if they are asked for.
    """

    def __init__(self, is_open: bool = False) -> None:
        self.is_open = is_open
        self.all = Tally()
        self.spent = 0.0
        self.took: dict[str, float] = {}
        self.shared: set[tuple[str, int | None]] = set()
        self.lengths: list[Tuner] = []
        self.dropped: dict[str, str] = {}
        self.impossible: set[str] = set()

    @property
    def has_xla_for_another(self) -> bool:
        """Whether XLA may compile for another length: not where it mostly was no faster."""
        won = sum(tuner.is_xla_best for tuner in self.lengths)
        return len(self.lengths) <= min(MOST_LENGTHS - 1, 2 * won)


class Tuner:
    """Chooses for the batches of one signature, and remembers from one call of `train` to the next.

    Steps run singly at first. Another form is compiled once training has taken as many seconds as
    all compiling for trials, this one's included: what it takes is guessed from what the single
    form took. It then runs on the next chunks, and the fastest form goes on.

    Args:
        bytes: the size of a batch and of what the objective returns for it.
        account: that of the step. Where lengths are left open, XLA compiles for each of them that
            has been trained on for as long as that takes, and one step, since they come in turn.
    """

    def __init__(self, bytes: int = 0, account: Account | None = None) -> None:
        self._account = account or Account()
        self._own = Tally()
        self._memory = max(1, MOST_BYTES // max(1, bytes))
        self._arms: dict[tuple[str, int | None], Arm] = {}
        self.single = self._arm("single", None)
        self._xla_room: int | None = None

    @property
    def dropped(self) -> dict[str, str]:
        """Why forms are not chosen."""
        return self._account.dropped

    @property
    def is_xla_best(self) -> bool:
        """Whether no form is faster; True before that is known."""
        paces = {form: arm.pace for (form, _), arm in self._arms.items()}
        return paces["xla"] == math.inf or paces["xla"] <= min(paces.values())

    def begin(self) -> None:
        """A call of `train` begins."""
        self._own.begin()
        self._account.all.begin()

    def plan(self, request: Request, done: int = 0) -> Plan:
        """How to run the next call, `done` steps after the beginning."""
        unasked = 1 if request.total == 1 else math.inf  # one step gains nothing by a loop
        most = min(request.chunk or request.together or unasked, request.most, self._memory)
        if request.form == "auto":
            arm = self._choose(request, most, done)
        else:
            arm = self._candidate(request.form, request, most)
        if arm.room is None:
            return Plan(arm, 1, None)
        steps = request.chunk or self._steps(arm, request)
        steps = max(1, int(min(steps, most, arm.room)))
        return Plan(arm, steps, arm.room if arm.form == "xla" else steps)

    def compiled(self, arm: Arm, seconds: float) -> None:
        if arm.form != "xla":
            self._account.shared.add(arm.key)
        elif self._account.is_open and arm.compiling is None:
            self._account.lengths.append(self)
        arm.compiling = (arm.compiling or 0.0) + seconds
        self._account.took[arm.form] = arm.compiling
        if arm is not self.single:
            self._account.spent += seconds

    def ran(self, arm: Arm, steps: int, seconds: float, planned: int = 1) -> None:
        """A call has run so many steps of those that were planned."""
        arm.ran(steps, seconds, is_short=2 * steps < planned)
        arm.last = self._own.seconds
        self._own.ran(steps, seconds)
        self._account.all.ran(steps, seconds)

    def drop(self, form: str, why: str, for_good: bool = True) -> None:
        """Do not choose a form again; for good: do not plan it, either, if it is asked for."""
        self._account.dropped[form] = why
        if for_good:
            self._account.impossible.add(form)

    def _choose(self, request: Request, most: float, done: int) -> Arm:
        if len(self.single.times) < TRIALS:
            return self.single
        arms = [self._candidate(form, request, most) for form in ("graph", "xla")]
        best = min((self.single, *arms), key=lambda arm: arm.pace)
        if arms[-1].times and arms[-1] is not best:
            # XLA does a convolution in a loop with one core, and by itself with all.
            arms.append(self._candidate("xla", request, most=1))
            best = min(best, arms[-1], key=lambda arm: arm.pace)
        left = math.inf if request.total is None else (request.total - done) * best.pace
        for arm in arms:
            if arm.compiling is None and arm.key not in self._account.shared:
                if self._is_worth_compiling(arm, left):
                    return arm
            elif arm.is_on_trial(best.pace):
                return arm
            elif arm is not best and arm.is_due(self._own.seconds, best.pace):
                arm.try_again()
                return arm
        return best

    def _is_worth_compiling(self, arm: Arm, seconds_left: float) -> bool:
        """Whether training has taken long enough, and is likely to go on for long enough."""
        seconds = self._guess(arm)
        everything = self._account.all
        # XLA compiles for this length alone, which has a part in all that runs.
        mine = self._own if arm.form == "xla" else everything
        left = seconds_left * mine.steps / everything.steps
        # Who called `train` for long is likely to call it again for as long.
        expected = max(left, mine.before)
        is_paid = everything.seconds >= self._account.spent + seconds and mine.seconds >= seconds
        return is_paid and expected >= 2 * seconds

    def _guess(self, arm: Arm) -> float:
        took = self._account.took
        return took.get(arm.form, GUESS[arm.form] * took.get("single", 0.0))

    def _candidate(self, form: str, request: Request, most: float) -> Arm:
        """The arm for a form, or that of single steps where the form will not do."""
        account = self._account
        if form in (account.dropped if request.form == "auto" else account.impossible):
            return self.single
        if form == "xla" and account.is_open:
            arm = self._arm("xla", None)
            is_there = arm.compiling is not None
            return arm if is_there or account.has_xla_for_another else self.single
        if most == 1:
            return self._arm("xla", None) if form == "xla" else self.single
        if form == "graph":
            return self._arm("graph", self._memory)
        if form == "xla":
            room = request.chunk or request.together or self._room()
            return self._arm("xla", int(min(room, self._memory)))
        return self.single

    def _room(self) -> int:
        """What XLA has room for, which it is compiled with: more than will be needed."""
        if self._xla_room is None:
            self._xla_room = max(2, int(MOST_FASTER * SECONDS_A_CALL / self._pace_of_single()))
        return self._xla_room

    def _steps(self, arm: Arm, request: Request) -> float:
        if not arm.times:
            return max(2, TRIAL_SECONDS / self._pace_of_single())
        a_second = 1 / max(arm.pace, 1e-9)
        whole = math.inf if request.total is None else request.total
        is_beside = request.is_beside and arm.leaves_core
        piece = max(whole / PIECES, PIECE_SECONDS * a_second) if is_beside else math.inf
        return min(SECONDS_A_CALL * a_second, piece)

    def _pace_of_single(self) -> float:
        return max(self.single.pace, 1e-9) if self.single.times else UNKNOWN_PACE

    def _arm(self, form: str, room: int | None) -> Arm:
        if (form, room) not in self._arms:
            self._arms[form, room] = Arm(form, room)
        return self._arms[form, room]
