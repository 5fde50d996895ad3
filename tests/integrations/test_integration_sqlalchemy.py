"""SQLAlchemy opens volumes as `graft://tag`: URLs, transactions, ORM, reflection, migrations."""

from __future__ import annotations

import threading

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import orm

import graft_vfs
from graft_vfs.integrations import sqlalchemy as dialect


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)
    books: orm.Mapped[list[Book]] = orm.relationship(back_populates="author", order_by="Book.title")


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


@pytest.fixture
def create_engine(engine):
    """Make engines that are disposed of at the end."""
    made = []

    def create(url="graft://main", **options):
        made.append(sa.create_engine(url, **options))
        return made[-1]

    yield create
    for each in made:
        each.dispose()


@pytest.fixture
def main(create_engine):
    """Return an engine of a volume with one table."""
    made = create_engine()
    with made.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t(x)"))
    return made


def values(connection, table="t"):
    return list(connection.scalars(sa.text(f"SELECT x FROM {table} ORDER BY x")))


def insert(connection, value):
    connection.execute(sa.text("INSERT INTO t VALUES(:x)"), {"x": value})


def in_other(engine, value):
    """Commit a row on another connection, while one is in use."""
    with engine.begin() as other:
        insert(other, value)


# URLs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "tag"),
    [
        ("graft://main", "main"),
        ("graft:///main", "main"),
        ("graft://srv/app.db", "srv/app.db"),
        ("graft:////srv/app.db", "/srv/app.db"),
        ("graft://50%25%20off", "50% off"),
        ("graft:///a%3Fb%2541", "a?b%41"),
        ("graft://Tag", "Tag"),
        ("graft://caf%C3%A9", "café"),
    ],
)
def test_a_url_names_a_tag(create_engine, engine, url, tag):
    with create_engine(url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE t(x)"))
    assert [report.tag for report in engine.tags()] == [tag]


@pytest.mark.parametrize("tag", ["main", "/srv/a b.db", "100%", "a%41?b=c&d", "u:p@h:1/x", "#1"])
def test_the_url_of_any_tag_reads_back(create_engine, engine, tag):
    for url in (dialect.url(tag), str(dialect.url(tag))):
        with create_engine(url).begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS t(x)"))
    assert [report.tag for report in engine.tags()] == [tag]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("graft://", "names no tag"),
        ("graft://me:secret@main", "no user, password or port"),
        ("graft://main:5432", "no user, password or port"),
        ("graft://main?lns=3", "no parameter 'lns'"),
        ("graft://main?mode=memory", "mode=memory"),
        ("graft:///:memory:", "no volume"),
        ("graft://main?lsn=1&lsn=2", "lsn is given twice"),
        ("graft://main?timeout=soon", "timeout"),
        ("graft://main?begin=soon", "begin=soon is no way to begin"),
        ("graft://main?begin=DEFERRED&begin=IMMEDIATE", "begin is given twice"),
        ("graft://main?check_same_thread=1", "no parameter 'check_same_thread'"),
        (f"graft:///{'x' * 513}", "is not a tag"),
    ],
)
def test_a_url_that_cannot_be_is_refused_before_anything_is_opened(
    create_engine, engine, url, words
):
    with pytest.raises(sa.exc.ArgumentError, match=words) as caught:
        create_engine(url).connect()
    assert "secret" not in str(caught.value)
    assert list(engine.tags()) == []


def test_the_cause_of_a_failed_open_is_in_the_error(create_engine):
    with pytest.raises(
        sa.exc.OperationalError, match=r"no tag 'mian'; this machine has no tag yet"
    ) as caught:
        create_engine("graft://mian?mode=rw").connect()
    assert caught.value.orig.sqlite_errorname == "SQLITE_CANTOPEN"


def test_a_url_reads_the_past(create_engine, main, engine):
    for value in (1, 2):
        in_other(main, value)
        engine.push("main")
    with create_engine("graft://main?lsn=1").connect() as then:
        assert values(then) == [1]
        with pytest.raises(sa.exc.OperationalError, match="readonly"):
            insert(then, 3)
    with create_engine(dialect.url("main", as_of="0 seconds ago")).connect() as newest:
        assert values(newest) == [1, 2]
    with create_engine("graft://main?mode=ro").connect() as reader:
        assert values(reader) == [1, 2]


