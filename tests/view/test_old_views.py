"""Views of remote logs: made step by step, whatever the length of the log."""

from __future__ import annotations

import pytest

from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.view import logs
from tests.support.replicas import Replica, rows


@pytest.mark.parametrize("step", [1, 3, 4, 10, 11])
def test_a_view_of_an_old_commit_is_built_in_steps_and_shows_its_state(
    replicas, monkeypatch, step
) -> None:
    writer: Replica = replicas()
    connection = writer.connect()
    connection.execute("CREATE TABLE t(x)")
    for number in range(10):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        writer.engine.push("main")
    asked: list[int] = []
    commits = Catalog.commits

    def counted(catalog, log, first, last):
        found = commits(catalog, log, first, last)
        asked.append(len(found))
        return found

    monkeypatch.setattr(logs, "_BUILD_STEP_COMMITS", step)
    reader: Replica = replicas()
    reader.engine.clone("main", "main")
    monkeypatch.setattr(Catalog, "commits", counted)
    for lsn in (10, 7, 1):
        old = reader.connect(lsn=str(lsn))
        assert rows(old) == [(number,) for number in range(lsn)]
    assert max(asked) == min(step, 10)
