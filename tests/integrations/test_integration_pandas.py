"""pandas reads and writes volumes, through SQLAlchemy's dialect and through `sqlite3`."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

import graft_vfs
from tests.support.sql import is_sound


@pytest.fixture(params=["sqlalchemy", "sqlite3"])
def opened(request, engine):
    """Open a tag in one of the two ways that pandas knows."""
    with closing(_Opened(request.param)) as opened:
        yield opened


class _Opened:
    def __init__(self, kind):
        self.kind = kind
        self._made = []

    def __call__(self, **parameters):
        if self.kind == "sqlalchemy":
            query = "&".join(f"{name}={value}" for name, value in parameters.items())
            self._made.append(sa.create_engine(f"graft://main?{query}"))
        else:
            graft_vfs.enable_sqlite3()
            uri = graft_vfs.uri("main", **parameters)
            self._made.append(sqlite3.connect(uri, uri=True))
        return self._made[-1]

    def close(self):
        for made in self._made:
            made.dispose() if self.kind == "sqlalchemy" else made.close()


def frame(rows):
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "name": [f"name {n}" for n in range(rows)],
            "value": np.linspace(0.0, 1.0, rows),
        }
    )


def test_a_frame_reads_back(opened, engine):
    written = frame(3000)
    database = opened()
    assert written.to_sql("frame", database, index=False, chunksize=500) == 3000
    pd.testing.assert_frame_equal(pd.read_sql("SELECT * FROM frame", database), written)
    chunks = list(pd.read_sql("SELECT * FROM frame", database, chunksize=1000))
    assert [len(chunk) for chunk in chunks] == [1000] * 3
    assert is_sound(graft_vfs.connect("main"))


def test_a_frame_is_appended_to_and_replaced(opened, engine):
    database = opened()
    frame(10).to_sql("frame", database, index=False)
    with pytest.raises(ValueError, match="already exists"):
        frame(10).to_sql("frame", database, index=False)
    frame(5).to_sql("frame", database, index=False, if_exists="append")
    assert len(pd.read_sql("SELECT * FROM frame", database)) == 15
    frame(2).to_sql("frame", database, index=False, if_exists="replace")
    assert len(pd.read_sql("SELECT * FROM frame", database)) == 2


def test_a_frame_is_read_as_it_was(opened, engine):
    frame(10).to_sql("frame", opened(), index=False)
    engine.push("main")
    frame(2).to_sql("frame", opened(), index=False, if_exists="replace")
    assert len(pd.read_sql("SELECT * FROM frame", opened(lsn="1"))) == 10


def test_a_failed_frame_in_a_user_transaction_leaves_nothing(engine):
    # Given an engine, pandas itself commits what it wrote before an error.
    wrong = frame(3000)
    wrong["what"] = [*range(2999), object()]
    database = sa.create_engine("graft://main?begin=IMMEDIATE")
    with pytest.raises(pd.errors.DatabaseError), database.begin() as connection:
        wrong.to_sql("frame", connection, index=False, chunksize=500)
    database.dispose()
    assert graft_vfs.connect("main").execute("SELECT count(*) FROM sqlite_schema").get == 0
