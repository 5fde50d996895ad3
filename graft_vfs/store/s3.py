"""A store in a bucket of Amazon S3 or of anything that speaks its protocol.

Invariants:

1. A create-only write is one PutObject with `If-None-Match: *` on a client that never retries: a
   retry that finds its own first try would see 412 and hide that the write had landed. It carries
   the MD5 of its body, because some servers create the key for a body that a killed client did not
   send to its end, and nobody could create it again.
2. An answer is read by one pure function, `classify`; a request without an answer by another,
   `classify_failure`. Everything else in this module acts on their results.
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
import enum
import hashlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    ConfigError,
    GraftError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
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

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.model import OperationModel
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

_log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024 * 1024
"""Objects above this size are uploaded in parts of at least this size."""

PARTS_MAX = 10_000
UPLOADS_PARALLEL = 4
"""Few, because some providers throttle more parallel parts of one object."""

ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""What is read of a listing, an error, or any other answer that is no object."""

_POOL_CONNECTIONS = 32
_ATTEMPT_HEADER, _FIRST_ATTEMPT = "amz-sdk-request", "attempt=1"
"""What botocore says in each request of how often it sent it."""
_READ_CHUNK_BYTES = 4 * 1024 * 1024
_RETRY_PAUSE_SECONDS = 0.1
_EMPTY_PAGES_MAX = 16
_LENGTH_HEADERS = frozenset({"content-length", "transfer-encoding"})
_LOST_NEXT_STEP = "check the endpoint and the network, and try again"

_BUCKET = re.compile(r"arn:[A-Za-z0-9:/_.-]+|[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)
_CODE = re.compile(r"[A-Z][a-z][A-Za-z]{1,62}", re.ASCII)
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]{2,12}){1,3}-[0-9]{1,2}", re.ASCII)


class Answer(enum.Enum):
    """What an error answer of the server means."""

    OBJECT_MISSING = "object missing"
    BUCKET_MISSING = "bucket missing"
    UPLOAD_MISSING = "upload missing"
    DENIED = "denied"
    EXISTS = "exists"
    RACING = "racing"
    BEYOND_END = "beyond the end"
    WRONG_REGION = "wrong region"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class Failure(enum.Enum):
    """What is known about a request that ended without a readable answer."""

    DENIED = "no credentials"
    NOT_SENT = "not sent"
    LOST = "no answer"
    WRONG_CALL = "wrong call"


_ANSWER_OF_CODE = {
    "NoSuchBucket": Answer.BUCKET_MISSING,
    "NoSuchKey": Answer.OBJECT_MISSING,
    "NoSuchUpload": Answer.UPLOAD_MISSING,
    "AccessDenied": Answer.DENIED,
    "SignatureDoesNotMatch": Answer.DENIED,
    "InvalidAccessKeyId": Answer.DENIED,
    "InvalidToken": Answer.DENIED,
    "ExpiredToken": Answer.DENIED,
    "TokenRefreshRequired": Answer.DENIED,
    "RequestTimeTooSkewed": Answer.DENIED,
    "PreconditionFailed": Answer.EXISTS,
    "ConditionalRequestConflict": Answer.RACING,
    "InvalidRange": Answer.BEYOND_END,
    "PermanentRedirect": Answer.WRONG_REGION,
    "TemporaryRedirect": Answer.WRONG_REGION,
    "AuthorizationHeaderMalformed": Answer.WRONG_REGION,
    "IllegalLocationConstraintException": Answer.WRONG_REGION,
    "NotImplemented": Answer.UNSUPPORTED,
    "SlowDown": Answer.UNAVAILABLE,
    "RequestTimeout": Answer.UNAVAILABLE,
    "Throttling": Answer.UNAVAILABLE,
    "TooManyRequests": Answer.UNAVAILABLE,
}

_ANSWER_OF_STATUS = {
    301: Answer.WRONG_REGION,
    302: Answer.WRONG_REGION,
    307: Answer.WRONG_REGION,
    401: Answer.DENIED,
    403: Answer.DENIED,
    404: Answer.OBJECT_MISSING,
    408: Answer.UNAVAILABLE,
    409: Answer.RACING,
    412: Answer.EXISTS,
    416: Answer.BEYOND_END,
    429: Answer.UNAVAILABLE,
    501: Answer.UNSUPPORTED,
}


def classify(code: str, status: int) -> Answer:
    """Return what an error answer means, from its S3 error code and its HTTP status."""
    if status >= 500 and status != 501:
        # Whatever the code says: a server that failed cannot say what it has done.
        return Answer.UNAVAILABLE
    by_code = _ANSWER_OF_CODE.get(code)
    return by_code or _ANSWER_OF_STATUS.get(status, Answer.REFUSED)


