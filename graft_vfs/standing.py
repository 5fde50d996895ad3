"""How a volume stands to its remote log, in one word for people and one for programs."""

from __future__ import annotations

import enum


class Standing(enum.Enum):
    """How a volume stands to its remote log; the values stay, for scripts."""

    UP_TO_DATE = "up_to_date"
    """It shows the newest remote commit that is known here, and nothing else."""

    AHEAD = "ahead"
    """It has local commits that are not pushed."""

    BEHIND = "behind"
    """Remote commits are known that it does not stand on."""

    DIVERGED = "diverged"
    """Both: the remote has commits that the local ones do not stand on."""

    UNPUBLISHED = "unpublished"
    """It is a fork whose log is not on the remote yet."""

    NO_COMMITS = "no_commits"
    """Neither the volume nor its remote log has a commit."""

    NO_REMOTE = "no_remote"
    """No remote is configured."""

    UNREADABLE = "unreadable"
    """Its files cannot be read, for the reason that is reported with it."""

    @classmethod
    def of(
        cls, *, has_remote: bool, ahead: int, behind: int, unpublished: bool, attached: bool
    ) -> Standing:
        """Return how a volume stands whose files can be read."""
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
