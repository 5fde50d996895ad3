"""The past: times as people write them, and the log as it was at any of them."""

from __future__ import annotations

import datetime as dt

import pytest

from graft_vfs.errors import (
    NotFoundError,
    UsageError,
)
from graft_vfs.times import corrected_ms, parse_time
from tests.support.replicas import rows

HOUR_MS = 3_600_000
NOON_MS = int(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", NOON_MS + 999),
        ("2026-01-31T12:00:00", NOON_MS + 999),
        ("2026-01-31 14:00:00+02:00", NOON_MS + 999),
        ("2026-01-31T12:00:00.2Z", NOON_MS + 299),
        ("2026-01-31T12:00:00,25Z", NOON_MS + 259),
        ("2026-01-31T12:00:00.250Z", NOON_MS + 250),
        ("2026-01-31T12:00:00.250999Z", NOON_MS + 250),
        ("2 hours ago", NOON_MS - 2 * HOUR_MS),
        ("1 hour ago", NOON_MS - HOUR_MS),
        ("1.5 hours ago", NOON_MS - 3 * HOUR_MS // 2),
        ("90 seconds ago", NOON_MS - 90_000),
        ("3 days ago", NOON_MS - 72 * HOUR_MS),
        ("0 weeks ago", NOON_MS),
    ],
)
def test_times_are_parsed(text, expected) -> None:
    assert parse_time(text, now=lambda: NOON_MS / 1000) == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2 hours", "two hours ago", "2 fortnights ago", "nan hours ago",
     "inf hours ago", "-inf weeks ago", "1e999 days ago", "2026-13-01", "12:00", "2 ss ago"],
)  # fmt: skip
def test_an_invalid_time_is_refused_with_an_example(text) -> None:
    with pytest.raises(UsageError, match="2 hours ago"):
        parse_time(text, now=lambda: NOON_MS / 1000)


def test_as_of_shows_the_log_at_any_time(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(1, 8):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        moment = (NOON_MS + number * HOUR_MS) * 1_000_000
        with monkeypatch.context() as patch:
            patch.setattr("graft_vfs.sync.build.time.time_ns", lambda moment=moment: moment)
            ours.engine.push("main")
    for number in range(1, 8):
        for minutes in (0, 1, 59):
            moment = NOON_MS + number * HOUR_MS + minutes * 60_000
            text = dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat()
            snapshot = ours.engine.snapshot_at("main", as_of=text)
            assert snapshot.remote.lsn == number
    assert ours.engine.snapshot_at("main", as_of="2099-01-01").remote.lsn == 7
    with pytest.raises(NotFoundError, match="no commit at that time"):
        ours.engine.snapshot_at("main", as_of="2026-01-31T12:59:59Z")
    past = ours.connect("main", as_of="2026-01-31T15:30:00Z")
    assert rows(past) == [(1,), (2,), (3,)]
    with pytest.raises(NotFoundError):
        ours.engine.snapshot_at("main", lsn=8)
    with pytest.raises(NotFoundError):
        ours.engine.snapshot_at("main", lsn=0)
    with pytest.raises(UsageError):
        ours.engine.snapshot_at("main")


def test_the_time_that_the_log_prints_selects_that_commit(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(1, 7):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        moment = (NOON_MS + number * 333) * 1_000_000
        with monkeypatch.context() as patch:
            patch.setattr("graft_vfs.sync.build.time.time_ns", lambda moment=moment: moment)
            ours.engine.push("main")
    newest_of_second: dict[str, int] = {}
    for entry in reversed(ours.engine.log("main")):
        printed = str(entry).split()[2]
        assert ours.engine.snapshot_at("main", as_of=printed).remote.lsn == entry.lsn
        assert printed in str(ours.engine.show("main", str(entry.lsn)))
        newest_of_second[printed[:19]] = entry.lsn
    assert len(newest_of_second) == 2
    for printed, lsn in newest_of_second.items():
        assert ours.engine.snapshot_at("main", as_of=f"{printed}Z").remote.lsn == lsn


@pytest.mark.parametrize("ahead", [None, 0.0, 59.0, -59.0])
def test_a_clock_that_is_right_or_not_known_to_be_wrong_dates_commits(ahead) -> None:
    assert corrected_ms(NOON_MS, ahead) == NOON_MS


@pytest.mark.parametrize("ahead", [61.5, -61.5, 1e9, -1e9])
def test_a_clock_that_disagrees_with_the_store_does_not_date_commits(ahead) -> None:
    assert corrected_ms(NOON_MS, ahead) == NOON_MS - round(ahead * 1000)


def test_the_past_of_a_log_without_commits_is_not_found(machines) -> None:
    ours = machines("ours")
    ours.connect().execute("CREATE TABLE t(k)")
    with pytest.raises(NotFoundError, match="no log"):
        ours.engine.snapshot_at("main", as_of="1 hour ago")
    with pytest.raises(NotFoundError, match="no log"):
        ours.engine.snapshot_at("main", lsn=1)
