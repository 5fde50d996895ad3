"""URLs of remotes, and of the refs on them.

    s3://bucket[/prefix]/ref[?endpoint=URL&region=NAME&unsigned=1]
    https://host[/path]/ref     a plain HTTP server, which can only be read; http:// too
    file:///directory/ref       a directory; a path that begins with / or ./ or ../ says the same

The last part is a ref, percent-encoded where it is not a plain word, or a log id; what stands
before it is the remote. A URL that ends with a slash names a remote alone. A URL never holds a
credential: one that does is refused and not repeated, because remotes are kept in the catalog.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from graft_vfs.errors import UsageError

_BYTES_MAX = 2048
_SCHEMES = ("s3", "https", "http", "file")
_OPTIONS = ("endpoint", "region", "unsigned")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://", re.ASCII)
_MISSPELT = re.compile(r"(?:s3|https?|file)(?::(?!//)|//)", re.ASCII | re.IGNORECASE)
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_STEP = (
    "write s3://BUCKET/PREFIX/REF, https://HOST/PATH/REF, file:///DIRECTORY/REF, or the path of a "
    "directory and a ref in it"
)


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """Where a remote is. `str()` gives the one text that it has, without a slash at its end.

    `host` is a bucket, or a host with its port, or empty for a directory. `path` begins with a
    slash unless it is empty, and is percent-encoded as in the URL. The others are options of `s3`.
    """

    scheme: str
    host: str
    path: str
    endpoint: str | None = None
    region: str | None = None
    unsigned: bool = False

    def __str__(self) -> str:
        options = {
            "endpoint": self.endpoint,
            "region": self.region,
            "unsigned": "1" if self.unsigned else None,
        }
        query = urlencode({key: value for key, value in options.items() if value}, safe="/:")
        return f"{self.scheme}://{self.host}{self.path}{'?' if query else ''}{query}"

    def with_ref(self, name: str) -> str:
        """Return the URL of a ref on this remote."""
        whole, mark, query = str(self).partition("?")
        return f"{whole}/{quote(name, safe='')}{mark}{query}"

    def split(self) -> tuple[RemoteUrl, str] | None:
        """Return this URL as a ref and its remote; None if there is no part that can be a ref."""
        parent, slash, last = self.path.rpartition("/")
        if not slash or not last:
            return None
        return replace(self, path=parent), unquote(last)

    @property
    def directory(self) -> str:
        """The path of a directory."""
        return unquote(self.path) or "/"


def is_url(text: str) -> bool:
    """Return True if a text begins as a URL does; the name of a ref may be a path."""
    return _SCHEME.match(text) is not None


def misspelt(text: str) -> UsageError | None:
    """Return the error for what begins like a URL and is none, such as `s3:/bucket/ref`.

    It may be the name of a ref.
    """
    if not _MISSPELT.match(text):
        return None
    return UsageError(f"{text[:200]!r} is no URL", next_step=_STEP)


def is_path(text: str) -> bool:
    """Return True if a text begins as the path of a directory does."""
    return text.startswith(("/", "./", "../"))


def parse(text: str) -> tuple[RemoteUrl, bool]:
    """Return the URL that a text is, and whether it names a remote alone.

    A path is that of a directory. Raises UsageError.
    """
    if is_path(text) and not is_url(text):
        if "\0" in text or not _is_unicode(text):
            raise UsageError(f"{text[:200]!r} is not a path", next_step=_STEP)
        path = os.path.abspath(text)  # noqa: PTH100 - Path.resolve would follow links
        return RemoteUrl("file", "", "" if path == "/" else quote(path)), text.endswith("/")
    try:
        parts = urlsplit(text)
        has_user = "@" in parts.netloc
        if parts.scheme in {"http", "https"}:
            _ = parts.port
    except ValueError:
        raise UsageError("this is no URL", next_step=_STEP) from None
    if has_user:
        raise UsageError(
            "the URL of a remote holds a user name or a password",
            next_step="leave it out; credentials belong into the AWS variables or a profile",
        )
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"[:200]
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"{shown!r}: there is no remote of type {parts.scheme!r}", next_step=_STEP)
    if len(text) > _BYTES_MAX or _BLANK.search(text) or not text.isascii():
        raise UsageError(
            f"{shown!r} is no URL", next_step="percent-encode blanks and what is not ASCII"
        )
    if parts.fragment or (parts.query and parts.scheme != "s3"):
        raise UsageError(
            f"{shown!r} has something after its path, such as a signature, which is not kept",
            next_step="leave out what begins with '?' or '#'",
        )
    if bool(parts.netloc) == (parts.scheme == "file") and parts.netloc != "localhost":
        what = "a host, but is the URL of a directory" if parts.netloc else "no host or bucket"
        raise UsageError(f"{shown!r} has {what}", next_step=_STEP)
    return _checked(parts.scheme, parts.netloc, parts.path, _options(parts.query, shown), shown)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(
    scheme: str, host: str, path: str, options: dict[str, str], shown: str
) -> tuple[RemoteUrl, bool]:
    bare = path.rstrip("/")
    if any(part in {"", ".", ".."} for part in bare.split("/")[1:]):
        raise UsageError(
            f"{shown!r} has an empty part, '.' or '..' in its path", next_step="write it plainly"
        )
    try:
        decoded = unquote(bare, errors="strict")
    except UnicodeDecodeError:
        raise UsageError(
            f"{shown!r} is not UTF-8 when it is decoded", next_step="encode its path as UTF-8"
        ) from None
    if scheme == "file":
        host = ""
        if "\0" in decoded:
            raise UsageError(f"{shown!r} is not a path", next_step=_STEP)
    elif scheme != "s3":
        host = host.lower()
    unsigned = options.pop("unsigned", "0")
    if unsigned not in {"0", "1"}:
        raise UsageError(
            f"{shown!r} has unsigned={unsigned[:20]}", next_step="write unsigned=1, or leave it out"
        )
    url = RemoteUrl(scheme, host, bare, unsigned=unsigned == "1", **options)
    return url, path.endswith("/") or not bare


def _options(query: str, shown: str) -> dict[str, str]:
    """Return the options of a query; an unknown one may be a secret, and its value is not shown."""
    found = dict(parse_qsl(query, keep_blank_values=True))
    for key in found:
        if key not in _OPTIONS:
            raise UsageError(
                f"{shown!r} has the unknown option {key[:40]!r}",
                next_step=f"known are {', '.join(_OPTIONS)}; credentials belong into the AWS "
                "variables or a profile",
            )
    endpoint = found.get("endpoint", "")
    if "@" in endpoint:
        raise UsageError(
            f"the endpoint of {shown!r} holds a user name or a password",
            next_step="leave it out; credentials belong into the AWS variables or a profile",
        )
    return {key: value for key, value in found.items() if value}


def name_hint(text: str) -> str:
    """Return how a remote may be called: its bucket, its host, or the name of its directory."""
    url, _ = parse(text)
    return url.host or url.directory.rpartition("/")[2]