def test_a_url_clones_an_absent_database(create_engine, main, engine, elsewhere):
    in_other(main, 1)
    engine.push("main")
    main.dispose()
    elsewhere()
    with create_engine("graft://copy?remote=main").connect() as clone:
        assert values(clone) == [1]


# Transactions -----------------------------------------------------------------------------------


@pytest.fixture
def serialisable(create_engine, main):
    """Return an engine whose transactions are SQLite's from their first statement on."""
    return create_engine("graft://main?begin=DEFERRED")


def test_by_default_a_reader_that_writes_later_does_not_block_others(main):
    in_other(main, 1)
    with main.connect() as connection:
        assert values(connection) == [1]
        in_other(main, 2)
        insert(connection, 3)
        connection.commit()
        assert values(connection) == [1, 2, 3]


def test_by_default_a_program_begins_its_transactions_itself(main):
    with main.connect() as connection:
        connection.execute(sa.text("BEGIN IMMEDIATE"))
        insert(connection, 1)
        connection.commit()
    with main.connect() as connection:
        assert values(connection) == [1]


def test_a_transaction_begins_with_its_first_select(serialisable):
    in_other(serialisable, 1)
    with serialisable.connect() as reader:
        assert values(reader) == [1]
        in_other(serialisable, 2)
        assert values(reader) == [1]
        reader.commit()
        assert values(reader) == [1, 2]


def test_ddl_is_rolled_back(serialisable):
    with serialisable.connect() as connection:
        connection.execute(sa.text("CREATE TABLE gone(x)"))
        connection.rollback()
        assert sa.inspect(connection).get_table_names() == ["t"]


def test_a_released_savepoint_is_part_of_its_transaction(serialisable):
    with serialisable.connect() as connection:
        with connection.begin_nested():
            insert(connection, 1)
        connection.rollback()
        assert values(connection) == []


def test_a_savepoint_is_rolled_back_alone(main):
    with main.connect() as connection:
        insert(connection, 1)
        savepoint = connection.begin_nested()
        insert(connection, 2)
        savepoint.rollback()
        insert(connection, 3)
        connection.commit()
        assert values(connection) == [1, 3]


def test_autocommit_begins_no_transaction_and_ends_with_the_connection(main):
    with main.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        insert(connection, 1)
        assert not connection.connection.dbapi_connection.in_transaction
        with main.connect() as other:
            assert values(other) == [1]
        connection.rollback()
    with main.connect() as connection:  # The same one, from the pool.
        insert(connection, 2)
        connection.rollback()
        assert values(connection) == [1]


def test_begin_immediate_waits_for_the_writer_at_its_beginning(create_engine, main):
    immediate = create_engine("graft://main?begin=immediate&timeout=0.05")
    with immediate.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        insert(connection, 1)
    with immediate.connect() as connection:  # The same one again, no longer in AUTOCOMMIT.
        assert values(connection) == [1]
        with (
            immediate.connect() as second,
            pytest.raises(sa.exc.OperationalError, match="locked"),
        ):
            values(second)
        insert(connection, 2)
        connection.commit()


def test_isolation_level_immediate_waits_for_the_writer_at_the_first_write(create_engine, main):
    immediate = create_engine("graft://main?isolation_level=IMMEDIATE&timeout=0.05")
    with immediate.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        insert(connection, 1)
    with immediate.connect() as connection, immediate.connect() as second:
        assert connection.connection.dbapi_connection.isolation_level == "IMMEDIATE"
        insert(connection, 2)
        assert values(second) == [1]
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            insert(second, 3)
        connection.commit()
        insert(second, 3)
        second.commit()
        assert values(connection) == [1, 2, 3]


def test_a_stale_transaction_that_writes_fails_by_name(serialisable):
    with serialisable.connect() as connection:
        values(connection)
        in_other(serialisable, 1)
        with pytest.raises(sa.exc.OperationalError) as caught:
            insert(connection, 2)
    assert caught.value.orig.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"


def test_connections_keep_their_journal_open(main):
    with main.connect() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "truncate"


def test_threads_write_through_the_pool(create_engine, main):
    shared = create_engine("graft://main?isolation_level=IMMEDIATE&timeout=60")
    assert isinstance(shared.pool, sa.pool.QueuePool)

    def work(number):
        for n in range(10):
            with shared.begin() as connection:
                insert(connection, number * 10 + n)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with shared.connect() as connection:
        assert values(connection) == list(range(40))
        assert connection.scalar(sa.text("PRAGMA integrity_check")) == "ok"


