"""Remotes by URL on the command line: each command is a process of its own, told nothing else."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandLine
from tests.support.servers import S3Endpoint
from tests.support.static_files import serving


class Reader:
    """A machine without configuration; each command is a process."""

    def __init__(self, cli: CommandLine, name: str) -> None:
        self._root = cli.root
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("GRAFT_REMOTE", "AWS_"))
        }
        # Nothing here may wait for the service that gives credentials to machines in the cloud.
        self.environment = kept | {
            "GRAFT_DATA_DIR": str(cli.root / name),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "graft_vfs.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self.environment | environment,
            cwd=self._root,
        )

    def ok(self, *arguments: str, **environment: str) -> str:
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, code: int, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == code, (done.stdout, done.stderr)
        lines = done.stderr.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
        return done.stderr

    def rows(self, tag: str, sql: str = "SELECT count(*) FROM t") -> Any:
        return json.loads(self.ok("shell", tag, "--json", "-c", sql))


@pytest.fixture
def reader(cli: CommandLine) -> Reader:
    return Reader(cli, "reader")


def shell(reader: Reader, tag: str, sql: str) -> str:
    return reader.ok("shell", tag, "-c", sql).strip()


def test_a_directory_is_cloned_and_synced_with_by_path(pushed, reader) -> None:
    root = pushed.root / "remote"
    assert "Cloned to volume" in reader.ok("clone", f"{root}/main")
    assert shell(reader, "main", "SELECT count(*) FROM t") == "2000"
    assert reader.ok("remote", "show") == f"remote  file://{root}  (1 log)\n"
    shell(reader, "main", "DELETE FROM t WHERE id >= 10")
    assert "as remote LSN 2" in reader.ok("push", "main")
    pushed.ok("pull", "main")
    assert pushed.sql("main", "SELECT count(*) FROM t") == [(10,)]
    assert "up to date" in reader.ok("status", "main")
    assert json.loads(reader.ok("remote", "ls", "remote", "--json"))[0]["ref"] == "main"
    assert reader.ok("remote", "ls", str(root)).startswith("main  ")


def test_a_bucket_is_cloned_by_url_and_read_without_credentials(
    cli, plain, reader, ministack: S3Endpoint
) -> None:
    bucket, prefix = ministack.fresh_bucket(), f"data/{secrets.token_hex(4)}"
    author = Reader(cli, "author")
    author.environment |= ministack.environment() | {
        "GRAFT_REMOTE_TYPE": "s3_compatible",
        "GRAFT_REMOTE_BUCKET": bucket,
        "GRAFT_REMOTE_PREFIX": prefix,
        "GRAFT_REMOTE_ENDPOINT": ministack.url,
    }
    author.ok("import", str(plain), "prices")
    author.ok("push", "prices")
    url = f"s3://{bucket}/{prefix}/prices?endpoint={ministack.url}"
    reader.ok("clone", url)
    assert shell(reader, "prices", "SELECT count(*) FROM t") == "2000"
    assert reader.ok("remote", "show").split()[:2] == [
        bucket,
        f"s3://{bucket}/{prefix}?endpoint={ministack.url}",
    ]
    shell(author, "prices", "DELETE FROM t WHERE id >= 10")
    author.ok("push", "prices")
    assert "now at LSN 2" in reader.ok("pull", "prices")
    shell(reader, "prices", "DELETE FROM t")
    assert "can only be read, because no credentials were found" in reader.fails(
        7, "push", "prices"
    )
    # The same, with credentials: the endpoint comes from their configuration, too.
    writer = Reader(cli, "writer")
    writer.environment |= ministack.environment() | {"AWS_ENDPOINT_URL": ministack.url}
    writer.ok("clone", f"s3://{bucket}/{prefix}/prices", "mine")
    shell(writer, "mine", "DELETE FROM t WHERE id >= 5")
    assert "as remote LSN 3" in writer.ok("push", "mine")


def test_a_static_file_server_is_cloned_by_url_and_read(pushed, reader) -> None:
    with serving(pushed.root / "remote") as server:
        reader.ok("clone", f"{server.url}/main")
        assert shell(reader, "main", "SELECT count(*) FROM t") == "2000"
        pushed.sql("main", "DELETE FROM t WHERE id >= 10")
        pushed.ok("push", "main")
        assert "now at LSN 2" in reader.ok("pull", "main")
        assert shell(reader, "main", "SELECT count(*) FROM t") == "10"
        reader.ok("fsck")
        shell(reader, "main", "DELETE FROM t")
        assert "can only be read" in reader.fails(2, "push", "main")
        assert "cannot list" in reader.fails(7, "remote", "ls", server.url)
        assert {method for method, *_ in server.requests} == {"GET"}


@pytest.mark.parametrize(
    ("url", "code", "why"),
    [
        ("gs://bucket/main", 2, "no remote of type 'gs'"),
        ("https://user:hunter2@host/main", 2, "holds a user name or a password"),
        ("s3://bucket/main?color=red", 2, "unknown option 'color'"),
        ("{root}/", 2, "several refs"),
        ("{root}/absent", 2, "has no ref 'absent'"),
        ("{root}/no/remote", 2, "is neither a remote nor a ref in one"),
    ],
)
def test_what_cannot_be_cloned_is_said_with_a_next_step(pushed, reader, url, code, why) -> None:
    pushed.sql("other", "CREATE TABLE t(x)")
    pushed.ok("push", "other")
    error = reader.fails(code, "clone", url.format(root=pushed.root / "remote"))
    assert why in error
    assert "hunter2" not in error
    assert reader.ok("tags") == ""


def test_a_remote_that_was_moved_is_believed_with_proof(pushed, reader) -> None:
    root, new = pushed.root / "remote", pushed.root / "new"
    reader.ok("clone", f"{root}/main")
    (pushed.root / "empty").mkdir()
    assert "is absent" in reader.fails(7, "remote", "set-url", "remote", str(new))
    shutil.copytree(root, new)
    shutil.rmtree(root)
    assert f"remote  file://{new}  (1 log)" in reader.ok("remote", "set-url", "remote", str(new))
    assert shell(reader, "main", "SELECT count(*) FROM t") == "2000"
    shell(reader, "main", "DELETE FROM t WHERE id >= 10")
    assert "as remote LSN 2" in reader.ok("push", "main")
    # A copy that is older than what is known here is refused.
    old = pushed.root / "old"
    shutil.copytree(new, old)
    shell(reader, "main", "DELETE FROM t")
    reader.ok("push", "main")
    assert "is at LSN 2, as if restored" in reader.fails(5, "remote", "set-url", "remote", str(old))
    assert "is at LSN 2, as if restored" in reader.fails(5, "remote", "move", "main", str(old))
    assert f"remote  file://{new}  (1 log)\n" == reader.ok("remote", "show")
    assert "there is no remote 'absent'" in reader.fails(2, "remote", "set-url", "absent", str(new))


def test_a_volume_is_moved_between_remotes(pushed, reader) -> None:
    backup: Path = pushed.root / "backup"
    reader.ok("new", "mine")
    shell(reader, "mine", "CREATE TABLE t(x)")
    assert "no remote is configured" in reader.fails(2, "push", "mine")
    reader.ok("remote", "init", str(backup))
    assert f"backup  file://{backup}  (0 logs)\n" == reader.ok(
        "remote", "add", "backup", str(backup)
    )
    assert "(1 log)" in reader.ok("remote", "move", "mine", "backup")
    assert "as remote LSN 1" in reader.ok("push", "mine")
    assert reader.ok("remote", "ls", "backup").startswith("mine  ")
    assert "first copy all objects of the present remote there" in reader.fails(
        5, "remote", "move", "mine", str(pushed.root / "remote")
    )
    assert "remote 'backup' is file" in reader.fails(
        2, "remote", "add", "backup", str(pushed.root / "remote")
    )
    assert "cannot name a remote" in reader.fails(2, "remote", "add", "default", str(backup))
