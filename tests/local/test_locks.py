"""Lock files: one holder among handles, threads and processes, and none after its death."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from graft_vfs.errors import LocalStorageError
from graft_vfs.local import locks
from graft_vfs.local.locks import FileLock
from tests.support.children import child
from tests.support.locking import cannot_unlock

HOLDER = """
    import os, signal
    from graft_vfs.local.locks import FileLock
    lock = FileLock(Path(hear()))
    assert lock.acquire()
    say("holds")
    {act}
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "push.lock"


@pytest.fixture
def lock(path):
    lock = FileLock(path)
    yield lock
    lock.close()


def test_one_handle_excludes_another_of_the_same_process(lock, path) -> None:
    other = FileLock(path)
    assert lock.acquire()
    assert not other.acquire()
    lock.release()
    assert other.acquire()
    other.close()
    assert lock.acquire()


def test_closing_a_handle_releases_the_lock_and_is_idempotent(lock, path) -> None:
    other = FileLock(path)
    assert other.acquire()
    other.close()
    other.close()
    assert lock.acquire()


def test_a_release_without_the_lock_is_harmless(lock, path) -> None:
    other = FileLock(path)
    assert other.acquire()
    lock.release()
    assert not lock.acquire()
    other.close()


def test_a_lock_that_cannot_be_unlocked_is_released_by_closing(
    lock, path, monkeypatch, caplog
) -> None:
    other = FileLock(path)
    assert lock.acquire()

    with monkeypatch.context() as patch:
        patch.setattr(locks, "flock", cannot_unlock)
        lock.release()
    assert "No locks available" in caplog.text
    assert other.acquire()
    assert not lock.acquire()
    other.close()
    assert lock.acquire()


def test_a_waiting_handle_gets_the_lock_when_its_holder_releases_it(lock, path) -> None:
    assert lock.acquire()
    other = FileLock(path)
    assert not other.acquire_within(0)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(other.acquire_within(60)))
    thread.start()
    lock.release()
    thread.join()
    assert answers == [True]
    assert not lock.acquire()
    other.close()


@pytest.mark.parametrize("act", ["remove", "replace"])
def test_a_removed_or_replaced_lock_file_is_locked_again(lock, path, act) -> None:
    assert lock.acquire()
    lock.release()
    path.unlink()
    if act == "replace":
        path.touch()
    assert not lock.is_in_place()
    other = FileLock(path)
    assert other.acquire()
    assert not lock.acquire()
    other.close()
    assert lock.acquire()
    assert lock.is_in_place()


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGABRT", "exit"])
def test_the_lock_of_a_process_that_ended_is_free_at_once(lock, path, tmp_path, end) -> None:
    act = "os._exit(0)" if end == "exit" else f"os.kill(os.getpid(), signal.{end})"
    with child(tmp_path / "data", HOLDER.format(act=f"hear(); {act}")) as holder:
        holder.say(str(path))
        assert holder.hear() == "holds"
        assert not lock.acquire()
        holder.say("end")
        assert holder.hear() == ""
        holder.process.wait()
        assert lock.acquire()


def test_a_stopped_process_keeps_the_lock_until_it_is_killed(lock, path, tmp_path) -> None:
    with child(tmp_path / "data", HOLDER.format(act="hear()")) as holder:
        holder.say(str(path))
        assert holder.hear() == "holds"
        os.kill(holder.process.pid, signal.SIGSTOP)
        assert not lock.acquire()
        holder.kill()
        assert lock.acquire()


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(lock, path, tmp_path) -> None:
    fork = """
        ours, theirs = os.pipe()
        if os.fork() == 0:
            os.close(theirs)
            say("forked")
            os.read(ours, 1)  # Until the parent has ended.
            say("orphan")
            os.read(0, 1)  # Until the test has tried the lock.
            os._exit(0)
        hear()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    program = HOLDER.format(act="pass").rstrip() + fork.replace("\n    ", "\n")
    with child(tmp_path / "data", program) as holder:
        holder.say(str(path))
        assert {holder.hear(), holder.hear()} == {"holds", "forked"}
        assert not lock.acquire()
        holder.say("die")
        assert holder.hear() == "orphan"
        holder.process.wait()
        assert lock.acquire()
        holder.say("end")


def test_a_lock_file_that_cannot_be_created_is_a_named_error(tmp_path) -> None:
    with pytest.raises(LocalStorageError, match="No such file"):
        FileLock(tmp_path / "absent" / "push.lock")
