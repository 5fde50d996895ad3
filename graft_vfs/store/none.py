"""The store of an engine without a remote: every request raises NoRemoteError."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

from graft_vfs.errors import NoRemoteError
from graft_vfs.store.base import GET_LIMIT_BYTES, Buffer, ObjectInfo, ObjectStore, PutOutcome, Sent


def _refuse() -> NoReturn:
    raise NoRemoteError(
        "no remote is configured",
        next_step="add a [remote] table to graft.toml, or set GRAFT_REMOTE_… variables",
    )


class NoStore(ObjectStore):
    """Raises NoRemoteError for each request."""

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:  # noqa: ARG002
        """Refuse."""
        _refuse()

    def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002
        """Refuse."""
        _refuse()

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:  # noqa: ARG002
        """Refuse."""
        _refuse()

    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:  # noqa: ARG002
        """Refuse."""
        _refuse()

    def replace(self, key: str, old: bytes, new: bytes) -> bool:  # noqa: ARG002
        """Refuse."""
        _refuse()

    def list(
        self,
        prefix: str,  # noqa: ARG002
        *,
        start_after: str | None = None,  # noqa: ARG002
        limit: int | None = None,  # noqa: ARG002
    ) -> Iterator[ObjectInfo]:
        """Refuse."""
        _refuse()

    def delete(self, key: str) -> None:  # noqa: ARG002
        """Refuse."""
        _refuse()

    def describe(self) -> str:
        """Return `no remote`."""
        return "no remote"
