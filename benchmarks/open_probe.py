"""Open a database in this fresh process and ask one query.

    python open_probe.py stock|graft DIRECTORY

prints {"import": …, "open": …, "cpu": …} in seconds: importing the package, then everything from
there to the answer, and the CPU of that.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

_QUERY = "SELECT n FROM t WHERE id = 777"


def opened(side: str, directory: Path) -> dict[str, float]:
    """Open and query; nothing was imported yet."""
    begin = time.perf_counter()
    import apsw  # noqa: PLC0415 - the import is part of what is measured

    if side == "graft":
        import graft_vfs  # noqa: PLC0415

        imported, imported_cpu = time.perf_counter(), time.process_time()
        remote = graft_vfs.RemoteConfig(type="fs", root=str(directory / "remote"))
        graft_vfs.register(graft_vfs.Config(data_dir=directory / "data", remote=remote))
        connection = graft_vfs.connect("main")
    else:
        imported, imported_cpu = time.perf_counter(), time.process_time()
        connection = apsw.Connection(str(directory / "plain.db"))
    connection.execute(_QUERY).fetchall()
    ended, ended_cpu = time.perf_counter(), time.process_time()
    connection.close()
    return {
        "import": imported - begin,
        "open": ended - imported,
        "cpu": ended_cpu - imported_cpu,
    }


if __name__ == "__main__":
    print(json.dumps(opened(sys.argv[1], Path(sys.argv[2]))))
