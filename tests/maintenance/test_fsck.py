"""fsck finds what is wrong on a remote and here, and puts back what this machine has."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from graft_vfs.advice import Audience, words
from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    HistoryMismatchError,
    NoRemoteError,
    NotFoundError,
    StoreDeniedError,
    StoreError,
)
from graft_vfs.format import frame
from graft_vfs.format.name import decode_name
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import layout
from graft_vfs.maintenance import mending
from graft_vfs.maintenance.findings import Finding
from graft_vfs.maintenance.fsck import Fsck
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.log import commit_key, segment_key
from graft_vfs.remote.names import name_key
from graft_vfs.remote.refs import ref_key
from graft_vfs.store.base import PutOutcome
from graft_vfs.sync import build as build_module
from tests.support.faults import ProcessStopped
from tests.support.replicas import Replica, rows


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def replica(tmp_path, remote, monkeypatch):
    """A machine that pushed four commits, the third of them with a segment."""
    with Replica(tmp_path / "data", RemoteConfig(type="fs", root=str(remote))) as replica:
        connection = replica.connect()
        connection.execute("CREATE TABLE t(v)")
        replica.engine.push("main")
        for lsn in range(2, 5):
            connection.execute("INSERT INTO t VALUES(randomblob(30000))")
            monkeypatch.setattr(build_module, "INLINE_BYTES_MAX", 0 if lsn == 3 else 1 << 20)
            assert replica.engine.push("main").lsn == lsn
        yield replica


def log_of(replica: Replica) -> LogId:
    return replica.engine.status("main").remote


def segment_of(replica: Replica) -> str:
    header = replica.engine.logs.header(log_of(replica), 3)
    assert header is not None
    assert header.segment is not None
    return segment_key(header.segment)


def problems(found: Fsck) -> list[str]:
    assert found.is_sound is not any(not each.is_repaired for each in all_findings(found))
    return [str(each) for each in all_findings(found) if not each.is_repaired]


def all_findings(found: Fsck) -> list[Finding]:
    return [*found.local, *(each for log in found.logs for each in log.findings), *found.refs]


def objects(remote: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(remote)): path.read_bytes()
        for path in remote.rglob("*")
        if path.is_file()
    }


def clone_is_whole(tmp_path: Path, remote: Path) -> bool:
    config = RemoteConfig(type="fs", root=str(remote))
    with Replica(tmp_path / LogId.new().raw.hex(), config) as other:
        connection = other.connect(remote="main")
        assert connection.pragma("integrity_check") == "ok"
        return len(rows(connection)) == 3


@pytest.mark.parametrize("deep", [False, True])
def test_a_valid_remote_is_reported_as_valid(replica, deep) -> None:
    found = replica.engine.fsck(deep=deep)
    assert problems(found) == []
    (log,) = found.logs
    assert (log.log, log.newest_lsn, log.commits, log.segments) == (log_of(replica), 4, 4, 1)
    assert "4 commits up to LSN 4, 1 segment: sound" in str(found)
    for name in ("main", str(log.log)):
        assert replica.engine.fsck(name).logs == found.logs


def test_an_unknown_name_is_an_error_with_similar_names(replica) -> None:
    replica.connect("accounts")
    replica.engine.name_log("published", log_of(replica))
    accepted = r"'{}' is neither a tag .*, nor a ref of the remote .*, nor the id of a log there"
    lists = r"`engine\.tags\(\)` lists tags, `engine\.remote_logs\(\)` refs and logs"
    for name, near in (
        ("acounts", "did you mean 'accounts'\\? "),
        ("publish", "did you mean 'published'\\? "),
        ("nope", ""),
    ):
        with pytest.raises(NotFoundError, match=f"{accepted.format(name)}; {near}{lists}"):
            replica.engine.fsck(name)


def test_an_absent_log_is_not_reported_as_valid(replica) -> None:
    log = LogId.new()
    with pytest.raises(NotFoundError, match=f"'{log}' is neither"):
        replica.engine.fsck(str(log))
    replica.connect("new")
    fresh = replica.engine.status("new").remote
    assert replica.engine.fsck(str(fresh)).is_sound, "it is that of a volume here"


def test_a_name_is_not_accepted_without_a_remote(tmp_path) -> None:
    with Replica(tmp_path / "alone", RemoteConfig(type="none")) as replica:
        replica.connect()
        assert replica.engine.fsck("main").is_sound
        with pytest.raises(NoRemoteError):
            replica.engine.fsck("nope")


@pytest.mark.parametrize("missing", [(1,), (2,), (3,), (4,), (2, 3), (3, 4), (1, 2, 3, 4)])
def test_missing_commits_are_found_and_restored_unchanged(
    replica, tmp_path, remote, missing
) -> None:
    log, before = log_of(replica), objects(remote)
    for lsn in missing:
        (remote / commit_key(log, lsn)).unlink()
    found = replica.engine.fsck("main")
    assert len(problems(found)) == len(missing)
    assert all("--repair puts it back from cached pages" in text for text in problems(found))
    assert objects(remote).keys() == before.keys() - {commit_key(log, lsn) for lsn in missing}
    repaired = replica.engine.fsck("main", repair=True)
    assert problems(repaired) == []
    assert objects(remote) == before
    assert replica.engine.fsck(deep=True).is_sound
    assert clone_is_whole(tmp_path, remote)


def test_a_missing_or_damaged_segment_is_rewritten(replica, tmp_path, remote) -> None:
    path, before = remote / segment_of(replica), objects(remote)
    whole = path.read_bytes()
    for state in (None, whole[:-1], whole[:10], b"x" * len(whole), whole[:-5] + b"?????"):
        path.unlink() if state is None else path.write_bytes(state)
        deep = state is not None and len(state) == len(whole)
        (text,) = problems(replica.engine.fsck(deep=deep))
        assert "--repair writes it again" in text
        assert problems(replica.engine.fsck(deep=deep, repair=True)) == []
        assert objects(remote) == before


def test_a_machine_without_the_bytes_explains_which_machine_can_repair(
    replica, tmp_path, remote
) -> None:
    (remote / commit_key(log_of(replica), 2)).unlink()
    (remote / segment_of(replica)).unlink()
    shutil.rmtree(tmp_path / "data/cache")
    config = RemoteConfig(type="fs", root=str(remote))
    replica.close()
    with Replica(tmp_path / "data", config) as again:
        found = problems(again.engine.fsck(repair=True))
    assert len(found) == 2
    assert all("on a machine that pushed or read it" in text for text in found)


def test_frames_that_compress_differently_are_not_restored(replica, remote, monkeypatch) -> None:
    (remote / commit_key(log_of(replica), 2)).unlink()
    monkeypatch.setattr(mending, "encode_frame", lambda images: frame.encode_frame(images)[:-1])
    (text,) = problems(replica.engine.fsck(repair=True))
    assert "not cached as it was pushed" in text
    assert not (remote / commit_key(log_of(replica), 2)).exists()


def test_an_unsettled_push_fills_its_gap(replica, remote, monkeypatch) -> None:
    def stop(key: str, data: bytes) -> PutOutcome:
        raise ProcessStopped

    replica.connect().execute("INSERT INTO t VALUES('pending')")
    with monkeypatch.context() as patched:
        patched.setattr(replica.engine.store, "put_if_absent", stop)
        with pytest.raises(ProcessStopped):
            replica.engine.push("main")
    # As if it had landed, another machine had gone on, and the bucket was restored then.
    (remote / commit_key(log_of(replica), 6)).write_bytes(b"?")
    texts = problems(replica.engine.fsck())
    assert any("--repair sends the unsettled push" in text for text in texts)
    (remote / commit_key(log_of(replica), 6)).unlink()
    replica.engine.push("main")
    assert replica.engine.status("main").base_lsn == 5
    assert replica.engine.fsck().is_sound


def test_a_remote_restored_from_an_older_backup_gets_its_commits_back(
    replica, tmp_path, remote
) -> None:
    log = log_of(replica)
    for lsn in (3, 4):
        (remote / commit_key(log, lsn)).unlink()
    config = RemoteConfig(type="fs", root=str(remote))
    replica.close()
    with Replica(tmp_path / "data", config) as again:
        with pytest.raises(HistoryMismatchError, match=rf"engine\.fsck\('{log}', repair=True"):
            again.engine.pull("main")
        assert problems(again.engine.fsck(str(log), repair=True)) == []
        assert again.engine.pull("main").lsn == 4
    assert clone_is_whole(tmp_path, remote)


VERSION_AT = 9


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda whole: flipped(whole, 100),
    "magic": lambda whole: flipped(whole, 0),
    "cut header": lambda whole: whole[:50],
    "empty": lambda _: b"",
    "page": lambda whole: b"<html>503</html>" * len(whole),
    "cut body": lambda whole: whole[:-1],
    "body": lambda whole: flipped(whole, len(whole) - 5),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("lsn", [2, 3, 4])
def test_a_damaged_commit_is_rewritten_unchanged(replica, tmp_path, remote, damage, lsn) -> None:
    log, before = log_of(replica), objects(remote)
    path = remote / commit_key(log, lsn)
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    damaged = objects(remote)
    (text,) = problems(replica.engine.fsck(str(log), deep=True))
    assert "--repair writes it again from cached pages" in text
    assert objects(remote) == damaged, "nothing is written without --repair"
    repaired = replica.engine.fsck(str(log), deep=True, repair=True)
    assert problems(repaired) == []
    assert "the commit was damaged; written again from cached pages" in str(repaired)
    assert objects(remote) == before
    assert clone_is_whole(tmp_path, remote)


def test_a_misplaced_copy_of_another_commit_is_overwritten(replica, remote) -> None:
    log, before = log_of(replica), objects(remote)
    path = remote / commit_key(log, 2)
    path.write_bytes((remote / commit_key(log, 1)).read_bytes())
    assert "contains LSN 1" in problems(replica.engine.fsck())[0]
    assert problems(replica.engine.fsck(repair=True)) == []
    assert objects(remote) == before


def test_damage_is_never_overwritten_by_a_machine_without_the_bytes(
    replica, tmp_path, remote
) -> None:
    log = log_of(replica)
    path = remote / commit_key(log, 2)
    path.write_bytes(flipped(path.read_bytes(), 100))
    before = objects(remote)
    shutil.rmtree(tmp_path / "data/cache")
    replica.close()
    with Replica(tmp_path / "data", RemoteConfig(type="fs", root=str(remote))) as again:
        (text,) = problems(again.engine.fsck(repair=True))
    step = f"delete it, and run `engine.fsck('{log}', repair=True)`"
    assert f"keep a copy of the object elsewhere, {step}" in text
    assert objects(remote) == before


def test_an_object_of_a_later_version_is_not_damage(replica, remote) -> None:
    path = remote / commit_key(log_of(replica), 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:VERSION_AT] + b"\xff" + whole[VERSION_AT + 1 :])
    before = objects(remote)
    (text,) = problems(replica.engine.fsck(repair=True))
    assert "version" in text
    assert objects(remote) == before


@pytest.mark.parametrize("is_missing", [False, True])
def test_no_gap_is_filled_before_a_commit_that_names_another_hash(
    replica, tmp_path, remote, is_missing
) -> None:
    """Another machine replaced LSN 4, and went on; that the newest known one is gone is no hole."""
    log = log_of(replica)
    shutil.copytree(remote, tmp_path / "theirs")
    (tmp_path / "theirs" / commit_key(log, 4)).unlink()
    config = RemoteConfig(type="fs", root=str(tmp_path / "theirs"))
    with Replica(tmp_path / "b", config) as other:
        connection = other.connect(remote="main")
        for value in ("another 4", "another 5"):
            connection.execute("INSERT INTO t VALUES(?)", (value,))
            other.engine.push("main")
    (remote / commit_key(log, 5)).write_bytes(
        (tmp_path / "theirs" / commit_key(log, 5)).read_bytes()
    )
    fourth = remote / commit_key(log, 4)
    fourth.unlink() if is_missing else fourth.write_bytes(b"damaged")
    before = objects(remote)
    found = replica.engine.fsck(str(log), repair=True)
    assert len(problems(found)) == 1
    assert objects(remote) == before


def test_a_commit_that_replaced_a_damaged_one_is_kept(
    replica, tmp_path, remote, monkeypatch
) -> None:
    log = log_of(replica)
    path = remote / commit_key(log, 4)
    other = tmp_path / "other"
    with Replica(tmp_path / "b", RemoteConfig(type="fs", root=str(other))) as rival:
        rival.engine.switch("main", f"{VolumeId.new()}::{log}")
        for lsn in range(4):
            rival.connect().execute(f"CREATE TABLE t{lsn}(v)")
            rival.engine.push("main")
    path.write_bytes(b"damaged")
    read, taken = replica.engine.store.get, (other / commit_key(log, 4)).read_bytes()

    def late(key: str, **limits: int) -> bytes:
        path.write_bytes(taken)
        return read(key, **limits)

    monkeypatch.setattr(replica.engine.store, "get", late)
    (text,) = problems(replica.engine.fsck(repair=True))
    assert "the repair failed: LSN 4 is now another commit" in text
    assert path.read_bytes() == taken


def test_a_store_that_denies_the_repair_leaves_a_problem_with_a_next_step(
    replica, remote, monkeypatch
) -> None:
    def deny(key: str, old: bytes, new: bytes) -> bool:
        raise StoreDeniedError(f"put of {key} was denied", next_step="ask for s3:PutObject")

    (remote / commit_key(log_of(replica), 2)).write_bytes(b"damaged")
    monkeypatch.setattr(replica.engine.store, "replace", deny)
    (text,) = problems(replica.engine.fsck(repair=True))
    assert "was denied; ask for s3:PutObject; or keep a copy of the object elsewhere" in text


def test_a_segment_is_repaired_by_reading_one_known_commit(replica, remote, monkeypatch) -> None:
    (remote / segment_of(replica)).unlink()
    read: list[int] = []
    commit = replica.engine.logs.commit

    def counted(log: LogId, lsn: int) -> object:
        read.append(lsn)
        return commit(log, lsn)

    monkeypatch.setattr(replica.engine.logs, "commit", counted)
    assert replica.engine.fsck("main", repair=True).is_sound
    assert read == [3]


def test_a_log_of_another_history_is_not_filled_locally(replica, tmp_path, remote) -> None:
    log = log_of(replica)
    other = tmp_path / "other"
    with Replica(tmp_path / "b", RemoteConfig(type="fs", root=str(other))) as rival:
        rival.engine.switch("main", f"{VolumeId.new()}::{log}")
        rival.connect().execute("CREATE TABLE t(v)")
        rival.engine.push("main")
    replica.close()
    with Replica(tmp_path / "data", RemoteConfig(type="fs", root=str(other))) as again:
        before = objects(other)
        texts = problems(again.engine.fsck(str(log), repair=True))
        assert any("the history was replaced" in text for text in texts)
        assert objects(other) == before


def test_forks_and_refs_are_verified(replica, tmp_path, remote) -> None:
    parent = log_of(replica)
    replica.engine.fork("main", new_tag="side")
    replica.engine.push("side")
    assert {log.log for log in replica.engine.fsck("side").logs} < {
        log.log for log in replica.engine.fsck().logs
    }
    assert replica.engine.fsck().is_sound
    (remote / commit_key(parent, 4)).unlink()
    texts = problems(replica.engine.fsck("side"))
    assert any(f"forked from {parent}:4, which is missing" in text for text in texts)
    (remote / ref_key("lost")).write_bytes(
        b"graft-vfs ref 1\n" + str(LogId.new()).encode() + b"\nlost\n"
    )
    assert any("ref 'lost'" in text for text in problems(replica.engine.fsck()))


def test_names_of_commits_are_verified(replica, remote) -> None:
    log_id = log_of(replica)
    for name, ref in (("good", "1"), ("torn", "2"), ("wrong", "2"), ("far", "3"), ("later", "3")):
        replica.engine.name("main", name, ref)
    assert problems(replica.engine.fsck("main")) == []
    paths = {name: remote / name_key(log_id, name) for name in ("torn", "wrong", "far", "later")}
    paths["torn"].write_bytes(paths["torn"].read_bytes()[:-4])
    for name, changes in (("wrong", {"hash": bytes(32)}), ("far", {"lsn": RemoteLsn(99)})):
        found = decode_name(paths[name].read_bytes(), key=name)
        paths[name].write_bytes(dataclasses.replace(found, **changes).encode())
    paths["later"].write_bytes(paths["later"].read_bytes().replace(b"name 1", b"name 2", 1))
    (remote / name_key(log_id, "README")).write_text("hello")
    found = problems(replica.engine.fsck("main"))
    assert len(found) == 3
    for name, lsn in (("wrong", 2), ("far", 99)):
        (problem,) = [each for each in found if f"name {name!r}" in each]
        assert f"LSN {lsn} that the log does not have" in problem
        assert "remove_name" in problem
    assert any("names/torn" in each for each in found)
    assert not replica.engine.fsck("main", repair=True).is_sound


def test_a_name_of_a_commit_that_is_put_back_is_no_problem(replica, remote) -> None:
    replica.engine.name("main", "v2", "2")
    (remote / commit_key(log_of(replica), 2)).unlink()
    assert problems(replica.engine.fsck("main", repair=True)) == []


def test_local_damage_is_found_too(replica, tmp_path) -> None:
    replica.connect("local").execute("CREATE TABLE t(v); INSERT INTO t VALUES(zeroblob(20000))")
    volume = replica.engine.catalog.tag_volume("local")
    directory = tmp_path / "data/volumes" / str(volume)
    replica.close()
    (path,) = directory.glob("*.log")
    data = path.read_bytes()
    at = len(data.rstrip(b"\0")) - 3000
    path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    lost = tmp_path / "data/volumes" / str(VolumeId.new())
    shutil.copytree(directory, lost)
    assert (lost / layout.DESCRIPTOR).exists()
    config = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "data", config) as again:
        found = again.engine.fsck()
        assert any("engine.adopt(" in str(each) for each in found.local)
        assert all(log.findings == () for log in found.logs)


def test_a_listing_of_huge_lsns_is_bounded(replica, remote) -> None:
    (remote / commit_key(log_of(replica), 2**62)).write_bytes(b"?")
    found = replica.engine.fsck("main")
    assert len(problems(found)) <= 10_001


@pytest.mark.parametrize("damage", ["flipped", "cut", "copied", "removed", "overwritten"])
def test_damaged_or_missing_refs_are_found(replica, tmp_path, remote, damage) -> None:
    replica.engine.clone("main", "seen")
    path = remote / ref_key("main")
    content = path.read_bytes()
    for foreign in (".DS_Store", "README"):
        (path.parent / foreign).write_bytes(b"no ref")
    assert replica.engine.fsck().is_sound, "what others keep there is no problem"
    if damage == "removed":
        path.unlink()
    else:
        copied = path.with_name("copy") if damage == "copied" else path
        changed = {
            "flipped": content.replace(b"main", b"mine"),
            "cut": content[:-3],
            "copied": content,
            "overwritten": b"no ref",
        }
        copied.write_bytes(changed[damage])
    found = replica.engine.fsck()
    assert not found.is_sound
    assert all(
        "graft remote name" in words(each.next_step, Audience.CLI) for each in all_findings(found)
    )
    path.unlink(missing_ok=True)
    path.with_name("copy").unlink(missing_ok=True)
    replica.engine.name_log("main", log_of(replica))
    assert replica.engine.fsck().is_sound


def test_a_remote_that_cannot_be_asked_is_a_finding_beside_the_others(
    replica, tmp_path, remote
) -> None:
    other = tmp_path / "second"
    with Replica(tmp_path / "b", RemoteConfig(type="fs", root=str(other))) as theirs:
        theirs.connect("theirs").execute("CREATE TABLE t(v)")
        theirs.engine.push("theirs")
    replica.engine.clone(f"file://{other}/theirs", "theirs")
    logs = {log_of(replica), replica.engine.status("theirs").remote}
    assert {each.log for each in replica.engine.fsck().logs} == logs
    moved = other.rename(tmp_path / "moved")
    found = replica.engine.fsck()
    assert [each.log for each in found.logs] == [log_of(replica)]
    (problem,) = problems(found)
    assert problem.startswith("problem  remote second: not verified: ")
    with pytest.raises(StoreError):
        replica.engine.fsck("theirs")
    remote.rename(tmp_path / "moved too")
    with pytest.raises(StoreError):
        replica.engine.fsck()
    moved.rename(other)
    assert len(problems(replica.engine.fsck())) == 1
