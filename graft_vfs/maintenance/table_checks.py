"""Verification of a log's tables, for fsck: what is damaged, missing or contradicts the commits.

A table is made of commits, so each can be made again, on any machine that can read these. Whoever
reads a damaged one passes it over; but one with a correct hash that names wrong places is believed
(see the limits in `docs/guarantees.md`), and is found only by comparing it with the commits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graft_vfs.advice import Hint
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    FutureVersionError,
    GraftError,
    ObjectMissingError,
    StoreUnavailableError,
)
from graft_vfs.format.table import HEAD_BYTES, Block, TableHead, decode_block, decode_head
from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.maintenance.findings import Finding, Link
from graft_vfs.maintenance.table_history import difference, states
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.log import RemoteLog
from graft_vfs.remote.request_threads import request_threads
from graft_vfs.remote.tables import TableName, check_blocks, list_tables, read_table, write_table
from graft_vfs.sync.fetch import require_view
from graft_vfs.sync.headers import parent_of, require_headers
from graft_vfs.view.logs import Logs
from graft_vfs.view.new_table import table_of_commits
from graft_vfs.view.table_layer import TableLayer
from graft_vfs.view.tiling import tiling

_STEP_COMMITS = 512


@dataclass(frozen=True, slots=True)
class _Bad:
    """A table with a problem; `is_there` if its key is taken, `is_ours` if it is the catalog's."""

    name: TableName
    problem: str
    is_there: bool = True
    is_ours: bool = False
    next_step: str | Hint | None = None


