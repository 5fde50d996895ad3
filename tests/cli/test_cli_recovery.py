"""Commands that lead out of a loss, as they are typed."""

from __future__ import annotations

import json


def lose_catalog(cli) -> None:
    for path in (cli.root / "a").glob("catalog.db*"):
        path.unlink()


def test_adopt_lists_what_the_catalog_lost_and_takes_it_up(cli):
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)", "INSERT INTO t VALUES('kept')")
    cli.sql("it's", "CREATE TABLE t(v)")
    volumes = {row["tag"]: row["volume"] for row in cli.json("tags")}
    assert cli.ok("adopt") == "The catalog knows every volume as it is.\n"
    lose_catalog(cli)
    assert "graft adopt" in cli.fails(8, "tags")
    assert "graft adopt" in cli.fails(8, "status", "main")
    lost = {row["volume"]: row["tags"] for row in cli.json("adopt")}
    assert lost == {volume: [tag] for tag, volume in volumes.items()}
    found = json.loads(cli.run("doctor", "--json").stdout)
    steps = [row["next_step"] for row in found if row["level"] == "problem"]
    assert any(f"graft adopt {volumes['main']}" in step for step in steps)
    assert cli.ok("adopt", volumes["main"]).startswith(f"Adopted volume {volumes['main']}")
    assert cli.sql("main", "SELECT v FROM t") == [("kept",)]
    assert cli.json("adopt", volumes["it's"], "other")["tags"] == ["other"]
    assert cli.ok("adopt") == "The catalog knows every volume as it is.\n"
    assert cli.run("doctor").exit_code == 0


def test_adopt_takes_no_tag_from_another_volume(cli):
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)")
    volume = cli.json("tags")[0]["volume"]
    lose_catalog(cli)
    cli.ok("adopt", volume)
    cli.sql("other", "CREATE TABLE t(v)")
    assert "graft switch" in cli.fails(2, "adopt", volume, "other")
    assert "not a volume id" in cli.fails(2, "adopt", "main")
