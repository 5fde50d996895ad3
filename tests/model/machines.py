"""What several machines and their remote must look like, in plain Python.

A remote is a list of commits for each log, and names of logs. A machine knows some length of each
log, and has volumes; a volume is a base, local commits on it, and perhaps a push that has no known
end. `ModelMachine` does to these what the verbs of the engine must do to the real ones. It is told
which effects a verb had on the store and which fault one of them met, and answers how the verb must
end; the rest follows from the model alone.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from graft_vfs.ids import LogId, VolumeId
from tests.model.pager import Content
from tests.support.faults import Fault


class Outcome(enum.Enum):
    """How a verb ends."""

    DONE = "it did what it says"
    NOTHING = "there was nothing to do"
    DIVERGED = "refused: both sides have commits"
    TAKEN = "refused: another log has the name"
    UNKNOWN = "unknown whether the push landed"
    UNAVAILABLE = "the store said no"
    STOPPED = "the process ended"


class Ended(Exception):  # noqa: N818 - it is how a step of the model ends, and no error
    """The verb ends here."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(eq=False)
class Commit:
    """A remote commit: what it shows, and how many local commits it rolls up."""

    content: Content = field(repr=False)
    local_commits: int


@dataclass
class Push:
    """A push whose end is not known."""

    log: LogId
    lsn: int
    commit: Commit


Base = tuple[LogId, int]


@dataclass
class ModelRemote:
    """All logs, the refs that name some of them, and on which commit a forked log stands."""

    logs: dict[LogId, list[Commit]] = field(default_factory=lambda: defaultdict(list))
    refs: dict[str, LogId] = field(default_factory=dict)
    parents: dict[LogId, Base] = field(default_factory=dict)
    has_probe_key: bool = False


@dataclass
class ModelVolume:
    """A volume. `local` are the contents after each local commit that is not on the remote."""

    id: VolumeId
    log: LogId
    base: Base | None
    base_content: Content
    local: list[Content] = field(default_factory=list)
    lsn: int = 0
    pending: Push | None = None
    wanted: str | None = None
    """The name that its log is to get, from before the ref is made until the log has a commit."""

    @property
    def content(self) -> Content:
        """What a reader sees."""
        return self.local[-1] if self.local else self.base_content

    @property
    def is_forked(self) -> bool:
        """Tell whether it stands on another log than its own, which has no commit of it yet."""
        return self.base is not None and self.base[0] != self.log

    @property
    def base_lsn(self) -> int:
        """The LSN of its own log that it stands on."""
        return 0 if self.base is None or self.is_forked else self.base[1]

    def commit(self, content: Content) -> None:
        """Commit locally."""
        self.local.append(content)
        self.lsn += 1


Effects = list[tuple[str, Fault | None]]


