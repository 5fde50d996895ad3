"""What a verification finds wrong: for people, and for the repair of a commit."""

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
    """One thing that is wrong: where, what, what `--repair` would do or did, else what to do."""

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
    """What a finding is about, as far as a repair is concerned."""

    HOLE = "a commit is missing"
    DAMAGED = "the bytes of a commit object are no commit, or its frames are damaged"
    SEGMENT = "a segment is missing or damaged"
    OTHER = "no object that could be written again"


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding about one LSN, and what kind of repair it takes."""

    lsn: RemoteLsn
    kind: FaultKind
    finding: Finding


@dataclass(frozen=True, slots=True)
class Link:
    """How a commit is chained: its hash, and the hash that it names as that of the one before."""

    hash: bytes
    previous_hash: bytes
