"""How long the S3 store waits: silence, drips, slow lines, throttling. A test moves the clock.

A server that sends a byte a second moves the clock itself, so that nothing here waits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.claim import claim
from graft_vfs.remote.log import RemoteLog
from graft_vfs.remote.refs import create_ref
from graft_vfs.store import MemoryStore, PutOutcome, check_conditional_writes
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.s3 import S3Store
from graft_vfs.store.s3.exchange import (
    Budget,
    Exchange,
    Limits,
    WatchedSocket,
    carried_out,
    watched,
)
from tests.support.clocks import SkippingClock

from .scripted import Request, answer, error, held, landed

MIB = 1024 * 1024

VERBS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: store.get("k"),
    "get_range": lambda store: store.get_range("k", 0, 1000),
    "put_if_absent": lambda store: store.put_if_absent("k", b"data"),
    "put": lambda store: store.put("k", [b"data"]),
    "list": lambda store: list(store.keys("")),
    "delete": lambda store: store.delete("k"),
}


# A byte a second


class DrippingServer(SkippingClock):
    """Sends a byte whenever the client waits for one, and with each some seconds pass."""

    def __init__(self, head: bytes, seconds: float) -> None:
        super().__init__()
        self._head = head
        self._seconds = seconds
        self._looked = threading.Condition()
        self._looks = 0
        self._is_over = False

    def seconds(self) -> float:
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
        return super().seconds()

    def __call__(self, _: Request) -> Iterator[bytes]:
        yield self._head
        while not self._is_over:
            with self._looked:
                assert self._looked.wait_for(lambda: self._is_over or self._looks > 0, 60)
                self._looks = 0
            self.skip(self._seconds)
            yield b"x"

    @contextlib.contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Drip until the block ends."""
        try:
            yield
        finally:
            with self._looked:
                self._is_over = True
                self._looked.notify_all()


HEADS = {
    "head": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "body": answer(200, b"", content_length="1000000", content_type="application/xml"),
    "error": answer(403, b"", content_length="1000000", content_type="application/xml"),
}


