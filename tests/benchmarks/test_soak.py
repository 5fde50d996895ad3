"""The soak runs, and its judge tells a leak from what swings, peaks, or fills up and stays."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import LIMITS, Series, exit_status, judge, render, slope, verdicts
from benchmarks.soak_roles import ROLES

ROOT = Path(__file__).parents[2]
MOMENTS = [10.0 * number for number in range(1, 61)]


def made_up(name, value_at):
    return Series("writer", name, [(moment, value_at(moment)) for moment in MOMENTS])


@pytest.fixture
def chance():
    return random.Random(7)


def test_a_leak_in_any_limited_quantity_fails():
    for name, limit in LIMITS.items():
        if limit.kind:
            # The samples behind the warm-up span 400 of the 600 seconds.
            leak = made_up(name, lambda moment, limit=limit: 30 + limit.value * moment / 300)
            judged = verdicts([leak])
            assert exit_status(judged) == 1, name
            assert render(judged).splitlines()[1].endswith("NO")


def test_a_leak_hidden_by_swings_and_peaks_is_detected(chance):
    def memory(moment):
        swing = chance.uniform(-10, 10)
        return 100 + 20 * moment / 400 + swing + (200 if chance.random() < 0.1 else 0)

    leak = made_up("private MiB", memory)
    assert 16 < judge(leak, LIMITS["private MiB"]).found < 30
    assert exit_status(verdicts([leak])) == 1


def test_swings_and_peaks_without_a_trend_pass(chance):
    def memory(_):
        return 100 + chance.uniform(-10, 10) + (200 if chance.random() < 0.1 else 0)

    assert exit_status(verdicts([made_up("private MiB", memory)])) == 0


def test_growth_only_during_the_warm_up_passes():
    filling = made_up("private MiB", lambda moment: min(moment, 190))
    assert judge(filling, LIMITS["private MiB"]).found == 0
    assert exit_status(verdicts([filling])) == 0


def test_a_level_is_judged_by_its_highest_value_after_the_warm_up():
    limit = LIMITS["branch logs MiB"]
    early = made_up("branch logs MiB", lambda moment: 1000 if moment == 100 else 10)
    late = made_up("branch logs MiB", lambda moment: limit.value + 1 if moment == 500 else 10)
    assert exit_status(verdicts([early])) == 0
    assert exit_status(verdicts([early, late])) == 1


def test_a_trend_never_exceeds_the_actual_growth():
    # Seen in a short run: the median slope of a few swinging samples went past their own range.
    values = [0, 0, 2, 2, 6, 8, 8, 8]
    samples = [(float(moment), float(value)) for moment, value in enumerate(values)]
    swinging = Series("reader", "descriptors", [(-3.5, 0.0), *samples])
    assert slope(samples) * (samples[-1][0] - samples[0][0]) > 8
    assert judge(swinging, LIMITS["descriptors"]).found == 8


def test_the_slope_of_a_line_is_that_line(chance):
    line = [(moment, 3 - 0.5 * moment) for moment in MOMENTS]
    chance.shuffle(line)
    assert slope(line) == pytest.approx(-0.5)
    assert slope(line[:1]) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a soak needs /proc")
def test_a_short_soak_works_samples_and_judges(tmp_path):
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.06"]
    command += ["--directory", str(tmp_path), "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["counts"]) == set(ROLES)
    for counts in found["counts"].values():
        assert counts
    assert {series["name"] for series in found["series"]} == set(LIMITS)
    for series in found["series"]:
        assert len(series["samples"]) == 12
        assert series["within"]
        assert series["name"] in done.stdout
    # Nothing of it is left, and nothing of what a child may have complained about.
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    assert not done.stderr
