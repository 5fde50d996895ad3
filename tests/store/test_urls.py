"""URLs of remotes: each has one text, and what cannot be one is refused without being repeated."""

from __future__ import annotations

import pytest

from graft_vfs.errors import UsageError
from graft_vfs.store.urls import RemoteUrl, is_path, is_url, misspelt, parse


@pytest.mark.parametrize(
    ("text", "remote", "name"),
    [
        ("s3://bucket/main", "s3://bucket", "main"),
        ("s3://bucket/some/prefix/main", "s3://bucket/some/prefix", "main"),
        ("s3://bucket/a%2Fb", "s3://bucket", "a/b"),
        (
            "s3://bucket/p/main?unsigned=1&endpoint=http://127.0.0.1:9000",
            "s3://bucket/p?endpoint=http://127.0.0.1:9000&unsigned=1",
            "main",
        ),
        ("s3://bucket/main?region=eu-west-1", "s3://bucket?region=eu-west-1", "main"),
        ("https://Example.org/data/caf%C3%A9", "https://example.org/data", "café"),
        ("http://127.0.0.1:8000/main", "http://127.0.0.1:8000", "main"),
        ("file:///mnt/share/main", "file:///mnt/share", "main"),
        ("file://localhost/mnt/two%20words/a%20b", "file:///mnt/two%20words", "a b"),
        ("/mnt/share/main", "file:///mnt/share", "main"),
        ("/mnt/../mnt/two words/main", "file:///mnt/two%20words", "main"),
    ],
)
def test_the_last_part_is_the_ref_and_the_rest_the_remote(text, remote, name) -> None:
    url, is_remote = parse(text)
    assert not is_remote
    found = url.split()
    assert found is not None
    assert (str(found[0]), found[1]) == (remote, name)
    # What is kept means the same when it is read again, and names the ref again.
    again, _ = parse(remote)
    assert again == found[0]
    assert str(again) == remote
    assert parse(again.with_ref(name))[0].split() == found


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("https://example.org", "https://example.org"),
        ("https://example.org/data/", "https://example.org/data"),
        ("file:///mnt/share/", "file:///mnt/share"),
        ("/mnt/share/", "file:///mnt/share"),
    ],
)
def test_a_slash_at_the_end_means_the_remote_itself(text, remote) -> None:
    url, is_remote = parse(text)
    assert is_remote
    assert str(url) == remote


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gs://bucket/main", "no remote of type 'gs'"),
        ("ftp://host/main", "no remote of type 'ftp'"),
        ("s3:///main", "no host or bucket"),
        ("https:///main", "no host or bucket"),
        ("file://host/main", "a host, but is the URL of a directory"),
        ("https://host:port/main", "no URL"),
        ("https://[::1/main", "no URL"),
        ("https://host/a//main", "empty part"),
        ("https://host/a/../main", "'..'"),
        ("s3://bucket/./main", "'.'"),
        ("https://host/two words", "is no URL"),
        ("https://host/café", "is no URL"),
        ("s3://bucket/main?color=red", "unknown option 'color'"),
        ("s3://bucket/main?unsigned=maybe", "unsigned=maybe"),
        ("s3://bucket/main#part", "after its path"),
        ("file:///a%00b/main", "is not a path"),
        ("file:///a%ffb/main", "is not UTF-8"),
        ("s3://bucket/a%ff", "is not UTF-8"),
        ("/a\0b/main", "is not a path"),
        ("/a\udc80b/main", "is not a path"),
        ("https://host/" + "x" * 4000, "is no URL"),
    ],
)
def test_what_is_no_url_is_refused_with_a_next_step(text, why) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in caught.value.message
    assert caught.value.next_step
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/main",
        "https://hunter2@host/main",
        "s3://AKIA:hunter2@bucket/main",
        "https://host/main?X-Amz-Signature=hunter2",
        "https://host/main#hunter2",
        "s3://bucket/main?secret=hunter2",
        "s3://bucket/main?endpoint=http://u:hunter2@host",
        "https://hunter2@[::1/main",
    ],
)
def test_a_secret_in_a_url_is_not_repeated(text) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s3:/bucket/main", "s3:bucket/main", "https:/host/main", "s3//b/m"]
)
def test_a_misspelt_url_gets_the_forms_of_urls(text) -> None:
    error = misspelt(text)
    assert "is no URL" in str(error)
    assert "s3://BUCKET/PREFIX/REF" in str(error)


@pytest.mark.parametrize("text", ["main", "s3", "s3/main", "https-notes", "file/main", "s3://b/m"])
def test_other_names_and_urls_are_not_misspelt(text) -> None:
    assert misspelt(text) is None


def test_names_of_refs_are_no_urls() -> None:
    for name in ("main", "a/b", "a:b", "74ggc1B6R4-2kkvcy9fi4CHJ", "file:main", "shop.db"):
        assert not is_url(name)
        assert not is_path(name)
    assert is_path("/data/app.db")
    assert str(RemoteUrl("file", "", "")) == "file://"
