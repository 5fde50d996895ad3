"""What happens around a fork, and in which order."""

from __future__ import annotations

import subprocess
import sys

ORDER = """
import os
from graft_vfs.local.fork import Step, at_fork

calls = []
def note(text):
    return lambda: calls.append(text)
def fail():
    raise ValueError("a hook failed")

for step in (Step.IMPORT, Step.REGISTRY, Step.CATALOG):
    at_fork(step, before=note(f"before {step.name}"), in_parent=note(f"parent {step.name}"),
            in_child=note(f"child {step.name}"))
at_fork(Step.FILES, before=fail, in_parent=fail, in_child=fail)
child = os.fork()
if child:
    os.waitpid(child, 0)  # Else the two lines may be mixed.
print(*calls, sep=", ", flush=True)
"""


def test_hooks_run_in_the_stated_order_even_past_one_that_fails():
    ran = subprocess.run(
        [sys.executable, "-c", ORDER], capture_output=True, text=True, timeout=60, check=True
    )
    before = "before REGISTRY, before CATALOG, before IMPORT, "
    assert sorted(ran.stdout.splitlines()) == [
        before + "child IMPORT, child CATALOG, child REGISTRY",
        before + "parent IMPORT, parent CATALOG, parent REGISTRY",
    ]
    assert ran.stderr.count("a hook failed") >= 3
