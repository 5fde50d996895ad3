"""What the engine and its results look like in a Python shell and in a notebook."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import graft_vfs
from graft_vfs import reports
from graft_vfs.maintenance import collect, fsck
from graft_vfs.plain import transfer
from graft_vfs.sync import fetch, pull, push
from tests.support import engines

_LINE_MAX = 160


def every_report(engine, tmp_path):
    connection = graft_vfs.connect("a<b>&c")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    yield engine.status("a<b>&c")
    yield from engine.log("a<b>&c")
    yield engine.push("a<b>&c")
    connection.execute("UPDATE t SET x = 2")
    diff = engine.diff("a<b>&c")
    yield diff
    yield from diff.tables
    yield from (engine.pull("a<b>&c"), engine.fetch("a<b>&c"), engine.info("a<b>&c"))
    yield from (*engine.tags(), *engine.volumes(), *engine.remote_logs(), engine.show("a<b>&c"))
    yield from (engine.audit("a<b>&c"), engine.versions())
    check = engine.fsck()
    yield from (check, *check.logs)
    yield engine.export("a<b>&c", tmp_path / "file.db")
    yield engine.fork("a<b>&c")


def test_a_report_is_one_line_in_a_shell_and_a_table_in_a_notebook(tmp_path):
    config = graft_vfs.Config(data_dir=tmp_path / "data", remote=engines.memory_remote())
    with engines.registered(config) as engine:
        seen = set()
        for report in every_report(engine, tmp_path):
            seen.add(type(report))
            line = repr(report)
            assert line.startswith(f"<{type(report).__name__}: "), line
            assert line.endswith(">"), line
            assert "\n" not in line
            assert len(line) <= _LINE_MAX, line
            table = ET.fromstring(report._repr_html_())
            assert table.findtext("caption") == report.summary()
            assert all(row.findtext("th") and row.findtext("td") for row in table.iter("tr"))
    assert {fetch.Fetched, pull.Pulled, push.Pushed, transfer.Transferred, fsck.Fsck} < seen
    assert {reports.Status, reports.Info, reports.LogEntry, reports.Diff} < seen


def test_no_report_has_the_repr_of_a_dataclass():
    assert collect.CollectedVolume in reports.Report.__subclasses__()
    for kind in reports.Report.__subclasses__():
        assert kind.__repr__ is reports.Report.__repr__, kind


def test_the_repr_of_an_engine_has_its_directory_and_verbs(tmp_path):
    config = graft_vfs.Config(data_dir=tmp_path / "data", remote=engines.memory_remote())
    with engines.registered(config) as engine:
        line = repr(engine)
        assert line == f"<Graft {str(tmp_path / 'data')!r} with {engine.store.describe()}>"
        assert {"push", "pull", "clone", "status", "close"} < set(dir(engine))
        assert not {"catalog", "logs", "context", "_pool", "__init__"} & set(dir(engine))
    assert repr(engine) == line
