"""Settings and credentials of the S3 store, and what must not leak."""

from __future__ import annotations

import logging
import traceback

import pytest

from graft_vfs.errors import (
    ConfigError,
    GraftError,
    StoreDeniedError,
    UsageError,
)
from graft_vfs.store.s3 import S3Store
from tests.support.servers import S3Endpoint

from .scripted import answer, error


@pytest.mark.parametrize("bucket", ["", "a/b", "a b", "-a", "a" * 300, "s3://a"])
def test_an_invalid_bucket_is_a_configuration_error(bucket):
    with pytest.raises(ConfigError, match="not a valid bucket name"):
        S3Store(bucket)


@pytest.mark.parametrize("prefix", ["a//b", "..", "a b", "a/../b"])
def test_an_invalid_prefix_is_a_configuration_error(prefix):
    with pytest.raises(ConfigError, match="not a valid key prefix"):
        S3Store("bucket", prefix=prefix)


@pytest.mark.parametrize(
    "endpoint", ["nowhere", "http://", "http://a b", "//host", "ftp://host", "http://host:port"]
)
def test_an_invalid_endpoint_is_a_configuration_error(endpoint):
    with pytest.raises(ConfigError, match="not a URL"):
        S3Store("bucket", endpoint=endpoint)


def test_an_unknown_profile_is_a_configuration_error(scripted, monkeypatch):
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
