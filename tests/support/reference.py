"""Writes the pages of the manual that follow from the code: `python -m tests.support.reference`.

A test compares what is committed with what this module writes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

MANUAL = Path(__file__).parents[2] / "graft_vfs" / "docs"
_GROUPS = {
    "": "Overview",
    "guides": "Guides",
    "reference": "Reference",
    "explanation": "Explanation",
}
_FORMATS = {
    "Remote": ["remote.log", "format.commit", "format.segment", "format.frame"],
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
    return {**written, "index.md": index(written)}


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
    """Return the formats of files and objects, as the modules that read and write them state."""
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


def write() -> None:
    """Write all generated pages."""
    for name, text in documents().items():
        (MANUAL / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
