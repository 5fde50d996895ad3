"""A disk model with power cuts: what is durable, and what a cut may leave of the rest.

The model guarantees no more than POSIX:

- A file's content and size as of its last sync are durable.
- Each block written later may or may not have reached the disk, as of any of its writes, in any
  order, independently of other blocks and of the size. A block is 512 or 4096 bytes.
- The names in a folder as of its last sync are durable. Each change since then (a link, a rename,
  a removal) may have reached the disk or not, but never half of it. Syncing a file makes its bytes
  durable, not its name.

The model does not access a real disk. `support.recording` watches one and reports the changes. A
*choice* decides what survives: from the times of the changes of one block, size or name, it returns
the time of the newest that reached the disk, or 0 for none.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

SECTOR_BYTES = 512
BLOCK_SIZES = (512, 4096)
ROOT = 0
"""The number of the root folder; it is durable."""

T = TypeVar("T")
Choice = Callable[[Sequence[int]], int]


@dataclass(frozen=True, slots=True)
class Written:
    """Changed sectors of a file."""

    file: int
    sectors: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Resized:
    """A changed length of a file."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Renamed:
    """Names that changed together: (folder, name) is now this file or folder, or absent."""

    names: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync: a file's current bytes, or a folder's current names, are durable."""

    node: int


Change = Written | Resized | Renamed | Synced


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file: its length, and its sectors that are not zeros."""

    size: int
    sectors: dict[int, bytes]


