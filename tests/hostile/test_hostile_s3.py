"""A hostile S3 server decides neither how often a client asks nor how much memory that takes."""

from __future__ import annotations

import mmap
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.ids import LogId
from graft_vfs.remote.log import RemoteLog, commits_prefix
from graft_vfs.remote.refs import list_refs, read_ref
from graft_vfs.store.s3 import S3Store
from graft_vfs.store.s3.client import ANSWER_BYTES_MAX
from tests.store.scripted import Reply, Request, ScriptedServer, answer

LOG = LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ")
HUGE_BYTES = 4 << 30


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def endless() -> Iterator[Callable[[bytes], memoryview]]:
    """Make replies that begin as they are told and go on for 4 GiB, of which none is in memory."""
    with tempfile.TemporaryFile() as file:

        def make(begin: bytes) -> memoryview:
            file.seek(0)
            file.write(begin)
            file.truncate(HUGE_BYTES)
            return memoryview(mmap.mmap(file.fileno(), HUGE_BYTES, access=mmap.ACCESS_READ))

        yield make


def page(names: list[str], *, token: str = "", prefix: str = "") -> bytes:
    keys = "".join(f"<Contents><Key>{name}</Key><Size>1</Size></Contents>" for name in names)
    more = "<IsTruncated>false</IsTruncated>"
    if token:
        more = "<IsTruncated>true</IsTruncated>"
        more += f"<NextContinuationToken>{token}</NextContinuationToken>"
    more += f"<Prefix>{prefix}</Prefix>"
    return answer(200, f"<ListBucketResult>{more}{keys}</ListBucketResult>".encode())


def peak_of(work: Callable[[], object], error: Any) -> int:
    """Return the peak of memory in bytes of work that must fail in the declared way."""
    tracemalloc.start()
    try:
        with pytest.raises(error):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


READS: dict[str, Callable[[S3Store], object]] = {
    "newest LSN": lambda store: RemoteLog(store, LOG).newest_lsn(),
    "refs": lambda store: list(list_refs(store)),
    "ref": lambda store: read_ref(store, "main"),
    "header": lambda store: RemoteLog(store, LOG).read_header(1),
    "get": lambda store: store.get("k", limit_bytes=1 << 20),
    "delete": lambda store: store.delete("k"),
}


@pytest.mark.parametrize("name", READS)
def test_an_endless_answer_is_read_up_to_a_limit(server, endless, name) -> None:
    # The body of a successful answer to a delete is ignored, so it is no error.
    statuses = (404, 500) if name == "delete" else (200, 404, 500)
    with server.store(attempts_max=1) as store:
        for status in statuses:
            head = answer(status, content_length=str(HUGE_BYTES), content_type="application/xml")
            server.script = [endless(head + b"<Error><Code>NoSuchKey</Code>")]
            peak = peak_of(lambda: READS[name](store), (StoreError, CorruptObjectError))
            assert peak < 4 * ANSWER_BYTES_MAX


def test_a_claim_with_an_endless_answer_is_not_won(server, endless) -> None:
    with server.store() as store:
        for status in (200, 412):
            server.script = [endless(answer(status, content_length=str(HUGE_BYTES)))]
            peak = peak_of(lambda: store.put_if_absent("k", b"x"), CommitOutcomeUnknownError)
            assert peak < 4 * ANSWER_BYTES_MAX


def test_an_endless_listing_of_foreign_names_is_refused(server) -> None:
    def reply(_: Request) -> Reply:
        number = len(server.requests)
        names = [f"{commits_prefix(LOG)} {number:06}-{at}" for at in range(5)]
        return page(names, token=f"t{number}", prefix=commits_prefix(LOG))

    server.script = [reply]
    with server.store() as store, pytest.raises(StoreError, match="endless"):
        RemoteLog(store, LOG).newest_lsn()
    assert len(server.requests) < 20
    assert "max-keys=8&" in server.requests[0].target
    assert "max-keys=1000" in server.requests[1].target


@pytest.mark.parametrize(
    "text", ["../../../etc/passwd", "/etc/passwd", "a//b", "..", "a/\x01", "é"]
)
def test_listed_names_that_are_not_keys_are_skipped(server, text) -> None:
    names = sorted(["refs/main", f"refs/{text}"])
    escaped = [name.replace("\x01", "&#1;") for name in names]
    server.script = [page(escaped, prefix="refs/")]
    with server.store(attempts_max=1) as store:
        try:
            found = list(store.keys("refs/"))
        except StoreUnavailableError:
            assert "\x01" in text  # XML has no such character, so this is no listing.
        else:
            assert found == ["refs/main"]


def test_xml_entities_are_not_expanded(server) -> None:
    body = b'<!DOCTYPE x [<!ENTITY a0 "' + b"x" * 1000 + b'">'
    for level in range(1, 12):
        body += b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10)
    body += b"]><ListBucketResult><Contents><Key>&a11;</Key></Contents></ListBucketResult>"
    server.script = [answer(200, body)]
    with server.store(attempts_max=1) as store:
        peak = peak_of(lambda: list(store.keys("")), StoreUnavailableError)
    assert peak < 4 * ANSWER_BYTES_MAX


@pytest.mark.parametrize("name", ["newest LSN", "ref", "header"])
def test_a_server_that_always_redirects_gets_a_bounded_number_of_requests(server, name) -> None:
    server.script = [answer(307, location=f"{server.endpoint.url}/elsewhere")]
    with server.store(attempts_max=2) as store, pytest.raises(StoreError):
        READS[name](store)
    assert len(server.requests) <= 2


def test_a_listing_with_the_largest_lsn_and_no_object_is_damage(server) -> None:
    listing = page([f"{commits_prefix(LOG)}{1:016x}"], prefix=commits_prefix(LOG))
    missing = answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
    server.script = [lambda request: listing if "list-type" in request.target else missing]
    with server.store() as store, pytest.raises(CorruptObjectError, match="gap"):
        list(RemoteLog(store, LOG).probe_next(0, None))
    assert len(server.requests) < 100
