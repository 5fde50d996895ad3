"""Pragmas: the engine's verbs in SQL, and those of SQLite's pragmas that the VFS handles itself.

Each returns one text. Pragmas run when the statement is prepared, so even EXPLAIN runs them. A verb
that moves the connection to another volume is refused inside a transaction.

Each pragma with its effect, its result and its requests:

    graft_tags
        All tags with their volumes; the connection's own tag is marked. Requests: 0.
    graft_volumes
        All volumes: local branch and LSN, remote log and LSN, tags. Requests: 0.
    graft_info
        Tag, ids, last sync with both LSNs, snapshot, pages, size. Requests: 0.
    graft_status
        Up to date, ahead, behind or diverged, as of the last sync, which is when the remote last
        answered; when a sync last changed the volume; an unsettled push; the last error of a sync;
        what to run next. Requests: 0.
    graft_snapshot
        The ranges of logs that make up the newest snapshot. Requests: 0.
    graft_version
        Versions of graft-vfs, its format, apsw and SQLite. Requests: 0.
    graft_log
        Commits, newest first: local commits, then fetched remote commits. Requests: 0.
    graft_name = "name [commit]"
        Give a commit that is pushed a name, by default the newest. Requests: 1, and 1 more in the
        first call of an engine.
    graft_names
        The names of commits, those of the newest first. Requests: a listing, and one a name.
    graft_new
        Point the tag at a new, empty volume; the old one stays. Requests: 0.
    graft_branches
        The branches of the volume, the current one and those that are kept. Requests: 0.
    graft_switch = "branch" or "volume[:local[:remote]]"
        Make a kept branch current by its id; the current one, with unpushed commits, is kept in
        turn. Or point the tag at a volume by its id; if it does not exist, it is created with these
        ids. Requests: 0; with `remote`, those of a fetch.
    graft_clone = "ref, log id or URL"
        Point the tag at a new volume on the newest commit of a log; without a value, of its own
        log. Requests: those of a clone.
    graft_fork
        Point the tag at a new volume with the same content, including local commits, and a new log;
        pages that are not cached locally stay on the remote. Requests: 0.
    graft_checkout = "commit"
        Point the tag at a new volume on an earlier remote commit: an LSN, log:LSN, HEAD~2, a time.
        Requests: 0 if the commit is known.
    graft_fetch
        Fetch the log's new commits; no volume moves. Requests: 1 if nothing is new.
    graft_pull [= "reset" or "fork"]
        Fetch, and move a volume without local commits to the newest commit. A diverged volume does
        not move and gives an error, unless a strategy says what becomes of its local commits: with
        reset they are kept as a branch, with fork they become a new volume. Requests: 1 if nothing
        is new.
    graft_prepare
        Prepare a new connection so that `PRAGMA journal_mode=TRUNCATE; PRAGMA
        writable_schema=RESET`, run immediately afterwards, read no page; `connect` and the
        integrations do this. Requests: 0.
    graft_push [= "message"]
        Publish all local commits as one remote commit, with a message for `graft_log`. Requests:
        1 if it is small.
    graft_push_as = "name"
        The same under another name than the tag's, as a fork needs whose tag names its former log.
        Requests: 1 if it is small, and those of a ref.
    graft_hydrate
        Fetch all pages that are not cached locally. Requests: two range GETs at most for each
        commit or segment that holds some, one for each 8 MiB, and one for each gap above 1 MiB.
    graft_audit
        The number of remote pages that are cached locally. If all are, verify them and return a
        checksum that is the same on every machine with the same content. Requests: 0.
    graft_export = "path"
        Write the newest snapshot to a new plain SQLite file. Requests: for pages that are not
        cached locally.
    graft_import = "path"
        Make the first commit of a volume from a plain SQLite file. Requests: 0.
    graft_dump_header
        The first 100 bytes of the database in hexadecimal. Requests: for page 1 if it is not
        cached locally.
    graft_dump_commit = "commit"
        The fields of a remote commit: an LSN, log:LSN, HEAD~2, a time. Requests: 0 if the commit
        is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from graft_vfs.advice import Audience, words
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import UsageError
from graft_vfs.history.branches import SwitchedBranch
from graft_vfs.pager.snapshot_file import SnapshotFile
from graft_vfs.reports import Hydrated, Moved
from graft_vfs.suggestions import did_you_mean
from graft_vfs.volume.transaction import Durability

_Handler = Callable[[Graft, SnapshotFile, "str | None"], str]

_SYNCHRONOUS_WORDS = {
    **dict.fromkeys(("off", "no", "false"), Durability.OFF),
    "full": Durability.FULL,
    "extra": Durability.EXTRA,
}
_JOURNAL_MODES = ("delete", "persist", "off", "truncate", "memory", "wal")
_REFUSED_JOURNAL_MODES = ("wal", "off")


def answer(engine: Graft, file: SnapshotFile, name: str, value: str | None) -> str | None:
    """Return the answer to a pragma, or None for one that is SQLite's business."""
    name = name.lower()
    if name == "synchronous" and value is not None:
        _note_synchronous(file, value)
        return None
    if name == "journal_mode" and value is not None:
        return _journal_mode(file, value)
    if name == "locking_mode" and value is not None:
        if value.lower() in {"normal", "exclusive"}:
            file.set_exclusive(value.lower() == "exclusive")
        return None
    handler = _HANDLERS.get(name)
    if handler is None:
        if name.startswith("graft_"):
            raise UsageError(
                f"there is no pragma {name}",
                next_step=f"{did_you_mean(name, NAMES)}known are {', '.join(NAMES)}",
            )
        return None
    engine.check_process()
    file.follow_tag()
    return handler(engine, file, value)


