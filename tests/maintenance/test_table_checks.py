"""fsck verifies tables, compares them with the commits, and makes bad ones again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from graft_vfs.format.frame import Frames
from graft_vfs.format.table import Run, Source, encode_table
from graft_vfs.ids import LogId
from graft_vfs.maintenance.fsck import Fsck
from graft_vfs.remote.log import commit_key
from graft_vfs.remote.tables import TableName, list_tables
from graft_vfs.sync import tables
from graft_vfs.view import table_policy
from tests.support.replicas import Replica, rows

STEP = 3


@pytest.fixture(autouse=True)
def tables_after_few_commits(monkeypatch) -> None:
    monkeypatch.setattr(table_policy, "STEP", STEP)
    monkeypatch.setattr(tables, "STEP", STEP)
    monkeypatch.setattr(tables, "_WORTH_COMMITS", 2)


@pytest.fixture
def writer(replicas, monkeypatch) -> Replica:
    """A machine whose log has three tables, each of which needs those before it."""
    monkeypatch.setattr(table_policy, "RATIO", 0)
    writer = replicas("writer")
    connection = writer.connect()
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    draw = random.Random(5)
    for number in range(1, 3 * STEP + 2):
        size = 20_000 if number <= STEP else 900
        connection.execute("INSERT INTO t VALUES(?, ?)", (number, draw.randbytes(size)))
        writer.engine.push("main")
    return writer


def log_of(replica: Replica) -> LogId:
    return replica.engine.status("main").remote


def names_of(replica: Replica) -> list[TableName]:
    return list_tables(replica.engine.store, log_of(replica), limit=100)


def problems(found: Fsck) -> list[str]:
    return [str(each) for log in found.logs for each in log.findings if not each.is_repaired]


def repaired(found: Fsck) -> list[str]:
    return [str(each) for log in found.logs for each in log.findings if each.is_repaired]


def is_all_sound(replica: Replica) -> bool:
    return replica.engine.fsck("main", deep=True, history=True).is_sound


def lie(replica: Replica, name: TableName, change: Callable[[list[Run]], list[Run]]) -> None:
    """Replace a table on the remote by one with correct hashes that says something else."""
    logs = replica.engine.logs
    [row] = [each for each in logs.catalog.tables.all(name.log_id) if each.lsn == name.lsn]
    layer = logs.layer(row)
    runs = [(first, end, source.origin, slot) for first, end, source, slot in layer.runs()]
    frames: dict[Source, Frames] = {}
    for _, _, source, _ in layer.runs():
        frames[source.origin] = source.body.frames
    data = encode_table(layer.head.facts, change(runs), frames.__getitem__)
    replica.engine.store.put(name.key, [b"".join(data)])


def exchanged(runs: list[Run]) -> list[Run]:
    """Exchange the places of two pages that are in one frame, or next to each other."""
    pages = [
        (page, source, slot + page - first)
        for first, end, source, slot in runs
        for page in range(first, end)
    ]
    (one, source, slot), (other, its_source, its_slot) = pages[-2], pages[-1]
    pages[-2:] = [(one, its_source, its_slot), (other, source, slot)]
    return [(page, page + 1, source, slot) for page, source, slot in pages]


def test_sound_tables_are_counted_and_compared(writer, replicas) -> None:
    for each in (writer, replicas("other")):
        if each is not writer:
            each.engine.clone("main", "main")
        for options in ({}, {"deep": True}, {"history": True}, {"deep": True, "history": True}):
            found = each.engine.fsck("main", **options)
            assert found.is_sound, str(found)
            assert found.logs[0].tables == len(names_of(writer)) == 3
    assert f", {found.logs[0].tables} tables: sound" in str(found)


def test_tables_and_segments_of_a_compaction_are_known(writer) -> None:
    assert writer.engine.maintain("main").objects
    assert any(name.suffix for name in names_of(writer))
    assert is_all_sound(writer)
    assert writer.engine.fsck().is_sound
    assert writer.engine.remote_usage("main")[0].unnamed.objects == 0


def test_a_fork_and_its_tables_are_compared(writer, replicas) -> None:
    writer.engine.fork("main", new_tag="branch")
    connection = writer.connect("branch")
    for number in range(100, 100 + STEP):
        connection.execute("INSERT INTO t VALUES(?, 'branch')", (number,))
        writer.engine.push("branch")
    other = replicas("other")
    other.engine.clone("branch", "branch")
    found = other.engine.fsck("branch", deep=True, history=True)
    assert found.is_sound, str(found)
    assert found.logs[0].tables


@pytest.mark.parametrize("damage", ["nothing of it", "the head", "a block", "another table"])
@pytest.mark.parametrize("machine", ["writer", "other"])
def test_a_damaged_table_is_found_and_made_again(writer, replicas, damage, machine) -> None:
    store, names = writer.engine.store, names_of(writer)
    name = names[0]
    whole = store.get(name.key)
    changed = {
        "nothing of it": b"x",
        "the head": whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
        "a block": whole[:-3] + bytes(3),
        "another table": store.get(names[1].key),
    }[damage]
    store.put(name.key, [changed])
    replica = writer if machine == "writer" else replicas(machine)
    if replica is not writer:
        replica.engine.clone("main", "main")
    found = replica.engine.fsck("main", deep=True)
    assert len(problems(found)) == 1
    assert name.key in problems(found)[0]
    assert "--repair makes it again" in problems(found)[0]
    assert store.get(name.key) == changed
    again = replica.engine.fsck("main", deep=True, repair=True)
    assert problems(again) == []
    assert len(repaired(again)) == 1
    assert store.get(name.key) != changed
    assert is_all_sound(replica)
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    assert rows(reader.connect()) == rows(writer.connect())


def test_a_missing_table_that_the_newest_needs_is_made_again(writer, replicas) -> None:
    store = writer.engine.store
    newest = names_of(writer)[0]
    assert newest.after
    needed = next(name for name in names_of(writer) if name.lsn == newest.after)
    store.delete(needed.key)
    other = replicas("other")
    other.engine.clone("main", "main")
    (problem,) = problems(other.engine.fsck("main"))
    assert f"the table is missing, and the one at LSN {newest.lsn} needs it" in problem
    assert problems(other.engine.fsck("main", repair=True)) == []
    assert needed in names_of(writer)
    assert is_all_sound(other)


def test_a_damaged_compacted_table_is_replaced_by_an_ordinary_one(writer, replicas) -> None:
    writer.engine.maintain("main")
    (name,) = [name for name in names_of(writer) if name.suffix]
    writer.engine.store.put(name.key, [b"damaged"])
    other = replicas("other")
    other.engine.clone("main", "main")
    assert len(problems(other.engine.fsck("main"))) == 1
    assert problems(other.engine.fsck("main", repair=True)) == []
    for each in (writer, other, replicas("reader")):
        each.engine.clone("main", "main") if each not in {writer, other} else None
        assert is_all_sound(each)
        assert rows(each.connect()) == rows(writer.connect())


def test_the_machine_that_compacted_puts_its_table_back(writer) -> None:
    writer.engine.maintain("main")
    (name,) = [name for name in names_of(writer) if name.suffix]
    whole = writer.engine.store.get(name.key)
    writer.engine.store.put(name.key, [b"damaged"])
    assert problems(writer.engine.fsck("main", repair=True)) == []
    assert writer.engine.store.get(name.key) == whole
    assert is_all_sound(writer)


def test_a_lying_table_is_found_by_its_history_alone_and_made_again(writer, replicas) -> None:
    name = names_of(writer)[0]
    lie(writer, name, exchanged)
    believer = replicas("believer")
    believer.engine.clone("main", "main")
    for deep in (False, True):
        assert believer.engine.fsck("main", deep=deep).is_sound
    found = believer.engine.fsck("main", history=True)
    assert len(problems(found)) == 2, "that of the remote, and that of this machine"
    assert all("it contradicts the commits: page" in text for text in problems(found))
    assert "on this machine" in "".join(problems(found))
    assert problems(believer.engine.fsck("main", history=True, repair=True)) == []
    for each in (believer, writer, replicas("reader")):
        each.engine.clone("main", "main") if each not in {writer, believer} else None
        assert is_all_sound(each)
        assert rows(each.connect()) == rows(writer.connect())


def test_a_lying_compaction_is_found_by_reading_its_images(writer) -> None:
    writer.engine.maintain("main")
    (name,) = [name for name in names_of(writer) if name.suffix]
    lie(writer, name, exchanged)
    assert writer.engine.fsck("main", history=True).is_sound
    (problem,) = problems(writer.engine.fsck("main", deep=True, history=True))
    assert "it contradicts the commits: page" in problem
    assert problems(writer.engine.fsck("main", deep=True, history=True, repair=True)) == []
    assert is_all_sound(writer)


def test_a_table_without_a_page_contradicts_the_commits(writer) -> None:
    lie(writer, names_of(writer)[0], lambda runs: runs[:-1])
    assert len(problems(writer.engine.fsck("main", history=True))) == 1


def test_a_table_with_wrong_facts_contradicts_the_commits(writer) -> None:
    name = names_of(writer)[0]
    logs = writer.engine.logs
    [row] = [each for each in logs.catalog.tables.all(name.log_id) if each.lsn == name.lsn]
    layer = logs.layer(row)
    facts = replace(layer.head.facts, page_count=layer.head.facts.page_count + 1)
    runs = [(first, end, source.origin, slot) for first, end, source, slot in layer.runs()]
    frames = {source.origin: source.body.frames for _, _, source, _ in layer.runs()}
    data = encode_table(facts, runs, frames.__getitem__)
    writer.engine.store.put(name.key, [b"".join(data)])
    (problem,) = problems(writer.engine.fsck("main", history=True))
    assert "its page count is not that of the commits" in problem


def test_no_table_is_made_of_commits_that_are_missing(writer, replicas) -> None:
    other = replicas("other")
    other.engine.clone("main", "main")
    name = names_of(writer)[0]
    writer.engine.store.put(name.key, [b"damaged"])
    writer.engine.store.delete(commit_key(name.log_id, name.after + 1))
    found = problems(other.engine.fsck("main", history=True, repair=True))
    assert len(found) == 2
    assert "put back the commits that it was made of, and run fsck again" in found[1]
