"""Machines that reach one S3 bucket through a proxy each, and a judge that reaches it directly."""

from __future__ import annotations

import contextlib
import functools
import itertools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import apsw
import botocore.session
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import GraftError
from graft_vfs.remote import entries
from graft_vfs.remote.claim import claim
from graft_vfs.store import probe
from graft_vfs.sync import settle
from tests.support.clocks import SkippingClock
from tests.support.proxy import Proxy, passed
from tests.support.replicas import Replica
from tests.support.servers import S3Endpoint

_NOWHERE = RemoteConfig(type="memory", root="never used by a machine of a network")


class Machine(Replica):
    """A machine behind a proxy of its own; `settings` are those of its store.

    With `behind`, it is told of that server, and the environment tells it of the proxy.
    """

    def __init__(
        self,
        data_dir: Path,
        proxy: Proxy,
        bucket: str,
        *,
        behind: S3Endpoint | None = None,
        **settings: Any,
    ) -> None:
        settings = {"attempts_max": 2, "clock": SkippingClock(), **settings}
        endpoint = behind or proxy.endpoint
        super().__init__(data_dir, _NOWHERE, store=endpoint.store(bucket, **settings))
        self.data_dir = data_dir
        self.proxy = proxy
        self._bucket = bucket

    def again(self, **settings: Any) -> Machine:
        """End this machine's process, as it were, and start the next one on the same data."""
        self.close()
        return Machine(self.data_dir, self.proxy, self._bucket, **settings)


class Network:
    """Machines on a fresh bucket of one server. Owner: a test, as a context manager."""

    def __init__(self, server: S3Endpoint, directory: Path) -> None:
        self.server = server
        self.bucket = server.fresh_bucket()
        self._directory = directory
        self._numbers = itertools.count()
        self._proxies = contextlib.ExitStack()
        self._machines: dict[Path, Machine] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The machines first: what they still wait for ends by their own timeouts or by the proxies.
        with self._proxies:
            for machine in self._machines.values():
                machine.close()

    def machine(self, name: str, **settings: Any) -> Machine:
        """Start a machine with a data directory and a proxy of its own."""
        proxy = self._proxies.enter_context(Proxy(self.server))
        return self._keep(Machine(self._directory / name, proxy, self.bucket, **settings))

    def restarted(self, machine: Machine, **settings: Any) -> Machine:
        """End a machine's process and start the next one, perhaps with other settings."""
        return self._keep(machine.again(**settings))

    def judge(self) -> Replica:
        """Start a fresh machine that no proxy stands before; the caller closes it."""
        directory = self._directory / f"judge-{next(self._numbers)}"
        return Replica(directory, _NOWHERE, store=self.server.store(self.bucket))

    def calm(self) -> None:
        """Let nothing go wrong any more."""
        for machine in self._machines.values():
            machine.proxy.choose = lambda _: passed

    def _keep(self, machine: Machine) -> Machine:
        self._machines[machine.data_dir] = machine
        return machine


@contextlib.contextmanager
def without_pauses() -> Iterator[None]:
    """Retry requests without a pause, and make clients quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "claim", functools.partial(claim, sleep=_no_sleep))
        patch.setattr(probe, "_PAUSE_SECONDS", 0)
        patch.setattr(entries, "_PAUSE_SECONDS", 0)
        loader = functools.cache(botocore.session.create_loader)
        patch.setattr(botocore.session, "create_loader", loader)
        yield


@contextlib.contextmanager
def impatient_claims(attempts: int) -> Iterator[None]:
    """Let claims give up early, so that more of them end unknown; nothing waits either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "claim", functools.partial(claim, attempts=attempts, sleep=_no_sleep))
        yield


def _no_sleep(seconds: float) -> None:
    """Wait for nothing."""


def check_declared(error: BaseException, server: S3Endpoint) -> None:
    """Fail unless an error says what to do next and shows no credential."""
    if isinstance(error, GraftError):
        assert error.next_step, error
    elif isinstance(error, apsw.Error):
        assert "; " in str(error), f"no next step: {error}"
    everything = "".join(traceback.format_exception(error))
    for secret in (server.secret_key, server.access_key, "Signature=", "AWS4-HMAC"):
        assert secret not in everything
