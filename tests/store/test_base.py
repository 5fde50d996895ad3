from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from graft_vfs.store import StoreCounters, StoreCounts


def test_counters_are_exact_under_threads():
    counters = StoreCounters()

    def work(_: int) -> None:
        for _ in range(500):
            counters.add("get", bytes_received=3)
            counters.add("put", requests=2, bytes_sent=1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    counts = counters.snapshot()
    assert counts == StoreCounts(get=4000, put=8000, bytes_sent=4000, bytes_received=12000)
    assert counts.requests == 12000


def test_a_snapshot_does_not_change():
    counters = StoreCounters()
    before = counters.snapshot()
    counters.add("list")
    assert before == StoreCounts()
    assert counters.snapshot() - before == StoreCounts(list=1)


def test_stores_are_imported_without_boto3():
    # Importing boto3 takes longer than opening a database; only making an S3 store may do it.
    program = (
        "import sys, graft_vfs.store.s3; sys.exit(bool({'boto3', 'botocore'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
