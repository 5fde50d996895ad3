"""The workflows run commands that exist and all deep tests; third-party actions are pinned."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="the extra [lint] is not installed")

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
COMMANDS = {
    *("echo", "ls", "mkdir", "pip", "pytest", "python", "rm", "sudo", "tar", "test", "twine"),
    *("lint-imports", "mypy", "ruff", "$RUNNER_TEMP/fresh/bin/pip"),
    *("$RUNNER_TEMP/fresh/bin/graft", "$RUNNER_TEMP/fresh/bin/pytest"),
}


def steps(path: Path) -> list[dict]:
    """Return the steps of all jobs of a workflow, and the jobs that call another workflow."""
    jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"].values()
    return [step for job in jobs for step in job.get("steps", [job])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit_beside_its_version(path):
    used = re.findall(r"^.*\buses: *(.*)$", path.read_text("utf-8"), re.MULTILINE)
    assert used
    assert len(used) == sum("uses" in step for step in steps(path))
    for use in used:
        if use.startswith("./"):
            assert (ROOT / use).is_file()
        else:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use


def test_one_action_is_pinned_to_one_commit_in_all_workflows():
    text = "\n".join(path.read_text("utf-8") for path in WORKFLOWS)
    pins = set(re.findall(r"uses: *([\w./-]+)@([0-9a-f]{40})", text))
    assert len(pins) == len({action for action, _ in pins})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_extras_modules_and_files_of_a_workflow_exist(path):
    text = path.read_text("utf-8")
    runs = "\n".join(step["run"] for step in steps(path) if "run" in step)
    program = re.sub(r"<<'(\w+)'\n.*?\n\1$", "", runs, flags=re.MULTILINE | re.DOTALL)
    for line in filter(None, map(str.strip, program.splitlines())):
        command = line.split()[0].strip("\"'")
        assert command in COMMANDS or re.match(r"\w+=", command), line
    for extra in re.findall(r"\[(\w+)\]['\"]", runs):
        assert extra in EXTRAS
    for module in re.findall(r"python -m ([\w.]+)", runs):
        assert module in {"build", "venv"} or importlib.util.find_spec(module), module
    for name in re.findall(r"(?:tests|benchmarks|\.ci)/[\w./]*", text):
        assert (ROOT / name).exists(), name


def test_the_nightly_workflow_runs_every_deep_test():
    nightly = yaml.safe_load((GITHUB / "workflows" / "nightly.yml").read_text("utf-8"))
    parts = nightly["jobs"]["deep"]["strategy"]["matrix"]["include"]
    covered = [ROOT / name for part in parts for name in part["tests"].split()]
    deep = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark." + "deep" in path.read_text("utf-8")
    ]
    assert deep
    for path in deep:
        assert any(path.is_relative_to(part) for part in covered), path


def test_only_a_tagged_version_that_passed_all_checks_is_published():
    release = yaml.safe_load((GITHUB / "workflows" / "release.yml").read_text("utf-8"))
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true.
    jobs = release["jobs"]
    assert jobs["ci"] == {"uses": "./.github/workflows/ci.yml"}
    assert jobs["publish"]["needs"] == "ci"
    done = [step.get("uses", step.get("run")).split("@")[0] for step in jobs["publish"]["steps"]]
    assert [step for step in done if "/" in step and "\n" not in step] == [
        "actions/download-artifact",
        "actions/attest-build-provenance",
        "pypa/gh-action-pypi-publish",
    ]
    assert "GITHUB_REF_NAME#v" in done[1]


def test_the_issue_form_asks_for_what_the_doctor_reports():
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))
    (doctor,) = (field for field in form["body"] if field.get("id") == "doctor")
    assert "`graft doctor --json`" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]
