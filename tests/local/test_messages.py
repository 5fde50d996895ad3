"""Messages of local commits: kept until they are pushed, and nothing fails for want of them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from graft_vfs.errors import LocalStorageError
from graft_vfs.local import layout
from graft_vfs.local.messages import Messages
from graft_vfs.pages import LocalLsn

ONE, TWO, THREE = map(LocalLsn, (1, 2, 3))


def test_messages_are_found_by_lsn_and_go_when_their_commits_are_pushed(tmp_path) -> None:
    messages = Messages(tmp_path)
    assert messages.within(ONE, THREE) == []
    messages.add(ONE, "first\nin two lines", first=ONE)
    messages.add(THREE, "drei — ☃", first=ONE)
    again = Messages(tmp_path)
    assert again.within(ONE, THREE) == [(1, "first\nin two lines"), (3, "drei — ☃")]
    assert again.within(TWO, THREE) == [(3, "drei — ☃")]
    again.add(LocalLsn(4), "fourth", first=THREE)
    assert messages.within(ONE, LocalLsn(9)) == [(3, "drei — ☃"), (4, "fourth")]
    assert [path.name for path in tmp_path.iterdir()] == [layout.MESSAGES]


def test_messages_are_joined_and_the_oldest_left_out_if_they_are_too_many(tmp_path) -> None:
    messages = Messages(tmp_path)
    assert messages.joined(ONE, THREE, 100) == ""
    for lsn in (ONE, TWO, THREE):
        messages.add(lsn, f"{lsn}é", first=ONE)
    assert messages.joined(ONE, THREE, 11) == "1é\n2é\n3é"
    assert messages.joined(ONE, THREE, 10) == "2é\n3é"
    assert messages.joined(ONE, TWO, 3) == "2é"
    assert messages.joined(ONE, TWO, 2) == ""


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"lsn": "x", "message": 1}\n',
        b'{"lsn": Infinity, "message": "x"}\n',
        b'{"lsn": 3, "message": "\\ud800"}\n',
        b"[" * 100_000 + b"\n",
        b"7\n",
        b'{"lsn": 2, "mess',
    ],
)
def test_what_is_no_message_is_left_out(tmp_path, spoilt) -> None:
    messages = Messages(tmp_path)
    messages.add(ONE, "first", first=ONE)
    path = tmp_path / layout.MESSAGES
    path.write_bytes(path.read_bytes() + spoilt)
    assert messages.within(ONE, THREE) == [(1, "first")]
    messages.add(TWO, "second", first=ONE)
    assert messages.within(ONE, THREE) == [(1, "first"), (2, "second")]


def test_no_message_is_lost_if_the_others_cannot_be_read(tmp_path, monkeypatch) -> None:
    messages = Messages(tmp_path)
    messages.add(ONE, "first", first=ONE)

    def unreadable(_: Path) -> bytes:
        raise OSError(errno.EIO, "the disk is ill")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unreadable)
        assert messages.within(ONE, THREE) == []
        with pytest.raises(LocalStorageError):
            messages.add(TWO, "second", first=ONE)
    assert messages.within(ONE, THREE) == [(1, "first")]


def test_a_message_that_cannot_be_written_is_an_error_and_the_others_stay(tmp_path) -> None:
    messages = Messages(tmp_path)
    messages.add(ONE, "first", first=ONE)
    (tmp_path / layout.NEW_MESSAGES).mkdir()
    with pytest.raises(LocalStorageError):
        messages.add(TWO, "second", first=ONE)
    assert messages.within(ONE, THREE) == [(1, "first")]