_DENIED_FAILURES = frozenset(
    {
        "CredentialRetrievalError",
        "LoginError",
        "MetadataRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "SSOError",
        "TokenRetrievalError",
        "UnknownCredentialError",
    }
)
_NOT_SENT_FAILURES = frozenset(
    {"ConnectTimeoutError", "EndpointConnectionError", "ProxyConnectionError"}
)


def classify_failure(error: Exception) -> Failure:
    """Return what a botocore or urllib3 exception says about a request without an answer.

    Classes are known by name, so that this module needs no botocore to be imported. What is not
    known to be harmless counts as lost: the request may have reached the server.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _DENIED_FAILURES:
        return Failure.DENIED
    if names & _NOT_SENT_FAILURES:
        return Failure.NOT_SENT
    if "SSLError" in names and "CERTIFICATE_VERIFY_FAILED" in str(error):
        # Certificates are checked before a byte of the request leaves; other TLS errors may come
        # later.
        return Failure.NOT_SENT
    if "ParamValidationError" in names:
        return Failure.WRONG_CALL
    return Failure.LOST


@dataclass(frozen=True, slots=True)
class _Reply:
    """An error answer: its meaning, and what may be shown of it."""

    answer: Answer
    shown: str
    region: str
    """Where the server says the bucket is; "" if it says nothing."""

    @classmethod
    def of(cls, response: Any) -> _Reply:
        """Read the parsed response of a botocore ClientError; foreign, so nothing is assumed."""
        error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
        code = str(error.get("Code", ""))
        status = int(metadata.get("HTTPStatusCode", 0))
        label = code if _CODE.fullmatch(code) else "no S3 error code"
        headers = metadata.get("HTTPHeaders", {})
        region = str(headers.get("x-amz-bucket-region") or error.get("Region") or "")
        return cls(
            classify(code, status),
            f"HTTP {status}, {label}",
            region if _REGION.fullmatch(region) else "",
        )


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
        with _configuration_errors(bucket):
            self._client, self._claim_client = _make_clients(
                endpoint, region, settings, attempts_max
            )
        self._endpoint: str = self._client.meta.endpoint_url
        self._answered: tuple[float, str] | None = None
        self._bodies = _Bodies()
        clients: tuple[tuple[S3Client, Verb], ...] = (
            (self._client, "put"),
            (self._claim_client, "put_if_absent"),
        )
        for client, put in clients:
            client.meta.events.register("before-call.s3", _prepare_call)
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
                reply = _Reply.of(error.response)
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
                if _Reply.of(error.response).answer is not Answer.OBJECT_MISSING:
                    raise

    def describe(self) -> str:
        """Return `s3://<bucket>[/<prefix>] at <endpoint>`."""
        place = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        return f"{place} at {self._endpoint}"

    def clock_ahead_seconds(self) -> float | None:
        """Compare the time of the last answer with its Date header, which has whole seconds."""
        if self._answered is None:
            return None
        here, date = self._answered
        try:
            return here - parsedate_to_datetime(date).timestamp()
        except ValueError:
            return None  # The server's text, which nobody else needs.

    def _note_date(self, parsed: dict[str, Any], **_: object) -> None:
        """Keep the Date header of an answer, be it an error's; it is read when somebody asks."""
        date = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is not None:
            self._answered = time.time(), date

    def close(self) -> None:
        """Close the connections; see ObjectStore.close."""
        super().close()
        self._client.close()
        self._claim_client.close()

    # Counting

    def _counting_sender(self, client: S3Client, *, put: Verb) -> Callable[..., Any]:
        """Return a handler that counts, sends and times a client's requests, retries too."""
        send = _bounded_sender(client, self._bodies)
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
            if _is_retry(request):
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
                    past_end = _Reply.of(error.response).answer is Answer.BEYOND_END
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
                    next_step=_LOST_NEXT_STEP,
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
            if _Reply.of(error.response).answer is Answer.UPLOAD_MISSING:
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
            reply = _Reply.of(error.response)
            _log.debug("%s of %r: %s", verb, key, reply.shown)
            # The cause is cut off: its text is the server's, see invariant 3.
            raise self._answer_error(reply, verb, key) from None
        except (BotoCoreError, ResponseParserError, HTTPError, ValueError) as error:
            # A ValueError is boto3's too: headers that are no dates or numbers, such as cut ones.
            _log.debug("%s of %r: %s", verb, key, type(error).__name__)
            failure = classify_failure(error)
            # So is that of a program that supplies credentials and may print them.
            is_foreign = failure is Failure.DENIED or isinstance(error, ValueError)
            cause = None if is_foreign else error
            raise self._failure_error(error, failure, verb, key) from cause

    def _answer_error(self, reply: _Reply, verb: Verb, key: str) -> GraftError:
        """Make the declared error for an error answer."""
        answer = _answer_for(verb, reply.answer)
        where = f"{self.describe()} ({verb} of {key!r}: {reply.shown})"
        if answer is Answer.OBJECT_MISSING:
            return ObjectMissingError(key)
        if answer is Answer.UNAVAILABLE and verb == "put_if_absent":
            return _unknown(f"{where} failed while it handled a claim")
        if answer is Answer.UNSUPPORTED and verb == "put_if_absent":
            return UnsafeStoreError(
                f"{where} knows no create-only writes, so pushing to it could lose commits",
                next_step="use a store that honours 'If-None-Match: *' (Amazon S3 does)",
            )
        if answer is Answer.DENIED and verb in {"get", "get_range"}:
            return StoreDeniedError(
                f"{where} denied access",
                next_step="check the credentials and the permission s3:GetObject; without"
                " s3:ListBucket, S3 answers this for absent objects too, so grant both",
            )
        kind, what, step = _ERROR_OF_ANSWER[answer]
        if answer is Answer.WRONG_REGION and reply.region:
            step = f"set the region {reply.region}, in the configuration or as AWS_DEFAULT_REGION"
        return kind(f"{where} {what}", next_step=step)

    def _failure_error(
        self, error: Exception, failure: Failure, verb: Verb, key: str
    ) -> GraftError:
        """Make the declared error for a request that has no answer."""
        where = f"{self.describe()} ({verb} of {key!r}: {type(error).__name__})"
        if failure is Failure.DENIED:
            return StoreDeniedError(
                f"{where} cannot be used without credentials",
                next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        if failure is Failure.NOT_SENT:
            return StoreUnavailableError(
                f"{where} cannot be reached", next_step="check the endpoint and the network"
            )
        if failure is Failure.WRONG_CALL:
            return UsageError(f"{where} cannot be asked this", next_step="check the bucket's name")
        if verb == "put_if_absent":
            return _unknown(f"{where} did not answer a claim")
        return StoreUnavailableError(
            f"{where} did not answer in full",
            next_step=_LOST_NEXT_STEP,
        )

    def _broken(self, what: str) -> StoreError:
        """Make the error for a server that does not keep S3's promises."""
        return StoreError(
            f"{self.describe()} {what}",
            next_step="use a store that does as Amazon S3 does (general purpose buckets; not"
            " directory buckets of S3 Express)",
        )


_ERROR_OF_ANSWER: dict[Answer, tuple[type[StoreError], str, str]] = {
    Answer.BUCKET_MISSING: (
        BucketMissingError,
        "has no such bucket",
        "create the bucket, or check its name and the endpoint",
    ),
    Answer.DENIED: (
        StoreDeniedError,
        "denied access",
        "check the credentials, their permissions for this bucket, and the clock",
    ),
    Answer.WRONG_REGION: (
        StoreError,
        "says that the bucket is in another region",
        "set the bucket's region, in the configuration or as AWS_DEFAULT_REGION",
    ),
    Answer.UNSUPPORTED: (
        StoreError,
        "does not know this kind of request",
        "use a store that does as Amazon S3 does",
    ),
    Answer.UNAVAILABLE: (
        StoreUnavailableError,
        "is not available",
        "try again later",
    ),
    Answer.REFUSED: (
        StoreError,
        "refused the request",
        "check that the endpoint is an S3 service",
    ),
}


def _answer_for(verb: Verb, answer: Answer) -> Answer:
    """Read an answer in the light of what was asked.

    Only reads know absent objects: for the others, a 404 means that the bucket is absent. The
    outcomes of create-only writes mean nothing for the rest.
    """
    if answer is Answer.OBJECT_MISSING and verb not in {"get", "get_range"}:
        return Answer.BUCKET_MISSING
    if answer is Answer.RACING:
        return Answer.UNAVAILABLE
    if answer in {Answer.EXISTS, Answer.BEYOND_END, Answer.UPLOAD_MISSING}:
        return Answer.REFUSED
    return answer


def _unknown(message: str) -> CommitOutcomeUnknownError:
    return CommitOutcomeUnknownError(
        f"{message}; it may have landed or not",
        next_step="push again: the record of this push is kept, and the same bytes are sent",
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


@contextlib.contextmanager
def _configuration_errors(bucket: str) -> Iterator[None]:
    """Raise the declared error for what boto3 says while clients are made."""
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - see invariant 4

    try:
        yield
    except BotoCoreError as error:
        if classify_failure(error) is Failure.DENIED:
            raise StoreDeniedError(
                f"s3://{bucket} cannot be used without credentials ({type(error).__name__})",
                next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from None
        raise ConfigError(
            f"s3://{bucket} cannot be set up ({type(error).__name__})",
            next_step="check the region, and the profile in the AWS configuration files",
        ) from error
    except ValueError:
        # The text of this error repeats the endpoint, which may hold a password.
        raise ConfigError(
            f"s3://{bucket} has an endpoint that is no URL",
            next_step="write it as http://host:port or https://host",
        ) from None


def _make_clients(
    endpoint: str | None, region: str | None, settings: dict[str, Any], attempts_max: int
) -> tuple[S3Client, S3Client]:
    """Return a client that retries and one that never does, for create-only writes."""
    import boto3.session  # noqa: PLC0415 - see invariant 4
    from botocore.config import Config  # noqa: PLC0415

    session = boto3.session.Session()

    def make(attempts: int, addressing: Literal["auto", "path"]) -> S3Client:
        config = Config(
            retries={"total_max_attempts": attempts, "mode": "standard"},
            s3={"addressing_style": addressing},
            **settings,
        )
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)

    client = make(attempts_max, "path" if endpoint else "auto")
    parts = urlsplit(client.meta.endpoint_url)
    host = parts.hostname or ""
    addressing: Literal["auto", "path"]
    addressing = "auto" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else "path"
    if addressing == "path" and not endpoint:
        # The endpoint came from the AWS configuration. Servers other than Amazon's rarely have a
        # host name for each bucket.
        client.close()
        client = make(attempts_max, addressing)
    if parts.username is not None or parts.password is not None:
        client.close()
        raise ConfigError(
            "the S3 endpoint holds a user name or a password",
            next_step="leave it out; credentials belong into the AWS variables or a profile",
        )
    return client, make(1, "path" if endpoint else addressing)


def credentials_source() -> str | None:
    """Return where the AWS chain finds credentials, such as `env`; None if it finds none.

    Asks the metadata service of a cloud machine if nothing nearer has any. Raises ConfigError.
    """
    import boto3.session  # noqa: PLC0415 - see invariant 4

    with _configuration_errors(""):
        found = boto3.session.Session().get_credentials()
    return None if found is None else found.method


def _md5_of(data: bytes) -> str:
    """Return the header by which a server knows a body that is not whole."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _prepare_call(model: OperationModel, params: dict[str, Any], **_: object) -> None:
    """Change two of boto3's habits, just before it makes a request of a call."""
    if model.name == "PutObject":
        # With this header a client waits for the server's consent before it sends the body, which
        # costs a round trip for each push, and a second where a server does not answer it.
        params["headers"].pop("Expect", None)
    # When an answer names another region, boto3 asks for the bucket's and repeats the request. That
    # is more than the one request of a claim, and a server that always answers so makes it recurse
    # until the stack ends. A request that counts as redirected already is left alone.
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _is_retry(request: AWSPreparedRequest) -> bool:
    """Tell whether boto3 sends a request again; it numbers them in a header, from 1."""
    header = request.headers.get("amz-sdk-request", b"")
    text = header.decode("ascii") if isinstance(header, bytes) else str(header)
    return text.partition(";")[0] not in {"", "attempt=1"}


class _Bodies(threading.local):
    """The body of the newest answer of each thread that is an object, until boto3 gives it out."""

    newest: Any = None


def _bounded_sender(client: Any, bodies: _Bodies) -> Callable[[AWSPreparedRequest], Any]:
    """Return a function that sends a request and reads its answer, unless that is an object.

    boto3 reads listings and errors to their end, however far away a hostile server puts it.
    """
    from botocore.exceptions import HTTPClientError  # noqa: PLC0415 - see invariant 4
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    send = client._endpoint.http_session.send  # noqa: SLF001 - no public name leads there

    def send_bounded(request: AWSPreparedRequest) -> Any:
        is_for_object, request.stream_output = request.stream_output, True
        response = send(request)
        if is_for_object and response.status_code < 300:
            bodies.newest = response.raw
            return response
        content = bytearray()
        try:
            for part in response.raw.stream():
                content += part
                if len(content) > ANSWER_BYTES_MAX:
                    response.raw.close()
                    raise HTTPClientError(error=f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        except HTTPError as error:
            raise HTTPClientError(error=error) from error
        response._content = bytes(content)  # noqa: SLF001 - where boto3 looks for it first
        return response

    return send_bounded


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
