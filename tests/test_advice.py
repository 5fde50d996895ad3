"""Advice: each audience reads a next step that it can type, and no other audience's words."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from unittest.mock import create_autospec

import click
import pytest

import graft_vfs
from graft_vfs import errors
from graft_vfs.advice import Advice, Audience, Hint, words
from graft_vfs.cli import main
from graft_vfs.engine.graft import Graft
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.vfs.pragmas import NAMES

ARGUMENTS: dict[str, object] = {
    "BRANCH": str(LogId.new()),
    "COMMIT": f"{LogId.new()}:7",
    "COPY": "another",
    "FILE": "a 'file'.db",
    "LOG": str(LogId.new()),
    "NAME": "v1.0",
    "QUERY": "SELECT 'it''s'",
    "REF": "it's",
    "REMOTE": "backup",
    "TAG": "a tag's",
    "URL": "s3://bucket/pre-fix",
    "VOLUME": VolumeId.new(),
}
"""Such as a shell, SQL and Python have to quote."""

ERRORS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.GraftError)
]


def named_in(text: str) -> list[str]:
    return re.findall(r"\b[A-Z]{3,}\b", text)


def typed(advice: Advice, audience: Audience) -> str:
    text = advice(**ARGUMENTS).words(audience)
    assert text[0] == text[-1] == "`"
    return text[1:-1]


@pytest.mark.parametrize("advice", Advice)
def test_sql_reads_a_pragma_that_exists(advice):
    pragma = advice.value[0]
    text = typed(advice, Audience.SQL)
    if pragma is None:
        # Then what can be typed is a command, because no pragma does this.
        assert text == typed(advice, Audience.CLI)
        return
    found = re.fullmatch(r"PRAGMA (\w+)( = '(?:[^']|'')*')?", text)
    assert found, text
    assert found[1] in NAMES


@pytest.mark.parametrize("advice", Advice)
def test_the_command_line_reads_a_command_that_it_takes(advice):
    program, *arguments = shlex.split(typed(advice, Audience.CLI))
    assert program == "graft"
    command: click.Command = main
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    context = command.make_context(command.name, list(arguments))
    given = [
        str(value)
        for item in context.params.values()
        for value in (item if isinstance(item, tuple) else (item,))
    ]
    assert {str(ARGUMENTS[name]) for name in named_in(advice.value[1])} <= set(given)


@pytest.mark.parametrize("advice", [each for each in Advice if each.value[2]])
def test_python_reads_a_call_that_an_engine_takes(advice):
    call = ast.parse(typed(advice, Audience.PYTHON), mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    method = getattr(Graft, call.func.attr)
    named = {word.arg: word.value for word in call.keywords if word.arg}
    inspect.signature(method).bind(None, *call.args, **named)
    # Each value arrives as it is, also with quotes in it.
    engine = create_autospec(Graft, instance=True)
    eval(typed(advice, Audience.PYTHON), {"engine": engine, "VolumeId": VolumeId, "LogId": LogId})
    (called,) = getattr(engine, call.func.attr).mock_calls
    given = [*called.args, *called.kwargs.values()]
    flat = [each for item in given for each in (item if isinstance(item, list) else [item])]
    assert {ARGUMENTS[name] for name in named_in(advice.value[2])} <= {*flat}


@pytest.mark.parametrize("audience", Audience)
@pytest.mark.parametrize("advice", Advice)
def test_missing_arguments_are_shown_by_name(advice, audience):
    text = advice.words(audience)
    for name in named_in(advice.value[1]):
        assert name.lower() in text.lower() or audience is Audience.SQL


@pytest.mark.parametrize("kind", ERRORS)
def test_each_error_words_its_next_step_for_each_audience(kind):
    error = kind("it failed", next_step=Hint("run ", Advice.PUSH(TAG="main"), " again"))
    texts = {audience: error.words(audience) for audience in Audience}
    assert [text.partition("; ")[2] for text in texts.values()] == [
        "run `PRAGMA graft_push` again",
        "run `graft push main` again",
        "run `engine.push('main')` again",
    ]
    assert str(error) == texts[Audience.PYTHON]
    assert error.next_step == error.next_step_for(Audience.PYTHON)
    # What is kept for later has no audience yet.
    assert errors.summary(error) == error.message
    assert errors.summary(kind("it failed", next_step="wait")).endswith("; wait")


def test_a_text_without_advice_is_the_same_for_everyone():
    assert {words("wait", audience) for audience in Audience} == {"wait"}


PACKAGE = Path(graft_vfs.__file__).parent
VERB = re.compile(r"PRAGMA graft_|\bgraft_[a-z]+\b(?!\.)|`graft |\bengine\.[a-z_]+\(")
RENDERERS = {
    "advice.py": "the table",
    "vfs/pragmas.py": "answers SQL alone",
    "pager/unread.py": "runs a pragma",
    "pager/snapshots.py": "runs a pragma",
    "django": "runs pragmas",
    "integrations": "runs pragmas",
    "cli": "speaks to the command line alone",
}


def test_no_text_outside_the_renderers_names_a_pragma_or_a_command():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in RENDERERS or name.partition("/")[0] in RENDERERS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
            and VERB.search(node.value.replace("graft_vfs", ""))
        ]
    assert found == []


def test_the_command_line_names_no_pragma_as_a_next_step():
    for path in (PACKAGE / "cli").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"next_step=[^)]*(PRAGMA graft|graft_[a-z])", text), path
