"""Opening remotes that are named by a URL, with the settings that the configuration has for all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.local.files import importing
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.urls import RemoteUrl, parse


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens remotes; the time limits are those of the configured one, whatever its type."""

    configured: RemoteConfig
    allow_file_systems: Collection[str] = ()

    def completed(self, url: RemoteUrl) -> RemoteUrl:
        """Return a URL of S3 with the configured endpoint, unless it has one of its own.

        The catalog keeps it with that, so that it means the same under another configuration.
        """
        if url.scheme == "s3" and url.endpoint is None and self.configured.type == "s3_compatible":
            return replace(url, endpoint=self.configured.endpoint)
        return url

    def configured_url(self) -> RemoteUrl | None:
        """Return the URL of the configured remote, None if it has none or there is no remote."""
        found = self.configured
        if found.type == "fs" and found.root is not None:
            return parse(str(Path(found.root).expanduser().absolute()))[0]
        if found.type == "s3_compatible" and found.bucket is not None:
            prefix = found.prefix.strip("/")
            path = f"/{prefix}" if prefix else ""
            return RemoteUrl("s3", found.bucket, path, found.endpoint, found.region, found.unsigned)
        return None

    def open(self, url: RemoteUrl, *, create: bool = False) -> ObjectStore:
        """Open a remote; with `create` a directory is made one. No request.

        Raises ConfigError, StoreError.
        """
        if url.scheme in {"http", "https"}:
            with importing():
                from graft_vfs.store.http import HttpStore  # noqa: PLC0415 - for start-up

            return HttpStore(
                str(url),
                connect_timeout_seconds=self.configured.connect_timeout,
                read_timeout_seconds=self.configured.read_timeout,
                total_timeout_seconds=self.configured.total_timeout,
            )
        return self._settings(url).open(create=create, allow_file_systems=self.allow_file_systems)

    def _settings(self, url: RemoteUrl) -> RemoteConfig:
        if url.scheme == "file":
            return replace(self.configured, type="fs", root=url.directory)
        return replace(
            self.configured,
            type="s3_compatible",
            bucket=url.host,
            prefix=url.path,
            endpoint=url.endpoint,
            region=url.region,
            unsigned=url.unsigned,
        )


def open_url(config: Config, text: str, *, create: bool) -> ObjectStore:
    """Open the remote at a URL; with `create` a directory is made one. No request.

    Raises UsageError, ConfigError, StoreError.
    """
    opener = Opener(config.remote, config.allow_file_systems)
    return opener.open(opener.completed(parse(text)[0]), create=create)
