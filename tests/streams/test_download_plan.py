"""What a download does with a response: no client, no file, no event loop."""

from __future__ import annotations

import httpx
from support.rows import each_row

from prefect_http._streams.download_plan import (
    AskAgain,
    Finished,
    Kept,
    Plan,
    Receive,
    Refuse,
    is_validator,
    plan_response,
    range_headers,
    strong_validator,
)

ETAG = '"v1"'
SATURDAY = "Sat, 28 Nov 2026 12:00:00 GMT"
SUNDAY = "Sun, 29 Nov 2026 12:00:00 GMT"
HALF = Kept(50, ETAG, 100)
DATED = Kept(50, SATURDAY, 100)
UNSIZED = Kept(50, ETAG, None)
NO_REST = AskAgain("the server says that there is no rest of the file (416)")
REST = {"Content-Range": "bytes 50-99/100", "Content-Length": "50", "ETag": ETAG}


def test_request_for_the_whole_file() -> None:
    """Without anything to continue, only a content coding is declined."""
    assert range_headers(None) == {"Accept-Encoding": "identity"}


def test_request_for_the_rest() -> None:
    """What is there is continued only if it is of the same version."""
    assert range_headers(HALF) == {"Accept-Encoding": "identity", "Range": "bytes=50-", "If-Range": ETAG}
    assert range_headers(DATED)["If-Range"] == SATURDAY


@each_row(
    "headers, validator",
    [
        ({"ETag": ETAG}, ETAG),
        ({"ETag": '""'}, '""'),
        ({"ETag": ETAG, "Last-Modified": SATURDAY, "Date": SUNDAY}, ETAG),
        ({"Last-Modified": SATURDAY, "Date": SUNDAY}, SATURDAY),
        ({"Last-Modified": "Sun, 29 Nov 2026 11:59:00 GMT", "Date": SUNDAY}, "Sun, 29 Nov 2026 11:59:00 GMT"),
        ({}, None),
        ({"ETag": 'W/"v1"'}, None),
        ({"ETag": 'W/"v1"', "Last-Modified": SATURDAY, "Date": SUNDAY}, None),
        ({"ETag": "v1", "Last-Modified": SATURDAY, "Date": SUNDAY}, None),
        ({"ETag": '"v1", "v2"'}, None),
        ({"ETag": '"\u00e9"'}, None),
        ({"Last-Modified": SATURDAY}, None),
        ({"Last-Modified": "yesterday", "Date": SUNDAY}, None),
        ({"Last-Modified": "Sun, 29 Nov 2026 11:59:01 GMT", "Date": SUNDAY}, None),
        ({"Last-Modified": SUNDAY, "Date": SATURDAY}, None),
    ],
)
def test_strong_validator(headers: dict[str, str], validator: str | None) -> None:
    """A weak ETag, or a date that may be that of two versions, does not tell them apart."""
    assert (
        strong_validator(httpx.Headers({name.encode(): value.encode() for name, value in headers.items()})) == validator
    )


@each_row("value", [ETAG, SATURDAY, '""'])
def test_is_validator(value: str) -> None:
    """What was a validator can be sent as one."""
    assert is_validator(value)


@each_row("value", ["", "v1", 'W/"v1"', '"a\r\nX: y"', '"a"b"', "2026-11-28"])
def test_is_no_validator(value: str) -> None:
    """What was not is refused, whatever has been written into a file."""
    assert not is_validator(value)


@each_row(
    "status, headers, plan",
    [
        (200, {"Content-Length": "100", "ETag": ETAG}, Receive(0, 100, 100, ETAG)),
        (203, {"Content-Length": "100"}, Receive(0, 100, 100)),
        (200, {}, Receive(0, None, None)),
        (200, {"Content-Length": "0"}, Receive(0, 0, 0)),
        (200, {"Content-Length": "many"}, Receive(0, None, None)),
        (200, {"Transfer-Encoding": "chunked", "Content-Length": "9"}, Receive(0, None, None)),
        (200, {"Content-Encoding": "identity", "Content-Length": "100"}, Receive(0, 100, 100)),
        (200, {"Content-Encoding": "gzip", "Content-Length": "9", "ETag": ETAG}, Receive(0, None, None, None, True)),
        (206, REST, Refuse("the server sent a part of the file (206), which it was not asked for")),
        (204, {}, Refuse("the server answered with status 204, which does not come with a file")),
        (202, {}, Refuse("the server answered with status 202, which does not come with a file")),
    ],
)
def test_the_whole_file_was_asked_for(status: int, headers: dict[str, str], plan: Plan) -> None:
    """It is taken if it is the whole file."""
    assert plan_response(None, status, httpx.Headers(headers)) == plan


