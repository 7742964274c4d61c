"""What servers send wrongly: errors of one stream, and errors of the connection. RFC 9113 section 5.4."""

from __future__ import annotations

from support.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GET,
    GOAWAY,
    HEAD,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    SentFrame,
    block,
    data,
    frame,
    goaway,
    headers,
    reset,
    settings,
    trailers,
    uint32,
    window,
)

from prefect_http._wire.h2.errors import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    FailureKind,
)
from prefect_http._wire.h2.flood_guard import LATE_FRAMES, MAX_IDLE_FRAMES, MAX_UNSENT_ANSWERS
from prefect_http._wire.h2.response import MAX_INFORMATIONAL

BAD_STREAMS: dict[str, tuple[bytes, bytes, int]] = {}


def bad(name: str, *received: bytes, before: bytes = b"", code: int = PROTOCOL_ERROR) -> None:
    """Add a case: what arrives, what arrived before it, and the code that is to be sent."""
    BAD_STREAMS[name] = before, b"".join(received), code


LENGTH_2 = headers(1, ("content-length", "2"))
bad("8.1: DATA before the head", data(1, b"x"))
bad("8.1: DATA behind an informational response", data(1, b"x", end=True), before=headers(1, status="103"))
bad("8.1: an informational response at the end", headers(1, status="100", end=True))
bad("8.1: trailers that do not end", trailers(1, ("a", "b"), end=False), before=headers(1))
bad("8.1: a second head", headers(1), before=headers(1))
bad("8.1: a second head at the end", headers(1, end=True), before=headers(1))
bad("8.1: no status", trailers(1, ("a", "b")))
bad("8.1: no fields", trailers(1))
bad("8.1.1: a body that is too long", data(1, b"x"), before=LENGTH_2 + data(1, b"ab"))
bad("8.1.1: a body that is too long at once", data(1, b"abc", end=True), before=LENGTH_2)
bad("8.1.1: a body that is too short", data(1, b"", end=True), before=LENGTH_2 + data(1, b"a"))
bad("8.1.1: no body", headers(1, ("content-length", "2"), end=True))
bad("8.1.1: trailers behind a short body", trailers(1, ("a", "b")), before=LENGTH_2)
bad("8.1.1: two lengths", headers(1, ("content-length", "2"), ("content-length", "3")))
bad("RFC 9110 6.4.1: a body of a 204", data(1, b"x"), before=headers(1, status="204"))
bad("RFC 9110 6.4.1: a body of a 304", data(1, b"x", end=True), before=headers(1, status="304"))
bad("8.2.1: upper case", headers(1, ("A", "b")))
bad("8.2.1: a line break", headers(1, ("a", "b\r\nc: d")))
bad("8.2.1: in trailers", trailers(1, ("a", "b\0")), before=headers(1))
bad("8.2.1: in an informational response", headers(1, ("A", "b"), status="103"))
bad("8.2.2: Connection", headers(1, ("connection", "close")))
bad("8.2.2: Transfer-Encoding", headers(1, ("transfer-encoding", "chunked")))
bad("8.3: a pseudo-header field behind others", headers(1, ("a", "b"), (":status", "200")))
bad("8.3: a pseudo-header field in trailers", trailers(1, (":status", "200")), before=headers(1))
bad("8.3.2: a status that is no number", headers(1, status="abc"))
bad("8.6: a 101", headers(1, status="101"))
bad("10.5: informational responses without an end", headers(1, status="103"), before=headers(1, status="103") * 100)
bad("10.5.1: too many fields", headers(1, *[("a", "b")] * 256))
# A field of 3,000 bytes that is added to the table, and thirty references to it.
bad("10.5.1: a bomb", frame(HEADERS, END_HEADERS, 1, b"\x88\x40\x01a\x7f\xb9\x16" + b"b" * 3000 + b"\xbe" * 30))
bad("6.3: PRIORITY", frame(PRIORITY, 0, 1, b"abcd"), code=FRAME_SIZE_ERROR)
bad("6.9: WINDOW_UPDATE of 0", window(1, 0))
bad("6.9.1: WINDOW_UPDATE", window(1, 2**31 - 1), code=FLOW_CONTROL_ERROR)


