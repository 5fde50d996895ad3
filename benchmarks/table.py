"""The printed table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rows import Row

HEADINGS = ("work", "stock", "graft", "ratio", "requests", "bytes", "budget", "within")
_LEFT = (0, 6, 7)
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def quantity(value: float | None, unit: str) -> str:
    """Write seconds or bytes with three digits and a prefix; nothing for None."""
    if value is None:
        return "-"
    scale = _BYTES if unit == "B" else _SECONDS
    step, name = next(((step, name) for step, name in scale if abs(value) >= step), scale[-1])
    number = value / step
    digits = 0 if number >= 100 or name == "B" else 1 if number >= 10 else 2
    return f"{number:.{digits}f} {name}"


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells in the order of the headings."""
    return (
        row.work,
        quantity(row.stock, row.unit),
        quantity(row.graft, row.unit),
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        "-" if row.requests is None else str(row.requests),
        quantity(row.bytes, "B"),
        row.budget.text or "-",
        row.budget.verdict or "-",
    )


def render(rows: Sequence[Row], captions: dict[str, str]) -> str:
    """Return the table as text, group by group, with notes behind the rows they belong to."""
    body = [cells(row) for row in rows]
    widths = [max(len(line[at]) for line in (HEADINGS, *body)) for at in range(len(HEADINGS))]
    lines = [_line(HEADINGS, widths), "  ".join("─" * width for width in widths)]
    group = None
    for row, line in zip(rows, body, strict=True):
        if row.group != group:
            group = row.group
            lines += ["", f"{group}: {captions.get(group, '')}".rstrip(": ")]
        lines.append(_line(line, widths) + (f"  {row.note}" if row.note else ""))
    return "\n".join(lines)


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        text.ljust(width) if at in _LEFT else text.rjust(width)
        for at, (text, width) in enumerate(zip(texts, widths, strict=True))
    )