@pytest.mark.parametrize("place", HEADS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_against_a_server_that_sends_a_byte_a_second(scripted, verb, place):
    server = DrippingServer(HEADS[place], 1.0)
    scripted.script = [server]
    unknown = CommitOutcomeUnknownError if verb == "put_if_absent" else StoreUnavailableError
    with scripted.store(clock=server) as store, server.until_the_end(), pytest.raises(unknown):
        VERBS[verb](store)
    assert len(scripted.requests) == 1, "what is late is not asked again"


LOG = LogId.new()

REPEATED: dict[str, Callable[[ObjectStore], object]] = {
    "probe": lambda store: check_conditional_writes(store, sleep=lambda _: None),
    "claim": lambda store: claim(
        RemoteLog(store, LOG), RemoteLsn(1), b"commit", b"hash", sleep=lambda _: None
    ),
    "claim in doubt": lambda store: claim(
        RemoteLog(store, LOG), RemoteLsn(1), b"", b"", in_doubt=True, sleep=lambda _: None
    ),
    "ref": lambda store: create_ref(store, "main", LOG, sleep=lambda _: None),
}
"""What asks again by itself for what a store does once."""


@pytest.mark.parametrize("what", REPEATED)
def test_retried_verbs_end_against_a_byte_per_second(scripted, what):
    server = DrippingServer(HEADS["head"], 1.0)
    scripted.script = [server]
    unknown = pytest.raises((CommitOutcomeUnknownError, StoreUnavailableError))
    with scripted.store(clock=server) as store, server.until_the_end(), unknown:
        REPEATED[what](store)
    assert len(scripted.requests) == 1


class SilentStore(MemoryStore):
    """Lets two fifths of a verb's time go by without an answer to a create-only write."""

    def put_if_absent(self, *_: object) -> PutOutcome:
        self.counters.add("put_if_absent")
        error = CommitOutcomeUnknownError("no answer in time")
        error.late_share = 0.4
        raise error


@pytest.mark.parametrize("what", ["probe", "claim", "ref"])
def test_retries_share_the_time_limit_of_their_verb(what):
    store = SilentStore()
    with pytest.raises((CommitOutcomeUnknownError, StoreUnavailableError)):
        REPEATED[what](store)
    assert store.counters.snapshot().requests == 3


def test_the_total_time_is_a_setting(scripted):
    server = DrippingServer(HEADS["body"], 1000.0)
    scripted.script = [server]
    late = pytest.raises(StoreUnavailableError, match=r"in time.*raise remote\.read_timeout")
    with (
        scripted.store(clock=server, total_timeout_seconds=1.0) as store,
        server.until_the_end(),
        late,
    ):
        store.get("k")


# Slow lines


def send_to_a_slow_reader(total: int, *, bytes_per_second: int) -> SkippingClock:
    """Send bytes that a peer reads, and with what it reads the time passes that it takes."""
    clock = SkippingClock()
    here, there = socket.socketpair()
    sender = WatchedSocket(here.family, here.type, here.proto, fileno=here.detach())
    exchange = Exchange(Limits(), Budget(clock, Limits().total_seconds))

    def read() -> None:
        while data := there.recv(16 * 1024):
            clock.skip(len(data) / bytes_per_second)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with carried_out(exchange):
            sender.sendall(bytes(total))
    finally:
        sender.close()
        reader.join()
        there.close()
    return clock


def test_a_slow_connection_that_makes_progress_does_not_time_out():
    clock = SkippingClock()
    start = clock.seconds()
    end = send_to_a_slow_reader(4 * MIB, bytes_per_second=6000).seconds()
    assert end - start > 10 * Limits().total_seconds


def test_a_connection_with_almost_no_progress_times_out():
    with pytest.raises(TimeoutError):
        send_to_a_slow_reader(4 * MIB, bytes_per_second=2000)


def test_few_sent_bytes_wait_in_the_kernel():
    if not hasattr(socket, "TCP_NOTSENT_LOWAT"):
        pytest.skip("this system cannot bound what waits to be sent")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        watched(socket.create_connection(listener.getsockname())) as client,
        listener.accept()[0],
    ):
        client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += client.send(bytes(65536))
    assert sent < MIB


# Throttling


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "put_if_absent"])
@pytest.mark.parametrize("reply", [error(503, "SlowDown"), answer(429)])
def test_throttling_is_waited_out_for_about_a_minute(scripted, verb, reply):
    clock = SkippingClock()
    scripted.script = [reply]
    with scripted.store(clock=clock) as store:
        with pytest.raises(StoreUnavailableError, match="throttling"):
            VERBS[verb](store)
        assert 40 < sum(clock.pauses) <= 60
        assert 5 < len(clock.pauses) < 25
        counts = store.counters.snapshot()
        assert counts.retries == len(clock.pauses) == counts.requests - 1


def test_a_throttled_verb_continues_when_the_store_does(scripted):
    clock = SkippingClock()
    scripted.script = [*[error(503, "SlowDown")] * 5, landed]
    with scripted.store(clock=clock) as store:
        store.put("k", [b"data"])
    assert len(scripted.requests) == 6


def test_retry_after_sets_the_pause(scripted):
    clock = SkippingClock()
    busy = error(503, "SlowDown").replace(b"\r\n\r\n", b"\r\nRetry-After: 17\r\n\r\n", 1)
    down = answer(503, b"<html>maintenance</html>", retry_after="9")
    scripted.script = [busy, down, held(b"data")]
    with scripted.store(clock=clock) as store:
        assert store.get("k") == b"data"
    assert clock.pauses == [17.0, 9.0]


