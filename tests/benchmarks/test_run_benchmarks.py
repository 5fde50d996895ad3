"""The benchmarks run, print rows and valid JSON; and the counts among them are exact.

Times are never judged here: a quick run measures nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]


def run_quick(directory, *arguments):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--directory", str(directory)]
    command += ["--json", str(directory / "found.json"), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((directory / "found.json").read_text())


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    output, found = run_quick(tmp_path_factory.mktemp("remote"), "--only", "remote")
    rows = {row["work"].removesuffix(", directory"): row for row in found["rows"]}
    return output, rows


def test_local_rows_pair_every_sample(tmp_path):
    chart = tmp_path / "chart.svg"
    output, found = run_quick(tmp_path, "--only", "local", "--chart", str(chart))
    assert output.splitlines()[0] == found["facts"]["machine"]
    assert "SQLite" in output.splitlines()[1]
    assert len(found["rows"]) == 12
    for row in found["rows"]:
        assert row["work"] in output
        assert len(row["samples"]["stock"]) == len(row["samples"]["graft"]) == 2
        assert row["ratio"] > 0
        assert row["budget"]["verdict"] in {"yes", "floor", "no"}
    bars = ET.parse(chart).getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + len(found["rows"])


def test_remote_rows_are_printed(remote):
    output, rows = remote
    assert all(work in output for work in rows)
    assert rows["cold full scan, 1 MB"]["requests"] > 0


def test_small_push_is_one_conditional_write_and_nothing_else(remote):
    _, rows = remote
    samples = rows["small push"]["samples"]
    assert samples["verbs"] == {"put_if_absent": 1}
    assert samples["requests"] == [1, 1]
    assert samples["round_trips"] == [1, 1]


def test_poll_without_new_commits_is_one_request(remote):
    _, rows = remote
    samples = rows["poll with nothing new"]["samples"]
    assert samples["requests"] == [1, 1]
    assert samples["bytes"] == [0, 0]


@pytest.mark.parametrize("length", [1, 10])
def test_clone_sends_at_most_one_request_per_commit_and_four(remote, length):
    _, rows = remote
    # Round trips depend on when threads get to run, so that only requests are exact.
    assert rows[f"clone, log of {length}"]["requests"] <= length + 4


def test_first_point_query_stays_within_three_requests(remote):
    _, rows = remote
    assert rows["open and first point query, 1 MB"]["budget"]["verdict"] == "yes"


def test_histories_have_the_length_in_their_rows(tmp_path):
    # A premise that does not hold would show as a group that did not run, and a status of 1.
    _, found = run_quick(tmp_path, "--only", "constancy")
    rows = {row["work"]: row for row in found["rows"]}
    assert rows["small push, log of 30 commits"]["samples"] == {"stock": [1], "graft": [1]}
    assert rows["poll with nothing new, log of 30 commits"]["samples"]["graft"] == [1]


def test_only_refuses_an_unknown_group():
    command = [sys.executable, "-m", "benchmarks", "--only", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
