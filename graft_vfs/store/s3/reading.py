"""Verified reads of a bucket: objects, ranges and listings.

A server may lie in any answer, so each is checked against its request: a body has a length and
stays within its limit, a range is the requested one, and a listing is the requested one, in order,
and finite. An answer that violates S3's guarantees raises StoreError. One that may be a portal's
page, or was truncated, raises StoreUnavailableError and is retried.

This module does not verify that the bytes are those that were written; readers verify checksums.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from graft_vfs.errors import StoreError, StoreUnavailableError
from graft_vfs.store.base import (
    LIST_PAGE_KEYS,
    STREAM_PIECE_BYTES,
    ObjectInfo,
    Take,
    Verb,
    is_key,
    oversized,
    repeat_while_moving,
)
from graft_vfs.store.s3.answers import (
    LOST_NEXT_STEP,
    PAGE_NEXT_STEP,
    Answer,
    Reply,
    proves_object,
)
from graft_vfs.store.s3.calls import Caller
from graft_vfs.store.s3.client import Bodies

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

_READ_CHUNK_BYTES = 4 * 1024 * 1024
_NO_OBJECT_BYTES = 16 * 1024
"""How much to read of a body that is not an object, to detect truncation."""
_EMPTY_PAGES_MAX = 16
_LENGTH_HEADERS = frozenset({"content-length", "transfer-encoding"})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19})", re.ASCII)


class Reader:
    """Reads the objects of one store. Owner: the store. Thread rule: any thread."""

    def __init__(
        self,
        client: S3Client,
        caller: Caller,
        bodies: Bodies,
        check_open: Callable[[], None],
        *,
        store: str,
        bucket: str,
        prefix: str,
    ) -> None:
        """`store` is its name for messages; `check_open` raises once the store is closed."""
        self._client = client
        self._caller = caller
        self._bodies = bodies
        self._check_open = check_open
        self._store = store
        self._bucket = bucket
        self._prefix = prefix

    def fetch(
        self, verb: Verb, key: str, name: str, start: int | None, limit_bytes: int
    ) -> tuple[bytes, str]:
        """Return an object, or up to `limit_bytes` from `start`, and its ETag.

        Past its end, both are empty. `name` is its key in the bucket.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415 - only S3 needs boto3

        def attempt() -> tuple[bytes, str]:
            try:
                answer = self._request_object(name, start, limit_bytes)
            except ClientError as error:
                if Reply.of(error.response).answer is Answer.BEYOND_END and start is not None:
                    return b"", ""
                raise
            # Closing a body after its end returns the connection to the pool; closing it earlier
            # ends the connection and discards the rest.
            with contextlib.closing(answer["Body"]):
                data = b"".join(self._pieces(key, start, limit_bytes, answer))
                return data, answer["ETag"]

        return self._caller.repeat(verb, key, attempt)

    def stream(self, key: str, name: str, start: int, length: int, take: Take) -> int:
        """Give a range to `take` as it arrives; a retry continues where the last answer ended."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - only S3 needs boto3

        got = 0

        def attempt() -> None:
            nonlocal got
            at, wanted = start + got, length - got
            if not wanted:
                return
            try:
                answer = self._request_object(name, at, wanted)
            except ClientError as error:
                if Reply.of(error.response).answer is Answer.BEYOND_END:
                    return
                raise
            with contextlib.closing(answer["Body"]):
                for piece in self._pieces(key, at, wanted, answer, STREAM_PIECE_BYTES):
                    got += len(piece)
                    take(piece)

        repeat_while_moving(lambda: got, lambda: self._caller.repeat("get_range", key, attempt))
        return got

    def _request_object(
        self, name: str, start: int | None, limit_bytes: int
    ) -> GetObjectOutputTypeDef:
        try:
            if start is None:
                return self._client.get_object(Bucket=self._bucket, Key=name)
            wanted = f"bytes={start}-{start + limit_bytes - 1}"
            return self._client.get_object(Bucket=self._bucket, Key=name, Range=wanted)
        except BaseException:
            # boto3 does not close the body if it cannot parse the answer's headers.
            if self._bodies.newest is not None:
                self._bodies.newest.close()
            raise
        finally:
            self._bodies.newest = None

    def _pieces(
        self,
        key: str,
        start: int | None,
        limit_bytes: int,
        answer: GetObjectOutputTypeDef,
        piece_bytes: int = _READ_CHUNK_BYTES,
    ) -> Iterator[bytes]:
        """Yield a body within its limit; the server may lie about its length."""
        from botocore.exceptions import IncompleteReadError  # noqa: PLC0415 - only S3 needs boto3

        body, status = answer["Body"], answer["ResponseMetadata"]["HTTPStatusCode"]
        if not _LENGTH_HEADERS & answer["ResponseMetadata"]["HTTPHeaders"].keys():
            # Such a body ends with its connection, and the headers may be truncated too.
            raise IncompleteReadError(actual_bytes=0, expected_bytes=limit_bytes)
        is_object = proves_object(status, answer.get("ETag", ""))
        if is_object and start is None and answer.get("ContentLength", 0) > limit_bytes:
            raise oversized(key, self._store, limit_bytes)
        shown = answer.get("ContentRange", "")
        is_range = start is not None and status == 206
        # Some servers ignore a range that covers the whole object, and some do not support ranges;
        # if the range starts at 0, the first bytes are the requested ones.
        is_wanted = _starts_at(shown, start) if is_range else not start
        if not (is_object and is_wanted):
            # Read first: truncated headers may lack the ETag, or half of a range.
            deque(_parts(body, limit_bytes + 1 if is_object else _NO_OBJECT_BYTES), maxlen=0)
        if not is_object:
            raise StoreUnavailableError(
                f"{self._store} answered a read of {key!r} with HTTP {status} and no object",
                next_step=PAGE_NEXT_STEP,
            )
        if not is_wanted:
            lie = "returns a range other than the requested one"
            raise self._broken(lie if is_range else "ignores range requests")
        got = 0
        # One byte more shows that there are too many.
        for part in _parts(body, limit_bytes + 1, piece_bytes):
            yield part[: limit_bytes - got] if got + len(part) > limit_bytes else part
            got += len(part)
        if is_range and start is not None:
            self._check_range(shown, start, limit_bytes, got)
        elif start is None and got > limit_bytes:
            raise oversized(key, self._store, limit_bytes)

    def _check_range(self, shown: str, start: int, wanted: int, got: int) -> None:
        """Raise StoreError unless the requested bytes came, or all up to the object's end."""
        if got > wanted:
            raise self._broken("returns more bytes than requested")
        match = _CONTENT_RANGE.fullmatch(shown)
        if got < wanted and (match is None or int(match[2]) != start + got):
            raise self._broken("returns fewer bytes than requested, although the object has more")

    # Listing --------------------------------------------------------------------------------------

    def objects(self, prefix: str, after: str, limit: int | None) -> Iterator[ObjectInfo]:
        """Yield objects in order, page by page, requesting no more than the remaining limit."""
        previous = self._prefix + after if after else ""
        found = empty_pages = 0
        page = self._page(prefix, limit, start_after=previous)
        while True:
            found_before = found
            for item in page.get("Contents", ()):
                self._check_order(item["Key"], previous, prefix)
                previous = item["Key"]
                key = previous[len(self._prefix) :]
                if is_key(key):
                    found += 1
                    modified = item.get("LastModified")
                    if "Size" not in item:
                        raise self._broken("lists objects without their size")
                    seconds = None if modified is None else modified.timestamp()
                    yield ObjectInfo(key, item["Size"], seconds)
            # Short and empty pages, and pages of foreign names, are legal, but a listing must end.
            empty_pages = 0 if found > found_before else empty_pages + 1
            if not page.get("IsTruncated") or found == limit:
                return
            token = page.get("NextContinuationToken")
            if not token or empty_pages > _EMPTY_PAGES_MAX:
                raise self._broken("lists an endless number of pages")
            # Many foreign names may follow, so the next requests ask for full pages.
            wanted = None if empty_pages else limit and limit - found
            page = self._page(prefix, wanted, token=token)

    def _page(
        self, prefix: str, wanted: int | None, *, start_after: str = "", token: str = ""
    ) -> ListObjectsV2OutputTypeDef:
        """Request one page; one request."""
        self._check_open()
        asked: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._prefix + prefix,
            "MaxKeys": min(wanted or LIST_PAGE_KEYS, LIST_PAGE_KEYS),
        }
        if token:
            asked["ContinuationToken"] = token
        elif start_after:
            asked["StartAfter"] = start_after

        def attempt() -> ListObjectsV2OutputTypeDef:
            page = self._client.list_objects_v2(**asked)
            if "IsTruncated" not in page:
                # boto3 parses an answer with truncated headers as an empty listing.
                raise StoreUnavailableError(
                    f"{self._store} did not answer in full (list of {prefix!r})",
                    next_step=LOST_NEXT_STEP,
                )
            if page.get("Prefix", "") != asked["Prefix"]:
                # For example from a cache that identifies pages only by path.
                raise StoreUnavailableError(
                    f"{self._store} answered a list of {prefix!r} with another listing",
                    next_step=PAGE_NEXT_STEP,
                )
            return page

        return self._caller.repeat("list", prefix, attempt)

    def _check_order(self, name: str, previous: str, prefix: str) -> None:
        """Reject a listing that would mislead a reader of logs."""
        if not name.startswith(self._prefix + prefix):
            raise self._broken("lists keys that were not requested")
        if name <= previous:
            raise self._broken("does not list keys in order")

    def _broken(self, what: str) -> StoreError:
        """Return the error for a server that violates S3's guarantees."""
        return StoreError(
            f"{self._store} {what}",
            next_step="use a store that behaves like Amazon S3 (general purpose buckets; not"
            " S3 Express directory buckets)",
        )


def _starts_at(shown: str, start: int | None) -> bool:
    match = _CONTENT_RANGE.fullmatch(shown)
    return match is not None and int(match[1]) == start


def _parts(
    body: StreamingBody, length: int, piece_bytes: int = _READ_CHUNK_BYTES
) -> Iterator[bytes]:
    """Yield a body to its end or up to `length` bytes; raises if it is truncated."""
    while length > 0 and (part := body.read(min(length, piece_bytes))):
        yield part
        length -= len(part)
