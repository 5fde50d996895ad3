"""What may befall the files of a cache, in its directory or in that of all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def removed(directory: Path) -> None:
    shutil.rmtree(directory)


def replaced_by_a_file(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)
    directory.write_bytes(b"")


def emptied(directory: Path) -> None:
    for path in directory.rglob("*.*"):
        path.unlink()


def without_index(directory: Path) -> None:
    for path in directory.rglob("*.index"):
        path.unlink()


def without_images(directory: Path) -> None:
    for path in directory.rglob("*.images"):
        path.unlink()


def cut(directory: Path) -> None:
    for path in directory.rglob("*.*"):
        os.truncate(path, 0)


def cut_in_the_middle(directory: Path) -> None:
    for path in directory.rglob("*.images"):
        os.truncate(path, 70_000)


def of_folders(directory: Path) -> None:
    for path in directory.rglob("*.*"):
        path.unlink()
        path.mkdir()


def forbidden(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        path.chmod(0)
