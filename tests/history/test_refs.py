"""Refs as they are typed: what each text says, whatever is known here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft_vfs.errors import UsageError
from graft_vfs.history.refs import (
    BASE,
    HEAD,
    Base,
    Head,
    Local,
    Moment,
    Named,
    Ref,
    Remote,
    Span,
    check_name,
    parse,
    parse_span,
)
from graft_vfs.pages import LSN_MAX

LOG = "74ggc1B6R4-2kkvcy9fi4CHJ"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HEAD", HEAD),
        ("head", HEAD),
        ("BASE", BASE),
        ("HEAD~", Ref(Head(), 1)),
        ("HEAD^", Ref(Head(), 1)),
        ("HEAD~2", Ref(Head(), 2)),
        ("head^^~3~", Ref(Head(), 6)),
        ("HEAD~0", HEAD),
        ("base~1", Ref(Base(), 1)),
        ("7", Ref(Remote(7))),
        ("0", Ref(Remote(0))),
        ("20260131", Ref(Remote(20260131))),
        ("7~3", Ref(Remote(7), 3)),
        ("local:3", Ref(Local(3))),
        ("local:3~1", Ref(Local(3), 1)),
        (f"{LOG}:7", Ref(Remote(7, LOG))),
        (f"{LOG[:5]}:7~", Ref(Remote(7, LOG[:5]), 1)),
        ("no-id:7", Ref(Remote(7, "no-id"))),
        ("v1.0", Ref(Named("v1.0"))),
        ("größe/1~2", Ref(Named("größe/1"), 2)),
        ("HEADS", Ref(Named("HEADS"))),
        ("2 hours ago", Ref(Moment("2 hours ago"))),
        ("2 hours ago~1", Ref(Moment("2 hours ago"), 1)),
        ("2026-01-31", Ref(Moment("2026-01-31"))),
        ("2026-01-31T12:00", Ref(Moment("2026-01-31T12:00"))),
        ("2026-01-31T12:00:59.123Z", Ref(Moment("2026-01-31T12:00:59.123Z"))),
    ],
)
def test_a_text_is_the_first_form_that_it_can_be(text, expected) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


def test_digits_may_be_a_time_if_a_time_is_expected() -> None:
    assert parse("20260131", prefers_time=True) == Ref(Moment("20260131"))
    assert parse("7", prefers_time=True) == Ref(Remote(7))


@pytest.mark.parametrize(
    "text",
    ["", "~1", "^", "HEAD~x", "HEAD~-1", "HEAD~1 ", "7 ~1", "-1", "local:", "local:x", ":7", "7:",
     "a b", "٣", "HEAD~" + "9" * 19, "9" * 30, "1..2", "..", "HEAD~1..", "\0", "12:30:00",
     "12:30", "a:b:7", "x" * 101, "-x", ".x", "a\\b", "a\nb"],
)  # fmt: skip
def test_a_text_that_names_no_commit_is_refused_with_examples(text) -> None:
    with pytest.raises(UsageError, match=r"names (no commit|two commits)") as caught:
        parse(text)
    assert "HEAD~1" in caught.value.next_step
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["v1", "1e3", "before-migration", "größe/1", "x" * 100, "HEADS"])
def test_what_says_nothing_else_can_name_a_commit(name) -> None:
    assert check_name(name) == name
    assert parse(name) == Ref(Named(name))


@pytest.mark.parametrize(
    "name",
    ["", "HEAD", "head", "Base", "LOCAL", "today", "7", "9" * 30, "2026-01-31", "2026-W05-1", "a b",
     "a..b", "-d", ".x", "a~b", "a^", "a:7", "x" * 101, "\u202e", "\n"],
)  # fmt: skip
def test_what_a_ref_may_say_otherwise_cannot_name_a_commit(name) -> None:
    with pytest.raises(UsageError, match=r"cannot name a commit|names a commit already") as caught:
        check_name(name)
    assert "v1.0" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1..7", Span(Ref(Remote(1)), Ref(Remote(7)))),
        ("1..", Span(Ref(Remote(1)), HEAD)),
        ("..1", Span(HEAD, Ref(Remote(1)))),
        ("HEAD~2..HEAD", Span(Ref(Head(), 2), HEAD)),
        ("2 hours ago..local:7~1", Span(Ref(Moment("2 hours ago")), Ref(Local(7), 1))),
        ("3", Span(Ref(Remote(3)), HEAD)),
    ],
)
def test_a_missing_side_of_a_span_is_head(text, expected) -> None:
    assert parse_span(text) == expected
    assert parse_span(str(expected)) == expected


@pytest.mark.parametrize("text", ["1...7", "1..2..3", "1....7", "...", "-x..7"])
def test_an_invalid_span_is_refused(text) -> None:
    with pytest.raises(UsageError):
        parse_span(text)


numbers = st.integers(0, LSN_MAX)
states = st.one_of(
    st.just(Head()),
    st.just(Base()),
    st.builds(Local, numbers),
    st.builds(Remote, numbers, st.sampled_from(["", LOG, LOG[:4], "no-id"])),
    st.builds(Named, st.sampled_from(["v1", "größe/1", "x" * 100, "1e3", "@"])),
    st.builds(Moment, st.datetimes().map(lambda moment: moment.isoformat())),
    st.builds(Moment, st.integers(0, 99).map(lambda number: f"{number} days ago")),
)
refs = st.builds(Ref, states, st.integers(0, 10**18 - 1))


@given(refs)
def test_a_printed_ref_parses_as_that_ref(ref) -> None:
    assert parse(str(ref)) == ref


@given(refs, refs)
def test_a_printed_span_parses_as_that_span(older, newer) -> None:
    assert parse_span(str(Span(older, newer))) == Span(older, newer)


pieces = st.sampled_from(["HEAD", "base", "local:", "~", "^", "..", ":", "7", LOG, " ago", "2026-"])


@given(st.one_of(st.text(max_size=40), st.lists(pieces, max_size=6).map("".join)))
def test_any_text_is_a_ref_or_refused(text) -> None:
    for read in (parse, parse_span, lambda text: parse(text, prefers_time=True)):
        try:
            found = read(text)
        except UsageError:
            continue
        assert read(str(found)) == found
