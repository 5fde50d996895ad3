"""A store in a bucket of Amazon S3 or of anything that speaks its protocol.

Invariants:

1. A create-only write is one PutObject with `If-None-Match: *` on a client that never retries: a
   retry that finds its own first try would see 412 and hide that the write had landed. It carries
   the MD5 of its body, because some servers create the key for a body that a killed client did not
   send to its end, and nobody could create it again.
2. What an answer means is said by `s3_answers`; this module acts on its results.
3. No text that a server sends reaches an error or a log, except a well-formed error code and the
   name of a region, because servers repeat credentials in their messages.
4. boto3 is imported when the first store is made, not with this module: it costs more time than
   opening a database.

Crash here: while a large object is uploaded, its parts stay at the server without a key. A rule of
the bucket's life cycle for incomplete uploads removes them. An upload that fails is aborted.

What it does not do: detect bytes damaged on the way; readers carry checksums for that.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from graft_vfs.errors import (
    ConfigError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    KEY_BYTES_MAX,
    LIST_PAGE_KEYS,
    Buffer,
    ObjectStore,
    PutOutcome,
    Verb,
    check_key,
    check_limit,
    check_prefix,
    check_range,
    is_key,
    oversized,
)
from graft_vfs.store.s3_answers import (
    LOST_NEXT_STEP,
    Answer,
    Failure,
    Reply,
    answer_error,
    classify_failure,
    failure_error,
)
from graft_vfs.store.s3_client import (
    Bodies,
    bounded_sender,
    configuration_errors,
    is_retry,
    make_clients,
    prepare_call,
)
from graft_vfs.times import uptime_seconds

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

_log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024 * 1024
"""Objects above this size are uploaded in parts of at least this size."""

PARTS_MAX = 10_000
UPLOADS_PARALLEL = 4
"""Few, because some providers throttle more parallel parts of one object."""

_POOL_CONNECTIONS = 32
_READ_CHUNK_BYTES = 4 * 1024 * 1024
_RETRY_PAUSE_SECONDS = 0.1
_EMPTY_PAGES_MAX = 16
_LENGTH_HEADERS = frozenset({"content-length", "transfer-encoding"})

_BUCKET = re.compile(r"arn:[A-Za-z0-9:/_.-]+|[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


class S3Store(ObjectStore):
    """A handle on the objects of a bucket, or on those below a prefix of it.

    Owned by whoever made it; keeps connections open until `close`. Credentials come from the
    standard AWS chain, and so do the endpoint and the region if none is given. Any thread may use
    it. Making one sends no request.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        connect_timeout_seconds: float = 5.0,
        read_timeout_seconds: float = 15.0,
        attempts_max: int = 4,
    ) -> None:
        """Set up the clients.

        `attempts_max` bounds how often a request is sent that may be repeated; create-only writes
        are sent once.

        Raises:
            ConfigError: the bucket, prefix, endpoint, region or AWS profile cannot be right.
            StoreDeniedError: the AWS chain has half of a pair of credentials.
        """
        super().__init__()
        self._bucket = _checked_bucket(bucket)
        self._prefix = _checked_prefix(prefix)
        self._attempts_max = attempts_max
        settings: dict[str, Any] = {
            "connect_timeout": connect_timeout_seconds,
            "read_timeout": read_timeout_seconds,
            "max_pool_connections": _POOL_CONNECTIONS,
            # The default checksum headers are refused by several servers and older gateways.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        with configuration_errors(bucket):
            self._client, self._claim_client = make_clients(
                endpoint, region, settings, attempts_max
            )
        self._endpoint: str = self._client.meta.endpoint_url
        self._answered: tuple[float, str] | None = None
        self._bodies = Bodies()
        clients: tuple[tuple[S3Client, Verb], ...] = (
            (self._client, "put"),
            (self._claim_client, "put_if_absent"),
        )
        for client, put in clients:
            client.meta.events.register("before-call.s3", prepare_call)
            client.meta.events.register("after-call.s3", self._note_date)
            client.meta.events.register("before-send.s3", self._counting_sender(client, put=put))

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Return the whole object; see ObjectStore.get."""
        return self._fetch("get", key, None, limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return part of an object; see ObjectStore.get_range."""
        check_range(start, length)
        return self._fetch("get_range", key, start, length)

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Create an object unless its key exists; see ObjectStore.put_if_absent."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - see invariant 4

        name = self._name(key)
        with self._translated("put_if_absent", key):
            try:
                self._claim_client.put_object(
                    Bucket=self._bucket,
                    Key=name,
                    Body=data,
                    IfNoneMatch="*",
                    ContentMD5=_md5_of(data),
                )
            except ClientError as error:
                reply = Reply.of(error.response)
                _log.debug("create-only write of %r: %s", key, reply.shown)
                if reply.answer is Answer.EXISTS:
                    return PutOutcome.EXISTS
                if reply.answer is Answer.RACING:
                    return PutOutcome.RACING
                raise
        return PutOutcome.CREATED

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        """Write an object; see ObjectStore.put."""
        name = self._name(key)
        joined = _JoinedBuffers(data)
        with self._translated("put", key):
            if joined.size <= PART_BYTES:
                body = joined.read(0, joined.size)
                self._client.put_object(Bucket=self._bucket, Key=name, Body=body)
            elif not self._upload(name, joined) and not self._upload(name, joined):
                raise StoreUnavailableError(
                    f"{self.describe()} lost the upload of {key!r} twice",
                    next_step="try again later",
                )

    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        """Yield keys in order; see ObjectStore.list."""
        self._check_open()
        check_prefix(prefix)
        after = check_prefix(start_after or "")
        if check_limit(limit) == 0:
            return iter(())
        return itertools.islice(self._keys(prefix, after, limit), limit)

    def delete(self, key: str) -> None:
        """Remove an object; see ObjectStore.delete."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - see invariant 4

        name = self._name(key)
        with self._translated("delete", key):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=name)
            except ClientError as error:
                # Some gateways answer 404 for an absent key, where S3 answers 204.
                if Reply.of(error.response).answer is not Answer.OBJECT_MISSING:
                    raise

    def describe(self) -> str:
        """Return `s3://<bucket>[/<prefix>] at <endpoint>`."""
        place = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        return f"{place} at {self._endpoint}"

    def clock_ahead_seconds(self) -> float | None:
        """Compare the clock with the last answer's Date, to which the time since is added."""
        if self._answered is None:
            return None
        noted, date = self._answered
        try:
            there = parsedate_to_datetime(date).timestamp() + uptime_seconds() - noted
            return time.time() - there
        except ValueError:
            return None  # The server's text, which nobody else needs.

    def _note_date(self, parsed: dict[str, Any], **_: object) -> None:
        """Keep the Date header of an answer, be it an error's; it is read when somebody asks."""
        date = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is not None:
            self._answered = uptime_seconds(), date

    def close(self) -> None:
        """Close the connections; see ObjectStore.close."""
        super().close()
        self._client.close()
        self._claim_client.close()

    # Counting

    def _counting_sender(self, client: S3Client, *, put: Verb) -> Callable[..., Any]:
        """Return a handler that counts, sends and times a client's requests, retries too."""
        send = bounded_sender(client, self._bodies)
        verbs: dict[str, Verb] = {
            "PutObject": put,
            "CreateMultipartUpload": "put",
            "UploadPart": "put",
            "CompleteMultipartUpload": "put",
            "AbortMultipartUpload": "put",
            "ListObjectsV2": "list",
            "DeleteObject": "delete",
        }

        def count_and_send(request: AWSPreparedRequest, event_name: str, **_: object) -> Any:
            operation = event_name.rpartition(".")[2]
            verb = verbs.get(operation, "other")
            if operation == "GetObject":
                verb = "get_range" if "Range" in request.headers else "get"
            carries_object = operation in {"PutObject", "UploadPart"}
            sent = int(request.headers.get("Content-Length", 0)) if carries_object else 0
            # Counted before it is sent: a request that fails meanwhile is one, too.
            self.counters.add(verb, bytes_sent=sent)
            if is_retry(request):
                self.counters.add_retry()
            with self.counters.timed(verb):
                return send(request)

        return count_and_send

    # Reading

    def _fetch(self, verb: Verb, key: str, start: int | None, limit_bytes: int) -> bytes:
        """Read an object, or up to `limit_bytes` from `start`; again if the body is cut short."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        name = self._name(key)
        for attempt in itertools.count(1):
            with self._translated(verb, key):
                try:
                    answer = self._request_object(name, start, limit_bytes)
                except ClientError as error:
                    past_end = Reply.of(error.response).answer is Answer.BEYOND_END
                    if past_end and start is not None:
                        return b""
                    raise
                body = answer["Body"]
                try:
                    # Closing a body that was read to its end returns its connection to the pool;
                    # closing it earlier ends the connection, which discards what was not read.
                    with contextlib.closing(body):
                        data = self._read_body(key, start, limit_bytes, answer)
                except (BotoCoreError, HTTPError) as error:
                    _log.debug("reading %r, try %d: %s", key, attempt, type(error).__name__)
                    if attempt >= self._attempts_max:
                        raise
                    self.counters.add_retry()
                else:
                    self.counters.add(verb, requests=0, bytes_received=len(data))
                    return data
            time.sleep(_RETRY_PAUSE_SECONDS * attempt)
        raise AssertionError  # pragma: no cover - the loop has no end of its own

    def _request_object(
        self, name: str, start: int | None, limit_bytes: int
    ) -> GetObjectOutputTypeDef:
        try:
            if start is None:
                return self._client.get_object(Bucket=self._bucket, Key=name)
            wanted = f"bytes={start}-{start + limit_bytes - 1}"
            return self._client.get_object(Bucket=self._bucket, Key=name, Range=wanted)
        except BaseException:
            # boto3 leaves the body open of an answer whose head it cannot read.
            if self._bodies.newest is not None:
                self._bodies.newest.close()
            raise
        finally:
            self._bodies.newest = None

    def _read_body(
        self, key: str, start: int | None, limit_bytes: int, answer: GetObjectOutputTypeDef
    ) -> bytes:
        """Read a body, whose length a server may lie about, within its limit."""
        from botocore.exceptions import IncompleteReadError  # noqa: PLC0415 - see invariant 4

        body = answer["Body"]
        if not _LENGTH_HEADERS & answer["ResponseMetadata"]["HTTPHeaders"].keys():
            # Such a body ends wherever its connection does, and the head may have been cut too.
            raise IncompleteReadError(actual_bytes=0, expected_bytes=limit_bytes)
        if start is None:
            if answer.get("ContentLength", 0) > limit_bytes:
                raise oversized(key, self.describe(), limit_bytes)
            data = _read_up_to(body, limit_bytes + 1)
            if len(data) > limit_bytes:
                raise oversized(key, self.describe(), limit_bytes)
            return data
        if answer["ResponseMetadata"]["HTTPStatusCode"] == 200:
            # Some servers answer a range that covers the whole object as if none was asked for,
            # and some know no ranges; the first bytes are the right ones if they start at 0.
            if start == 0:
                return _read_up_to(body, limit_bytes)
            raise self._broken("ignores range requests")
        # Read first: an answer that was cut in its head may show half of a range.
        data = _read_up_to(body, limit_bytes + 1)
        shown = answer.get("ContentRange", "")
        if shown and not shown.startswith(f"bytes {start}-"):
            raise self._broken("answers another range than the one it was asked for")
        if len(data) > limit_bytes:
            raise self._broken("answers more bytes than it was asked for")
        return data

    # Listing

    def _keys(self, prefix: str, after: str, limit: int | None) -> Iterator[str]:
        """Yield keys page by page; a page asks for no more keys than are still wanted."""
        previous = self._prefix + after if after else ""
        found = empty_pages = 0
        page = self._page(prefix, limit, start_after=previous)
        while True:
            if "IsTruncated" not in page:
                # boto3 reads an answer that ends in its head as a listing of nothing.
                raise StoreUnavailableError(
                    f"{self.describe()} did not answer in full (list of {prefix!r})",
                    next_step=LOST_NEXT_STEP,
                )
            found_before = found
            for name in [item["Key"] for item in page.get("Contents", ())]:
                self._check_order(name, previous, prefix)
                previous = name
                key = name[len(self._prefix) :]
                if is_key(key):
                    found += 1
                    yield key
            # Short pages are legal, and so are empty ones and those of foreign names, but a listing
            # must come to its end.
            empty_pages = 0 if found > found_before else empty_pages + 1
            if not page.get("IsTruncated") or found == limit:
                return
            token = page.get("NextContinuationToken")
            if not token or empty_pages > _EMPTY_PAGES_MAX:
                raise self._broken("lists pages without an end")
            # Behind foreign names there may be many more of them, so that pages are full ones then.
            wanted = None if empty_pages else limit and limit - found
            page = self._page(prefix, wanted, token=token)

    def _page(
        self, prefix: str, wanted: int | None, *, start_after: str = "", token: str = ""
    ) -> ListObjectsV2OutputTypeDef:
        """Ask for one page; one request."""
        self._check_open()
        bucket, whole_prefix = self._bucket, self._prefix + prefix
        keys_max = min(wanted or LIST_PAGE_KEYS, LIST_PAGE_KEYS)
        with self._translated("list", prefix):
            if token:
                return self._client.list_objects_v2(
                    Bucket=bucket, Prefix=whole_prefix, MaxKeys=keys_max, ContinuationToken=token
                )
            if start_after:
                return self._client.list_objects_v2(
                    Bucket=bucket, Prefix=whole_prefix, MaxKeys=keys_max, StartAfter=start_after
                )
            return self._client.list_objects_v2(
                Bucket=bucket, Prefix=whole_prefix, MaxKeys=keys_max
            )

    def _check_order(self, name: str, previous: str, prefix: str) -> None:
        """Refuse a listing that a reader of logs would be misled by."""
        if not name.startswith(self._prefix + prefix):
            raise self._broken("lists keys that it was not asked for")
        if name <= previous:
            raise self._broken("does not list keys in order")

    # Uploading in parts

    def _upload(self, name: str, joined: _JoinedBuffers) -> bool:
        """Upload one object in parts, in parallel; False if the server forgot the upload.

        A server forgets an upload too when it was completed and only the answer was lost, and then
        a repeated completion cannot tell which it was; uploading again is right in both cases.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415 - see invariant 4

        opened = self._client.create_multipart_upload(Bucket=self._bucket, Key=name)
        upload = opened["UploadId"]
        try:
            tags = self._upload_parts(name, upload, joined)
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=name,
                UploadId=upload,
                MultipartUpload={
                    "Parts": [
                        {"ETag": tag, "PartNumber": number} for number, tag in enumerate(tags, 1)
                    ]
                },
            )
        except ClientError as error:
            if Reply.of(error.response).answer is Answer.UPLOAD_MISSING:
                _log.debug("the upload of %r was completed or lost", name)
                return False
            self._abort(name, upload, error)
            raise
        except BaseException as error:
            self._abort(name, upload, error)
            raise
        return True

    def _upload_parts(self, name: str, upload: str, joined: _JoinedBuffers) -> Sequence[str]:
        """Upload all parts; returns their tags in order, after no upload runs any more."""
        part_bytes = max(PART_BYTES, -(-joined.size // PARTS_MAX))

        def send(number: int) -> str:
            start = (number - 1) * part_bytes
            # A part's bytes are joined when its turn comes, so that memory holds only those on
            # their way.
            part = self._client.upload_part(
                Bucket=self._bucket,
                Key=name,
                UploadId=upload,
                PartNumber=number,
                Body=joined.read(start, start + part_bytes),
            )
            return part["ETag"]

        count = -(-joined.size // part_bytes)
        with ThreadPoolExecutor(UPLOADS_PARALLEL, thread_name_prefix="graft-upload") as pool:
            try:
                parts = [pool.submit(send, number) for number in range(1, count + 1)]
            except RuntimeError as error:
                raise StoreUnavailableError(
                    f"an upload of {joined.size} bytes needs threads, and none can start any more",
                    next_step="push, or close the engine, before the program ends",
                ) from error
            try:
                return [part.result() for part in parts]
            finally:
                for part in parts:
                    part.cancel()

    def _abort(self, name: str, upload: str, failure: BaseException) -> None:
        """Remove the parts of a failed upload, without hiding why it failed."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)
        except (BotoCoreError, ClientError) as error:
            failure.add_note("the upload could not be aborted; its parts stay in the bucket")
            _log.debug("aborting the upload of %r: %s", name, type(error).__name__)

    # Errors

    def _name(self, key: str) -> str:
        """Return the name of a key in the bucket."""
        self._check_open()
        name = self._prefix + check_key(key)
        if len(name) > KEY_BYTES_MAX:
            raise UsageError(
                f"{name!r} is too long for S3", next_step="use a shorter prefix or name"
            )
        return name

    @contextlib.contextmanager
    def _translated(self, verb: Verb, key: str) -> Iterator[None]:
        """Raise the declared error for any of boto3's inside the block."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            yield
        except ClientError as error:
            reply = Reply.of(error.response)
            _log.debug("%s of %r: %s", verb, key, reply.shown)
            # The cause is cut off: its text is the server's, see invariant 3.
            raise answer_error(self.describe(), reply, verb, key) from None
        except (BotoCoreError, ResponseParserError, HTTPError, ValueError) as error:
            # A ValueError is boto3's too: headers that are no dates or numbers, such as cut ones.
            _log.debug("%s of %r: %s", verb, key, type(error).__name__)
            failure = classify_failure(error)
            # So is that of a program that supplies credentials and may print them.
            is_foreign = failure is Failure.DENIED or isinstance(error, ValueError)
            cause = None if is_foreign else error
            raise failure_error(self.describe(), error, failure, verb, key) from cause

    def _broken(self, what: str) -> StoreError:
        """Make the error for a server that does not keep S3's promises."""
        return StoreError(
            f"{self.describe()} {what}",
            next_step="use a store that does as Amazon S3 does (general purpose buckets; not"
            " directory buckets of S3 Express)",
        )


def _checked_bucket(bucket: str) -> str:
    if _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(
            f"{bucket!r} is no name of a bucket",
            next_step="name the bucket alone; what comes after a '/' is the prefix",
        )
    return bucket


def _checked_prefix(prefix: str) -> str:
    """Return the prefix with one slash at its end, or "" for the whole bucket."""
    bare = prefix.strip("/")
    if not bare:
        return ""
    if not is_key(bare):
        raise ConfigError(
            f"{prefix!r} is no prefix for keys", next_step="use A-Z a-z 0-9 . _ ~ % - and '/'"
        )
    return f"{bare}/"


def _md5_of(data: bytes) -> str:
    """Return the header by which a server knows a body that is not whole."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _read_up_to(body: StreamingBody, length: int) -> bytes:
    """Read a body to its end or up to `length` bytes; raises if it ends before its end."""
    parts = []
    while length > 0 and (part := body.read(min(length, _READ_CHUNK_BYTES))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class _JoinedBuffers:
    """Several buffers, read as if they were one. Immutable; any thread may read."""

    __slots__ = ("_ends", "_views", "size")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views = [memoryview(buffer).cast("B") for buffer in buffers]
        self._ends = list(itertools.accumulate(len(view) for view in self._views))
        self.size = self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, fewer at the end."""
        parts = []
        for view, end in zip(self._views, self._ends, strict=True):
            begin = end - len(view)
            if begin < stop and end > start:
                parts.append(view[max(start - begin, 0) : stop - begin])
        return b"".join(parts)
