"""A program that opens an engine and connections, and forks workers, as preloading servers do.

Each worker opens an engine and connections of its own and writes; what it inherited is refused with
a named error, and the parent goes on. What it may find at the fork: a catalog that its parent has
open, locks that threads of its parent hold, a parent that ends first.
"""

from __future__ import annotations

import pytest

from tests.support.children import child
from tests.support.sql import is_sound, rows, value

WORKERS = 4
ROWS = 25

PREFORK = """
import os, threading
import apsw

inherited = graft_vfs.connect("main")
inherited.set_busy_timeout(60_000)


def fork(work):
    '''Run work in a child; returns its id. What it raises ends the child with code 1.'''
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid


def end(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def write(connection, name, count):
    for n in range(count):
        connection.execute("INSERT INTO t VALUES(?, ?)", (name, n))


def serve(name, count):
    '''What a worker does: an engine and connections of its own, and new tags.'''
    try:
        inherited.execute("SELECT * FROM t")
    except apsw.Error as error:
        assert "belongs to the parent process; open" in str(error), error
    else:
        raise AssertionError("the inherited connection was not refused")
    engine = graft_vfs.register(config)
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(60_000)
    write(connection, name, count)
    own = graft_vfs.connect(name)
    own.execute("CREATE TABLE mine(x); INSERT INTO mine VALUES(7)")
    own.close()
    connection.close()
    graft_vfs.unregister()
"""


@pytest.fixture
def table(connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(name, n)")
    return connection


def served(engine, table, *, names) -> None:
    """Every row of every process is there once, and so is the tag of each worker."""
    found = rows(table, "SELECT name, count(*), count(DISTINCT n) FROM t GROUP BY 1 ORDER BY 1")
    assert found == [(name, ROWS, ROWS) for name in sorted(names)]
    assert is_sound(table)
    tags = {report.tag for report in engine.tags()}
    assert tags == {"main", *(name for name in names if name.startswith("worker"))}
    for tag in tags - {"main"}:
        engine.open(tag)


def test_workers_write_concurrently_with_their_parent(config, engine, table):
    program = f"""
{PREFORK}
workers = [
    fork(lambda name=f"worker-{{number}}": serve(name, {ROWS})) for number in range({WORKERS})
]
write(inherited, "parent", {ROWS})
for pid in workers:
    end(pid)
"""
    with child(config.data_dir, program) as server:
        server.end()
    served(engine, table, names=["parent", *(f"worker-{n}" for n in range(WORKERS))])


def test_workers_of_multiprocessing_write_while_threads_of_their_parent_do(config, engine, table):
    program = f"""
{PREFORK}
import multiprocessing

# Nobody can fork while another thread is inside SQLite: the child inherits the mutexes of SQLite's
# allocator as they are at that instant, and would wait for them for ever.
outside_sqlite = threading.Lock()

def busy(name):
    with outside_sqlite:
        connection = graft_vfs.connect("main")
        connection.set_busy_timeout(60_000)
    for n in range({ROWS}):
        with outside_sqlite:
            connection.execute("INSERT INTO t VALUES(?, ?)", (name, n))
    with outside_sqlite:
        connection.close()

threads = [threading.Thread(target=busy, args=(f"thread-{{n}}",)) for n in range(2)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
workers = [
    context.Process(target=serve, args=(f"worker-{{number}}", {ROWS}))
    for number in range({WORKERS})
]
for worker in workers:
    with outside_sqlite:
        worker.start()
for worker in workers:
    worker.join()
    assert worker.exitcode == 0
for thread in threads:
    thread.join()
write(inherited, "parent", {ROWS})
"""
    with child(config.data_dir, program) as server:
        server.end()
    names = ["parent", "thread-0", "thread-1", *(f"worker-{n}" for n in range(WORKERS))]
    served(engine, table, names=names)


def test_writes_of_a_worker_that_outlives_its_parent_are_kept(config, engine, table):
    """SQLite's own file locks belong to a process: a catalog must not be carried across a fork."""
    engine.catalog.close()  # The parent is the last that has the catalog open, and so cleans up.
    program = f"""
{PREFORK}
ours, theirs = os.pipe(), os.pipe()

def outlive():
    engine = graft_vfs.register(config)
    engine.new("worker-before")
    os.write(theirs[1], b"x")
    os.close(ours[1])
    os.read(ours[0], 1)  # Ends when the parent does.
    engine.new("worker-after")
    graft_vfs.unregister()
    say("done")
    os._exit(0)

fork(outlive)
os.read(theirs[0], 1)
inherited.close()
graft_vfs.unregister()
os._exit(0)
"""
    with child(config.data_dir, program) as server:
        assert server.end() == ["done"]
    with child(config.data_dir, "for report in engine.tags(): say(report.tag)") as look:
        assert look.end() == ["main", "worker-after", "worker-before"]


def test_a_lock_held_by_a_thread_at_the_fork_is_free_after_its_release(
    config, engine, table, tmp_path, plain
):
    source = plain("source.db")
    source.execute("CREATE TABLE s(x); INSERT INTO s VALUES(zeroblob(2000000))")
    source.close()
    program = f"""
{PREFORK}
inside, forked, release = threading.Event(), threading.Event(), os.pipe()

def progress(*_):
    inside.set()
    assert forked.wait(60)

def importing():
    engine.import_(Path({str(tmp_path / "plain.db")!r}).with_name("source.db"), "imported",
                   progress=progress)

thread = threading.Thread(target=importing)
thread.start()
assert inside.wait(60)

def wait():
    os.close(release[1])
    os.read(release[0], 1)

pid = fork(wait)
forked.set()
thread.join()
connection = graft_vfs.connect("imported")
connection.execute("INSERT INTO s VALUES(1)")  # Not busy, although the child lives.
os.write(release[1], b"x")
end(pid)
"""
    with child(config.data_dir, program) as server:
        server.end()
    assert value(table, "SELECT count(*) FROM t") == 0


def test_a_worker_opens_its_engine_although_a_thread_was_opening_one_at_the_fork(
    config, engine, table
):
    program = f"""
{PREFORK}
from graft_vfs.vfs import registry

inside, forked = threading.Event(), threading.Event()

class SlowConfig:
    def __getattr__(self, name):
        inside.set()
        assert forked.wait(60)
        return getattr(config, name)

thread = threading.Thread(target=graft_vfs.register, args=(SlowConfig(),))
thread.start()
assert inside.wait(60)
pid = fork(lambda: serve("worker-0", {ROWS}))
end(pid)
forked.set()
thread.join()
"""
    with child(config.data_dir, program) as server:
        server.end()
    served(engine, table, names=["worker-0"])


def test_a_worker_that_only_connects_gets_an_engine_of_its_own(config, engine, table):
    program = f"""
{PREFORK}
def serve(name):
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(60_000)
    write(connection, name, {ROWS})
    assert graft_vfs.register() is not engine
    assert graft_vfs.register().config == config

workers = [fork(lambda name=f"n{{number}}": serve(name)) for number in range({WORKERS})]
write(inherited, "parent", {ROWS})
for pid in workers:
    end(pid)
assert graft_vfs.register() is engine
"""
    with child(config.data_dir, program) as server:
        server.end()
    served(engine, table, names=["parent", *(f"n{n}" for n in range(WORKERS))])
