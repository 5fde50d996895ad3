"""Django's `graft_vfs.django`: a project of its own migrates, tests, inspects and opens a shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graft_vfs
from tests.support.sql import is_sound

_PROJECT = Path(__file__).with_name("library")


@pytest.fixture
def manage(run, environment):
    """Run a command of the project's manage.py."""
    environment["PYTHONPATH"] += f":{_PROJECT}"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def manage(*arguments, code=0, text="", **variables):
        environment.update(variables)
        return run(_PROJECT / "manage.py", *arguments, code=code, text=text)

    return manage


def shell(manage, program, *, migrate=True):
    """Run a program with the project's models, on the tables of its migrations."""
    preamble = "from django.db import connection, connections, transaction, OperationalError\n"
    if migrate:
        preamble += "from django.core.management import call_command\n"
        preamble += "call_command('migrate', verbosity=0)\n"
    return manage("shell", "-v0", "-c", preamble + program).stdout


def tags(engine):
    return {report.tag for report in engine.tags()}


def test_migrations_run_forwards_and_backwards(manage, engine):
    manage("makemigrations", "--check", "--dry-run")
    manage("migrate", "-v0")
    manage("migrate", "-v0", "library", "zero")
    manage("migrate", "-v0")
    assert "[X] 0002_more" in manage("showmigrations", "library").stdout
    connection = graft_vfs.connect("library")
    assert is_sound(connection)
    assert connection.execute("SELECT count(*) FROM library_author").get == 0


@pytest.mark.parametrize("arguments", [(), ("--parallel", "2")], ids=["one", "parallel"])
def test_the_tests_of_a_project_leave_nothing_behind(manage, engine, tmp_path, arguments):
    (tmp_path / "temporary").mkdir()
    done = manage("test", "library", *arguments, TMPDIR=str(tmp_path / "temporary"))
    assert "Ran 5 tests" in done.stderr
    assert "OK" in done.stderr
    assert "Warning" not in done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    assert tags(engine) == set()


def test_kept_test_databases_are_used_again(manage, engine):
    for _ in range(2):
        assert "Ran 5 tests" in manage("test", "--keepdb", "library").stderr
        volumes = {report.tag: report.volume for report in engine.tags()}
    assert set(volumes) == {"test_library", "test_archive"}
    assert len(list(engine.volumes())) == 2


def test_a_failed_block_leaves_no_trace(manage, engine):
    printed = shell(
        manage,
        """
try:
    with transaction.atomic():
        Author.objects.create(name="Ann")
        with transaction.atomic():
            Author.objects.create(name="Bob")
        raise ValueError
except ValueError:
    print(Author.objects.count())
with connection.cursor() as cursor:
    cursor.execute("PRAGMA journal_mode")
    print(cursor.fetchone()[0])
""",
    )
    assert printed == "0\ntruncate\n"


def test_the_past_is_another_database_and_read_only(manage, engine):
    shell(manage, "Author.objects.create(name='Ann')")
    engine.push("library")
    shell(manage, "Author.objects.all().delete()", migrate=False)
    printed = shell(
        manage,
        """
from django.conf import settings
then = {**connections.databases["default"], "OPTIONS": {"lsn": 1}}
connections.databases["then"] = then
print(Author.objects.count(), Author.objects.using("then").get().name)
try:
    Author.objects.using("then").create(name="Bob")
except OperationalError as error:
    print(error)
""",
        migrate=False,
    )
    assert printed == "0 Ann\nattempt to write a readonly database\n"


def test_inspectdb_finds_the_models(manage, engine):
    manage("migrate", "-v0")
    printed = manage("inspectdb", "library_book").stdout
    assert "author = models.ForeignKey('LibraryAuthor', models.DO_NOTHING)" in printed
    assert "extra = models.JSONField()" in printed


def test_data_is_dumped_and_loaded(manage, engine, tmp_path):
    shell(manage, "Book.objects.create(author=Author.objects.create(name='Ann'), title='First')")
    manage("dumpdata", "library", "-o", str(tmp_path / "data.json"))
    assert len(json.loads((tmp_path / "data.json").read_text())) == 2
    manage("flush", "--no-input", "-v0")
    manage("loaddata", "-v0", str(tmp_path / "data.json"))
    assert shell(manage, "print(Book.objects.get().author.name)") == "Ann\n"


def test_manage_py_runs_the_command_line(manage, engine):
    shell(manage, "Author.objects.create(name='Ann')")
    assert manage("graft", "push", "@default").stdout.startswith("Pushed ")
    (status,) = [json.loads(manage("graft", "status", "@default", "--json").stdout)]
    assert (status["tag"], status["ahead"]) == ("library", 0)
    assert "there is no tag 'lib'" in manage("graft", "status", "lib", code=2).stderr


def test_manage_py_graft_lists_the_databases_of_the_settings(manage, engine):
    printed = manage("graft").stdout
    assert "Usage: manage.py graft" in printed
    assert "@default  tag library" in printed
    assert "@archive  tag archive" in printed


def test_the_command_line_can_be_called_from_a_program(manage, engine):
    program = "call_command('graft', 'log', '@default'); print('done')"
    assert shell(manage, program).splitlines()[-1] == "done"


def test_dbshell_opens_the_volume(manage, engine):
    manage("migrate", "-v0")
    assert "library_book" in manage("dbshell", "--", ".tables").stdout
    text = "INSERT INTO library_author(name) VALUES('Ann');\nSELECT name FROM library_author;\n"
    assert manage("dbshell", text=text).stdout == "Ann\n"
    done = manage("dbshell", "--", ".mode json", "SELECT name FROM library_author")
    assert json.loads(done.stdout) == [{"name": "Ann"}]


def test_dbshell_explains_an_error(manage, engine):
    assert "option of sqlite3" in manage("dbshell", "--", "-json", code=1).stderr
    assert "no such table: absent" in manage("dbshell", "--", "SELECT * FROM absent", code=1).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{'lsn': 7}", "the remote has no log"),
        ("{'mode': 'rw'}", "there is no tag 'library'; this machine has no tag yet"),
        ("{'mode': 'memory'}", "mode=memory is no mode"),
        ("{'remote': 'nothing'}", "nothing"),
    ],
)
def test_a_database_that_cannot_be_opened_says_why(manage, engine, options, words):
    program = f"""
connections.databases["default"]["OPTIONS"] = {options}
try:
    Author.objects.count()
except Exception as error:
    print(type(error).__name__, error)
"""
    printed = shell(manage, program, migrate=False)
    assert words in printed
    assert printed.startswith(("OperationalError", "ImproperlyConfigured"))
    assert tags(engine) <= {"library"}


def test_a_forked_worker_opens_connections_of_its_own(manage, engine):
    printed = shell(
        manage,
        """
import os
Author.objects.create(name="parent")
child = os.fork()
if not child:
    connections.close_all()
    Author.objects.create(name="child")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(*Author.objects.order_by("id").values_list("name", flat=True))
""",
    )
    assert printed == "parent child\n"
