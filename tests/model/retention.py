"""The protocol of a remote log with retention: dated claims, closing, pins, forks, segments.

This is the rule, decision 19 in `graft_vfs/docs/decisions.md`, small enough to visit every state.
Each part of the rule is a switch, so that tests can show what happens without it.

The store carries out one request at a time and has the only clock; a unit of time is G/4. Time is
kept as ages that stop to grow once they are as old as any rule asks, so it runs without end. An
actor can sleep at any point, because any other step may come first. Therefore one step sends a
request, carries it out and handles its answer: an actor that waits does nothing that others see.
Only a claim can outlive its sender's patience. Once sent, it may arrive at any later time, any
number of times, with no answer; this covers lost requests, lost answers, late and repeated ones,
and a process that was killed. A writer's head, proof and pending claim are in its catalog; a kill
loses the rest, which is an answer that it does not believe yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

GRACE, TRUST = 4, 1
"""G and G/4 in units of time."""
PIN = 2
"""How long a pin is valid."""

_NEVER, _GONE = -1, -2
"""A segment that was not uploaded, and one that was deleted; any other is present, with its age."""


@dataclass(frozen=True)
class Rules:
    """The parts of the rule. What each does when it is on is in the decision."""

    dates_answers: bool = True
    checks_floor: bool = True
    checks_floor_after: bool = True
    closes_only_old: bool = True
    keeps_newest: bool = True
    read_keeps_proof: bool = True
    own_keeps_proof: bool = True
    restart_keeps_proof: bool = True
    raises_if_match: bool = True
    has_roll: bool = True
    pins_before_plan: bool = True
    lists_pins_after_plan: bool = True
    sweeps_only_old: bool = True
    registers_before_claim: bool = True
    fork_checks_plan: bool = True
    keeps_before_switch: bool = True
    segment_names_lsn: bool = True
    rechecks_segment: bool = True
    """Only in effect without `segment_names_lsn`, which makes it needless."""


class Answer(IntEnum):
    """What a writer knows about its next LSN and does not believe yet."""

    NONE = 0
    CREATED = 1
    SAME = 2
    OTHER = 3
    ABSENT = 4
    VANISHED = 5  # Absent as well, but it was there before.
    FLOOR = 6  # The floor was read, and the request is still to come.


class Phase(IntEnum):
    """Where a reader or a fork is."""

    NONE = 0
    LOOKED = 1  # The plan was read.
    ANNOUNCED = 2  # The pin or the child is written.
    AT_WORK = 3  # Pinned, or the child's first LSN is claimed.
    UNPINNED = 4  # Reading without a pin, or claimed without a registration.


class Lsn(NamedTuple):
    """One LSN: the writer whose commit was first, whose is in the store, 0 for none."""

    first: int = 0
    here: int = 0
    is_closed: bool = False
    age: int = 0  # Since the creation, or since it was closed.


class Writer(NamedTuple):
    head: int = 0
    proof: int = 0  # The age of T.
    is_pending: bool = False  # The claim of head + 1 is recorded and may have been sent.
    answer: Answer = Answer.NONE
    date: int = 0  # The age of the answer's Date.
    sent: int = 0  # A bit for each LSN whose claim was sent.


class Party(NamedTuple):
    """A reader or a fork."""

    phase: Phase = Phase.NONE
    lsn: int = 0
    age: int = 0


class State(NamedTuple):
    lsns: tuple[Lsn, ...]
    writers: tuple[Writer, ...]
    segments: tuple[tuple[int, ...], ...] = ()
    reader: Party = Party()
    fork: Party = Party()
    doomed: int = 0  # A bit for each LSN whose deletion may have been sent.
    spared: int = 0  # What the sweeper found pinned, if it looks before it plans.
    slow: int = 0  # The floor that a sleeping collector is about to write, if it may.

    def floor(self) -> int:
        """Return the newest LSN that is closed, 0 if there is none."""
        return max((number for number, lsn in enumerate(self.lsns, 1) if lsn.is_closed), default=0)

    def newest(self) -> int:
        return sum(lsn.first != 0 for lsn in self.lsns)

    def listed(self) -> int:
        """Return the newest LSN that a listing shows, 0 if there is none."""
        return max((number for number, lsn in enumerate(self.lsns, 1) if lsn.here), default=0)


Step = tuple[str, State, str]


def _bits(mask: int, count: int) -> list[int]:
    return [number for number in range(1, count + 1) if mask >> number & 1]


def _aged(age: int, limit: int) -> int:
    return min(age + 1, limit)


@dataclass(frozen=True)
class Protocol:
    """A world: who takes part, how many LSNs, and how wrong a `Date` may be, or if it may lack.

    The commit of LSN `switched` is the first to say that its log has retention; 0 if all do.
    """

    rules: Rules = field(default_factory=Rules)
    lsns: int = 3
    writers: int = 2
    switched: int = 0
    skew: int = 0
    has_undated: bool = False
    has_segments: bool = False
    has_reader: bool = False
    has_fork: bool = False

    def start(self) -> State:
        segments = ((_NEVER,) * self.lsns,) * (self.writers if self.has_segments else 0)
        return State((Lsn(),) * self.lsns, (Writer(),) * self.writers, segments)

    def canonical(self, state: State) -> State:
        """The two writers follow the same rules, so which is which does not matter."""
        if self.writers != 2:
            return state
        lsns = tuple(
            Lsn((0, 2, 1)[lsn.first], (0, 2, 1)[lsn.here], lsn.is_closed, lsn.age)
            for lsn in state.lsns
        )
        swapped = State(lsns, state.writers[::-1], state.segments[::-1], *state[3:])
        return min(state, swapped)

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._time(state)
        yield from self._collector(state)
        for number in range(self.writers):
            for happening, following, fault in self._writer(state, number):
                yield f"{'AB'[number]} {happening}", following, fault or self._missing(following)
        if self.has_segments:
            yield from self._segments(state)
        if self.has_reader or self.has_fork:
            yield from self._sweeper(state)
        if self.has_reader:
            for happening, reader in self._reader(state):
                following = state._replace(reader=reader)
                yield f"the reader {happening}", following, self._missing(following)
        if self.has_fork:
            for happening, fork in self._fork(state):
                following = state._replace(fork=fork)
                yield f"the fork {happening}", following, self._missing(following)

    @property
    def _has_plans(self) -> bool:
        return self.has_reader or self.has_fork

    # Time ---------------------------------------------------------------------------------------

    def _time(self, state: State) -> Iterator[Step]:
        oldest = TRUST + self.skew + 1
        lsns = tuple(
            lsn._replace(age=_aged(lsn.age, GRACE))
            if lsn.first and (self._has_plans or not lsn.is_closed)
            else lsn
            for lsn in state.lsns
        )
        writers = tuple(
            writer._replace(
                proof=_aged(writer.proof, oldest),
                date=_aged(writer.date, oldest) if writer.answer > Answer.NONE else 0,
            )
            for writer in state.writers
        )
        segments = state.segments
        if self.has_segments and not self.rules.segment_names_lsn:
            segments = tuple(
                tuple(age if age < 0 else _aged(age, GRACE) for age in each) for each in segments
            )
        reader = state.reader
        if reader.phase > Phase.LOOKED:
            limit = GRACE if reader.phase is Phase.UNPINNED else PIN + 1
            reader = reader._replace(age=_aged(reader.age, limit))
        following = State(lsns, writers, segments, reader, *state[4:])
        if following != state:
            yield "time passes", following, ""

    # The collector ------------------------------------------------------------------------------

    def _collector(self, state: State) -> Iterator[Step]:
        """Closes LSNs before the newest; without plans, it deletes what is closed at any time."""
        floor = state.floor()
        if self.rules.keeps_before_switch:
            floor = max(floor, self.switched)
        for number in range(floor + 1, state.newest() + (not self.rules.keeps_newest)):
            if self.rules.closes_only_old and state.lsns[number - 1].age < GRACE:
                break
            closed = tuple(lsn._replace(is_closed=True, age=0) for lsn in state.lsns[floor:number])
            following = state._replace(
                lsns=state.lsns[:floor] + closed + state.lsns[number:],
                doomed=state.doomed | self._doomed_unlisted(floor, number, state.spared),
                spared=0,
            )
            wrong = [lsn for lsn in closed if lsn.here != lsn.first]
            yield f"the floor rises to {number}", following, "a false roll" if wrong else ""
            if not self.rules.raises_if_match and not state.slow:
                yield f"a slow collector will raise it to {number}", state._replace(slow=number), ""
        if 0 < state.slow < floor:
            # With If-Match the store refuses this write, and nothing changes.
            opened = state.lsns[state.slow :]
            fallen = tuple(lsn._replace(is_closed=False, age=GRACE) for lsn in opened)
            following = state._replace(lsns=state.lsns[: state.slow] + fallen, slow=0)
            yield f"the floor is written as {state.slow}", following, "the floor falls"
        yield from self._deletions(state)

    def _deletions(self, state: State) -> Iterator[Step]:
        for number in range(1, state.floor() + 1):
            lsn = state.lsns[number - 1]
            is_due = not self._has_plans or (
                state.doomed >> number & 1 and (lsn.age >= GRACE or not self.rules.sweeps_only_old)
            )
            if lsn.here and is_due:
                following = _with_lsn(state, number, lsn._replace(here=0))
                yield f"commit {number} is deleted", following, self._missing(following)

    def _doomed_unlisted(self, floor: int, number: int, spared: int) -> int:
        if self.rules.lists_pins_after_plan or not self._has_plans:
            return 0
        return sum(1 << lsn for lsn in range(floor + 1, number + 1)) & ~spared

    def _sweeper(self, state: State) -> Iterator[Step]:
        """The floor is the plan. What a list of pins and children leaves out may be deleted."""
        needed = 0
        reader, fork = state.reader, state.fork
        if reader.phase in (Phase.ANNOUNCED, Phase.AT_WORK) and reader.age <= PIN:
            needed |= 1 << reader.lsn
        if fork.phase in (Phase.ANNOUNCED, Phase.AT_WORK) or (
            fork.phase is Phase.LOOKED and self.rules.registers_before_claim
        ):
            needed |= 1 << fork.lsn
        if self.rules.lists_pins_after_plan:
            planned = sum(1 << number for number in range(1, state.floor() + 1))
            following = state._replace(doomed=state.doomed | planned & ~needed)
        else:
            following = state._replace(spared=needed)
        if following != state:
            yield "the sweeper lists pins and children", following, ""

    # Writers ------------------------------------------------------------------------------------

    def _writer(self, state: State, number: int) -> Iterator[Step]:
        writer = state.writers[number]
        for lsn in _bits(writer.sent, self.lsns):
            if not state.lsns[lsn - 1].here:
                following = _claimed(state, number, lsn)
                yield f"has its claim of {lsn} arrive; no answer comes back", following, ""
        yield from self._ends(state, number)
        if writer.answer in (Answer.NONE, Answer.FLOOR) and writer.head < self.lsns:
            yield from self._asks(state, number)

    def _ends(self, state: State, number: int) -> Iterator[Step]:
        """What ends a request: the floor, a kill, or a clone instead of it."""
        writer = state.writers[number]
        is_asking = writer.answer not in (Answer.NONE, Answer.FLOOR)
        if is_asking:
            if self.rules.checks_floor and state.floor() > writer.head:
                yield self._rejoins(state, number)
            else:
                yield self._believes(state, number, writer.answer, writer.date, "reads the floor, ")
        if writer.answer or not self.rules.restart_keeps_proof:
            killed = writer._replace(answer=Answer.NONE, date=0)
            if not self.rules.restart_keeps_proof:
                killed = killed._replace(proof=0)
            yield "is killed and restarted", _with_writer(state, number, killed), ""
        if not writer.answer and not self.rules.checks_floor_after and writer.head < self.lsns:
            if state.floor() > writer.head:
                yield self._rejoins(state, number)
            else:
                looked = writer._replace(answer=Answer.FLOOR)
                yield "reads the floor", _with_writer(state, number, looked), ""
        newest = state.listed()
        if not writer.answer and not writer.is_pending and newest > writer.head:
            joined = writer._replace(head=newest, proof=0)
            yield f"clones at {newest}", _with_writer(state, number, joined), _returned(state)

    def _asks(self, state: State, number: int) -> Iterator[Step]:
        """Asks about the next LSN: a claim or a read."""
        writer, lsn = state.writers[number], state.writers[number].head + 1
        found = state.lsns[lsn - 1]
        if self._may_claim(state, number, lsn):
            sent = writer._replace(is_pending=True, sent=writer.sent | 1 << lsn)
            if sent != writer:
                yield f"sends a claim of {lsn}", _with_writer(state, number, sent), ""
            if not found.here:
                claimed = _with_writer(_claimed(state, number, lsn), number, sent)
                yield from self._answered(claimed, number, Answer.CREATED)
        if not found.here:
            absent = Answer.VANISHED if found.first else Answer.ABSENT
            yield from self._answered(state, number, absent)
        elif writer.is_pending and found.here == number + 1:
            yield from self._answered(state, number, Answer.SAME)
        else:
            yield from self._answered(state, number, Answer.OTHER)

    def _answered(self, state: State, number: int, answer: Answer) -> Iterator[Step]:
        """An answer is believed at once if its Date is near T, else after the floor."""
        writer = state.writers[number]
        for date in range(-self.skew, self.skew + 1):
            asked = f"{_QUESTIONS[answer].format(writer.head + 1)}, "
            is_near = not self.rules.dates_answers or writer.proof - date <= TRUST
            # Of a commit that says so, or one before it, nothing is deleted.
            is_near = is_near or writer.head < self.switched
            if is_near or writer.answer is Answer.FLOOR:
                yield self._believes(state, number, answer, date, asked)
            elif self.rules.checks_floor_after:
                waiting = writer._replace(answer=answer, date=date)
                yield f"{asked}too late to believe", _with_writer(state, number, waiting), ""
        is_dated = writer.head >= self.switched
        if self.has_undated and is_dated and self.rules.checks_floor_after:
            # A T that is as old as can be proves as little as none.
            waiting = writer._replace(answer=answer, date=TRUST + self.skew + 1)
            asked = f"{_QUESTIONS[answer].format(writer.head + 1)}, "
            yield f"{asked}without a Date", _with_writer(state, number, waiting), ""

    def _believes(self, state: State, number: int, answer: Answer, date: int, asked: str) -> Step:
        writer = state.writers[number]._replace(answer=Answer.NONE, date=0)
        lsn = writer.head + 1
        found, me = state.lsns[lsn - 1], number + 1
        oldest = TRUST + self.skew + 1
        date = min(date, oldest)
        fault = ""
        if answer in (Answer.ABSENT, Answer.VANISHED):
            if answer is Answer.VANISHED:
                fault = f"LSN {lsn} was claimed and is reported as absent"
            writer = writer._replace(proof=date)
            return f"{asked}knows of nothing new", _with_writer(state, number, writer), fault
        if found.is_closed:
            fault = f"LSN {lsn} is closed and was taken as new"
        is_won = answer is not Answer.OTHER
        if is_won and found.first != me:
            fault = f"LSN {lsn} has two winners"
        elif writer.is_pending and not is_won and found.first == me:
            fault = f"LSN {lsn} was claimed and is reported as lost"
        elif not is_won and found.here not in (0, found.first):
            fault = f"LSN {lsn} was deleted and came back"
        moves = {
            Answer.CREATED: True,
            Answer.SAME: not self.rules.own_keeps_proof,
            Answer.OTHER: not self.rules.read_keeps_proof,
        }[answer]
        writer = writer._replace(head=lsn, proof=date if moves else writer.proof, is_pending=False)
        verb = f"reports {lsn} won" if is_won else f"follows {lsn}"
        return asked + verb, _with_writer(state, number, writer), fault

    def _rejoins(self, state: State, number: int) -> Step:
        """The next LSN is closed: the roll says whose it was, and the writer clones."""
        writer, newest = state.writers[number], state.listed()
        lsn = writer.head + 1
        is_mine = state.lsns[lsn - 1].first == number + 1
        fault = _returned(state)
        outcome = ""
        if writer.is_pending:
            is_won = is_mine and self.rules.has_roll
            outcome = f", reports {lsn} {'won' if is_won else 'lost'}"
            if is_mine and not is_won:
                fault = f"LSN {lsn} was claimed and is reported as lost"
        joined = Writer(head=newest, sent=writer.sent)
        happening = f"finds {lsn} closed{outcome}, clones at {newest}"
        return happening, _with_writer(state, number, joined), fault

    # Segments -----------------------------------------------------------------------------------

    def _may_claim(self, state: State, number: int, lsn: int) -> bool:
        if not self.has_segments:
            return True
        age = state.segments[number][lsn - 1]
        if self.rules.segment_names_lsn or not self.rules.rechecks_segment:
            return age != _NEVER
        return age >= 0

    def _segments(self, state: State) -> Iterator[Step]:
        """Uploads, and the sweep of segments that no commit names."""
        for number, writer in enumerate(state.writers):
            ages = state.segments[number]
            for lsn in range(1, self.lsns + 1):
                age, found = ages[lsn - 1], state.lsns[lsn - 1]
                is_missing = age == _NEVER or (age == _GONE and not self.rules.segment_names_lsn)
                if lsn == writer.head + 1 and is_missing:
                    following = _with_segment(state, number, lsn, 0)
                    yield f"{'AB'[number]} uploads a segment for {lsn}", following, ""
                if self.rules.segment_names_lsn:
                    is_due = found.first not in (0, number + 1)
                else:
                    is_due = age >= GRACE and found.first != number + 1
                if age >= 0 and is_due:
                    following = _with_segment(state, number, lsn, _GONE)
                    happening = f"{'AB'[number]}'s segment for {lsn} is deleted"
                    yield happening, following, self._missing(following)

    # Readers and forks --------------------------------------------------------------------------

    def _reader(self, state: State) -> Iterator[tuple[str, Party]]:
        """Pins an LSN, then reads the plan; or reads the plan alone and has the grace period."""
        phase, lsn, age = state.reader
        floor = state.floor()
        if phase is Phase.NONE:
            for number in range(1, state.newest() + 1):
                if number > floor:
                    yield f"opens {number} without a pin", Party(Phase.UNPINNED, number)
                if self.rules.pins_before_plan:
                    yield f"writes a pin of {number}", Party(Phase.ANNOUNCED, number)
                elif number > floor:
                    yield f"reads the plan for {number}", Party(Phase.LOOKED, number)
            return
        yield "ends", Party()
        if phase is Phase.LOOKED:
            yield f"writes a pin of {lsn}", Party(Phase.AT_WORK, lsn)
        elif phase is Phase.ANNOUNCED and lsn > floor:
            yield f"finds {lsn} not in the plan", Party(Phase.AT_WORK, lsn, age)
        elif phase is Phase.AT_WORK and age:
            renewed = Phase.AT_WORK if age <= PIN else Phase.ANNOUNCED
            yield f"renews its pin of {lsn}", Party(renewed, lsn)

    def _fork(self, state: State) -> Iterator[tuple[str, Party]]:
        """Registers a child at its parent, reads the plan, and claims the child's first LSN."""
        phase, lsn, _ = state.fork
        floor = state.floor()
        registers_first = self.rules.registers_before_claim
        if phase is Phase.NONE:
            for number in range(1, state.newest() + 1):
                if registers_first:
                    yield f"registers at {number}", Party(Phase.ANNOUNCED, number)
                elif number > floor:
                    yield f"reads the plan for {number}", Party(Phase.LOOKED, number)
        elif phase is Phase.ANNOUNCED:
            if lsn > floor or not self.rules.fork_checks_plan:
                yield f"finds {lsn} not in the plan", Party(Phase.LOOKED, lsn)
            else:
                yield "is refused", Party()
        elif phase is Phase.LOOKED:
            claimed = Phase.AT_WORK if registers_first else Phase.UNPINNED
            yield "claims its first LSN", Party(claimed, lsn)
        elif phase is Phase.UNPINNED:
            yield f"registers at {lsn}", Party(Phase.AT_WORK, lsn)

    # What must be there -------------------------------------------------------------------------

    def _missing(self, state: State) -> str:
        """Return the fault if something that a commit, a reader or a fork needs is missing."""
        phase, number, age = state.reader
        is_entitled = age <= PIN if phase is Phase.AT_WORK else age < GRACE
        if phase >= Phase.AT_WORK and is_entitled and not state.lsns[number - 1].here:
            return f"the reader's LSN {number} is missing"
        if state.fork.phase >= Phase.AT_WORK and not state.lsns[state.fork.lsn - 1].here:
            return f"the fork's LSN {state.fork.lsn} is missing"
        if self.has_segments:
            for number, lsn in enumerate(state.lsns, 1):
                is_live = lsn.first and not lsn.is_closed
                if is_live and state.segments[lsn.first - 1][number - 1] < 0:
                    return f"the segment of LSN {number} is missing"
        return ""


