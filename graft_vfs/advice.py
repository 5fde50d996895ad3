"""What to do next, as values that are worded for each audience.

An error or a report names the next verb, not its spelling: SQL shows a pragma, the command line a
command, Python a method of the engine. This module has the only table of these spellings.
"""

from __future__ import annotations

import abc
import enum
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

_ARGUMENT = re.compile(r"\b[A-Z]{3,}\b")


class Audience(enum.Enum):
    """The reader of a text."""

    SQL = "sql"
    CLI = "cli"
    PYTHON = "python"


class Worded(abc.ABC):
    """A text that differs by audience; `str()` is for Python."""

    __slots__ = ()

    @abc.abstractmethod
    def words(self, audience: Audience) -> str:
        """Return the text for one audience."""

    def __str__(self) -> str:
        return self.words(Audience.PYTHON)


class Advice(enum.Enum):
    """A verb as (pragma, command, engine method); capital words are its arguments.

    If there is no pragma, SQL shows the command.
    """

    ADOPT = None, "adopt VOLUME", "adopt(VOLUME)"
    ADOPT_AS = None, "adopt VOLUME TAG", "adopt(VOLUME, TAG)"
    ADOPT_ON = None, "adopt VOLUME TAG --base COMMIT", "adopt(VOLUME, TAG, base=COMMIT)"
    BISECT_FROM = None, "bisect TAG QUERY --good COMMIT", "bisect(TAG, QUERY, good=COMMIT)"
    BISECT_TO = None, "bisect TAG QUERY --bad COMMIT", "bisect(TAG, QUERY, bad=COMMIT)"
    CLONE = "graft_clone = LOG", "clone LOG TAG", "clone(LOG, TAG)"
    CLONE_OVER = "graft_clone = LOG", "clone LOG TAG --force", "clone(LOG, TAG)"
    COLLECT = None, "gc --local --force VOLUME", "collect_local(force=[VOLUME])"
    DIFF_ROWS = None, "diff TAG COMMIT --rows", "diff_rows(TAG, COMMIT)"
    EXPORT = "graft_export = FILE", "export TAG FILE", "export(TAG, FILE)"
    EXPORT_AT = None, "export TAG FILE --at COMMIT", "export(TAG, FILE, at=COMMIT)"
    FETCH = "graft_fetch", "fetch TAG", "fetch(TAG)"
    FORK = "graft_fork", "fork TAG", "fork(TAG)"
    FORK_AS = "graft_fork", "fork TAG COPY", "fork(TAG, new_tag=COPY)"
    FSCK = None, "fsck LOG", "fsck(LOG)"
    IMPORT_ELSEWHERE = None, "import FILE TAG", None
    HYDRATE = "graft_hydrate", "hydrate TAG", "hydrate(TAG)"
    LIST_BRANCHES = "graft_branches", "branches TAG", "branches(TAG)"
    LIST_COMMITS = "graft_log", "log TAG", "log(TAG)"
    LIST_LOGS = None, "remote ls --logs", "remote_logs()"
    LIST_LOST = None, "adopt", "lost_volumes()"
    LIST_REFS = None, "remote ls", "refs()"
    LIST_REFS_AT = None, "remote ls REMOTE", "refs(REMOTE)"
    LIST_REMOTES = None, "remote show", "named_remotes()"
    LIST_TAGS = "graft_tags", "tags", "tags()"
    LIST_VOLUMES = "graft_volumes", "volumes", "volumes()"
    MAKE_REMOTE = None, "remote init", None
    LIST_NAMES = "graft_names", "tag TAG", "names(TAG)"
    NAME_COMMIT = "graft_name = NAME", "tag TAG NAME", "name(TAG, NAME)"
    MOVE_REMOTE = None, "remote move TAG REMOTE", "move_remote(TAG, REMOTE)"
    NAME_LOG = None, "remote name REF LOG", "name_log(REF, LOG)"
    NEW = "graft_new", "new TAG --force", "new(TAG)"
    PULL = "graft_pull", "pull TAG", "pull(TAG)"
    PULL_FORK = "graft_pull = 'fork'", "pull TAG --strategy fork", "pull(TAG, strategy='fork')"
    PULL_RESET = "graft_pull = 'reset'", "pull TAG --strategy reset", "pull(TAG, strategy='reset')"
    PUSH = "graft_push", "push TAG", "push(TAG)"
    PUSH_AS = "graft_push_as = NAME", "push TAG --as NAME", "push(TAG, name=NAME)"
    REBASE = None, "rebase TAG", "rebase(TAG)"
    REMOVE_BRANCH = None, "branch rm TAG BRANCH", "remove_branch(TAG, BRANCH)"
    REMOVE_NAME = None, "tag TAG NAME --delete", "remove_name(TAG, NAME)"
    REMOVE_TAG = None, "rm TAG", "remove_tag(TAG)"
    REPAIR = None, "fsck LOG --repair", "fsck(LOG, repair=True)"
    REVERT = None, "revert TAG COMMIT", "revert(TAG, COMMIT)"
    TRY_REVERT = None, "revert TAG COMMIT --dry-run", "revert(TAG, COMMIT, dry_run=True)"
    RESTORE = None, "restore TAG --at COMMIT", "restore(TAG, COMMIT)"
    RESTORE_FILE = None, "restore TAG --at COMMIT -o FILE", "restore_file(TAG, FILE, COMMIT)"
    SET_RETENTION = None, "retention TAG --keep-last 10", "set_retention(TAG, last=10)"
    SET_URL = None, "remote set-url REMOTE URL", "set_remote_url(REMOTE, URL)"
    SWITCH = "graft_switch = VOLUME", "switch TAG VOLUME", "switch(TAG, VOLUME)"
    SWITCH_BRANCH = "graft_switch = BRANCH", "switch TAG BRANCH", "switch(TAG, BRANCH)"
    UPDATE = None, "import --update FILE TAG", "import_(FILE, TAG, update=True)"

    def __call__(self, **arguments: object) -> Step:
        """Return the verb with some of its arguments filled in, by name."""
        return Step(self, tuple(arguments.items()))

    def words(self, audience: Audience) -> str:
        """Return its spelling, in backticks."""
        return Step(self, ()).words(audience)


