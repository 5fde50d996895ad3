"""What each answer of an S3 server means, and each failure to get one."""

from __future__ import annotations

import ssl

import botocore.exceptions
import pytest

from graft_vfs.store.s3_answers import Answer, Failure, classify, classify_failure


@pytest.mark.parametrize(
    ("code", "status", "meaning"),
    [
        ("NoSuchKey", 404, Answer.OBJECT_MISSING),
        ("404", 404, Answer.OBJECT_MISSING),
        ("NoSuchBucket", 404, Answer.BUCKET_MISSING),
        ("NoSuchUpload", 404, Answer.UPLOAD_MISSING),
        ("AccessDenied", 403, Answer.DENIED),
        ("SignatureDoesNotMatch", 403, Answer.DENIED),
        ("InvalidAccessKeyId", 403, Answer.DENIED),
        ("RequestTimeTooSkewed", 403, Answer.DENIED),
        ("ExpiredToken", 400, Answer.DENIED),
        ("InvalidToken", 400, Answer.DENIED),
        ("", 401, Answer.DENIED),
        ("", 403, Answer.DENIED),
        ("ConditionalRequestConflict", 409, Answer.RACING),
        ("OperationAborted", 409, Answer.RACING),
        ("", 409, Answer.RACING),
        ("PreconditionFailed", 412, Answer.EXISTS),
        ("", 412, Answer.EXISTS),
        ("InvalidRange", 416, Answer.BEYOND_END),
        ("", 416, Answer.BEYOND_END),
        ("InternalError", 500, Answer.UNAVAILABLE),
        ("PreconditionFailed", 500, Answer.UNAVAILABLE),
        ("SlowDown", 503, Answer.UNAVAILABLE),
        ("SlowDown", 429, Answer.UNAVAILABLE),
        ("RequestTimeout", 400, Answer.UNAVAILABLE),
        ("", 502, Answer.UNAVAILABLE),
        ("", 504, Answer.UNAVAILABLE),
        ("PermanentRedirect", 301, Answer.WRONG_REGION),
        ("", 301, Answer.WRONG_REGION),
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
        (botocore.exceptions.ConnectTimeoutError(**URL, error="x"), Failure.NOT_SENT),
        (
            botocore.exceptions.ProxyConnectionError(proxy_url="http://p", error="x"),
            Failure.NOT_SENT,
        ),
        (
            botocore.exceptions.SSLError(
                **URL, error=ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
            ),
            Failure.NOT_SENT,
        ),
        (botocore.exceptions.SSLError(**URL, error=ssl.SSLError(1, "BAD_MAC")), Failure.LOST),
        (botocore.exceptions.ReadTimeoutError(**URL, error="x"), Failure.LOST),
        (botocore.exceptions.ConnectionClosedError(**URL, error="x"), Failure.LOST),
        (botocore.exceptions.HTTPClientError(error="x"), Failure.LOST),
        (
            botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
            Failure.LOST,
        ),
        (botocore.exceptions.ParamValidationError(report="x"), Failure.WRONG_CALL),
        (ValueError("never seen before"), Failure.LOST),
    ],
)
def test_failures_are_classified(failure, meaning):
    assert classify_failure(failure) is meaning
