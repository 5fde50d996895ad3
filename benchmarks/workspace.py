"""Where benchmarks run: scratch directories, engines, a store that is as slow as the real one."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.store.base import ObjectStore, Verb
from graft_vfs.testing import WrapperStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    directory: Path
    pairs: int = 5
    quick: bool = False
    large: bool = False
    database: Path | None = None
    peer_python: Path | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def choose(self, normal: int, quick: int, large: int | None = None) -> int:
        """Return the size of some work for this kind of run."""
        return quick if self.quick else large if self.large and large is not None else normal

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give an empty directory, which is gone after the block."""
        path = self.directory / f"{name}-{next(self._numbers)}"
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


class DelayedStore(WrapperStore):
    """A store whose every request takes `delay_seconds` longer; counts the longest chain of them.

    Owner: the engine, which closes it. Thread rule: any thread. Uploads of several parts are
    delayed once, as their parts run in parallel.
    """

    def __init__(self, inner: ObjectStore, delay_seconds: float) -> None:
        super().__init__(inner)
        self._delay_seconds = delay_seconds
        self._lock = threading.Lock()
        self._chain = 0
        self._running = 0

    def round_trips(self) -> int:
        """Return the length of the longest run of requests so far that went one after another.

        A request counts as one behind each that had been answered when it was sent, whether it
        needed that answer or not.
        """
        with self._lock:
            return self._chain

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        with self._lock:
            place = self._chain + 1
            self._running += 1
        time.sleep(self._delay_seconds)
        try:
            yield
        finally:
            with self._lock:
                self._chain = max(self._chain, place)
                self._running -= 1

    def wait_until_idle(self) -> None:
        """Return when no request has been under way for 10 ms."""
        quiet = 0
        while quiet < 2:
            time.sleep(0.005)
            with self._lock:
                quiet = 0 if self._running else quiet + 1

    def request(self, verb: Verb, key: str, send: Callable[[], T]) -> T:  # noqa: ARG002
        """Pass on, later; no listing here has more than one page."""
        with self._request():
            answer = send()
            # A listing sends its request when it is used.
            return cast("T", iter([*answer])) if isinstance(answer, Iterator) else answer


@dataclass(frozen=True, slots=True)
class DelayedRemote(RemoteConfig):
    """A remote whose store is slowed down; the package itself knows nothing of it."""

    delay_seconds: float = 0.0

    def open(self, *, create: bool = True, allow_file_systems: Collection[str] = ()) -> ObjectStore:
        """Open the store and wrap it."""
        # Without arguments, super() finds no class cell in a dataclass with slots.
        store = RemoteConfig.open(self, create=create, allow_file_systems=allow_file_systems)
        return DelayedStore(store, self.delay_seconds)


@contextlib.contextmanager
def engine(data_dir: Path, remote: RemoteConfig | None = None) -> Iterator[Graft]:
    """Register the VFS on a data directory inside the block; connections are closed before it."""
    made = graft_vfs.register(Config(data_dir=data_dir, remote=remote or RemoteConfig()))
    try:
        yield made
    finally:
        graft_vfs.unregister()
