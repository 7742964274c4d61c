"""The errors of HTTP/2: their codes, and what the end of a stream means for its request. RFC 9113 sections 5.4 and 7.

A `StreamError` concerns one stream, which is reset. A `ConnectionFault` concerns the connection, which is closed. Both
are raised and caught inside this folder only. What the caller sees is a `StreamFailure`, from which it makes an error.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB
HTTP_1_1_REQUIRED = 0xD

_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)


def error_name(code: int) -> str:
    """Return the name of an error code, for messages."""
    return _NAMES[code] if code < len(_NAMES) else f"error code {code:#x}"


class FailureKind(enum.Enum):
    """What the failure of a stream means for its request."""

    NEVER_PROCESSED = enum.auto()
    """The server has not processed the request: it is safe to send it again, whatever its method."""
    MAY_HAVE_BEEN_PROCESSED = enum.auto()
    """The server may have processed the request, or a part of it."""
    INVALID_RESPONSE = enum.auto()
    """The server's response is not valid HTTP."""
    HTTP_1_1_REQUIRED = enum.auto()
    """The server has not processed the request, and asks for HTTP/1.1 instead."""


def kind_of_reset(code: int, has_begun: bool) -> FailureKind:
    """Return what a RST_STREAM means for the request.

    Args:
        code: its error code.
        has_begun: whether a part of the response has arrived: then the request was processed, whatever the code says.
    """
    if not has_begun:
        if code == REFUSED_STREAM:
            return FailureKind.NEVER_PROCESSED
        if code == HTTP_1_1_REQUIRED:
            return FailureKind.HTTP_1_1_REQUIRED
    return FailureKind.MAY_HAVE_BEEN_PROCESSED


class StreamFailure(NamedTuple):
    """Why a stream has ended before its response was complete.

    Attributes:
        kind: what it means for the request.
        message: what happened, for an error message. It quotes nothing that the server sent.
        code: the error code that was received or sent (RFC 9113 section 7); None: the connection ended without one.
    """

    kind: FailureKind
    message: str
    code: int | None


class StreamError(Exception):
    """The server broke a rule in one stream.

    Args:
        message: what happened.
        code: the code to send.
    """

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class ConnectionFault(Exception):
    """The server broke a rule that concerns the whole connection.

    Args:
        message: what happened.
        code: the code to send.
        stream_id: the stream whose frame broke it; 0: none.
    """

    def __init__(self, message: str, code: int = PROTOCOL_ERROR, stream_id: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.stream_id = stream_id


class RequestTooLarge(Exception):
    """The headers of a request are larger than the server accepts (SETTINGS_MAX_HEADER_LIST_SIZE)."""