class TableCheck:
    """The tables of one log. Owner: `check_log`.

    `links` are those of its valid commits; without `is_ours`, this machine knows another history.
    """

    def __init__(
        self, logs: Logs, remote: RemoteLog, links: Mapping[RemoteLsn, Link], *, is_ours: bool
    ) -> None:
        self._logs = logs
        self._remote = remote
        self._links = links
        self._is_ours = is_ours
        self._sound: dict[TableName, TableHead] = {}
        self._lying: set[TableName] = set()
        self.count = 0

    def run(self, *, deep: bool, history: bool, repair: bool) -> Iterator[Finding]:
        """Yield what is wrong; with `repair`, make those tables again.

        Requests: a listing for each 1000 tables and one for each table, 32 at a time; with `deep`
        one for each 4096 pages of a large one; with `history` one for each commit of the log and of
        those it was forked from, and with both those of all frames of compacted tables.
        """
        names = list_tables(self._remote.store, self._remote.log_id, limit=sys.maxsize)
        self.count = len(names)
        inspect = functools.partial(self._inspect, deep=deep)
        bad: list[_Bad] = []
        with request_threads("graft-fsck-tables", max(1, len(names))) as executor:
            for name, found in zip(names, executor.map(inspect, names), strict=True):
                if isinstance(found, _Bad):
                    bad.append(found)
                else:
                    self._sound[name] = found
        bad += self._missing(names)
        if history:
            bad += self._compared(deep=deep)
            for each in bad:
                if each.is_ours:
                    self._lying.add(each.name)
                else:
                    self._sound.pop(each.name, None)
        for each in sorted(bad, key=lambda each: each.name.lsn):
            yield self._judged(each, repair=repair)

    def _inspect(self, name: TableName, *, deep: bool) -> TableHead | _Bad:
        """Read and verify a table, all of it with `deep`."""
        try:
            read = read_table(self._remote.store, name, whole=HEAD_BYTES)
            if deep:
                self._read_blocks(name, read.head.root, read.data)
        except (CorruptObjectError, ObjectMissingError) as error:
            return _Bad(name, error.message)
        except FutureVersionError as error:
            return _Bad(name, error.message, next_step=error.hint or "upgrade graft-vfs")
        facts = read.head.facts
        link = self._links.get(facts.lsn)
        if link is not None and link.hash != facts.hash:
            return _Bad(name, "it is a table of another history")
        if facts.lsn > max(self._links, default=NO_LSN):
            problem = f"it is the table of LSN {facts.lsn}, which the log does not have"
            step = "if no history is to be restored, delete the object"
            return _Bad(name, problem, next_step=step)
        return read.head

    def _read_blocks(self, name: TableName, blocks: tuple[Block, ...], data: bytes) -> None:
        for block in blocks:
            found = decode_block(self._block(name, data, block), block, key=name.key)
            if isinstance(found, tuple):
                self._read_blocks(name, found, data)

    def _block(self, name: TableName, data: bytes, block: Block) -> bytes:
        end = block.offset + block.length
        if end <= len(data):
            return data[block.offset : end]
        return self._remote.store.get_range(name.key, block.offset, block.length)

    def _missing(self, names: list[TableName]) -> Iterator[_Bad]:
        """Yield the tables that the newest sound one needs, and the remote lacks."""
        newest = next((name for name in names if name in self._sound), None)
        if newest is None:
            return
        end = newest.after
        for beneath in self._sound[newest].facts.beneath:
            if not end:
                return
            name = TableName(newest.log_id, beneath.lsn, beneath.after, beneath.suffix)
            if name not in names:
                problem = f"the table is missing, and the one at LSN {newest.lsn} needs it"
                yield _Bad(name, problem, is_there=False)
            end = beneath.after

    # Comparing with the commits -----------------------------------------------------------------

    def _compared(self, *, deep: bool) -> Iterator[_Bad]:
        """Yield the tables, of the remote and of this machine, that contradict the commits."""
        log_id = self._remote.log_id
        found = [(name, False, self._layer(name, head)) for name, head in self._sound.items()]
        for row in self._logs.catalog.tables.all(log_id) if self._is_ours else ():
            name = TableName(log_id, row.lsn, row.after, row.suffix)
            found.append((name, True, self._logs.layer(row)))
        pairs = {(name.after, name.lsn) for name, _, _ in found}
        # Of commits that are missing, or those of another history, faults are found elsewhere.
        present = next((lsn for lsn in itertools.count(1) if lsn not in self._links), 1) - 1
        pairs = {pair for pair in pairs if pair[1] <= present}
        for state in states(self._logs, log_id, pairs):
            for name, is_ours, layer in found:
                if (name.after, name.lsn) == (state.after, state.lsn):
                    try:
                        problem = difference(state, layer, deep=deep)
                    except (CorruptObjectError, ObjectMissingError) as error:
                        problem = error.message
                    if problem is not None:
                        yield _Bad(name, problem, is_ours=is_ours)

    def _layer(self, name: TableName, head: TableHead) -> TableLayer:
        """Return a table of the remote, not of the catalog, which may have another one."""
        source_of = functools.partial(self._logs.source_of, page_size=head.facts.page_size)
        return TableLayer(
            head,
            key=name.key,
            read=functools.partial(self._block, name, b""),
            is_near=lambda _: True,
            bring=lambda _: None,
            source_of=source_of,
        )

    # Repairs ------------------------------------------------------------------------------------

    def _judged(self, bad: _Bad, *, repair: bool) -> Finding:
        """Return the finding of a table; make the table again if requested and possible."""
        where = f"{bad.name.key} on this machine" if bad.is_ours else bad.name.key
        finding = Finding(where, bad.problem)
        lsns = range(bad.name.after + 1, bad.name.lsn + 1)
        if bad.next_step is not None:
            return dataclasses.replace(finding, next_step=bad.next_step)
        if any(RemoteLsn(lsn) not in self._links for lsn in lsns):
            step = "put back the commits that it was made of, and run fsck again"
            return dataclasses.replace(finding, next_step=step)
        if not self._is_ours:
            return dataclasses.replace(finding, next_step="clone the log, and run fsck there")
        if not repair:
            return dataclasses.replace(finding, repair="makes it again")
        try:
            self._make_again(bad)
        except (StoreUnavailableError, CommitOutcomeUnknownError):
            raise
        except GraftError as error:
            failed = Hint("the repair failed: ", error, "; run fsck again")
            return dataclasses.replace(finding, next_step=failed)
        return dataclasses.replace(finding, repair="made again", is_repaired=True)

    def _make_again(self, bad: _Bad) -> None:
        """Put a table in the place of a bad one; its bytes say the same as the commits."""
        name, catalog = bad.name, self._logs.catalog
        row, data = self._kept(bad) or self._made(name)
        if bad.is_ours:
            catalog.tables.keep(row, data)
            self._logs.forget_views(name.log_id)
            return
        if bad.is_there:
            held = self._remote.store.get(name.key)
            if not self._remote.store.replace(name.key, held, data):
                raise CorruptObjectError(
                    f"{name.key} was changed by another client in the meantime",
                    next_step="run fsck again",
                )
        else:
            write_table(self._remote.store, name, data)
        self._sound[name] = decode_head(data, key=name.key)
        # What this machine keeps of the old object does not fit to the new one.
        for known in catalog.tables.all(name.log_id):
            if (known.lsn, known.after, known.suffix) == (name.lsn, name.after, name.suffix):
                kept = dataclasses.replace(row, suffix=name.suffix, is_remote=True)
                catalog.tables.keep(kept, data)
                self._logs.forget_views(name.log_id)

    def _kept(self, bad: _Bad) -> tuple[TableRow, bytes] | None:
        """Return this machine's copy of a table, so that a compaction stays one; None without."""
        tables, name = self._logs.catalog.tables, bad.name
        for row in tables.all(name.log_id) if bad.name not in self._lying else ():
            if (row.lsn, row.after, row.suffix) == (name.lsn, name.after, name.suffix):
                data = tables.read(row, 0, row.length)
                if data is None or row.hash != self._links[row.lsn].hash:
                    continue
                with contextlib.suppress(CorruptObjectError):
                    check_blocks(decode_head(data, key=name.key).root, data, key=name.key)
                    return row, data
        return None

    def _made(self, name: TableName) -> tuple[TableRow, bytes]:
        log_id, logs = name.log_id, self._logs
        for first in range(name.after + 1, name.lsn + 1, _STEP_COMMITS):
            last = min(name.lsn, first + _STEP_COMMITS - 1)
            require_headers(logs, log_id, RemoteLsn(first), RemoteLsn(last))
        parent = parent_of(logs, log_id)
        if not name.after and parent is not None:
            require_view(logs, *parent)
        rows = [
            TableRow(log_id, each.after, each.lsn, each.suffix, head.facts.hash, 1, is_remote=True)
            for each, head in self._sound.items()
        ]
        below = tiling(rows, name.after) if name.after else []
        return table_of_commits(logs, log_id, name.after, name.lsn, below)
