"""The S3 store on scripted answers: claims, reads, and replacements."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket

import pytest
from botocore.httpsession import URLLib3Session

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    CorruptObjectError,
    GraftError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from graft_vfs.store import PutOutcome, check_conditional_writes
from graft_vfs.store.dates import answered
from graft_vfs.store.s3 import S3Store
from tests.support.servers import S3Endpoint

from .scripted import answer, error, held, landed

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


def test_a_claim_to_a_closed_port_is_known_not_to_have_landed():
    with socket.socket() as reserved:
        # A port that is bound and does not listen refuses connections; no other process gets it.
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


@pytest.mark.parametrize("unsigned", [True, False])
def test_without_credentials_reads_are_unsigned_and_nothing_is_written(
    scripted, monkeypatch, unsigned
):
    scripted.script = [held(b"data"), error(403, "AccessDenied")]
    with scripted.endpoint.identity():
        if not unsigned:
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with S3Store("bucket", endpoint=scripted.endpoint.url, unsigned=unsigned) as store:
            assert store.get("k") == b"data"
            with pytest.raises(StoreDeniedError, match=r"request was unsigned; set AWS_ACCESS_KEY"):
                store.get("k")
            for call in (
                lambda: store.put_if_absent("k", b"data"),
                lambda: store.put("k", [b"data"]),
                lambda: store.delete("k"),
                lambda: store.delete_many(["k"]),
            ):
                with pytest.raises(StoreDeniedError, match="can only be read"):
                    call()
    assert [request.method for request in scripted.requests] == ["GET", "GET"]
    assert not any("authorization" in request.headers for request in scripted.requests)


def test_credentials_that_come_later_sign_the_next_write(scripted, monkeypatch):
    with scripted.endpoint.identity():
        name, secret = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
        values = {key: os.environ[key] for key in (name, secret)}
        for key in values:
            monkeypatch.delenv(key)
        scripted.script = [held(b"data"), landed, held(b"data")]
        with S3Store("bucket", endpoint=scripted.endpoint.url) as store:
            store.get("k")
            for key, value in values.items():
                monkeypatch.setenv(key, value)
            store.put("k", [b"data"])
            store.get("k")
    signed = ["authorization" in request.headers for request in scripted.requests]
    assert signed == [False, True, True]


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
def test_a_416_page_does_not_prove_that_an_object_is_empty(scripted, body):
    scripted.script = [answer(416, body, content_type="text/html")]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="no S3 error code"):
        store.get_range("k", 0, 10)


@pytest.mark.parametrize("status", [409, 412])
def test_a_page_does_not_prove_that_a_claim_was_refused(scripted, status):
    scripted.script = [answer(status, b"<html>no</html>", content_type="text/html")]
    with scripted.store() as store:
        with pytest.raises(CommitOutcomeUnknownError, match="a page that is not S3's") as caught:
            store.put_if_absent("k", b"x")
        with pytest.raises(StoreUnavailableError, match="no clear answer"):
            check_conditional_writes(store, sleep=lambda _: None)
    assert caught.value.was_answered


def test_a_page_does_not_prove_that_an_object_was_deleted(scripted):
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
def test_truncated_headers_are_not_parsed_as_an_empty_answer(scripted, read):
    date = "Wed, 01 Jan 2025 00:00:00 GMT"
    reply = held(b"data", 206, last_modified=date, content_range="bytes 0-3/10")
    with scripted.store(attempts_max=1) as store:
        for cut in range(reply.index(b"data")):
            scripted.script = [reply[:cut]]
            with pytest.raises(StoreUnavailableError, match="in full"):
                read(store)


@pytest.mark.parametrize("start", [None, 0])
def test_an_answer_with_unreadable_headers_is_closed(scripted, monkeypatch, start):
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


def test_a_server_without_range_support(scripted):
    scripted.script = [held(b"0123456789")]
    with scripted.store() as store:
        assert store.get_range("k", 0, 4) == b"0123"
        assert store.get_range("k", 0, 40) == b"0123456789"
        with pytest.raises(StoreError, match="ignores range requests"):
            store.get_range("k", 3, 4)


def test_a_server_that_answers_another_range(scripted):
    scripted.script = [held(b"0123", 206, content_range="bytes 0-3/10")]
    with scripted.store() as store, pytest.raises(StoreError, match="a range other than"):
        store.get_range("k", 3, 4)


def test_a_server_that_answers_too_much(scripted):
    scripted.script = [held(b"0123456789", 206, content_range="bytes 3-12/20")]
    with scripted.store() as store, pytest.raises(StoreError, match="more bytes"):
        store.get_range("k", 3, 4)


@pytest.mark.parametrize("shown", [None, "", "bytes 3-6/*", "bytes */20", "bytes 4-7/20"])
def test_a_range_needs_a_matching_content_range(scripted, shown):
    headers = {} if shown is None else {"content_range": shown}
    scripted.script = [held(b"3456", 206, **headers)]
    with scripted.store() as store, pytest.raises(StoreError, match="a range other than"):
        store.get_range("k", 3, 4)


def test_a_range_is_short_only_where_the_object_ends(scripted):
    scripted.script = [held(b"34", 206, content_range="bytes 3-4/5")]
    with scripted.store() as store:
        assert store.get_range("k", 3, 4) == b"34"
        scripted.script = [held(b"34", 206, content_range="bytes 3-4/20")]
        with pytest.raises(StoreError, match="fewer bytes"):
            store.get_range("k", 3, 4)


def test_a_streamed_range_continues_where_an_answer_broke_off(scripted):
    data = bytes(range(250)) * 2000
    whole = {"content_range": f"bytes 5-{len(data) - 1}/{len(data)}"}
    rest = {"content_range": f"bytes 300005-{len(data) - 1}/{len(data)}"}
    scripted.script = [
        held(data[5:], 206, **whole).removesuffix(data[300_005:]),
        held(data[300_005:], 206, **rest),
    ]
    pieces = []
    with scripted.store() as store:
        assert store.stream_range("k", 5, len(data) - 5, pieces.append) == len(data) - 5
        counts = store.counters.snapshot()
    got = b"".join(pieces)
    assert got == data[5:]
    asked = [request.headers["range"] for request in scripted.requests]
    assert asked == [f"bytes={start}-{len(data) - 1}" for start in (5, 300_005)]
    assert (counts.get_range, counts.bytes_received) == (2, len(data) - 5)


def test_a_large_page_is_not_an_object_that_is_too_large(scripted):
    scripted.script = [answer(200, b"x" * 50_000, content_type="text/plain")]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="no object"):
        store.get("k", limit_bytes=1000)


def test_deleting_an_absent_object_may_be_answered_404(scripted):
    scripted.script = [error(404, "NoSuchKey")]
    with scripted.store() as store:
        store.delete("k")
        scripted.script = [error(404, "NoSuchBucket")]
        with pytest.raises(BucketMissingError):
            store.delete("k")


# Replacing


def test_a_replacement_sends_the_etag_of_the_old_object(scripted):
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


# Dates

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_MS = 784_111_777_000


@pytest.mark.parametrize(
    ("replies", "date_ms"),
    [
        ([held(b"x", date=DATE)], DATE_MS),
        ([held(b"x", date=DATE, age="0")], None),
        ([held(b"x")], None),
        ([answer(503, date=DATE), held(b"x")], None),
        ([answer(503), held(b"x", date=DATE)], DATE_MS),
        ([answer(404, b"<Error><Code>NoSuchKey</Code></Error>", date=DATE)], DATE_MS),
    ],
)
def test_the_answer_that_counts_is_dated_by_the_server_and_by_no_cache(scripted, replies, date_ms):
    scripted.script = replies
    with scripted.store() as store, answered("k") as when:
        with contextlib.suppress(ObjectMissingError):
            store.get_range("k", 0, 1)
        assert when.date_ms == date_ms
