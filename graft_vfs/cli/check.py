"""One check of the doctor: its subject, severity and next step."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from graft_vfs.advice import Audience
from graft_vfs.cli.output import without_credentials
from graft_vfs.errors import GraftError


class Level(enum.Enum):
    """The severity of a check."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: its subject, the finding, and the next step."""

    name: str
    level: Level
    text: str
    next_step: str | None = None

    def __str__(self) -> str:
        step = f"; next: {self.next_step}" if self.next_step else ""
        return f"{self.level.value:<8} {self.name}: {self.text}{step}"


def problem(name: str, error: GraftError) -> Check:
    """Return the check for a declared error."""
    return Check(
        name, Level.PROBLEM, without_credentials(error.message), error.next_step_for(Audience.CLI)
    )
