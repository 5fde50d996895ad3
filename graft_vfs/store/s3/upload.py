"""Multipart uploads of large objects, a few parts at a time.

    begin → parts → complete → prove

A completion may have landed even if its answer is lost, late or proves nothing: large ones take
minutes. So before a completion is retried, the object is checked. Everything is uploaded again only
if the server has neither the object nor the upload.

A crash leaves parts without a key on the server, until a lifecycle rule removes them. A failed
upload is aborted. Ctrl-C cancels the requests that are in flight.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft_vfs.backoff import backoff
from graft_vfs.errors import GraftError, StoreError, StoreUnavailableError
from graft_vfs.store.base import Buffer, Sent
from graft_vfs.store.s3.answers import (
    PAGE_NEXT_STEP,
    Answer,
    Reply,
    is_tag,
    proves_landing,
    tag_of_parts,
    unproven_error,
)
from graft_vfs.store.s3.calls import Caller
from graft_vfs.store.s3.exchange import Budget, Group

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_logger = logging.getLogger("graft_vfs.store.s3")

PART_BYTES = 8 * 1024 * 1024
"""Objects above this size are uploaded in parts of at least this size."""

PARTS_MAX = 10_000
UPLOADS_PARALLEL = 4
"""Small, because some providers throttle more parallel parts of one object."""

COMPLETION_SECONDS = 300.0
"""How long a server may take to join the parts."""

_ABORT_SECONDS = 1.0
_JOIN_SECONDS = 1.0


class _End(enum.Enum):
    """The outcome of a completion."""

    WHOLE = "the object is whole"
    FORGOTTEN = "the server has neither the upload nor the object"


@dataclass(frozen=True, slots=True)
class Place:
    """The object to write: `name` is its key in the bucket; `store` and `key` are for messages."""

    store: str
    bucket: str
    name: str
    key: str


class Upload:
    """The upload of one object. Owner: the call of `put`; one thread, and the workers it starts."""

    def __init__(
        self,
        client: S3Client,
        caller: Caller,
        place: Place,
        body: JoinedBuffers,
        is_whole: Callable[[], bool],
        *,
        sent: Sent | None = None,
    ) -> None:
        """`is_whole` checks whether the store has all of `body` under the key."""
        self._sent = sent
        self._client = client
        self._caller = caller
        self._store, self._key = place.store, place.key
        self._bucket, self._name = place.bucket, place.name
        self._body = body
        self._is_whole = is_whole
        self._part_bytes = max(PART_BYTES, -(-body.size // PARTS_MAX))
        self._group = Group()
        """The requests of the parts; a new group for each attempt."""

    def run(self) -> None:
        """Upload; repeat once if the server lost the upload."""
        if self._try() is _End.FORGOTTEN and self._try() is _End.FORGOTTEN:
            raise StoreUnavailableError(
                f"{self._store} lost the upload of {self._key!r} twice",
                next_step="try again later",
            )

    def _try(self) -> _End:
        upload = self._caller.repeat("put", self._key, self._open)
        self._group = Group()
        try:
            return self._complete(upload, self._send_parts(upload))
        except _ForgottenError:
            _logger.debug("the server lost the upload of %r", self._name)
            return _End.WHOLE if self._is_whole() else _End.FORGOTTEN
        except BaseException as error:
            self._abort(upload, error)
            raise

    def _open(self) -> str:
        """Begin an upload; returns its id. A portal's page has none and is rejected."""
        opened = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._name)
        upload = opened.get("UploadId")
        if not upload:
            status = opened["ResponseMetadata"]["HTTPStatusCode"]
            raise StoreUnavailableError(
                f"{self._store} (put of {self._key!r}: HTTP {status}) began an upload with no id",
                next_step=PAGE_NEXT_STEP,
            )
        return upload

    # Parts ----------------------------------------------------------------------------------------

    def _send_parts(self, upload: str) -> Sequence[str]:
        """Upload all parts; returns their ETags in order, once no part is in flight."""
        count = -(-self._body.size // self._part_bytes)
        tags = [""] * count
        arrived = 0
        numbers = iter(range(1, count + 1))
        failures: list[BaseException] = []
        lock = threading.Lock()

        def work() -> None:
            nonlocal arrived
            try:
                while not self._group.cancelled.is_set():
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    tags[number - 1] = self._send_part(upload, number)
                    with lock:
                        arrived += min(
                            self._part_bytes, self._body.size - (number - 1) * self._part_bytes
                        )
                        if self._sent is not None:
                            self._sent(arrived, self._body.size)
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                with lock:
                    failures.append(error)
                self._group.cancel()

        if self._sent is not None:
            self._sent(0, self._body.size)
        self._run_workers(work, min(UPLOADS_PARALLEL, count))
        if failures:
            # The first error is the cause; the others come from the cancellation.
            raise failures[0]
        return tags

    def _run_workers(self, work: Callable[[], None], count: int) -> None:
        """Run `work` in threads; their requests have ended when this returns or raises."""
        # Daemons, so that a program can exit without waiting for the network.
        workers = [
            threading.Thread(target=work, name=f"graft-upload-{number}", daemon=True)
            for number in range(count)
        ]
        started: list[threading.Thread] = []
        try:
            try:
                for worker in workers:
                    worker.start()
                    started.append(worker)
            except RuntimeError:
                # No thread can start any more, for example at interpreter exit.
                work()
            for worker in started:
                worker.join()
        finally:
            if any(worker.is_alive() for worker in started):
                self._group.cancel()
                end = time.monotonic() + _JOIN_SECONDS
                for worker in started:
                    worker.join(max(0.0, end - time.monotonic()))

    def _send_part(self, upload: str, number: int) -> str:
        """Upload one part; returns its ETag, which the completion must name."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - only S3 needs boto3

        start = (number - 1) * self._part_bytes
        # A part's bytes are joined when its turn comes, so that memory holds only those on their
        # way.
        data = self._body.read(start, start + self._part_bytes)

        def attempt() -> str:
            try:
                part = self._client.upload_part(
                    Bucket=self._bucket,
                    Key=self._name,
                    UploadId=upload,
                    PartNumber=number,
                    Body=data,
                    ContentMD5=md5_header(data),
                )
            except ClientError as error:
                if Reply.of(error.response).answer is Answer.UPLOAD_MISSING:
                    raise _ForgottenError from None
                raise
            status = part["ResponseMetadata"]["HTTPStatusCode"]
            # Any kind of ETag is accepted; the completion proves that it is the server's.
            if status != 200 or not is_tag(part.get("ETag", "")):
                raise unproven_error(self._store, status, "put", self._key)
            return part["ETag"]

        return self._caller.repeat("put", self._key, attempt, group=self._group)

    # Completion -----------------------------------------------------------------------------------

    def _complete(self, upload: str, tags: Sequence[str]) -> _End:
        """Request the completion until the object is whole, or certainly never will be."""
        budget = Budget(self._caller.clock, COMPLETION_SECONDS)
        for number in itertools.count(2):
            is_forgotten = False
            problem: StoreError | None = None
            pause = backoff(0.1, number, 10.0)
            try:
                self._ask_for_completion(upload, tags)
                return _End.WHOLE
            except _ForgottenError:
                is_forgotten = True
            except StoreUnavailableError as error:
                problem = error
                pause = max(pause, error.retry_after_seconds or 0.0)
            try:
                if self._is_whole():
                    return _End.WHOLE
            except StoreError as error:
                problem = problem or error
            else:
                if is_forgotten:
                    return _End.FORGOTTEN
            if not budget.allows(pause):
                raise problem or StoreUnavailableError(
                    f"{self._store} did not complete the upload of {self._key!r}",
                    next_step="try again later",
                )
            self._caller.clock.pause(pause)
        raise AssertionError  # pragma: no cover - the loop has no end of its own

    def _ask_for_completion(self, upload: str, tags: Sequence[str]) -> None:
        """Send one completion; returns if its answer proves that the object is whole."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - only S3 needs boto3

        def attempt() -> None:
            try:
                done = self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._name,
                    UploadId=upload,
                    MultipartUpload={
                        "Parts": [
                            {"ETag": tag, "PartNumber": number}
                            for number, tag in enumerate(tags, 1)
                        ]
                    },
                )
            except ClientError as error:
                if Reply.of(error.response).answer is Answer.UPLOAD_MISSING:
                    raise _ForgottenError from None
                raise
            metadata = done["ResponseMetadata"]
            status, headers = metadata["HTTPStatusCode"], metadata["HTTPHeaders"]
            if not proves_landing(status, headers, done.get("ETag", ""), tag_of_parts(tags)):
                raise unproven_error(self._store, status, "put", self._key)

        self._caller.once("put", self._key, attempt)

    def _abort(self, upload: str, failure: BaseException) -> None:
        """Remove the parts of a failed upload, without hiding the failure."""
        # A user who pressed Ctrl-C does not wait for a server that may be the reason.
        seconds = self._caller.limits.total_seconds
        if not isinstance(failure, Exception):
            seconds = min(seconds, _ABORT_SECONDS)
        try:
            self._caller.repeat(
                "put",
                self._key,
                lambda: self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=self._name, UploadId=upload
                ),
                budget=Budget(self._caller.clock, seconds),
            )
        except GraftError as error:
            failure.add_note("the upload could not be aborted; its parts stay in the bucket")
            _logger.debug("aborting the upload of %r: %s", self._name, error)


class _ForgottenError(Exception):
    """The server does not know the upload: it was completed, aborted or lost."""


def md5_header(data: bytes) -> str:
    """Return the header by which a server detects a truncated body.

    Buckets with Object Lock require it, or a checksum header that older servers refuse.
    """
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class JoinedBuffers:
    """Several buffers, read as one. Immutable; any thread may read."""

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
