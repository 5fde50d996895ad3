"""Which commands count while they work, what they count, and what a terminal shows of that."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator

import pytest

from graft_vfs.cli import history, sync, transfer
from graft_vfs.cli.progress import ProgressLine, duration_text, progress

LONG = ["import", "push", "clone", "fetch", "pull", "hydrate", "audit", "export", "diff"]


@pytest.fixture
def counted(monkeypatch):
    """What the commands show, as if standard error were a terminal: (what, done, total)."""
    shown: list[tuple[str, int, int]] = []

    class Line:
        """Notes what a command reports."""

        def __init__(self, what: str) -> None:
            self.show = self.show_sent = self.show_received = functools.partial(self._note, what)

        def _note(self, what: str, done: int, total: int) -> None:
            shown.append((what, done, total))

    @contextlib.contextmanager
    def line(what: str, engine: object = None) -> Iterator[Line]:
        yield Line(what)

    @contextlib.contextmanager
    def counting(what: str, engine: object = None) -> Iterator[Callable[[int, int], None]]:
        yield Line(what).show

    for module in (history, sync, transfer):
        monkeypatch.setattr(module, "progress", counting)
    monkeypatch.setattr(sync, "progress_line", line)
    return shown


@pytest.fixture
def ready(pushed, plain):
    """Two machines; `b` has a cold clone, and is three commits behind."""
    pushed.sql("main", "CREATE TABLE big AS SELECT id, hex(zeroblob(4000)) FROM t")
    pushed.ok("push", "main")
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.machine("a")
    for number in range(3):
        pushed.sql("main", f"INSERT INTO t VALUES({-number - 1}, 'new')")
        pushed.ok("push", "main")
    return pushed


@pytest.mark.parametrize("command", LONG)
def test_a_long_command_shows_progress_to_the_end(ready, plain, counted, command):
    arguments = {
        "import": (str(plain), "other"),
        "push": ("main",),
        "clone": ("main", "copy"),
        "export": ("main", str(ready.root / "export.db")),
        "diff": ("main", "1", "2"),
    }
    if command == "push":
        ready.sql("main", "UPDATE big SET id = id + 1")
    elif command in ("import", "audit"):
        # Every 256th page is told, and all pages must be here.
        ready.sql("main", "CREATE TABLE more AS SELECT * FROM big")
    else:
        ready.machine("b")
    if command == "import":
        exported = ready.root / "large.db"
        ready.ok("export", "main", str(exported))
        counted.clear()
        arguments["import"] = (str(exported), "other")
    ready.ok(command, *arguments.get(command, ("main",)))
    assert counted
    (what,) = {what for what, _, _ in counted}
    assert what
    done = [done for _, done, _ in counted]
    assert done == sorted(done)
    (total,) = {total for _, _, total in counted}
    assert 0 < done[-1] <= total
    assert total - done[-1] < 256


# What is shown ----------------------------------------------------------------------------------

KIB, MIB = 1 << 10, 1 << 20
ERASE = "\r\x1b[2K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Timed:
    """A line whose time a test moves, on a terminal of so many columns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 80, **options) -> None:
        self.now = 0.0
        self.terminal = Terminal()
        monkeypatch.setattr(ProgressLine, "_columns", lambda _: columns)
        # The test is the only one who paints.
        monkeypatch.setattr(ProgressLine, "_repaint", lambda _: None)
        self.line = ProgressLine("Working", self.terminal, seconds=lambda: self.now, **options)

    def at(self, seconds: float, report: Callable[[int, int], None], *amounts: int) -> str:
        """Report at a time; returns what the terminal shows then."""
        self.now = seconds
        report(*amounts)
        return self.shown()

    def idle_until(self, seconds: float) -> str:
        """Let nothing happen until then; returns what the terminal shows."""
        self.now = seconds
        self.line._paint(seconds)
        return self.shown()

    def shown(self) -> str:
        return self.terminal.getvalue().rpartition(ERASE)[2]


def test_without_a_terminal_nothing_is_shown():
    stream = io.StringIO()
    with progress("Working", stream=stream) as show:
        assert show is None
    assert stream.getvalue() == ""


def test_short_work_shows_nothing():
    terminal = Terminal()
    with progress("Working", stream=terminal) as show:
        assert show is not None
        show(1, 2)
    assert terminal.getvalue() == ""


