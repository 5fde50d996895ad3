"""Commands that use the remote."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click

import graft_vfs
from graft_vfs.advice import Audience
from graft_vfs.cli.completion import complete_commits, complete_refs
from graft_vfs.cli.group import CONTEXT_SETTINGS, command
from graft_vfs.cli.output import (
    echo,
    emit,
    emit_list,
    json_option,
    without_credentials,
)
from graft_vfs.cli.progress import progress, progress_line
from graft_vfs.cli.remotes import SUBCOMMANDS
from graft_vfs.cli.session import TAG, force_option, opened, refuse_existing, tag_argument
from graft_vfs.engine.config import Config
from graft_vfs.engine.remotes import open_url
from graft_vfs.errors import GraftError, StoreError, StoreUnavailableError
from graft_vfs.ids import LogId
from graft_vfs.reports import Hydrated
from graft_vfs.tags import check_tag
from graft_vfs.view.log_view import LogView

_logger = logging.getLogger(__name__)

_EMPTY_REMOTE = "the remote has no refs yet; `graft push TAG` publishes a volume"


@dataclass(frozen=True, slots=True)
class _Ref:
    """A name on the remote, the log that it names, and the names of commits of that known here."""

    ref: str
    log: LogId
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = f"  [{', '.join(self.names)}]" if self.names else ""
        return f"{self.ref}  {self.log}{names}"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A remote that can be pushed to."""

    remote: str

    def __str__(self) -> str:
        return f"{self.remote} is a remote."


@command(
    "clone",
    "graft clone main",
    "graft clone 74ggc1B6R4-2kkvcy9fi4CHJ replica",
    "graft clone s3://bucket/prefix/prices",
    "graft clone https://example.org/data/prices",
    "graft clone /mnt/share/prices copy",
    "graft clone --hydrate main",
)
@click.argument("ref", shell_complete=complete_refs)
@click.argument("tag", type=TAG, required=False)
@click.option("--hydrate", "hydrates", is_flag=True, help="Then fetch all pages.")
@force_option
@json_option
def clone(ref: str, tag: str | None, *, hydrates: bool, force: bool, as_json: bool) -> None:
    """Make a volume from a remote log, given as a ref, an id or a URL.

    A URL is that of a ref or of a log id. TAG names the volume; without one, REF does. Pages come
    when they are read, or at once with --hydrate. With a URL, no remote need be configured, and the
    volume syncs with the one of the URL from then on. What was read before an interrupt is not read
    again.
    """
    with opened() as engine:
        source = engine.source(ref)
        tag = tag or check_tag(source.name)
        refuse_existing(engine, tag, force=force)
        with progress("Reading commits", engine) as show:
            done = engine.clone(source, tag, progress=show)
        _learn_names(engine, tag)
        if hydrates:
            _hydrate(engine, tag)
        emit(done, as_json=as_json)


def _learn_names(engine: graft_vfs.Graft, tag: str) -> None:
    """List the names of commits, which the verbs that programs call often leave out."""
    try:
        engine.names(tag)
    except StoreError as error:
        _logger.info("the names of commits of %r were not listed: %s", tag, error)


@command("checkout", "graft checkout main 7", 'graft checkout main "2 hours ago"')
@tag_argument
@click.argument("commit", shell_complete=complete_commits)
@json_option
def checkout(tag: str, commit: str, as_json: bool) -> None:
    """Point TAG at a new volume on an earlier remote commit.

    COMMIT is given as for `graft show`. TAG's previous volume stays.
    """
    with opened() as engine:
        emit(engine.checkout(tag, commit), as_json=as_json)


@command("fetch", "graft fetch main")
@tag_argument
@json_option
def fetch(tag: str, as_json: bool) -> None:
    """Fetch the remote log's new commits; the volume does not move."""
    with opened() as engine:
        with progress("Reading commits", engine) as show:
            done = engine.fetch(tag, progress=show)
        if done.commits:
            _learn_names(engine, tag)
        emit(done, as_json=as_json)


