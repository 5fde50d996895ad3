"""File descriptors that run out at any moment: a named error, nothing lost, and it goes on.

Each act of a program is tried with so few free descriptors that its first opening fails, then its
second, and so on until it succeeds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import acts, isolated, trying
from tests.support.shortage import FewDescriptors

AMOUNTS = range(60)
NEEDS_NONE = {"read", "sort"}
"""Acts that need none: pages that cannot be cached on the disk are kept in memory."""
SOME = ["commit at the file's end", "push", "read", "connect", "open a volume", "export"]


def with_few_descriptors(root: str, names: str) -> None:
    """Try acts with fewer descriptors than they need; print how often each failed."""
    for name in names.split(","):
        # No reading meanwhile: an image that is read first needs a descriptor to be mapped.
        tried = trying.until_done(
            name, FewDescriptors(), AMOUNTS, Path(root) / "data", Path(root), reads=False
        )
        print(f"{name}: {tried.failures} failures, {sorted(tried.errors)}")
        assert tried.failures or name in NEEDS_NONE


def test_some_acts_without_descriptors_fail_by_name_and_succeed_later(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    isolated.run(with_few_descriptors, tmp_path, ",".join(SOME))


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", acts.ACTS)
def test_an_act_without_descriptors_fails_by_name_and_succeeds_later(tmp_path, name) -> None:
    (tmp_path / "data").mkdir()
    print(isolated.run(with_few_descriptors, tmp_path, name))