def test_what_was_sent_is_shown_with_its_rate_and_the_time_left(monkeypatch):
    timed = Timed(monkeypatch)
    assert timed.at(0, timed.line.show_sent, 0, 32 * MIB) == ""
    assert timed.at(4, timed.line.show_sent, 8 * MIB, 32 * MIB) == (
        "Sending: 8.0 MiB of 32.0 MiB (25%), 2.0 MiB/s, 12 s left"
    )
    assert timed.at(8, timed.line.show_sent, 32 * MIB, 32 * MIB) == (
        "Sending: 32.0 MiB of 32.0 MiB (100%), 4.0 MiB/s"
    )
    timed.line.clear()
    assert timed.terminal.getvalue().endswith(ERASE)


def test_the_time_left_is_not_guessed_from_the_first_pages(monkeypatch):
    timed = Timed(monkeypatch)
    assert timed.at(1, timed.line.show, 16, 15_000) == "Working: 16 of 15000 (0%)"
    assert timed.at(2, timed.line.show, 300, 15_000).endswith("1 min 38 s left")


def test_what_came_before_the_first_report_counts_for_the_rate(monkeypatch):
    received = 0
    timed = Timed(monkeypatch, received=lambda: received)
    received = 80 * KIB
    assert timed.at(4, timed.line.show, 100, 200) == (
        "Working: 100 of 200 (50%), 80.0 KiB received, 20.0 KiB/s, 4 s left"
    )


def test_what_is_counted_is_shown_beside_what_was_received(monkeypatch):
    received = 1000
    timed = Timed(monkeypatch, received=lambda: received)
    timed.at(0, timed.line.show, 0, 300)
    received += 60 * KIB
    assert timed.at(2, timed.line.show, 100, 300) == (
        "Working: 100 of 300 (33%), 60.0 KiB received, 30.0 KiB/s, 4 s left"
    )


def test_a_push_counts_pages_first_and_then_what_is_sent(monkeypatch):
    timed = Timed(monkeypatch)
    timed.at(0, timed.line.show, 0, 500)
    assert timed.at(1, timed.line.show, 250, 500) == "Working: 250 of 500 (50%), 1 s left"
    # The rate of what is sent begins with the sending.
    assert timed.at(2, timed.line.show_sent, 0, 10 * MIB) == "Sending: 0 B of 10.0 MiB (0%)"
    assert timed.at(3, timed.line.show_sent, MIB, 10 * MIB).endswith("1.0 MiB/s, 9 s left")
    assert timed.at(4, timed.line.show, 1, 500).startswith("Working: 1 of 500")


def test_a_stall_is_shown_in_place_of_a_time_left(monkeypatch):
    timed = Timed(monkeypatch)
    timed.at(0, timed.line.show_sent, 0, 10 * MIB)
    timed.at(1, timed.line.show_sent, MIB, 10 * MIB)
    assert timed.idle_until(3).endswith("left")
    assert timed.idle_until(31) == "Sending: 1.0 MiB of 10.0 MiB (10%), nothing for 30 s"
    assert timed.at(32, timed.line.show_sent, 2 * MIB, 10 * MIB).endswith("left")


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (200, "Sending: 8.0 MiB of 32.0 MiB (25%), 2.0 MiB/s, 12 s left"),
        (60, "Sending: 8.0 MiB of 32.0 MiB (25%), 2.0 MiB/s, 12 s left"),
        (50, "Sending: 8.0 MiB of 32.0 MiB (25%), 2.0 MiB/s"),
        (40, "Sending: 8.0 MiB of 32.0 MiB (25%)"),
        (20, "Sending: 8.0 MiB of"),
    ],
)
def test_the_line_is_never_longer_than_the_terminal_is_wide(monkeypatch, columns, wanted):
    timed = Timed(monkeypatch, columns)
    timed.at(0, timed.line.show_sent, 0, 32 * MIB)
    assert timed.at(4, timed.line.show_sent, 8 * MIB, 32 * MIB) == wanted
    assert len(wanted) < columns


def test_a_terminal_without_control_sequences_gets_a_line_every_few_seconds(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    timed = Timed(monkeypatch)
    for tenth in range(121):
        timed.at(tenth / 10, timed.line.show_sent, tenth * MIB, 200 * MIB)
    timed.line.clear()
    text = timed.terminal.getvalue()
    assert not set(text) & {"\r", "\x1b"}
    assert [line.partition(" of")[0] for line in text.splitlines()] == [
        "Sending: 50.0 MiB",
        "Sending: 100.0 MiB",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.2, "1 s"), (59, "59 s"), (60, "1 min"), (125, "2 min 5 s"), (659, "10 min")),
        *((7200, "2 h"), (12_000, "3 h 20 min"), (360_000, "100 h")),
    ],
)
def test_durations_are_as_exact_as_people_want_them(seconds, text):
    assert duration_text(seconds) == text
