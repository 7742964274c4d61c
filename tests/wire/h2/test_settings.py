"""Settings: ours as the server sees them, and what a server's may say."""

from __future__ import annotations

import h2.config
import h2.connection
import pytest
from support.h2_frames import frame, settings, uint32

from prefect_http._wire.h2.errors import FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR, ConnectionFault
from prefect_http._wire.h2.settings import CONNECTION_WINDOW, FIRST_FLIGHT, STREAM_WINDOW, ServerSettings, read_settings

HEAD = len(frame(0))


def test_first_flight() -> None:
    """3.4, 6.5.2: a server accepts the first flight, and finds no push, the usual table, and large windows in it."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(FIRST_FLIGHT)
    assert server.remote_settings.enable_push == 0
    assert server.remote_settings.header_table_size == 4096
    assert server.remote_settings.initial_window_size == STREAM_WINDOW
    assert server.remote_settings.max_header_list_size == 64 * 1024
    assert server.outbound_flow_control_window == CONNECTION_WINDOW
    assert b"\0\1" + uint32(4096) in FIRST_FLIGHT  # nginx looks for it, though it is the default


def test_valid_settings() -> None:
    """6.5.2, 6.5.3: the last of several values counts, and unknown settings are harmless."""
    cases: list[tuple[bytes, dict[int, int]]] = [
        (settings(), {}),
        (settings(s1=0, s2=0, s3=0, s4=0, s5=16_384, s6=0), {1: 0, 2: 0, 3: 0, 4: 0, 5: 16_384, 6: 0}),
        (
            settings(s1=2**32 - 1, s3=2**32 - 1, s4=2**31 - 1, s5=2**24 - 1),
            {1: 2**32 - 1, 3: 2**32 - 1} | {4: 2**31 - 1, 5: 2**24 - 1},
        ),
        (settings(s4=5) + settings(s4=6)[HEAD:], {4: 6}),
        (settings(s99=5), {99: 5}),
    ]
    for written, expected in cases:
        assert read_settings(written[HEAD:]) == expected


def test_invalid_settings() -> None:
    """6.5, 6.5.2: a value that is not allowed is an error of the connection, even if another one follows."""
    cases = [
        (b"\0\3" + uint32(1)[:3], FRAME_SIZE_ERROR),
        (settings(s2=1)[HEAD:], PROTOCOL_ERROR),
        (settings(s2=2)[HEAD:], PROTOCOL_ERROR),
        (settings(s4=2**31)[HEAD:], FLOW_CONTROL_ERROR),
        (settings(s4=2**31)[HEAD:] + settings(s4=1)[HEAD:], FLOW_CONTROL_ERROR),
        (settings(s5=16_383)[HEAD:], PROTOCOL_ERROR),
        (settings(s5=2**24)[HEAD:], PROTOCOL_ERROR),
    ]
    for payload, code in cases:
        with pytest.raises(ConnectionFault) as caught:
            read_settings(payload)
        assert caught.value.code == code, payload


def test_server_settings() -> None:
    """6.5.3: what a SETTINGS does not name stays as it is; how many streams, 100 until the first one has come."""
    allowed = ServerSettings()
    assert (allowed.max_streams, allowed.initial_window, allowed.max_frame) == (100, 65_535, 16_384)
    assert (allowed.max_list_bytes, allowed.table_size, allowed.have_arrived) == (None, 4096, False)
    allowed.update(settings(s1=100, s4=5)[HEAD:])
    assert (allowed.max_streams, allowed.initial_window, allowed.table_size) == (1000, 5, 100)
    allowed.update(settings(s3=7, s5=20_000)[HEAD:])
    allowed.update(settings(s1=5000, s6=9)[HEAD:])
    assert (allowed.max_streams, allowed.initial_window, allowed.max_frame) == (7, 5, 20_000)
    assert (allowed.max_list_bytes, allowed.table_size, allowed.have_arrived) == (9, 4096, True)
