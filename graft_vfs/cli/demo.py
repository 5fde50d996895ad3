"""`graft demo`: import, push, clone and query, with a directory as the remote.

It needs no account and no network, reads no configuration, and writes only to its own directory:

    a/       the data directory of the machine that imports and pushes
    b/       that of the machine that clones and reads
    remote/  what both see; with S3 these files would be objects
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import graft_vfs
from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option
from graft_vfs.cli.sample_data import Sample, find_sample
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.errors import UsageError
from graft_vfs.local.files import storage_errors
from graft_vfs.reports import size_text
from graft_vfs.store.base import StoreCounts

Say = Callable[[str], None]

_TAG = "main"

_ON_S3 = """\
The same on S3: write a graft.toml
  [remote]
  type = "s3_compatible"
  bucket = "my-bucket"
give credentials as usual (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE), then
  graft import my.db main
  graft push main
and on another machine, with the same graft.toml
  graft clone main"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one step asked of the remote."""

    requests: int
    bytes_sent: int
    bytes_received: int

    @classmethod
    def of(cls, counts: StoreCounts) -> Traffic:
        """Take the totals of a store's counts."""
        return cls(counts.requests, counts.bytes_sent, counts.bytes_received)

    def __str__(self) -> str:
        requests = "1 request" if self.requests == 1 else f"{self.requests} requests"
        return (
            f"{requests}, {size_text(self.bytes_sent)} sent, "
            f"{size_text(self.bytes_received)} received"
        )


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo did, in numbers."""

    directory: Path
    sample: str
    pages: int
    database_bytes: int
    first_push: Traffic
    second_push: Traffic
    clone: Traffic
    query: Traffic
    answer: str
    pages_here: int
    pages_total: int
    log: tuple[str, ...]


def run_demo(directory: Path, say: Say) -> Demo:
    """Run all steps in an empty directory, telling each."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    sample = find_sample(directory)
    say(f"The database: {sample.description}.")
    published = _publish(directory, sample, say)
    replicated = _replicate(directory, sample, say)
    return Demo(directory, sample.description, **published, **replicated)


@contextlib.contextmanager
def _machine(directory: Path, name: str) -> Iterator[graft_vfs.Graft]:
    """Register the engine of a machine of its own, and take it out again."""
    remote = RemoteConfig(type="fs", root=str(directory / "remote"))
    engine = graft_vfs.register(Config(data_dir=directory / name, remote=remote))
    try:
        yield engine
    finally:
        graft_vfs.unregister()


def _publish(directory: Path, sample: Sample, say: Say) -> dict[str, Any]:
    with _machine(directory, "a") as engine:
        say("\nMachine A imports it as the tag main, commits to it with SQL, and pushes.")
        imported = engine.import_(sample.path, _TAG)
        say(f"  {imported}")
        with contextlib.closing(graft_vfs.connect(_TAG)) as connection:
            connection.execute("CREATE TABLE visits(id INTEGER PRIMARY KEY, who TEXT)")
            first = _push(engine, say)
            say("  Two of them tested that the remote never creates one key twice.")
            say("One more row, one more push: one conditional write is the whole push.")
            connection.execute("INSERT INTO visits(who) VALUES('machine A')")
            second = _push(engine, say)
        return {
            "pages": imported.pages,
            "database_bytes": imported.bytes,
            "first_push": first,
            "second_push": second,
        }


def _push(engine: graft_vfs.Graft, say: Say) -> Traffic:
    before = engine.store.counters.snapshot()
    pushed = engine.push(_TAG)
    traffic = Traffic.of(engine.store.counters.snapshot() - before)
    say(f"  {pushed}\n  {traffic}.")
    return traffic


def _replicate(directory: Path, sample: Sample, say: Say) -> dict[str, Any]:
    with _machine(directory, "b") as engine:
        say("\nMachine B, which has nothing yet, clones main: metadata only.")
        before = engine.store.counters.snapshot()
        moved = engine.clone(_TAG, _TAG)
        cloned = engine.store.counters.snapshot()
        clone = Traffic.of(cloned - before)
        say(f"  {moved}\n  {clone}.")
        say(f"It asks: {sample.question}")
        with contextlib.closing(graft_vfs.connect(_TAG)) as connection:
            answer = str(connection.execute(sample.query).get)
        query = Traffic.of(engine.store.counters.snapshot() - cloned)
        found = engine.audit(_TAG)
        say(f"  {answer}")
        say(
            f"  {query}: {found.present} of {found.total} pages are here now "
            f"({100 * found.present / found.total:.1f}%)."
        )
        log = tuple(str(entry) for entry in engine.log(_TAG))
        say("\nIts history (graft log main):")
        for line in log:
            say(f"  {line}")
        return {
            "clone": clone,
            "query": query,
            "answer": answer,
            "pages_here": found.present,
            "pages_total": found.total,
            "log": log,
        }


@contextlib.contextmanager
def _workplace(chosen: Path | None, *, keep: bool) -> Iterator[Path]:
    """Yield the directory to work in; one that was not chosen or kept is removed."""
    if chosen is not None:
        if chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
            raise UsageError(
                f"{chosen} is not an empty directory", next_step="choose a new or an empty one"
            )
        yield chosen.absolute()
        return
    with storage_errors(Path(tempfile.gettempdir())):
        directory = Path(tempfile.mkdtemp(prefix="graft-demo-"))
    try:
        yield directory
    finally:
        if not keep:
            shutil.rmtree(directory)


def _how_to_go_on(directory: Path, *, kept: bool) -> str:
    if not kept:
        return f"{directory} is removed again; --keep keeps it."
    return (
        f"Everything is in {directory}. Look around as machine B with\n"
        f"  export GRAFT_DATA_DIR={directory / 'b'}\n"
        f"  export GRAFT_REMOTE_TYPE=fs GRAFT_REMOTE_ROOT={directory / 'remote'}\n"
        "  graft status main"
    )


@command("demo", "graft demo", "graft demo --directory /tmp/graft-demo")
@click.option("--keep", is_flag=True, help="Keep the temporary directory.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Work in DIR, which must be new or empty, and keep it.",
)
@json_option
def demo(keep: bool, directory: Path | None, as_json: bool) -> None:
    """Show import, push, clone and a query, with a directory as remote.

    Needs no account, no network and no configuration.
    """
    kept = keep or directory is not None
    with _workplace(directory, keep=keep) as workplace:
        if as_json:
            emit(run_demo(workplace, lambda _: None), as_json=True)
            return
        echo(f"Working in {workplace}.")
        run_demo(workplace, echo)
        echo(f"\n{_how_to_go_on(workplace, kept=kept)}\n\n{_ON_S3}")


COMMANDS: tuple[click.Command, ...] = (demo,)
