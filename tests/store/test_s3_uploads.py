"""Large objects of the S3 store on scripted answers: parts, completion, and what proves them."""

from __future__ import annotations

import hashlib
import re

import pytest

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)

from .scripted import Request, answer, error, held, landed

MIB = 1024 * 1024
OPENED = answer(
    200, b"<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>"
)


def completed(request: Request) -> bytes:
    """Answer a completion as a store does that has exactly these parts."""
    tags = re.findall(rb"<ETag>[^0-9a-f]*([0-9a-f]{32})", request.body)
    digest = hashlib.md5(bytes.fromhex(b"".join(tags).decode())).hexdigest()
    text = f"<ETag>&quot;{digest}-{len(tags)}&quot;</ETag>"
    return answer(
        200, f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>".encode()
    )


def uploads(**replies):
    """Answer the steps of uploads: `open`, `part`, `complete`, `read`, `abort`; a list in turn."""

    def reply(request: Request):
        if request.method == "POST" and "uploads" in request.target:
            return said("open", OPENED, request)
        if request.method == "PUT":
            return said("part", landed, request)
        if request.method == "POST":
            return said("complete", completed, request)
        if request.method == "GET":
            return said("read", error(404, "NoSuchKey"), request)
        return said("abort", answer(204), request)

    def said(step: str, usual, request: Request):
        one = replies.get(step, usual)
        one = one.pop(0) if isinstance(one, list) else one
        return one(request) if callable(one) else one

    return reply


def steps(scripted) -> list[str]:
    return [request.method for request in scripted.requests]


def test_an_upload_that_fails_is_aborted(scripted):
    scripted.script = [uploads(part=error(403, "AccessDenied"))]
    with scripted.store() as store, pytest.raises(StoreDeniedError):
        store.put("k", [b"x" * MIB] * 100)
    assert steps(scripted)[-1] == "DELETE"
    assert steps(scripted).count("DELETE") == 1
    assert steps(scripted).count("PUT") < 13, "parts that had not begun are not sent"


def test_an_upload_that_cannot_be_aborted_says_why_it_failed(scripted):
    scripted.script = [
        uploads(complete=error(400, "InvalidPart"), abort=error(403, "AccessDenied"))
    ]
    with scripted.store() as store, pytest.raises(StoreError, match="InvalidPart"):
        store.put("k", [b"x" * MIB] * 9)


def test_a_part_counts_as_sent_when_it_was_answered_and_a_retry_counts_once(scripted):
    told: list[tuple[int, int]] = []
    scripted.script = [uploads(part=[error(503, "SlowDown"), landed, landed, landed])]
    with scripted.store() as store:
        store.put("k", [b"x" * MIB] * 17, sent=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {17 * MIB}
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert (len(done), done[0], done[-1]) == (4, 0, 17 * MIB)


def test_a_lost_upload_is_sent_again(scripted):
    # What S3 answers when the first completion landed and only its answer was lost.
    scripted.script = [uploads(complete=[error(404, "NoSuchUpload"), completed])]
    with scripted.store() as store:
        store.put("k", [b"x" * MIB] * 9)
    assert steps(scripted) == ["POST", "PUT", "PUT", "POST", "GET", "POST", "PUT", "PUT", "POST"]


def test_an_upload_that_is_always_lost_fails(scripted):
    scripted.script = [uploads(complete=error(404, "NoSuchUpload"))]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="twice"):
        store.put("k", [b"x" * MIB] * 9)


SEGMENT = b"".join(bytes([number]) * MIB for number in range(9))


def whole_tail(request: Request):
    """Answer a read as a store does that has all of SEGMENT."""
    first, last = map(int, re.findall(r"\d+", request.headers["range"]))
    part = SEGMENT[first : last + 1]
    shown = f"bytes {first}-{first + len(part) - 1}/{len(SEGMENT)}"
    return held(part, 206, content_range=shown)


