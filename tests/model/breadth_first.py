"""Exhaustive search of a small protocol: every reachable state, the shortest way to a fault.

A protocol is a start, the steps from a state, and a canonical form: states of one form behave
alike. The search is deterministic. It keeps each form once, with the form that led to it, and
replays the path to a fault from the start, so that a trace names the same actor throughout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

State = TypeVar("State", bound=Hashable)


class Explorable(Protocol[State]):
    """What the search needs. A step is (what happens, the state after it, a fault or "")."""

    def start(self) -> State: ...

    def steps(self, state: State) -> Iterator[tuple[str, State, str]]: ...

    def canonical(self, state: State) -> State: ...


@dataclass(frozen=True)
class Search:
    """How a search ended: the number of states, and the first fault with its shortest trace."""

    states: int
    fault: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.states} states, {self.fault or 'no fault'}"]
        lines += [f"  {number:2}. {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join(lines)


def search(protocol: Explorable[State], sought: str = "") -> Search:
    """Visit every reachable state once, nearest first, until a step has a fault.

    With `sought`, only a fault that contains this text ends the search.
    """
    first = protocol.canonical(protocol.start())
    came_from: dict[State, State | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        for _, following, fault in protocol.steps(state):
            if fault and sought in fault:
                path = _path(came_from, state)
                return Search(len(came_from), *_replay(protocol, path, sought))
            form = protocol.canonical(following)
            if form not in came_from:
                came_from[form] = state
                queue.append(form)
    return Search(len(came_from))


def _path(came_from: dict[State, State | None], last: State) -> list[State]:
    path: list[State] = []
    at: State | None = last
    while at is not None:
        path.append(at)
        at = came_from[at]
    return path[-2::-1]  # Without the start.


def _replay(
    protocol: Explorable[State], path: list[State], sought: str
) -> tuple[str, tuple[str, ...]]:
    """Walk along the forms from the start, and return the fault at their end and all steps."""
    state, trace = protocol.start(), []
    for form in path:
        happening, state = next(
            (happening, following)
            for happening, following, _ in protocol.steps(state)
            if protocol.canonical(following) == form
        )
        trace.append(happening)
    happening, fault = next(
        (each, fault) for each, _, fault in protocol.steps(state) if fault and sought in fault
    )
    return fault, (*trace, happening)