@command("pull", "graft pull main", "graft pull main --strategy reset")
@tag_argument
@click.option(
    "--strategy",
    metavar="reset|fork",
    help="Follow the remote, and keep unpushed commits as a branch, or make them a new volume.",
)
@json_option
def pull(tag: str, strategy: str | None, as_json: bool) -> None:
    """Fetch, and move the volume to the newest remote commit.

    A volume with unpushed commits has diverged if the log has new ones. It does not move without a
    strategy. With reset, `graft branches` lists what it had, and `graft switch` goes back to that.
    With fork, that gets a tag of its own, such as TAG-fork-4CHJ2x, and the next push of that tag
    publishes it on a log of its own.
    """
    with opened() as engine:
        with progress("Reading commits", engine) as show:
            done = engine.pull(tag, strategy=strategy, progress=show)
        emit(done, as_json=as_json)


@command(
    "push",
    "graft push main",
    'graft push main -m "prices of May"',
    "graft push main --as prices",
)
@tag_argument
@click.option("-m", "--message", default="", metavar="TEXT", help="Say what the commit is.")
@click.option("--as", "name", metavar="NAME", help="The name of its log on the remote.")
@json_option
def push(tag: str, message: str, name: str | None, as_json: bool) -> None:
    """Publish the local commits as one remote commit.

    The first push names the log by TAG, or by NAME; if another log has that name, nothing is
    pushed. Later, --as gives the log another name. `graft log` and `graft show` print the message,
    on every machine. Ctrl-C ends a push within a second or two, and says whether it has landed.
    """
    with opened() as engine:
        with _telling_of_push(engine, tag), progress_line("Compressing pages") as line:
            show, sent = (None, None) if line is None else (line.show, line.show_sent)
            pushed = engine.push(tag, name=name, message=message, progress=show, sent=sent)
        emit(pushed, as_json=as_json)
        if pushed.lsn == 1 and pushed.url is not None and sys.stderr.isatty() and not as_json:
            echo(
                f"hint: other machines get it with `graft clone {shlex.quote(pushed.url)}`",
                err=True,
            )
        if message and not pushed.claimed:
            echo("hint: there was no commit for the message", err=True)


@contextlib.contextmanager
def _telling_of_push(engine: graft_vfs.Graft, tag: str) -> Iterator[None]:
    """Make Ctrl-C report the outcome of the push in the block."""
    try:
        yield
    except KeyboardInterrupt:
        try:
            status = engine.status(tag)
        except GraftError:
            raise KeyboardInterrupt from None
        if status.pending_push:
            what = f"the push may have landed: the next push or pull of {tag} settles it"
        elif status.ahead:
            what = f"the push is not in the log: `graft push {tag}` sends it again"
        else:
            what = "the push has landed"
        raise KeyboardInterrupt(what) from None


@command("hydrate", "graft hydrate main")
@tag_argument
@json_option
def hydrate(tag: str, as_json: bool) -> None:
    """Fetch all pages that are not cached locally.

    What arrives is cached at once: after an interrupt or an outage, the same command fetches the
    rest.
    """
    with opened() as engine:
        emit(Hydrated(_hydrate(engine, tag)), as_json=as_json)


def _hydrate(engine: graft_vfs.Graft, tag: str) -> int:
    """Fetch all pages; returns their number, or fails with how many are cached."""
    try:
        with progress_line("Fetching") as line:
            return engine.hydrate(tag, progress=None if line is None else line.show_received)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_cached(engine, tag)) from None
    except StoreUnavailableError as error:
        error.hint = f"{error.next_step_for(Audience.CLI)}; {_cached(engine, tag)}"
        raise


