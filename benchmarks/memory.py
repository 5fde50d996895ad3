"""Peak memory of large transactions, each in a process of its own, above that process at rest.

    python -m benchmarks.memory SIDE WORK DIRECTORY SIZE_BYTES

prints {"peak": …, "private": …} in bytes: the growth of the peak resident set (VmHWM, which counts
pages of mapped files that the kernel may drop at any time), and of the private part (RssAnon, which
it may not), sampled.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.data import large_database
from benchmarks.rows import Budget, Row, at_most, skipped
from benchmarks.table import quantity
from benchmarks.workspace import Options, engine

CAPTION = "growth of the peak resident set above the idle process"

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
    """Return by how much the peak and the private memory grow while `work` runs."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
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
    return {"peak": status("VmHWM") - idle, "private": private[0] - private_idle}


def open_database(side: str, directory: Path) -> apsw.Connection:
    """Open the database of a side; the volume has the tag `main`."""
    if side == "graft":
        return graft_vfs.connect("main")
    connection = apsw.Connection(str(directory / "plain.db"))
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
    with engine(directory / "data"):
        connection = open_database(side, directory)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        found = grown(lambda: work_of(connection, name, directory, size))
        connection.close()
    return found


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
            homes = {side: directory / f"{side}-{name == 'insert'}" for side in ("stock", "graft")}
            for home in homes.values():
                home.mkdir(exist_ok=True)
                if not (home / "source.db").exists():
                    (home / "source.db").hardlink_to(directory / "source.db")
            rows.append(_row(name, homes, size, directory))
    return rows


def _row(name: str, homes: dict[str, Path], size: int, directory: Path) -> Row:
    plain = homes["stock"] / "plain.db"
    stock = None
    if name == "import":
        # A plain file needs no import; it is what the works after this one begin with.
        plain.write_bytes(b"")
        plain.unlink()
        plain.hardlink_to(directory / "source.db")
    else:
        stock = measured("stock", name, homes["stock"], size)
    graft = measured("graft", name, homes["graft"], size)
    return Row(
        "memory",
        _NAMES[name].format(quantity(size, "B")),
        None if stock is None else stock["peak"],
        graft["peak"],
        unit="B",
        budget=_budget(graft),
        note=f"private {quantity(graft['private'], 'B')}"
        + ("" if stock is None else f", stock {quantity(stock['private'], 'B')}"),
        samples={"stock": [stock], "graft": [graft]},
    )


def _budget(graft: dict[str, int]) -> Budget:
    return at_most("<= 256 MiB", (graft["peak"], BUDGET_BYTES))


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
