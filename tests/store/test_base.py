from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from graft_vfs.reentry import thread
from graft_vfs.store import StoreCounters, StoreCounts
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from tests.store.scripted import held, landed


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


def depths_in(names: tuple[str, ...], work: Callable[[], object]) -> list[int]:
    """Return how deep this thread was `occupied` at each call of code in files of these names."""
    found: list[int] = []

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(names):
            found.append(thread.depth)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_a_handler_is_refused_cold_pages_while_its_thread_may_hold_a_lock_of_the_client(scripted):
    scripted.script = [held(b"x")]
    with scripted.store() as store:
        store.get("k")  # Makes the client.
        requests = [
            (held(b"x"), lambda: store.get("k")),
            (landed, lambda: store.put("k", [b"x"])),
            (landed, lambda: store.put_if_absent("k", b"x")),
        ]
        for reply, request in requests:
            scripted.script = [reply]
            depths = depths_in(("/queue.py", "/urllib3/connectionpool.py"), request)
            assert depths
            assert min(depths) > 0
    assert thread.depth == 0


def test_a_handler_is_refused_cold_pages_while_its_thread_holds_the_memory_store_s_lock():
    objects = MemoryObjects()
    depths: list[int] = []

    class Watched:
        def __enter__(self) -> None:
            depths.append(thread.depth)

        def __exit__(self, *_: object) -> None:
            depths.append(thread.depth)

    objects.lock = Watched()
    store = MemoryStore(objects)
    store.put_if_absent("k", b"x")
    store.put("k", [b"y"])
    assert store.get("k") == b"y"
    assert store.replace("k", b"y", b"z")
    assert [found.key for found in store.list("")] == ["k"]
    store.delete("k")
    assert len(depths) >= 12
    assert min(depths) > 0