def _cached(engine: graft_vfs.Graft, tag: str) -> str:
    """Return how many pages are cached, and how to fetch the others."""
    view = engine.open(tag).snapshot.remote
    present, total = view.pages_present() if isinstance(view, LogView) else (0, 0)
    again = f"graft hydrate {shlex.quote(tag)}"
    return f"{present} of {total} pages are cached; `{again}` fetches the rest"


@command("audit", "graft audit main")
@tag_argument
@json_option
def audit(tag: str, as_json: bool) -> None:
    """Count the cached pages; if all are cached, checksum the content.

    The pages are those of the remote; the content is verified, too.
    """
    with opened() as engine:
        with progress("Checking pages") as show:
            found = engine.audit(tag, progress=show)
        emit(found, as_json=as_json)


@command("dump-commit", "graft dump-commit 74ggc1B6R4-2kkvcy9fi4CHJ:7")
@click.argument("spec", metavar="LOG:LSN")
@json_option
def dump_commit(spec: str, as_json: bool) -> None:
    """Describe a remote commit."""
    with opened() as engine:
        if as_json:
            emit(engine.commit_facts(spec), as_json=True)
        else:
            echo(engine.dump_commit(spec))


@click.group(
    "remote",
    invoke_without_command=True,
    context_settings=CONTEXT_SETTINGS,
    epilog="\b\nExample:\n  graft remote ls",
)
@click.pass_context
def remote(context: click.Context) -> None:
    """Look at the remote itself."""
    if context.invoked_subcommand is None:
        echo(context.get_help())


@command("ls", "graft remote ls", "graft remote ls --logs", "graft remote ls s3://bucket/prefix")
@click.argument("remote", metavar="[NAME|URL]", required=False)
@click.option("--logs", "logs", is_flag=True, help="List all logs, including those without a ref.")
@json_option
def ls(remote: str | None, logs: bool, as_json: bool) -> None:
    """List the refs of a remote, by default the configured one, and the logs that they name.

    Names of commits that this machine has seen follow in brackets. With --logs, list all logs,
    including those without a ref, with their newest LSNs.
    """
    with opened() as engine:
        if logs:
            emit_list(
                engine.remote_logs(remote), as_json=as_json, if_empty=_EMPTY_REMOTE, whole_ids=True
            )
            return
        refs = [
            _Ref(name, log_id, tuple(engine.catalog.names.texts(log_id)))
            for name, log_id in engine.refs(remote)
        ]
        emit_list(refs, as_json=as_json, if_empty=_EMPTY_REMOTE, whole_ids=True)


@command("name", "graft remote name main 74ggc1B6R4-2kkvcy9fi4CHJ")
@click.argument("ref")
@click.argument("log")
@json_option
def name(ref: str, log: str, as_json: bool) -> None:
    """Give a log of the remote a ref, under which it is cloned.

    A push names its log by the tag or by --as; a ref is never moved.
    """
    with opened() as engine:
        log_id = LogId.find(log, engine.catalog.log_ids())
        engine.name_log(ref, log_id)
        emit(_Ref(ref, log_id), as_json=as_json, whole_ids=True)


@command("init", "graft remote init", "graft remote init /mnt/share")
@click.argument("url", required=False)
@json_option
def init(url: str | None, as_json: bool) -> None:
    """Make the directory of remote.root, or of a URL, a remote.

    The configured one is made by its first use, unless local volumes are based on another one. For
    a bucket, check that it answers.
    """
    config = Config.load()
    with open_url(config, url, create=True) if url else config.remote.open(create=True) as store:
        # A missing bucket, or a server that is down, is an error.
        list(store.list("refs/", limit=1))
        emit(_Ready(without_credentials(store.describe())), as_json=as_json)


remote.add_command(ls)
remote.add_command(name)
remote.add_command(init)
for subcommand in SUBCOMMANDS:
    remote.add_command(subcommand)

COMMANDS: tuple[click.Command, ...] = (
    clone,
    checkout,
    fetch,
    pull,
    push,
    hydrate,
    audit,
    dump_commit,
    remote,
)
