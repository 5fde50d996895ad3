"""Connections that a program leaves open to the end of its interpreter."""

from __future__ import annotations

import pytest

from tests.support.children import child

KEPT = {
    "by a hook of every connection": "apsw.connection_hooks.append(lambda _: kept)",
    "by the configuration of the engine": """
class Settings:
    def __getattr__(self, name):
        return getattr(config, name)

graft_vfs.register(Settings())
""",
}


@pytest.mark.parametrize("keeper", KEPT.values(), ids=KEPT)
def test_a_connection_left_open_at_interpreter_exit_does_not_crash(tmp_path, keeper):
    program = f"""
kept = graft_vfs.connect("main")
kept.execute("CREATE TABLE t(x)")
{keeper}
say("done")
"""
    with child(tmp_path / "data", program) as process:
        assert process.end() == ["done"]
