"""Peak memory of large transactions, each in a process of its own, above that process at rest.

    python -m benchmarks.memory SIDE WORK DIRECTORY SIZE_BYTES

prints {"resident": ..., "private": ...} in bytes. At rest the process has the VFS registered and a
small database open, another one than the large. `resident` is the growth of the peak resident set
(VmHWM); it counts pages of mapped files, which are the kernel's page cache and go when it needs the
room. `private` (RssAnon, sampled) is memory that only this process has: the budget is on that.
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.data import large_database
from benchmarks.rows import Row, at_most, skipped
from benchmarks.table import quantity
from benchmarks.workspace import Options, engine

CAPTION = "peak private memory above the idle process; resident = with pages of mapped files"

BUDGET_BYTES = 256 << 20
_SAMPLE_SECONDS = 0.005
WORKS = ("import", "insert", "update", "vacuum")
_NAMES = {
    "import": "graft_import of {} in one transaction",
    "insert": "INSERT of {} in one transaction",
    "update": "UPDATE of every row, {}",
    "vacuum": "VACUUM of {}",
}


# Inside the process that is measured ------------------------------------------------------------


def status(name: str) -> int:
    """Return a size of this process in bytes, as /proc/self/status has it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def grown(work: Callable[[], object]) -> dict[str, int]:
    """Return by how much memory grows at most while `work` runs."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Resets VmHWM.
    idle, private_idle = status("VmRSS"), status("RssAnon")
    private = [private_idle]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            private[0] = max(private[0], status("RssAnon"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        work()
    finally:
        done.set()
        sampler.join()
    return {"resident": status("VmHWM") - idle, "private": private[0] - private_idle}


def open_database(side: str, directory: Path, name: str) -> apsw.Connection:
    """Open a database of a side, by tag or by file."""
    if side == "graft":
        return graft_vfs.connect(name)
    connection = apsw.Connection(str(directory / f"{name}.db"))
    connection.pragma("journal_mode", "wal")
    return connection


def work_of(connection: apsw.Connection, name: str, directory: Path, size: int) -> object:
    """Do one kind of work."""
    if name == "import":
        return connection.pragma("graft_import", str(directory / "source.db"))
    if name == "insert":
        connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, n INT, v TEXT)")
        text = (
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) "
            "INSERT INTO t SELECT i, i, hex(randomblob(500)) FROM c"
        )
        return connection.execute(text, (max(1, size // 1_030),)).fetchall()
    if name == "update":
        return connection.execute("UPDATE t SET n = n + 1, v = lower(v)").fetchall()
    return connection.execute("VACUUM").fetchall()


def child(side: str, name: str, directory: Path, size: int) -> dict[str, int]:
    """Measure one kind of work in this process."""

    def work() -> None:
        with closing(open_database(side, directory, "main")) as connection:
            work_of(connection, name, directory, size)

    with engine(directory / "data"), closing(open_database(side, directory, "idle")) as idle:
        idle.execute("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES(1)").fetchall()
        return grown(work)


# Outside ----------------------------------------------------------------------------------------


def measured(side: str, name: str, directory: Path, size: int) -> dict[str, int]:
    """Start a process for one measurement and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.memory", side, name, str(directory), str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def run(options: Options) -> list[Row]:
    """Measure each kind of work once a side: memory does not vary as time does."""
    if not Path("/proc/self/clear_refs").exists():
        return [skipped("memory", "peak", "this system has no /proc/self/clear_refs")]
    size = options.choose(128 << 20, 8 << 20, 1 << 30)
    rows = []
    with options.scratch("memory") as directory:
        large_database(directory / "source.db", size)
        for name in WORKS:
            # What INSERT fills is a database of its own; the others follow one another.
            home = directory / ("inserted" if name == "insert" else "imported")
            home.mkdir(exist_ok=True)
            if name == "import":
                shutil.copyfile(directory / "source.db", home / "main.db")
                (home / "source.db").hardlink_to(directory / "source.db")
            rows.append(_row(name, home, size))
    return rows


def _row(name: str, home: Path, size: int) -> Row:
    # A plain file needs no import, so that there is nothing to compare it with.
    stock = None if name == "import" else measured("stock", name, home, size)
    graft = measured("graft", name, home, size)
    resident = f"resident {quantity(graft['resident'], 'B')}"
    if stock is not None:
        resident += f", stock {quantity(stock['resident'], 'B')}"
    return Row(
        "memory",
        _NAMES[name].format(quantity(size, "B")),
        None if stock is None else stock["private"],
        graft["private"],
        unit="B",
        budget=at_most("<= 256 MiB", (graft["private"], BUDGET_BYTES)),
        note=resident,
        samples={"stock": [stock], "graft": [graft]},
    )


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
