"""Writes the generated pages of the manual: `python -m tests.support.reference`.

A test compares the committed pages with this module's output.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from graft_vfs import Config, Graft, RemoteConfig, cli, errors
from graft_vfs.cli import exit_codes
from graft_vfs.engine import config
from graft_vfs.errors import GraftError
from graft_vfs.vfs import pragmas, registry

MANUAL = Path(__file__).parents[2] / "graft_vfs" / "docs"
NOT_VERBS = {"check_process", "executor", "volume"}
"""Methods of the engine that are not verbs."""
_BEGIN = "<!-- made from the code by `python -m tests.support.reference` -->"
_END = "<!-- end of what is made from the code -->"
_GROUPS = {
    "": "Overview",
    "guides": "Guides",
    "reference": "Reference",
    "explanation": "Explanation",
}
_FORMATS = {
    "Remote": [
        "remote.log",
        "remote.entries",
        "remote.refs",
        "format.commit",
        "format.segment",
        "format.frame",
        "remote.tables",
        "format.table",
        "format.table_node",
        "format.table_leaf",
        "remote.names",
        "format.name",
        "format.lines",
        "remote.floor",
        "remote.rolls",
        "remote.pins",
        "remote.policy",
    ],
    "Local": [
        "local.branch_log",
        "local.chunk",
        "local.head",
        "local.catalog.file",
        "local.catalog.descriptor",
        "local.cache.arena",
    ],
}


def documents() -> dict[str, str]:
    """Return the generated pages by their path in the manual."""
    written = {"formats.md": formats()}
    written |= {f"reference/{name}.md": _filled(name, part()) for name, part in _PARTS.items()}
    return {**written, "index.md": index(written)}


def _filled(page: str, part: str) -> str:
    """Return a page of the reference with a new part between the two comments."""
    text = (MANUAL / "reference" / f"{page}.md").read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    return before + _BEGIN + "\n" + part.strip("\n") + "\n\n" + _END + rest.split(_END)[1]


def index(written: dict[str, str]) -> str:
    """Return the list of topics: the name of each page and its first paragraph."""
    pages = {
        str(path.relative_to(MANUAL)): path.read_text(encoding="utf-8")
        for path in sorted(MANUAL.rglob("*.md"))
        if path.name != "index.md"
    } | written
    lines = ["# The manual of graft-vfs", "", "`graft help TOPIC` prints a page."]
    for folder, title in _GROUPS.items():
        lines += ["", f"## {title}", ""]
        for path in sorted(pages):
            if str(Path(path).parent) == (folder or "."):
                paragraph = " ".join(pages[path].split("\n\n")[1].split())
                summary = re.split(r"(?<=\.) (?=[A-Z\[])", paragraph)[0]
                lines.append(f"- [{Path(path).stem}]({path}): {summary}")
    return "\n".join(lines) + "\n"


def formats() -> str:
    """Return the formats of files and objects, from the modules that read and write them."""
    return "\n".join(_formats())


def _formats() -> Iterator[str]:
    yield "# Formats"
    yield ""
    yield "The files of a data directory and the objects of a remote, byte by byte. Each section"
    yield "is the docstring of the module that reads and writes the format: the normative text."
    for title, modules in _FORMATS.items():
        yield f"\n## {title}"
        for name in modules:
            text = importlib.import_module(f"graft_vfs.{name}").__doc__ or ""
            first, _, rest = text.strip().partition("\n")
            yield f"\n### {first.rstrip('.')}\n"
            yield f"`graft_vfs.{name}`\n"
            yield "```text"
            yield re.sub(r"\n{3,}", "\n\n", rest.strip("\n"))
            yield "```"
    yield ""


def _item(name: str, text: str) -> str:
    return _wrapped(f"- {name}: {text}", "  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def pragmas_part() -> str:
    """Return all pragmas, as the docstring of their module describes them."""
    found = re.findall(
        r"^    (graft_.*)\n((?: {8}.*\n)+)",
        inspect.cleandoc(pragmas.__doc__ or "") + "\n",
        re.MULTILINE,
    )
    assert sorted(call.split()[0] for call, _ in found) == sorted(pragmas.NAMES)
    return "\n".join(_item(f"`{call}`", " ".join(text.split())) for call, text in found)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield all commands with the words that call them."""
    yield from _commands(cli.main, "graft")


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def commands_part() -> str:
    """Return all commands: call, help, options, examples."""
    return "\n\n".join(_command(path, command) for path, command in commands())


