"""The S3 store on S3 servers."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ConnectionClosedError

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
)
from graft_vfs.store.base import PutOutcome
from graft_vfs.store.s3 import S3Store
from graft_vfs.testing.store_contract import StoreContract, ThreadRaces
from tests.support.servers import S3Endpoint

from .races import ANSWER_SECONDS, check_process_race


@functools.cache
def shared_bucket(endpoint: S3Endpoint) -> str:
    """Return the bucket of all tests on a server; each test has a prefix of its own in it."""
    return endpoint.fresh_bucket()


@contextlib.contextmanager
def cut_in_its_body(store: S3Store, sent_bytes: int) -> Iterator[None]:
    """Have the next create-only write end behind so many bytes of its body, as a kill can do."""
    events = store._client.meta.events

    def send_a_part(request, **_):
        events.unregister("before-send.s3.PutObject", send_a_part)
        url, body = urlsplit(request.url), request.body.read()
        headers = {name: _text(value) for name, value in request.headers.items()}
        headers |= {"Host": url.netloc, "Content-Length": str(len(body))}
        headers.pop("Expect", None)
        lines = [f"PUT {url.path} HTTP/1.1", *(f"{name}: {at}" for name, at in headers.items())]
        with socket.create_connection((url.hostname, url.port)) as connection:
            head = "\r\n".join([*lines, "", ""]).encode()
            connection.sendall(head + body[:sent_bytes])
            connection.shutdown(socket.SHUT_WR)
            # It has dealt with the request when it answers, or closes the connection.
            while connection.recv(65536):
                pass
        raise ConnectionClosedError(endpoint_url=request.url)

    events.register("before-send.s3.PutObject", send_a_part)
    yield


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class S3Contract(StoreContract):
    """The contract on a server that the subclass gives as `endpoint`."""

    @pytest.fixture
    def bucket(self, endpoint):
        return shared_bucket(endpoint)

    @pytest.fixture
    def prefix(self):
        return f"tests/{secrets.token_hex(8)}"

    @pytest.fixture
    def store(self, endpoint, bucket, prefix):
        with endpoint.store(bucket, prefix=prefix) as store:
            yield store

    @pytest.fixture
    def again(self, endpoint, bucket, prefix):
        with endpoint.store(bucket, prefix=f"/{prefix}/") as store:
            yield store

    def test_prefixes_keep_stores_apart(self, endpoint):
        bucket = endpoint.fresh_bucket()
        with (
            endpoint.store(bucket) as whole,
            endpoint.store(bucket, prefix="a/prefix") as store,
            endpoint.store(bucket, prefix="a/pre") as other,
        ):
            store.put("k", [b"x"])
            assert list(whole.keys("")) == ["a/prefix/k"]
            assert list(other.keys("")) == []
            assert whole.describe() == f"s3://{bucket} at {endpoint.url}"
            assert store.describe() == f"s3://{bucket}/a/prefix at {endpoint.url}"

    def test_names_that_are_not_keys_are_not_listed(self, endpoint, bucket, prefix, store):
        store.put("d/k", [b"x"])
        with endpoint.client() as client:
            for name in ("with space", "ä", "z#"):
                client.put_object(Bucket=bucket, Key=f"{prefix}/d/{name}", Body=b"foreign")
        assert list(store.keys("d/")) == ["d/k"]
        assert list(store.keys("d/", limit=1)) == ["d/k"]

    def test_large_objects_are_counted_by_parts(self, store):
        store.put("large", [b"x" * (8 * 1024 * 1024)])
        assert store.counters.snapshot().put == 1
        store.put("large", [b"x" * (8 * 1024 * 1024), b"y"])
        counts = store.counters.snapshot()
        assert counts.put == 1 + 2 + 2
        assert counts.bytes_sent == 2 * 8 * 1024 * 1024 + 1
        assert counts.requests == counts.put

    @pytest.mark.parametrize("sent_bytes", [0, 1, 1000])
    def test_a_create_only_write_truncated_by_a_kill_creates_nothing(self, store, sent_bytes):
        # Otherwise an unreadable object would keep the key for ever.
        with cut_in_its_body(store, sent_bytes), pytest.raises(CommitOutcomeUnknownError):
            store.put_if_absent("k", b"x" * 100_000)
        with pytest.raises(ObjectMissingError):
            store.get("k")
        assert store.put_if_absent("k", b"x" * 100_000) is PutOutcome.CREATED
        assert store.get("k") == b"x" * 100_000

    def test_a_change_between_read_and_write_of_a_repair_is_kept(self, store, monkeypatch):
        store.put_if_absent("k", b"damaged")
        fetch = store._fetch

        def fetch_early(*arguments):
            found = fetch(*arguments)
            monkeypatch.undo()
            store.put("k", [b"theirs"])
            return found

        monkeypatch.setattr(store, "_fetch", fetch_early)
        assert not store.replace("k", b"damaged", b"the true bytes")
        assert store.get("k") == b"theirs"

    def test_the_bucket_must_exist(self, endpoint):
        with endpoint.store("absent-bucket") as store:
            with pytest.raises(BucketMissingError, match="absent-bucket"):
                store.get("k")
            with pytest.raises(BucketMissingError):
                list(store.keys(""))


class TestMoto(S3Contract):
    # A thousand objects take it long, and its pages are asked for as those of the others are.
    test_pages_are_asked_for_when_they_are_needed = None

    @pytest.fixture
    def endpoint(self, moto):
        return moto


def open_patient_store(endpoint: S3Endpoint, bucket: str, prefix: str) -> S3Store:
    """Open a store for races in any process; at the top of the module to be picklable."""
    return endpoint.store(bucket, prefix=prefix, read_timeout_seconds=ANSWER_SECONDS)


class RacingS3Contract(S3Contract, ThreadRaces):
    """The contract with races."""

    PROCESS_ROUNDS = 10

    @pytest.fixture
    def patient_store(self, endpoint, bucket, prefix):
        with open_patient_store(endpoint, bucket, prefix) as store:
            yield store

    def test_one_process_creates_a_key(self, endpoint, bucket, prefix):
        open_store = functools.partial(open_patient_store, endpoint, bucket, prefix)
        check_process_race(open_store, rounds=self.PROCESS_ROUNDS)


class TestMinistack(RacingS3Contract):
    @pytest.fixture
    def endpoint(self, ministack):
        return ministack


class TestSeaweedFS(RacingS3Contract):
    # A loser waits a second for its answer, or many, so the rounds of elsewhere take too long.
    ROUNDS = 5
    PROCESS_ROUNDS = 4

    @pytest.fixture
    def endpoint(self, seaweedfs):
        return seaweedfs

    def test_keys_are_listed_in_order_of_their_bytes(self, store):
        # It lists folder after folder, so that `a/b` comes before `a.b/c`. Within one folder, which
        # is all that a remote log lists, this is no difference; else it must not go unnoticed.
        for key in ("a.b/c", "a/b"):
            store.put(key, [b"x"])
        with pytest.raises(StoreError, match="does not list keys in order"):
            list(store.keys(""))

    def test_wrong_credentials_are_denied(self, seaweedfs, bucket):
        for access_key, secret_key in [
            (seaweedfs.access_key, "marker-of-a-wrong-secret"),
            ("NOSUCHKEY", seaweedfs.secret_key),
        ]:
            stranger = S3Endpoint(seaweedfs.url, access_key, secret_key)
            with stranger.store(bucket) as store:
                for call in (
                    lambda store=store: store.get("k"),
                    lambda store=store: store.put_if_absent("k", b"x"),
                    lambda store=store: store.put("k", [b"x"]),
                    lambda store=store: list(store.keys("")),
                    lambda store=store: store.delete("k"),
                ):
                    with pytest.raises(StoreDeniedError) as caught:
                        call()
                    assert access_key not in str(caught.value)
                    assert secret_key not in str(caught.value)


def test_the_endpoint_may_come_from_the_aws_variables(ministack, monkeypatch):
    bucket = ministack.fresh_bucket()
    with ministack.identity():
        monkeypatch.setenv("AWS_ENDPOINT_URL", ministack.url)
        store = S3Store(bucket)
        store.describe()  # Which makes the client.
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert "AWS_ENDPOINT_URL" not in os.environ
    with store:
        store.put("k", [b"x"])
        assert store.get("k") == b"x"
        assert store.describe() == f"s3://{bucket} at {ministack.url}"
