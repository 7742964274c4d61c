"""Windows in both directions. RFC 9113 sections 5.2 and 6.9."""

from __future__ import annotations

from support.h2_frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    PADDED,
    PING,
    POST,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Client,
    SentFrame,
    data,
    frame,
    headers,
    settings,
    uint32,
    window,
)

from prefect_http._wire.h2.errors import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, FailureKind
from prefect_http._wire.h2.settings import CONNECTION_WINDOW, MAX_WINDOW, STREAM_WINDOW

PIECE = bytes(16_384)


def updates(client: Client) -> list[tuple[int, int]]:
    """Return the streams and sizes of the WINDOW_UPDATEs that are to be sent, and check that there is nothing else."""
    sent = client.sent()
    assert {frame.kind for frame in sent} <= {WINDOW_UPDATE}
    return [(frame.stream_id, int.from_bytes(frame.payload)) for frame in sent]


def test_stream_window_is_given_back_when_read() -> None:
    """6.9: a stream's window is given back in halves, when its body is taken."""
    client = Client()
    stream = client.request()
    client.receive(headers(1), *[data(1, PIECE)] * 63)
    assert updates(client) == []
    assert len(client.connection.take_body(stream)) == 63 * len(PIECE)
    assert updates(client) == [(1, 63 * len(PIECE))]
    client.receive(*[data(1, PIECE)] * 31)
    client.connection.take_body(stream)
    assert updates(client) == []
    client.receive(data(1, PIECE))
    client.connection.take_body(stream)
    assert updates(client) == [(1, 32 * len(PIECE))]


