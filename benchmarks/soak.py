"""A soak: hours of ordinary work, to find what grows without bound.

    python -m benchmarks.soak --minutes 15 [--json FILE] [--s3] [--directory DIR]

Four processes work side by side on one remote (`soak_roles` says what each does): a writer that
also pushes, a reader in the writer's data directory, a follower with its own, and a visitor that
comes as a new machine each time. This one looks at them from outside, at equal intervals: memory,
descriptors, threads, deleted files that are still held, and what the data directories take on disk.

What a run finds is a series of samples for each of these. The first third is warm-up. The rest is
judged in one of two ways, and a series beyond its limit makes the exit status 1:

    growth  the slope of the trend (Theil-Sen: the median of the slopes of all pairs, which single
            peaks do not move) times the time judged, but no more than lowest and highest value are
            apart; the longer the run, the smaller a leak it sees
    level   the highest value: for what is allowed to swing, but not to leave a bound

What the live data explains is not judged: remote objects, which nothing collects here, and in the
catalog a row for each known remote commit.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apsw

from benchmarks import machine, s3_server
from benchmarks.soak_roles import ROLES
from graft_vfs import RemoteConfig

_MIB = 1 << 20
_WARM_UP_SHARE = 1 / 3
_SAMPLES_MIN, _SAMPLES_MAX = 12, 90
_COLUMNS = 7
CACHE_BYTES_MAX = 8 * _MIB
_ARENAS_MAX = 9
"""A bounded cache has eight arenas, and one that is being filled."""
COMMIT_ROW_BYTES = 64
"""What the catalog's table and its key take for a known commit beside its header."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much a series may have; `kind` is growth, level, or empty for what is only shown."""

    kind: str = ""
    value: float = 0


LIMITS: Mapping[str, Limit] = {
    "private MiB": Limit("growth", 16),
    "resident MiB": Limit(),
    # Three for each of the eight arenas of a cache that fills during the run.
    "descriptors": Limit("growth", 24),
    # Threads that fetch start when they are needed, and stay.
    "threads": Limit("growth", 16),
    # A process holds an arena that another one deleted until it looks for a frame that it does not
    # know, two files each. The rest are replaced log files below snapshots, one for each.
    "deleted files held": Limit("level", 2 * _ARENAS_MAX + 6),
    # A file is replaced by the first push behind 16 MiB that finds no writer; behind 64 MiB a
    # push waits for that. What is committed while pushes run on a busy machine comes on top.
    "branch logs MiB": Limit("level", 256),
    # The bound, and the arena that is being filled.
    "cache MiB": Limit("level", CACHE_BYTES_MAX / _MIB * _ARENAS_MAX / 8),
    "catalog beyond commits MiB": Limit("growth", 1),
    "catalog WAL MiB": Limit("level", 16),
    "branch rows": Limit("growth", 16),
    "pending pushes": Limit("level", 1),
    "known commits": Limit(),
    "remote objects": Limit(),
}


@dataclass(slots=True)
class Series:
    """The samples of one quantity of one process or directory: (seconds since the start, value)."""

    owner: str
    name: str
    samples: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was judged, and against which limit; `found` is a growth or a level."""

    limit: Limit
    found: float

    @property
    def is_within(self) -> bool:
        """Tell whether the limit holds; it does where there is none."""
        return not self.limit.kind or self.found <= self.limit.value


def judge(series: Series, limit: Limit) -> Verdict:
    """Judge the samples behind the warm-up."""
    begin, end = series.samples[0][0], series.samples[-1][0]
    judged = [at for at in series.samples if at[0] >= begin + (end - begin) * _WARM_UP_SHARE]
    if limit.kind == "level":
        return Verdict(limit, max(value for _, value in judged))
    values = [value for _, value in judged]
    trend = slope(judged) * (end - judged[0][0])
    # Few samples of what swings can have a trend that is steeper than anything that happened.
    return Verdict(limit, min(trend, max(values) - min(values)))


def verdicts(found: Iterable[Series]) -> list[tuple[Series, Verdict]]:
    """Judge each series by the limit that its name has."""
    return [(series, judge(series, LIMITS[series.name])) for series in found]


def exit_status(judged: Iterable[tuple[Series, Verdict]]) -> int:
    """Return 1 if anything is beyond its limit."""
    return int(not all(verdict.is_within for _, verdict in judged))


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes of all pairs of samples, a second."""
    slopes = [
        (later_value - value) / (later - time_)
        for (time_, value), (later, later_value) in itertools.combinations(samples, 2)
    ]
    return statistics.median(slopes) if slopes else 0.0


