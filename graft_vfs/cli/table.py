"""Text tables, for terminals of any width and for pipes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence

from graft_vfs.cli.output import printable

_GAP = "  "
_NARROWEST = 12


def screen_width() -> int | None:
    """Return the width of standard output, None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cropped(text: str, width: int) -> str:
    """Return text of at most `width` characters; `...` marks a cut."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> Iterator[str]:
    """Yield a line for the headings and one per row, in columns as wide as their longest text.

    If they are wider than `width`, the first column is cut, with `...`.
    """
    shown = [[printable(cell, sys.stdout) for cell in row] for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    if width is not None:
        others = sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
        widths[0] = min(widths[0], max(width - others, _NARROWEST))
    for first, *rest in shown:
        cells = [cropped(first, widths[0]), *rest]
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield _GAP.join(padded).rstrip()
