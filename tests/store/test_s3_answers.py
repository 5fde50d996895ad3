"""What each answer of an S3 server means, and each failure to get one."""

from __future__ import annotations

import hashlib
import ssl

import botocore.exceptions
import pytest

from graft_vfs.store.s3.answers import (
    Answer,
    Failure,
    Reply,
    classify,
    classify_failure,
    proves_landing,
    tag_of_parts,
)


@pytest.mark.parametrize(
    ("code", "status", "meaning"),
    [
        ("NoSuchKey", 404, Answer.OBJECT_MISSING),
        ("404", 404, Answer.PAGE),
        ("", 404, Answer.PAGE),
        ("NoSuchKey.Deleted", 404, Answer.OBJECT_MISSING),
        ("Throttling.User", 400, Answer.THROTTLED),
        ("InvalidObjectState", 403, Answer.ARCHIVED),
        ("NoSuchBucket", 404, Answer.BUCKET_MISSING),
        ("NoSuchUpload", 404, Answer.UPLOAD_MISSING),
        ("AccessDenied", 403, Answer.DENIED),
        ("SignatureDoesNotMatch", 403, Answer.DENIED),
        ("InvalidAccessKeyId", 403, Answer.DENIED),
        ("RequestTimeTooSkewed", 403, Answer.SKEWED),
        ("ExpiredToken", 400, Answer.EXPIRED),
        ("InvalidToken", 400, Answer.DENIED),
        ("", 401, Answer.DENIED),
        ("", 403, Answer.DENIED),
        ("ConditionalRequestConflict", 409, Answer.RACING),
        ("OperationAborted", 409, Answer.RACING),
        ("", 409, Answer.PAGE),
        ("409", 409, Answer.PAGE),
        ("PreconditionFailed", 412, Answer.EXISTS),
        ("Conditions", 412, Answer.EXISTS),
        ("", 412, Answer.PAGE),
        ("412", 412, Answer.PAGE),
        ("InvalidRange", 416, Answer.BEYOND_END),
        ("", 416, Answer.PAGE),
        ("416", 416, Answer.PAGE),
        ("InternalError", 500, Answer.UNAVAILABLE),
        ("PreconditionFailed", 500, Answer.UNAVAILABLE),
        ("SlowDown", 503, Answer.THROTTLED),
        ("SlowDown", 429, Answer.THROTTLED),
        ("", 429, Answer.THROTTLED),
        ("RequestTimeout", 400, Answer.UNAVAILABLE),
        ("", 502, Answer.UNAVAILABLE),
        ("", 504, Answer.UNAVAILABLE),
        ("PermanentRedirect", 301, Answer.WRONG_REGION),
        ("", 301, Answer.MOVED),
        ("TemporaryRedirect", 307, Answer.WRONG_REGION),
        ("AuthorizationHeaderMalformed", 400, Answer.WRONG_REGION),
        ("NotImplemented", 501, Answer.UNSUPPORTED),
        ("", 501, Answer.UNSUPPORTED),
        ("KeyTooLongError", 400, Answer.REFUSED),
        ("", 400, Answer.REFUSED),
        ("", 0, Answer.REFUSED),
    ],
)
def test_answers_are_classified(code, status, meaning):
    assert classify(code, status) is meaning


URL = {"endpoint_url": "http://host"}
UNTRUSTED = botocore.exceptions.SSLError(
    **URL, error=ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
)


@pytest.mark.parametrize(
    ("failure", "meaning"),
    [
        (botocore.exceptions.NoCredentialsError(), Failure.DENIED),
        (
            botocore.exceptions.PartialCredentialsError(provider="env", cred_var="x"),
            Failure.DENIED,
        ),
        (
            botocore.exceptions.CredentialRetrievalError(provider="process", error_msg="x"),
            Failure.DENIED,
        ),
        (botocore.exceptions.UnauthorizedSSOTokenError(), Failure.DENIED),
        (botocore.exceptions.EndpointConnectionError(**URL, error="x"), Failure.NOT_SENT),
        (UNTRUSTED, Failure.CERTIFICATE),
        (botocore.exceptions.ParamValidationError(report="x"), Failure.WRONG_CALL),
        (ValueError("never seen before"), Failure.NOT_SENT),
    ],
)
def test_requests_provably_not_sent_are_classified(failure, meaning):
    assert classify_failure(failure, is_unsent=True) is meaning


