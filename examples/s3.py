"""Push to S3 and clone from it, with settings from graft.toml or the environment.

    export GRAFT_REMOTE_TYPE=s3_compatible GRAFT_REMOTE_BUCKET=my-bucket
    export GRAFT_REMOTE_PREFIX=graft-example        # optional: keep to a part of the bucket
    export GRAFT_REMOTE_ENDPOINT=https://…          # for servers other than Amazon's
    export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… AWS_DEFAULT_REGION=…
    python examples/s3.py

It writes three small objects, whose names start with `refs/`, `logs/` and `probe/`; they stay.
"""

from __future__ import annotations

import dataclasses
import secrets
import sys
import tempfile
from pathlib import Path

import graft_vfs
from graft_vfs import Config, GraftError


def main() -> int:
    """Publish a database under an unused name, and read it as another machine."""
    try:
        config = Config.load()
        if config.remote.type != "s3_compatible":
            print(
                "No S3 remote is configured. Set GRAFT_REMOTE_TYPE=s3_compatible,\n"
                "GRAFT_REMOTE_BUCKET, for servers other than Amazon's GRAFT_REMOTE_ENDPOINT, and\n"
                "the usual AWS variables; or write them into graft.toml, as README.md shows."
            )
            return 0
        run(config)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(config: Config) -> None:
    """Push as one machine, clone as another; the data directories are temporary."""
    tag = f"example-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as directory:
        first = dataclasses.replace(config, data_dir=Path(directory) / "first")
        engine = graft_vfs.register(first)
        connection = graft_vfs.connect(tag)
        connection.execute("CREATE TABLE greetings(text TEXT)")
        connection.execute("INSERT INTO greetings VALUES('hello from S3')")
        connection.close()
        print(engine.push(tag))
        graft_vfs.unregister()

        second = dataclasses.replace(config, data_dir=Path(directory) / "second")
        engine = graft_vfs.register(second)
        print(engine.clone(tag, tag))
        connection = graft_vfs.connect(tag)
        print(connection.execute("SELECT text FROM greetings").get)
        connection.close()
        graft_vfs.unregister()


if __name__ == "__main__":
    sys.exit(main())
