"""The alert rules, the dashboard and the page about metrics name what the daemon serves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import graft_vfs
from graft_vfs.daemon.daemon import Daemon
from graft_vfs.daemon.events import EventLog
from graft_vfs.engine.autosync import Clock
from graft_vfs.engine.config import RemoteConfig
from tests.support.replicas import Replica

DOCS = Path(graft_vfs.__file__).parent / "docs"
ALERTS = DOCS / "monitoring" / "alerts.yml"
DASHBOARD = DOCS / "monitoring" / "grafana.json"
PAGE = (DOCS / "guides" / "metrics.md").read_text("utf-8")
_METRIC = re.compile(r"\bgraft_[a-z_]+")


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, set[str]]:
    """The metrics of a daemon that has pushed and pulled, with their labels."""
    root = tmp_path_factory.mktemp("monitoring")
    remote = RemoteConfig(type="fs", root=str(root / "remote"))
    with Replica(root / "data", remote) as machine:
        connection = machine.connect()
        connection.execute("CREATE TABLE t(k)")
        connection.close()
        daemon = Daemon(machine.engine, EventLog(str, as_json=True, clock=Clock()))
        assert daemon.run_once() == []
        text = daemon.metrics()
    found = {}
    for family in text_string_to_metric_families(text):
        is_counter = family.type == "counter"
        name = f"{family.name}_total" if is_counter else family.name
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    return found


def named(text: str, families: dict[str, set[str]]) -> set[str]:
    """Return the metrics that a text names, without the suffixes of histograms."""
    names = _METRIC.findall(text)
    return {
        next((n for n in families if re.fullmatch(f"{n}(_bucket|_sum|_count)?", name)), name)
        for name in names
    }


def test_the_page_has_a_row_for_each_metric_with_its_labels(families):
    rows = re.findall(r"^\| (`graft_.*?) \| (.*?) \|", PAGE, re.MULTILINE)
    told = {
        name: set(re.findall(r"`(\w+)`", labels))
        for names, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert told == families


def test_the_page_has_a_row_for_each_alert():
    yaml = pytest.importorskip("yaml", reason="the extra [lint] is not installed")
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^\| `(Graft\w+)` \|", PAGE, re.MULTILINE) == alerts


def test_every_metric_of_an_alert_exists(families):
    yaml = pytest.importorskip("yaml", reason="the extra [lint] is not installed")
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            assert rule.keys() >= {"alert", "expr", "labels", "annotations"}
            used = named(rule["expr"], families)
            assert used, rule["alert"]
            assert used <= families.keys(), rule["alert"]
            assert rule["labels"]["severity"] in {"warning", "critical"}
            labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
            # The target's own label is on every sample.
            has = set().union(*(families[name] for name in used)) | {"instance"}
            assert labels <= has, rule["alert"]


def test_every_metric_of_the_dashboard_exists(families):
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    assert dashboard["uid"] == "graft-vfs"
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used = named(target["expr"], families)
            assert used, panel["title"]
            assert used <= families.keys(), panel["title"]
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            has = set().union(*(families[name] for name in used)) | {"instance"}
            assert shown <= has, panel["title"]
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    variable = named(json.dumps(dashboard["templating"]), families)
    assert variable <= families.keys()


def test_prometheus_accepts_the_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
