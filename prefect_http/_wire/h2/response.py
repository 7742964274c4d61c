"""What arrives of a response, put into its stream. Pure. RFC 9113 sections 8.1 and 8.1.1.

- Informational responses come first; there may be 100 of them. HTTP/2 has no 101.
- Then come the head, the body, and perhaps trailers, which end the response.
- A response to HEAD, a 204 and a 304 have no body, whatever their headers say; the Content-Length of a CONNECT that
  succeeds means nothing. Any other Content-Length has to be what arrives, which is checked as soon as it can be.
"""

from __future__ import annotations

from prefect_http._wire.h2.errors import FLOW_CONTROL_ERROR, STREAM_CLOSED, StreamError
from prefect_http._wire.h2.response_fields import response_head, trailers
from prefect_http._wire.h2.stream import Headers, Stream
from prefect_http._wording import are, counted

MAX_INFORMATIONAL = 100
# Smaller parts of a body are put together: as objects, they would take up much more memory.
_SMALL = 1024


def add_fields(stream: Stream, fields: Headers, *, ends: bool) -> None:
    """Add a head, an informational response, or trailers.

    Raises:
        StreamError: the response is not valid.
    """
    if stream.is_complete:
        raise StreamError("the server sent HEADERS after the end of the response", STREAM_CLOSED)
    if not stream.status:
        _add_head(stream, fields, ends=ends)
    elif ends:
        stream.trailers = trailers(fields)
    else:
        raise StreamError("the server sent trailers that do not end the response")


def add_body(stream: Stream, data: bytes, padding: int) -> None:
    """Add a part of the body, which came with so many bytes of padding.

    Raises:
        StreamError: the response is not valid.
    """
    size = len(data)
    stream.receive_window -= size + padding
    if stream.receive_window < 0:
        raise StreamError("the server sent more than the window of the stream allows", FLOW_CONTROL_ERROR)
    if stream.is_complete:
        raise StreamError("the server sent DATA after the end of the response", STREAM_CLOSED)
    if not stream.status:
        raise StreamError("the server sent DATA before the head of the response")
    if stream.body_left >= 0:
        stream.body_left -= size
        if stream.body_left < 0:
            raise StreamError("the response body is longer than its headers allow")
    parts = stream.body
    if size >= _SMALL or (size and not parts):
        parts.append(data)
    elif size:
        last = parts[-1]
        if type(last) is bytearray:
            last += data
        else:
            parts.append(bytearray(data))


def add_body_parts(stream: Stream, parts: list[bytes], size: int) -> bool:
    """Add several parts of the body, none of them small, of so many bytes together; False: one of them is not valid."""
    if stream.receive_window < size or 0 <= stream.body_left < size or stream.is_complete or not stream.status:
        return False
    stream.receive_window -= size
    if stream.body_left > 0:
        stream.body_left -= size
    stream.body += parts
    return True


def check_end(stream: Stream) -> None:
    """Check that the response may end here.

    Raises:
        StreamError: it may not.
    """
    if stream.body_left > 0:
        missing = f"{counted(stream.body_left, 'byte')} {are(stream.body_left)} missing"
        raise StreamError(f"the response body is shorter than its Content-Length: {missing}")


def _add_head(stream: Stream, fields: Headers, *, ends: bool) -> None:
    status, headers, length = response_head(fields)
    if status >= 200:
        stream.status, stream.headers = status, headers
        if stream.method == b"HEAD" or status in {204, 304}:
            stream.body_left = 0
        elif stream.method != b"CONNECT" or status >= 300:
            stream.body_left = length
        return
    if status == 101:
        raise StreamError("the server sent a 101, which does not exist in HTTP/2")
    if ends:
        raise StreamError("the response ended with an informational response (1xx)")
    if stream.informational is None:
        stream.informational = []
    if len(stream.informational) >= MAX_INFORMATIONAL:
        raise StreamError(f"the server sent more than {MAX_INFORMATIONAL} informational responses (1xx)")
    stream.informational.append((status, headers))
