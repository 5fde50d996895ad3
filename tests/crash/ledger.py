"""What a scenario was promised, and what a crash at any instant may therefore leave.

A tag goes through *states*, each the whole content of its database. A state has a begin, from
which on a crash may leave it, and an end, at which it was acknowledged. After a crash the tag shows
one state, whole: not before the newest that was promised, not behind the newest that had begun.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apsw

from graft_vfs.ids import LogId
from tests.support import sql

Content = dict[str, list[Any]]
ABSENT: Content = {"absent": []}
EMPTY: Content = {"schema": []}


@dataclass(frozen=True, slots=True)
class State:
    """Content that was begun to be written behind one instant and acknowledged at another."""

    content: Content
    begun: int
    acknowledged: int
    survives_power_cut: bool


@dataclass(frozen=True, slots=True)
class Push:
    """A push of all states up to one, by its place in the list; ours or another machine's.

    With `content`, the other machine pushed this, which the tag never shows.
    """

    newest: int
    begun: int
    acknowledged: int
    is_ours: bool
    content: Content | None = None


@dataclass(slots=True)
class Kept:
    """Content that a kept branch has behind one instant, until another begins to change that."""

    content: Content
    since: int
    until: int | None = None


class Ledger:
    """The states and pushes of every tag. `clock` gives the number of effects so far.

    `followers` are tags to whose log another machine pushes, too. `logs` has every tag's log.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.states: dict[str, list[State]] = {}
        self.pushes: dict[str, list[Push]] = {}
        self.kept: dict[str, list[Kept]] = {}
        self.followers: set[str] = set()
        self.logs: dict[str, LogId] = {}
        self._clock = clock

    def begin(self, tag: str, content: Content = ABSENT) -> None:
        """Say what a tag shows before the scenario."""
        self.states[tag] = [State(content, -1, 0, True)]
        self.pushes[tag] = []
        self.kept[tag] = []

    def keep(self, tag: str, content: Content) -> None:
        """Note that a kept branch has this content now, durably."""
        self.kept[tag].append(Kept(content, self._clock()))

    def keeps_no_longer(self, tag: str, content: Content) -> None:
        """Note that the branch with this content will be gone back to, or removed."""
        (kept,) = [each for each in self.kept[tag] if each.content == content]
        kept.until = self._clock()

    def kept_at(self, tag: str, time: int) -> list[Content]:
        """Return what kept branches of a tag must have after a crash at `time`."""
        return [
            each.content
            for each in self.kept[tag]
            if each.since <= time and (each.until is None or time <= each.until)
        ]

    @contextlib.contextmanager
    def step(
        self, tag: str, *through: Content | apsw.Connection, survives_power_cut: bool = True
    ) -> Iterator[None]:
        """Note that the block takes the tag to new content, at once or through other content.

        A connection stands for what it shows at the block's end.
        """
        begun = self._clock()
        yield
        acknowledged = self._clock()
        for each in through:
            content = sql.content(each) if isinstance(each, apsw.Connection) else each
            state = State(content, begun, acknowledged, survives_power_cut)
            self.states[tag].append(state)

    @contextlib.contextmanager
    def push(self, tag: str) -> Iterator[None]:
        """Note that the block pushes what the tag shows."""
        newest = len(self.states[tag]) - 1
        begun = self._clock()
        yield
        self.pushes[tag].append(Push(newest, begun, self._clock(), is_ours=True))

    @contextlib.contextmanager
    def push_of_another_machine(self, tag: str, content: Content | None = None) -> Iterator[None]:
        """Note that another machine pushes, in the block, the state that the tag shows next.

        Or, with `content`, that, from which the tag has diverged.
        """
        begun = self._clock()
        yield
        push = Push(len(self.states[tag]), begun, self._clock(), is_ours=False, content=content)
        self.pushes[tag].append(push)

    @contextlib.contextmanager
    def catch_up(
        self, tag: str
    ) -> Iterator[Callable[[Content], contextlib.AbstractContextManager[None]]]:
        """Note that another machine pushes states of a tag, and that it shows the last at the end.

        Each push is the block of a call of what this yields.
        """
        pushed: list[tuple[Content, int]] = []

        @contextlib.contextmanager
        def push(content: Content) -> Iterator[None]:
            begun = self._clock()
            yield
            newest = len(self.states[tag]) + len(pushed)
            self.pushes[tag].append(Push(newest, begun, self._clock(), is_ours=False))
            pushed.append((content, begun))

        yield push
        acknowledged = self._clock()
        self.states[tag] += [State(content, at, acknowledged, True) for content, at in pushed]

    def allowed(self, tag: str, time: int, *, power_cut: bool) -> list[Content]:
        """Return what the tag may show after a crash at `time`, oldest first."""
        states = self.states[tag]
        promised = [
            number
            for number, state in enumerate(states)
            if state.acknowledged <= time and (state.survives_power_cut or not power_cut)
        ]
        # What the remote has cannot be lost by what happens here.
        promised += [
            push.newest for push in self.pushes[tag] if push.is_ours and push.acknowledged <= time
        ]
        begun = [number for number, state in enumerate(states) if state.begun < time]
        newest = max(*promised, *begun)
        return [state.content for state in states[max(promised) : newest + 1]]

    def allowed_on_remote(self, tag: str, time: int) -> list[Content]:
        """Return what the remote may have of the tag after a crash at `time`, oldest first."""
        states = [
            ABSENT,
            *(push.content or self.states[tag][push.newest].content for push in self.pushes[tag]),
        ]
        done = sum(push.acknowledged <= time for push in self.pushes[tag])
        begun = sum(push.begun < time for push in self.pushes[tag])
        return states[done : max(done, begun) + 1]
