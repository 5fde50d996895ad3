"""What may appear in some modules only, and is no matter of imports; those are in .importlinter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import graft_vfs

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
    ],
    ids=lambda value: value[0],
)
def test_each_has_its_place(names, places):
    found = set(uses(*names))
    assert found
    assert {path for path in found if not path.startswith(places)} == set()
