"""The state of a volume relative to its remote log, as one word for users and for programs."""

from __future__ import annotations

import enum


class Standing(enum.Enum):
    """The state of a volume relative to its remote log; the values are stable, for scripts."""

    UP_TO_DATE = "up_to_date"
    """It is at the newest known remote commit, without local commits."""

    AHEAD = "ahead"
    """It has unpushed commits."""

    BEHIND = "behind"
    """There are known remote commits after its base."""

    DIVERGED = "diverged"
    """Both: it has local commits, and the remote has commits after its base."""

    UNPUBLISHED = "unpublished"
    """It is a fork whose log is not on the remote yet."""

    NO_COMMITS = "no_commits"
    """Neither the volume nor its remote log has commits."""

    NO_REMOTE = "no_remote"
    """No remote is configured."""

    UNREADABLE = "unreadable"
    """Its files cannot be read, for the reason that is reported with it."""

    @classmethod
    def of(
        cls, *, has_remote: bool, ahead: int, behind: int, unpublished: bool, attached: bool
    ) -> Standing:
        """Return the state of a readable volume."""
        has_own = ahead > 0 or unpublished
        if not has_remote:
            return cls.NO_REMOTE
        if has_own and behind:
            return cls.DIVERGED
        if ahead:
            return cls.AHEAD
        if unpublished:
            return cls.UNPUBLISHED
        if behind:
            return cls.BEHIND
        return cls.UP_TO_DATE if attached else cls.NO_COMMITS

    def text(self, *, ahead: int, behind: int) -> str:
        """Return the words for a table, such as `ahead 3`."""
        words = self.value.replace("_", " ")
        count = {Standing.AHEAD: ahead, Standing.BEHIND: behind}.get(self)
        return words if count is None else f"{words} {count}"
