"""What a handler may do to a weak dictionary while its thread looks through it."""

from __future__ import annotations

import gc
import weakref

from graft_vfs.reentry import living


class Value:
    pass


def test_living_values_are_those_still_referenced() -> None:
    kept, gone = Value(), Value()
    values = weakref.WeakValueDictionary({1: kept, 2: gone})
    del gone
    gc.collect()
    assert living(values) == [kept]


def test_a_concurrently_added_value_does_not_break_the_iteration() -> None:
    kept = [Value() for _ in range(3)]
    values = weakref.WeakValueDictionary(enumerate(kept))
    found = []
    for value in living(values):
        found.append(value)
        kept.append(Value())
        values[len(kept)] = kept[-1]
    assert found == kept[:3]
