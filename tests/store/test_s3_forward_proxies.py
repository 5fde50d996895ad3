"""Behind a forward proxy: what is told of a claim is true, whatever happens on the way.

urllib3 wraps whatever goes wrong behind a proxy in an error of the proxy, also a reset after the
request was sent. So only the connections show whether a byte of it left.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator

import pytest

from graft_vfs.errors import CommitOutcomeUnknownError, ObjectMissingError, StoreUnavailableError
from graft_vfs.store import PutOutcome
from graft_vfs.store.s3 import S3Store
from tests.support.certificates import make_certificate
from tests.support.network import Machine, Network, without_pauses
from tests.support.proxy import (
    Fault,
    Proxy,
    Script,
    Tunnel,
    answer_lost,
    head_cut,
    request_lost,
    reset_after,
    reset_before,
)
from tests.support.servers import S3Endpoint
from tests.sync.checks import sound_log

LANDED = [answer_lost, reset_after]
NOT_LANDED = [request_lost, reset_before]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def bucket(ministack) -> str:
    return ministack.fresh_bucket()


@contextlib.contextmanager
def told_of(**variables: str) -> Iterator[None]:
    """Tell boto3 of proxies and certificates inside the block; of no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def store_behind(endpoint: S3Endpoint, bucket: str, **variables: str) -> Iterator[S3Store]:
    with (
        told_of(**variables),
        endpoint.store(bucket, prefix=secrets.token_hex(8), attempts_max=1) as store,
    ):
        yield store


def holds(store: S3Store) -> bool:
    try:
        return store.get("k") == b"data"
    except ObjectMissingError:
        return False


@pytest.mark.parametrize("fault", LANDED + NOT_LANDED)
def test_a_claim_that_breaks_after_a_proxy_is_unknown(ministack, bucket, fault: Fault):
    with (
        Proxy(ministack) as proxy,
        store_behind(ministack, bucket, HTTP_PROXY=proxy.endpoint.url) as store,
    ):
        proxy.choose = Script(claim=[fault])
        with pytest.raises(CommitOutcomeUnknownError):
            store.put_if_absent("k", b"data")
        assert holds(store) is (fault in LANDED)
        assert len(proxy.requests) == 2, "all requests went through the proxy"


@pytest.mark.parametrize("fault", LANDED + NOT_LANDED)
def test_a_claim_that_breaks_inside_a_tunnel_is_unknown(
    ministack, bucket, certificate, fault: Fault
):
    path, context = certificate
    with (
        Proxy(ministack, context) as front,
        Tunnel() as tunnel,
        store_behind(
            front.endpoint, bucket, HTTPS_PROXY=tunnel.url, AWS_CA_BUNDLE=str(path)
        ) as store,
    ):
        front.choose = Script(claim=[fault])
        with pytest.raises(CommitOutcomeUnknownError):
            store.put_if_absent("k", b"data")
        assert holds(store) is (fault in LANDED)
        assert tunnel.asked
        assert store.put_if_absent("another", b"data") is PutOutcome.CREATED


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_claim_whose_tunnel_was_refused_was_not_sent(ministack, bucket, certificate, status):
    path, context = certificate
    with (
        Proxy(ministack, context) as front,
        Tunnel(status) as tunnel,
        store_behind(
            front.endpoint, bucket, HTTPS_PROXY=tunnel.url, AWS_CA_BUNDLE=str(path)
        ) as store,
    ):
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            store.put_if_absent("k", b"data")
        assert tunnel.asked
        assert front.requests == []


def test_a_claim_through_an_absent_proxy_was_not_sent(ministack, bucket):
    with socket.socket() as reserved:
        # A port that is bound and does not listen refuses connections; no other process gets it.
        reserved.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with (
            store_behind(ministack, bucket, HTTP_PROXY=proxy) as store,
            pytest.raises(StoreUnavailableError, match="cannot be reached"),
        ):
            store.put_if_absent("k", b"data")


@pytest.mark.parametrize("through", ["direct", "tunnel"])
def test_an_untrusted_certificate_has_its_own_error_text(ministack, bucket, certificate, through):
    _, context = certificate
    with (
        Proxy(ministack, context) as front,
        Tunnel() as tunnel,
        store_behind(
            front.endpoint, bucket, **({"HTTPS_PROXY": tunnel.url} if through == "tunnel" else {})
        ) as store,
    ):
        for call in (lambda: store.put_if_absent("k", b"data"), lambda: store.get("k")):
            with pytest.raises(StoreUnavailableError, match=r"certificate.*AWS_CA_BUNDLE"):
                call()
        assert front.requests == []


def test_a_name_that_does_not_exist_was_not_sent(monkeypatch):
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    nowhere = S3Endpoint("http://no-such-host.invalid:1")
    unsent = pytest.raises(StoreUnavailableError, match="cannot be reached")
    with told_of(), nowhere.store("bucket", attempts_max=1) as store, unsent:
        store.put_if_absent("k", b"data")


@pytest.mark.parametrize("fault", [*LANDED, head_cut])
def test_a_push_that_landed_despite_a_proxy_error_does_not_diverge(
    ministack, tmp_path, fault: Fault
):
    with (
        without_pauses(),
        Network(ministack, tmp_path) as network,
        Proxy(ministack) as proxy,
        told_of(HTTP_PROXY=proxy.endpoint.url),
    ):
        machine = Machine(tmp_path / "machine", proxy, network.bucket, behind=ministack)
        with contextlib.closing(machine):
            connection = machine.connect()
            connection.execute("CREATE TABLE t(k)")
            proxy.choose = script = Script(claim=[fault])
            assert machine.engine.push("main").lsn == 1
            assert script.is_over
            connection.execute("INSERT INTO t VALUES(1)")
            assert machine.engine.push("main").lsn == 2
            status = machine.engine.status("main")
            assert (status.ahead, status.behind, status.pending_push) == (0, 0, False)
            assert sound_log(machine.engine.store, status.remote) == [1, 1]
