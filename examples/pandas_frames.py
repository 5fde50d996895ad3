"""pandas writes a table with one push, and reads two states of it: now, and as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import sqlalchemy as sa

import graft_vfs
from graft_vfs import Config, RemoteConfig


def main() -> None:
    """Store a frame, raise its prices, and compare both states."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        graft = graft_vfs.register(Config(data_dir=here / "data", remote=remote))

        now = sa.create_engine("graft://shop")
        frame = pd.DataFrame({"item": ["tea", "salt", "bread"], "price": [4.0, 1.0, 3.0]})
        frame.to_sql("prices", now, index=False)
        print(graft.push("shop"))
        raised = frame.assign(price=frame["price"] * 1.1)
        raised.to_sql("prices", now, index=False, if_exists="replace")
        print(graft.push("shop"))

        then = sa.create_engine("graft://shop?lsn=1")
        both = pd.read_sql("prices", now).merge(
            pd.read_sql("prices", then), on="item", suffixes=("", "_then")
        )
        print(both.round(2).to_string(index=False))
        now.dispose()
        then.dispose()
        graft_vfs.unregister()


if __name__ == "__main__":
    main()
