"""The S3 store on scripted answers: every outcome, and what must not leak."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import socket
import traceback

import pytest
from botocore.httpsession import URLLib3Session

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    ConfigError,
    CorruptObjectError,
    GraftError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    UsageError,
)
from graft_vfs.store import ObjectInfo, PutOutcome, check_conditional_writes
from graft_vfs.store.s3 import S3Store
from tests.support.servers import S3Endpoint

from .scripted import Request, answer, error, held, landed

# Outcomes of a create-only write


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (landed, PutOutcome.CREATED),
        (error(412, "PreconditionFailed"), PutOutcome.EXISTS),
        (error(409, "ConditionalRequestConflict"), PutOutcome.RACING),
        (error(409, "SomeOtherConflict"), PutOutcome.RACING),
    ],
)
def test_a_claim_with_a_known_outcome(scripted, reply, outcome):
    scripted.script = [reply]
    with scripted.store() as store:
        assert store.put_if_absent("k", b"data") is outcome
        assert store.counters.snapshot().put_if_absent == 1
    (request,) = scripted.requests
    assert (request.method, request.target, request.body) == ("PUT", "/bucket/k", b"data")
    assert request.headers["if-none-match"] == "*"
    assert not [name for name in request.headers if "checksum" in name or "crc" in name]


@pytest.mark.parametrize(
    ("reply", "declared"),
    [
        (None, CommitOutcomeUnknownError),
        (b"HTTP/1.1 2", CommitOutcomeUnknownError),
        (answer(412), CommitOutcomeUnknownError),
        (b"this is no HTTP\r\n\r\n", CommitOutcomeUnknownError),
        (error(500, "InternalError"), CommitOutcomeUnknownError),
        (answer(502, b"<html>bad gateway</html>"), CommitOutcomeUnknownError),
        (error(503, "SlowDown"), CommitOutcomeUnknownError),
        (error(400, "RequestTimeout"), CommitOutcomeUnknownError),
        (error(403, "AccessDenied"), StoreDeniedError),
        (error(403, "SignatureDoesNotMatch"), StoreDeniedError),
        (error(404, "NoSuchBucket"), BucketMissingError),
        (error(429, "TooManyRequests"), CommitOutcomeUnknownError),
        # Whatever is no answer of a store proves nothing.
        (answer(404, b"<html>not found</html>"), CommitOutcomeUnknownError),
        (answer(403, b"<html>blocked by policy</html>"), CommitOutcomeUnknownError),
        (answer(501, b"<html>no</html>"), CommitOutcomeUnknownError),
        (answer(302, location="https://portal.example/login"), CommitOutcomeUnknownError),
        (answer(200), CommitOutcomeUnknownError),
        (answer(200, b"<html>Welcome to our wireless</html>"), CommitOutcomeUnknownError),
        (answer(200, etag='"x"'), CommitOutcomeUnknownError),
        (answer(202, etag='"8d777f385d3dfec8815d20f7496026dc"'), CommitOutcomeUnknownError),
        (answer(204, etag='"8d777f385d3dfec8815d20f7496026dc"'), CommitOutcomeUnknownError),
        (error(501, "NotImplemented"), UnsafeStoreError),
        (error(400, "EntityTooLarge"), StoreError),
    ],
)
def test_a_claim_that_is_sent_once_and_fails(scripted, reply, declared):
    scripted.script = [reply]
    with scripted.store() as store, pytest.raises(GraftError) as caught:
        store.put_if_absent("k", b"data")
    assert type(caught.value) is declared
    assert caught.value.next_step
    assert len(scripted.requests) == 1
    assert store.counters.snapshot().requests == 1


def test_a_claim_that_is_not_answered_in_time_is_unknown(scripted):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = S3Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with endpoint.store("bucket", read_timeout_seconds=0.2) as store:
            with pytest.raises(CommitOutcomeUnknownError, match="ReadTimeoutError"):
                store.put_if_absent("k", b"data")
            assert store.counters.snapshot().requests == 1


def test_a_claim_at_a_closed_door_is_known_not_to_have_landed():
    with socket.socket() as reserved:
        # A port that is bound but does not listen refuses connections, and nobody else gets it.
        reserved.bind(("127.0.0.1", 0))
        endpoint = S3Endpoint(f"http://127.0.0.1:{reserved.getsockname()[1]}")
        with endpoint.store("bucket", attempts_max=1) as store:
            for call in (
                lambda: store.put_if_absent("k", b"data"),
                lambda: store.get("k"),
                lambda: store.put("k", [b"data"]),
                lambda: store.delete("k"),
                lambda: list(store.keys("")),
            ):
                with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                    call()


def test_without_credentials_nothing_is_sent(scripted, monkeypatch):
    with scripted.endpoint.identity():
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with S3Store("bucket", endpoint=scripted.endpoint.url) as store:
            for call in (
                lambda: store.put_if_absent("k", b"data"),
                lambda: store.get("k"),
            ):
                with pytest.raises(StoreDeniedError, match="AWS_ACCESS_KEY_ID"):
                    call()
    assert scripted.requests == []


# Outcomes of the other requests


@pytest.mark.parametrize(
    ("reply", "declared"),
    [
        (error(404, "NoSuchKey"), ObjectMissingError),
        # A gateway's page, which does not say that the object is absent.
        (answer(404), StoreUnavailableError),
        (answer(404, b"<html>default backend</html>"), StoreUnavailableError),
        (answer(200, b"<html>hello</html>", content_type="text/html"), StoreUnavailableError),
        (answer(204), StoreUnavailableError),
        # Portals that answer in text or JSON, or with the weak tag of a framework for web pages.
        (answer(200, b"log in first", content_type="text/plain"), StoreUnavailableError),
        (answer(200, b'{"login": true}', content_type="application/json"), StoreUnavailableError),
        (answer(200, b"log in first", etag='W/"c-zq1"'), StoreUnavailableError),
        (answer(200, b"log in first", etag='""'), StoreUnavailableError),
        (answer(206, b"log in", content_range="bytes 0-5/6"), StoreUnavailableError),
        (error(404, "NoSuchBucket"), BucketMissingError),
        (error(403, "AccessDenied"), StoreDeniedError),
        (error(403, "InvalidObjectState"), StoreError),
        (error(400, "ExpiredToken"), StoreDeniedError),
        (error(400, "Some.Dotted"), StoreError),
        (error(500, "InternalError"), StoreUnavailableError),
        (error(503, "SlowDown"), StoreUnavailableError),
        (error(409, "OperationAborted"), StoreUnavailableError),
        (error(412, "PreconditionFailed"), StoreError),
        (error(416, "InvalidRange"), StoreError),
        (answer(416, b"<html>no</html>"), StoreUnavailableError),
        (error(400, "AuthorizationHeaderMalformed"), StoreError),
        (error(400, "Whatever"), StoreError),
        (None, StoreUnavailableError),
    ],
)
def test_a_read_that_fails(scripted, reply, declared):
    scripted.script = [reply]
    with scripted.store() as store, pytest.raises(GraftError) as caught:
        store.get("k")
    assert type(caught.value) is declared


def test_a_bucket_in_another_region_is_named(scripted):
    scripted.script = [
        answer(301, x_amz_bucket_region="eu-west-1"),
        error(301, "PermanentRedirect"),
        error(400, "AuthorizationHeaderMalformed"),
        answer(301, x_amz_bucket_region="no region"),
    ]
    with scripted.store() as store:
        with pytest.raises(StoreError, match="another region; set the region eu-west-1"):
            store.get("k")
        for _ in scripted.script[1:]:
            with pytest.raises(StoreError, match="another region; set the bucket's region"):
                store.put_if_absent("k", b"x")
    assert len(scripted.requests) == 4, "a server must not make boto3 ask again"


def test_small_objects_are_sent_without_waiting_for_consent(scripted):
    scripted.script = [landed]
    with scripted.store() as store:
        store.put_if_absent("k", b"x")
        store.put("k", [b"x"])
    assert [request.headers.get("expect") for request in scripted.requests] == [None, None]


def test_a_denied_read_says_that_the_permission_to_list_may_be_missing(scripted):
    scripted.script = [error(403, "AccessDenied")]
    with scripted.store() as store:
        for read in (lambda: store.get("k"), lambda: store.get_range("k", 0, 1)):
            with pytest.raises(StoreDeniedError, match="s3:ListBucket"):
                read()


def test_a_range_beyond_the_end_is_empty(scripted):
    scripted.script = [error(416, "InvalidRange")]
    with scripted.store() as store:
        assert store.get_range("k", 100, 10) == b""
    assert scripted.requests[0].headers["range"] == "bytes=100-109"


@pytest.mark.parametrize("body", [b"", b"<html>416 Requested Range Not Satisfiable</html>"])
def test_a_416_page_is_no_proof_that_an_object_is_empty(scripted, body):
    scripted.script = [answer(416, body, content_type="text/html")]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="a page of its own"):
        store.get_range("k", 0, 10)


@pytest.mark.parametrize("status", [409, 412])
def test_a_page_is_no_proof_that_a_claim_was_refused(scripted, status):
    scripted.script = [answer(status, b"<html>no</html>", content_type="text/html")]
    with scripted.store() as store:
        with pytest.raises(CommitOutcomeUnknownError, match="a page of its own") as caught:
            store.put_if_absent("k", b"x")
        with pytest.raises(StoreUnavailableError, match="no clear answer"):
            check_conditional_writes(store, sleep=lambda _: None)
    assert caught.value.was_answered


def test_a_page_is_no_proof_that_an_object_was_deleted(scripted):
    page = answer(200, b"<html>log in first</html>", content_type="text/html")
    scripted.script = [page]
    with scripted.store() as store, pytest.raises(StoreUnavailableError):
        store.delete("k")
    scripted.requests.clear()
    scripted.script = [answer(200), error(404, "NoSuchKey")]
    with scripted.store() as store:
        store.delete("k")
    assert [request.method for request in scripted.requests] == ["DELETE", "GET"]


def test_reads_and_writes_are_retried(scripted):
    scripted.script = [error(500, "InternalError"), held(b"data")]
    with scripted.store() as store:
        assert store.get("k") == b"data"
        assert store.counters.snapshot().get == 2
        scripted.requests.clear()
        scripted.script = [error(500, "InternalError"), landed]
        store.put("k", [b"data"])
        assert store.counters.snapshot().put == 2
        assert store.counters.snapshot().bytes_sent == 8
        assert store.counters.snapshot().retries == 2
        counts = {verb: sum(found.buckets) for verb, found in store.counters.latencies().items()}
        assert counts == {"get": 2, "put": 2}


def test_a_body_cut_short_is_read_again(scripted):
    cut = answer(200, b"dat", content_length="4")
    scripted.script = [cut, held(b"data")]
    with scripted.store() as store:
        assert store.get("k") == b"data"
        assert store.counters.snapshot().get == 2
        assert store.counters.snapshot().retries == 1
        assert store.counters.snapshot().bytes_received == 4


@pytest.mark.parametrize("headers", [{}, {"transfer_encoding": "chunked"}])
def test_a_body_always_cut_short_is_unavailable(scripted, headers):
    body = b"5\r\nda" if headers else b"da"
    scripted.script = [answer(200, body, **(headers or {"content_length": "4"}))]
    with scripted.store() as store:
        with pytest.raises(StoreUnavailableError, match="in full"):
            store.get("k")
        with pytest.raises(StoreUnavailableError, match="in full"):
            store.get_range("k", 0, 100)
    assert len(scripted.requests) == 4


@pytest.mark.filterwarnings("ignore:tzname .* identified but not understood")
@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get("k"),
        lambda store: store.get_range("k", 0, 4),
        lambda store: list(store.keys("")),
    ],
    ids=["get", "get_range", "list"],
)
def test_an_answer_cut_in_its_head_is_not_taken_for_an_empty_one(scripted, read):
    date = "Wed, 01 Jan 2025 00:00:00 GMT"
    reply = held(b"data", 206, last_modified=date, content_range="bytes 0-3/10")
    with scripted.store(attempts_max=1) as store:
        for cut in range(reply.index(b"data")):
            scripted.script = [reply[:cut]]
            with pytest.raises(StoreUnavailableError, match="in full"):
                read(store)


@pytest.mark.parametrize("start", [None, 0])
def test_an_answer_whose_head_cannot_be_read_is_closed(scripted, monkeypatch, start):
    answers = []
    send = URLLib3Session.send

    def keep(session, request):
        answers.append(send(session, request))
        return answers[-1]

    monkeypatch.setattr(URLLib3Session, "send", keep)
    scripted.script = [answer(200, b"data", last_modified="Wed, 01 J")]
    with scripted.store(attempts_max=1) as store, pytest.raises(StoreUnavailableError):
        store.get("k") if start is None else store.get_range("k", start, 4)
    assert [one.raw.closed for one in answers] == [True]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_bounds_is_not_read(scripted, chunked):
    if chunked:
        reply = held(b"ffffff\r\n" + b"x" * 5000, transfer_encoding="chunked")
        reply = reply.replace(b"content-length: 5008\r\n", b"")
    else:
        reply = held(b"x" * 5000, content_length=str(1 << 50))
    scripted.script = [reply]
    with scripted.store() as store, pytest.raises(CorruptObjectError, match="'k'"):
        store.get("k", limit_bytes=1000)
    assert len(scripted.requests) == 1


def test_a_server_that_knows_no_ranges(scripted):
    scripted.script = [held(b"0123456789")]
    with scripted.store() as store:
        assert store.get_range("k", 0, 4) == b"0123"
        assert store.get_range("k", 0, 40) == b"0123456789"
        with pytest.raises(StoreError, match="ignores range requests"):
            store.get_range("k", 3, 4)


def test_a_server_that_answers_another_range(scripted):
    scripted.script = [held(b"0123", 206, content_range="bytes 0-3/10")]
    with scripted.store() as store, pytest.raises(StoreError, match="another range"):
        store.get_range("k", 3, 4)


def test_a_server_that_answers_too_much(scripted):
    scripted.script = [held(b"0123456789", 206, content_range="bytes 3-12/20")]
    with scripted.store() as store, pytest.raises(StoreError, match="more bytes"):
        store.get_range("k", 3, 4)


@pytest.mark.parametrize("shown", [None, "", "bytes 3-6/*", "bytes */20", "bytes 4-7/20"])
def test_a_range_needs_proof_of_where_it_is(scripted, shown):
    headers = {} if shown is None else {"content_range": shown}
    scripted.script = [held(b"3456", 206, **headers)]
    with scripted.store() as store, pytest.raises(StoreError, match="another range"):
        store.get_range("k", 3, 4)


def test_a_range_is_short_only_where_the_object_ends(scripted):
    scripted.script = [held(b"34", 206, content_range="bytes 3-4/5")]
    with scripted.store() as store:
        assert store.get_range("k", 3, 4) == b"34"
        scripted.script = [held(b"34", 206, content_range="bytes 3-4/20")]
        with pytest.raises(StoreError, match="fewer bytes"):
            store.get_range("k", 3, 4)


def test_a_large_page_is_not_an_object_that_is_too_large(scripted):
    scripted.script = [answer(200, b"x" * 50_000, content_type="text/plain")]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="no object"):
        store.get("k", limit_bytes=1000)


def test_an_absent_object_may_be_deleted_where_that_is_answered_404(scripted):
    scripted.script = [error(404, "NoSuchKey")]
    with scripted.store() as store:
        store.delete("k")
        scripted.script = [error(404, "NoSuchBucket")]
        with pytest.raises(BucketMissingError):
            store.delete("k")


# Replacing


def test_a_replacement_names_the_tag_of_what_it_replaces(scripted):
    scripted.script = [held(b"old"), landed]
    with scripted.store() as store:
        assert store.replace("k", b"old", b"new")
    read, write = scripted.requests
    assert (read.method, write.method, write.body) == ("GET", "PUT", b"new")
    assert write.headers["if-match"] == f'"{hashlib.md5(b"old").hexdigest()}"'


@pytest.mark.parametrize("lost", [None, answer(200), error(500, "InternalError")])
@pytest.mark.parametrize(("held_then", "outcome"), [(b"new", True), (b"his", False)])
def test_a_replacement_without_a_proof_is_settled_by_reading(scripted, lost, held_then, outcome):
    refused = error(412, "PreconditionFailed")
    scripted.script = [held(b"old"), lost, refused, held(held_then)]
    with scripted.store() as store:
        assert store.replace("k", b"old", b"new") is outcome
    assert [request.method for request in scripted.requests] == ["GET", "PUT", "PUT", "GET"]
    for write in scripted.requests[1:3]:
        assert "if-match" in write.headers


@pytest.mark.parametrize(
    ("reply", "declared"),
    [
        (error(403, "AccessDenied"), StoreDeniedError),
        (error(501, "NotImplemented"), StoreError),
        (answer(412, b"<html>no</html>"), StoreUnavailableError),
    ],
)
def test_a_replacement_that_is_refused_is_an_error(scripted, reply, declared):
    scripted.script = [held(b"old"), reply]
    with scripted.store() as store, pytest.raises(declared) as caught:
        store.replace("k", b"old", b"new")
    assert caught.value.next_step


# Listings


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
        (["q/a"], "not asked for"),
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


def test_a_listing_without_an_end_is_refused(scripted):
    scripted.script = [listing(token="again")]
    with scripted.store() as store, pytest.raises(StoreError, match="without an end"):
        list(store.keys(""))
    assert len(scripted.requests) < 20


def test_a_listing_tells_sizes_and_times(scripted):
    shown = "<Key>k</Key><LastModified>2026-01-31T12:00:00.500Z</LastModified><Size>7</Size>"
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated><Contents>{shown}</Contents>"
    scripted.script = [answer(200, f"{body}</ListBucketResult>".encode())]
    with scripted.store() as store:
        (found,) = store.list("")
    assert found == ObjectInfo("k", 7, 1769860800.5)


def test_an_object_without_a_size_is_no_listing(scripted):
    scripted.script = [listing("k").replace(b"<Size>1</Size>", b"<Sise>1</Sise>")]
    with scripted.store() as store, pytest.raises(StoreError, match="without their size"):
        list(store.list(""))


def test_the_time_of_a_page_is_not_that_of_the_store(scripted):
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


def test_many_objects_are_deleted_with_one_request_for_each_thousand(scripted):
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
def test_a_deletion_is_done_only_if_the_answer_names_the_object(scripted, errors, declared):
    scripted.script = [lambda request: deleted(request, without="p/k1", errors=errors)]
    with scripted.store(prefix="p") as store, pytest.raises(declared, match="'k1'"):
        store.delete_many(["k0", "k1"])


def test_what_is_absent_or_failed_once_is_deleted(scripted):
    scripted.script = [
        lambda request: deleted(request, without="p/k1", errors=refused("SlowDown")),
        lambda request: deleted(request, without="p/k1", errors=refused("NoSuchKey")),
    ]
    with scripted.store(prefix="p") as store:
        store.delete_many(["k0", "k1"])
    assert len(scripted.requests) == 2


def test_the_listing_of_another_prefix_is_no_answer(scripted):
    scripted.script = [listing(prefix="p/refs/")]
    with scripted.store(prefix="p") as store:
        assert list(store.keys("refs/")) == []
        with pytest.raises(StoreUnavailableError, match="another listing"):
            list(store.keys("logs/"))


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"\0\1\2", b""])
def test_what_is_no_listing_is_not_taken_for_an_empty_one(scripted, body):
    scripted.script = [answer(200, body)]
    with scripted.store() as store, pytest.raises(StoreUnavailableError):
        list(store.keys(""))


# Uploads in parts


MIB = 1024 * 1024
OPENED = answer(
    200, b"<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>"
)


def completed(request: Request) -> bytes:
    """Answer a completion as a store does that has exactly these parts."""
    tags = re.findall(rb"<ETag>[^0-9a-f]*([0-9a-f]{32})", request.body)
    digest = hashlib.md5(bytes.fromhex(b"".join(tags).decode())).hexdigest()
    text = f"<ETag>&quot;{digest}-{len(tags)}&quot;</ETag>"
    return answer(
        200, f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>".encode()
    )


def uploads(**replies):
    """Answer the steps of uploads: `open`, `part`, `complete`, `read`, `abort`; a list in turn."""

    def reply(request: Request):
        if request.method == "POST" and "uploads" in request.target:
            return said("open", OPENED, request)
        if request.method == "PUT":
            return said("part", landed, request)
        if request.method == "POST":
            return said("complete", completed, request)
        if request.method == "GET":
            return said("read", error(404, "NoSuchKey"), request)
        return said("abort", answer(204), request)

    def said(step: str, usual, request: Request):
        one = replies.get(step, usual)
        one = one.pop(0) if isinstance(one, list) else one
        return one(request) if callable(one) else one

    return reply


def steps(scripted) -> list[str]:
    return [request.method for request in scripted.requests]


def test_an_upload_that_fails_is_aborted(scripted):
    scripted.script = [uploads(part=error(403, "AccessDenied"))]
    with scripted.store() as store, pytest.raises(StoreDeniedError):
        store.put("k", [b"x" * MIB] * 100)
    assert steps(scripted)[-1] == "DELETE"
    assert steps(scripted).count("DELETE") == 1
    assert steps(scripted).count("PUT") < 13, "parts that had not begun are not sent"


def test_an_upload_that_cannot_be_aborted_says_why_it_failed(scripted):
    scripted.script = [
        uploads(complete=error(400, "InvalidPart"), abort=error(403, "AccessDenied"))
    ]
    with scripted.store() as store, pytest.raises(StoreError, match="InvalidPart"):
        store.put("k", [b"x" * MIB] * 9)


def test_a_forgotten_upload_is_sent_again(scripted):
    # What S3 answers when the first completion landed and only its answer was lost.
    scripted.script = [uploads(complete=[error(404, "NoSuchUpload"), completed])]
    with scripted.store() as store:
        store.put("k", [b"x" * MIB] * 9)
    assert steps(scripted) == ["POST", "PUT", "PUT", "POST", "GET", "POST", "PUT", "PUT", "POST"]


def test_an_upload_that_is_always_forgotten_fails(scripted):
    scripted.script = [uploads(complete=error(404, "NoSuchUpload"))]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="twice"):
        store.put("k", [b"x" * MIB] * 9)


SEGMENT = b"".join(bytes([number]) * MIB for number in range(9))


def whole_tail(request: Request):
    """Answer a read as a store does that has all of SEGMENT."""
    first, last = map(int, re.findall(r"\d+", request.headers["range"]))
    part = SEGMENT[first : last + 1]
    shown = f"bytes {first}-{first + len(part) - 1}/{len(SEGMENT)}"
    return held(part, 206, content_range=shown)


@pytest.mark.parametrize(
    "lost",
    [
        None,
        answer(200, b"<html>welcome</html>"),
        answer(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"),
        answer(204),
        error(500, "InternalError"),
        answer(504, b"<html>gateway timeout</html>"),
        error(404, "NoSuchUpload"),
    ],
    ids=["lost", "portal", "no tag", "empty", "500", "504", "repeated"],
)
def test_a_completion_that_proves_nothing_is_settled_by_reading(scripted, lost):
    scripted.script = [uploads(complete=[lost], read=whole_tail)]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "PUT", "PUT", "POST", "GET"], "nothing is sent twice"


def test_a_completion_that_takes_minutes_is_asked_for_until_the_object_is_whole(scripted):
    absent = error(404, "NoSuchKey")
    scripted.script = [
        uploads(
            complete=[None] * 5 + [error(404, "NoSuchUpload")], read=[absent] * 5 + [whole_tail]
        )
    ]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "PUT", "PUT"] + ["POST", "GET"] * 6


def test_a_completion_that_never_comes_is_an_error_and_the_upload_is_aborted(scripted):
    scripted.script = [uploads(complete=error(503, "SlowDown"))]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="throttling"):
        store.put("k", [SEGMENT])
    assert steps(scripted).count("POST") < 60
    assert steps(scripted)[-1] == "DELETE"
    assert steps(scripted).count("PUT") == 2


def test_an_object_that_ends_otherwise_is_not_taken_for_ours(scripted):
    shown = f"bytes {len(SEGMENT) - 16384}-{len(SEGMENT)}/{len(SEGMENT) + 1}"
    longer = held(SEGMENT[-16384:] + b"x", 206, content_range=shown)
    scripted.script = [uploads(complete=[None, completed], read=longer)]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "PUT", "PUT", "POST", "GET", "POST"]


PAGES_FOR_AN_UPLOAD = [answer(200), answer(204), answer(200, b"<html>log in</html>")]


@pytest.mark.parametrize("page", PAGES_FOR_AN_UPLOAD)
def test_an_upload_that_a_page_answers_is_begun_again(scripted, page):
    scripted.script = [uploads(open=[page, OPENED])]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "POST", "PUT", "PUT", "POST"]
    scripted.requests.clear()
    scripted.script = [uploads(open=page)]
    with (
        scripted.store() as store,
        pytest.raises(StoreUnavailableError, match="check the endpoint"),
    ):
        store.put("k", [SEGMENT])


@pytest.mark.parametrize("page", [answer(200), answer(204), answer(202, b"<html>later</html>")])
def test_a_part_that_is_not_proved_is_sent_again(scripted, page):
    scripted.script = [uploads(part=[page, landed, landed])]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert sorted(steps(scripted)) == ["POST", "POST", "PUT", "PUT", "PUT"]


@pytest.mark.parametrize("page", [answer(200), answer(204), answer(200, b"<html>hello</html>")])
def test_a_small_segment_that_is_not_proved_is_settled_by_reading(scripted, page):
    scripted.script = [page, held(b"data")]
    with scripted.store() as store:
        store.put("k", [b"data"])
    assert [request.method for request in scripted.requests] == ["PUT", "GET"]
    scripted.requests.clear()
    scripted.script = [page, error(404, "NoSuchKey"), landed]
    with scripted.store() as store:
        store.put("k", [b"data"])
    assert [request.method for request in scripted.requests] == ["PUT", "GET", "PUT"]


def test_a_gateway_with_tags_of_another_kind_works(scripted):
    other = answer(200, etag='"0b5cf1a4-uuid"')
    scripted.script = [other, held(b"data")]
    with scripted.store() as store:
        store.put("k", [b"data"])
        scripted.script = [other]
        with pytest.raises(CommitOutcomeUnknownError) as caught:
            store.put_if_absent("k", b"data")
    assert caught.value.was_answered, "reading the key settles it"


# Settings


@pytest.mark.parametrize("bucket", ["", "a/b", "a b", "-a", "a" * 300, "s3://a"])
def test_what_is_no_bucket_is_a_mistake_of_the_configuration(bucket):
    with pytest.raises(ConfigError, match="no name of a bucket"):
        S3Store(bucket)


@pytest.mark.parametrize("prefix", ["a//b", "..", "a b", "a/../b"])
def test_what_is_no_prefix_is_a_mistake_of_the_configuration(prefix):
    with pytest.raises(ConfigError, match="no prefix"):
        S3Store("bucket", prefix=prefix)


@pytest.mark.parametrize(
    "endpoint", ["nowhere", "http://", "http://a b", "//host", "ftp://host", "http://host:port"]
)
def test_what_is_no_endpoint_is_a_mistake_of_the_configuration(endpoint):
    with pytest.raises(ConfigError, match="no URL"):
        S3Store("bucket", endpoint=endpoint)


def test_an_unknown_profile_is_a_mistake_of_the_configuration(scripted, monkeypatch):
    with scripted.endpoint.identity():
        monkeypatch.setenv("AWS_PROFILE", "absent")
        store = S3Store("bucket")
        with pytest.raises(ConfigError, match="ProfileNotFound"):
            store.put_if_absent("k", b"data")
        monkeypatch.delenv("AWS_PROFILE")
        store.describe()  # What was corrected meanwhile is asked for again.
        store.close()


def test_half_of_the_credentials_are_denied(scripted, monkeypatch):
    with scripted.endpoint.identity():
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        denied = pytest.raises(StoreDeniedError, match="PartialCredentialsError")
        with S3Store("bucket") as store, denied:
            store.get("k")


def test_a_key_too_long_with_its_prefix_is_refused(scripted):
    with scripted.store(prefix="p" * 1000) as store, pytest.raises(UsageError, match="too long"):
        store.get("k" * 100)
    assert scripted.requests == []


def test_amazon_is_addressed_by_the_name_of_the_bucket(scripted):
    with scripted.endpoint.identity(), S3Store("bucket", region="eu-west-1") as store:
        assert store.describe() == "s3://bucket at https://s3.eu-west-1.amazonaws.com"


# Credentials

SECRET = "marker-secret-7f3a"
TOKEN = "marker-token-91cc"
ACCESS = "MARKERACCESS55"


def test_no_credential_reaches_an_error_a_log_or_a_repr(scripted, monkeypatch, caplog):
    monkeypatch.setattr("tests.support.servers.ACCESS_KEY", ACCESS)
    endpoint = S3Endpoint(scripted.endpoint.url, ACCESS, SECRET)
    caplog.set_level(logging.DEBUG, logger="graft_vfs")
    with endpoint.identity():
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
        store = S3Store("bucket", endpoint=endpoint.url, attempts_max=1)
        store._check_open()
        monkeypatch.delenv("AWS_SESSION_TOKEN")
    message = f"{ACCESS} {SECRET} {TOKEN}"
    replies = [
        error(status, code, message)
        for status, code in [(403, "InvalidAccessKeyId"), (404, "NoSuchBucket"), (500, ACCESS),
                             (400, SECRET), (409, TOKEN), (412, ACCESS), (301, TOKEN)]
    ]  # fmt: skip
    texts = [repr(store), store.describe()]
    with store:
        for reply in [*replies, None, answer(200, message.encode(), content_length="999")]:
            scripted.script = [reply]
            for call in (
                lambda: store.get("k"),
                lambda: store.put_if_absent("k", b"x"),
                lambda: store.put("k", [b"x"]),
                lambda: list(store.keys("")),
                lambda: store.delete("k"),
            ):
                try:
                    call()
                except GraftError as caught:
                    texts += [str(caught), repr(caught), *traceback.format_exception(caught)]
    texts.append(caplog.text)
    assert "graft_vfs.store.s3" in caplog.text
    assert len(texts) > 50
    for secret in (SECRET, TOKEN, ACCESS):
        # Tracebacks quote this test's own lines, which name the markers by their variables only.
        assert secret not in "\n".join(texts)


def test_an_endpoint_with_a_password_is_refused_without_repeating_it(scripted):
    with scripted.endpoint.identity():
        for endpoint in (f"http://user:{SECRET}@127.0.0.1:1", f"http://user:{SECRET}@a b"):
            with pytest.raises(ConfigError) as caught:
                S3Store("bucket", endpoint=endpoint)
            assert SECRET not in "".join(traceback.format_exception(caught.value))