@pytest.mark.parametrize(
    ("failure", "meaning"),
    [
        # What these classes say of the request proves nothing.
        (botocore.exceptions.EndpointConnectionError(**URL, error="x"), Failure.LOST),
        (botocore.exceptions.ConnectTimeoutError(**URL, error="x"), Failure.LOST),
        (botocore.exceptions.ProxyConnectionError(proxy_url="http://p", error="x"), Failure.LOST),
        (UNTRUSTED, Failure.LOST),
        (botocore.exceptions.SSLError(**URL, error=ssl.SSLError(1, "BAD_MAC")), Failure.LOST),
        (botocore.exceptions.ReadTimeoutError(**URL, error="x"), Failure.TIMED_OUT),
        (TimeoutError("x"), Failure.TIMED_OUT),
        (botocore.exceptions.ConnectionClosedError(**URL, error="x"), Failure.LOST),
        (botocore.exceptions.HTTPClientError(error="x"), Failure.LOST),
        (
            botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
            Failure.LOST,
        ),
        (ValueError("never seen before"), Failure.LOST),
    ],
)
def test_a_request_that_may_have_been_sent_is_never_classified_as_unsent(failure, meaning):
    assert classify_failure(failure, is_unsent=False) is meaning


MD5 = "8d777f385d3dfec8815d20f7496026dc"
KMS = {"x-amz-server-side-encryption": "aws:kms"}
CUSTOMER = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}


@pytest.mark.parametrize(
    ("status", "headers", "tag", "is_proof"),
    [
        (200, {}, f'"{MD5}"', True),
        (200, {}, MD5, True),
        (200, {}, MD5.upper(), True),
        (200, {"x-amz-server-side-encryption": "AES256"}, f'"{MD5}"', True),
        (200, KMS, '"another"', True),
        (200, CUSTOMER, '"another"', True),
        (200, KMS, "", False),
        (200, {}, "", False),
        (200, {}, '""', False),
        (200, {}, '"another"', False),
        (200, {}, f'W/"{MD5}"', False),
        (201, {}, f'"{MD5}"', False),
        (202, KMS, f'"{MD5}"', False),
        (204, {}, f'"{MD5}"', False),
    ],
)
def test_only_status_200_with_the_expected_etag_proves_a_write(status, headers, tag, is_proof):
    assert proves_landing(status, headers, tag, MD5) is is_proof


def test_the_etag_of_parts_is_the_one_that_s3_documents():
    digest = hashlib.md5(bytes.fromhex(MD5 + MD5)).hexdigest()
    assert tag_of_parts([f'"{MD5}"', MD5]) == f"{digest}-2"
    assert tag_of_parts(['"of another kind"']) == ""


def shown(code: str) -> str:
    return Reply.of(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {}}}
    ).shown


def test_only_error_codes_are_shown_even_with_dots():
    for code in ("NoSuchKey", "InvalidParameter.Prefix", "Throttling.User.Second"):
        assert shown(code) == f"HTTP 400, {code}"
    for text in ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG", "a.b", "Abc.", ".Abc", "Ab" * 40):
        assert shown(text) == "HTTP 400, no S3 error code"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "soon"}, None),
        (
            {
                "date": "Wed, 01 Jan 2025 00:00:00 GMT",
                "retry-after": "Wed, 01 Jan 2025 00:00:30 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Wed, 01 Jan 2025 00:00:30 GMT"}, None),
    ],
)
def test_retry_after_is_parsed(headers, seconds):
    metadata = {"HTTPStatusCode": 503, "HTTPHeaders": headers}
    reply = Reply.of({"Error": {"Code": "SlowDown"}, "ResponseMetadata": metadata})
    assert reply.answer is Answer.THROTTLED
    assert reply.retry_after_seconds == seconds
