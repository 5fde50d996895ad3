"""Compares page images with those of a snapshot, to find the pages that a commit has to write.

An image is compared with the local or cached one. If a frame is not cached and all of its pages are
given, they are compressed, and the result's checksum is compared with the one in the commit header:
equal pages cost no request. Another version of zstd may compress them to other bytes, so different
checksums prove nothing; the frame is then fetched and its pages are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from graft_vfs.local.cache.page_cache import Place
from graft_vfs.reentry import occupied, refuse_reentry, thread
from graft_vfs.view.log_view import LogView
from graft_vfs.view.source import FrameSource
from graft_vfs.volume.snapshot import Snapshot

BATCH_BYTES = 8 << 20
"""How many bytes of images are in memory at a time; their frames are fetched together."""

_Frame = tuple[FrameSource, int]
_Slots = list[tuple[int, int]]
"""Pages of a frame: (the place in it, the page)."""


def differing(
    snapshot: Snapshot, pages: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Yield the pages whose images differ from the snapshot's, and those that it does not have.

    `pages` are in ascending order. Memory: one batch. Requests: range reads of the frames that are
    neither cached nor identified by their checksum, in parallel for each batch. Raises what reading
    the snapshot raises.
    """
    batch: dict[int, bytes] = {}
    size = 0
    for page, image in pages:
        batch[page] = image
        size += len(image)
        if size >= BATCH_BYTES:
            yield from _differing(snapshot, batch)
            batch, size = {}, 0
    yield from _differing(snapshot, batch)


def _differing(snapshot: Snapshot, batch: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    refuse_reentry()
    with occupied():
        same = _same_pages(snapshot, batch, fetches=True)
    snapshot.forget_resident()
    for page, image in batch.items():
        if page not in same:
            yield page, image


def same_here(snapshot: Snapshot, images: Mapping[int, bytes]) -> set[int]:
    """Return the pages whose images equal the snapshot's; pages that are not cached are left out.

    No request. Raises what reading the snapshot raises.
    """
    if thread.depth:
        return set()  # A signal handler in the middle of a fetch must not use the page cache.
    with occupied():
        return _same_pages(snapshot, images, fetches=False)


def _same_pages(snapshot: Snapshot, images: Mapping[int, bytes], *, fetches: bool) -> set[int]:
    """Return the pages whose images equal the snapshot's; the caller is `occupied`."""
    same, frames = _same_in_branch(snapshot, images)
    size = snapshot.page_size
    absent = []
    for key, slots in frames.items():
        source, frame = key
        at = source.find(frame) if fetches or source.cache.has(source.key(frame)) else None
        if at is not None:
            same.update(_same_in(at, slots, images, size))
        elif fetches and _is_whole(source, frame, slots, images):
            same.update(page for _, page in slots)
        else:
            absent.append(key)
    if fetches and absent:
        assert isinstance(snapshot.remote, LogView)
        snapshot.remote.fetch(absent)
        for source, frame in absent:
            # A small cache may have evicted it for frames that were fetched with it.
            at = source.find(frame) or source.fetch_one(frame)
            same.update(_same_in(at, frames[source, frame], images, size))
    return same


def _same_in_branch(
    snapshot: Snapshot, images: Mapping[int, bytes]
) -> tuple[set[int], dict[_Frame, _Slots]]:
    """Compare pages with local images; return the equal ones, and the frames of the others."""
    same: set[int] = set()
    frames: dict[_Frame, _Slots] = {}
    remote, view, size = snapshot.remote, snapshot.view, snapshot.page_size
    offset_of, end, page_count = snapshot.branch.offset_of, snapshot.end.offset, snapshot.page_count
    for page, image in images.items():
        # The page table may still have pages from before the database shrank.
        if page > page_count:
            continue
        offset = offset_of(page, end)
        if offset is not None:
            if bytes(view[offset : offset + size]) == image:
                same.add(page)
        elif isinstance(remote, LogView) and (found := remote.table.find(page)) is not None:
            source, slot = found
            frame, place = divmod(slot, source.body.frames.frame_pages)
            frames.setdefault((source, frame), []).append((place, page))
    return same, frames


def _same_in(at: Place, slots: _Slots, images: Mapping[int, bytes], size: int) -> Iterator[int]:
    for place, page in slots:
        first = at.offset + place * size
        if bytes(at.view[first : first + size]) == images[page]:
            yield page


def _is_whole(source: FrameSource, frame: int, slots: _Slots, images: Mapping[int, bytes]) -> bool:
    """Return True if the images are the whole frame by its checksum; False proves nothing."""
    return len(slots) == source.body.pages_in_frame(frame) and source.is_frame(
        frame, [images[page] for _, page in sorted(slots)]
    )
