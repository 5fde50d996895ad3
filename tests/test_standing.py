"""One word for how a volume stands to its remote."""

from __future__ import annotations

import itertools

import pytest

from graft_vfs.standing import Standing


def standing(
    *, has_remote: bool = True, ahead: int = 0, behind: int = 0, unpublished=False, attached=True
) -> Standing:
    return Standing.of(
        has_remote=has_remote,
        ahead=ahead,
        behind=behind,
        unpublished=unpublished,
        attached=attached,
    )


@pytest.mark.parametrize(
    ("facts", "state", "text"),
    [
        ({}, "up_to_date", "up to date"),
        ({"ahead": 3}, "ahead", "ahead 3"),
        ({"ahead": 3, "attached": False}, "ahead", "ahead 3"),
        ({"behind": 2}, "behind", "behind 2"),
        ({"behind": 2, "attached": False}, "behind", "behind 2"),
        ({"ahead": 3, "behind": 2}, "diverged", "diverged"),
        ({"unpublished": True}, "unpublished", "unpublished"),
        ({"unpublished": True, "ahead": 1}, "ahead", "ahead 1"),
        ({"unpublished": True, "behind": 2}, "diverged", "diverged"),
        ({"attached": False}, "no_commits", "no commits"),
        ({"has_remote": False}, "no_remote", "no remote"),
        ({"has_remote": False, "ahead": 3}, "no_remote", "no remote"),
    ],
)
def test_a_state_follows_from_what_each_side_has(facts, state, text):
    found = standing(**facts)
    assert found.value == state
    assert found.text(ahead=facts.get("ahead", 0), behind=facts.get("behind", 0)) == text


def test_each_state_but_unreadable_comes_of_some_facts():
    found = {
        standing(has_remote=remote, ahead=ahead, behind=behind, unpublished=fork, attached=base)
        for remote, ahead, behind, fork, base in itertools.product(
            (True, False), (0, 1), (0, 1), (True, False), (True, False)
        )
    }
    assert found == {*Standing} - {Standing.UNREADABLE}
