"""`graft help`: the manual, which ships in the package as Markdown, printed as plain text.

Besides pages, it has files to use unchanged, such as alert rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import cast

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option
from graft_vfs.cli.vocabulary import ALIASES
from graft_vfs.errors import NotFoundError
from graft_vfs.reports import Versions
from graft_vfs.suggestions import did_you_mean

_LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
_COMMENT = re.compile(r"^<!--.*-->\n", re.MULTILINE)
_INDEX = "index"


def pages() -> dict[str, Traversable]:
    """Return the pages of the manual by topic, the name of the file."""
    found = _files_below(files("graft_vfs") / "docs")
    return {each.name.removesuffix(".md"): each for each in found if each.name.endswith(".md")}


def extras() -> dict[str, Traversable]:
    """Return the other files by their full name, such as `alerts.yml`."""
    found = _files_below(files("graft_vfs") / "docs")
    return {each.name: each for each in found if not each.name.endswith(".md")}


def _files_below(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files_below(entry)
        else:
            yield entry


def _plain(link: re.Match[str]) -> str:
    """Return a link as text: a page of the manual by its topic, another site by its address."""
    text, target = link.groups()
    if "://" in target:
        return f"{text} <{target}>"
    topic = target.split("#")[0].rpartition("/")[2].removesuffix(".md")
    is_page = ".md" in target and "/tests/" not in target
    return f"{text} (graft help {topic})" if is_page and topic != text else text


def _complete_topics(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return sorted(topic for topic in pages() if topic.startswith(incomplete))


@command("help", "graft help", "graft help s3", "graft help push")
@click.argument("topic", required=False, shell_complete=_complete_topics)
@click.pass_context
def help_(context: click.Context, topic: str | None) -> None:
    """Print a page of the manual, or the help of a command.

    Without TOPIC, list the topics.
    """
    known, topic = pages(), topic or _INDEX
    root = context.find_root()
    commands = cast("click.Group", root.command)
    if page := known.get(topic):
        text = _COMMENT.sub("", page.read_text(encoding="utf-8"))
        echo(_LINK.sub(_plain, text).rstrip("\n"))
    elif extra := extras().get(topic):
        echo(extra.read_text(encoding="utf-8").rstrip("\n"))
    elif found := commands.get_command(root, ALIASES.get(topic, topic)):
        echo(found.get_help(click.Context(found, parent=root, info_name=topic)))
    else:
        topics = sorted(known.keys() - {_INDEX})
        meant = did_you_mean(topic, [*topics, *commands.list_commands(root)])
        raise NotFoundError(
            f"the manual has no topic {topic!r}, and there is no such command",
            next_step=f"{meant}topics are {', '.join(topics)}",
        )


@command("version", "graft version", "graft version --json")
@json_option
def version(as_json: bool) -> None:
    """Print the versions of graft, its format, apsw and SQLite."""
    emit(Versions.current(), as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (help_, version)