def _command(path: str, command: click.Command) -> str:
    arguments = [_argument(item) for item in command.params if isinstance(item, click.Argument)]
    options = [item for item in command.params if isinstance(item, click.Option)]
    paragraphs = (command.help or "").split("\n\n")
    examples = (command.epilog or "").splitlines()[2:]
    lines = [f"### `{' '.join([path, *arguments])}`", ""]
    lines += ["\n\n".join(_wrapped(" ".join(text.split())) for text in paragraphs), ""]
    lines += [_item(f"`{_option(item)}`", item.help or "") for item in options]
    lines += ["", "```", *(line.strip() for line in examples), "```"]
    return "\n".join(lines)


def _argument(item: click.Argument) -> str:
    name = item.metavar or (item.name or "").upper()
    return name if item.required or name.startswith("[") else f"[{name}]"


def _option(item: click.Option) -> str:
    names = ", ".join(item.opts)
    return names if item.is_flag else f"{names} {item.metavar or 'NUMBER'}"


def exit_codes_part() -> str:
    """Return the exit codes, as the docstring of their module lists them."""
    found = re.findall(r"^(\d+) +(.*)$", exit_codes.__doc__ or "", re.MULTILINE)
    known = {0, exit_codes.OTHER, exit_codes.INTERRUPTED, exit_codes.READER_GONE}
    assert {int(code) for code, _ in found} == known | set(exit_codes.EXIT_CODES.values())
    rows = [f"| {code} | {text.replace('|', chr(92) + '|')} |" for code, text in found]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])


def settings_part() -> str:
    """Return the settings, as the strings below the fields of the two classes describe them."""
    wanted = [*config._CHECKS, *config._LATER]
    lines = [_setting(key, f"GRAFT_{key.upper()}", _texts(Config)) for key in wanted]
    lines += ["", "The table `[remote]`:", ""]
    texts = _texts(RemoteConfig)
    lines += [_setting(key, f"GRAFT_REMOTE_{key.upper()}", texts) for key in config._REMOTE_KEYS]
    return "\n".join(lines)


def _setting(key: str, variable: str, texts: dict[str, str]) -> str:
    if key in config._LATER:
        default = config._LATER[key][0].split(" (")[0]
        return _item(
            f"`{key}`, `{variable}`", f"This version accepts only the default `{default}`."
        )
    return _item(f"`{key}`, `{variable}`", texts[key])


def _texts(kind: type) -> dict[str, str]:
    """Return the string that stands below each field of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def uri_part() -> str:
    """Return the URI parameters, as the docstring of `uri` describes them."""
    text = inspect.cleandoc(registry.uri.__doc__ or "").partition("\n\n")[2] + "\n"
    found = re.findall(r"^(\w+): (.*\n(?: {4}.*\n)*)", text, re.MULTILINE)
    return "\n".join(_item(f"`{name}`", " ".join(meaning.split())) for name, meaning in found)


def errors_part() -> str:
    """Return the errors with their exit codes, as their docstrings describe them."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, GraftError)
    ]
    return "\n\n".join(_error(kind) for kind in kinds)


def _error(kind: type[GraftError]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    what, _, rest = text.partition("How to see it: ")
    seen, _, step = rest.partition("Next step: ")
    assert seen, kind
    assert step, kind
    code = exit_codes.exit_code(kind.__new__(kind))
    base = f" A kind of `{kind.__base__.__name__}`." if kind is not GraftError else ""
    lines = [
        f"### `{kind.__name__}`",
        "",
        _wrapped(f"{' '.join(what.split())} Exit code {code}.{base}"),
        "",
    ]
    lines += [_item("How to see it", " ".join(seen.split()))]
    return "\n".join([*lines, _item("Next step", " ".join(step.split()))])


def python_part() -> str:
    """Return the verbs of the engine with the first paragraph of their docstrings."""
    return "\n".join(
        _item(f"`{name}`", " ".join(inspect.cleandoc(verb.__doc__ or "").split("\n\n")[0].split()))
        for name, verb in inspect.getmembers(Graft, callable)
        if not name.startswith("_") and name not in NOT_VERBS
    )


_PARTS: dict[str, Callable[[], str]] = {
    "pragmas": pragmas_part,
    "commands": commands_part,
    "exit-codes": exit_codes_part,
    "settings": settings_part,
    "uri": uri_part,
    "errors": errors_part,
    "python": python_part,
}


def write() -> None:
    """Write all generated pages."""
    for name, text in documents().items():
        (MANUAL / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
