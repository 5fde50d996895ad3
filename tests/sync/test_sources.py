"""Cloning from a URL: the volume remembers its remote, beside others in one data directory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.engine.remotes import Opener
from graft_vfs.errors import (
    AlreadyExistsError,
    HistoryMismatchError,
    InvalidTagError,
    NoRemoteError,
    NotFoundError,
    StoreDeniedError,
    UsageError,
)
from graft_vfs.local.catalog import descriptor
from graft_vfs.store.urls import parse
from graft_vfs.sync import sources
from tests.support.replicas import Replica, rows

NO_REMOTE = RemoteConfig()


def published(directory: Path, *tags: str, at: str = "remote") -> Path:
    """Push databases of these names to a directory; returns the directory."""
    root = directory / at
    with Replica(directory / f"author of {at}", RemoteConfig(type="fs", root=str(root))) as author:
        for tag in tags:
            author.connect(tag.replace("/", "%2F")).execute(
                f"CREATE TABLE t(x); INSERT INTO t VALUES('{tag} on {at}')"
            )
            author.engine.push(tag)
    return root


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """Make machines, by default without a configured remote; a name made again is a restart."""
    made: dict[str, Replica] = {}

    def make(name: str = "ours", remote: RemoteConfig = NO_REMOTE, **arguments: object) -> Replica:
        if name in made:
            made.pop(name).close()
        made[name] = Replica(tmp_path / name, remote, **arguments)
        return made[name]

    yield make
    for machine in made.values():
        machine.close()


def requests(machine: Replica, work: Callable[[], object]) -> int:
    before = machine.counts()
    work()
    return (machine.counts() - before).requests


@pytest.mark.parametrize("form", ["{}/main", "file://{}/main", "{}/", "{}"])
def test_a_clone_of_a_directory_remembers_it(machines, tmp_path, form) -> None:
    root = published(tmp_path, "main")
    ours = machines()
    source = ours.engine.source(form.format(root))
    assert (source.name, source.url) == ("main", f"file://{root}")
    ours.engine.clone(source, "copy")
    assert rows(ours.connect("copy")) == [("main on remote",)]
    # Another process, which is told nothing.
    ours = machines()
    ours.connect("copy").execute("INSERT INTO t VALUES('ours')")
    assert ours.engine.push("copy").lsn == 2
    theirs = machines("theirs", RemoteConfig(type="fs", root=str(root)))
    theirs.engine.clone("main", "main")
    theirs.connect("main").execute("INSERT INTO t VALUES('theirs')")
    theirs.engine.push("main")
    ours = machines()
    assert ours.engine.pull("copy").lsn == 3
    assert len(rows(ours.connect("copy"))) == 3
    assert ours.engine.named_remotes()[0].name == "remote"


def test_a_clone_by_url_costs_what_one_by_ref_does(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    ours = machines()
    assert requests(ours, lambda: ours.engine.clone(f"{root}/main", "copy")) == 3
    theirs = machines("theirs", RemoteConfig(type="fs", root=str(root)))
    assert requests(theirs, lambda: theirs.engine.clone("main", "copy")) == 3
    ours = machines()
    assert requests(ours, lambda: ours.engine.pull("copy")) == 2  # The first proves the remote.
    assert requests(ours, lambda: ours.engine.pull("copy")) == 1


def test_several_remotes_in_one_data_directory(machines, tmp_path) -> None:
    first, second = published(tmp_path, "main"), published(tmp_path, "main", at="second")
    third = RemoteConfig(type="fs", root=str(tmp_path / "third"))
    ours = machines("ours", third)
    ours.engine.clone(f"{first}/main", "one")
    ours.engine.clone(f"{second}/main", "two")
    ours.connect("three").execute("CREATE TABLE t(x); INSERT INTO t VALUES('three')")
    for tag in ("one", "two", "three"):
        ours.connect(tag).execute("INSERT INTO t VALUES('more')")
        assert ours.engine.push(tag).claimed
    assert [each.name for each in ours.engine.named_remotes()] == ["remote", "second"]
    assert [name for name, _ in ours.engine.refs()] == ["three"]
    assert [name for name, _ in ours.engine.refs("second")] == ["main"]
    for root, tag, content in (
        (first, "main", "main on remote"),
        (second, "main", "main on second"),
        (tmp_path / "third", "three", "three"),
    ):
        machine = machines("reader", NO_REMOTE)
        machine.engine.clone(f"{root}/{tag}", str(root))
        assert sorted(rows(machine.connect(str(root)))) == sorted([(content,), ("more",)])
    assert ours.engine.fsck().is_sound


def test_a_fork_and_its_parents_are_on_one_remote(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    ours = machines()
    ours.engine.clone(f"{root}/main", "main")
    ours.engine.fork("main", new_tag="child")
    ours.connect("child").execute("INSERT INTO t VALUES('child')")
    ours.engine.push("child")
    ours.engine.fork("child", new_tag="grandchild")
    ours.connect("grandchild").execute("INSERT INTO t VALUES('grandchild')")
    ours.engine.push("grandchild")
    theirs = machines("theirs", RemoteConfig(type="fs", root=str(tmp_path / "elsewhere")))
    theirs.engine.clone(f"{root}/grandchild", "main")
    assert len(rows(theirs.connect("main"))) == 3
    (remote,) = theirs.engine.named_remotes()
    assert remote.logs == 3


def test_open_with_a_url_makes_a_clone_once(machines, tmp_path) -> None:
    root = published(tmp_path, "a/b", "other")
    url = f"file://{root}/a%2Fb"
    ours = machines()
    assert rows(ours.connect("copy", remote=url.replace("%", "%25"))) == [("a/b on remote",)]
    ours = machines()
    assert requests(ours, lambda: ours.connect("copy", remote=url.replace("%", "%25"))) == 0
    with pytest.raises(AlreadyExistsError, match="choose another tag for that log"):
        ours.engine.open("copy", remote=f"file://{root}/other")
    ours.engine.new("empty")
    assert rows(ours.connect("empty", remote=f"file://{root}/other")) == [("other on remote",)]


def test_a_push_says_the_url_that_others_clone_by(machines, tmp_path) -> None:
    configured = RemoteConfig(type="fs", root=str(tmp_path / "two words"))
    ours = machines("ours", configured)
    assert ours.engine.open("a/b", create=True)
    assert ours.engine.info("a/b").remote_url.startswith(f"file://{tmp_path}/two%20words/")
    ours.connect("a/b").execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    pushed = ours.engine.push("a/b")
    assert pushed.url == f"file://{tmp_path}/two%20words/a%2Fb"
    assert ours.engine.info("a/b").remote_url == pushed.url
    theirs = machines("theirs")
    theirs.engine.clone(pushed.url, "copy")
    theirs.connect("copy").execute("INSERT INTO t VALUES(2)")
    again = theirs.engine.push("copy")
    assert (again.url, again.lsn) == (pushed.url, 2)
    ours.engine.fork("a/b", new_tag="side")
    log_id = ours.engine.status("side").remote
    assert ours.engine.info("side").remote_url == f"file://{tmp_path}/two%20words/{log_id}"
    local = machines("local")
    local.connect("main").execute("CREATE TABLE t(x)")
    assert local.engine.info("main").remote_url is None


def test_the_url_of_a_bucket_has_its_endpoint_and_prefix() -> None:
    bucket = RemoteConfig(
        type="s3", bucket="b", prefix="some/where", endpoint="http://localhost:1", region="eu"
    )
    url = str(Opener(bucket, ()).configured_url())
    assert url == "s3://b/some/where?endpoint=http://localhost:1&region=eu"
    assert str(parse(url)[0]) == url
    assert str(Opener(RemoteConfig(type="s3", bucket="b"), ()).configured_url()) == "s3://b"


def test_open_with_the_url_of_another_place_is_refused(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    mirror = tmp_path / "mirror"
    shutil.copytree(root, mirror)
    ours = machines()
    assert rows(ours.connect("copy", remote=f"file://{root}/main")) == [("main on remote",)]
    for _ in range(2):  # The second time, the ref is known.
        with pytest.raises(AlreadyExistsError, match=rf"from file://{root}, and not from"):
            ours.engine.open("copy", remote=f"file://{mirror}/main")
    assert rows(ours.connect("copy", remote=f"file://{root}/main")) == [("main on remote",)]


def test_a_failed_clone_leaves_the_log_where_it_was(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    log_id = machines().engine.source(f"{root}/main").log_id
    commits = root / "logs" / str(log_id) / "commits"
    commits.rename(root / "gone")
    ours = machines()
    for form in ("{}/main", "{}/" + str(log_id)):
        with pytest.raises(NotFoundError, match=r"no commit yet|has no log"):
            ours.engine.clone(form.format(root), "copy")
        assert ours.engine.catalog.remotes.of_log(log_id) is None
    (root / "gone").rename(commits)
    ours.engine.clone(f"{root}/main", "copy")
    assert rows(ours.connect("copy")) == [("main on remote",)]


def test_a_misspelt_url_lists_the_forms_of_urls(machines, tmp_path) -> None:
    configured = RemoteConfig(type="fs", root=str(published(tmp_path, "s3:main")))
    for ours in (machines(), machines("configured", configured)):
        with pytest.raises(UsageError, match=r"s3://BUCKET/PREFIX/REF"):
            ours.engine.clone("s3:/bucket/main", "main")
    ours.engine.clone("s3:main", "main")  # It is a ref.


def test_a_ref_of_the_configured_remote_clones_nothing_of_another(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    configured = RemoteConfig(type="fs", root=str(root))
    mirror = tmp_path / "mirror"
    shutil.copytree(root, mirror)
    with Replica(tmp_path / "author of mirror", RemoteConfig(type="fs", root=str(mirror))) as other:
        other.engine.clone("main", "main")
        other.connect("main").execute("INSERT INTO t VALUES('only on mirror')")
        other.engine.push("main")
    ours = machines("ours", configured)
    log_id = ours.engine.clone(f"{mirror}/main", "copy").log
    refused = f"from file://{mirror}, and not from file://{root}"
    with pytest.raises(AlreadyExistsError, match=refused):
        ours.engine.clone("main", "main")
    with pytest.raises(AlreadyExistsError, match=refused):
        ours.engine.open("main", create=True, remote="main")
    assert [tag.tag for tag in ours.engine.tags()] == ["copy"]
    # An id means the log where it lives.
    ours.engine.clone(str(log_id), "second")
    assert rows(ours.connect("second"))[-1] == ("only on mirror",)
    for tag in ("copy", "second"):
        ours.engine.remove_tag(tag)
    ours = machines("ours", configured)
    ours.engine.collect_local()
    with pytest.raises(HistoryMismatchError, match="is at LSN 1"):
        ours.engine.clone("main", "main")


def test_autosync_follows_a_clone_by_url(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    ours = machines(autosync=1000.0)
    ours.engine.new("local")
    assert ours.engine.status("local").autosync is None
    ours.engine.clone(f"{root}/main", "main")
    ours.connect("main").execute("INSERT INTO t VALUES('ours')")
    assert ours.engine.status("main").autosync is not None
    ours.connect("local").execute("CREATE TABLE t(x)")
    assert ours.engine.status("local").autosync is None
    machines(autosync=1000.0)  # Closing pushes what remains.
    theirs = machines("theirs")
    theirs.engine.clone(f"{root}/main", "main")
    assert rows(theirs.connect("main")) == [("main on remote",), ("ours",)]


# What is not there --------------------------------------------------------------------------------


def test_a_url_without_a_ref_lists_those_that_there_are(machines, tmp_path) -> None:
    root = published(tmp_path, "a/b", "main")
    ours = machines()
    with pytest.raises(UsageError, match=f"several refs; name one: file://{root}/a%2Fb, .*/main"):
        ours.engine.source(f"{root}/")
    with pytest.raises(UsageError, match="several refs"):
        ours.engine.source(str(root))
    with pytest.raises(NotFoundError, match=r"has no ref 'absent'; see `engine\.refs\('file://"):
        ours.engine.source(f"{root}/absent")
    assert not ours.engine.named_remotes()


def test_what_is_no_remote_is_an_error_and_is_not_made_one(machines, tmp_path) -> None:
    ours = machines()
    (tmp_path / "empty").mkdir()
    for path in ("empty", "absent", "absent/main", "empty/main"):
        with pytest.raises(NotFoundError, match="is neither a remote nor a ref in one"):
            ours.engine.clone(str(tmp_path / path), "copy")
    assert not list((tmp_path / "empty").iterdir())
    assert not (tmp_path / "absent").exists()
    new = RemoteConfig(type="fs", root=str(tmp_path / "new"))
    with new.open(), pytest.raises(NotFoundError, match="names no ref, and there is none"):
        ours.engine.clone(f"{tmp_path}/new", "copy")
    with pytest.raises(InvalidTagError):
        ours.engine.clone(f"file://{tmp_path}/new/{'x' * 600}", "copy")
    with pytest.raises(NoRemoteError):
        ours.engine.clone("main", "copy")
    assert not ours.engine.tags()
    assert not ours.engine.named_remotes()


def test_a_ref_that_is_a_path_is_still_a_ref_of_the_configured_remote(machines, tmp_path) -> None:
    root = published(tmp_path, "/data/app.db")
    ours = machines("ours", RemoteConfig(type="fs", root=str(root)))
    ours.engine.clone("/data/app.db", "/data/app.db")
    assert not ours.engine.named_remotes()
    second = published(tmp_path, "main", at="second")
    ours.engine.clone(f"{second}/main", "copy")
    assert rows(ours.connect("copy")) == [("main on second",)]


def test_a_log_that_volumes_have_from_elsewhere_stays_there(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    mirror = tmp_path / "mirror"
    shutil.copytree(root, mirror)
    ours = machines()
    ours.engine.clone(f"{root}/main", "main")
    with pytest.raises(
        AlreadyExistsError, match=f"from file://{root}, and not from file://{mirror}"
    ):
        ours.engine.clone(f"{mirror}/main", "copy")
    assert [each.name for each in ours.engine.named_remotes()] == ["remote"]
    # The same place under two names is one.
    theirs = machines("theirs", RemoteConfig(type="fs", root=str(root)))
    theirs.engine.clone("main", "main")
    theirs.engine.clone(f"{root}/main", "copy")
    assert rows(theirs.connect("copy")) == [("main on remote",)]
    # No volume uses it any more.
    ours.engine.remove_tag("main")
    ours = machines()
    ours.engine.collect_local()
    ours.engine.clone(f"{mirror}/main", "copy")
    assert rows(ours.connect("copy")) == [("main on remote",)]


def test_a_remote_that_was_replaced_is_not_believed(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    ours = machines()
    ours.engine.clone(f"{root}/main", "main")
    ours.engine.hydrate("main")
    shutil.rmtree(root)
    published(tmp_path / "other", "main")
    shutil.copytree(tmp_path / "other" / "remote", root)
    ours = machines()
    ours.connect("main").execute("CREATE TABLE more(x)")
    with pytest.raises(HistoryMismatchError, match="has nothing of it"):
        ours.engine.push("main")


def test_a_lost_catalog_does_not_lose_where_a_volume_syncs(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    ours = machines()
    ours.engine.clone(f"{root}/main", "main")
    ours.connect("main").execute("INSERT INTO t VALUES('ours')")
    volume = ours.engine.status("main").volume
    assert descriptor.read(tmp_path / "ours" / "volumes" / str(volume)).url == f"file://{root}"
    ours.close()
    for path in (tmp_path / "ours").glob("catalog.db*"):
        path.unlink()
    config = Config(data_dir=tmp_path / "ours")
    with contextlib.closing(Graft(config, recovering=True)) as recovering:
        recovering.adopt(volume)
    ours = machines()
    assert ours.engine.push("main").lsn == 2


def test_a_lost_volume_of_the_configured_remote_is_adopted_on_no_other(machines, tmp_path) -> None:
    root = published(tmp_path, "main")
    mirror = tmp_path / "mirror"
    shutil.copytree(root, mirror)
    configured = RemoteConfig(type="fs", root=str(root))
    ours = machines("ours", configured)
    ours.engine.clone("main", "main")
    ours.connect("main").execute("INSERT INTO t VALUES('ours')")
    volume = ours.engine.status("main").volume
    ours.close()
    for path in (tmp_path / "ours").glob("catalog.db*"):
        path.unlink()
    config = Config(data_dir=tmp_path / "ours", remote=configured)
    with contextlib.closing(Graft(config, recovering=True)) as recovering:
        recovering.clone(f"{mirror}/main", "copy")
        with pytest.raises(
            AlreadyExistsError, match=f"file://{mirror}, and not from file://{root}"
        ):
            recovering.adopt(volume)
        recovering.move_remote("copy", "default")
        recovering.adopt(volume)
    ours = machines("ours", configured)
    assert ours.engine.push("main").lsn == 2
    assert len(list((root / "logs").rglob("commits/*"))) == 2
    assert len(list((mirror / "logs").rglob("commits/*"))) == 1


def test_a_clone_of_a_mistyped_ref_says_which_may_be_meant(machines, tmp_path, monkeypatch):
    root = published(tmp_path, "main")
    ours = machines("ours", RemoteConfig(type="fs", root=str(root)))
    with pytest.raises(NotFoundError, match=r"'mian'; did you mean 'main'\? see"):
        ours.engine.clone("mian", "copy")
    with pytest.raises(NotFoundError, match="has no ref 'xyz'; see"):
        ours.engine.clone("xyz", "copy")

    def refuse(*_: object) -> None:
        raise StoreDeniedError("listing is not allowed")

    monkeypatch.setattr(sources, "ref_names", refuse)
    with pytest.raises(NotFoundError, match="has no ref 'mian'; see"):
        ours.engine.clone("mian", "copy")