def test_stream_errors() -> None:
    """5.4.2: one RST_STREAM with the right code; the response is invalid; the other streams go on."""
    for name, (before, received, code) in BAD_STREAMS.items():
        client = Client()
        stream, other = client.request(POST, end=False), client.request()
        client.receive(before)
        assert stream.failure is None, name
        assert client.receive(received) == [stream], name
        assert stream.failure is not None, name
        assert (stream.failure.kind, stream.failure.code) == (FailureKind.INVALID_RESPONSE, code), name
        assert (stream.is_complete, stream.is_request_complete) == (False, True), name
        assert [frame for frame in client.sent() if frame.kind != PING] == [SentFrame(RST_STREAM, 0, 1, uint32(code))]
        assert client.receive(received.replace(received, data(1, b"late")), headers(1), reset(1, 0)) == [], name
        assert client.receive(headers(3), data(3, b"x", end=True)) == [other], name
        assert (other.is_complete, client.connection.take_body(other), client.connection.error) == (True, b"x", None)
        assert client.connection.open_streams == 0, name
        assert client.sent() == [], name


def test_body_of_a_response_to_head() -> None:
    """RFC 9110 section 9.3.2: a response to HEAD has no body."""
    client = Client()
    stream = client.request(HEAD)
    client.receive(headers(1), data(1, b"x"))
    assert stream.failure is not None


def test_body_before_an_error_stays() -> None:
    """What arrived of a body before an error in it can be read."""
    client = Client()
    stream = client.request()
    client.receive(LENGTH_2, data(1, b"a"), data(1, b"", end=True))
    assert client.connection.take_body(stream) == b"a"
    assert stream.failure is not None
    assert "1 byte is missing" in stream.failure.message


def test_frames_behind_the_end_of_a_response() -> None:
    """5.1: while the request goes on, they reset the stream with STREAM_CLOSED; the response stays valid."""
    for received in (data(1, b"x"), headers(1), trailers(1)):
        client = Client()
        stream = client.request(POST, end=False)
        client.receive(headers(1, end=True))
        assert client.receive(received) == [stream]
        assert (stream.is_complete, stream.failure, stream.is_request_complete) == (True, None, True)
        assert client.sent()[0] == SentFrame(RST_STREAM, 0, 1, uint32(STREAM_CLOSED))


