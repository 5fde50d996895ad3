"""Which extras are installed: with `unit` alone, tests that need another extra are skipped.

If an extra is partly installed, a missing package is a failure.
"""

from __future__ import annotations

import functools
import importlib.util

_SIGNS = {
    "servers": ("ministack", "moto"),
    "integrations": ("datasette", "django", "fastapi", "pandas", "sqlalchemy", "sqlite_utils"),
    "lint": ("build", "hatchling", "mypy"),
}
"""Packages that show that at least a part of an extra is installed."""


@functools.cache
def absence(extra: str) -> str | None:
    """Return why tests that need an extra are skipped; None if any part of it is installed."""
    if any(importlib.util.find_spec(name) for name in _SIGNS[extra]):
        return None
    return f"the extra [{extra}] is not installed: pip install -e '.[{extra}]'"