@dataclass(frozen=True, slots=True)
class Step:
    """A verb with arguments; missing arguments are shown by name."""

    advice: Advice
    arguments: tuple[tuple[str, object], ...]

    def words(self, audience: Audience) -> str:
        """Return how it is typed, in backticks."""
        pragma, command, method = self.advice.value
        if audience is Audience.SQL and pragma is not None:
            return f"`PRAGMA {self._filled(pragma, _literal)}`"
        if audience is Audience.PYTHON and method is not None:
            return f"`engine.{self._filled(method, _expression, unnamed=str.lower)}`"
        return f"`graft {self._filled(command, lambda value: shlex.quote(str(value)))}`"

    def _filled(
        self, text: str, quoted: Callable[[object], str], unnamed: Callable[[str], str] = str
    ) -> str:
        given = dict(self.arguments)

        def value(found: re.Match[str]) -> str:
            name = found[0]
            return quoted(given[name]) if name in given else unnamed(name)

        return _ARGUMENT.sub(value, text)


def _literal(value: object) -> str:
    text = str(value).replace("'", "''")
    return f"'{text}'"


def _expression(value: object) -> str:
    if isinstance(value, str):
        return repr(value)
    return f"{type(value).__name__}.parse({str(value)!r})"


_Part = str | Advice | Step | Worded


class Hint(Worded):
    """A text that contains verbs."""

    def __init__(self, *parts: _Part) -> None:
        self._parts = parts

    def words(self, audience: Audience) -> str:
        """Return the text for one audience."""
        return "".join(
            part if isinstance(part, str) else part.words(audience) for part in self._parts
        )

    def filled(self, **arguments: object) -> Hint:
        """Return the same with these arguments in steps that name none of their own."""
        return Hint(*(_filled(part, arguments) for part in self._parts))


def _filled(part: _Part, arguments: dict[str, object]) -> _Part:
    if isinstance(part, Advice):
        return part(**arguments)
    if isinstance(part, Step):
        return part.advice(**{**arguments, **dict(part.arguments)})
    return part.filled(**arguments) if isinstance(part, Hint) else part


def words(thing: object, audience: Audience) -> str:
    """Return a value's text for an audience: its words if it has any, else `str()`."""
    return thing.words(audience) if isinstance(thing, Worded) else str(thing)
