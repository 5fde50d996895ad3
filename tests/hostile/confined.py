"""A client that meets hostile remotes, watched by an audit hook; says in JSON what happened.

    python -m tests.hostile.confined SANDBOX [SCENARIO …]

SANDBOX holds a directory for each scenario: its `remote`, and `data`, where a sound state of the
same log was cloned before. Every verb that reads runs on each, and whatever comes out is reported:
the error's class, files opened or changed outside of the scenario's own, code that was run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import GraftError
from graft_vfs.vfs.file_system import FileSystem
from graft_vfs.volume.context import Opened
from tests.hostile.memory import forget_peak, peak_bytes
from tests.hostile.remotes import SCENARIOS

SCENARIO_SECONDS_MAX = 60
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What runs other programs or loads code; nothing that a remote says may lead here.
_CODE = frozenset(
    {
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty",
        "pickle.find_class", "marshal.loads", "ctypes.dlopen", "compile", "exec", "import",
    }
)  # fmt: skip
_CHANGES = frozenset(
    {
        "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
        "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile",
    }
)  # fmt: skip
_SYSTEM_FILES = ("/proc/self/mountinfo", "/proc/sys/kernel/random/boot_id")
# On which mount an open file is.
_FILE_FACTS = re.compile(r"/proc/self/fdinfo/[0-9]+", re.ASCII)


class Watch:
    """Collects what an audit hook sees while it is on."""

    def __init__(self) -> None:
        self.readable: tuple[Path, ...] = ()
        self.writable: tuple[Path, ...] = ()
        self.found: list[str] = []
        self._is_on = False
        sys.addaudithook(self._see)

    @contextlib.contextmanager
    def on(self, *, readable: tuple[Path, ...], writable: tuple[Path, ...]) -> Iterator[None]:
        self.readable, self.writable, self.found = readable, writable, []
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event in _CODE:
            self.found.append(f"{event} {arguments[:1]!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if not self._may_open(path, flags):
                self.found.append(f"open {path!r} with flags {flags:o}")
        elif event in _CHANGES:
            # Only names count: the last arguments are descriptors of folders.
            for path in arguments:
                if isinstance(path, str | bytes | os.PathLike) and not self._is_own(path):
                    self.found.append(f"{event} {path!r}")

    def _may_open(self, path: Any, flags: int) -> bool:
        if isinstance(path, int):
            return True  # A descriptor, which was opened under a name before.
        if self._is_own(path):
            # A single name is opened in an open folder, where a link could lead anywhere.
            return os.fsdecode(path).startswith("/") or bool(flags & os.O_NOFOLLOW)
        is_write = bool(flags & _WRITE_FLAGS)
        is_system = path in _SYSTEM_FILES or _FILE_FACTS.fullmatch(os.fsdecode(path)) is not None
        return not is_write and (is_system or self._is_in(path, self.readable))

    def _is_own(self, path: Any) -> bool:
        name = os.fsdecode(path)
        if "/" not in name and name not in {"", ".", ".."}:
            return True  # One name in a folder that is open; the tree shows what became of it.
        return self._is_in(path, self.writable)

    @staticmethod
    def _is_in(path: Any, places: tuple[Path, ...]) -> bool:
        real = Path(os.path.realpath(os.fsdecode(path)))
        return any(real == place or place in real.parents for place in places)


class Client:
    """One data directory on one hostile remote; notes how each verb ended."""

    def __init__(self, data: Path, remote: Path, name: str) -> None:
        config = Config(data_dir=data, remote=RemoteConfig(type="fs", root=str(remote)))
        self.engine = Graft(config)
        self.file_system = FileSystem(self.engine, name=name)
        self.name = name
        self.outcomes: dict[str, str] = {}

    def attempt(self, verb: str, work: Callable[[], Any]) -> None:
        """Do one thing; a declared error is an answer, any other is told apart."""
        try:
            work()
        except (GraftError, apsw.Error) as error:
            self.outcomes[verb] = type(error).__name__
        except Exception as error:  # noqa: BLE001 - whatever it is, the report names it
            self.outcomes[verb] = f"undeclared {type(error).__name__}: {error}"
        else:
            self.outcomes[verb] = "ok"

    def query(self, tag: str, parameters: str = "", sql: str = "SELECT count(*), sum(x) FROM t"):
        """Read a table, and close the connection whatever happens."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{tag}?vfs={self.name}{parameters}", flags=flags)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def use(self, tag: str, out: Path) -> None:
        """Run every verb that reads on a tag."""
        engine, attempt = self.engine, self.attempt
        attempt(f"{tag} read", lambda: self.query(tag))
        attempt(f"{tag} read lsn", lambda: self.query(tag, "&lsn=1"))
        attempt(f"{tag} read newest", lambda: self.query(tag, "&as_of=2999-01-01"))
        attempt(f"{tag} log", lambda: [str(entry) for entry in engine.log(tag)])
        attempt(f"{tag} info", lambda: f"{engine.info(tag)} {engine.status(tag)}")
        # Before all pages are here, so that reading them in order reads ahead.
        attempt(f"{tag} export", lambda: engine.export(tag, out / f"{tag}.db"))
        attempt(f"{tag} hydrate", lambda: engine.hydrate(tag))
        attempt(f"{tag} audit", lambda: engine.audit(tag))
        attempt(f"{tag} dump", lambda: engine.dump_header(engine.open(tag)))
        for lsn in range(1, 5):
            attempt(
                f"{tag} dump {lsn}", lambda lsn=lsn: engine.dump_commit(str(lsn), engine.open(tag))
            )
        attempt(
            f"{tag} checkout",
            lambda: engine.checkout(Opened(f"{tag}-out", engine.open(tag)), "1"),
        )
        attempt(f"{tag} fork", lambda: engine.fork(tag, new_tag=f"{tag}-fork"))
        attempt(f"{tag} read fork", lambda: self.query(f"{tag}-fork"))
        attempt(f"{tag} push fork", lambda: engine.push(f"{tag}-fork"))

    def close(self) -> None:
        self.file_system.unregister()
        self.engine.close()


