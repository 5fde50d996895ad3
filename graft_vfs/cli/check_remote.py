"""The doctor's remote checks: credentials, answers, create-only writes, the clock."""

from __future__ import annotations

from collections.abc import Iterator

from graft_vfs.cli.check import Check, Level, problem
from graft_vfs.cli.output import without_credentials
from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import GraftError
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.probe import check_conditional_writes

_CLOCK_SECONDS_LOW = 60
_CLOCK_SECONDS_MAX = 15 * 60
"""Amazon S3 refuses requests if the clocks differ by more."""


def remote(config: RemoteConfig, *, create: bool) -> Iterator[Check]:
    """Check that the remote answers, and that pushing to it is safe.

    A directory becomes a remote only with `create`, as in an engine.
    """
    if config.type is None:
        yield Check(
            "remote",
            Level.OK,
            "none is configured, so that volumes stay on this machine",
            "to synchronise them, add a [remote] table to graft.toml",
        )
        return
    try:
        if config.type == "s3_compatible":
            credentials = _credentials()
            yield credentials
            if credentials.level is Level.PROBLEM:
                return
        with config.open(create=create) as store:
            try:
                yield from _answers(store, config)
            except GraftError as error:
                yield problem("remote", error)
            # Even after a refusal, which a wrong clock may have caused.
            yield from _clock(store)
    except GraftError as error:
        yield problem("remote", error)


def _credentials() -> Check:
    """Report where the AWS chain finds credentials, but not their values."""
    # Imported here because importing boto3 takes time, and is needed only for S3.
    from graft_vfs.store.s3.client import credentials_source  # noqa: PLC0415

    source = credentials_source()
    if source is None:
        step = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return Check("credentials", Level.PROBLEM, "none were found", step)
    return Check("credentials", Level.OK, f"found; boto3 calls their source {source!r}")


def _answers(store: ObjectStore, config: RemoteConfig) -> Iterator[Check]:
    list(store.list("refs/", limit=1))
    where = without_credentials(store.describe())
    if config.type == "memory":
        yield Check(
            "remote",
            Level.WARNING,
            f"{where} lives in one process and ends with it",
            'use type = "fs" or "s3_compatible" to keep it',
        )
    else:
        yield Check("remote", Level.OK, f"{where} answers")
    try:
        check_conditional_writes(store)
    except GraftError as error:
        yield problem("conditional writes", error)
    else:
        yield Check("conditional writes", Level.OK, "the remote honours them")


def _clock(store: ObjectStore) -> Iterator[Check]:
    """Compare this machine's clock with the server's, if known."""
    ahead = store.clock_ahead_seconds()
    if ahead is None:
        return
    off = abs(ahead)
    if off < _CLOCK_SECONDS_LOW:
        yield Check("clock", Level.OK, "as the server's")
        return
    level = Level.WARNING if off < _CLOCK_SECONDS_MAX else Level.PROBLEM
    where = "ahead of" if ahead > 0 else "behind"
    yield Check(
        "clock", level, f"{off:.0f} seconds {where} the server's", "set it, preferably by NTP"
    )