CONNECTION_FAULTS = {
    "4.2: too large a frame": (bytes.fromhex("004001 00 00 00000001"), FRAME_SIZE_ERROR),
    "4.3: compression": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "4.3: compression of a late head": (reset(1, 0) + frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
    "5.1: DATA of an idle stream": (data(5, b"x"), PROTOCOL_ERROR),
    "5.1: HEADERS of an idle stream": (headers(5), PROTOCOL_ERROR),
    "5.1: RST_STREAM of an idle stream": (reset(5, 0), PROTOCOL_ERROR),
    "5.1: WINDOW_UPDATE of an idle stream": (window(5, 1), PROTOCOL_ERROR),
    "5.1.1: a stream of the server": (headers(2), PROTOCOL_ERROR),
    "6.1: DATA of the connection": (data(0, b"x"), PROTOCOL_ERROR),
    "6.1: padding": (frame(DATA, PADDED, 1, b"\x02a"), PROTOCOL_ERROR),
    "6.2: HEADERS of the connection": (headers(0), PROTOCOL_ERROR),
    "6.3: PRIORITY of the connection": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "6.4: RST_STREAM of the connection": (reset(0, 0), PROTOCOL_ERROR),
    "6.4: RST_STREAM of the wrong size": (frame(RST_STREAM, 0, 1, b"abc"), FRAME_SIZE_ERROR),
    "6.5: SETTINGS of a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "6.5: SETTINGS acknowledgement with content": (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "6.5: SETTINGS of the wrong size": (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "6.5.2: ENABLE_PUSH": (settings(s2=1), PROTOCOL_ERROR),
    "6.5.2: INITIAL_WINDOW_SIZE": (settings(s4=2**31), FLOW_CONTROL_ERROR),
    "6.6: PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, uint32(2)), PROTOCOL_ERROR),
    "6.7: PING of a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "6.7: PING of the wrong size": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "6.8: GOAWAY of a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "6.8: GOAWAY of the wrong size": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "6.9: WINDOW_UPDATE of 0": (window(0, 0), PROTOCOL_ERROR),
    "6.9: WINDOW_UPDATE of the wrong size": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "6.9.1: WINDOW_UPDATE": (window(0, 2**31 - 1), FLOW_CONTROL_ERROR),
    "6.10: CONTINUATION alone": (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
}
FLOODS = {
    "10.5: PING": (frame(PING, 0, 0, bytes(8)) * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: SETTINGS": (settings(s4=1) * (MAX_IDLE_FRAMES // 10 + 1), ENHANCE_YOUR_CALM),
    "10.5: SETTINGS acknowledgements": (frame(SETTINGS, ACK) * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: PRIORITY": (frame(PRIORITY, 0, 1, bytes(5)) * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: empty DATA": (headers(1) + data(1, b"") * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: DATA of padding": (
        headers(1) + frame(DATA, PADDED, 1, b"\0") * (MAX_IDLE_FRAMES + 1),
        ENHANCE_YOUR_CALM,
    ),
    "10.5: WINDOW_UPDATE": (window(1, 1) * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: unknown frames": (frame(99) * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: GOAWAY": (goaway(9) * (MAX_IDLE_FRAMES + 1), ENHANCE_YOUR_CALM),
    "10.5: RST_STREAM": (reset(1, 0) * (MAX_IDLE_FRAMES + 2), ENHANCE_YOUR_CALM),
    "10.5: late DATA": (reset(1, 0) + data(1, b"x") * (MAX_IDLE_FRAMES + 2), ENHANCE_YOUR_CALM),
    "10.5: late HEADERS": (reset(1, 0) + headers(1) * (MAX_IDLE_FRAMES + 2), ENHANCE_YOUR_CALM),
    # They are decoded, since the table is shared, so that they cost more than other frames.
    "10.5: large late HEADERS": (
        reset(1, 0) + frame(HEADERS, END_HEADERS, 1, b"\0\1a\x7f\x81\x7d" + bytes(16_128)) * 200,
        ENHANCE_YOUR_CALM,
    ),
    "10.5: CONTINUATION": (frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 200, ENHANCE_YOUR_CALM),
}


def test_connection_errors() -> None:
    """5.4.1: one GOAWAY with the right code, and nothing behind it; all streams fail, however their frames are cut."""
    for name, (received, code) in (CONNECTION_FAULTS | FLOODS).items():
        client = Client()
        stream = client.request(POST, end=False)
        client.receive(received)
        assert client.connection.error is not None, name
        assert (client.connection.is_drained, client.connection.free_streams) == (True, 0), name
        assert client.sent() == [SentFrame(GOAWAY, 0, 0, uint32(0, code))], name
        assert stream.failure is not None, name
        assert stream.failure.kind is not FailureKind.NEVER_PROCESSED, name
        assert client.receive(received, headers(1)) == [], name
        assert client.sent() == [], name


def test_unsent_requests_of_a_broken_connection() -> None:
    """A request whose head was not sent before the connection broke is not sent any more: it was never processed."""
    for name, (received, code) in CONNECTION_FAULTS.items():
        if "idle" in name:
            continue
        client = Client()
        client.request(POST, end=False)
        unsent = client.request(is_sent=False)
        client.receive(received)
        assert unsent.failure is not None, name
        assert unsent.failure.kind is FailureKind.NEVER_PROCESSED, name
        assert client.sent() == [SentFrame(GOAWAY, 0, 0, uint32(0, code))], name


def test_guilty_stream() -> None:
    """The stream whose frame is wrong has an invalid response; the others may have been processed."""
    client = Client()
    guilty, other = client.request(), client.request()
    client.receive(frame(PUSH_PROMISE, END_HEADERS, 1, uint32(2)))
    assert guilty.failure is not None
    assert other.failure is not None
    assert guilty.failure.kind is FailureKind.INVALID_RESPONSE
    assert other.failure.kind is FailureKind.MAY_HAVE_BEEN_PROCESSED


def test_complete_response_survives_a_connection_error() -> None:
    """A response that is complete stays valid, whatever comes behind it."""
    client = Client()
    stream = client.request()
    client.receive(headers(1), data(1, b"x", end=True), frame(CONTINUATION))
    assert (stream.is_complete, stream.failure, client.connection.take_body(stream)) == (True, None, b"x")


def test_harmless_frames() -> None:
    """5.5, 6.3, 6.5.2: unknown frames, flags and settings are ignored, and PRIORITY is."""
    client = Client()
    stream = client.request()
    client.receive(
        frame(99, 255, 1, b"abc"),
        frame(10, 0, 0, bytes(4)),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(PRIORITY, 0, 99, b"abc"),
        settings(s9=1),
        frame(HEADERS, 0xD4, 1, block([(":status", "200")])),
        frame(DATA, 0xF1, 1, b"x"),
    )
    assert (client.connection.error, stream.is_complete, client.connection.take_body(stream)) == (None, True, b"x")


def test_progress_forgives() -> None:
    """10.5: frames without progress are counted from the last one that made some, in either direction."""
    pings = frame(PING, 0, 0, bytes(8)) * (MAX_IDLE_FRAMES - 20)
    client = Client()
    client.request()
    for progress in (headers(1), data(1, b"x"), data(1, b"y")):
        client.receive(pings, progress)
        client.sent()
    upload = client.request(POST, end=False)
    for size in (1000, 1):
        client.receive(pings)
        client.connection.send_body(upload, bytes(size), end_stream=False)
        client.sent()
    client.receive(pings)
    assert client.connection.error is None


def test_a_body_that_is_asked_for_byte_by_byte() -> None:
    """10.5, CVE-2019-9511: windows of one byte are no progress."""
    client = Client(settings(s4=0))
    stream = client.request(POST, end=False)
    client.connection.send_body(stream, bytes(100_000), end_stream=True)
    for _ in range(MAX_IDLE_FRAMES + 1):
        client.receive(window(1, 1))
        client.sent()
    assert client.connection.error is not None


def test_answers_that_are_not_read() -> None:
    """10.5: answers that cannot be sent do not fill the memory, though responses arrive."""
    client = Client()
    client.request()
    client.receive(headers(1))
    for _ in range(MAX_UNSENT_ANSWERS // 100):
        client.receive(frame(PING, 0, 0, bytes(8)) * 100, data(1, b"x"))
    assert client.connection.error is None
    client.receive(frame(PING, 0, 0, bytes(8)))
    assert client.sent() == [SentFrame(GOAWAY, 0, 0, uint32(0, ENHANCE_YOUR_CALM))]


def test_late_frames_of_many_streams() -> None:
    """5.1: what is under way when many downloads are cancelled at once is no attack."""
    client = Client()
    streams = [client.request() for _ in range(20)]
    client.receive(*[headers(stream.id) for stream in streams])
    for stream in streams:
        client.connection.cancel(stream)
    other = client.request()
    client.receive(headers(other.id), data(other.id, b"x"))  # what is brought forward does not change that
    for stream in streams:
        client.receive(data(stream.id, bytes(1024)) * LATE_FRAMES)
    assert client.connection.error is None


def test_many_informational_responses() -> None:
    """As many as the limit allows are accepted."""
    client = Client()
    stream = client.request(GET)
    client.receive(headers(1, status="103") * MAX_INFORMATIONAL, headers(1, end=True))
    assert stream.is_complete