_QUESTIONS = {
    Answer.CREATED: "claims {}",
    Answer.SAME: "reads its own {}",
    Answer.OTHER: "reads {}",
    Answer.ABSENT: "finds no {}",
    Answer.VANISHED: "finds no {}",
}


def _returned(state: State) -> str:
    """Return the fault if the newest commit of a listing was deleted before."""
    number = state.listed()
    is_first = not number or state.lsns[number - 1].here == state.lsns[number - 1].first
    return "" if is_first else f"LSN {number} was deleted and came back"


def _with_lsn(state: State, number: int, lsn: Lsn) -> State:
    return state._replace(lsns=(*state.lsns[: number - 1], lsn, *state.lsns[number:]))


def _with_writer(state: State, number: int, writer: Writer) -> State:
    return state._replace(writers=(*state.writers[:number], writer, *state.writers[number + 1 :]))


def _with_segment(state: State, number: int, lsn: int, age: int) -> State:
    ages = state.segments[number]
    changed = (*ages[: lsn - 1], age, *ages[lsn:])
    return state._replace(
        segments=(*state.segments[:number], changed, *state.segments[number + 1 :])
    )


def _claimed(state: State, number: int, lsn: int) -> State:
    """The store creates the commit, which is the first of its LSN or a deleted one's successor."""
    found = state.lsns[lsn - 1]
    if found.first:
        return _with_lsn(state, lsn, found._replace(here=number + 1))
    return _with_lsn(state, lsn, Lsn(number + 1, number + 1))
