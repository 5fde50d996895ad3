"""Random tables of all kinds, merged with all policies, against a model of dictionaries."""

from __future__ import annotations

import os
import random
from collections import Counter

import apsw
import pytest

from graft_vfs.history import key_ranges
from graft_vfs.merge.conflicts import (
    Choices,
    Conflicting,
    Granularity,
    Kind,
    Resolution,
    RowConflict,
)
from tests.merge.model import CHILD, KINDS, NULL, Canon, Model, Script, State
from tests.support.merging import Merging

TABLES = 12
"""Tables of one story; each is a case."""


class Story:
    """One database with a table of each kind, changed on both sides."""

    def __init__(self, rng: random.Random, *, is_mild: bool) -> None:
        self.kinds = {
            f"t {number} {kind.name}": kind
            for number, kind in enumerate(rng.choice(KINDS) for _ in range(TABLES))
        }
        self.kinds["parent"] = KINDS[0]
        self.kinds |= {"child": CHILD, "tree": CHILD}
        self.references = {"child": ("p", "parent"), "tree": ("p", "tree")}
        scripts = [
            Script(rng, name, kind, self.references.get(name, ("", ""))[1], is_mild=is_mild)
            for name, kind in self.kinds.items()
        ]
        busy = rng.choice((1, 4, 8, 12))
        self.base = "".join(script.create() for script in scripts)
        ours = [found for script in scripts for found in script.changes(rng.randrange(busy + 1))]
        # With fresh keys, only inserts may conflict.
        both = [s for s in scripts if s.kind.shows_rowid] if is_mild else scripts
        theirs = [found for script in both for found in script.changes(rng.randrange(busy + 1))]
        # Some of what ours did, so that there are equal changes.
        theirs += rng.sample(ours, len(ours) // rng.choice((4, 8, 100)))
        if not is_mild:
            ours += [script.remade() for script in scripts if rng.random() < 0.1]
        self.sides = tuple("".join(["BEGIN;", *each, "COMMIT;"]) for each in (ours, theirs))
        if rng.random() < 0.1:
            self.sides = (self.sides[0], f"{self.sides[1]}VACUUM;")

    def states(self) -> list[dict[str, State]]:
        """Return all tables of base, ours and theirs, from stock SQLite."""
        found = []
        for script in ("", *self.sides):
            connection = apsw.Connection(":memory:")
            connection.execute(self.base + script).fetchall()
            found.append({n: State.read(connection, n, k) for n, k in self.kinds.items()})
        return found


class Answers:
    """A policy that answers at random, and remembers."""

    def __init__(self, rng: random.Random) -> None:
        self.given: dict[object, object] = {}
        self._rng = rng
        self._canon = Canon()

    def __call__(self, conflict: RowConflict):
        answers = [Resolution.OURS, Resolution.THEIRS]
        if self._rng.random() < 0.05:
            answers = [Resolution.ABORT]
        place = tuple(self._canon.value(value) for value in conflict.key.values())
        answer: object = self._rng.choice(answers)
        if conflict.kind is Kind.UPDATE_UPDATE and self._rng.random() < 0.3:
            answer = {column: "both" for column in conflict.columns if column not in conflict.key}
        kept = answer
        if isinstance(answer, dict):
            kept = dict.fromkeys(answer, "text626F7468")
        assert (conflict.kind, conflict.table, place) not in self.given, "asked twice"
        self.given[conflict.kind, conflict.table, place] = kept
        return answer


def choices_for(rng: random.Random) -> tuple[Choices, Answers]:
    answers = Answers(rng)
    policies = (*[p for p in Resolution if p is not Resolution.VALUES], answers)
    return (
        Choices(
            policy=rng.choice(policies),
            granularity=rng.choice((Granularity.CELL, Granularity.CELL, *Granularity)),
            coincident_conflicts=rng.random() < 0.2,
        ),
        answers,
    )


def check(merging: Merging, seed: int) -> Counter[str]:
    """Run one story and compare everything; return what occurred."""
    rng = random.Random(seed)
    choices, answers = choices_for(rng)
    story = Story(rng, is_mild=choices.policy is Resolution.RENUMBER)
    canon, happened = Canon(), Counter[str]()
    base, ours, theirs = story.states()
    with merging.merged(story.base, *story.sides, choices) as merge:
        report = merge.report
        fresh: dict[str, dict[str, str]] = {}
        if not isinstance(report, Conflicting):
            for found in report.renumbered:
                fresh.setdefault(found.table, {})[f"integer{found.ours}"] = f"integer{found.merged}"
        is_conflicting = isinstance(report, Conflicting)
        model = Model(choices, answers.given, fresh, not is_conflicting, story.references)
        expected = {
            name: model.merge(name, kind, base[name], ours[name], theirs[name])
            for name, kind in story.kinds.items()
        }
        unresolved = set().union(*(each.unresolved for each in expected.values()))
        if isinstance(report, Conflicting):
            found = {
                (
                    each.kind,
                    each.table,
                    tuple(canon.value(value) for value in each.key.values()),
                    tuple(sorted(each.columns)),
                )
                for each in report.conflicts
            }
            dangling = {each for each in found if each[0] is Kind.FOREIGN_KEY}
            assert found - dangling == unresolved, seed
            if not unresolved and choices.policy is not Resolution.RENUMBER:
                tables = {name: each.rows for name, each in expected.items()}
                assert any(_is_dangling(story, tables, name) for name in story.references), seed
            assert merge.scratch is None
            return happened + Counter(conflicting=1, dangling=len(dangling))
        assert not unresolved, (seed, unresolved)
        assert report.coincident_count == sum(each.coincident for each in expected.values()), seed
        connection = merge.scratch.connection
        assert connection.pragma("integrity_check", schema="main") == "ok"
        for name, kind in story.kinds.items():
            state = State.read(connection, name, kind)
            rows = Counter(tuple(row.values()) for row in state.rows.values())
            assert rows == expected[name].rows, (seed, name, choices)
            for old, new in fresh.get(name, {}).items():
                taken = {
                    row["id"] for side in (base, ours, theirs) for row in side[name].rows.values()
                }
                assert old in taken
                assert new not in taken
        _check_references(story, connection, (ours, theirs), fresh)
        happened["merged"] += 1
        happened["combined"] += report.combined
        happened["resolved"] += report.resolved_count
        happened["coincident"] += report.coincident_count
        happened["renumbered"] += report.renumbered_count
    return happened


def _check_references(story, connection, sides, fresh) -> None:
    """A row without parent was on a side already."""
    for child, (_, parent) in story.references.items():
        now = {name: State.read(connection, name, story.kinds[name]) for name in (child, parent)}
        keys = {NULL, *(row["id"] for row in now[parent].rows.values())}
        for row in now[child].rows.values():
            if row["p"] not in keys:
                was = [
                    side
                    for side in sides
                    if any(r["p"] == row["p"] for r in side[child].rows.values())
                    and all(r["id"] != row["p"] for r in side[parent].rows.values())
                ]
                assert was, (child, row)


def _is_dangling(story: Story, tables: dict[str, Counter[tuple[str, ...]]], child: str) -> bool:
    """Return True if a row of a child has no parent."""
    _, parent = story.references[child]
    keys = {NULL, *(row[0] for row in tables[parent])}
    return any(row[1] not in keys for row in tables[child])


@pytest.mark.parametrize(("first", "is_walked"), [(30, True), (60, False)])
def test_random_tables_merge_as_dictionaries_do(merging, first, is_walked, monkeypatch):
    if not is_walked:
        monkeypatch.setattr(key_ranges, "PAGES_PER_CHANGE", 0)
    happened = Counter[str]()
    for seed in range(first, first + 30):
        happened += check(merging, seed)
    for event in (
        "conflicting",
        "merged",
        "combined",
        "resolved",
        "coincident",
        "renumbered",
        "dangling",
    ):
        assert happened[event], happened


@pytest.mark.deep
@pytest.mark.timeout(0)
@pytest.mark.parametrize("is_walked", [True, False])
def test_many_random_tables_merge_as_dictionaries_do(tmp_path_factory, is_walked, monkeypatch):
    if not is_walked:
        monkeypatch.setattr(key_ranges, "PAGES_PER_CHANGE", 0)
    cases = int(os.environ.get("GRAFT_TEST_MERGES", "100000")) // 2
    first = int(os.environ.get("GRAFT_TEST_SEED", "1000")) + 100_000 * is_walked
    happened = Counter[str]()
    for start in range(0, cases // TABLES, 200):
        made = Merging(tmp_path_factory.mktemp("merging"))
        for seed in range(first + start, first + min(start + 200, cases // TABLES)):
            happened += check(made, seed)
        made.close()
    print(happened)
    assert happened["merged"] > 3