def test_a_store_that_wants_an_hour_is_not_waited_for(scripted):
    clock = SkippingClock()
    scripted.script = [answer(503, retry_after="3600")]
    with (
        scripted.store(clock=clock) as store,
        pytest.raises(StoreUnavailableError, match="retry after 3600 seconds"),
    ):
        store.get("k")
    assert clock.pauses == []


def test_a_throttled_claim_reports_it_and_is_sent_once(scripted):
    scripted.script = [answer(429, retry_after="5")]
    with scripted.store() as store, pytest.raises(CommitOutcomeUnknownError) as caught:
        store.put_if_absent("k", b"data")
    assert caught.value.retry_after_seconds == 5.0
    assert len(scripted.requests) == 1


# What each write carries, and what some answers say


def test_every_write_has_the_md5_that_object_lock_requires(scripted):
    def reply(request: Request):
        if request.method == "POST":
            return error(403, "AccessDenied") if "uploadId" in request.target else OPENED
        return landed(request)

    scripted.script = [reply]
    with scripted.store() as store:
        store.put_if_absent("k", b"commit")
        store.put("k", [b"segment"])
        with pytest.raises(StoreDeniedError):
            store.put("k", [bytes(MIB)] * 9)
    writes = [request for request in scripted.requests if request.method == "PUT"]
    assert len(writes) == 4
    for write in writes:
        digest = base64.b64encode(hashlib.md5(write.body).digest()).decode()
        assert write.headers["content-md5"] == digest


OPENED = answer(
    200, b"<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>"
)


@pytest.mark.parametrize(
    ("reply", "declared", "words"),
    [
        (error(400, "ExpiredToken"), StoreDeniedError, "token has expired; get a new one"),
        (error(403, "InvalidObjectState"), StoreError, "archived.*restore"),
        (error(403, "RequestTimeTooSkewed"), StoreDeniedError, "clock is wrong; set the clock"),
        (
            answer(301, location="HTTPS://127.0.0.1/bucket/k"),
            StoreError,
            "redirects to https; write the endpoint with https://",
        ),
        (answer(302, location="http://elsewhere/"), StoreError, "redirects to another address"),
        (
            answer(404, b"<html>default backend - 404</html>"),
            StoreError,
            "HTTP 404, .* no S3 error code",
        ),
        (error(400, "InvalidArgument.Prefix"), StoreError, r"HTTP 400, InvalidArgument\.Prefix"),
    ],
)
def test_errors_that_users_can_fix_have_their_own_texts(scripted, reply, declared, words):
    scripted.script = [reply]
    with scripted.store() as store, pytest.raises(declared, match=words):
        store.get("k")


def test_a_claim_redirected_to_https_names_the_cause(scripted):
    scripted.script = [answer(307, location="https://127.0.0.1/bucket/k")]
    unknown = pytest.raises(CommitOutcomeUnknownError, match="https://")
    with scripted.store() as store, unknown:
        store.put_if_absent("k", b"data")


# Credentials


def test_credentials_of_a_file_that_was_rewritten_are_used(scripted, monkeypatch, tmp_path):
    path = tmp_path / "credentials"

    def rotate(key: str) -> None:
        written = tmp_path / "new"
        written.write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n"
        )
        written.replace(path)

    def key_used(store: S3Store) -> str:
        store.get("k")
        return scripted.requests[-1].headers["authorization"].split("Credential=")[1].split("/")[0]

    rotate("FIRSTKEY")
    scripted.script = [held(b"data")]
    with scripted.endpoint.identity():
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with S3Store("bucket", endpoint=scripted.endpoint.url) as store:
            assert key_used(store) == "FIRSTKEY"
            rotate("SECONDKEY")
            assert key_used(store) == "SECONDKEY"
            # A file that is being written is no reason to forget what was in it.
            path.write_text("[default]\naws_access_key")
            assert key_used(store) == "SECONDKEY"
            path.unlink()
            assert key_used(store) == "SECONDKEY"
            rotate("THIRDKEY")
            assert key_used(store) == "THIRDKEY"