@pytest.mark.parametrize(
    "lost",
    [
        None,
        answer(200, b"<html>welcome</html>"),
        answer(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"),
        answer(204),
        error(500, "InternalError"),
        answer(504, b"<html>gateway timeout</html>"),
        error(404, "NoSuchUpload"),
    ],
    ids=["lost", "portal", "no tag", "empty", "500", "504", "repeated"],
)
def test_a_completion_that_proves_nothing_is_settled_by_reading(scripted, lost):
    scripted.script = [uploads(complete=[lost], read=whole_tail)]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "PUT", "PUT", "POST", "GET"], "nothing is sent twice"


def test_a_completion_that_takes_minutes_is_asked_for_until_the_object_is_whole(scripted):
    absent = error(404, "NoSuchKey")
    scripted.script = [
        uploads(
            complete=[None] * 5 + [error(404, "NoSuchUpload")], read=[absent] * 5 + [whole_tail]
        )
    ]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "PUT", "PUT"] + ["POST", "GET"] * 6


def test_a_completion_that_never_comes_is_an_error_and_the_upload_is_aborted(scripted):
    scripted.script = [uploads(complete=error(503, "SlowDown"))]
    with scripted.store() as store, pytest.raises(StoreUnavailableError, match="throttling"):
        store.put("k", [SEGMENT])
    assert steps(scripted).count("POST") < 60
    assert steps(scripted)[-1] == "DELETE"
    assert steps(scripted).count("PUT") == 2


def test_an_object_with_another_end_is_not_ours(scripted):
    shown = f"bytes {len(SEGMENT) - 16384}-{len(SEGMENT)}/{len(SEGMENT) + 1}"
    longer = held(SEGMENT[-16384:] + b"x", 206, content_range=shown)
    scripted.script = [uploads(complete=[None, completed], read=longer)]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "PUT", "PUT", "POST", "GET", "POST"]


PAGES_FOR_AN_UPLOAD = [answer(200), answer(204), answer(200, b"<html>log in</html>")]


@pytest.mark.parametrize("page", PAGES_FOR_AN_UPLOAD)
def test_an_upload_answered_by_a_page_is_restarted(scripted, page):
    scripted.script = [uploads(open=[page, OPENED])]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert steps(scripted) == ["POST", "POST", "PUT", "PUT", "POST"]
    scripted.requests.clear()
    scripted.script = [uploads(open=page)]
    with (
        scripted.store() as store,
        pytest.raises(StoreUnavailableError, match="check the endpoint"),
    ):
        store.put("k", [SEGMENT])


@pytest.mark.parametrize("page", [answer(200), answer(204), answer(202, b"<html>later</html>")])
def test_a_part_without_proof_is_sent_again(scripted, page):
    scripted.script = [uploads(part=[page, landed, landed])]
    with scripted.store() as store:
        store.put("k", [SEGMENT])
    assert sorted(steps(scripted)) == ["POST", "POST", "PUT", "PUT", "PUT"]


@pytest.mark.parametrize("page", [answer(200), answer(204), answer(200, b"<html>hello</html>")])
def test_a_small_segment_without_proof_is_settled_by_reading(scripted, page):
    scripted.script = [page, held(b"data")]
    with scripted.store() as store:
        store.put("k", [b"data"])
    assert [request.method for request in scripted.requests] == ["PUT", "GET"]
    scripted.requests.clear()
    scripted.script = [page, error(404, "NoSuchKey"), landed]
    with scripted.store() as store:
        store.put("k", [b"data"])
    assert [request.method for request in scripted.requests] == ["PUT", "GET", "PUT"]


def test_a_gateway_with_other_etags_works(scripted):
    other = answer(200, etag='"0b5cf1a4-uuid"')
    scripted.script = [other, held(b"data")]
    with scripted.store() as store:
        store.put("k", [b"data"])
        scripted.script = [other]
        with pytest.raises(CommitOutcomeUnknownError) as caught:
            store.put_if_absent("k", b"data")
    assert caught.value.was_answered, "reading the key settles it"
