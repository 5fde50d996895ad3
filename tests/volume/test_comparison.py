"""What differs from a snapshot, wherever its pages are, against comparing all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.reentry import occupied
from graft_vfs.volume import comparison
from graft_vfs.volume.comparison import differing, same_here
from graft_vfs.volume.snapshot import Snapshot
from tests.support.replicas import Replica

PAGE_BYTES = 512
PAGES = 60

pages = st.integers(1, PAGES)
fills = st.integers(0, 3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.dictionaries(pages, fills, max_size=40), pages),
        st.just(("push",)),
        st.just(("forget",)),
    ),
    min_size=1,
    max_size=6,
)


def image(fill: int) -> bytes:
    return bytes([fill]) * PAGE_BYTES


def commit(replica: Replica, written: dict[int, int], page_count: int) -> None:
    volume = replica.engine.open("main", create=True)
    with volume.writing() as snapshot:
        images = {page: image(fill) for page, fill in written.items() if page <= page_count}
        volume.write_pages(snapshot, {1: image(0), **images}.items(), page_count=page_count)


def forget_cache(replica: Replica) -> None:
    shutil.rmtree(replica.engine.config.data_dir / "cache", ignore_errors=True)


def naive(snapshot: Snapshot, given_pages: dict[int, bytes]) -> dict[int, bytes]:
    count = snapshot.page_count
    return {
        page: data
        for page, data in given_pages.items()
        if page > count or snapshot.stored(page) != data
    }


@given(
    batch_bytes=st.sampled_from([PAGE_BYTES, 20 * PAGE_BYTES, 1 << 20]),
    history=steps,
    wanted=st.dictionaries(pages, fills),
    more=st.booleans(),
)
@settings(max_examples=100)
def test_differing_pages_equal_those_of_a_full_comparison(
    tmp_path_factory, batch_bytes, history, wanted, more
) -> None:
    root: Path = tmp_path_factory.mktemp("machine")
    with (
        pytest.MonkeyPatch.context() as patch,
        Replica(root / "data", RemoteConfig(type="memory", root=str(root))) as replica,
    ):
        patch.setattr(comparison, "BATCH_BYTES", batch_bytes)
        for step in history:
            match step:
                case "commit", written, page_count:
                    commit(replica, written, page_count)
                case ("push",):
                    commit(replica, {}, 1)
                    commit(replica, {page: page % 4 for page in range(1, PAGES)}, PAGES)
                    replica.engine.push("main")
                case _:
                    forget_cache(replica)
        snapshot = replica.engine.open("main", create=True).begin()
        given_pages = {page: image(wanted[page]) for page in sorted(wanted)}
        if more and snapshot.page_count:
            # Many pages are as they were.
            for page in range(1, snapshot.page_count + 1):
                given_pages.setdefault(page, snapshot.stored(page))
            given_pages = dict(sorted(given_pages.items()))
            forget_cache(replica)
        here = same_here(snapshot, given_pages)
        found = dict(differing(snapshot, given_pages.items()))
        assert found == naive(snapshot, given_pages)
        assert here <= given_pages.keys() - found.keys()
    shutil.rmtree(root)


def test_a_handler_that_interrupts_a_fetch_compares_nothing(replicas) -> None:
    replica = replicas()
    commit(replica, {2: 1}, 3)
    snapshot = replica.engine.open("main").begin()
    assert same_here(snapshot, {2: image(1), 3: image(1)}) == {2}
    with occupied():
        assert same_here(snapshot, {2: image(1)}) == set()
