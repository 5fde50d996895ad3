"""How the state machines of this folder are run: a small fixed run, and a deep one on request.

The small run is derandomised, so that it does the same on every machine. The deep run draws anew
each time; a failure prints the steps that lead to it, shrunk. `MODEL_SCALE` multiplies its size.

A machine notes what it came across in `seen`, and a test asserts what must have come up: a machine
that never sees a stale snapshot or a lost claim would prove nothing about it.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_MEMORY = Path("/dev/shm")
DEEP_SCALE = float(os.environ.get("MODEL_SCALE", "1"))

_COMMON = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    # A step is a commit or a push with real files, and the data that it draws is small.
    suppress_health_check=[HealthCheck.too_slow],
)


def explore(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> Counter[str]:
    """Run the machine derandomised and return what it has seen."""
    return _run(machine, settings(_COMMON, derandomize=True), examples, steps)


def explore_deeply(
    machine: type[RuleBasedStateMachine], *, examples: int, steps: int
) -> Counter[str]:
    """Run the machine with fresh randomness, MODEL_SCALE times as often, and tell how much it did.

    The figures stand in the report of a run with `-s`.
    """
    fresh = settings(_COMMON, derandomize=False, print_blob=True)
    seen = _run(machine, fresh, int(examples * DEEP_SCALE), steps)
    print(f"\n{machine.__name__}: {dict(sorted(seen.items()))}")
    return seen


def _run(
    machine: type[RuleBasedStateMachine], profile: settings, examples: int, steps: int
) -> Counter[str]:
    seen: Counter[str] = Counter()
    chosen = settings(profile, max_examples=examples, stateful_step_count=steps)
    run_state_machine_as_test(lambda: machine(seen), settings=chosen)
    return seen


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory in memory where there is such a thing: no power is cut in these tests."""
    return tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
