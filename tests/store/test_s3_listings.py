"""Listings and deletions of the S3 store on scripted answers."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from graft_vfs.errors import (
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.store import ObjectInfo

from .scripted import Request, answer, held


def listing(*names: str, token: str = "", prefix: str = "") -> bytes:
    contents = "".join(
        f"<Contents><Key>{name}</Key><Size>{len(name)}</Size></Contents>" for name in names
    )
    more = f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>"
    next_token = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    more += f"<Prefix>{prefix}</Prefix>"
    body = f"<ListBucketResult>{more}{next_token}{contents}</ListBucketResult>"
    return answer(200, body.encode(), content_type="application/xml")


def test_pages_follow_their_token_and_shrink_to_the_limit(scripted):
    scripted.script = [
        listing("p/a", "p/b", token="next", prefix="p/"),
        listing(token="third", prefix="p/"),
        listing("p/c", prefix="p/"),
    ]
    with scripted.store(prefix="p") as store:
        assert list(store.keys("", limit=5)) == ["a", "b", "c"]
    targets = [request.target for request in scripted.requests]
    assert "max-keys=5" in targets[0]
    assert "start-after" not in targets[0]
    assert "max-keys=3" in targets[1]
    assert "continuation-token=next" in targets[1]
    assert "continuation-token=third" in targets[2]


def test_a_listing_starts_after_a_key(scripted):
    scripted.script = [listing(prefix="p/refs/")]
    with scripted.store(prefix="p") as store:
        assert list(store.keys("refs/", start_after="refs/m")) == []
    assert "start-after=p%2Frefs%2Fm" in scripted.requests[0].target
    assert "max-keys=1000" in scripted.requests[0].target


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["p/b", "p/a"], "does not list keys in order"),
        (["p/c", "p/c"], "does not list keys in order"),
        (["p/a"], "does not list keys in order"),
        (["q/a"], "not requested"),
    ],
)
def test_a_listing_that_would_mislead_is_refused(scripted, names, complaint):
    scripted.script = [listing(*names, prefix="p/")]
    with scripted.store(prefix="p") as store, pytest.raises(StoreError, match=complaint):
        list(store.keys("", start_after="a"))


def test_a_listing_that_repeats_its_pages_is_refused(scripted):
    scripted.script = [listing("a", token="again")]
    with scripted.store() as store, pytest.raises(StoreError, match="in order"):
        list(store.keys(""))


def test_an_endless_listing_is_refused(scripted):
    scripted.script = [listing(token="again")]
    with scripted.store() as store, pytest.raises(StoreError, match="endless"):
        list(store.keys(""))
    assert len(scripted.requests) < 20


def test_a_listing_has_sizes_and_times(scripted):
    shown = "<Key>k</Key><LastModified>2026-01-31T12:00:00.500Z</LastModified><Size>7</Size>"
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated><Contents>{shown}</Contents>"
    scripted.script = [answer(200, f"{body}</ListBucketResult>".encode())]
    with scripted.store() as store:
        (found,) = store.list("")
    assert found == ObjectInfo("k", 7, 1769860800.5)


def test_a_listing_without_sizes_is_refused(scripted):
    scripted.script = [listing("k").replace(b"<Size>1</Size>", b"<Sise>1</Sise>")]
    with scripted.store() as store, pytest.raises(StoreError, match="without their size"):
        list(store.list(""))


def test_the_date_of_a_portals_page_is_not_the_stores_time(scripted):
    wrong = "Thu, 01 Jan 1970 00:00:00 GMT"
    page = answer(200, b"<html>log in</html>", date=wrong)
    with scripted.store(attempts_max=1) as store:
        for reply in (page, answer(403, b"<html>no</html>", date=wrong)):
            scripted.script = [reply]
            with pytest.raises(StoreError):
                store.get("k")
            assert store.clock_ahead_seconds() is None
        scripted.script = [held(b"x", date=wrong)]
        store.get("k")
        assert store.clock_ahead_seconds() > 10**9


# Deleting many


def deleted(request: Request, *, without: str = "", errors: str = "") -> bytes:
    """Answer a batch as a store does that removed all of it but one."""
    names = re.findall(rb"<Key>([^<]*)</Key>", request.body)
    done = "".join(
        f"<Deleted><Key>{name.decode()}</Key></Deleted>"
        for name in names
        if name.decode() != without
    )
    return answer(200, f"<DeleteResult>{done}{errors}</DeleteResult>".encode())


def refused(code: str) -> str:
    return f"<Error><Key>p/k1</Key><Code>{code}</Code><Message>m</Message></Error>"


def test_objects_are_deleted_with_one_request_per_thousand(scripted):
    scripted.script = [deleted]
    with scripted.store(prefix="p") as store:
        store.delete_many(f"k{number}" for number in range(2001))
        assert store.counters.snapshot().delete == 3
    assert [request.body.count(b"<Key>") for request in scripted.requests] == [1000, 1000, 1]
    for request in scripted.requests:
        assert (request.method, request.target) == ("POST", "/bucket?delete")
        digest = base64.b64encode(hashlib.md5(request.body).digest()).decode()
        assert request.headers["content-md5"] == digest
        assert not [name for name in request.headers if "checksum" in name]


@pytest.mark.parametrize(
    ("errors", "declared"),
    [
        ("", StoreUnavailableError),
        (refused("AccessDenied"), StoreDeniedError),
        (refused("InternalError"), StoreUnavailableError),
        (refused("ObjectLocked"), StoreError),
    ],
)
def test_a_deletion_needs_an_answer_that_names_the_object(scripted, errors, declared):
    scripted.script = [lambda request: deleted(request, without="p/k1", errors=errors)]
    with scripted.store(prefix="p") as store, pytest.raises(declared, match="'k1'"):
        store.delete_many(["k0", "k1"])


def test_absent_objects_and_single_failures_do_not_stop_a_deletion(scripted):
    scripted.script = [
        lambda request: deleted(request, without="p/k1", errors=refused("SlowDown")),
        lambda request: deleted(request, without="p/k1", errors=refused("NoSuchKey")),
    ]
    with scripted.store(prefix="p") as store:
        store.delete_many(["k0", "k1"])
    assert len(scripted.requests) == 2


def test_the_listing_of_another_prefix_is_refused(scripted):
    scripted.script = [listing(prefix="p/refs/")]
    with scripted.store(prefix="p") as store:
        assert list(store.keys("refs/")) == []
        with pytest.raises(StoreUnavailableError, match="another listing"):
            list(store.keys("logs/"))


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"\0\1\2", b""])
def test_an_invalid_listing_is_not_parsed_as_an_empty_one(scripted, body):
    scripted.script = [answer(200, body)]
    with scripted.store() as store, pytest.raises(StoreUnavailableError):
        list(store.keys(""))
