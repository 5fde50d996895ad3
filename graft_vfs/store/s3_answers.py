"""What the answers of an S3 server mean, and which declared error each becomes.

Pure: an answer is read by `classify`, a request without an answer by `classify_failure`. No text
that a server sends reaches an error, except a well-formed error code and the name of a region,
because servers repeat credentials in their messages.
"""

from __future__ import annotations

import enum
import re
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

LOST_NEXT_STEP = "check the endpoint and the network, and try again"

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
class Reply:
    """An error answer: its meaning, and what may be shown of it."""

    answer: Answer
    shown: str
    region: str
    """Where the server says the bucket is; "" if it says nothing."""

    @classmethod
    def of(cls, response: Any) -> Reply:
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


def answer_error(store: str, reply: Reply, verb: Verb, key: str) -> GraftError:
    """Return the declared error for an error answer of a store, which `store` describes."""
    answer = _answer_for(verb, reply.answer)
    where = f"{store} ({verb} of {key!r}: {reply.shown})"
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


def failure_error(
    store: str, error: Exception, failure: Failure, verb: Verb, key: str
) -> GraftError:
    """Return the declared error for a request to a store that has no answer."""
    where = f"{store} ({verb} of {key!r}: {type(error).__name__})"
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
        next_step=LOST_NEXT_STEP,
    )
