"""`graft log` on the screen: commits in a line or a paragraph each, with marks of a graph."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from graft_vfs.cli.table import cropped
from graft_vfs.history.graph import LogLine
from graft_vfs.reports import (
    LogEntry,
    TableDiff,
    age_text,
    commit_time_text,
    commits_text,
    first_line,
    pages_text,
    size_text,
)

_INDENT = "    "


def short_lines(found: Iterable[LogLine], width: int | None) -> Iterator[str]:
    """Yield a line a commit, with what it changed below it if that was asked for."""
    for line, below in _with_marks_below(found):
        entry = line.entry
        if entry is None:
            yield _marks_alone(line)
            continue
        about = [first_line(entry.message) or pages_text(entry.pages), age_text(entry.time_ms)]
        if _state(line):
            about.append(_state(line))
        elif entry.author:
            about.append(entry.author)
        text = f"{line.marks}{_title(line)}  {', '.join(about)}"
        yield text if width is None else cropped(text, width)
        for change in _changes(entry):
            yield f"{below}{_INDENT}{change}"


def long_lines(found: Iterable[LogLine], width: int | None, *, graph: bool) -> Iterator[str]:
    """Yield a paragraph a commit; without a graph, under a heading for each log."""
    log_id, is_first = None, True
    for line, below in _with_marks_below(found):
        entry = line.entry
        if entry is None:
            yield _marks_alone(line)
            continue
        if not graph:
            if not is_first:
                yield ""
            if entry.log != log_id:
                yield _heading(entry)
                yield ""
            log_id, is_first = entry.log, False
        yield f"{line.marks}{_title(line)}{f'  {_state(line)}' if _state(line) else ''}"
        room = None if width is None else width - len(below) - 2 * len(_INDENT)
        for text in _paragraph(entry, room):
            shown = f"{below}{_INDENT if text else ''}{text}".rstrip()
            yield shown if width is None else cropped(shown, width)
        if graph and below.strip():
            yield below.rstrip()


def _heading(entry: LogEntry) -> str:
    if entry.where == "local":
        return f"Local branch {entry.log}, not pushed"
    return f"Remote log {entry.log}"


def _title(line: LogLine) -> str:
    assert line.entry is not None
    names = f" ({', '.join(line.names)})" if line.names else ""
    return f"{line.entry.ref}{names}"


def _state(line: LogLine) -> str:
    assert line.entry is not None
    if line.is_beside:
        # Of another log than the volume's own, the ref names the log.
        return "not in this fork" if ":" in line.entry.ref else "not pulled"
    return "not pushed" if line.entry.where == "local" else ""


def _with_marks_below(found: Iterable[LogLine]) -> Iterator[tuple[LogLine, str]]:
    """Yield each line with what is drawn below its mark, which is nothing below the last."""
    rest = iter(found)
    line = next(rest, None)
    while line is not None:
        following = next(rest, None)
        yield line, line.marks.replace("*", " " if following is None else "|")
        line = following


def _marks_alone(line: LogLine) -> str:
    more = f"{commits_text(line.left_out)} more" if line.left_out else ""
    return f"{line.marks}{more}".rstrip()


def _paragraph(entry: LogEntry, width: int | None) -> Iterator[str]:
    """Yield the lines about a commit; its message is whole, in lines of `width`."""
    if entry.author:
        yield f"Author: {entry.author}"
    yield f"Date:   {commit_time_text(entry.time_ms)} ({age_text(entry.time_ms)})"
    rolled = f", {commits_text(entry.local_commits)} of the author"
    pages = f"{entry.pages} of {pages_text(entry.page_count)}, {size_text(entry.stored_bytes)}"
    yield f"Pages:  {pages}{rolled if entry.local_commits > 1 else ''}"
    if entry.message:
        yield ""
        for text in entry.message.splitlines():
            wrapped = [text] if width is None else textwrap.wrap(text, max(width, 1))
            yield from (f"{_INDENT}{part}" for part in wrapped or [""])
    if entry.tables is not None:
        yield ""
        yield from _changes(entry)


def _changes(entry: LogEntry) -> Iterator[str]:
    """Yield what a commit changed, as far as that was asked for."""
    if entry.tables is None:
        return
    yield from map(str, entry.schema or ())
    yield from map(_table_text, entry.tables)
    if not (entry.schema or entry.tables):
        yield "no row of a table"


def _table_text(table: TableDiff) -> str:
    if table.note is not None:
        return f"{table.table}: not compared: {table.note}"
    counts = {"+": table.inserted, "-": table.deleted, "~": table.updated}
    return f"{table.table}: {' '.join(f'{mark}{count}' for mark, count in counts.items() if count)}"
