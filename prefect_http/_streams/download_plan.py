"""What to do with a response, given what is there of the file already. Pure.

    asked for       answered with                                  then
    the whole file  200                                            take it
    the whole file  206, which is a part that was not asked for    fail
    the rest        206 with the rest, or a beginning of it        go on
    the rest        200: the file has changed, or the server       take it, from the beginning
                    has no ranges
    the rest        416, and the file is as long as what is there  it is whole
    the rest        206 with anything else, or another 416         ask for the whole file
    either          another 2xx                                    fail

Only what has a strong validator is ever continued, so that the file cannot be made of two versions (RFC 9110 section
13.1.5): a strong ETag, or without any ETag a Last-Modified that is a minute older than the response.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httpx

from prefect_http._fields.http_date import parse_http_date
from prefect_http._streams.content_range import parse_content_length, parse_content_range, parse_unsatisfied_range

# RFC 9110 section 8.8.3: DQUOTE *etagc DQUOTE, but ASCII only, so that it is sent as it came.
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
# By then a file that changes twice within a second has got another date (RFC 9110 section 8.8.2.2).
_SETTLED_SECONDS = 60
_WHOLE = (200, 203)
_PARTIAL, _UNSATISFIED = 206, 416


class Kept(NamedTuple):
    """What is there of a file, and can be continued.

    Attributes:
        size: in bytes, above 0.
        validator: of the version that it is of: a strong ETag, or a Last-Modified.
        total: the size of the whole file, if it is known.
    """

    size: int
    validator: str
    total: int | None


class Receive(NamedTuple):
    """Read the response's body.

    Attributes:
        start: where in the file it begins; 0 replaces what is there.
        end: where it ends; None if that is not known.
        total: the size of the whole file; None if that is not known.
        validator: a strong validator of this version; None if there is none.
        is_encoded: whether the body has to be decoded.
    """

    start: int
    end: int | None
    total: int | None
    validator: str | None = None
    is_encoded: bool = False


class Finished(NamedTuple):
    """What is there is the whole file."""


class AskAgain(NamedTuple):
    """Drop what is there, and ask for the whole file.

    Attributes:
        reason: why what is there cannot be continued.
    """

    reason: str


class Refuse(NamedTuple):
    """The response is not the file, so the download ends.

    Attributes:
        reason: why.
    """

    reason: str


Plan = Receive | Finished | AskAgain | Refuse


def range_headers(kept: Kept | None) -> dict[str, str]:
    """Return the headers of a request for what is missing, or for the whole file. No coding may spoil the positions."""
    headers = {"Accept-Encoding": "identity"}
    if kept is not None:
        headers |= {"Range": f"bytes={kept.size}-", "If-Range": kept.validator}
    return headers


def is_validator(value: str) -> bool:
    """Whether a text can be an If-Range: a strong ETag or a date."""
    return bool(_STRONG_ETAG.fullmatch(value)) or parse_http_date(value) is not None


def plan_response(kept: Kept | None, status: int, headers: httpx.Headers) -> Plan:
    """Return what to do with a response.

    Args:
        kept: what is there, if the request was for the rest; None if it was for the whole file.
        status: of the response, 2xx or 416.
        headers: of the response.
    """
    if status in _WHOLE:
        return _whole(headers)
    if kept is not None and status == _PARTIAL:
        return _rest(kept, headers)
    if kept is not None and status == _UNSATISFIED:
        return _end(kept, headers)
    if status == _PARTIAL:
        return Refuse("the server sent a part of the file (206), which it was not asked for")
    return Refuse(f"the server answered with status {status}, which does not come with a file")


def _whole(headers: httpx.Headers) -> Receive:
    if is_encoded(headers):
        return Receive(0, None, None, is_encoded=True)
    # With a Transfer-Encoding the length says nothing (RFC 9112 section 6.3).
    total = None if "Transfer-Encoding" in headers else parse_content_length(headers.get("Content-Length", ""))
    return Receive(0, total, total, strong_validator(headers))


def _rest(kept: Kept, headers: httpx.Headers) -> Receive | AskAgain:
    if headers.get("Content-Type", "").lower().startswith("multipart/byteranges"):
        return AskAgain("the server sent several parts of the file (multipart/byteranges)")
    found = parse_content_range(headers.get("Content-Range", ""))
    if found is None:
        return AskAgain("the server sent a part of the file (206) without a valid Content-Range")
    if is_encoded(headers):
        return AskAgain("the server sent a part of the file (206) with a Content-Encoding")
    if found.start != kept.size:
        return AskAgain(f"the server sent the bytes from position {found.start}, not from {kept.size}")
    total = found.total if kept.total is None else kept.total
    if found.total not in (None, total) or (total is not None and found.end > total):
        return AskAgain(f"the size of the file is no longer {total} bytes")
    if _is_of_another_version(kept.validator, headers):
        return AskAgain("the file has changed on the server")
    length = parse_content_length(headers.get("Content-Length", ""))
    if length not in (None, found.end - found.start):
        return AskAgain(f"the Content-Length of {length} contradicts the Content-Range")
    return Receive(found.start, found.end, total, kept.validator)


def _end(kept: Kept, headers: httpx.Headers) -> Finished | AskAgain:
    total = parse_unsatisfied_range(headers.get("Content-Range", ""))
    if total == kept.size and kept.total in (None, total) and not _is_of_another_version(kept.validator, headers):
        return Finished()
    return AskAgain("the server says that there is no rest of the file (416)")


def strong_validator(headers: httpx.Headers) -> str | None:
    """Return what tells this version of a file from all others; None if nothing is sure to."""
    etag = headers.get("ETag")
    if etag is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    modified = parse_http_date(headers.get("Last-Modified", ""))
    date = parse_http_date(headers.get("Date", ""))
    if modified is None or date is None or date - modified < _SETTLED_SECONDS:
        return None
    return headers["Last-Modified"]


def _is_of_another_version(validator: str, headers: httpx.Headers) -> bool:
    """Whether a response, which need not repeat the validator, has another one."""
    name = "ETag" if validator.startswith('"') else "Last-Modified"
    return bool(headers.get(name, validator) != validator)


def is_encoded(headers: httpx.Headers) -> bool:
    """Whether a body has a content coding."""
    coding: str = headers.get("Content-Encoding", "")
    return coding.strip().lower() not in ("", "identity")
