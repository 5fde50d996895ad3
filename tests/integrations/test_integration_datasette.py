"""Datasette serves volumes: what its configuration may say, what browsing fetches, how it looks."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib

import click
import pytest

import graft_vfs
from tests.support.left_open import CONNECTIONS_LEFT_OPEN

pytestmark = pytest.mark.filterwarnings(CONNECTIONS_LEFT_OPEN)

ROWS = 20_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@pytest.fixture(autouse=True)
def connections_left_open_end_in_their_test(environment):
    """Collect them where the filter is: the collector would find them in any later test."""
    environment["PYTHONWARNINGS"] += f",{CONNECTIONS_LEFT_OPEN}"
    yield
    gc.collect()


@pytest.fixture
def people(engine):
    """Return the engine of a volume of some megabytes, which is on the remote."""
    connection = graft_vfs.connect("people")
    with connection:
        connection.execute("CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, about TEXT)")
        connection.executemany(
            "INSERT INTO people(name, about) VALUES(?, hex(randomblob(100)))",
            ((f"person {number}",) for number in range(1, ROWS + 1)),
        )
    connection.close()
    engine.push("people")
    return engine


def configuration(**databases):
    return {"plugins": {"graft-vfs": {"databases": databases}}}


def datasette_of(**databases):
    from datasette.app import Datasette  # Not above: importing it leaves connections open, too.

    return Datasette([], metadata=configuration(**databases))


def ask(databases, *paths):
    """Ask a Datasette of its own for pages, and return status and body of each."""

    async def answers():
        datasette = datasette_of(**databases)
        await datasette.invoke_startup()
        try:
            found = [await datasette.client.get(path) for path in paths]
        finally:
            for database in datasette.databases.values():
                database.close()
        return [(answer.status_code, answer.text) for answer in found]

    return asyncio.run(answers())


def test_browsing_a_lazy_clone_fetches_the_rows_on_the_screen(people, elsewhere):
    engine = elsewhere()
    before = engine.store.counters.snapshot()
    lazy = {"tag": "people", "remote": "people"}
    answers = ask({"shop": lazy}, "/", "/shop", "/shop/people", "/shop/people/12345")
    asked = engine.store.counters.snapshot() - before
    assert [status for status, _ in answers] == [200] * 4
    assert "person 100<" in answers[2][1]
    assert "person 12345" in answers[3][1]
    audit = engine.audit("people")
    assert audit.total > 1000
    assert audit.present <= 64
    # A clone of one commit, the table page, the row page.
    assert asked.requests <= 6
    assert asked.bytes_received < 150_000


def test_what_a_user_asks_for_is_answered_on_a_lazy_clone(people, elsewhere):
    engine = elsewhere()
    lazy = {"tag": "people", "remote": "people"}
    paths = [
        "/shop.json?sql=select+count(*)+from+people&_shape=arrays",
        "/shop/people.json?_facet=name&_facet_size=3&name__startswith=person+1999",
    ]
    (_, count), (_, facets) = ask({"shop": lazy}, *paths)
    assert json.loads(count)["rows"] == [[ROWS]]
    found = json.loads(facets)["facet_results"]["name"]["results"]
    assert len(found) == 3
    assert engine.audit("people").checksum  # The count has fetched every page.


def test_rows_are_counted_and_facets_suggested_once_all_pages_are_cached(people, elsewhere):
    engine = elsewhere()
    engine.clone("people", "people")
    path = "/shop/people.json?id__lte=50"
    ((_, before),) = ask({"shop": "people"}, path)
    assert json.loads(before)["filtered_table_rows_count"] is None
    engine.hydrate("people")
    ((_, after),) = ask({"shop": "people"}, path)
    assert json.loads(after)["filtered_table_rows_count"] == 50


def test_a_volume_with_local_commits_only_is_counted_and_its_facets_are_suggested(engine):
    connection = graft_vfs.connect("pets")
    connection.execute("CREATE TABLE pets(name, kind)")
    connection.executemany(
        "INSERT INTO pets VALUES(?, ?)", [(n, ("cat", "dog")[n % 2]) for n in range(20)]
    )
    ((_, body),) = ask({"pets": "pets"}, "/pets/pets.json")
    answer = json.loads(body)
    assert answer["filtered_table_rows_count"] == 20
    assert [facet["name"] for facet in answer["suggested_facets"]] == ["kind"]


def test_two_states_of_a_volume_are_two_databases(engine):
    connection = graft_vfs.connect("pets")
    connection.execute("CREATE TABLE pets(name)")
    for name in ("Rex", "Tom"):
        connection.execute("INSERT INTO pets VALUES(?)", (name,))
        engine.push("pets")
    connection.execute("CREATE INDEX pets_name ON pets(name)")
    databases = {"now": "pets", "then": {"tag": "pets", "lsn": 1}}
    paths = ["/now/pets.json?_shape=array", "/then/pets.json?_shape=array", "/-/databases.json"]
    (_, now), (_, then), (_, listed) = ask(databases, *paths)
    assert [row["name"] for row in json.loads(now)] == ["Rex", "Tom"]
    assert [row["name"] for row in json.loads(then)] == ["Rex"]
    sizes = {each["name"]: each["size"] for each in json.loads(listed)}
    assert (sizes["then"], sizes["now"]) == (2 * 4096, 3 * 4096)


def test_a_plugin_of_datasette_may_write_and_a_visitor_may_not(engine):
    graft_vfs.connect("pets").execute("CREATE TABLE pets(name)")

    async def write():
        spec = {"tag": "pets", "remote": "pets"}  # With which the first connection may clone.
        datasette = datasette_of(pets=spec)
        await datasette.invoke_startup()
        database = datasette.get_database("pets")
        await database.execute_write("INSERT INTO pets VALUES('Rex')")
        rows = (await database.execute("SELECT name FROM pets")).rows
        with pytest.raises(Exception, match="readonly"):
            await database.execute("INSERT INTO pets VALUES('Tom')")
        database.close()
        return [tuple(row) for row in rows]

    assert asyncio.run(write()) == [("Rex",)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mian", "there is no tag 'mian'; this machine has no tag yet"),
        ({"tag": "main", "remote": "nothing"}, "nothing"),
        ({"tag": "main", "lsn": "x"}, "no tag 'main'"),
        ({"lsn": 3}, "is no database; write a tag"),
        ({"tag": "main", "mode": "rw"}, "is no database; write a tag"),
        (7, "is no database; write a tag"),
        ("", "is not a tag"),
    ],
)
def test_a_database_that_cannot_be_opened_is_reported_at_startup(engine, spec, words):
    with pytest.raises(click.ClickException, match=words) as caught:
        ask({"shop": spec})
    assert str(caught.value).startswith("plugins.graft-vfs.databases.shop: ")
    assert list(engine.tags()) == []


def test_the_command_reports_it_in_one_line(run, tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps(configuration(shop="mian")))
    done = run("-m", "datasette", "-m", "metadata.json", "--get", "/.json", code=1)
    assert "Error: plugins.graft-vfs.databases.shop: " in done.stderr
    assert "Traceback" not in done.stderr


# How it looks -----------------------------------------------------------------------------------


@pytest.fixture
def server(people, environment, tmp_path):
    """Serve a lazy clone as the command does, on a free port; return its address."""
    spec = {"tag": "people", "remote": "people"}
    (tmp_path / "metadata.json").write_text(json.dumps(configuration(people=spec)))
    environment["GRAFT_DATA_DIR"] = str(tmp_path / "elsewhere")
    process = subprocess.Popen(
        [sys.executable, "-m", "datasette", "-m", "metadata.json", "-p", "0"],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            for line in process.stderr:
                if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                    yield found[1]
                    break
            else:
                pytest.fail("datasette did not start")
        finally:
            process.terminate()


def colours(picture):
    """Return width, height, and how many colours a PNG of 8 bits a channel has."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, data = 8, b""
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        kind, body = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
        elif kind == b"IDAT":
            data += body
    assert depth == 8
    channels = {2: 3, 6: 4}[colour]
    raw = zlib.decompress(data)
    found, above = set(), bytes(width * channels)
    for row in range(height):
        start = row * (width * channels + 1)
        line = bytearray(raw[start + 1 : start + 1 + width * channels])
        _unfilter(raw[start], line, above, channels)
        found.update(bytes(line[pixel : pixel + 3]) for pixel in range(0, len(line), channels))
        above = bytes(line)
    return width, height, len(found)


def _unfilter(kind, line, above, channels):
    for n in range(len(line)):
        left = line[n - channels] if n >= channels else 0
        corner = above[n - channels] if n >= channels else 0
        guess = left + above[n] - corner
        paeth = min((left, above[n], corner), key=lambda value: abs(guess - value))
        line[n] = (line[n] + (0, left, above[n], (left + above[n]) // 2, paeth)[kind]) & 255


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_browser_shows_the_table(server, tmp_path):
    picture = tmp_path / "table.png"

    def browse(*arguments):
        profile = tmp_path / f"profile-{len(list(tmp_path.iterdir()))}"
        switches = [*SWITCHES, f"--user-data-dir={profile}", *arguments]
        return subprocess.run(
            [CHROMIUM, *switches, f"{server}/people/people?_size=10"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    document = browse("--dump-dom")
    assert ">person 1</td>" in document
    assert ">person 10</td>" in document
    browse(f"--screenshot={picture}", "--window-size=900,700")
    width, height, shades = colours(picture.read_bytes())
    assert (width, height) == (900, 700)
    assert shades > 50  # Letters with smooth edges, links, borders; an empty page has one.
