"""The meaning of an S3 server's answers, and the declared error for each.

Pure functions: `classify` interprets an answer, `classify_failure` a request without one. The only
server texts in errors are a well-formed error code and the name of a region, because servers repeat
credentials in their messages.

Proxies, portals and gateways between client and store send their own answers, so a status alone
proves nothing:

    landed     status 200 with the ETag of our bytes (`proves_landing`)
    present    status 200 or 206 with a strong ETag (`proves_object`), and for a range the
               requested Content-Range; checksums verify the bytes
    listed     an `IsTruncated`, and the requested prefix
    absent     the error code NoSuchKey; a 404 page proves nothing
    exists, races with another write, ends before the range
               an error code; a page with status 412, 409 or 416 proves nothing
    deleted    status 204, or the code NoSuchKey
    refused    an S3 error code; a page with status 403 may come from a filter that forwarded
               the request but blocked its answer
    not sent   as the connections report (`exchange`)
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    GraftError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    UsageError,
)
from graft_vfs.store.base import Verb
from graft_vfs.times import parse_http_date

LOST_NEXT_STEP = "check the endpoint and the network, and try again"
PAGE_NEXT_STEP = "check the endpoint, and any proxy, portal or ingress in front of the store"

_CODE = re.compile(r"(?=.{3,64}\Z)[A-Z][a-z][A-Za-z]*(\.[A-Z][a-z][A-Za-z]*)*", re.ASCII)
"""An error code; some have several parts, such as `InvalidParameter.Prefix`."""
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]{2,12}){1,3}-[0-9]{1,2}", re.ASCII)


class Answer(enum.Enum):
    """The meaning of a server's error answer."""

    OBJECT_MISSING = "object missing"
    PAGE = "a page that is not the store's"
    BUCKET_MISSING = "bucket missing"
    UPLOAD_MISSING = "upload missing"
    DENIED = "denied"
    EXISTS = "exists"
    RACING = "racing"
    BEYOND_END = "beyond the end"
    WRONG_REGION = "wrong region"
    MOVED = "redirected"
    EXPIRED = "expired credentials"
    SKEWED = "wrong clock"
    ARCHIVED = "archived"
    THROTTLED = "throttled"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class Failure(enum.Enum):
    """What is known about a request that ended without a readable answer."""

    DENIED = "no credentials"
    NOT_SENT = "not sent"
    CERTIFICATE = "not sent, because the certificate is not trusted"
    TIMED_OUT = "no answer in time"
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
    "ExpiredToken": Answer.EXPIRED,
    "TokenRefreshRequired": Answer.EXPIRED,
    "RequestTimeTooSkewed": Answer.SKEWED,
    "InvalidObjectState": Answer.ARCHIVED,
    "PreconditionFailed": Answer.EXISTS,
    "ConditionalRequestConflict": Answer.RACING,
    "InvalidRange": Answer.BEYOND_END,
    "PermanentRedirect": Answer.WRONG_REGION,
    "TemporaryRedirect": Answer.WRONG_REGION,
    "AuthorizationHeaderMalformed": Answer.WRONG_REGION,
    "IllegalLocationConstraintException": Answer.WRONG_REGION,
    "NotImplemented": Answer.UNSUPPORTED,
    "InternalError": Answer.UNAVAILABLE,
    "RequestTimeout": Answer.UNAVAILABLE,
    "ServiceUnavailable": Answer.UNAVAILABLE,
    "SlowDown": Answer.THROTTLED,
    "SlowDownRead": Answer.THROTTLED,
    "SlowDownWrite": Answer.THROTTLED,
    "Throttling": Answer.THROTTLED,
    "ThrottlingException": Answer.THROTTLED,
    "TooManyRequests": Answer.THROTTLED,
    "TooManyRequestsException": Answer.THROTTLED,
    "RequestLimitExceeded": Answer.THROTTLED,
}

_ANSWER_OF_STATUS = {
    301: Answer.MOVED,
    302: Answer.MOVED,
    303: Answer.MOVED,
    307: Answer.MOVED,
    308: Answer.MOVED,
    401: Answer.DENIED,
    403: Answer.DENIED,
    404: Answer.PAGE,
    408: Answer.UNAVAILABLE,
    409: Answer.RACING,
    412: Answer.EXISTS,
    416: Answer.BEYOND_END,
    429: Answer.THROTTLED,
    501: Answer.UNSUPPORTED,
}