@each_row(
    "kept, status, headers, plan",
    [
        # The rest, or its beginning.
        (HALF, 206, REST, Receive(50, 100, 100, ETAG)),
        (HALF, 206, {"Content-Range": "bytes 50-99/100"}, Receive(50, 100, 100, ETAG)),
        (HALF, 206, {"Content-Range": "bytes 50-59/100"}, Receive(50, 60, 100, ETAG)),
        (HALF, 206, {"Content-Range": "bytes 50-99/*"}, Receive(50, 100, 100, ETAG)),
        (UNSIZED, 206, {"Content-Range": "bytes 50-99/100"}, Receive(50, 100, 100, ETAG)),
        (UNSIZED, 206, {"Content-Range": "bytes 50-99/*"}, Receive(50, 100, None, ETAG)),
        (DATED, 206, {**REST, "Last-Modified": SATURDAY}, Receive(50, 100, 100, SATURDAY)),
        # Another version.
        (HALF, 200, {"Content-Length": "7", "ETag": '"v2"'}, Receive(0, 7, 7, '"v2"')),
        (HALF, 206, {**REST, "ETag": '"v2"'}, AskAgain("the file has changed on the server")),
        (HALF, 206, {**REST, "ETag": 'W/"v1"'}, AskAgain("the file has changed on the server")),
        (DATED, 206, {**REST, "Last-Modified": SUNDAY}, AskAgain("the file has changed on the server")),
        (HALF, 206, {"Content-Range": "bytes 50-98/99"}, AskAgain("the size of the file is no longer 100 bytes")),
        (HALF, 206, {"Content-Range": "bytes 50-149/*"}, AskAgain("the size of the file is no longer 100 bytes")),
        # What it was not asked for.
        (
            HALF,
            206,
            {"Content-Range": "bytes 0-99/100"},
            AskAgain("the server sent the bytes from position 0, not from 50"),
        ),
        (
            HALF,
            206,
            {"Content-Range": "bytes 51-99/100"},
            AskAgain("the server sent the bytes from position 51, not from 50"),
        ),
        (
            HALF,
            206,
            {**REST, "Content-Type": "Multipart/Byteranges; boundary=x"},
            AskAgain("the server sent several parts of the file (multipart/byteranges)"),
        ),
        (
            HALF,
            206,
            {"Content-Range": "bytes 50-99"},
            AskAgain("the server sent a part of the file (206) without a valid Content-Range"),
        ),
        (
            HALF,
            206,
            {**REST, "Content-Encoding": "gzip"},
            AskAgain("the server sent a part of the file (206) with a Content-Encoding"),
        ),
        (
            HALF,
            206,
            {**REST, "Content-Length": "100"},
            AskAgain("the Content-Length of 100 contradicts the Content-Range"),
        ),
        (HALF, 204, {}, Refuse("the server answered with status 204, which does not come with a file")),
        # The end.
        (Kept(100, ETAG, 100), 416, {"Content-Range": "bytes */100"}, Finished()),
        (Kept(100, ETAG, None), 416, {"Content-Range": "bytes */100"}, Finished()),
        (
            Kept(100, ETAG, 100),
            416,
            {"Content-Range": "bytes */100", "ETag": '"v2"'},
            NO_REST,
        ),
        (
            HALF,
            416,
            {"Content-Range": "bytes */50"},
            NO_REST,
        ),
        (
            HALF,
            416,
            {"Content-Range": "bytes */20"},
            NO_REST,
        ),
        (HALF, 416, {}, NO_REST),
    ],
)
def test_the_rest_was_asked_for(kept: Kept, status: int, headers: dict[str, str], plan: Plan) -> None:
    """What is there is continued only with what is certainly its continuation."""
    assert plan_response(kept, status, httpx.Headers(headers)) == plan
