"""What may appear in some modules only, and is no matter of imports; those are in .importlinter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs.local import layout

PACKAGE = Path(graft_vfs.__file__).parent


def uses(*names: str) -> Iterator[str]:
    """Yield the files of the package that use an attribute of a module, such as `os.environ`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            found = (
                {f"{node.value.id}.{node.attr}"}
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                else {f"{node.module}.{alias.name}" for alias in node.names}
                if isinstance(node, ast.ImportFrom)
                else set()
            )
            if found & set(names):
                yield str(path.relative_to(PACKAGE))


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (("os.environ", "os.getenv", "os.putenv"), ("engine/config.py", "cli/")),
        (("apsw.VFS", "apsw.VFSFile", "apsw.VFSFcntlPragma"), ("pager/", "vfs/")),
        (("os.register_at_fork",), ("local/fork.py",)),
        (
            ("concurrent.futures.ThreadPoolExecutor",),
            ("engine/context.py", "remote/request_threads.py", "testing/"),
        ),
    ],
    ids=lambda value: value[0],
)
def test_each_name_appears_only_in_its_modules(names, places):
    found = set(uses(*names))
    assert found
    assert {path for path in found if not path.startswith(places)} == set()


NAMES = {value for name, value in vars(layout).items() if name.isupper() and name[0] != "_"}
PART = re.compile(
    r"\.(log|index|images|frames|pages|lock)$|place-|import-.*tmp|^catalog\.db|^volume\.json|^head\."
)


def spelled(node: ast.AST) -> Iterator[str]:
    """Yield what a node spells of a name in a data directory. A sentence about one is none.

    A name that is a word, too, such as `head`, is one where it is joined to a path.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if PART.search(node.value) and " " not in node.value:
            yield node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        yield from NAMES & {node.right.value}


def test_names_of_files_in_a_data_directory_are_spelled_once():
    assert {layout.HEAD, layout.CATALOG} <= NAMES
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = str(path.relative_to(PACKAGE))
        nodes = ast.walk(ast.parse(path.read_text()))
        names = {name for node in nodes for name in spelled(node)}
        if names:
            found[place] = names
    assert set(found) == {"local/layout.py"}, found