def test_unread_streams_hold_up_no_other() -> None:
    """6.9: the connection's window is given back when bytes arrive, in halves, though nothing is read."""
    client = Client()
    streams = [client.request() for _ in range(9)]
    for stream in streams:
        client.receive(headers(stream.id), *[data(stream.id, PIECE)] * 64)
    assert updates(client) == [(0, CONNECTION_WINDOW // 2)]
    for stream in streams:
        assert (stream.failure, len(client.connection.take_body(stream))) == (None, STREAM_WINDOW)


def test_padding_is_given_back_at_once() -> None:
    """6.1, 6.9.1: padding counts for both windows, and no reader takes it."""
    client = Client()
    stream = client.request()
    padded = frame(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255))
    client.receive(headers(1), *[padded] * 2040)
    assert [update for update in updates(client) if not update[0]] == []
    client.receive(*[padded] * 100)
    assert stream.failure is None
    assert len(client.connection.take_body(stream)) == 2140
    assert stream.receive_window + stream.receive_credit == STREAM_WINDOW


def test_server_exceeds_the_window() -> None:
    """6.9.1: a server that sends more than a stream's window is an error of the stream. What came before is there."""
    client = Client()
    stream, other = client.request(), client.request()
    client.receive(headers(1), *[data(1, PIECE)] * 64)
    assert stream.failure is None
    client.receive(data(1, b"x"))
    assert stream.failure is not None
    assert (stream.failure.kind, stream.failure.code) == (FailureKind.INVALID_RESPONSE, FLOW_CONTROL_ERROR)
    assert [frame.kind for frame in client.sent()] == [RST_STREAM, PING]
    assert len(client.connection.take_body(stream)) == STREAM_WINDOW
    assert updates(client) == []
    client.receive(headers(3, end=True))
    assert other.is_complete


def test_late_data_counts() -> None:
    """5.1, 6.9: what comes for a cancelled stream counts for the connection's window."""
    client = Client()
    stream = client.request()
    client.receive(headers(1))
    client.connection.cancel(stream)
    client.sent()
    client.receive(*[data(1, PIECE)] * 511)
    assert updates(client) == []
    client.receive(data(1, PIECE))
    assert updates(client) == [(0, CONNECTION_WINDOW // 2)]


def test_small_frames_take_no_more_memory() -> None:
    """10.5: a body that comes in tiny frames is kept in one piece."""
    client = Client()
    stream = client.request()
    client.receive(headers(1), (data(1, b"ab") * 500 + data(1, PIECE)) * 2)
    assert len(stream.body) == 5
    assert client.connection.take_body(stream) == (b"ab" * 500 + PIECE) * 2


def test_empty_frames_are_no_body() -> None:
    """6.1: an empty DATA brings no part of a body."""
    client = Client()
    stream = client.request()
    client.receive(headers(1), data(1, b""), frame(DATA, PADDED, 1, b"\1\0"))
    assert not stream.has_body
    client.receive(data(1, b"x"), data(1, b""), data(1, b"", end=True))
    assert client.connection.take_body(stream) == b"x"


def test_complete_stream_gives_nothing_back() -> None:
    """6.9: nothing more comes on a stream that has ended, so its window does not matter."""
    client = Client()
    stream = client.request()
    client.receive(headers(1), *[data(1, PIECE)] * 40, data(1, b"", end=True))
    client.connection.take_body(stream)
    assert updates(client) == []


def test_sending_keeps_to_the_windows() -> None:
    """6.9.1: a body stops at the connection's window and at the stream's, and goes on where the server lets it."""
    client = Client(settings(s4=100_000))
    stream = client.request(POST, end=False)
    client.connection.send_body(stream, bytes(200_000), end_stream=True)

    def size() -> int:
        return sum(len(frame.payload) for frame in client.sent(1_000_000) if frame.kind == DATA)

    assert size() == 65_535
    assert not client.connection.has_data_to_send
    client.receive(window(0, 1_000_000))
    assert client.connection.has_data_to_send
    assert size() == 100_000 - 65_535
    client.receive(window(1, 10))
    assert size() == 10
    client.receive(window(1, 1_000_000))
    assert client.sent(1)[0].flags == 0
    assert size() == 200_000 - 100_010 - 16_384
    assert stream.is_request_complete


def test_settings_change_open_windows() -> None:
    """6.9.2: a new INITIAL_WINDOW_SIZE changes the windows of open streams, also to below 0."""
    client = Client(settings(s4=100))
    one, two = client.request(POST, end=False), client.request(POST, end=False)
    client.connection.send_body(one, bytes(80), end_stream=False)
    client.sent()
    client.receive(settings(s4=30))
    assert (one.send_window, two.send_window) == (-50, 30)
    client.connection.send_body(one, b"abc", end_stream=True)
    client.connection.send_body(two, bytes(40), end_stream=True)
    assert [(frame.stream_id, len(frame.payload)) for frame in client.sent()[1:]] == [(3, 30)]
    client.receive(window(1, 50))
    assert client.sent() == []
    client.receive(window(1, 2), window(3, 100))
    assert client.sent() == [SentFrame(DATA, 0, 1, b"ab"), SentFrame(DATA, END_STREAM, 3, bytes(10))]
    client.receive(settings(s4=30))
    assert one.send_window == 0
    assert client.request(POST, end=False).send_window == 30


def test_turns_and_frame_size() -> None:
    """5.3, 6.5.2: uploads take turns in frames of the size that the server allows, at most 64 KiB."""
    for received, size in ((settings(), 16_384), (settings(s5=20_000), 20_000), (settings(s5=1_000_000), 32_767)):
        client = Client(received)
        streams = [client.request(POST, end=False) for _ in range(2)]
        for stream in streams:
            client.connection.send_body(stream, bytes(size), end_stream=True)
        client.receive(frame(PING, 0, 0, bytes(8)))
        sent = client.sent(1_000_000)
        assert [(frame.kind, frame.stream_id, len(frame.payload)) for frame in sent] == [
            (PING, 0, 8),
            (DATA, 1, size),
            (DATA, 3, size),
        ]


def test_data_is_framed_in_portions() -> None:
    """Only as much of a body is framed at once as is asked for, so that other frames can go in between."""
    client = Client()
    stream = client.request(POST, end=False)
    client.connection.send_body(stream, bytes(65_535), end_stream=True)
    assert [len(frame.payload) for frame in client.sent(20_000)] == [16_384, 16_384]
    assert stream.unsent == 65_535 - 2 * 16_384
    assert client.connection.take_changed() == []
    client.sent()
    assert client.connection.take_changed() == [stream]


def test_wrong_window_updates() -> None:
    """6.9, 6.9.1, 6.9.2: an increment of 0, and a window beyond 2^31-1."""
    for received, code in ((window(1, 0), PROTOCOL_ERROR), (window(1, MAX_WINDOW), FLOW_CONTROL_ERROR)):
        client = Client()
        stream = client.request(POST, end=False)
        assert client.receive(received) == [stream]
        assert stream.failure is not None
        assert (stream.failure.kind, stream.failure.code) == (FailureKind.INVALID_RESPONSE, code)
        assert client.sent()[0] == SentFrame(RST_STREAM, 0, 1, uint32(code))
        assert client.connection.error is None
    for received, code in (
        (window(0, 0), PROTOCOL_ERROR),
        (window(0, MAX_WINDOW), FLOW_CONTROL_ERROR),
        (window(1, MAX_WINDOW - 65_535) + settings(s4=65_536), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, b"abc"), 6),
    ):
        client = Client()
        client.request(POST, end=False)
        client.receive(received)
        assert client.connection.error is not None
        assert client.sent()[-1] == SentFrame(GOAWAY, 0, 0, uint32(0, code))


def test_data_frames_in_a_row() -> None:
    """Frames of one size that arrive together count as by themselves: as progress, and for the length of the body."""
    part = b"x" * 1024
    client = Client()
    stream = client.request()
    client.receive(headers(1, ("content-length", "4096")), *[frame(PRIORITY, 0, 1, bytes(5))] * 4_000)
    client.receive(data(1, part), data(1, part), *[frame(PRIORITY, 0, 1, bytes(5))] * 4_000)
    assert (client.connection.error, stream.failure) == (None, None)
    assert stream.receive_window == STREAM_WINDOW - 2 * len(part)
    client.receive(*[data(1, part)] * 3)
    assert stream.failure is not None
    assert len(client.connection.take_body(stream)) == 4 * len(part)
    client.receive(*[data(1, part)] * 3)  # late
    assert client.connection.error is None
