"""What the frames say that carry no part of a request or response. Pure. RFC 9113 section 6.

Each function checks what concerns the frame alone, and raises a `ConnectionFault` if the server broke a rule there.
"""

from __future__ import annotations

from prefect_http._wire.h2.errors import FRAME_SIZE_ERROR, ConnectionFault
from prefect_http._wire.h2.frames import ACK
from prefect_http._wire.h2.settings import MAX_WINDOW

_MAX_STREAM_ID = 2**31 - 1


def reset_code(stream_id: int, payload: bytes) -> int:
    """Return the error code in a RST_STREAM (6.4)."""
    if len(payload) != 4:
        raise ConnectionFault("the server sent a RST_STREAM of the wrong size", FRAME_SIZE_ERROR, stream_id)
    return int.from_bytes(payload)


def is_settings_ack(flags: int, stream_id: int, payload: bytes) -> bool:
    """Return whether a SETTINGS acknowledges ours (6.5)."""
    if stream_id:
        raise ConnectionFault("the server sent a SETTINGS for a stream")
    if not flags & ACK:
        return False
    if payload:
        raise ConnectionFault("the server sent a SETTINGS acknowledgement with content", FRAME_SIZE_ERROR)
    return True


def check_ping(stream_id: int, payload: bytes) -> None:
    """Check a PING (6.7)."""
    if stream_id:
        raise ConnectionFault("the server sent a PING for a stream")
    if len(payload) != 8:
        raise ConnectionFault("the server sent a PING of the wrong size", FRAME_SIZE_ERROR)


def last_stream_and_code(stream_id: int, payload: bytes) -> tuple[int, int]:
    """Return the number and the error code in a GOAWAY (6.8)."""
    if stream_id:
        raise ConnectionFault("the server sent a GOAWAY for a stream")
    if len(payload) < 8:
        raise ConnectionFault("the server sent a GOAWAY of the wrong size", FRAME_SIZE_ERROR)
    return int.from_bytes(payload[:4]) & _MAX_STREAM_ID, int.from_bytes(payload[4:8])


def window_increment(stream_id: int, payload: bytes) -> int:
    """Return how much larger a WINDOW_UPDATE makes the window (6.9)."""
    if len(payload) != 4:
        raise ConnectionFault("the server sent a WINDOW_UPDATE of the wrong size", FRAME_SIZE_ERROR, stream_id)
    return int.from_bytes(payload) & MAX_WINDOW
