"""Three snapshots of one database, made by SQL, and their merge."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import apsw

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.history.names import remote_snapshot
from graft_vfs.merge.conflicts import Choices, Conflicting, Merged
from graft_vfs.merge.merge import Merge, merged
from graft_vfs.merge.sides import Prepare, Snapshots
from graft_vfs.volume.volume import Volume
from tests.support.replicas import Replica


def _nothing(_: apsw.Connection) -> None:
    pass


class Merging:
    """A machine that makes stories: a base, and two states that each continue it."""

    def __init__(self, root: Path) -> None:
        self.machine = Replica(root / "data", RemoteConfig(type="memory", root=str(root)))
        self._tags = (f"story-{number}" for number in itertools.count())

    def story(
        self, base: str, ours: str, theirs: str, prepare: Prepare = _nothing
    ) -> tuple[Volume, Snapshots]:
        """Push the base, ours over it, and theirs over the base, and return all three.

        `prepare` is called with the connection first.
        """
        engine, tag = self.machine.engine, next(self._tags)
        lsns = []
        for script in (base, ours):
            self._run(tag, script, prepare)
            # Of the newest commit, also if there was nothing to push.
            lsns.append(engine.push(tag).lsn)
        engine.restore(tag, "1", force=True)
        engine.push(tag)
        self._run(tag, theirs, prepare)
        newest = engine.push(tag)
        volume, logs = engine.open(tag), engine.logs
        states = (remote_snapshot(volume, logs, newest.log, lsn) for lsn in (*lsns, newest.lsn))
        return volume, Snapshots(*states)

    def _run(self, tag: str, script: str, prepare: Prepare) -> None:
        # A connection of its own: SQLite resolves some names in a schema that it read before.
        with contextlib.closing(self.machine.connect(tag)) as connection:
            prepare(connection)
            connection.execute(script).fetchall()

    @contextlib.contextmanager
    def merged(
        self,
        base: str,
        ours: str,
        theirs: str,
        choices: Choices | None = None,
        prepare: Prepare = _nothing,
        *,
        is_prepared: bool = False,
    ) -> Iterator[Merge]:
        """Merge a story; with `is_prepared`, the merge has what `prepare` registers."""
        volume, snapshots = self.story(base, ours, theirs, prepare)
        registers = prepare if is_prepared else _nothing
        with merged(volume, snapshots, choices or Choices(), registers) as merge:
            yield merge

    def close(self) -> None:
        self.machine.close()


class Result:
    """What came of a merge: the report, and a connection to the merged database as a plain one."""

    def __init__(self, merge: Merge, prepare: Prepare = _nothing) -> None:
        self.report = merge.report
        self.database: apsw.Connection | None = None
        if merge.scratch is not None:
            connection = merge.scratch.connection
            assert connection.pragma("integrity_check", schema="main") == "ok"
            self.database = apsw.Connection(":memory:")
            prepare(self.database)
            with self.database.backup("main", connection, "main") as backup:
                backup.step()

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        assert isinstance(self.report, Merged), str(self.report)
        assert self.database is not None
        return self.database.execute(sql).fetchall()

    def conflicts(self) -> list[str]:
        assert isinstance(self.report, Conflicting), str(self.report)
        assert self.database is None
        return [str(conflict) for conflict in self.report.conflicts]