@dataclass(slots=True)
class _File:
    durable: dict[int, bytes] = field(default_factory=dict)
    durable_size: int = 0
    written: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def sync(self) -> None:
        for sector, versions in self.written.items():
            self.durable[sector] = versions[-1][1]
        self.written.clear()
        if self.sizes:
            self.durable_size = self.sizes[-1][1]
            self.sizes.clear()

    def content(self, choose: Choice, block_bytes: int) -> Content:
        """Return the file's content after a cut."""
        size = _as_of(choose([time for time, _ in self.sizes]), self.sizes, self.durable_size)
        sectors = dict(self.durable)
        by_block = itertools.groupby(
            sorted(self.written), lambda sector: sector * SECTOR_BYTES // block_bytes
        )
        for _, group in by_block:
            block = list(group)
            times = sorted({time for sector in block for time, _ in self.written[sector]})
            chosen = choose(times)
            for sector in block:
                former = self.durable.get(sector, bytes(SECTOR_BYTES))
                sectors[sector] = _as_of(chosen, self.written[sector], former)
        end = -(-size // SECTOR_BYTES)
        return Content(size, {at: data for at, data in sectors.items() if at < end and any(data)})


def _as_of(time: int, versions: Sequence[tuple[int, T]], former: T) -> T:
    """Return the newest version that is not later than `time`."""
    known = [version for written, version in versions if written <= time]
    return known[-1] if known else former


Image = dict[str, Content | None]
"""Every path below the root: the file's content, or None for a folder."""


class Disk:
    """The model. Changes are applied in the order of their times, which begin at 1."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._durable_names: dict[int, dict[str, int]] = {ROOT: {}}
        self._renamed: list[tuple[int, Renamed]] = []

    def apply(self, time: int, change: Change) -> None:
        """Apply one change."""
        if isinstance(change, Written):
            file = self._file(change.file)
            for sector, data in change.sectors.items():
                file.written.setdefault(sector, []).append((time, data))
        elif isinstance(change, Resized):
            self._file(change.file).sizes.append((time, change.size))
        elif isinstance(change, Renamed):
            self._renamed.append((time, change))
        elif change.node in self._files:
            self._files[change.node].sync()
        else:
            self._sync_folder(change.node)

    def _file(self, number: int) -> _File:
        return self._files.setdefault(number, _File())

    def _sync_folder(self, folder: int) -> None:
        kept = []
        for time, renamed in self._renamed:
            if any(at == folder for at, _, _ in renamed.names):
                _rename(self._durable_names, renamed)
            else:
                kept.append((time, renamed))
        self._renamed = kept

    def pending_times(self) -> list[int]:
        """Return the times of all unsynced changes, ascending."""
        times = {time for time, _ in self._renamed}
        for file in self._files.values():
            times.update(time for time, _ in file.sizes)
            times.update(time for versions in file.written.values() for time, _ in versions)
        return sorted(times)

    def image(self, choose: Choice, block_bytes: int = SECTOR_BYTES) -> Image:
        """Return the disk after a cut at this time."""
        names = {folder: dict(entries) for folder, entries in self._durable_names.items()}
        for time, renamed in self._renamed:
            if choose([time]):
                _rename(names, renamed)
        return dict(self._walk(names, ROOT, "", choose, block_bytes))

    def _walk(
        self,
        names: dict[int, dict[str, int]],
        folder: int,
        prefix: str,
        choose: Choice,
        block_bytes: int,
    ) -> Iterator[tuple[str, Content | None]]:
        for name, node in sorted(names.get(folder, {}).items()):
            path = prefix + name
            if node in self._files:
                yield path, self._files[node].content(choose, block_bytes)
            else:
                yield path, None
                yield from self._walk(names, node, path + "/", choose, block_bytes)


def _rename(names: dict[int, dict[str, int]], renamed: Renamed) -> None:
    for folder, name, node in renamed.names:
        entries = names.setdefault(folder, {})
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


# What survives ------------------------------------------------------------------------------------


def everything(times: Sequence[int]) -> int:
    """Choose that everything reached the disk, as after the kill of a process."""
    return times[-1] if times else 0


def nothing(times: Sequence[int]) -> int:
    """Choose that only synced changes survive."""
    return 0


def only(time: int) -> Choice:
    """Choose that only the changes of one effect reached the disk."""
    return lambda times: time if time in times else 0


def all_but(time: int) -> Choice:
    """Choose that everything reached the disk except the last changes of one effect."""
    return lambda times: everything([other for other in times if other != time])


def at_random(seed: int) -> Choice:
    """Choose for each block independently; the seed also determines the overall share."""
    source = random.Random(seed)
    share = source.choice((0.1, 0.5, 0.9))

    def choose(times: Sequence[int]) -> int:
        if source.random() < share:
            return everything(times)
        return source.choice((0, *times))

    return choose


def cuts(disk: Disk, draws: int, seeds: Iterator[int]) -> Iterator[Image]:
    """Yield possible disks after a cut: the four extremes, then random draws per block size.

    No image is repeated. Without unsynced changes there is only one.
    """
    pending = disk.pending_times()
    choices: list[tuple[Choice, int]] = [(nothing, SECTOR_BYTES)]
    if pending:
        borders = (everything, only(pending[-1]), all_but(pending[0]))
        choices += [(choose, SECTOR_BYTES) for choose in borders]
        choices += [(at_random(next(seeds)), size) for _ in range(draws) for size in BLOCK_SIZES]
    seen = set()
    for choose, block_bytes in choices:
        image = disk.image(choose, block_bytes)
        digest = digest_of(image)
        if digest not in seen:
            seen.add(digest)
            yield image


# Images -------------------------------------------------------------------------------------------


def digest_of(image: Image) -> bytes:
    """Return a digest; equal images have equal digests."""
    digest = hashlib.blake2b(digest_size=16)
    for path, content in sorted(image.items()):
        digest.update(f"{path}\0{content.size if content else None}\0".encode())
        for sector, data in sorted(content.sectors.items()) if content else ():
            digest.update(sector.to_bytes(8, "little"))
            digest.update(data)
    return digest.digest()


def write_image(image: Image, root: Path) -> None:
    """Create the folders and files of an image below `root`, sparse for zeros."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in image.items():
        if content is None:
            (root / path).mkdir()
            continue
        descriptor = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for offset, data in _runs(content.sectors):
                os.pwrite(descriptor, data, offset)
            os.ftruncate(descriptor, content.size)
        finally:
            os.close(descriptor)


def _runs(sectors: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Join adjacent sectors, so that one call writes them."""
    ordered = sorted(sectors)
    first = 0
    for at, sector in enumerate(ordered):
        if at + 1 == len(ordered) or ordered[at + 1] != sector + 1:
            run = ordered[first : at + 1]
            yield run[0] * SECTOR_BYTES, b"".join(sectors[each] for each in run)
            first = at + 1
