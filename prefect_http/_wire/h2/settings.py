"""Settings: what the two sides allow each other. Pure. RFC 9113 section 6.5.

- Ours go out with the first bytes and never change: no pushed responses, and windows that do not slow a download.
- The server's hold from the moment they arrive, and then they are acknowledged. Those that are unknown are ignored; a
  value that is not allowed is an error of the connection.
- Until the server has said how many streams it accepts, it is assumed to accept 100, as the RFC recommends at least.
"""

from __future__ import annotations

import struct

from prefect_http._wire.h2.errors import FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, ConnectionFault
from prefect_http._wire.h2.frames import MAX_FRAME_BYTES, SETTINGS, frame_head, window_update

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535

# How much a stream may send that has not been read. What is in flight on a connection is limited by the second, which
# is given back as soon as it arrives: at 100 ms to the server and back, 16 MiB let it send 160 MB per second.
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024

MAX_LIST_BYTES = 64 * 1024  # of a response's headers
STREAMS_BEFORE_SETTINGS = 100
MAX_TABLE_SIZE = 4096  # for both directions, whatever the server allows: it is the default as well
MAX_STREAMS = 1_000  # whatever the server allows: beyond that, another connection helps more

_SETTING = struct.Struct(">HL")
_OURS = b"".join(
    _SETTING.pack(*setting)
    for setting in (
        # Though it is the default: nginx then says that it uses no table, and its responses are decoded much faster.
        (HEADER_TABLE_SIZE, MAX_TABLE_SIZE),
        (ENABLE_PUSH, 0),
        (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        (MAX_HEADER_LIST_SIZE, MAX_LIST_BYTES),
    )
)
# RFC 9113 section 3.4: the client's preface, and what may follow it at once.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST_FLIGHT = (
    PREFACE + frame_head(len(_OURS), SETTINGS, 0, 0) + _OURS + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
)


class ServerSettings:
    """What the server allows.

    Attributes:
        have_arrived: whether it has said anything.
        max_streams: how many streams may be open at once.
        initial_window: how many bytes of a body a new stream may send.
        max_frame: the largest payload of a frame.
        max_list_bytes: the largest list of fields; None: it does not say.
        table_size: the size of the table that it decodes fields with.
    """

    __slots__ = ("have_arrived", "initial_window", "max_frame", "max_list_bytes", "max_streams", "table_size")

    def __init__(self) -> None:
        self.have_arrived = False
        self.max_streams = STREAMS_BEFORE_SETTINGS
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = MAX_FRAME_BYTES
        self.max_list_bytes: int | None = None
        self.table_size = MAX_TABLE_SIZE

    def update(self, payload: bytes) -> None:
        """Apply a SETTINGS.

        Raises:
            ConnectionFault: one of the settings is not allowed.
        """
        values = read_settings(payload)
        if not self.have_arrived:
            self.have_arrived = True
            self.max_streams = MAX_STREAMS
        self.max_streams = min(values.get(MAX_CONCURRENT_STREAMS, self.max_streams), MAX_STREAMS)
        self.initial_window = values.get(INITIAL_WINDOW_SIZE, self.initial_window)
        self.max_frame = values.get(MAX_FRAME_SIZE, self.max_frame)
        self.max_list_bytes = values.get(MAX_HEADER_LIST_SIZE, self.max_list_bytes)
        self.table_size = min(values.get(HEADER_TABLE_SIZE, self.table_size), MAX_TABLE_SIZE)


def read_settings(payload: bytes, *, max_push: int = 0) -> dict[int, int]:
    """Return the settings in a SETTINGS by their numbers; of several values, the last counts.

    Args:
        payload: of the SETTINGS.
        max_push: what ENABLE_PUSH may be: a server may only say 0, a client also 1 (RFC 9113 section 6.5.2).

    Raises:
        ConnectionFault: one of them is not allowed.
    """
    if len(payload) % _SETTING.size:
        raise ConnectionFault("the server sent a SETTINGS of the wrong size", FRAME_SIZE_ERROR)
    for setting, value in _SETTING.iter_unpack(payload):
        if setting == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault("the server set a window of more than 2^31-1 bytes", FLOW_CONTROL_ERROR)
        if setting == MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value < 2**24:
            raise ConnectionFault(f"the server set a frame size of {value} bytes")
        if setting == ENABLE_PUSH and value > max_push:
            raise ConnectionFault("the server sent a SETTINGS with ENABLE_PUSH")
    return dict(_SETTING.iter_unpack(payload))
