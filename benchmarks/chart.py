"""A bar chart of the ratios, as SVG; PNG where ImageMagick or librsvg is on the PATH."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.rows import RATIO_BUDGET, RATIO_FLOOR, Row

_BAR, _GAP, _LABEL, _PLOT, _MARGIN = 16, 6, 400, 440, 24
_RATIO_MAX = 2.5
_COLOURS = {"yes": "#2f7d4f", "floor": "#c98a1b", "no": "#b3362e"}


def write_chart(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write the chart of all rows that have a ratio; raises SystemExit for an unknown ending."""
    text = svg([row for row in rows if row.ratio is not None], title)
    if path.suffix == ".svg":
        path.write_text(text, encoding="utf-8")
    elif path.suffix == ".png":
        _convert(text, path)
    else:
        raise SystemExit(f"{path}: a chart ends in .svg or .png")


def svg(rows: Sequence[Row], title: str) -> str:
    """Draw horizontal bars of stock / graft with a line at 1.0."""
    width = _LABEL + _PLOT + 2 * _MARGIN + 40
    top = _MARGIN + 34
    height = top + len(rows) * (_BAR + _GAP) + _MARGIN
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect {size} fill="#fff"/>',
        _text(_MARGIN, _MARGIN, title, anchor="start"),
    ]
    for number, row in enumerate(rows):
        parts += _bar(row, top + number * (_BAR + _GAP))
    line = _MARGIN + _LABEL + _PLOT * RATIO_BUDGET / _RATIO_MAX
    ends = f'x1="{line:.1f}" y1="{top - 6}" x2="{line:.1f}" y2="{height - _MARGIN + 4}"'
    parts += [
        f'<line {ends} stroke="#222" stroke-width="1.5"/>',
        _text(line, top - 10, "1.0 = equal", anchor="middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(row: Row, y: int) -> list[str]:
    assert row.ratio is not None
    shown = min(row.ratio, _RATIO_MAX)
    below = "#b3362e" if row.ratio < RATIO_FLOOR else "#7a8794"
    colour = _COLOURS.get(row.budget.verdict, below)
    length, left, base = _PLOT * shown / _RATIO_MAX, _MARGIN + _LABEL, y + _BAR - 4
    more = "+" if row.ratio > _RATIO_MAX else ""
    return [
        _text(left - 8, base, f"{row.group}: {row.work}", anchor="end"),
        f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
        _text(left + length + 5, base, f"{row.ratio:.2f}{more}", anchor="start"),
    ]


def _text(x: float, y: float, content: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(content)}</text>'


def _convert(text: str, path: Path) -> None:
    commands = (
        ("rsvg-convert", ["-o", str(path)]),
        ("magick", ["svg:-", str(path)]),
        ("convert", ["svg:-", str(path)]),
    )
    for program, arguments in commands:
        if shutil.which(program):
            done = subprocess.run([program, *arguments], input=text.encode(), check=False)
            if done.returncode == 0:
                return
    beside = path.with_suffix(".svg")
    beside.write_text(text, encoding="utf-8")
    print(f"no program here draws SVG as PNG; the chart is {beside}")