def meet(home: Path, log: str) -> tuple[dict[str, str], int]:
    """Clone and use a remote, then pull it into what was cloned before it was hostile.

    Returns how each verb ended, and the number of requests.
    """
    outcomes, requests = {}, 0
    remote, out = home / "remote", home / "out"
    client = Client(home / "fresh", remote, "fresh")
    try:
        client.attempt("refs", client.engine.refs)
        client.attempt("clone ref", lambda: client.engine.clone("main", "a"))
        client.attempt("clone id", lambda: client.engine.clone(log, "b"))
        client.use("b", out)
        requests += client.engine.store.counters.snapshot().requests
    finally:
        client.close()
    outcomes |= client.outcomes
    client = Client(home / "data", remote, "before")
    try:
        client.attempt("fetch", lambda: client.engine.fetch("main"))
        client.attempt("pull", lambda: client.engine.pull("main"))
        client.use("main", out)
        insert = "INSERT INTO t VALUES(1)"
        client.attempt("write", lambda: client.query("main", "", insert))
        client.attempt("push", lambda: client.engine.push("main"))
        requests += client.engine.store.counters.snapshot().requests
    finally:
        client.close()
    return outcomes | client.outcomes, requests


def main(sandbox: Path, names: list[str]) -> None:
    log = (sandbox / "log").read_text()
    watch = Watch()
    # Whatever is imported or compiled lazily is so before anybody watches.
    warm = sandbox / "warm"
    meet(warm, log)
    shutil.rmtree(warm)
    for name in names or SCENARIOS:
        home = sandbox / name
        places = tuple(home / part for part in ("fresh", "data", "out", "remote"))
        faulthandler.dump_traceback_later(SCENARIO_SECONDS_MAX, exit=True)
        before = forget_peak()
        # The folder that holds the data directory is opened to make the directory's name durable.
        with watch.on(readable=(home,), writable=places):
            outcomes, requests = meet(home, log)
        grown = peak_bytes() - before
        report = {
            "scenario": name,
            "outcomes": outcomes,
            "requests": requests,
            "grown_bytes": grown,
            "watched": sorted(set(watch.found)),
        }
        print(json.dumps(report), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
