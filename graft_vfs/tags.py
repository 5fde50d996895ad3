"""Tags: the names of volumes on this machine. Any text is valid, because tags are never paths."""

from __future__ import annotations

from graft_vfs.errors import InvalidTagError

TAG_CHARACTERS_MAX = 512


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