class ModelMachine:
    """One machine: what it knows of the remote, its tags, and every volume that it ever had."""

    def __init__(self, remote: ModelRemote) -> None:
        self.remote = remote
        self.known: dict[LogId, int] = defaultdict(int)
        self.tags: dict[str, ModelVolume] = {}
        self.volumes: list[ModelVolume] = []
        self.is_probed = False
        self._effects: Effects = []
        self._is_cut = False

    def add(self, tag: str, volume: ModelVolume) -> None:
        """Point a tag at a new volume."""
        self.tags[tag] = volume
        self.volumes.append(volume)

    def standing(self, volume: ModelVolume) -> tuple[int, int]:
        """How many local commits the remote lacks, and how many of its own, as far as known here.

        A push that is known to have its LSN counts as settled.
        """
        push, known = volume.pending, self.known[volume.log]
        if push is not None and push.lsn <= known:
            commit = self.remote.logs[push.log][push.lsn - 1]
            if commit is push.commit:
                return len(volume.local) - commit.local_commits, known - push.lsn
        return len(volume.local), max(0, known - volume.base_lsn)

    # Verbs ------------------------------------------------------------------------------------

    def fetch(self, log: LogId) -> None:
        """Learn all commits of a log, and first those of the log that it stands on."""
        newest = len(self.remote.logs[log])
        parent = self.remote.parents.get(log)
        if newest and not self.known[log] and parent and self.known[parent[0]] < parent[1]:
            self.fetch(parent[0])
        self.known[log] = newest

    def push(
        self, tag: str, effects: Effects, planned: int | None, name: str | None = None
    ) -> Outcome:
        """Settle an earlier push, then push the first `planned` local commits; None means all."""
        self._effects, self._is_cut = list(effects), False
        try:
            volume = self.tags[tag]
            name = name or volume.wanted or tag
            has_failed = self._settle(volume, name)
            if volume.wanted and self.known[volume.log] and not has_failed:
                self._name(volume, name)
            outcome = self._push(volume, name, planned)
        except Ended as ended:
            outcome = ended.outcome
        assert not self._effects, "there were unexpected effects"
        return outcome

    def planned(self, volume: ModelVolume) -> int | None:
        """Return how many local commits a push plans; None if that depends on its first claim.

        What is committed before the claim is not part of the push, unless the claim is that of an
        earlier push: a push whose LSN is not taken yet is settled by claiming it again.
        """
        push = volume.pending
        if push is None:
            return len(volume.local)
        commits = self.remote.logs[push.log]
        if len(commits) < push.lsn:
            return None
        is_ours = commits[push.lsn - 1] is push.commit
        return len(volume.local) - (push.commit.local_commits if is_ours else 0)

    def _push(self, volume: ModelVolume, name: str, planned: int | None) -> Outcome:
        if not volume.local and not volume.is_forked:
            return Outcome.NOTHING
        base = volume.base_lsn
        if self.known[volume.log] > base:
            return Outcome.DIVERGED
        self._probe()
        is_named = base == 0 and self._reserve(volume, name)
        self._upload()
        count = len(volume.local) if planned is None else planned
        content = volume.local[count - 1] if count else volume.base_content
        volume.pending = Push(volume.log, base + 1, Commit(content, count))
        if volume.is_forked:
            assert volume.base is not None
            self.remote.parents[volume.log] = volume.base
        if not self._claim(volume, in_doubt=False):
            return Outcome.DIVERGED
        if is_named:
            volume.wanted = None
        self._land(volume)
        return Outcome.DONE

    def pull(self, tag: str, effects: Effects) -> Outcome:
        """Settle, fetch, and move an unchanged volume to the newest commit."""
        self._effects, self._is_cut = list(effects), False
        volume = self.tags[tag]
        try:
            self._settle(volume, tag)
        except Ended as ended:
            return ended.outcome
        if self._is_cut:
            return Outcome.UNAVAILABLE
        self.fetch(volume.log)
        commits = self.remote.logs[volume.log]
        if len(commits) <= volume.base_lsn:
            return Outcome.NOTHING
        if volume.local:
            return Outcome.DIVERGED
        volume.base = volume.log, len(commits)
        volume.base_content = commits[-1].content
        return Outcome.DONE

    # Steps ------------------------------------------------------------------------------------

    def _effect(self, kind: str) -> Fault | None:
        """Take the next effect, which must be of this kind; a line that is cut ends the verb."""
        if self._is_cut:
            raise Ended(Outcome.UNAVAILABLE)
        found, fault = self._effects.pop(0)
        assert found == kind
        self._is_cut = fault in {Fault.CUT_BEFORE, Fault.CUT_AFTER}
        return fault

    def _probe(self) -> None:
        """Test writes, before a machine first sends something, until one is refused."""
        while not self.is_probed:
            fault = self._effect("probe")
            if fault is Fault.NOT_SENT:
                raise Ended(Outcome.UNAVAILABLE)
            was_there = self.remote.has_probe_key
            if fault not in {Fault.LOST_REQUEST, Fault.CUT_BEFORE, Fault.STOP_BEFORE}:
                self.remote.has_probe_key = True
            if fault is not None and _stopped(fault):
                raise Ended(Outcome.STOPPED)
            self.is_probed = fault is None and was_there

    def _upload(self) -> None:
        """A segment, if the commit is too large to carry its pages."""
        if self._effects and self._effects[0][0] == "segments":
            fault = self._effect("segments")
            if fault is not None:
                raise Ended(_stopped(fault) or Outcome.UNAVAILABLE)

    def _settle(self, volume: ModelVolume, tag: str) -> bool:
        """Find out how an earlier push ended; return True if its log could not be named."""
        name = volume.wanted or tag
        push = volume.pending
        if push is None:
            return False
        commits = self.remote.logs[push.log]
        is_there = len(commits) >= push.lsn
        is_ours = is_there and commits[push.lsn - 1] is push.commit
        is_known = self.known[push.log] >= push.lsn
        if not is_ours and not is_known and self._effects and self._effects[0][0] == "logs":
            # It was absent when it was read; a rival may have been faster than the write.
            is_ours = self._claim(volume, in_doubt=True)
        elif not is_ours:
            assert is_there
            self.fetch(push.log)
            volume.pending = None
        if is_ours and push.lsn == 1:
            self._name(volume, name)
        if is_ours:
            self._land(volume)
        return is_ours and volume.wanted is not None

    def _claim(self, volume: ModelVolume, *, in_doubt: bool) -> bool:
        """Write the pending commit if its LSN is free; return True if that LSN is ours."""
        push = volume.pending
        assert push is not None
        if self._is_cut:
            assert not in_doubt
            volume.pending = None
        fault = self._effect("logs")
        if fault is Fault.NOT_SENT and not in_doubt:
            volume.pending = None
            raise Ended(Outcome.UNAVAILABLE)
        if fault not in {Fault.CUT_BEFORE, Fault.STOP_BEFORE}:
            self.arrive(push)
        if fault is not None and _stopped(fault):
            raise Ended(Outcome.STOPPED)
        if fault in {Fault.CUT_BEFORE, Fault.CUT_AFTER}:
            raise Ended(Outcome.UNKNOWN)
        if fault is not None:  # It is sent again, and that has an answer.
            self._effect("logs")
        is_ours = self.remote.logs[push.log][push.lsn - 1] is push.commit
        if not is_ours:
            self.fetch(push.log)
            volume.pending = None
        return is_ours

    def arrive(self, push: Push) -> None:
        """A write of a commit reaches the remote, at once or late."""
        commits = self.remote.logs[push.log]
        assert len(commits) >= push.lsn - 1
        if len(commits) == push.lsn - 1:
            commits.append(push.commit)

    def arrival(self, tag: str, key: str) -> Callable[[], object]:
        """Return what a write that a sync of `tag` has just sent will do when it arrives."""
        volume = self.tags[tag]
        push = volume.pending
        if key.startswith("probe/"):
            return lambda: setattr(self.remote, "has_probe_key", True)
        if key.startswith("refs/"):
            name = volume.wanted or tag
            return lambda: self.remote.refs.setdefault(name, volume.log)
        if push is not None and key.startswith("logs/"):
            return lambda: self.arrive(push)
        # It was sent again.
        return lambda: None

    def _land(self, volume: ModelVolume) -> None:
        """Stand on the commit that was claimed."""
        push = volume.pending
        assert push is not None
        volume.base = push.log, push.lsn
        volume.base_content = push.commit.content
        del volume.local[: push.commit.local_commits]
        volume.pending = None
        self.known[push.log] = max(self.known[push.log], push.lsn)

    def _reserve(self, volume: ModelVolume, name: str) -> bool:
        """Make the ref before the first commit; return True if that is known to be ours."""
        volume.wanted = name
        self._name(volume, name)
        if volume.wanted is not None:
            return False
        if self.remote.refs[name] != volume.log:
            raise Ended(Outcome.TAKEN)
        volume.wanted = name
        return True

    def _name(self, volume: ModelVolume, name: str) -> None:
        """Make the ref; without an answer a later push tries again, and this one goes on."""
        try:
            fault = self._effect("refs")
        except Ended:
            volume.wanted = name
            return
        if fault not in {Fault.NOT_SENT, Fault.CUT_BEFORE, Fault.STOP_BEFORE}:
            self.remote.refs.setdefault(name, volume.log)
        if fault is not None and _stopped(fault):
            raise Ended(Outcome.STOPPED)
        is_unknown = fault in {Fault.NOT_SENT, Fault.CUT_BEFORE, Fault.CUT_AFTER}
        volume.wanted = name if is_unknown else None
        if fault is not None and not is_unknown:
            self._effect("refs")


def _stopped(fault: Fault) -> Outcome | None:
    return Outcome.STOPPED if fault in {Fault.STOP_BEFORE, Fault.STOP_AFTER} else None
