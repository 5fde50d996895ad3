"""Faults found by a verification: for users, and for the repair of a commit."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from graft_vfs.advice import Audience, Hint, Worded, words
from graft_vfs.pages import RemoteLsn

OTHER_MACHINE = (
    "run fsck --repair on a machine that pushed or read it, or restore the object from a backup"
)


@dataclass(frozen=True, slots=True)
class Finding(Worded):
    """One fault: where, what, what `--repair` would do or did, else what to do."""

    where: str
    problem: str
    repair: str | None = None
    is_repaired: bool = False
    next_step: str | Hint | None = None

    def words(self, audience: Audience) -> str:
        """Return the line for one audience."""
        step = f"; next: {words(self.next_step, audience)}" if self.next_step else ""
        if self.is_repaired:
            return f"repaired {self.where}: {self.problem}; {self.repair}"
        plan = f"; --repair {self.repair}" if self.repair else step
        return f"problem  {self.where}: {self.problem}{plan}"


class FaultKind(enum.Enum):
    """The kind of a finding, for repairs."""

    HOLE = "a commit is missing"
    DAMAGED = "a commit object is not a valid commit, or its frames are damaged"
    SEGMENT = "a segment is missing or damaged"
    OTHER = "not an object that can be rewritten"


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding about one LSN, and the kind of its repair."""

    lsn: RemoteLsn
    kind: FaultKind
    finding: Finding


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the chain: a commit's hash, and the previous hash that it names."""

    hash: bytes
    previous_hash: bytes
