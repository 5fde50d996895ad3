"""Runs hostile cases in this process, and says in JSON what came out.

    python -m tests.hostile.fuzz SEED CASES [DECODER [NUMBER]]

It is a program, so that its caller sees a crash of native code as a crash, and so that its peak of
memory is that of the cases. With a decoder's name only that one runs, with a number only that case.

A case that raises what its decoder does not declare, or takes more memory than all may, ends the
run at once with its name and number, by which it comes back.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.hostile.decoders import Decoder, remote_decoders
from tests.hostile.local_decoders import local_decoders
from tests.hostile.memory import forget_peak, peak_bytes

MEMORY_MAX_BYTES = 96 << 20
"""No case may raise the process's peak by more than this above what it was before the first."""
CASE_SECONDS_MAX = 60
"""A case that takes so long hangs, and ends by an exception; native code by its caller's limit."""
CASES_PER_LOOK = 100


def open_files() -> int:
    gc.collect()  # Maps keep files open, and go with what refers to them.
    return sum(1 for _ in Path("/dev/fd").iterdir())


def check_memory(baseline: int, when: str) -> None:
    grown = peak_bytes() - baseline
    if grown > MEMORY_MAX_BYTES:
        raise MemoryError(f"{when}: {grown} bytes more than before the first case")


def give_up(*_: object) -> None:
    raise TimeoutError(f"a case took more than {CASE_SECONDS_MAX} seconds")


def plan(decoders: list[Decoder], cases: int) -> Iterator[tuple[Decoder, int]]:
    """Yield each decoder with its number of cases, by their shares."""
    total = sum(decoder.share for decoder in decoders)
    for decoder in decoders:
        yield decoder, -(-cases * decoder.share // total)


def run(decoder: Decoder, seed: int, numbers: range) -> dict[str, object]:
    """Run cases of one decoder; returns counts. Lets out what the decoder does not declare."""
    outcomes: Counter[str] = Counter()
    slowest, begin = 0.0, time.perf_counter()
    files, baseline = open_files(), forget_peak()
    for number in numbers:
        source = Random(f"{seed}/{decoder.name}/{number}")
        signal.alarm(CASE_SECONDS_MAX)
        started = time.perf_counter()
        try:
            decoder.case(source)
        except decoder.declared as error:
            outcomes[type(error).__name__] += 1
        except BaseException as error:
            error.add_note(f"case {number} of {decoder.name!r} with seed {seed}")
            raise
        else:
            outcomes["accepted"] += 1
        slowest = max(slowest, time.perf_counter() - started)
        if number % CASES_PER_LOOK == 0:
            check_memory(baseline, f"{decoder.name!r} with seed {seed} before case {number + 1}")
    signal.alarm(0)
    check_memory(baseline, f"{decoder.name!r} with seed {seed} at its end")
    assert open_files() == files, f"{decoder.name!r} leaves files open"
    return {
        "decoder": decoder.name,
        "cases": len(numbers),
        "seconds": round(time.perf_counter() - begin, 2),
        "slowest_ms": round(slowest * 1000, 1),
        "peak_mib": round(peak_bytes() / 2**20, 1),
        "grown_mib": round((peak_bytes() - baseline) / 2**20, 1),
        "outcomes": dict(sorted(outcomes.items())),
    }


def main(arguments: list[str]) -> None:
    seed, cases = int(arguments[0]), int(arguments[1])
    signal.signal(signal.SIGALRM, give_up)
    with tempfile.TemporaryDirectory() as scratch:
        decoders = remote_decoders(Path(scratch)) + local_decoders(Path(scratch))
        planned = list(plan(decoders, cases))
        if len(arguments) > 2:
            planned = [(item, count) for item, count in planned if item.name == arguments[2]]
        for decoder, count in planned:
            numbers = range(count)
            if len(arguments) > 3:
                numbers = range(int(arguments[3]), int(arguments[3]) + 1)
            print(json.dumps(run(decoder, seed, numbers)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
