"""One volume against a list of pages: every snapshot shows exactly the pages of its moment.

Two engines (as two processes) share a data directory and have two connections each. Connections
begin, read, write, spill, commit, roll back and are killed in any order, while the volume is
pushed, fetched, pulled and reopened, its page cache deleted, its log file replaced. A connection
that keeps its page cache because the change counter allows it must find the cached pages true; see
`pager`.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graft_vfs.engine.config import Config
from graft_vfs.engine.graft import Graft
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.sync import build as build_module
from graft_vfs.view import page_table
from graft_vfs.volume import rotation, transaction
from tests.model.exploring import explore, explore_deeply, scratch_directory
from tests.model.pager import Content, Pager, image_of

PAGE_SIZES = (512, 1024, 4096, 65536)
PAGES_MAX = 24
CONNECTIONS = 4
CACHE_BYTES_MAX = 16 << 10

numbers = st.integers(0, CONNECTIONS - 1)
engines = st.integers(0, 1)
pages = st.integers(1, PAGES_MAX)


@dataclass
class Session:
    """A connection and what it must see: `view` inside a transaction, `draft` inside a write."""

    engine: int
    pager: Pager
    view: Content | None = None
    generation: int = 0
    draft: list[bytes] | None = None


class VolumeMachine(RuleBasedStateMachine):
    """The volume of tag `main`, and beside it what it must hold.

    `generation` changes with the content: a writer that began to read in another one is stale.
    """

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        self.stack = contextlib.ExitStack()
        self.directory = Path(self.stack.enter_context(scratch_directory()))
        self.objects = MemoryObjects()
        self.content: Content = ()
        self.generation = 0
        self.lsn = 0
        self.ahead = 0
        self.remote: list[Content] = []
        self.version = 0
        seen["examples"] += 1

    @initialize(
        page_size=st.sampled_from(PAGE_SIZES),
        is_bounded=st.booleans(),
        staged_pages=st.sampled_from((2, 5, 1000)),
        is_rotating=st.booleans(),
    )
    def open_everything(
        self, page_size: int, is_bounded: bool, staged_pages: int, is_rotating: bool
    ) -> None:
        self.page_size = page_size
        self.cache_bytes_max = CACHE_BYTES_MAX if is_bounded else None
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(transaction, "STAGED_BYTES_MAX", staged_pages * page_size)
        patch.setattr(build_module, "INLINE_BYTES_MAX", 4 * page_size)
        patch.setattr(page_table, "_RECENT_MAX", 8)
        if is_rotating:
            patch.setattr(rotation, "ROTATE_BYTES", 0)
            patch.setattr(rotation, "COMPACT_BYTES", 8 * page_size)
        self.engines = [self.open_engine("ours"), self.open_engine("ours")]
        self.rival = self.open_engine("theirs")
        self.sessions = [self.open_session(number % 2) for number in range(CONNECTIONS)]

    def open_engine(self, name: str) -> Graft:
        config = Config(data_dir=self.directory / name, cache_max_bytes=self.cache_bytes_max)
        engine = Graft(config, store=MemoryStore(self.objects))
        self.stack.callback(engine.close)
        if name == "ours":
            engine.open("main", create=True)
        return engine

    def open_session(self, engine: int) -> Session:
        volume = self.engines[engine].open("main")
        return Session(engine, Pager(volume, self.page_size))

    def teardown(self) -> None:
        try:
            # After a failure the state is of no use, and its errors would hide the cause.
            if sys.exception() is None:
                self.check_everything()
        finally:
            for session in getattr(self, "sessions", ()):
                session.pager.close()
            self.stack.close()

    # Connections ------------------------------------------------------------------------------

    def is_written(self) -> bool:
        """Return True if a connection writes."""
        return any(session.draft is not None for session in self.sessions)

    @rule(number=numbers)
    def begin(self, number: int) -> None:
        session = self.sessions[number]
        if session.view is None:
            session.pager.begin()
            session.view, session.generation = self.content, self.generation

    @rule(number=numbers)
    def read_everything(self, number: int) -> None:
        session = self.sessions[number]
        if session.view is not None:
            expected = session.view if session.draft is None else tuple(session.draft)
            assert session.pager.content() == expected
            if session.generation != self.generation:
                self.seen["old snapshots read"] += 1

    @rule(number=numbers)
    def end(self, number: int) -> None:
        session = self.sessions[number]
        if session.view is not None and session.draft is None:
            assert session.pager.content() == session.view
            session.pager.end()
            session.view = None

    @rule(number=numbers)
    def begin_write(self, number: int) -> None:
        self.begin(number)
        session = self.sessions[number]
        if session.draft is not None:
            return
        if self.is_written():
            self.check_refusal(session, apsw.SQLITE_BUSY, "busy writers")
        elif session.generation != self.generation:
            self.check_refusal(session, apsw.SQLITE_BUSY_SNAPSHOT, "stale writers")
        else:
            session.pager.begin_write()
            session.draft = list(self.content)

    def check_refusal(self, session: Session, code: int, name: str) -> None:
        with pytest.raises(apsw.BusyError) as caught:
            session.pager.begin_write()
        assert caught.value.extendedresult == code
        self.seen[name] += 1

    def writer(self) -> Session:
        """Return the one session that writes."""
        return next(session for session in self.sessions if session.draft is not None)

    def image(self, page: int) -> bytes:
        """Return an image that was never used before."""
        self.version += 1
        return image_of(page, self.version, self.page_size)

    def write_page(self, session: Session, page: int) -> None:
        assert session.draft is not None
        if not session.draft and page > 1:
            self.write_page(session, 1)  # SQLite writes the header of a database first.
        image = self.image(page)
        session.pager.write(page, image)
        session.draft += [bytes(self.page_size)] * (page - len(session.draft))
        session.draft[page - 1] = image

    @rule(number=numbers, chosen=st.lists(pages, min_size=1, max_size=6), spills=st.booleans())
    def write(self, number: int, chosen: list[int], spills: bool) -> None:
        """Write pages in the open write transaction, or in one that begins now."""
        if not self.is_written():
            self.begin_write(number)
            if not self.is_written():
                return
        session = self.writer()
        for page in chosen:
            self.write_page(session, page)
        if spills:
            session.pager.spill()
            self.seen["spills"] += 1

    @rule(
        number=numbers,
        chosen=st.lists(pages, min_size=1, max_size=4),
        cut=st.integers(0, PAGES_MAX),
        durability=st.integers(0, 2),
    )
    def change(self, number: int, chosen: list[int], cut: int, durability: int) -> None:
        """Do a whole transaction, if no other writer is in the way."""
        if not self.is_written():
            self.write(number, chosen, spills=False)
            if self.is_written():
                self.commit(cut, durability)

    @precondition(is_written)
    @rule(cut=st.integers(0, PAGES_MAX), durability=st.integers(0, 2))
    def commit(self, cut: int, durability: int) -> None:
        """Commit, with `cut` pages less if it has more than those."""
        self.commit_session(self.writer(), cut, durability)

    def commit_session(self, session: Session, cut: int, durability: int) -> None:
        assert session.draft is not None
        if not session.draft:
            self.write_page(session, 1)
        count = len(session.draft)
        if cut < count:
            count -= cut
        session.pager.file.durability = durability
        session.pager.commit(count)
        self.content = tuple(session.draft[:count])
        session.view = session.draft = None
        self.generation += 1
        self.lsn += 1
        self.ahead += 1
        self.seen["commits"] += 1
        self.seen["commits in a compacted file"] += session.pager.file.volume.branch_log.folded

    @precondition(is_written)
    @rule()
    def roll_back(self) -> None:
        session = self.writer()
        assert session.view is not None
        session.pager.roll_back(session.view)
        session.view = session.draft = None
        self.seen["rollbacks"] += 1

    # Sync -------------------------------------------------------------------------------------

    @precondition(lambda self: self.lsn > 0)
    @rule(engine=engines, commits_meanwhile=st.booleans())
    def push(self, engine: int, commits_meanwhile: bool) -> None:
        """Push; with `commits_meanwhile` the open transaction commits just before the claim."""
        content, ahead = self.content, self.ahead
        store = self.engines[engine].store
        put = store.put_if_absent
        with pytest.MonkeyPatch.context() as patch:

            def put_after_a_commit(key: str, data: bytes):
                if "/commits/" in key and self.is_written():
                    self.commit_session(self.writer(), 0, 1)
                    self.seen["commits during a push"] += 1
                return put(key, data)

            if commits_meanwhile:
                patch.setattr(store, "put_if_absent", put_after_a_commit)
            pushed = self.engines[engine].push("main")
        assert (pushed.claimed, pushed.local_commits) == (ahead > 0, ahead)
        if ahead:
            self.remote.append(content)
            self.ahead -= ahead
            self.seen["pushes"] += 1
        assert pushed.lsn == len(self.remote)

    @precondition(lambda self: self.lsn > 0 and not self.is_written())
    @rule(
        engine=engines,
        fetches=st.booleans(),
        chosen=st.lists(pages, max_size=5),
        cut=st.integers(0, PAGES_MAX),
        commits=st.integers(1, 3),
    )
    def pull(self, engine: int, fetches: bool, chosen: list[int], cut: int, commits: int) -> None:
        """Pull what a rival has pushed; local commits are pushed before, so that none diverge."""
        self.push(engine, commits_meanwhile=False)
        if self.rival.catalog.tag_volume("main") is None:
            self.rival.clone("main", "main")
        assert self.rival.pull("main").lsn == len(self.remote)
        for _ in range(commits):
            self.write_as_rival(chosen, cut)
        if fetches:
            assert self.engines[engine].fetch("main").newest == len(self.remote)
            assert self.engines[engine].status("main").behind == commits
        pulled = self.engines[engine].pull("main")
        assert (pulled.lsn, pulled.commits) == (len(self.remote), commits)
        self.content = self.remote[-1]
        self.generation += 1
        self.seen["pulls"] += 1

    def write_as_rival(self, chosen: list[int], cut: int) -> None:
        pager = Pager(self.rival.open("main"), self.page_size)
        pager.begin()
        content = list(pager.content())
        assert tuple(content) == self.remote[-1]
        pager.begin_write()
        for page in chosen:
            image = self.image(page)
            pager.write(page, image)
            content += [bytes(self.page_size)] * (page - len(content))
            content[page - 1] = image
        count = len(content) - cut if cut < len(content) else len(content)
        pager.commit(count)
        pager.close()
        self.remote.append(tuple(content[:count]))
        assert self.rival.push("main").lsn == len(self.remote)

    # Processes --------------------------------------------------------------------------------

    @rule(engine=engines, how=st.sampled_from(("closed", "killed", "cache deleted")))
    def reopen(self, engine: int, how: str) -> None:
        """End a process with its transactions, and start it again.

        The page cache may be deleted while no process has it open, so both processes end for that.
        """
        ending = (0, 1) if how == "cache deleted" else (engine,)
        for session in self.sessions:
            if session.engine in ending:
                self.seen[f"writers {how}"] += session.draft is not None
                self.leave(session.pager, is_killed=how == "killed")
        if how != "killed":
            for number in ending:
                self.engines[number].close()
        if how == "cache deleted" and self.remote:
            cache = self.directory / "ours" / "cache"
            if cache.exists():  # What is read first after a deletion makes it anew.
                shutil.rmtree(cache)
                self.seen["caches deleted"] += 1
        for number in ending:
            self.engines[number] = self.open_engine("ours")
        for number, session in enumerate(self.sessions):
            if session.engine in ending:
                self.sessions[number] = self.open_session(session.engine)

    @staticmethod
    def leave(pager: Pager, *, is_killed: bool) -> None:
        if is_killed:
            pager.abandon()
        else:
            pager.close()

    # What is true at any time -----------------------------------------------------------------

    @precondition(lambda self: self.remote)
    @rule(engine=engines, lsn=st.integers(1, 1000))
    def read_a_past_lsn(self, engine: int, lsn: int) -> None:
        self.check_past(self.engines[engine], 1 + lsn % len(self.remote))

    def check_past(self, engine: Graft, lsn: int) -> None:
        fixed = engine.snapshot_at("main", lsn=lsn)
        pager = Pager(engine.open("main"), self.page_size, fixed=fixed)
        pager.begin()
        assert pager.content() == self.remote[lsn - 1]
        pager.close()

    @invariant()
    def statuses_are_right(self) -> None:
        self.seen["steps"] += 1
        for engine in getattr(self, "engines", ()):
            status = engine.status("main")
            assert (status.local_lsn, status.ahead) == (self.lsn, self.ahead)
            assert (status.base_lsn, status.behind) == (len(self.remote), 0)
            assert (status.pending_push, status.last_error) == (False, None)

    def check_everything(self) -> None:
        """Each open snapshot, the newest one in fresh processes, and each remote LSN."""
        for number in range(CONNECTIONS):
            self.read_everything(number)
        for engine in (*self.engines, self.open_engine("ours")):
            pager = Pager(engine.open("main"), self.page_size)
            pager.begin()
            assert pager.content() == self.content
            pager.close()
        for lsn in range(1, len(self.remote) + 1):
            self.check_past(self.engines[0], lsn)


MUST_COME_UP = (
    "busy writers",
    "caches deleted",
    "commits",
    "commits during a push",
    "commits in a compacted file",
    "old snapshots read",
    "pulls",
    "pushes",
    "rollbacks",
    "spills",
    "stale writers",
    "writers closed",
    "writers killed",
)


def test_every_snapshot_shows_the_pages_of_its_time() -> None:
    seen = explore(VolumeMachine, examples=100, steps=60)
    assert all(seen[name] for name in MUST_COME_UP), seen


@pytest.mark.deep
@pytest.mark.timeout(24 * 3600)
def test_every_snapshot_shows_the_pages_of_its_time_in_long_runs() -> None:
    seen = explore_deeply(VolumeMachine, examples=1000, steps=100)
    assert all(seen[name] for name in MUST_COME_UP), seen
