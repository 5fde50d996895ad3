"""Tags: the names of volumes on this machine. Any text is valid, because tags are never paths.

Names of commits are stricter, so that none can be taken for another way to name a commit.
"""

from __future__ import annotations

from graft_vfs.errors import InvalidTagError

TAG_CHARACTERS_MAX = 512
NAME_CHARACTERS_MAX = 100

_NOT_IN_NAMES = frozenset(" ~^:\\")


def check_tag(tag: str) -> str:
    """Return the tag, or raise InvalidTagError."""
    # Python decodes arguments that are not UTF-8 to lone surrogates, which SQLite cannot store.
    text = tag.isascii() or not any("\ud800" <= character <= "\udfff" for character in tag)
    if not tag or "\0" in tag or len(tag) > TAG_CHARACTERS_MAX or not text:
        shown = tag if len(tag) <= 40 else tag[:40] + "…"
        raise InvalidTagError(
            f"{shown!r} is not a tag",
            next_step=f"use 1 to {TAG_CHARACTERS_MAX} characters of Unicode without NUL",
        )
    return tag


def is_commit_name(text: str) -> bool:
    """Return True if a text may be the name of a commit, whatever else it may mean.

    1 to 100 printable characters and not only digits, without spaces, tildes, carets, colons,
    backslashes and `..`, and not beginning with `-` or `.`.
    """
    return (
        0 < len(text) <= NAME_CHARACTERS_MAX
        and text.isprintable()
        and not text.isdigit()
        and _NOT_IN_NAMES.isdisjoint(text)
        and ".." not in text
        and text[0] not in "-."
    )
