"""Three machines on one remote against a model of it: nothing lost, doubled, or told wrongly.

Machines write, push, pull, fetch, fork, clone, check out, switch and are killed in any order. The
line to the remote fails at any effect, before it or behind it, and may deliver a write long after;
rivals push, and the machine itself commits, in the middle of a push. The model (`machines`) says
how each verb must end, what each machine must show and report, and what each remote LSN must hold.
At the end a machine that has seen nothing yet reads all of it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graft_vfs.engine.config import Config
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    AlreadyExistsError,
    CommitOutcomeUnknownError,
    DivergedError,
    NotFoundError,
    StoreUnavailableError,
)
from graft_vfs.remote import entries
from graft_vfs.remote.claim import claim
from graft_vfs.store import probe
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.sync import build as build_module
from graft_vfs.sync import settle as settle_module
from graft_vfs.volume import rotation, transaction
from tests.model.exploring import explore, explore_deeply, scratch_directory
from tests.model.machines import Commit, ModelMachine, ModelRemote, ModelVolume, Outcome
from tests.model.network import KINDS, Line, Network
from tests.model.pager import Content, Pager, image_of
from tests.support.faults import Fault, ProcessStopped

MACHINES = 3
PAGES_MAX = 10

machines = st.integers(0, MACHINES - 1)
tags = st.sampled_from(("main", "main", "other"))
pages = st.lists(st.integers(1, PAGES_MAX), min_size=1, max_size=4)
cuts = st.integers(0, PAGES_MAX)
lines = st.builds(
    Line,
    fault=st.sampled_from((None, *Fault)),
    kind=st.sampled_from(("logs", "logs", "logs", *KINDS)),
    skips_one=st.sampled_from((False, False, True)),
    arrives_late=st.booleans(),
    is_doubling=st.booleans(),
)

ENDS = {
    AlreadyExistsError: Outcome.TAKEN,
    DivergedError: Outcome.DIVERGED,
    CommitOutcomeUnknownError: Outcome.UNKNOWN,
    StoreUnavailableError: Outcome.UNAVAILABLE,
    ProcessStopped: Outcome.STOPPED,
}


def ending(verb: Callable[[], bool]) -> Outcome:
    """Do a verb and tell how it ended."""
    try:
        return Outcome.DONE if verb() else Outcome.NOTHING
    except tuple(ENDS) as error:
        return ENDS[type(error)]


class Machine:
    """A real machine and its model."""

    def __init__(
        self,
        directory: Path,
        objects: MemoryObjects,
        under_way: list[tuple[str, bytes]],
        remote: ModelRemote,
    ) -> None:
        self.directory = directory
        self.objects = objects
        self.under_way = under_way
        self.model = ModelMachine(remote)
        self.stack = contextlib.ExitStack()
        self.engine: Graft
        self.network: Network
        self.start()

    def start(self) -> None:
        """Start the engine; the one before was killed, if there was one."""
        self.network = Network(MemoryStore(self.objects), self.under_way)
        self.engine = Graft(Config(data_dir=self.directory), store=self.network)
        self.stack.callback(self.engine.close)

    def adopt(self, tag: str, content: Content, *, local: bool = False) -> ModelVolume:
        """Make the model of the volume that a verb has just pointed `tag` at."""
        volume_id = self.engine.open(tag).id
        log = self.engine.catalog.volume(volume_id).remote
        volume = ModelVolume(volume_id, log, None, content)
        if local:
            volume.base_content = ()
            volume.commit(content)
        self.model.add(tag, volume)
        return volume


class ReplicasMachine(RuleBasedStateMachine):
    """Machines by number; each verb is done to the real one and to its model."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        self.stack = contextlib.ExitStack()
        self.directory = Path(self.stack.enter_context(scratch_directory()))
        self.objects = MemoryObjects()
        self.remote = ModelRemote()
        self.machines: list[Machine] = []
        self.under_way: list[tuple[str, bytes]] = []
        self.arrivals: list[Callable[[], object]] = []
        self.version = 0
        seen["examples"] += 1
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(settle_module, "claim", functools.partial(claim, sleep=lambda _: None))
        patch.setattr(entries, "_PAUSE_SECONDS", 0)
        patch.setattr(probe, "_PAUSE_SECONDS", 0)
        self.patch = patch

    @initialize(
        page_size=st.sampled_from((512, 4096)),
        is_rotating=st.booleans(),
        line=lines,
        is_pull=st.booleans(),
    )
    def start(self, page_size: int, is_rotating: bool, line: Line, is_pull: bool) -> None:
        """All machines have the first one's database, whose first push may end in any way."""
        self.page_size = page_size
        self.patch.setattr(transaction, "STAGED_BYTES_MAX", 3 * page_size)
        self.patch.setattr(build_module, "INLINE_BYTES_MAX", 6 * page_size)
        if is_rotating:
            self.patch.setattr(rotation, "ROTATE_BYTES", 0)
            self.patch.setattr(rotation, "COMPACT_BYTES", 8 * page_size)
        for number in range(MACHINES):
            self.add_machine(f"machine {number}")
        first = self.machines[0]
        first.engine.open("main", create=True)
        first.adopt("main", ())
        self.write(0, "main", [1, 2, 3], 0)
        self.push(0, "main", line)
        if is_pull:
            self.pull(0, "main", Line())
        self.push(0, "main", Line())
        for number in range(1, MACHINES):
            self.clone(number, "main", "main")

    def add_machine(self, name: str) -> Machine:
        machine = Machine(self.directory / name, self.objects, self.under_way, self.remote)
        self.stack.callback(machine.stack.close)
        self.machines.append(machine)
        return machine

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.read_everything_on_a_new_machine()
        finally:
            self.stack.close()

    # Local ------------------------------------------------------------------------------------

    @rule(number=machines, tag=tags, chosen=pages, cut=cuts)
    def write(self, number: int, tag: str, chosen: list[int], cut: int) -> None:
        """Commit a transaction."""
        volume = self.machines[number].model.tags.get(tag)
        if volume is None:
            return
        pager, content = self.begin_write(number, tag, chosen)
        count = len(content) - cut if cut < len(content) else len(content)
        pager.commit(count)
        pager.close()
        volume.commit(tuple(content[:count]))
        self.seen["commits"] += 1

    def begin_write(self, number: int, tag: str, chosen: list[int]) -> tuple[Pager, list[bytes]]:
        machine = self.machines[number]
        content = list(machine.model.tags[tag].content)
        pager = Pager(machine.engine.open(tag), self.page_size)
        pager.begin()
        pager.begin_write()
        for page in chosen if content else [1, *chosen]:
            self.version += 1
            image = image_of(page, self.version, self.page_size)
            pager.write(page, image)
            content += [bytes(self.page_size)] * (page - len(content))
            content[page - 1] = image
        return pager, content

    @rule(number=machines, tag=tags, chosen=pages, is_killed=st.booleans())
    def leave_unfinished(self, number: int, tag: str, chosen: list[int], is_killed: bool) -> None:
        """Roll a transaction back, or kill the machine in the middle of it and start it again."""
        machine = self.machines[number]
        volume = machine.model.tags.get(tag)
        if volume is None:
            return
        pager, _ = self.begin_write(number, tag, chosen)
        pager.spill()
        if is_killed:
            pager.abandon()
            machine.start()
            self.seen["killed"] += 1
        else:
            pager.roll_back(volume.content)
            pager.close()
        for each in machine.model.tags:
            self.check_content(machine, each)

    # Sync -------------------------------------------------------------------------------------

    @rule(
        number=machines,
        tag=tags,
        chosen=pages,
        catches_up=st.booleans(),
        meanwhile=st.sampled_from(("nothing", "a rival pushes", "it commits")),
        rival=machines,
        line=lines,
    )
    def write_and_push(  # noqa: PLR0917 - hypothesis draws them by name
        self,
        number: int,
        tag: str,
        chosen: list[int],
        catches_up: bool,
        meanwhile: str,
        rival: int,
        line: Line,
    ) -> None:
        """Push a commit; before its claim, another machine may push, or this one commit."""

        def happen() -> None:
            if meanwhile == "it commits":
                self.write(number, tag, chosen, 0)
                self.seen["commits during a push"] += 1
            elif meanwhile == "a rival pushes" and rival != number:
                self.write(rival, tag, chosen, 0)
                self.push(rival, tag, Line())
                self.seen["rivals during a push"] += 1

        if catches_up:
            self.catch_up(number, tag)
        self.write(number, tag, chosen, 0)
        self.push(number, tag, line, before_claim=happen)

    def catch_up(self, number: int, tag: str) -> None:
        """Get to where a push can land: pull, and where that is refused clone again."""
        self.pull(number, tag, Line())
        model = self.machines[number].model
        volume = model.tags.get(tag)
        if volume is not None and all(model.standing(volume)):
            self.clone(number, "main", tag)

    def unsettled(self) -> list[tuple[int, str]]:
        """Return (machine, tag) of each push whose end is not known."""
        return [
            (number, tag)
            for number, machine in enumerate(self.machines)
            for tag, volume in machine.model.tags.items()
            if volume.pending is not None
        ]

    @precondition(unsettled)
    @rule(choice=st.integers(0, 5), line=lines, is_pull=st.booleans())
    def settle(self, choice: int, line: Line, is_pull: bool) -> None:
        """Sync where a push has no known end, perhaps over a bad line again."""
        unsettled = self.unsettled()
        number, tag = unsettled[choice % len(unsettled)]
        self.seen["settled"] += 1
        if is_pull:
            self.pull(number, tag, line)
        else:
            self.push(number, tag, line)

    def push(
        self,
        number: int,
        tag: str,
        line: Line,
        before_claim: Callable[[], None] | None = None,
        name: str | None = None,
    ) -> None:
        machine = self.machines[number]
        volume = machine.model.tags.get(tag)
        if volume is None:
            return
        planned = machine.model.planned(volume)
        machine.network.begin(line, before_claim)
        found = ending(lambda: machine.engine.push(tag, name=name).claimed)
        expected = machine.model.push(tag, machine.network.end(), planned, name)
        assert found is expected
        self.after_a_sync(machine, tag, found)
        if found is Outcome.TAKEN:
            self.push(number, tag, line, name=f"{tag} {volume.log}")

    @rule(number=machines, tag=tags, line=lines)
    def pull(self, number: int, tag: str, line: Line) -> None:
        machine = self.machines[number]
        if tag not in machine.model.tags:
            return
        machine.network.begin(line)
        found = ending(lambda: machine.engine.pull(tag).commits > 0)
        expected = machine.model.pull(tag, machine.network.end())
        assert found is expected
        self.after_a_sync(machine, tag, found)

    def after_a_sync(self, machine: Machine, tag: str, outcome: Outcome) -> None:
        """Note what is under way, start a machine that stopped, and look at the volume."""
        self.seen[outcome.name] += 1
        if len(self.under_way) > len(self.arrivals):
            self.arrivals.append(machine.model.arrival(tag, self.under_way[-1][0]))
        if outcome is Outcome.STOPPED:
            machine.start()
        self.check_content(machine, tag)

    @rule(number=machines, tag=tags)
    def fetch(self, number: int, tag: str) -> None:
        machine = self.machines[number]
        volume = machine.model.tags.get(tag)
        if volume is not None:
            machine.model.fetch(volume.log)
            newest = machine.engine.fetch(tag).newest
            assert newest == len(self.remote.logs[volume.log])
            self.check_content(self.machines[number], tag)

    # Verbs that move a tag --------------------------------------------------------------------

    @rule(
        number=machines,
        tag=tags,
        how=st.sampled_from(("clone", "fork", "check out", "switch")),
        other=tags,
        choice=st.integers(0, 1000),
    )
    def move_a_tag(self, number: int, tag: str, how: str, other: str, choice: int) -> None:
        """Point a tag at another volume; the one before stays, and may be gone back to."""
        if how == "clone":
            self.clone(number, other, tag)
        elif how == "fork":
            self.fork(number, other, tag)
        elif how == "check out":
            self.check_out(number, tag, 1 + choice % 12)
        else:
            self.switch(number, tag, choice)

    def clone(self, number: int, name: str, tag: str) -> None:
        machine = self.machines[number]
        log = self.remote.refs.get(name)
        if log is None or not self.remote.logs.get(log):
            with pytest.raises(NotFoundError):
                machine.engine.clone(name, tag)
            return
        machine.engine.clone(name, tag)
        machine.model.fetch(log)
        commits = self.remote.logs[log]
        volume = machine.adopt(tag, commits[-1].content)
        volume.base = log, len(commits)
        self.check_content(self.machines[number], tag)

    def fork(self, number: int, tag: str, new_tag: str) -> None:
        machine = self.machines[number]
        source = machine.model.tags.get(tag)
        if source is None:
            return
        machine.engine.fork(tag, new_tag=new_tag)
        # A commit that leaves everything as it is, such as one past the end, is not taken along.
        is_changed = bool(source.local) and source.content != source.base_content
        fork = machine.adopt(new_tag, source.content, local=is_changed)
        fork.base = source.base
        self.check_content(self.machines[number], new_tag)
        self.seen["forks"] += 1

    def check_out(self, number: int, tag: str, lsn: int) -> None:
        machine = self.machines[number]
        source = machine.model.tags.get(tag)
        if source is None:
            return
        commits = self.remote.logs[source.log]
        if lsn > machine.model.known[source.log]:
            machine.model.fetch(source.log)
        if lsn > len(commits):
            with pytest.raises(NotFoundError):
                machine.engine.checkout(tag, str(lsn))
            return
        machine.engine.checkout(tag, str(lsn))
        volume = machine.adopt(tag, commits[lsn - 1].content)
        volume.base = source.log, lsn
        self.check_content(self.machines[number], tag)
        self.seen["checkouts"] += 1

    def switch(self, number: int, tag: str, choice: int) -> None:
        """Go back to any volume that the machine ever had."""
        machine = self.machines[number]
        volumes = machine.model.volumes
        if volumes:
            volume = volumes[choice % len(volumes)]
            machine.engine.switch(tag, str(volume.id))
            machine.model.tags[tag] = volume
            self.check_content(self.machines[number], tag)

    @rule(number=machines, tag=tags, lsn=st.integers(1, 1000))
    def read_a_past_lsn(self, number: int, tag: str, lsn: int) -> None:
        machine = self.machines[number]
        volume = machine.model.tags.get(tag)
        commits = self.remote.logs[volume.log] if volume is not None else ()
        if volume is not None and commits:
            lsn = 1 + lsn % len(commits)
            if lsn > machine.model.known[volume.log]:
                machine.model.fetch(volume.log)
            self.check_past(machine, tag, lsn, commits[lsn - 1])

    # The remote -------------------------------------------------------------------------------

    @rule()
    def late_writes_arrive(self) -> None:
        """Whatever was sent and thought lost reaches the remote."""
        store = MemoryStore(self.objects)
        for (key, data), arrive in zip(self.under_way, self.arrivals, strict=True):
            store.put_if_absent(key, data)
            arrive()
            self.seen["late writes"] += 1
        self.under_way.clear()
        self.arrivals.clear()

    # What is true at any time -----------------------------------------------------------------

    @invariant()
    def every_status_is_right(self) -> None:
        self.seen["steps"] += 1
        for machine in self.machines:
            for tag, volume in machine.model.tags.items():
                status = machine.engine.status(tag)
                assert (status.volume, status.remote) == (volume.id, volume.log)
                assert status.local_lsn == volume.lsn
                assert status.base_lsn == volume.base_lsn
                assert (status.ahead, status.behind) == machine.model.standing(volume)
                assert status.pending_push == (volume.pending is not None)

    def check_content(self, machine: Machine, tag: str) -> None:
        pager = Pager(machine.engine.open(tag), self.page_size)
        pager.begin()
        assert pager.content() == machine.model.tags[tag].content
        pager.close()

    def check_past(self, machine: Machine, tag: str, lsn: int, commit: Commit) -> None:
        fixed = machine.engine.snapshot_at(tag, lsn=lsn)
        pager = Pager(machine.engine.open(tag), self.page_size, fixed=fixed)
        pager.begin()
        assert pager.content() == commit.content
        pager.close()

    def read_everything_on_a_new_machine(self) -> None:
        """Clone each log and open each of its LSNs; reading proves the chain and the frames."""
        machine = self.add_machine("auditor")
        for tag, log in self.remote.refs.items():
            if not self.remote.logs.get(log):
                continue  # The push that made it was interrupted.
            machine.engine.open(tag, create=True, remote=tag)
            assert machine.engine.status(tag).remote == log
        for log, commits in self.remote.logs.items():
            if not commits:
                continue
            machine.engine.clone(str(log), "log")
            assert machine.engine.status("log").base_lsn == len(commits)
            for lsn, commit in enumerate(commits, 1):
                self.check_past(machine, "log", lsn, commit)
                facts = machine.engine.commit_facts(f"{log}:{lsn}")
                assert facts["local_commits"] == commit.local_commits


MUST_COME_UP = (
    *(outcome.name for outcome in Outcome),
    "checkouts",
    "commits during a push",
    "forks",
    "killed",
    "late writes",
    "rivals during a push",
    "settled",
)


def test_machines_on_one_remote_agree_with_the_model() -> None:
    seen = explore(ReplicasMachine, examples=70, steps=50)
    assert all(seen[name] for name in MUST_COME_UP), seen


@pytest.mark.deep
@pytest.mark.timeout(24 * 3600)
def test_machines_on_one_remote_agree_with_the_model_in_long_runs() -> None:
    seen = explore_deeply(ReplicasMachine, examples=1000, steps=100)
    assert all(seen[name] for name in MUST_COME_UP), seen
