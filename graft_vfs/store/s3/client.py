"""Creates boto3 clients for the S3 store, with some defaults changed.

boto3 is imported when the first client is created, not with this module, because importing it takes
longer than opening a database. The thread that sends a store's first request creates the client. No
fork happens during that time: a child would wait forever for a module that another thread of its
parent was importing.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from graft_vfs.errors import ConfigError, StoreDeniedError
from graft_vfs.local.files import importing
from graft_vfs.local.fork import Step, at_fork
from graft_vfs.store.s3.answers import Failure, classify_failure
from graft_vfs.store.s3.exchange import Stage, current
from graft_vfs.store.s3.upload import md5_header

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.model import OperationModel
    from mypy_boto3_s3 import S3Client

ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""The maximum size of an answer that is not an object, such as a listing or an error."""

_HOST = re.compile(r"((?!-)[a-z\d-]{1,63}(?<!-)\.)*(?!-)[a-z\d-]{1,63}(?<!-)\.?", re.ASCII)

_importing = threading.RLock()
at_fork(
    Step.IMPORT,
    before=_importing.acquire,
    in_parent=_importing.release,
    in_child=_importing.release,
)


def checked_endpoint(bucket: str, endpoint: str) -> str:
    """Return an endpoint that boto3 would accept, without importing boto3; raises ConfigError."""
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    is_host = len(host) <= 255 and (":" in host or _HOST.fullmatch(host) is not None)
    if not is_host or parts.scheme not in {"http", "https"} or set("\n\r\t") & set(endpoint):
        raise _no_url(bucket)
    _refuse_password(endpoint)
    return endpoint


def _no_url(bucket: str) -> ConfigError:
    """Return the error for an endpoint, without its text, which may contain a password."""
    return ConfigError(
        f"s3://{bucket} has an endpoint that is not a URL",
        next_step="write it as http://host:port or https://host",
    )


def _refuse_password(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "the S3 endpoint contains a user name or a password",
            next_step="remove it; set credentials in the AWS variables or a profile",
        )


@contextlib.contextmanager
def configuration_errors(bucket: str) -> Iterator[None]:
    """Convert boto3's exceptions to declared errors while a client is created."""
    with importing(), _importing:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - only S3 needs boto3

    try:
        yield
    except BotoCoreError as error:
        if classify_failure(error, is_unsent=True) is Failure.DENIED:
            raise StoreDeniedError(
                f"s3://{bucket} cannot be used without credentials ({type(error).__name__})",
                next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from None
        raise ConfigError(
            f"s3://{bucket} cannot be set up ({type(error).__name__})",
            next_step="check the region, and the profile in the AWS configuration files",
        ) from error
    except ValueError:
        # This error's text repeats the endpoint of the AWS configuration.
        raise _no_url(bucket) from None


def make_client(
    endpoint: str | None, region: str | None, unsigned: bool, settings: dict[str, Any]
) -> S3Client:
    """Return a client that sends each request once, on connections that report their progress.

    With `unsigned`, or if the AWS chain finds no credentials, its requests are unsigned.
    """
    with importing(), _importing:
        import boto3.session  # noqa: PLC0415 - only S3 needs boto3
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
        from botocore.credentials import CredentialResolver  # noqa: PLC0415

        from graft_vfs.store.s3.connection import watch  # noqa: PLC0415
        from graft_vfs.store.s3.credentials import reread_when_changed  # noqa: PLC0415

        session = boto3.session.Session()
        # This creates a TLS context; OpenSSL's locks do not survive a fork during that.
        session._session.get_component("credential_provider")  # noqa: SLF001 - as below
    # Without the lock, because credentials may come from a slow program or server.
    core = session._session  # noqa: SLF001 - boto3 shows botocore's session nowhere
    if unsigned or not reread_when_changed(core):
        settings = settings | {"signature_version": UNSIGNED}
        # Otherwise the chain is asked again, which may query an absent metadata service.
        core.register_component("credential_provider", CredentialResolver([]))

    def make(addressing: Literal["auto", "path"]) -> S3Client:
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": addressing},
            **settings,
        )
        with _importing:
            return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)

    client = make("path" if endpoint else "auto")
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if not endpoint and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        # The endpoint came from the AWS configuration. Servers other than Amazon's rarely have a
        # host name for each bucket.
        client.close()
        client = make("path")
    try:
        _refuse_password(client.meta.endpoint_url)
    except ConfigError:
        client.close()
        raise
    watch(client)
    return client


def is_unsigned(client: S3Client) -> bool:
    """Return True if the requests of a client are unsigned."""
    from botocore import UNSIGNED  # noqa: PLC0415 - only S3 needs boto3

    return client.meta.config.signature_version is UNSIGNED  # type: ignore[attr-defined]


def credentials_source() -> str | None:
    """Return the source of credentials in the AWS chain, such as `env`; None if there is none.

    Queries a cloud machine's metadata service if no nearer source has any. Raises ConfigError.
    """
    import boto3.session  # noqa: PLC0415 - only S3 needs boto3

    with configuration_errors(""):
        found = boto3.session.Session().get_credentials()
    return None if found is None else found.method


# Hooks --------------------------------------------------------------------------------------------


def prepare_call(model: OperationModel, params: dict[str, Any], **_: object) -> None:
    """Change three of boto3's defaults, just before it builds a request."""
    if model.name == "PutObject":
        # With this header, a client waits for the server's consent before it sends the body. That
        # costs a round trip for each push, and a second if the server does not support it.
        params["headers"].pop("Expect", None)
    elif model.name == "DeleteObjects":
        # boto3 would send a checksum that older servers reject; all of them accept an MD5.
        params["context"].pop("checksum", None)
        params["headers"]["Content-MD5"] = md5_header(params["body"])
    # If an answer names another region, boto3 queries the bucket's region and repeats the request.
    # A claim must be one request, and a server that always answers this way would make boto3
    # recurse without end. So each request is marked as already redirected.
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def note_signed(**_: object) -> None:
    """Record that a request is signed and goes to the connection; nothing was sent before."""
    exchange = current()
    if exchange is not None:
        exchange.stage = Stage.HANDED_OVER


class Bodies(threading.local):
    """The body of each thread's newest object answer, until boto3 returns it."""

    newest: Any = None


def bounded_sender(client: Any, bodies: Bodies) -> Callable[[AWSPreparedRequest], Any]:
    """Return a function that sends a request and reads its answer, unless that is an object.

    boto3 alone would read listings and errors without a limit, even from a hostile server.
    """
    from botocore.exceptions import HTTPClientError  # noqa: PLC0415 - only S3 needs boto3
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
