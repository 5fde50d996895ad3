"""A store on a plain HTTP server: what it believes, and which servers it refuses."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft_vfs.errors import (
    ConfigError,
    CorruptObjectError,
    ObjectMissingError,
    ReadOnlyError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.store.dates import answered
from graft_vfs.store.http import HttpStore
from tests.support.clocks import SkippingClock
from tests.support.proxy import Tunnel
from tests.support.static_files import StaticFiles, serving

DATA = bytes(range(256)) * 16


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StaticFiles]:
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "a%2Fb").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def store(server: StaticFiles) -> Iterator[HttpStore]:
    with HttpStore(server.url + "/", clock=SkippingClock()) as store:
        yield store


def test_objects_and_ranges_are_read_on_one_connection(server, store) -> None:
    assert store.get("refs/a%2Fb") == DATA
    assert store.get_range("refs/a%2Fb", 0, 7) == DATA[:7]
    assert store.get_range("refs/a%2Fb", 4000, 500) == DATA[4000:]
    assert store.get_range("refs/a%2Fb", 4096, 1) == b""
    assert store.get_range("empty", 0, 10) == b""
    with pytest.raises(ObjectMissingError):
        store.get("refs/absent")
    assert server.connections == 1
    assert server.requests[0] == ("GET", "/refs/a%252Fb", None)
    counts = store.counters.snapshot()
    assert (counts.get, counts.get_range, counts.requests) == (2, 4, 6)
    assert counts.bytes_received == len(DATA) + 7 + 96


def test_nothing_is_written_or_listed_and_nothing_is_sent_for_it(server, store) -> None:
    for call in (
        lambda: store.put_if_absent("k", b""),
        lambda: store.put("k", [b""]),
        lambda: store.replace("k", b"", b""),
        lambda: store.delete("k"),
        lambda: store.delete_many(["k"]),
    ):
        with pytest.raises(ReadOnlyError, match=r"plain HTTP server.*to publish changes"):
            call()
    with pytest.raises(StoreError, match=r"cannot list 'refs/'; name the ref"):
        store.list("refs/")
    assert server.requests == []
    assert not store.can_write
    assert not store.can_list


def test_an_object_larger_than_its_limit_is_refused_without_reading_it(store) -> None:
    with pytest.raises(CorruptObjectError, match="larger than 100 bytes"):
        store.get("refs/a%2Fb", limit_bytes=100)


def test_a_connection_that_its_server_closed_is_replaced(server, store) -> None:
    store.get("empty")
    server.close_connections()
    assert store.get("refs/a%2Fb") == DATA
    assert store.counters.snapshot().retries == 0


def answering(status: int, body: bytes = DATA, **headers: str):
    def change(handler, _) -> bool:
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer(status, body, shown)
        return True

    return change


PAGE = {"Content_Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (answering(200), StoreError, "ignores range requests"),
        (answering(200, b"<html>", **PAGE), StoreUnavailableError, "a page and no object"),
        (answering(206, b"<html>", **PAGE), StoreUnavailableError, "a page and no object"),
        (answering(404, b"<html>", **PAGE), ObjectMissingError, "no object"),
        (answering(410), ObjectMissingError, "no object"),
        (answering(401), StoreDeniedError, "HTTP 401; have the server show"),
        (answering(403), StoreDeniedError, "HTTP 403; have the server show"),
        (answering(400), StoreError, "HTTP 400"),
        (answering(204, b""), StoreError, "HTTP 204"),
        (answering(500), StoreUnavailableError, "HTTP 500"),
        (answering(416, b""), StoreError, "without saying that the object ends"),
        (answering(416, b"", Content_Range="bytes */4096"), StoreError, "without saying"),
        (answering(206, DATA[:5]), StoreError, "another range"),
        (answering(206, DATA[:5], Content_Range="bytes 0-4/4096"), StoreError, "another range"),
        (answering(206, DATA[:5], Content_Range="bytes 16-20/99"), StoreError, "fewer bytes"),
        (answering(206, DATA[:5], Content_Range="bytes 16-20/*"), StoreError, "fewer bytes"),
        (
            answering(206, DATA[:11], Content_Range="bytes 16-26/99"),
            StoreError,
            "more bytes than it was asked for",
        ),
        (
            answering(206, DATA[:10], Content_Range="bytes 16-25/99", Content_Encoding="gzip"),
            StoreError,
            "compresses",
        ),
        (
            answering(206, DATA[:5], Content_Range="bytes 16-25/99", Content_Length="10"),
            StoreUnavailableError,
            "did not answer in full",
        ),
        (answering(302, Location="/"), StoreError, "without an end"),
        (answering(302, Location="file:///etc/passwd"), StoreError, "no https URL"),
        (answering(302, Location="http://host:port/"), StoreError, "no https URL"),
        (answering(302), StoreError, "no https URL"),
    ],
)
def test_a_server_that_does_wrong_is_an_error_with_a_next_step(
    server, store, change, error, why
) -> None:
    def closing(handler, data) -> bool:
        handler.close_connection = True
        return change(handler, data)

    server.change = closing
    with pytest.raises(error) as caught:
        store.get_range("refs/a%2Fb", 16, 10)
    assert why in str(caught.value)
    assert isinstance(caught.value, ObjectMissingError) or caught.value.next_step
    # What may be a passing fault is asked for again, and nothing else.
    is_transient = isinstance(caught.value, StoreUnavailableError)
    assert store.counters.snapshot().retries == (3 if is_transient else 0)
    server.change = lambda *_: False
    assert store.get_range("refs/a%2Fb", 16, 10) == DATA[16:26]


def test_the_first_bytes_of_an_object_are_right_from_a_server_without_ranges(server, store) -> None:
    server.change = answering(200)
    assert store.get_range("refs/a%2Fb", 0, 10) == DATA[:10]


MOVED_BYTES = 200_000


def breaking_off(handler, data: bytes) -> bool:
    """Answer the range that was asked for, and end the connection in the middle."""
    start, end = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
    handler.send_response(206)
    handler.send_header("Content-Length", str(end + 1 - start))
    handler.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
    handler.end_headers()
    handler.wfile.write(data[start : min(end + 1, start + MOVED_BYTES)])
    handler.close_connection = True
    return True


def test_a_streamed_range_continues_where_each_answer_broke_off(server, store, tmp_path) -> None:
    data = bytes(range(251)) * 8000
    (tmp_path / "long").write_bytes(data)
    server.change = breaking_off
    pieces: list[bytes] = []
    assert store.stream_range("long", 5, len(data) - 5, pieces.append) == len(data) - 5
    assert b"".join(pieces) == data[5:]
    asked = [int(found.removeprefix("bytes=").split("-")[0]) for _, _, found in server.requests]
    assert asked == [*range(5, len(data), MOVED_BYTES)]
    assert store.counters.snapshot().bytes_received == len(data) - 5


def test_a_streamed_range_of_a_server_that_sends_next_to_nothing_ends(
    server, store, monkeypatch, tmp_path
) -> None:
    (tmp_path / "long").write_bytes(bytes(500_000))
    monkeypatch.setattr(f"{__name__}.MOVED_BYTES", 1)
    server.change = breaking_off
    pieces: list[bytes] = []
    with pytest.raises(StoreUnavailableError, match="did not answer in full"):
        store.stream_range("long", 0, 500_000, pieces.append)
    assert len(server.requests) == 4
    assert b"".join(pieces) == bytes(4)


def test_a_body_without_a_length_may_be_cut_and_is_not_believed(server, store) -> None:
    def change(handler, data) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data[:100])
        handler.close_connection = True
        return True

    server.change = change
    with pytest.raises(StoreUnavailableError, match="without a length"):
        store.get("refs/a%2Fb")


def test_a_chunked_body_is_read_to_its_end(server, store) -> None:
    def change(handler, data) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        return True

    server.change = change
    assert store.get("refs/a%2Fb") == DATA


def test_redirects_are_followed_and_counted(server, store, tmp_path) -> None:
    with serving(tmp_path) as other:
        server.change = lambda handler, _: (
            handler.answer(302, b"moved", {"Location": other.url + handler.path}) or True
        )
        assert store.get_range("refs/a%2Fb", 16, 10) == DATA[16:26]
        assert other.requests == [("GET", "/refs/a%252Fb", "bytes=16-25")]
    assert store.counters.snapshot().get_range == 2


def test_what_failed_once_is_asked_for_again(server, store) -> None:
    failures = [answering(503, b"", Retry_After="3"), answering(500), lambda *_: False]

    def change(handler, data) -> bool:
        return failures.pop(0)(handler, data)

    server.change = change
    assert store.get("refs/a%2Fb") == DATA
    assert store.counters.snapshot().retries == 2


def test_no_text_of_the_server_reaches_an_error(server, store) -> None:
    server.change = answering(400, b"hunter2", Location="http://hunter2/")
    with pytest.raises(StoreError) as caught:
        store.get("empty")
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        unavailable = pytest.raises(StoreUnavailableError, match="did not answer")
        with HttpStore(url, clock=SkippingClock()) as store, unavailable:
            store.get("k")
    with pytest.raises(UsageError, match="was closed"):
        store.get("k")


# Forward proxies ----------------------------------------------------------------------------------


@pytest.fixture
def variables(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def test_a_proxy_is_asked_for_the_whole_url(server, tmp_path, variables) -> None:
    (tmp_path / "http:" / "data.example" / "set").mkdir(parents=True)
    (tmp_path / "http:" / "data.example" / "set" / "main").write_bytes(DATA)
    secrets = []
    server.change = lambda handler, _: secrets.append(handler.headers["Proxy-Authorization"])
    for url in (server.url, server.url.replace("//", "//me:a%40b@"), server.url.partition("//")[2]):
        variables.setenv("http_proxy", url)
        with HttpStore("http://data.example/set", clock=SkippingClock()) as store:
            assert store.get("main") == DATA
            assert store.get_range("main", 0, 7) == DATA[:7]
    assert {path for _, path, _ in server.requests} == {"http://data.example/set/main"}
    assert secrets == [None, None, "Basic bWU6YUBi", "Basic bWU6YUBi", None, None]
    assert server.connections == 3


def test_a_server_in_no_proxy_is_asked_itself(server, store, variables) -> None:
    variables.setenv("http_proxy", "http://127.0.0.1:1")
    variables.setenv("no_proxy", "localhost,127.0.0.1")
    assert store.get("refs/a%2Fb") == DATA


def test_tls_goes_through_a_tunnel(server, variables) -> None:
    place = server.url.partition("//")[2]
    with Tunnel() as tunnel:
        variables.setenv("https_proxy", tunnel.url)
        with (
            HttpStore(f"https://{place}/", clock=SkippingClock()) as store,
            pytest.raises(StoreError),
        ):
            store.get("empty")  # The server does not speak TLS.
        assert set(tunnel.asked) == {place}
    assert server.requests == []


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://[::1", "http://host:port"])
def test_a_proxy_that_is_none_of_http_is_an_error(variables, proxy) -> None:
    variables.setenv("http_proxy", proxy)
    with (
        HttpStore("http://data.example/", clock=SkippingClock()) as store,
        pytest.raises(ConfigError, match=r"HTTP_PROXY is not .*NO_PROXY"),
    ):
        store.get("main")


@pytest.mark.parametrize(("more", "is_dated"), [({}, True), ({"Age": "5"}, False)])
def test_an_answer_is_dated_unless_it_is_a_cache_s(server, store, more, is_dated) -> None:
    def change(handler, data) -> bool:
        handler.send_response(404 if data is None else 200)
        for name, text in more.items():
            handler.send_header(name, text)
        handler.send_header("Content-Length", str(len(data or b"")))
        handler.end_headers()
        handler.wfile.write(data or b"")
        return True

    server.change = change
    for key in ("empty", "absent"):
        with answered(key) as when, contextlib.suppress(ObjectMissingError):
            store.get(key)
        assert (when.date_ms is not None, when.is_cached) == (is_dated, not is_dated)
