"""Refs: what people type wherever a commit is asked for, read into a small tree.

    HEAD          the newest commit of the volume: local if there is one, else the remote one
                  that the volume stands on
    BASE          that remote commit, whatever was committed locally since
    7             LSN 7 of the remote log that the volume pushes to
    local:3       LSN 3 of the local branch, which is not pushed yet, or of a kept branch
    branch:74gg   the newest commit of a kept branch, whose id may be cut
    2 hours ago   the newest remote commit no later than a time; also an ISO time, in UTC if it
                  names no zone
    LOG:7         LSN 7 of another log, whose id may be cut to characters that no other begins with
    v1.0          a name that people gave to a remote commit
    X~2           two commits before X, over local commits, then remote ones, then those of the log
                  that a fork was made from; `X~` is `X~1`, and so is `X^`
    A..B          from A to B, where two states are compared; a side that is left out is HEAD

A text is read as the first of these that it can be, so that what it says does not depend on what is
known locally. HEAD and BASE may be written in lower case. `names` finds the commit.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import UsageError
from graft_vfs.pages import LocalLsn, RemoteLsn, is_lsn_text
from graft_vfs.tags import is_commit_name
from graft_vfs.times import parse_time

_STEPS = re.compile(r"(?:~[0-9]{0,18}|\^)+\Z")
_STEP = re.compile(r"~([0-9]*)|\^")
_LOG = re.compile(r"(?=[^A-Za-z]*[A-Za-z])[0-9A-Za-z-]+")
_RESERVED = frozenset({"head", "base", "local", "branch", "now", "today", "yesterday", "tomorrow"})
_SHOWN_CHARACTERS_MAX = 64
FORMS = Hint(
    "write an LSN such as 7, HEAD~1, local:3, branch:ID, LOG:7, a name, or a time such as `2 hours "
    "ago`; see ",
    Advice.LIST_COMMITS,
)
"""The next step for a text that names no commit."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest commit of a volume, local or remote."""

    def __str__(self) -> str:
        return "HEAD"


@dataclass(frozen=True, slots=True)
class Base:
    """The remote commit that a volume stands on."""

    def __str__(self) -> str:
        return "BASE"


@dataclass(frozen=True, slots=True)
class Local:
    """An LSN of the local branch."""

    lsn: LocalLsn

    def __str__(self) -> str:
        return f"local:{self.lsn}"


@dataclass(frozen=True, slots=True)
class Kept:
    """The newest commit of the kept branch whose id begins with `branch`."""

    branch: str

    def __str__(self) -> str:
        return f"branch:{self.branch}"


@dataclass(frozen=True, slots=True)
class Remote:
    """An LSN of a log whose id begins with `log`; if that is empty, of the volume's own."""

    lsn: RemoteLsn
    log: str = ""

    def __str__(self) -> str:
        return f"{self.log}:{self.lsn}" if self.log else str(self.lsn)


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, as it was typed."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Named:
    """A name of a commit, if the log has one of that text."""

    name: str

    def __str__(self) -> str:
        return self.name


State = Head | Base | Local | Kept | Remote | Moment | Named


@dataclass(frozen=True, slots=True)
class Ref:
    """A state and how many commits to go back from it."""

    state: State
    back: int = 0

    def __str__(self) -> str:
        return f"{self.state}~{self.back}" if self.back else str(self.state)


HEAD = Ref(Head())
BASE = Ref(Base())


@dataclass(frozen=True, slots=True)
class Span:
    """Two refs that are compared."""

    older: Ref
    newer: Ref = HEAD

    def __str__(self) -> str:
        return f"{self.older}..{self.newer}"


_BY_WORD: dict[str, State] = {"HEAD": Head(), "BASE": Base()}


def parse(text: str, *, prefers_time: bool = False) -> Ref:
    """Return what a text says; raises UsageError if it cannot name a commit.

    With `prefers_time` a text that is a time is one, even if it could be an LSN, such as 20260131.
    """
    if ".." in text:
        raise UsageError(f"{shown(text)} names two commits, where one is needed", next_step=FORMS)
    if prefers_time and _is_time(text):
        return Ref(Moment(text))
    steps = _STEPS.search(text)
    if steps is None:
        return Ref(_parse_state(text, text))
    back = sum(int(digits) if digits else 1 for digits in _STEP.findall(steps[0]))
    return Ref(_parse_state(text[: steps.start()], text), back)


def parse_span(text: str) -> Span:
    """Return what `A..B` says, or A alone, which is compared with HEAD; raises UsageError."""
    older, dots, newer = text.partition("..")
    if not dots:
        return Span(parse(text))
    if newer.startswith("."):
        raise UsageError(
            f"{shown(text)} has three dots", next_step="write A..B to compare commit A with B"
        )
    return Span(parse(older) if older else HEAD, parse(newer) if newer else HEAD)


def check_name(name: str) -> str:
    """Return a text that a commit can be named; raises UsageError for one that says something else.

    Such texts are HEAD, a number, a time. So no name ever changes what a ref means.
    """
    step = "choose a name such as v1.0 or before-migration: 1 to 100 characters without spaces"
    if not is_commit_name(name):
        raise UsageError(f"{shown(name)} cannot name a commit", next_step=step)
    if name.lower() in _RESERVED or not isinstance(_parse_state(name, name), Named):
        raise UsageError(f"{shown(name)} names a commit already, as a ref", next_step=step)
    return name


def _parse_state(text: str, whole: str) -> State:
    if text.upper() in _BY_WORD:
        return _BY_WORD[text.upper()]
    if is_lsn_text(text):
        return Remote(RemoteLsn(int(text)))
    where, _, lsn = text.rpartition(":")
    branch = _parse_branch(where, lsn)
    if branch is not None:
        return branch
    if _is_time(text):
        return Moment(text)
    if _LOG.fullmatch(where) and is_lsn_text(lsn):
        return Remote(RemoteLsn(int(lsn)), where)
    if is_commit_name(text):
        return Named(text)
    raise UsageError(f"{shown(whole)} names no commit", next_step=FORMS)


def _parse_branch(where: str, text: str) -> Local | Kept | None:
    if where == "local" and is_lsn_text(text):
        return Local(LocalLsn(int(text)))
    return Kept(text) if where == "branch" and _LOG.fullmatch(text) else None


def _is_time(text: str) -> bool:
    with contextlib.suppress(UsageError):
        parse_time(text)
        return True
    return False


def shown(text: str) -> str:
    """Return a text for an error, quoted and not too long."""
    return repr(text[:_SHOWN_CHARACTERS_MAX])
