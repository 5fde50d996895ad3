"""Trying an act while something runs out, with more of it from turn to turn until it succeeds."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import apsw

from graft_vfs import RemoteConfig
from graft_vfs.errors import GraftError, LocalStorageError, StoreUnavailableError
from tests.support import acts
from tests.support.shortage import Shortage
from tests.support.sql import value

DECLARED = (LocalStorageError, StoreUnavailableError)
"""What a verb may raise then."""
TRANSLATED = (apsw.FullError, apsw.CantOpenError, apsw.IOError, apsw.NoMemError)
"""What SQLite may report then."""


@dataclass
class Tried:
    """How often an act failed before it succeeded, and with which errors."""

    failures: int
    errors: set[str]


def until_done(
    name: str,
    shortage: Shortage,
    amounts: Iterable[int],
    directory: Path,
    elsewhere: Path,
    *,
    reads: bool,
) -> Tried:
    """Try an act with each amount, in a new world each; ends with the first that succeeds at once.

    A failure must be a declared error. With `reads` the database can still be read while the
    shortage lasts. With enough of everything the same act succeeds, and nothing is lost.
    """
    tried = Tried(0, set())
    prepare, _ = acts.ACTS[name]
    for amount in amounts:
        remote = RemoteConfig(type="memory", root=secrets.token_hex(8))
        world = acts.World(directory / "w", elsewhere / secrets.token_hex(4), remote=remote)
        try:
            world.begin()
            prepare(world)
            has_failed = _try(world, name, shortage, amount, tried, reads=reads)
            world.check()
        finally:
            world.close()
            shutil.rmtree(directory / "w")
        if not has_failed:
            return tried
    raise AssertionError(f"{name} failed with all of {list(amounts)}: {tried.errors}")


def _try(
    world: acts.World,
    name: str,
    shortage: Shortage,
    amount: int,
    tried: Tried,
    *,
    reads: bool,
) -> bool:
    _, act = acts.ACTS[name]
    with shortage.left(amount):
        try:
            act(world)
        except (GraftError, apsw.Error) as error:
            _check_error(error, through_sql=name in acts.THROUGH_SQL)
            tried.failures += 1
            tried.errors.add(f"{type(error).__name__}: {_kind(error)}")
        else:
            return False
        assert world.connection.in_transaction is False
        if reads:
            assert value(world.connection, "SELECT n FROM t ORDER BY n LIMIT 1") == 0
    act(world)
    return True


def _check_error(error: Exception, *, through_sql: bool) -> None:
    """A verb raises a declared error with its next step, and SQLite reports one like it."""
    if through_sql:
        assert isinstance(error, TRANSLATED), repr(error)
    is_declared = isinstance(error, DECLARED)
    declared = error.__cause__ if isinstance(error, apsw.Error) and not is_declared else error
    if declared is not None:
        assert isinstance(declared, DECLARED), repr(declared)
        assert declared.next_step, declared


def _kind(error: Exception) -> str:
    return str(error).split("; ")[-1][:60]
