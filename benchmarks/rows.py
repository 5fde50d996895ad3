"""What a benchmark finds: rows, each with its budget and all raw samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

RATIO_BUDGET = 1.0
RATIO_FLOOR = 0.8


class PremiseError(Exception):
    """What a row would say was measured did not take place."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a row has to meet, as text, and how it did: `yes`, `floor`, `no`, or empty for none."""

    text: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Times are seconds, sizes bytes; `unit` says which of the two it is.

    `ratio` is stock / graft: 1.0 is equal, higher means that graft is better.
    """

    group: str
    work: str
    stock: float | None = None
    graft: float | None = None
    ratio: float | None = None
    unit: str = "s"
    requests: int | None = None
    bytes: int | None = None
    budget: Budget = Budget()
    note: str = ""
    samples: dict[str, Any] = field(default_factory=dict)


def compare(
    group: str,
    work: str,
    stock: Sequence[float],
    graft: Sequence[float],
    *,
    unit: str = "s",
    budget: Callable[[float], Budget] | None = None,
    note: str = "",
) -> Row:
    """Make a row of alternating samples, the n-th of one side taken beside the n-th of the other.

    The ratio is the median of the pairs' ratios, so that a machine that slows down between two
    pairs does not count against the last one measured.
    """
    ratio = statistics.median(one / other for one, other in zip(stock, graft, strict=True))
    return Row(
        group,
        work,
        statistics.median(stock),
        statistics.median(graft),
        ratio,
        unit,
        budget=budget(ratio) if budget else Budget(),
        note=note,
        samples={"stock": list(stock), "graft": list(graft)},
    )


def ratio_budget(ratio: float) -> Budget:
    """Judge a ratio by the budget of local work."""
    rounded = round(ratio, 2)
    verdict = "yes" if rounded >= RATIO_BUDGET else "floor" if rounded >= RATIO_FLOOR else "no"
    return Budget(f">= {RATIO_BUDGET} x stock (floor {RATIO_FLOOR})", verdict)


def as_before(ratio: float) -> Budget:
    """Judge a ratio that says how a longer history changed the time of the same work."""
    verdict = "yes" if round(ratio, 2) >= RATIO_FLOOR else "no"
    return Budget(f">= {RATIO_FLOOR} x the short one", verdict)


def at_most(text: str, *pairs: tuple[float, float]) -> Budget:
    """Judge pairs of (measured, most allowed); all must hold."""
    return Budget(text, "yes" if all(value <= limit for value, limit in pairs) else "no")


def skipped(group: str, work: str, why: str) -> Row:
    """Make the row of something that could not be measured here."""
    return Row(group, work, note=f"skipped: {why}")