def _note_synchronous(file: SnapshotFile, value: str) -> None:
    """Learn the durability that is asked for, reading the value as SQLite does."""
    digits = re.match("[0-9]+", value)
    if digits:
        level = max(0, (int(digits[0]) + 1) % 8 - 1)
    else:
        level = int(_SYNCHRONOUS_WORDS.get(value.lower(), Durability.NORMAL))
    # SQLite refuses a change inside a transaction, and with locking_mode=EXCLUSIVE a connection
    # always looks as if it were inside one; more than was asked for is never wrong.
    if level > file.durability or not file.in_transaction:
        file.durability = level


def _journal_mode(file: SnapshotFile, value: str) -> str | None:
    """Answer for WAL and OFF with the mode that stays; the others are SQLite's business."""
    # SQLite takes any beginning of a name for the first mode that it fits.
    mode = next((mode for mode in _JOURNAL_MODES if mode.startswith(value.lower())), None)
    if mode in _REFUSED_JOURNAL_MODES:
        return file.journal_mode
    if mode is not None and file.transaction is None:
        file.journal_mode = mode
    return None


def _moves(
    verb: Callable[[Graft, SnapshotFile, str | None], Moved | SwitchedBranch],
) -> _Handler:
    """Make a handler of a verb after which the connection shows another volume, or branch."""

    def handler(engine: Graft, file: SnapshotFile, value: str | None) -> str:
        if file.in_transaction:
            raise UsageError(
                "the connection is inside a transaction", next_step="COMMIT or ROLLBACK it first"
            )
        _refuse_read_only(file)
        moved = verb(engine, file, value)
        file.move_to(engine.volume(moved.volume))
        return _text(moved)

    return handler


def _needed(value: str | None, what: str) -> str:
    if not value:
        raise UsageError(f"the pragma needs a value: {what}")
    return value


def _refuse_read_only(file: SnapshotFile) -> None:
    file.volume.catalog.require_writable()
    if file.read_only:
        raise UsageError(
            "this connection is read-only", next_step="open the tag without lsn= and mode=ro"
        )


def _refuse_inside_write(file: SnapshotFile) -> None:
    """Refuse what needs the writer lock while this very connection holds it."""
    if file.holds_writer_lock:
        raise UsageError(
            "the connection is inside a write transaction",
            next_step="COMMIT or ROLLBACK it first, and leave locking_mode=EXCLUSIVE",
        )


def _pull(engine: Graft, file: SnapshotFile, value: str | None) -> str:
    _refuse_inside_write(file)
    return str(engine.pull(file.opened, strategy=value or None))


def _import(engine: Graft, file: SnapshotFile, value: str | None) -> str:
    _refuse_read_only(file)
    _refuse_inside_write(file)
    return str(engine.import_(Path(_needed(value, "a path")), file.opened))


def _clone(engine: Graft, file: SnapshotFile, value: str | None) -> Moved:
    name = value or str(engine.catalog.volume(file.volume.id).remote)
    return engine.clone(name, file.tag)


def _name(engine: Graft, file: SnapshotFile, value: str | None) -> str:
    name, _, ref = _needed(value, "a name").strip().partition(" ")
    return str(engine.name(file.opened, name, ref.strip() or "HEAD"))


def _text(report: object) -> str:
    return words(report, Audience.SQL)


def _lines(items: list[object]) -> str:
    return "\n".join(str(item) for item in items)


_HANDLERS: dict[str, _Handler] = {
    "graft_tags": lambda engine, file, _: _lines([*engine.tags(file.tag)]),
    "graft_volumes": lambda engine, _, __: _lines([*engine.volumes()]),
    "graft_info": lambda engine, file, _: str(engine.info(file.opened)),
    "graft_status": lambda engine, file, _: _text(engine.status(file.opened)),
    "graft_snapshot": lambda engine, file, _: engine.info(file.opened).snapshot,
    "graft_version": lambda engine, _, __: str(engine.versions()),
    "graft_log": lambda engine, file, _: _lines([*engine.log(file.opened)]),
    "graft_name": _name,
    "graft_names": lambda engine, file, _: _lines([*engine.names(file.opened)]),
    "graft_new": _moves(lambda engine, file, _: engine.new(file.tag)),
    "graft_branches": lambda engine, file, _: _lines([*engine.branches(file.opened)]),
    "graft_switch": _moves(
        lambda engine, file, value: engine.switch(
            file.opened, _needed(value, "a branch, or volume[:local[:remote]]")
        )
    ),
    "graft_clone": _moves(_clone),
    "graft_fork": _moves(lambda engine, file, _: engine.fork(file.opened)),
    "graft_checkout": _moves(
        lambda engine, file, value: engine.checkout(file.opened, _needed(value, "a commit"))
    ),
    "graft_fetch": lambda engine, file, _: str(engine.fetch(file.opened)),
    "graft_pull": _pull,
    "graft_prepare": lambda _, file, __: file.prepare(),
    "graft_push": lambda engine, file, value: str(engine.push(file.opened, message=value or "")),
    "graft_push_as": lambda engine, file, value: str(
        engine.push(file.opened, name=_needed(value, "a name"))
    ),
    "graft_hydrate": lambda engine, file, _: str(Hydrated(engine.hydrate(file.opened))),
    "graft_audit": lambda engine, file, _: _text(engine.audit(file.opened)),
    "graft_export": lambda engine, file, value: str(
        engine.export(file.opened, Path(_needed(value, "a path")))
    ),
    "graft_import": _import,
    "graft_dump_header": lambda engine, file, _: engine.dump_header(file.volume),
    "graft_dump_commit": lambda engine, file, value: engine.dump_commit(
        _needed(value, "a commit"), file.volume
    ),
}

NAMES = tuple(sorted(_HANDLERS))
