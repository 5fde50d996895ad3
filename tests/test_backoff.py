"""Pauses between attempts."""

from __future__ import annotations

import pytest

from graft_vfs.backoff import backoff


@pytest.mark.parametrize(
    ("first", "failures", "longest", "jitter", "expected"),
    [
        (0.1, 0, 5.0, 1.0, 0.1),
        (0.1, 3, 5.0, 1.0, 0.8),
        (0.1, 10, 5.0, 1.0, 5.0),
        (0.1, 3, 5.0, 0.0, 0.4),
        (1.0, 2, 8.0, 0.5, 3.0),
        (10.0, 0, 5.0, 1.0, 5.0),
        (0.1, 10**9, 300.0, 1.0, 300.0),
    ],
)
def test_a_pause_doubles_up_to_a_limit_and_half_of_it_is_random(
    first, failures, longest, jitter, expected
) -> None:
    assert backoff(first, failures, longest, jitter) == pytest.approx(expected)
