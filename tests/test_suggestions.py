"""What a mistyped name may have meant."""

from __future__ import annotations

import pytest

from graft_vfs.suggestions import alike, did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("mian", ["main", "side"], ["main"]),
        ("MAIN", ["main", "side"], ["main"]),
        ("oders", ["Orders", "order", "older"], ["Orders"]),
        ("tablee", ["tables", "tabler"], ["tables", "tabler"]),
        ("x", ["main"], []),
        ("", ["main"], []),
        ("main", [], []),
        ("main" * 1000, ["main" * 1000, "main"], []),
    ],
)
def test_names_that_are_alike_are_found(word, known, found):
    assert alike(word, known) == found


def test_the_text_is_the_beginning_of_a_next_step():
    assert did_you_mean("mian", ["main"]) == "did you mean 'main'? "
    assert did_you_mean("table", ["tables", "cable"]) == "did you mean 'tables'? "
    assert did_you_mean("tablee", ["tables", "tabler"]) == "did you mean 'tables' or 'tabler'? "
    assert did_you_mean("nothing", ["main"]) == ""


def test_another_spelling_of_the_same_letter_is_meant():
    for one, other in (("é", "e\u0301"), ("e\u0301", "é"), ("CAFE\u0301", "café")):
        assert alike(one, ["x", other]) == [other]