# What is built on them --------------------------------------------------------------------------


def test_objects_are_stored_pushed_and_read_on_another_machine(create_engine, engine, elsewhere):
    here = create_engine()
    Base.metadata.create_all(here)
    with orm.Session(here) as session:
        author = Author(name="Ann", books=[Book(title="First"), Book(title="Second")])
        session.add(author)
        session.commit()
        author.books[0].title = "Revised"
        session.commit()
        session.add(Author(name="Ann"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
    engine.push("main")
    here.dispose()
    elsewhere()
    with orm.Session(create_engine("graft://main?remote=main")) as session:
        found = session.scalars(sa.select(Author).options(orm.selectinload(Author.books))).one()
        assert [book.title for book in found.books] == ["Revised", "Second"]


def test_reflection_finds_what_was_declared(create_engine):
    made = create_engine()
    Base.metadata.create_all(made)
    reflected = sa.MetaData()
    reflected.reflect(made)
    assert sorted(reflected.tables) == ["author", "book"]
    (key,) = reflected.tables["book"].foreign_keys
    assert key.column is reflected.tables["author"].c.id
    (unique,) = sa.inspect(made).get_unique_constraints("author")
    assert unique["column_names"] == ["name"]


ENVIRONMENT = """
import sqlalchemy as sa
from alembic import context

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    # Alembic believes of SQLite that it has no DDL in transactions.
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
MIGRATIONS = {
    "one": """
down_revision = None

def upgrade():
    key = sa.Column("id", sa.Integer, primary_key=True)
    op.create_table("author", key, sa.Column("name", sa.Text))
    op.execute("INSERT INTO author(name) VALUES('Ann')")
""",
    "two": """
down_revision = "one"

def upgrade():
    with op.batch_alter_table("author") as table:
        table.add_column(sa.Column("born", sa.Integer, server_default="1900"))
        table.alter_column("name", new_column_name="full_name")
""",
    "three": """
down_revision = "two"

def upgrade():
    op.drop_table("author")
    op.execute("This is no SQL")
""",
}


def test_migrations_of_alembic_do_all_or_nothing(create_engine, tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    for revision, body in MIGRATIONS.items():
        text = f"from alembic import op\nimport sqlalchemy as sa\nrevision = {revision!r}\n{body}"
        (tmp_path / "versions" / f"{revision}.py").write_text(text)
    settings = alembic.config.Config()
    settings.set_main_option("script_location", str(tmp_path))
    settings.set_main_option("path_separator", "os")
    settings.set_main_option("sqlalchemy.url", "graft://main?begin=DEFERRED")
    alembic.command.upgrade(settings, "two")
    with pytest.raises(sa.exc.OperationalError, match="syntax error"):
        alembic.command.upgrade(settings, "three")
    with create_engine().connect() as connection:
        rows = connection.execute(sa.text("SELECT full_name, born FROM author"))
        assert rows.all() == [("Ann", 1900)]
        assert MigrationContext.configure(connection).get_current_revision() == "two"


def test_alembic_sees_no_difference_between_declaration_and_volume(create_engine):
    with create_engine().begin() as connection:
        Base.metadata.create_all(connection)
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_forked_process_continues_with_new_connections(run, engine):
    program = """
import os
import sqlalchemy as sa
shared = sa.create_engine("graft://main")
with shared.begin() as connection:
    connection.execute(sa.text("CREATE TABLE t(x)"))
child = os.fork()
if not child:
    shared.dispose(close=False)
    with shared.begin() as connection:
        connection.execute(sa.text("INSERT INTO t VALUES('child')"))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with shared.begin() as connection:
    print(connection.scalar(sa.text("SELECT x FROM t")))
shared.dispose()
"""
    assert run("-c", program).stdout == "child\n"


def test_programs_are_imported_by_nothing_but_themselves(run):
    program = """
import sys
import graft_vfs, graft_vfs.cli
graft_vfs.enable_sqlite3()
print(sorted({"sqlalchemy", "django", "datasette", "sqlite_utils", "pandas"} & set(sys.modules)))
"""
    assert run("-c", program).stdout == "[]\n"


def test_the_engine_is_registered_only_when_a_connection_is_opened(create_engine):
    graft_vfs.unregister()
    create_engine("graft://main?lsn=1")  # No such log: nothing may be opened yet.
