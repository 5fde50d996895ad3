"""Suites that come with the sources of others, and not with what pip installs.

    python tests/foreign/suites.py DIRECTORY        fetches what can be fetched

Tests find them by the variable FOREIGN_SUITES, which names the directory; without it, or without a
suite in it, they are skipped. They come from the package sources of the system (as root on Debian,
Ubuntu and the like) and of the Python package index, by apt-get and pip.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SYSTEM = ("sqlite3", "peewee")
"""Source packages of the system. What is on the Python package index of peewee has no tests."""
INDEX = ("diskcache", "django")
"""Source distributions of the index, in the version that is installed."""


def suite(name: str) -> Path:
    """Return the directory of a suite's sources; skips the test if it is not here."""
    import pytest

    directory = os.environ.get("FOREIGN_SUITES")
    if not directory:
        pytest.skip("FOREIGN_SUITES names no directory; see tests/README.md")
    path = Path(directory, name)
    if not path.is_dir():
        pytest.skip(f"{path} is not here: `python tests/foreign/suites.py {directory}` fetches it")
    return path


def fetch(directory: Path) -> list[str]:
    """Fetch every suite that is not here yet; returns what could not be had, and why."""
    directory.mkdir(parents=True, exist_ok=True)
    missing = []
    with tempfile.TemporaryDirectory() as temporary:
        fetches = [(_fetch_from_system, name) for name in SYSTEM]
        fetches += [(_fetch_from_index, name) for name in INDEX]
        for fetch_one, name in fetches:
            if (directory / name).is_dir():
                continue
            try:
                _unpack(fetch_one(name, Path(temporary)), directory / name)
            except (OSError, subprocess.CalledProcessError, LookupError, ImportError) as error:
                said = getattr(error, "stderr", None) or error
                missing.append(f"{name}: {said}".strip())
    return missing


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


def _fetch_from_system(name: str, directory: Path) -> Path:
    """Return the archive of a source package, from where the system has its packages."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise LookupError("needs apt-get, and to be root")
    lists = directory / "lists"
    sources = directory / "sources.list"
    options = [
        *("-qq", "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", f"Dir::State::lists={lists}", "-o", "APT::Sandbox::User=root"),
    ]
    if not sources.exists():
        (lists / "partial").mkdir(parents=True)
        form = "$(SIGNED_BY)\t$(REPO_URI)\t$(CODENAME)\t$(SUITE)\t$(COMPONENT)"
        found = _run(apt, "indextargets", "--format", form, "Created-By: Packages", cwd=directory)
        lines = set()
        for line in found.splitlines():
            key, uri, codename, _, component = line.split("\t")
            signed = f"[signed-by={key}] " if key.startswith("/") else ""
            lines.add(f"deb-src {signed}{uri} {codename} {component}\n")
        sources.write_text("".join(sorted(lines)))
        _run(apt, *options, "update", cwd=directory)
    _run(apt, *options, "source", "--download-only", name, cwd=directory)
    return next(directory.glob(f"{name}_*.orig.tar.*"))


def _fetch_from_index(name: str, directory: Path) -> Path:
    """Return the source distribution of an installed package."""
    version = importlib.metadata.version(name)
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name)
    _run(*pip, "-d", directory / name, f"{name}=={version}", cwd=directory)
    return next((directory / name).glob("*.tar.gz"))


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive with one directory in it, and call that `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        _run("tar", "-xf", archive, "-C", temporary, cwd=target.parent)
        (found,) = Path(temporary).iterdir()
        found.rename(target)


if __name__ == "__main__":
    for line in fetch(Path(sys.argv[1])):
        print(line, file=sys.stderr)
