"""The output of commands: reports as text or JSON, and errors.

Tags, refs and messages may come from a hostile remote or a strange file name. So control characters
are escaped instead of sent to the terminal, and so are characters that the terminal's encoding
lacks, instead of failing the command.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from graft_vfs.advice import Audience, Hint, words
from graft_vfs.ids import Id, LogId, short_texts

_KNOWN_IDS = "graft_vfs.known_ids"
_COMMIT = re.compile(r"([1-9A-Za-z]{10}-[1-9A-Za-z]{13})(:[0-9]+)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_END = re.compile(r"\s*\n\s*")
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]*@")

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON."
)


def echo(text: str, *, err: bool = False) -> None:
    """Print text that is safe for the terminal."""
    stream = sys.stderr if err else sys.stdout
    click.echo(printable(text, stream), err=err)


def echo_as_is(text: str) -> None:
    """Print text for programs, in UTF-8 and unchanged; for a terminal, it is made safe."""
    if sys.stdout.isatty():
        echo(text)
    else:
        sys.stdout.buffer.write(text.encode() + b"\n")


def printable(text: str, stream: TextIO) -> str:
    """Return text with control characters, and what the stream cannot encode, as escapes."""
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def without_credentials(text: str) -> str:
    """Return text without the user names and passwords of URLs."""
    return _USER_IN_URL.sub("***@", text)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The report of a failed command. `type` is the class of a declared error."""

    type: str
    message: str
    hint: str | None
    exit_code: int


def echo_failure(failure: Failure, *, as_json: bool) -> None:
    """Print a failure on standard error: as a line and another for its hint, or as a JSON line."""
    message, hint = _one_line(failure.message), _one_line(failure.hint or "")
    if as_json:
        shown = dataclasses.replace(failure, message=message, hint=hint or None)
        echo(json.dumps({"error": to_json(shown)}), err=True)
        return
    echo(f"error: {message}", err=True)
    if hint:
        echo(f"hint: {hint}", err=True)


def echo_note(level: str, text: str, *, as_json: bool = False) -> None:
    """Print a message for users on standard error, such as a warning or a hint."""
    text = without_credentials(text)
    echo(json.dumps({level: text}) if as_json else f"{level}: {text}", err=True)


def _one_line(text: str) -> str:
    return without_credentials(_LINE_END.sub(" ", text))


def shorten_ids(known: Callable[[], Iterable[Id]]) -> None:
    """Have the reports of this command show of each known id as much as tells it from the others.

    What is shown can be typed for the id.
    """
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[_KNOWN_IDS] = known


def _with_short_ids(reports: Sequence[Any]) -> list[Any]:
    context = click.get_current_context(silent=True)
    known = None if context is None else context.meta.get(_KNOWN_IDS)
    texts = {} if known is None else short_texts(known())
    return [_shortened(report, texts) for report in reports]


def _shortened(report: Any, texts: Mapping[Id, str]) -> Any:
    """Return a report with short texts for ids, and for commits that are given as LOG:LSN."""
    if not dataclasses.is_dataclass(report) or isinstance(report, type):
        return report
    changes = {}
    for field in dataclasses.fields(report):
        value = getattr(report, field.name)
        commit = _COMMIT.fullmatch(value) if isinstance(value, str) else None
        found = LogId.parse(commit[1]) if commit else value
        if isinstance(found, Id) and found in texts:
            changes[field.name] = texts[found] + (commit[2] if commit else "")
    return dataclasses.replace(report, **changes)


def emit(result: object, *, as_json: bool, err: bool = False, whole_ids: bool = False) -> None:
    """Print a report: its text, one line per item of a sequence, or JSON.

    A text has ids that are known here shortened, unless it is to have `whole_ids`.
    """
    if not as_json and not whole_ids:
        many = result if isinstance(result, list | tuple) else None
        found = _with_short_ids([result] if many is None else many)
        result = found[0] if many is None else found
    if as_json:
        echo(json.dumps(to_json(result), indent=2), err=err)
    elif isinstance(result, list | tuple):
        for item in result:
            echo(words(item, Audience.CLI), err=err)
    else:
        echo(words(result, Audience.CLI), err=err)


def emit_list(
    items: Sequence[object], *, as_json: bool, if_empty: str, whole_ids: bool = False
) -> None:
    """Print a report as `emit` does; for an empty one, print a hint on standard error.

    Standard output then stays empty, for scripts that count its lines.
    """
    emit(items, as_json=as_json, whole_ids=whole_ids)
    if not items and not as_json:
        echo(f"hint: {if_empty}", err=True)


def to_json(value: Any) -> Any:
    """Return a JSON value: ids, paths and hints as text, enums as their value, bytes as hex.

    A dataclass becomes an object with its fields and its properties; their names are the keys.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, item in vars(type(value)).items() if isinstance(item, property)]
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, Hint | Id | Path):
        return words(value, Audience.CLI)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value
