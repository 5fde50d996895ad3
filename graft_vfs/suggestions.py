"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_CHARACTERS_MAX = 64
_NAMES_MAX = 2
_ALIKE = 0.6
_AS_GOOD = 0.05


def alike(word: str, known: Iterable[str]) -> list[str]:
    """Return the known name most similar to a word, ignoring case, or two equally similar ones."""
    names = {_folded(name): name for name in known if len(name) <= _CHARACTERS_MAX}
    word = _folded(word[:_CHARACTERS_MAX])
    close = difflib.get_close_matches(word, names, _NAMES_MAX, _ALIKE)
    scores = [difflib.SequenceMatcher(None, name, word).ratio() for name in close]
    return [
        names[name]
        for name, score in zip(close, scores, strict=True)
        if score >= scores[0] - _AS_GOOD
    ]


def _folded(name: str) -> str:
    """Return a name without what people do not see, or take for the same."""
    return unicodedata.normalize("NFC", name).lower()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? ` as the start of a next step; "" if nothing is similar."""
    found = alike(word, known)
    return f"did you mean {' or '.join(map(repr, found))}? " if found else ""
