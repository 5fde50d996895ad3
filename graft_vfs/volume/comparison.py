"""Which of some page images differ from a snapshot's: what is to be written to get from it to them.

Each is compared where the snapshot's image is. Of a frame that is not on this machine, but all of
whose pages are given, they are compressed and their checksum is compared with that in the commit's
header: equal pages cost no request. Another version of zstd may compress them to other bytes, so
unequal checksums prove nothing; then the frame is fetched and its pages are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from graft_vfs.local.cache.page_cache import Place
from graft_vfs.reentry import occupied, refuse_reentry, thread
from graft_vfs.view.log_view import LogView
from graft_vfs.view.source import FrameSource
from graft_vfs.volume.snapshot import Snapshot

BATCH_BYTES = 8 << 20
"""Images that are in memory at a time, and whose frames are fetched together."""

_Frame = tuple[FrameSource, int]
_Slots = list[tuple[int, int]]
"""Pages of a frame: (the place in it, the page)."""


def differing(
    snapshot: Snapshot, pages: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Yield those of the pages, given ascending, that the snapshot has not, or not so.

    Memory: one batch. Requests: those for frames that are not here and cannot be told by their
    checksum, each batch at once and in parallel. Raises what reading the snapshot raises.
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
    """Return the pages whose images are the snapshot's, as far as these are on this machine.

    No request. Raises what reading the snapshot raises.
    """
    if thread.depth:
        return set()  # A handler in the middle of a fetch, which must not look into the page cache.
    with occupied():
        return _same_pages(snapshot, images, fetches=False)


def _same_pages(snapshot: Snapshot, images: Mapping[int, bytes], *, fetches: bool) -> set[int]:
    """Return the pages whose images are the snapshot's; the caller is `occupied`."""
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
            # A small cache may have given its room to what was fetched with it.
            at = source.find(frame) or source.fetch_one(frame)
            same.update(_same_in(at, frames[source, frame], images, size))
    return same


def _same_in_branch(
    snapshot: Snapshot, images: Mapping[int, bytes]
) -> tuple[set[int], dict[_Frame, _Slots]]:
    """Compare pages with local images; of the others, return where the remote has them."""
    same: set[int] = set()
    frames: dict[_Frame, _Slots] = {}
    remote, view, size = snapshot.remote, snapshot.view, snapshot.page_size
    offset_of, end, page_count = snapshot.branch.offset_of, snapshot.end.offset, snapshot.page_count
    for page, image in images.items():
        # What is left of a larger database that this one once was is not of the snapshot.
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
    """Return True if the images are the whole frame, by its checksum; False proves nothing."""
    return len(slots) == source.body.pages_in_frame(frame) and source.is_frame(
        frame, [images[page] for _, page in sorted(slots)]
    )
