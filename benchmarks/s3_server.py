"""An S3 emulator (ministack, of the `test` extra) for the time of a benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and a bucket that is there."""

    url: str
    bucket: str = "benchmarks"

    @contextlib.contextmanager
    def identity(self) -> Iterator[None]:
        """Have the credentials that the emulator takes inside the block."""
        variables = {
            "AWS_ACCESS_KEY_ID": "benchmarks",
            "AWS_SECRET_ACCESS_KEY": "benchmarks",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        with mock.patch.dict(os.environ, variables):
            for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
                os.environ.pop(name, None)
            yield


@contextlib.contextmanager
def running(home: Path) -> Iterator[Server | str]:
    """Give a server inside the block, or a text that says why there is none."""
    program = Path(sys.executable).with_name("ministack")
    found = str(program) if program.exists() else shutil.which("ministack")
    if found is None:
        yield "ministack is not installed (it belongs to the test extra)"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3"}
    environment = {**os.environ, **variables, "HOME": str(home)}
    with (home / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [found], cwd=home, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        server = Server(f"http://127.0.0.1:{port}")
        yield server if _becomes_ready(process, server) else "ministack did not start"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _becomes_ready(process: subprocess.Popen[bytes], server: Server) -> bool:
    """Make the bucket, as soon as the server listens."""
    config = Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1})
    deadline = time.monotonic() + _READY_SECONDS
    with server.identity():
        client = boto3.session.Session().client("s3", endpoint_url=server.url, config=config)
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(BotoCoreError, ClientError):
                client.create_bucket(Bucket=server.bucket)
                return True
            time.sleep(0.05)
    return False
