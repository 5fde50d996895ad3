"""A store in a bucket of Amazon S3 or of anything that speaks its protocol.

Invariants:

1. A create-only write is one PutObject with `If-None-Match: *`, and is never retried: after a
   landed first attempt, a retry would get 412 and hide that the write had landed.
2. Every write has the MD5 of its body: some servers create a key for a truncated body of a killed
   client, and buckets with Object Lock require it.
3. A write counts as landed, and an object as absent, only with a proof as defined in `answers`.
4. The only server texts in errors and logs are a well-formed error code and the name of a region,
   because servers repeat credentials in their messages.
5. boto3 is imported by the first request instead of with this module, because the import takes
   longer than opening a database and many commands send no request.
6. Without credentials requests are unsigned, as public buckets allow, and none of them writes.

A crash during the upload of a large object leaves parts without a key on the server. A lifecycle
rule for incomplete uploads removes them. A failed upload is aborted.

This module does not detect bytes that were damaged in transit; readers verify checksums.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graft_vfs.errors import (
    ConfigError,
    ObjectMissingError,
    StoreDeniedError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.reentry import occupied
from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    KEY_BYTES_MAX,
    LIST_PAGE_KEYS,
    REQUESTS_MAX,
    Buffer,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    Sent,
    Take,
    Verb,
    check_key,
    check_limit,
    check_prefix,
    check_range,
    is_key,
)
from graft_vfs.store.s3.answers import (
    Answer,
    Reply,
    answer_error,
    is_of_a_store,
    proves_landing,
    unproven_error,
)
from graft_vfs.store.s3.calls import Caller
from graft_vfs.store.s3.client import (
    Bodies,
    bounded_sender,
    checked_endpoint,
    configuration_errors,
    is_unsigned,
    make_client,
    note_signed,
    prepare_call,
)
from graft_vfs.store.s3.exchange import Clock, Limits, current
from graft_vfs.store.s3.reading import Reader
from graft_vfs.store.s3.upload import PART_BYTES, JoinedBuffers, Place, Upload, md5_header
from graft_vfs.times import parse_http_date, uptime_seconds

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3 import S3Client

_logger = logging.getLogger("graft_vfs.store.s3")

_TAIL_BYTES = 16 * 1024
"""The number of bytes at an object's end to compare, to prove that it is ours. Frames are
compressed, so no two objects end alike."""

_BUCKET = re.compile(r"arn:[A-Za-z0-9:/_.-]+|[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


class S3Store(ObjectStore):
    """A handle on the objects of a bucket, or on those below a prefix of it.

    Owned by its creator; keeps connections open until `close`. Credentials come from the standard
    AWS chain, as do endpoint and region if not given. Any thread may use it. Creating a handle
    sends no request. The first request creates the client, and raises ConfigError or
    StoreDeniedError if the AWS configuration is invalid.
    """

    _client: S3Client
    _caller: Caller
    _reader: Reader
    _is_unsigned: bool

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        unsigned: bool = False,
        connect_timeout_seconds: float = 5.0,
        read_timeout_seconds: float = 15.0,
        total_timeout_seconds: float = 60.0,
        attempts_max: int = 4,
        clock: Clock | None = None,
        configuring: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Check the settings; the first request creates the client.

        `read_timeout_seconds` limits silence. `total_timeout_seconds` limits a verb with its
        retries, plus one second per 4 KiB transferred. `attempts_max` limits the attempts of a
        request that may be retried; throttling does not count. The client is created inside
        `configuring`, which may add to a ConfigError.

        Requests are unsigned with `unsigned`, or if the AWS chain finds no credentials; then no
        request that writes is sent, and raises StoreDeniedError.

        Raises:
            ConfigError: the bucket, prefix or endpoint is invalid.
        """
        super().__init__()
        self._bucket = _checked_bucket(bucket)
        self._prefix = _checked_prefix(prefix)
        self._endpoint = None if endpoint is None else checked_endpoint(bucket, endpoint)
        self._region = region
        self._unsigned = unsigned
        self._settings: dict[str, Any] = {
            "connect_timeout": connect_timeout_seconds,
            "read_timeout": read_timeout_seconds,
            "max_pool_connections": REQUESTS_MAX,
            # Several servers and older gateways refuse the default checksum headers.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        self._limits = Limits(connect_timeout_seconds, read_timeout_seconds, total_timeout_seconds)
        self._attempts_max = attempts_max
        self._configuring = configuring
        self._clock = clock or Clock()
        # Reentrant: a finalizer may close the store while its client is being created.
        self._making = threading.RLock()
        self._is_made = False
        self._answered: tuple[float, str] | None = None

    def _check_open(self) -> None:
        """Create the client at the first use; raises UsageError, and the errors of creating it.

        After a failure the next request tries again, so that a mistake can be corrected.
        """
        super()._check_open()
        if not self._is_made:
            with occupied(), self._making:
                if not self._is_made:
                    self._make()
            super()._check_open()

    def _make(self) -> None:
        with self._configuring(), configuration_errors(self._bucket):
            self._client = make_client(self._endpoint, self._region, self._unsigned, self._settings)
            self._is_unsigned = is_unsigned(self._client)
        self._endpoint = self._client.meta.endpoint_url
        self._caller = Caller(
            self.describe(),
            self._limits,
            self.counters,
            attempts_max=self._attempts_max,
            clock=self._clock,
            is_unsigned=self._is_unsigned,
        )
        bodies = Bodies()
        self._reader = Reader(
            self._client,
            self._caller,
            bodies,
            self._check_open,
            store=self.describe(),
            bucket=self._bucket,
            prefix=self._prefix,
        )
        events = self._client.meta.events
        events.register("before-call.s3", prepare_call)
        events.register("after-call.s3", self._note_answer)
        events.register_last("request-created.s3", note_signed)
        events.register("before-send.s3", self._counting_sender(bodies))
        self._is_made = True
        if self._closed:
            self._client.close()

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Return the whole object; see ObjectStore.get."""
        return self._fetch("get", key, None, limit_bytes)[0]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return part of an object; see ObjectStore.get_range."""
        check_range(start, length)
        return self._fetch("get_range", key, start, length)[0]

    def stream_range(self, key: str, start: int, length: int, take: Take) -> int:
        """Give a range piece by piece; see ObjectStore.stream_range."""
        check_range(start, length)
        name = self._name(key)

        def counted(piece: bytes) -> None:
            self.counters.add("get_range", requests=0, bytes_received=len(piece))
            take(piece)

        return self._reader.stream(key, name, start, length, counted)

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Create an object unless its key exists; see ObjectStore.put_if_absent."""
        name = self._name_to_write(key)
        from botocore.exceptions import ClientError  # noqa: PLC0415 - see invariant 5

        def attempt() -> PutOutcome:
            try:
                done = self._client.put_object(
                    Bucket=self._bucket,
                    Key=name,
                    Body=data,
                    IfNoneMatch="*",
                    ContentMD5=md5_header(data),
                )
            except ClientError as error:
                reply = Reply.of(error.response)
                _logger.debug("create-only write of %r: %s", key, reply.shown)
                if reply.answer is Answer.EXISTS:
                    return PutOutcome.EXISTS
                if reply.answer is Answer.RACING:
                    return PutOutcome.RACING
                raise
            self._check_landed(done, "put_if_absent", key, data)
            return PutOutcome.CREATED

        return self._caller.once("put_if_absent", key, attempt)

    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:
        """Write an object; see ObjectStore.put."""
        name = self._name_to_write(key)
        joined = JoinedBuffers(data)
        if joined.size > PART_BYTES:
            place = Place(self.describe(), self._bucket, name, key)
            is_whole = functools.partial(self._is_whole, key, joined)
            Upload(self._client, self._caller, place, joined, is_whole, sent=sent).run()
            return
        body = joined.read(0, joined.size)

        def attempt() -> None:
            done = self._client.put_object(
                Bucket=self._bucket, Key=name, Body=body, ContentMD5=md5_header(body)
            )
            try:
                self._check_landed(done, "put", key, body)
            except StoreUnavailableError:
                # Reading distinguishes a gateway with another kind of ETag from a portal.
                if not self._is_whole(key, joined):
                    raise

        self._caller.repeat("put", key, attempt)
        if sent is not None:
            sent(joined.size, joined.size)

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Replace an object that has the expected bytes; see ObjectStore.replace."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - see invariant 5

        limit_bytes = max(len(old), len(new))
        held, tag = self._fetch("get", key, None, limit_bytes)
        if held != old:
            return held == new
        name = self._name_to_write(key)

        def attempt() -> bool:
            try:
                done = self._client.put_object(
                    Bucket=self._bucket,
                    Key=name,
                    Body=new,
                    IfMatch=tag,
                    ContentMD5=md5_header(new),
                )
            except ClientError as error:
                if Reply.of(error.response).answer not in {Answer.EXISTS, Answer.RACING}:
                    raise
                # Another client's write, or an earlier attempt whose answer was lost.
                return self.get(key, limit_bytes=limit_bytes) == new
            self._check_landed(done, "put", key, new)
            return True

        return self._caller.repeat("put", key, attempt)

    def _check_landed(self, done: Any, verb: Verb, key: str, data: bytes) -> None:
        """Raise the declared error unless the answer to a write proves that it landed."""
        metadata = done["ResponseMetadata"]
        status, headers = metadata["HTTPStatusCode"], metadata["HTTPHeaders"]
        expected = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if not proves_landing(status, headers, done.get("ETag", ""), expected):
            raise unproven_error(self.describe(), status, verb, key)

    def _is_whole(self, key: str, body: JoinedBuffers) -> bool:
        """Return True if the object is in the store, has the size of `body`, and ends like it."""
        start = max(0, body.size - _TAIL_BYTES)
        try:
            if not start:
                return self.get(key, limit_bytes=_TAIL_BYTES) == body.read(0, body.size)
            # One byte more, so that a longer object differs.
            return self.get_range(key, start, _TAIL_BYTES + 1) == body.read(start, body.size)
        except ObjectMissingError:
            return False

    def _is_there(self, key: str) -> bool:
        """Return True if the object is in the store. One request."""
        try:
            self.get_range(key, 0, 1)
        except ObjectMissingError:
            return False
        return True

    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield objects in order; see ObjectStore.list."""
        self._check_open()
        check_prefix(prefix)
        after = check_prefix(start_after or "")
        if check_limit(limit) == 0:
            return iter(())
        return itertools.islice(self._reader.objects(prefix, after, limit), limit)

    def delete(self, key: str) -> None:
        """Remove an object; see ObjectStore.delete."""
        name = self._name_to_write(key)
        from botocore.exceptions import ClientError  # noqa: PLC0415 - see invariant 5

        def attempt() -> None:
            try:
                done = self._client.delete_object(Bucket=self._bucket, Key=name)
            except ClientError as error:
                # Some gateways answer 404 for an absent key, where S3 answers 204.
                if Reply.of(error.response).answer is not Answer.OBJECT_MISSING:
                    raise
                return
            status = done["ResponseMetadata"]["HTTPStatusCode"]
            # Some gateways answer 200, as portals do; reading distinguishes them.
            if status != 204 and self._is_there(key):
                raise unproven_error(self.describe(), status, "delete", key)

        self._caller.repeat("delete", key, attempt)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects, 1000 per request; see ObjectStore.delete_many."""
        waiting = iter(keys)
        while batch := {
            self._name_to_write(key): key for key in itertools.islice(waiting, LIST_PAGE_KEYS)
        }:
            self._caller.repeat(
                "delete", next(iter(batch.values())), functools.partial(self._delete_batch, batch)
            )

    def _delete_batch(self, keys: dict[str, str]) -> None:
        """Remove up to 1000 objects, given as name → key; raises unless success is proved."""
        done = self._client.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": name} for name in keys]}
        )
        deleted = {item.get("Key", "") for item in done.get("Deleted", ())}
        errors = {item.get("Key", ""): item for item in done.get("Errors", ())}
        for name, key in keys.items():
            if name in deleted:
                continue
            if name not in errors:
                status = done["ResponseMetadata"]["HTTPStatusCode"]
                raise unproven_error(self.describe(), status, "delete", key)
            reply = Reply.of({"Error": errors[name], **done})
            if reply.answer is not Answer.OBJECT_MISSING:
                raise answer_error(self.describe(), reply, "delete", key)

    def describe(self) -> str:
        """Return `s3://<bucket>[/<prefix>] at <endpoint>`.

        Creates the client if only the AWS configuration has the endpoint, and raises its errors. A
        store that was closed before that shows no endpoint.
        """
        if self._endpoint is None and not self._closed:
            self._check_open()
        return str(self)

    def __str__(self) -> str:
        place = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        return place if self._endpoint is None else f"{place} at {self._endpoint}"

    def clock_ahead_seconds(self) -> float | None:
        """Compare the clock with the last answer's Date plus the time since then."""
        if self._answered is None:
            return None
        noted, date = self._answered
        try:
            there = parse_http_date(date).timestamp() + uptime_seconds() - noted
            return time.time() - there
        except ValueError:
            return None  # The server's text; no other code needs it.

    def _note_answer(self, parsed: dict[str, Any], **_: object) -> None:
        """Keep the Date header of any answer, even an error; it is parsed on demand."""
        headers = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        exchange, date = current(), headers.get("date")
        if exchange is not None:
            exchange.headers = headers
        if date is not None and is_of_a_store(parsed):
            self._answered = uptime_seconds(), date

    def close(self) -> None:
        """Close the connections; see ObjectStore.close."""
        with self._making:
            super().close()
            if self._is_made:
                self._client.close()

    # Counting

    def _counting_sender(self, bodies: Bodies) -> Callable[..., Any]:
        """Return a handler that counts, sends and times the client's requests."""
        send = bounded_sender(self._client, bodies)
        verbs: dict[str, Verb] = {
            "PutObject": "put",
            "CreateMultipartUpload": "put",
            "UploadPart": "put",
            "CompleteMultipartUpload": "put",
            "AbortMultipartUpload": "put",
            "ListObjectsV2": "list",
            "DeleteObject": "delete",
            "DeleteObjects": "delete",
        }

        def count_and_send(request: AWSPreparedRequest, event_name: str, **_: object) -> Any:
            operation = event_name.rpartition(".")[2]
            verb = verbs.get(operation, "other")
            if operation == "GetObject":
                verb = "get_range" if "Range" in request.headers else "get"
            elif operation == "PutObject" and "If-None-Match" in request.headers:
                verb = "put_if_absent"
            carries_object = operation in {"PutObject", "UploadPart"}
            sent = int(request.headers.get("Content-Length", 0)) if carries_object else 0
            # Counted before it is sent: a failed request counts too.
            self.counters.add(verb, bytes_sent=sent)
            with self.counters.timed(verb):
                return send(request)

        return count_and_send

    # Reading

    def _fetch(
        self, verb: Verb, key: str, start: int | None, limit_bytes: int
    ) -> tuple[bytes, str]:
        """Return an object, or up to `limit_bytes` from `start`, and its ETag.

        Past its end, both are empty.
        """
        name = self._name(key)
        data, tag = self._reader.fetch(verb, key, name, start, limit_bytes)
        self.counters.add(verb, requests=0, bytes_received=len(data))
        return data, tag

    def _name(self, key: str) -> str:
        """Return the name of a key in the bucket."""
        self._check_open()
        name = self._prefix + check_key(key)
        if len(name) > KEY_BYTES_MAX:
            raise UsageError(
                f"{name!r} is too long for S3", next_step="use a shorter prefix or name"
            )
        return name

    def _name_to_write(self, key: str) -> str:
        """Return the name of a key that is to be written; raises StoreDeniedError if unsigned."""
        name = self._name(key)
        if self._is_unsigned and not self._unsigned:
            # Credentials may have come meanwhile.
            with occupied(), self._making:
                self._make()
        if self._is_unsigned:
            why = "unsigned is set" if self._unsigned else "no credentials were found"
            raise StoreDeniedError(
                f"{self.describe()} can only be read, because {why}",
                next_step="leave unsigned out, and set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        return name


def _checked_bucket(bucket: str) -> str:
    if _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(
            f"{bucket!r} is not a valid bucket name",
            next_step="give only the bucket's name; set the rest as the prefix",
        )
    return bucket


def _checked_prefix(prefix: str) -> str:
    """Return the prefix with one slash at its end, or "" for the whole bucket."""
    bare = prefix.strip("/")
    if not bare:
        return ""
    if not is_key(bare):
        raise ConfigError(
            f"{prefix!r} is not a valid key prefix", next_step="use A-Z a-z 0-9 . _ ~ % - and '/'"
        )
    return f"{bare}/"
