"""HTTPProtocol: what an app may send in response to one request. Pure: messages in, the parts of the response out.

    (nothing yet) ── http.response.start ──> started ── http.response.body, more_body ──> started
                                             started ── http.response.body ─────────────> complete

Anything else is an error in the app, and so is a body that is longer or shorter than its Content-Length: a real
server could not send it (RFC 9110 section 8.6). What the caller gets at the end of the app's call is decided in
``end()``.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import httpx

from prefect_http._concurrency.exception_groups import first_exception
from prefect_http._redact import safe_exception, safe_message

# RFC 9110 section 5.6.2: token; section 5.5: a field value has no CR, LF or NUL.
_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_length = re.compile(rb"[0-9]{1,19}").fullmatch
_is_value = re.compile(rb"[^\r\n\0]*").fullmatch
_SWITCHING_PROTOCOLS = 101
# RFC 9110 section 6.4.1: these end with the header section.
_WITHOUT_BODY = frozenset({_SWITCHING_PROTOCOLS, 204, 304})


class MessageError(RuntimeError):
    """An app has sent a message that is invalid, or not allowed at that time."""


class Head(NamedTuple):
    """The status and the headers of a response."""

    status: int
    headers: list[tuple[bytes, bytes]]


class HTTPProtocol:
    """The state of one response.

    Args:
        method: the method of the request. The response to a HEAD request has no body.

    Attributes:
        head: the status and headers, once the app has sent them.
        is_complete: whether the app has sent the whole response.
    """

    head: Head | None = None
    is_complete = False
    _expected: int | None = None
    _sent = 0
    _error: Exception | None = None

    def __init__(self, method: str) -> None:
        self._has_body = method != "HEAD"

    def send(self, message: Mapping[str, object]) -> bytes:
        """Take a message from the app.

        Returns:
            A part of the response body; empty if the message has no body, or if the response must not have one.

        Raises:
            MessageError: the message is of an unknown type or comes at the wrong time, a value in it is of the wrong
                type or not allowed by HTTP, or the body does not match its Content-Length.
        """
        try:
            return self._take(message)
        except MessageError as error:
            self._error = error
            raise

    def end(self, error: BaseException | None, *, raise_app_exceptions: bool) -> BaseException | None:
        """Decide what the caller gets at the end, once the app's call has returned or raised.

        If an exception is answered with a status of 500, ``head`` and ``is_complete`` are set accordingly.

        Args:
            error: what the app raised; None: it returned.
            raise_app_exceptions: whether the caller gets the app's exceptions. It gets a BaseException in any case.

        Returns:
            The exception that the caller gets after the parts of the response; None: the response is complete.
        """
        reason, self._error = self._error if error is None else error, None  # its traceback refers to this object
        if error is not None and not isinstance(error, Exception):
            return error
        if self.is_complete:
            return error if raise_app_exceptions else None
        if error is not None and raise_app_exceptions and _message_error(error) is None:
            return error
        if error is not None and not raise_app_exceptions and self.head is None:
            self.head, self.is_complete = Head(500, []), True
            return None
        broken = self._broken(error)
        broken.__cause__ = reason
        return broken

    def _take(self, message: Mapping[str, object]) -> bytes:
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise MessageError(f"an ASGI message must be a dict with a type, not {message!r:.200}") from None
        if kind == "http.response.body" and self.head is not None and not self.is_complete:
            return self._take_body(message)
        if kind == "http.response.start" and self.head is None:
            self.head = self._read_head(message)
            return b""
        raise MessageError(self._why_not(kind))

    def _broken(self, error: Exception | None) -> httpx.RemoteProtocolError:
        where = "before it sent http.response.start" if self.head is None else "in the middle of the response body"
        if error is None:
            return httpx.RemoteProtocolError(f"the app returned {where}")
        invalid = _message_error(error)
        if invalid is None:
            return httpx.RemoteProtocolError(f"the app failed {where}: {safe_exception(error)}")
        return httpx.RemoteProtocolError(f"the app sent an invalid message: {safe_message(invalid)}")

    def _why_not(self, kind: object) -> str:
        if kind not in ("http.response.start", "http.response.body"):
            return f"unknown ASGI message type {kind!r:.200}; expected http.response.start or http.response.body"
        if self.is_complete:
            return f"{kind} was sent after the response was complete"
        return f"{kind} was sent before http.response.start" if self.head is None else f"{kind} was sent twice"

    def _read_head(self, message: Mapping[str, object]) -> Head:
        status = message.get("status")
        if not isinstance(status, int) or isinstance(status, bool):
            raise MessageError(f"http.response.start: status must be an int, not {status!r:.200}")
        if not (200 <= status <= 999 or status == _SWITCHING_PROTOCOLS):
            raise MessageError(f"http.response.start: status must be 101 or from 200 to 999, not {status}")
        headers: list[tuple[bytes, bytes]] = []
        lengths: set[bytes] = set()
        for pair in _iterate(message.get("headers")):
            name, value = _read_header(pair)
            headers.append((name, value))
            if name.lower() == b"content-length":
                lengths.add(value)
        if lengths:
            length = lengths.pop()
            if lengths or not _is_length(length):
                raise MessageError("http.response.start: Content-Length must be a single number")
            self._expected = int(length)
        self._has_body = self._has_body and status not in _WITHOUT_BODY
        return Head(status, headers)

    def _take_body(self, message: Mapping[str, object]) -> bytes:
        body = message.get("body")
        if not isinstance(body, bytes):
            body = _read_body(body)
        ends = not message.get("more_body", False)
        if not self._has_body:
            body = b""
        elif self._expected is not None:
            sent = self._sent + len(body)
            if sent > self._expected or (ends and sent < self._expected):
                than = "longer" if sent > self._expected else "shorter"
                raise MessageError(f"the response body is {than} than its Content-Length of {self._expected}")
            self._sent = sent
        self.is_complete = ends
        return body


def _iterate(headers: object) -> Iterable[object]:
    if headers is None:
        return ()
    # First whether it is a list, because the check for an Iterable takes longer.
    if not isinstance(headers, list) and not isinstance(headers, Iterable):
        raise MessageError(f"http.response.start: headers must be pairs of bytes, not {headers!r:.200}")
    return cast("Iterable[object]", headers)


def _read_header(pair: object) -> tuple[bytes, bytes]:
    try:
        name, value = cast("tuple[object, object]", pair)
    except (TypeError, ValueError):
        name = value = None
    if not (isinstance(name, bytes) and isinstance(value, bytes)):
        name, value = _to_bytes(name), _to_bytes(value)
        if name is None or value is None:
            raise MessageError(f"http.response.start: headers must be pairs of bytes, not {pair!r:.200}")
    if not _is_token(name):
        raise MessageError(f"http.response.start: invalid header name {name!r:.200}")
    if not _is_value(value):
        raise MessageError(f"http.response.start: the value of the header {name!r:.200} contains CR, LF or NUL")
    return name, value.strip(b" \t")


def _read_body(body: object) -> bytes:
    content = b"" if body is None else _to_bytes(body)
    if content is None:
        raise MessageError(f"http.response.body: body must be bytes, not {type(body).__name__}")
    return content


def _to_bytes(value: object) -> bytes | None:
    """Convert a bytes-like object to bytes; return None for anything else."""
    return bytes(cast(bytes, value)) if isinstance(value, bytes | bytearray | memoryview) else None


def _message_error(error: Exception) -> MessageError | None:
    """Return the error for what an app sent, if the app has failed because of that, in a task group or not."""
    found: Exception | None = error
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error).subgroup(MessageError)
        found = None if group is None else first_exception(group)
    return found if isinstance(found, MessageError) else None
