"""The protocol of retention: no state breaks it, and each part of its rule is needed.

Prints traces and counts with `-s`. The deep tests search larger worlds.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model.breadth_first import Search, search
from tests.model.retention import Protocol, Rules


def found(protocol: Protocol, sought: str = "") -> Search:
    ended = search(protocol, sought)
    print(f"\n{ended}")
    return ended


READER = Protocol(writers=1, lsns=2, has_reader=True)
FORK = Protocol(writers=1, lsns=2, has_fork=True)
FAULTS = [
    # Without a part of the rule, this fault is found after so many steps.
    ("dates_answers", Protocol(), "LSN 1 has two winners", 9),
    ("dates_answers", Protocol(), "LSN 1 was claimed and is reported as absent", 9),
    ("dates_answers", Protocol(), "LSN 1 is closed and was taken as new", 8),
    ("checks_floor", Protocol(), "LSN 1 has two winners", 10),
    ("checks_floor_after", Protocol(), "LSN 1 has two winners", 10),
    ("closes_only_old", Protocol(), "LSN 1 has two winners", 5),
    ("keeps_newest", Protocol(lsns=1), "LSN 1 was deleted and came back", 9),
    ("read_keeps_proof", Protocol(), "LSN 2 has two winners", 12),
    ("own_keeps_proof", Protocol(), "LSN 2 has two winners", 14),
    ("restart_keeps_proof", Protocol(), "LSN 1 has two winners", 10),
    ("keeps_before_switch", Protocol(switched=1), "LSN 1 has two winners", 9),
    ("raises_if_match", Protocol(), "the floor falls", 10),
    ("has_roll", Protocol(), "LSN 1 was claimed and is reported as lost", 11),
    ("pins_before_plan", READER, "reader's LSN 1 is missing", 15),
    ("lists_pins_after_plan", READER, "LSN 1 is missing", 15),
    ("sweeps_only_old", READER, "LSN 1 is missing", 10),
    ("registers_before_claim", FORK, "fork's LSN 1 is missing", 15),
    ("fork_checks_plan", FORK, "fork's LSN 1 is missing", 16),
]


@pytest.mark.parametrize(
    ("part", "protocol", "fault", "length"), FAULTS, ids=[f"{each[0]}-{each[2]}" for each in FAULTS]
)
def test_without_a_part_of_the_rule_the_search_finds_a_fault(part, protocol, fault, length):
    ended = found(replace(protocol, rules=Rules(**{part: False})), fault)
    assert (fault in ended.fault, len(ended.trace)) == (True, length), ended


def test_every_part_of_the_rule_has_a_fault():
    assert {part for part, *_ in FAULTS} | {"segment_names_lsn", "rechecks_segment"} == {
        *Rules.__dataclass_fields__
    }


@pytest.mark.parametrize(("rechecks", "length"), [(False, 7), (True, 8)])
def test_a_segment_judged_by_its_age_is_missed_by_a_late_claim(rechecks, length):
    rules = Rules(segment_names_lsn=False, rechecks_segment=rechecks)
    ended = found(Protocol(rules, lsns=1, has_segments=True))
    assert (ended.fault, len(ended.trace)) == ("the segment of LSN 1 is missing", length)


@pytest.mark.deep
def test_dates_that_are_wrong_by_half_the_grace_period_break_the_rule():
    ended = found(Protocol(lsns=2, skew=2), "two winners")
    assert (ended.fault, len(ended.trace)) == ("LSN 1 has two winners", 10)


SMALL = {
    "claims": Protocol(lsns=2, has_undated=True),
    "switch": Protocol(lsns=2, switched=1, has_undated=True),
    "segments": Protocol(lsns=1, has_segments=True, has_undated=True),
    "reader": READER,
    "fork": FORK,
}
LARGE = {
    # Five million states and 1.6 GB of memory each in the first two.
    "claims": Protocol(skew=1, has_undated=True),
    "switch": Protocol(switched=1, has_undated=True),
    "segments": Protocol(has_segments=True),
    "segments-and-fork": Protocol(lsns=2, has_segments=True, has_fork=True),
    "reader": Protocol(lsns=2, has_reader=True),
    "reader-and-fork": Protocol(writers=1, has_reader=True, has_fork=True),
}


@pytest.mark.parametrize("protocol", SMALL.values(), ids=SMALL)
def test_with_the_whole_rule_no_state_is_faulty(protocol):
    ended = found(protocol)
    assert not ended.fault, ended
    assert ended.states > 300


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protocol", LARGE.values(), ids=LARGE)
def test_with_the_whole_rule_no_state_of_a_large_world_is_faulty(protocol):
    ended = found(protocol)
    assert not ended.fault, ended
    assert ended.states > 50_000