# Sampling ---------------------------------------------------------------------------------------


def sample_process(pid: int) -> dict[str, float]:
    """Return what a process has now, as /proc tells it."""
    home = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (home / "status").read_text(encoding="ascii").splitlines()
    )
    held = set()
    descriptors = list((home / "fd").iterdir())
    for descriptor in descriptors:
        # One that was closed since it was listed is no leak.
        with contextlib.suppress(FileNotFoundError):
            held.add(str(descriptor.readlink()))
    for line in (home / "maps").read_text(encoding="utf-8").splitlines():
        held.add(line.split(maxsplit=5)[-1])
    return {
        "private MiB": int(status["RssAnon"].split()[0]) / 1024,
        "resident MiB": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(descriptors),
        "threads": int(status["Threads"]),
        "deleted files held": sum(name.endswith(" (deleted)") for name in held),
    }


def sample_directory(data_dir: Path) -> dict[str, float]:
    """Return what a data directory takes on disk, and how many rows its catalog has."""
    with contextlib.closing(
        apsw.Connection(str(data_dir / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY)
    ) as catalog:
        catalog.set_busy_timeout(10_000)
        ((commits, header_bytes, branches, pending),) = catalog.execute(
            "SELECT count(*), sum(length(header)), (SELECT count(*) FROM branches), "
            "(SELECT count(*) FROM pending_pushes) FROM commits"
        ).fetchall()
    known = header_bytes + commits * COMMIT_ROW_BYTES
    return {
        "branch logs MiB": disk_bytes(data_dir / "volumes") / _MIB,
        "cache MiB": disk_bytes(data_dir / "cache") / _MIB,
        "catalog beyond commits MiB": (disk_bytes(data_dir / "catalog.db") - known) / _MIB,
        "catalog WAL MiB": disk_bytes(data_dir / "catalog.db-wal") / _MIB,
        "branch rows": branches,
        "pending pushes": pending,
        "known commits": commits,
    }


def disk_bytes(path: Path) -> int:
    """Return the bytes of the blocks that a file, or the files below a directory, take."""
    total = 0
    for file in [path, *path.rglob("*")]:
        # Files come and go while this looks.
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_blocks * 512
    return total


# The run ----------------------------------------------------------------------------------------


class Soak:
    """The processes of one run and what was sampled of them."""

    def __init__(self, directory: Path, remote: RemoteConfig) -> None:
        self._directory = directory
        self._remote = remote
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.series: dict[tuple[str, str], Series] = {}
        self.counts: dict[str, dict[str, int]] = {}

    def run(self, *, seconds: float, samples: int) -> None:
        """Work for so long; raises CalledProcessError if a process ends before."""
        settings = {"cache_max_bytes": CACHE_BYTES_MAX}
        subprocess.run(self._command("set-up", "home", settings), check=True)
        with contextlib.ExitStack() as stack:
            for role in ROLES:
                home = {"writer": "home", "reader": "home"}.get(role, role)
                stack.enter_context(self._process(role, self._command(role, home, settings)))
            for role, process in self._processes.items():
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise subprocess.CalledProcessError(process.wait(), role)
            begin = time.monotonic()
            for number in range(samples):
                self._wait_until(begin + (number + 1) * seconds / samples)
                self._sample(time.monotonic() - begin)
            for role, process in self._processes.items():
                self.counts[role] = json.loads(self._end(role, process))

    def _command(self, role: str, home: str, settings: dict[str, int]) -> list[str]:
        data_dir = str(self._directory / home)
        remote, others = json.dumps(asdict(self._remote)), json.dumps(settings)
        return [sys.executable, "-m", "benchmarks.soak_roles", role, data_dir, remote, others]

    @contextlib.contextmanager
    def _process(self, role: str, command: list[str]) -> Iterator[None]:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            self._processes[role] = process
            try:
                yield
            finally:
                process.kill()

    def _wait_until(self, moment: float) -> None:
        """Wait for the next sample; a process that ends meanwhile ends the run."""
        writer = self._processes["writer"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(max(0.0, moment - time.monotonic()))
        for role, process in self._processes.items():
            if process.poll() is not None:
                raise subprocess.CalledProcessError(process.returncode, role)

    def _end(self, role: str, process: subprocess.Popen[str]) -> str:
        output, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, role)
        return output

    def _sample(self, seconds: float) -> None:
        for role, process in self._processes.items():
            self._note(role, seconds, sample_process(process.pid))
        for home in ("home", "follower"):
            name = {"home": "writer's disk", "follower": "follower's disk"}[home]
            self._note(name, seconds, sample_directory(self._directory / home))
        with self._remote.open() as store:
            self._note("remote", seconds, {"remote objects": sum(1 for _ in store.list(""))})

    def _note(self, owner: str, seconds: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            series = self.series.setdefault((owner, name), Series(owner, name))
            series.samples.append((seconds, value))


# The report -------------------------------------------------------------------------------------


def render(judged: Sequence[tuple[Series, Verdict]]) -> str:
    """Return the table: a line for each series, a column for each of some moments."""
    times = [at for at, _ in judged[0][0].samples]
    shown = sorted({round(k * (len(times) - 1) / (_COLUMNS - 1)) for k in range(_COLUMNS)})
    lines = [["", "", *(f"{times[at]:.0f} s" for at in shown), "found", "limit", "within"]]
    owner = ""
    for series, verdict in judged:
        values = [f"{series.samples[at][1]:.4g}" for at in shown]
        found, limit, within = "-", "-", "-"
        if verdict.limit.kind:
            found = f"{verdict.found:{'+' if verdict.limit.kind == 'growth' else ''}.3g}"
            limit = f"{verdict.limit.kind} <= {verdict.limit.value:g}"
            within = "yes" if verdict.is_within else "NO"
        owner, heading = series.owner, series.owner if series.owner != owner else ""
        lines.append([heading, series.name, *values, found, limit, within])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=15.0, help="how long (15)")
    add("--s3", action="store_true", help="on a local S3 server instead of a directory")
    add("--json", type=Path, metavar="FILE", help="write all samples and verdicts")
    add("--directory", type=Path, metavar="DIR", help="where the data goes (a temporary one)")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def remote_of(directory: Path, *, s3: bool) -> Iterator[RemoteConfig]:
    """Give the remote of a run inside the block."""
    if not s3:
        yield RemoteConfig(type="fs", root=str(directory / "remote"))
        return
    home = directory / "server"
    home.mkdir()
    with s3_server.running(home) as server:
        if isinstance(server, str):
            raise SystemExit(server)
        with server.identity():
            yield RemoteConfig(type="s3_compatible", bucket=server.bucket, endpoint=server.url)


def main(arguments: Sequence[str]) -> int:
    """Run, print the table, and return 1 if something grew beyond its limit."""
    chosen = parse(arguments)
    if not Path("/proc/self/status").exists():
        print("a soak looks at processes through /proc, which this system does not have")
        return 2
    seconds = chosen.minutes * 60
    samples = int(min(_SAMPLES_MAX, max(_SAMPLES_MIN, seconds / 5)))
    with tempfile.TemporaryDirectory(prefix="graft-soak-", dir=chosen.directory) as name:
        directory = Path(name).resolve()
        facts = machine.describe(directory)
        print("\n".join(facts.values()), flush=True)
        with remote_of(directory, s3=chosen.s3) as remote:
            soak = Soak(directory, remote)
            soak.run(seconds=seconds, samples=samples)
    judged = verdicts(soak.series.values())
    print("\n" + render(judged) + "\n")
    for role, counts in soak.counts.items():
        print(f"{role}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if chosen.json is not None:
        found = [report_of(series, verdict) for series, verdict in judged]
        report = {"facts": facts, "seconds": seconds, "counts": soak.counts, "series": found}
        chosen.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return exit_status(judged)


def report_of(series: Series, verdict: Verdict) -> dict[str, Any]:
    """Return a series as JSON has it."""
    return {**asdict(series), **asdict(verdict), "within": verdict.is_within}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