_NEED_A_CODE = frozenset({Answer.RACING, Answer.EXISTS, Answer.BEYOND_END})
"""Meanings that a reader or a claim acts on; a status alone does not prove them."""


def classify(code: str, status: int) -> Answer:
    """Return the meaning of an error answer from its S3 error code and HTTP status."""
    by_code = _ANSWER_OF_CODE.get(code)
    if by_code is None and "." in code:
        first, _, last = code.partition(".")
        by_code = _ANSWER_OF_CODE.get(last.rpartition(".")[2]) or _ANSWER_OF_CODE.get(first)
    if status >= 500 and status != 501:
        # Regardless of the code: a server that failed does not know what it has done.
        return Answer.THROTTLED if by_code is Answer.THROTTLED else Answer.UNAVAILABLE
    by_status = _ANSWER_OF_STATUS.get(status, Answer.REFUSED)
    if by_status in _NEED_A_CODE and _CODE.fullmatch(code) is None:
        by_status = Answer.PAGE
    return by_code or by_status


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


def classify_failure(error: Exception, *, is_unsent: bool) -> Failure:
    """Return what is known about a request that ended in a botocore or urllib3 exception.

    `is_unsent` comes from the connections, because an exception's class does not prove it. Classes
    are compared by name, so that this module does not import botocore.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if is_unsent:
        if names & _DENIED_FAILURES:
            return Failure.DENIED
        if "ParamValidationError" in names:
            return Failure.WRONG_CALL
        is_untrusted = "SSLError" in names and "CERTIFICATE_VERIFY_FAILED" in str(error)
        return Failure.CERTIFICATE if is_untrusted else Failure.NOT_SENT
    is_late = names & {"ReadTimeoutError", "TimeoutError"} or "timed out" in str(error)
    return Failure.TIMED_OUT if is_late else Failure.LOST


# Proofs -------------------------------------------------------------------------------------------

_MD5_HEX = re.compile(r"[0-9a-fA-F]{32}(-[0-9]{1,5})?")
_ENCRYPTION_KEY_HEADERS = (
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
)


def proves_landing(status: int, headers: Mapping[str, str], tag: str, expected: str) -> bool:
    """Return True if an answer to a write proves that the store has exactly our bytes.

    The status must be 200, and the ETag `expected` (hexadecimal, with or without quotes). If a
    header says that the object was encrypted with a KMS or customer key, any ETag is accepted. Some
    gateways have other kinds of ETags; writes to them are settled by reading.
    """
    bare = tag.strip().strip('"')
    if status != 200 or not bare:
        return False
    encryption = headers.get("x-amz-server-side-encryption", "")
    if encryption.startswith("aws:kms") or any(name in headers for name in _ENCRYPTION_KEY_HEADERS):
        return True
    return bare.lower() == expected


def proves_object(status: int, tag: str) -> bool:
    """Return True if an answer to a read proves that it is an object of the store.

    Every store gives each object a strong ETag. Portals and web frameworks send none, or a weak
    ETag, which begins with `W/`.
    """
    return status in {200, 206} and is_tag(tag) and not tag.startswith("W/")


def is_of_a_store(parsed: Mapping[str, Any]) -> bool:
    """Return True if a parsed answer has the headers that proxies and portals lack."""
    code = str(parsed.get("Error", {}).get("Code", ""))
    known = ("ETag", "IsTruncated", "UploadId", "Deleted")
    return _CODE.fullmatch(code) is not None or any(name in parsed for name in known)


def is_tag(tag: str) -> bool:
    """Return True if the text is a valid ETag of an upload part."""
    return bool(tag.strip().strip('"'))


def tag_of_parts(tags: Sequence[str]) -> str:
    """Return the ETag of a multipart upload with these part ETags; "" if they are not MD5s."""
    bare = [tag.strip().strip('"') for tag in tags]
    if not all(_MD5_HEX.fullmatch(tag) and "-" not in tag for tag in bare):
        return ""
    digest = hashlib.md5(bytes.fromhex("".join(bare)), usedforsecurity=False).hexdigest()
    return f"{digest}-{len(bare)}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An error answer: its meaning, and the parts of it that may be shown."""

    answer: Answer
    shown: str
    region: str
    """The bucket's region according to the server; "" if it gives none."""
    is_of_a_store: bool
    """Whether it has an error code; pages of proxies and portals have none."""
    wants_https: bool
    retry_after_seconds: float | None

    @classmethod
    def of(cls, response: Any) -> Reply:
        """Interpret the parsed response of a botocore ClientError, without trusting its fields."""
        error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
        code = str(error.get("Code", ""))
        status = int(metadata.get("HTTPStatusCode", 0))
        label = code if _CODE.fullmatch(code) else "no S3 error code"
        headers = metadata.get("HTTPHeaders", {})
        region = str(headers.get("x-amz-bucket-region") or error.get("Region") or "")
        answer = classify(code, status)
        if answer is Answer.MOVED and region:
            answer = Answer.WRONG_REGION
        waits = _retry_after(headers)
        if answer is Answer.UNAVAILABLE and status == 503 and waits is not None:
            answer = Answer.THROTTLED
        return cls(
            answer,
            f"HTTP {status}, {label}",
            region if _REGION.fullmatch(region) else "",
            _CODE.fullmatch(code) is not None,
            str(headers.get("location", "")).lower().startswith("https:"),
            waits,
        )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header: a number or a date."""
    text = str(headers.get("retry-after", "")).strip()
    if not text:
        return None
    try:
        if text.isdigit():
            return float(text[:9])
        since = parse_http_date(str(headers.get("date", "")))
        return max(0.0, (parse_http_date(text) - since).total_seconds())
    except (ValueError, TypeError):
        return None


# Errors -------------------------------------------------------------------------------------------

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
        "reports that the bucket is in another region",
        "set the bucket's region, in the configuration or as AWS_DEFAULT_REGION",
    ),
    Answer.PAGE: (
        StoreUnavailableError,
        "answered with a page that has no S3 error code",
        PAGE_NEXT_STEP,
    ),
    Answer.MOVED: (
        StoreError,
        "redirects to another address",
        "check the endpoint; if the bucket is in another region, set AWS_DEFAULT_REGION to it",
    ),
    Answer.EXPIRED: (
        StoreDeniedError,
        "reports that the session token has expired",
        "get a new one (`aws sso login`, or a new AWS_SESSION_TOKEN), and try again",
    ),
    Answer.SKEWED: (
        StoreDeniedError,
        "reports that this machine's clock is wrong",
        "set the clock, preferably by NTP, and try again",
    ),
    Answer.ARCHIVED: (
        StoreError,
        "has archived this object, so it cannot be read at once",
        "restore it (`aws s3api restore-object`), and remove the lifecycle rule that archived it",
    ),
    Answer.THROTTLED: (
        StoreUnavailableError,
        "is throttling requests",
        "try again later, or ask for a higher limit",
    ),
    Answer.UNSUPPORTED: (
        StoreError,
        "does not support this kind of request",
        "use a store that behaves like Amazon S3",
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
    """Interpret an answer for the verb that was requested.

    NoSuchKey is meaningful only for reads, and the outcomes of create-only writes only for these
    writes.
    """
    if answer is Answer.OBJECT_MISSING and verb not in {"get", "get_range"}:
        return Answer.REFUSED
    if answer is Answer.RACING:
        return Answer.UNAVAILABLE
    if answer in {Answer.EXISTS, Answer.BEYOND_END, Answer.UPLOAD_MISSING}:
        return Answer.REFUSED
    return answer


def _unknown(
    message: str, retry_after_seconds: float | None = None, *, first: str = ""
) -> CommitOutcomeUnknownError:
    error = CommitOutcomeUnknownError(
        f"{message}; it may have landed or not",
        next_step=f"{first}push again: the record of this push is kept and settled first",
    )
    error.retry_after_seconds = retry_after_seconds
    return error


def unproven_error(store: str, status: int, verb: Verb, key: str) -> GraftError:
    """Return the declared error for a success answer that does not prove the write."""
    message = (
        f"{store} ({verb} of {key!r}: HTTP {status}) answered without the ETag of what was written"
    )
    if verb == "put_if_absent":
        error = _unknown(message)
        error.was_answered = True
        return error
    return StoreUnavailableError(message, next_step=PAGE_NEXT_STEP)


def answer_error(store: str, reply: Reply, verb: Verb, key: str) -> GraftError:
    """Return the declared error for an error answer of a store, which `store` describes."""
    answer = _answer_for(verb, reply.answer)
    where = f"{store} ({verb} of {key!r}: {reply.shown})"
    if answer is Answer.OBJECT_MISSING:
        return ObjectMissingError(key)
    unknown = _claim_error(where, answer, reply) if verb == "put_if_absent" else None
    if unknown is not None:
        return unknown
    kind, what, step = _ERROR_OF_ANSWER[answer]
    if answer is Answer.DENIED and verb in {"get", "get_range"}:
        step = (
            "check the credentials and the permission s3:GetObject; without"
            " s3:ListBucket, S3 sends the same answer for absent objects, so grant both"
        )
    elif answer is Answer.WRONG_REGION and reply.region:
        step = f"set the region {reply.region}, in the configuration or as AWS_DEFAULT_REGION"
    elif answer is Answer.MOVED and reply.wants_https:
        what, step = "redirects to https", "write the endpoint with https:// in front"
    elif answer is Answer.THROTTLED and reply.retry_after_seconds:
        what = f"{what}, and asks to retry after {reply.retry_after_seconds:g} seconds"
    error = kind(f"{where} {what}", next_step=step)
    if isinstance(error, StoreUnavailableError) and answer is Answer.THROTTLED:
        error.retry_after_seconds = reply.retry_after_seconds or 0.0
    return error


def unsigned_error(denied: StoreDeniedError) -> StoreDeniedError:
    """Return the error of a request that was denied because it was unsigned, perhaps."""
    return StoreDeniedError(
        f"{denied.message}; the request was unsigned",
        next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, unless the "
        "bucket is public; of a public one everyone needs s3:GetObject and s3:ListBucket",
    )


def _claim_error(where: str, answer: Answer, reply: Reply) -> GraftError | None:
    """Return the error of a claim whose answer proves nothing, or shows an unsafe store."""
    if answer in {Answer.UNAVAILABLE, Answer.THROTTLED}:
        waits = (reply.retry_after_seconds or 0.0) if answer is Answer.THROTTLED else None
        return _unknown(f"{where} failed while it handled a claim", waits)
    if answer is Answer.MOVED and reply.wants_https:
        first = "write the endpoint with https:// in front, and "
        return _unknown(f"{where} redirects a claim to https", first=first)
    if not (reply.is_of_a_store or answer is Answer.WRONG_REGION):
        first = "check the endpoint, and any proxy in front of the store, and "
        unknown = _unknown(f"{where} answered a claim with a page that is not S3's", first=first)
        unknown.was_answered = True
        return unknown
    if answer is Answer.UNSUPPORTED:
        return UnsafeStoreError(
            f"{where} does not support create-only writes, so pushing to it could lose commits",
            next_step="use a store that honours 'If-None-Match: *' (Amazon S3 does)",
        )
    return None


def failure_error(
    store: str, error: Exception, failure: Failure, verb: Verb, key: str
) -> GraftError:
    """Return the declared error for a request without an answer."""
    where = f"{store} ({verb} of {key!r}: {type(error).__name__})"
    if failure is Failure.DENIED:
        return StoreDeniedError(
            f"{where} cannot be used without credentials",
            next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if failure is Failure.CERTIFICATE:
        return StoreUnavailableError(
            f"{where} has a certificate that this machine does not trust, so nothing was sent",
            next_step="set AWS_CA_BUNDLE to its CA's file, or correct the endpoint's host name or "
            "this machine's clock",
        )
    if failure is Failure.NOT_SENT:
        return StoreUnavailableError(
            f"{where} cannot be reached", next_step="check the endpoint and the network"
        )
    if failure is Failure.WRONG_CALL:
        return UsageError(
            f"{where} cannot be sent this request", next_step="check the bucket's name"
        )
    if verb == "put_if_absent":
        return _unknown(f"{where} did not answer a claim")
    is_late = failure is Failure.TIMED_OUT
    unanswered = StoreUnavailableError(
        f"{where} did not answer in full{' in time' if is_late else ''}",
        next_step="check the network; if it is just slow, raise remote.read_timeout and"
        " remote.total_timeout"
        if is_late
        else LOST_NEXT_STEP,
    )
    unanswered.was_late = is_late
    return unanswered
