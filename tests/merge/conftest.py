from __future__ import annotations

import pytest

from graft_vfs.merge.conflicts import Choices
from tests.support.merging import Merging, Result


@pytest.fixture
def merging(tmp_path):
    made = Merging(tmp_path)
    yield made
    made.close()


@pytest.fixture
def merge(merging):
    def run(
        base: str,
        ours: str,
        theirs: str,
        prepare=lambda _: None,
        is_prepared: bool = False,
        **choices,
    ) -> Result:
        """Merge; `prepare` is called with the connections of both sides, or with all."""
        with merging.merged(
            base, ours, theirs, Choices(**choices), prepare, is_prepared=is_prepared
        ) as merge:
            return Result(merge, prepare)

    return run
