"""New tables: whatever they are made of, they say of each page what the commits say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.format.commit import NO_HASH, CommitHeader
from graft_vfs.format.table import decode_head
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.remote.remotes import Remotes
from graft_vfs.store.memory import MemoryStore
from graft_vfs.view import logs as views
from graft_vfs.view import table_policy
from graft_vfs.view.logs import Logs
from graft_vfs.view.new_table import next_table
from graft_vfs.view.page_table import PageTable
from tests.format.commit_samples import LOG, OTHER_LOG, body, header_of, image

STEP = 3
"""Instead of 24, so that short histories have many tables."""


@dataclass(frozen=True)
class Change:
    """What a commit writes: some pages, and how many the database has afterwards."""

    pages: tuple[int, ...]
    page_count: int


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    """A history in which the database grows and shrinks; pages that come back may be unwritten."""
    found = []
    for _ in range(draw(st.integers(1, 22))):
        count = draw(st.integers(0, 40))
        pages = draw(st.sets(st.integers(1, count), max_size=20)) if count else set()
        found.append(Change(tuple(sorted(pages)), count))
    return found


def headers_of(
    history: list[Change], log: LogId = LOG, parent: CommitHeader | None = None
) -> list[CommitHeader]:
    headers: list[CommitHeader] = []
    previous = NO_HASH if parent is None else parent.hash
    for lsn, change in enumerate(history, 1):
        pages, frames, _ = body({page: image(page, salt=lsn) for page in change.pages})
        forked = {} if lsn > 1 or parent is None else _parent(parent)
        header = header_of(
            pages, frames, log_id=log, lsn=lsn, previous_hash=previous,
            page_count=change.page_count, **forked,
        )  # fmt: skip
        headers.append(header)
        previous = header.hash
    return headers


def _parent(header: CommitHeader) -> dict[str, object]:
    return {"parent_log": header.log_id, "parent_lsn": header.lsn}


def row_of(header: CommitHeader) -> CommitRow:
    return CommitRow(header.lsn, header.hash, header.encode())


def no_executor() -> Executor:
    raise AssertionError("nothing is fetched")


@contextmanager
def machine() -> Iterator[Logs]:
    """The logs that a machine knows, without a network."""
    with tempfile.TemporaryDirectory() as directory:
        catalog = Catalog(Path(directory) / "catalog.db")
        remotes = Remotes(catalog, MemoryStore(), mock.Mock())
        logs = Logs(catalog, remotes, Path(directory) / "cache", executor=no_executor)
        yield logs
        logs.close()
        catalog.close()


def expected_of(headers: list[CommitHeader], below: dict | None = None) -> dict:
    """Return page → (hash of the commit, slot), as the history says, page by page."""
    found = dict(below or {})
    for header in headers:
        found = {page: at for page, at in found.items() if page <= header.page_count}
        found |= {page: (header.hash, slot) for slot, page in enumerate(header.pages)}
    return found


def found_in(logs: Logs, log: LogId, header: CommitHeader, hashes: dict[bytes, bytes]) -> dict:
    table = logs.log_view(log, header.lsn).table
    places = {page: table.find(page) for page in range(1, header.page_count + 60)}
    return {page: (hashes[at[0].id], at[1]) for page, at in places.items() if at is not None}


def ids_of(headers: list[CommitHeader]) -> dict[bytes, bytes]:
    return {header.lsn.to_bytes(8, "little") + header.hash[:8]: header.hash for header in headers}


def make(logs: Logs, log: LogId = LOG, *, ratio: int = 1) -> bytes:
    """Make the table that is due and keep it; returns its bytes, empty if none is due.

    With a ratio of 0 it takes in no other, with a large one all.
    """
    with mock.patch.multiple(table_policy, STEP=STEP, RATIO=ratio):
        made = next_table(logs, log)
    if made is None:
        return b""
    logs.catalog.tables.keep(*made)
    return made[1]


@given(changes(), st.sampled_from([0, 1 << 20]), st.data())
@settings(max_examples=25, deadline=None)
def test_tables_find_what_all_commits_say(
    history: list[Change], decoded_bytes: int, data: st.DataObject
) -> None:
    """Tables in memory, or as layers whose blocks are read when pages need them."""
    headers = headers_of(history)
    hashes = ids_of(headers)
    with machine() as logs, mock.patch.object(views, "_DECODED_BYTES_MAX", decoded_bytes):
        for header in headers:
            logs.catalog.add_commits(LOG, [row_of(header)])
            ratio = data.draw(st.sampled_from([None, 0, 1, 100]))
            if ratio is not None and make(logs, ratio=ratio) and data.draw(st.booleans()):
                # A machine that cloned has only the headers after the newest table.
                covered = max(row.lsn for row in logs.catalog.tables.all(LOG))
                logs.catalog.forget_commits(LOG)
                logs.catalog.add_commits(
                    LOG, [row_of(each) for each in headers[covered - 1 : header.lsn]]
                )
            so_far = headers[: header.lsn]
            expected = expected_of(so_far)
            assert found_in(logs, LOG, header, hashes) == expected
            table: PageTable[bytes] = PageTable()
            table = table.advance((each.hash, each.pages, each.page_count) for each in so_far)
            found = {page: table.find(page) for page in range(1, 100)}
            assert {page: at for page, at in found.items() if at} == expected


@given(changes(), st.data())
@settings(max_examples=15, deadline=None)
def test_tables_of_two_machines_may_overlap(history: list[Change], data: st.DataObject) -> None:
    headers = headers_of(history)
    hashes = ids_of(headers)
    ratios = st.sampled_from([None, 0, 1, 100])
    with machine() as ours, machine() as theirs:
        for header in headers:
            for logs in (ours, theirs):
                logs.catalog.add_commits(LOG, [row_of(header)])
                ratio = data.draw(ratios)
                if ratio is not None:
                    make(logs, ratio=ratio)
            if data.draw(st.booleans()):
                for row in theirs.catalog.tables.all(LOG):
                    table = theirs.catalog.tables.read(row, 0, row.length)
                    assert table is not None
                    ours.catalog.tables.keep(row, table)
            assert found_in(ours, LOG, header, hashes) == expected_of(headers[: header.lsn])


@given(changes(), changes())
@settings(max_examples=15, deadline=None)
def test_complete_tables_of_a_fork_include_the_parents_pages(
    history: list[Change], forked: list[Change]
) -> None:
    parents = headers_of(history)
    children = headers_of(forked, OTHER_LOG, parents[-1])
    hashes = ids_of(parents) | ids_of(children)
    with machine() as logs:
        logs.catalog.add_commits(LOG, [row_of(each) for each in parents])
        make(logs)
        for header in children:
            logs.catalog.add_commits(OTHER_LOG, [row_of(header)])
            table = make(logs, OTHER_LOG)
            if table:
                facts = decode_head(table, key="made").facts
                assert (facts.parent_log, facts.parent_lsn) == (LOG, parents[-1].lsn)
            expected = expected_of(children[: header.lsn], expected_of(parents))
            assert found_in(logs, OTHER_LOG, header, hashes) == expected


@given(changes())
@settings(max_examples=15, deadline=None)
def test_a_table_made_of_tables_is_equal_to_one_made_of_commits(history: list[Change]) -> None:
    headers = headers_of(history)
    with machine() as often, machine() as once:
        newest = b""
        for header in headers:
            often.catalog.add_commits(LOG, [row_of(header)])
            newest = make(often) or newest
        once.catalog.add_commits(LOG, [row_of(header) for header in headers])
        at_once = make(once)
        if newest and decode_head(newest, key="often").facts.after == 0:
            assert newest == at_once
