"""H2Server, frame by frame: what it reports, what it sends, and what a client must not send. Sections of RFC 9113."""

from __future__ import annotations

import pytest
from support.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    SentFrame,
    block,
    data,
    frame,
    frames_in,
    goaway,
    reset,
    settings,
    trailers,
    uint32,
    window,
)
from support.server_events import joined, received_in_any_pieces

from prefect_http._wire.h2.errors import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)
from prefect_http._wire.h2.hpack.decoder import Decoder
from prefect_http.testing._events import (
    BodyReceived,
    Event,
    ProtocolError,
    RequestBegun,
    RequestCancelled,
    RequestEnded,
)
from prefect_http.testing._h2_server import H2Server

DEFAULT_WINDOW = 65_535
START = PREFACE + settings()
BIG = bytes(16_384)


def head(stream: int, *fields: tuple[str, str], method: str = "GET", end: bool = True) -> bytes:
    """Return the head of a request."""
    pseudo = [(":method", method), (":scheme", "https"), (":authority", "a"), (":path", "/b")]
    if method == "CONNECT":
        pseudo = [(":method", method), (":authority", "a:1")]
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block([*pseudo, *fields]))


def begun(stream: int, *fields: tuple[bytes, bytes], method: bytes = b"GET", end: bool = True) -> RequestBegun:
    """Return the event for such a head."""
    return RequestBegun(stream, method, b"/b", fields, b"a", is_last=end)


class Server:
    """A server under test that has sent and received the first SETTINGS."""

    def __init__(self, *received: bytes, max_streams: int | None = None) -> None:
        self.protocol = H2Server(max_concurrent_streams=max_streams)
        self.decoder = Decoder()
        self.receive(START)
        self.protocol.take_output()
        self.receive(*received)

    def receive(self, *received: bytes) -> list[Event]:
        return self.protocol.receive(b"".join(received))

    def sent(self) -> list[SentFrame]:
        return frames_in(self.protocol.take_output())

    def kinds(self) -> list[tuple[int, int, int]]:
        """Return the kinds, flags and streams of the frames that are to be sent."""
        return [sent[:3] for sent in self.sent()]

    def body_sent(self) -> list[tuple[int, int]]:
        """Return the streams and the sizes of the DATA that is to be sent, which has to be all."""
        sent = self.sent()
        assert {each.kind for each in sent} <= {DATA}
        return [(each.stream_id, len(each.payload)) for each in sent]

    def answer(self, stream: int, body: bytes = b"") -> None:
        """Send a whole response."""
        self.protocol.send_head(stream, 200, [], is_last=not body)
        if body:
            self.protocol.send_body(stream, body)
            self.protocol.end(stream)


# --- The beginning


def test_first_settings() -> None:
    """3.4, 6.5.2: the server's first frame is a SETTINGS, which names the limit on streams, and no other setting."""
    assert frames_in(H2Server().take_output()) == [SentFrame(SETTINGS, 0, 0, b"")]
    limited = frames_in(H2Server(max_concurrent_streams=7).take_output())
    assert limited == [SentFrame(SETTINGS, 0, 0, b"\0\3" + uint32(7))]


def test_settings_are_acknowledged() -> None:
    """6.5.3: each SETTINGS of the client is, and an acknowledgement is not."""
    protocol = H2Server()
    protocol.take_output()
    assert protocol.receive(START) == []
    assert frames_in(protocol.take_output()) == [SentFrame(SETTINGS, ACK, 0, b"")]
    assert protocol.receive(frame(SETTINGS, ACK) + settings(s2=1)) == []
    assert frames_in(protocol.take_output()) == [SentFrame(SETTINGS, ACK, 0, b"")]
    assert protocol.take_output() == b""


# --- Requests


def test_requests() -> None:
    """8.1: a request is its head, its body and perhaps trailers, however they are cut."""
    length = (b"content-length", b"3")
    post = begun(1, length, method=b"POST", end=False)
    post_head = head(1, ("content-length", "3"), method="POST", end=False)
    body: list[Event] = [BodyReceived(1, b"abc"), RequestEnded(1)]
    split = frame(HEADERS, END_STREAM, 1, block([(":method", "GET"), (":scheme", "https"), (":authority", "a")]))
    cases: dict[bytes, list[Event]] = {
        b"": [],
        head(1): [begun(1)],
        head(1) + head(5): [begun(1), begun(5)],
        split + frame(CONTINUATION, END_HEADERS, 1, block([(":path", "/b")])): [begun(1)],
        post_head: [post],
        post_head + data(1, b"abc", end=True): [post, *body],
        post_head + data(1, b"ab") + data(1, b"c") + data(1, b"", end=True): [post, *body],
        post_head + data(1, b"abc") + trailers(1, ("a", "b")): [post, *body],
        post_head + frame(DATA, 8 | END_STREAM, 1, b"\x02abc\0\0"): [post, *body],
        post_head + head(3) + data(1, b"abc", end=True): [post, begun(3), *body],
        post_head + data(1, b"ab") + reset(1, CANCEL): [post, BodyReceived(1, b"ab"), RequestCancelled(1)],
        head(1) + reset(1, CANCEL) * 2: [begun(1), RequestCancelled(1)],
        head(3) + window(1, 1) + reset(1, CANCEL): [begun(3)],
        head(1, ("expect", "100-continue"), end=False): [
            begun(1, (b"expect", b"100-continue"), end=False)._replace(expects_continue=True)
        ],
        head(1, ("expect", "100-continue")): [begun(1, (b"expect", b"100-continue"))],
        head(1, method="CONNECT", end=False) + data(1, b"abc"): [
            RequestBegun(1, b"CONNECT", b"a:1", (), b"a:1", is_last=False),
            BodyReceived(1, b"abc"),
        ],
        frame(PRIORITY, 0, 9, bytes(5)) + frame(77, 1, 2, b"?") + head(1): [begun(1)],
        frame(HEADERS, 0x25, 1, bytes(5) + head(1)[9:]): [begun(1)],
    }
    for received, expected in cases.items():
        assert received_in_any_pieces(lambda: H2Server().receive, START + received) == expected


def test_ping() -> None:
    """6.7: a PING is acknowledged with its payload, and an acknowledgement is not."""
    server = Server(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, bytes(8)))
    assert server.sent() == [SentFrame(PING, ACK, 0, b"12345678")]


def test_goaway_of_the_client() -> None:
    """6.8: the client's code is kept, and its requests go on."""
    server = Server()
    assert server.protocol.goaway_code is None
    assert server.receive(goaway(0), goaway(0, 2, b"why"), head(1)) == [begun(1)]
    assert server.protocol.goaway_code == 2


def test_windows_are_given_back() -> None:
    """6.9: what has arrived is given back in halves of the windows; a stream that has ended needs no more."""
    server = Server(head(1, end=False), head(3, end=False))
    assert joined(server.receive(data(1, BIG), data(1, BIG[:-1]))) == [BodyReceived(1, bytes(32_767))]
    assert sorted(server.sent()) == [
        SentFrame(WINDOW_UPDATE, 0, 0, uint32(32_767)),
        SentFrame(WINDOW_UPDATE, 0, 1, uint32(32_767)),
    ]
    server.receive(frame(DATA, 8, 3, b"\x05abc\0\0\0\0\0"), data(3, BIG))
    assert server.sent() == []
    server.receive(data(3, BIG, end=True))
    assert server.sent() == [SentFrame(WINDOW_UPDATE, 0, 0, uint32(9 + 2 * 16_384))]
    server.receive(data(1, BIG), data(1, BIG), data(1, b"", end=True))
    assert server.sent() == [SentFrame(WINDOW_UPDATE, 0, 0, uint32(2 * 16_384))]


def test_a_large_upload() -> None:
    """6.9: a client that keeps to its windows can send any amount."""
    server = Server(head(1, end=False))
    windows, arrived = {0: DEFAULT_WINDOW, 1: DEFAULT_WINDOW}, 0
    for _ in range(50):
        while min(windows.values()) >= len(BIG):
            for each in windows:
                windows[each] -= len(BIG)
            arrived += sum(len(event.data) for event in server.receive(data(1, BIG)) if isinstance(event, BodyReceived))
        for sent in server.sent():
            windows[sent.stream_id] += int.from_bytes(sent.payload)
    assert arrived >= 50 * 32_768


# --- Responses


def response(server: Server, status: int = 200, *, method: str = "GET", is_last: bool = False) -> list[SentFrame]:
    """Send a response to a request of some method, with a body if it can have one."""
    server.receive(head(1, method=method))
    server.protocol.send_head(1, status, [(b"Content-Type", b"x"), (b"Connection", b"close")], is_last=is_last)
    server.protocol.send_body(1, b"abc")
    server.protocol.send_body(1, b"")
    server.protocol.end(1)
    server.protocol.end(1)
    assert not server.protocol.closes_after(1)
    return server.sent()


def test_responses() -> None:
    """8.1: names are in lower case, without the headers of HTTP/1.1; the last frame ends the stream."""
    server = Server()
    first, body = response(server)
    assert first[:3] == (HEADERS, END_HEADERS, 1)
    assert server.decoder.decode(first.payload) == [(b":status", b"200"), (b"content-type", b"x")]
    assert body == SentFrame(DATA, END_STREAM, 1, b"abc")
    for status, method, is_last in [(200, "HEAD", False), (204, "GET", False), (304, "GET", False), (500, "GET", True)]:
        sent = response(Server(), status, method=method, is_last=is_last)
        assert [each[:3] for each in sent] == [(HEADERS, END_HEADERS | END_STREAM, 1)]


def test_informational_responses() -> None:
    """8.1: a 1xx does not end the stream."""
    server = Server(head(1))
    server.protocol.send_head(1, 103, [], is_last=True)
    assert server.kinds() == [(HEADERS, END_HEADERS, 1)]
    server.protocol.send_head(1, 200, [], is_last=True)
    assert server.kinds() == [(HEADERS, END_HEADERS | END_STREAM, 1)]


def test_an_end_of_its_own() -> None:
    """6.1: the end of a body that has been sent is an empty DATA."""
    server = Server(head(1))
    server.protocol.send_head(1, 200, [], is_last=False)
    server.protocol.send_body(1, b"abc")
    assert server.kinds() == [(HEADERS, END_HEADERS, 1), (DATA, 0, 1)]
    server.protocol.end(1)
    server.protocol.end(1)
    assert server.sent() == [SentFrame(DATA, END_STREAM, 1, b"")]


def test_a_large_head() -> None:
    """6.10: a head that is too long for a frame goes on in CONTINUATIONs; the client may allow larger frames."""
    large = [(b"a", b"x" * 40_000)]
    server = Server(head(1), head(3))
    server.protocol.send_head(1, 200, large, is_last=True)
    assert [kind for kind, _, _ in server.kinds()] == [HEADERS, CONTINUATION, CONTINUATION]
    server.receive(settings(s5=50_000))
    server.protocol.send_head(3, 200, large, is_last=False)
    server.protocol.send_body(3, bytes(60_000))
    assert [(kind, stream) for kind, _, stream in server.kinds()] == [(SETTINGS, 0), (HEADERS, 3), (DATA, 3), (DATA, 3)]


def test_the_table_of_the_client() -> None:
    """6.5.2: the client's table for headers may be smaller."""
    server = Server(settings(s1=0), head(1))
    server.sent()
    server.answer(1)
    assert server.sent()[0].payload == b"\x20\x88"


def test_the_window_of_a_stream() -> None:
    """6.9: a body waits until the client's windows allow it, and does not hold up another stream."""
    server = Server(settings(s4=5), head(1), head(3))
    server.sent()
    for stream in (1, 3):
        server.protocol.send_head(stream, 200, [], is_last=False)
        server.protocol.send_body(stream, b"abc")
        server.protocol.send_body(stream, b"defg")
        server.protocol.end(stream)
        assert server.protocol.is_sending(stream)
    assert [each[2:] for each in server.sent() if each.kind == DATA] == [
        (1, b"abc"),
        (3, b"abc"),
        (1, b"de"),
        (3, b"de"),
    ]
    server.receive(window(3, 10))
    assert server.sent() == [SentFrame(DATA, END_STREAM, 3, b"fg")]
    assert (server.protocol.is_sending(1), server.protocol.is_sending(3)) == (True, False)
    server.receive(window(1, 1))
    assert server.sent() == [SentFrame(DATA, 0, 1, b"f")]
    server.receive(settings(s4=6))
    assert server.sent()[1:] == [SentFrame(DATA, END_STREAM, 1, b"g")]


def test_the_window_of_the_connection() -> None:
    """6.9: streams share it, in turns."""
    server = Server(head(1), head(3))
    server.answer(1, bytes(50_000))
    server.answer(3, bytes(50_000))
    sent = [(each.stream_id, len(each.payload)) for each in server.sent() if each.kind == DATA]
    assert sent == [(1, 16_384), (3, 16_384), (1, 16_384), (3, 16_383)]
    assert server.body_sent() == []
    server.receive(window(0, 40_000))
    assert sum(size for _, size in server.body_sent()) == 2 * 50_000 - DEFAULT_WINDOW
    assert not server.protocol.is_sending(1)


def test_a_negative_window() -> None:
    """6.9.2: the client may make the windows so much smaller that nothing is allowed for a while."""
    server = Server(head(1))
    server.answer(1, bytes(70_000))
    server.receive(window(0, 100_000))
    server.sent()
    server.receive(settings(s4=0), window(1, DEFAULT_WINDOW))
    assert server.kinds() == [(SETTINGS, ACK, 0)]
    server.receive(window(1, 10))
    assert server.body_sent() == [(1, 10)]


def test_a_response_before_the_end_of_its_request() -> None:
    """8.1: the rest of the request still arrives."""
    server = Server(head(1, end=False))
    server.answer(1)
    assert server.receive(data(1, b"a"), data(1, b"b", end=True)) == [
        BodyReceived(1, b"a"),
        BodyReceived(1, b"b"),
        RequestEnded(1),
    ]
    server.answer(1, b"once more")
    assert server.kinds() == [(HEADERS, END_HEADERS | END_STREAM, 1)]


def test_nothing_is_sent_on_a_cancelled_stream() -> None:
    """5.1: what is sent on a stream that the client has reset is dropped, also what was queued."""
    server = Server(settings(s4=0), head(1))
    server.answer(1, b"abc")
    server.sent()
    assert server.receive(reset(1, CANCEL), settings(s4=100)) == [RequestCancelled(1)]
    assert not server.protocol.is_sending(1)
    server.answer(1, b"abc")
    server.protocol.end(1)
    server.protocol.reset(1, 2)
    assert server.kinds() == [(SETTINGS, ACK, 0)]


def test_reset() -> None:
    """5.1, 6.4: what the windows allow is sent first; then the stream is unknown, and late frames are ignored."""
    server = Server(settings(s4=5), head(1, end=False))
    server.sent()
    server.protocol.send_head(1, 200, [], is_last=False)
    server.protocol.send_body(1, b"abc")
    server.protocol.send_body(1, b"def")
    server.protocol.reset(1, 2)
    assert server.sent()[1:] == [
        SentFrame(DATA, 0, 1, b"abc"),
        SentFrame(DATA, 0, 1, b"de"),
        SentFrame(RST_STREAM, 0, 1, uint32(2)),
    ]
    late = data(1, b"a"), window(1, 1), trailers(1, ("a", "b")), reset(1, CANCEL)
    assert server.receive(*late) == []
    server.answer(1)
    assert server.sent() == []


def test_reset_after_the_response() -> None:
    """8.1: a stream whose request and response are complete is not reset; one that still uploads is."""
    server = Server(head(1), head(3, end=False))
    for stream in (1, 3):
        server.protocol.send_head(stream, 200, [], is_last=False)
        server.protocol.send_body(stream, b"abc")
        server.protocol.end(stream)
        server.protocol.reset(stream, 0)
    assert [(kind, stream) for kind, _, stream in server.kinds()] == [
        *[(HEADERS, 1), (DATA, 1)],
        *[(HEADERS, 3), (DATA, 3), (RST_STREAM, 3)],
    ]


def test_goaway() -> None:
    """6.8: streams up to the number go on; those above are ignored, whether they are open or come later."""
    server = Server(head(1, end=False), head(3, end=False))
    server.protocol.goaway(1)
    server.answer(3)
    assert server.sent() == [SentFrame(GOAWAY, 0, 0, uint32(1, 0))]
    assert server.receive(data(3, b"a"), head(5, end=False), data(5, b"a"), data(1, b"b", end=True)) == [
        BodyReceived(1, b"b"),
        RequestEnded(1),
    ]
    server.answer(1)
    assert server.kinds() == [(HEADERS, END_HEADERS | END_STREAM, 1)]
    server.protocol.goaway(1, 11)
    assert server.sent() == [SentFrame(GOAWAY, 0, 0, uint32(1, 11))]


def test_goaway_before_the_last_requests() -> None:
    """6.8: requests that come after a GOAWAY are answered up to its number."""
    server = Server(head(1))
    server.protocol.goaway(3)
    assert server.receive(head(3), head(5)) == [begun(3)]


def test_too_many_streams() -> None:
    """5.1.2: more streams than the limit are refused, until the client has acknowledged it."""
    server = Server(max_streams=1)
    assert server.receive(head(1), head(3, end=False), data(3, b"late")) == [begun(1)]
    assert server.sent() == [SentFrame(RST_STREAM, 0, 3, uint32(REFUSED_STREAM))]
    server.answer(1)
    assert server.receive(frame(SETTINGS, ACK), head(5, end=False)) == [begun(5, end=False)]
    server.receive(data(5, b"", end=True))
    server.answer(5, b"abc")
    server.sent()
    assert server.receive(head(7)) == [begun(7)]
    with pytest.raises(ProtocolError, match="more streams than MAX_CONCURRENT_STREAMS"):
        server.receive(head(9))


# --- Faults

POST = head(1, end=False)
FAULTS: dict[str, tuple[bytes, int, str]] = {
    "4.2: a large frame": (frame(DATA, 0, 1, bytes(16_385)), FRAME_SIZE_ERROR, "the client sent a frame of more than"),
    "4.3: no block": (frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR, "cannot be decoded"),
    "5.1: DATA, idle": (data(1, b"a"), PROTOCOL_ERROR, "does not exist"),
    "5.1: DATA of the connection": (data(0, b"a"), PROTOCOL_ERROR, "does not exist"),
    "5.1: RST_STREAM, idle": (reset(1, 0), PROTOCOL_ERROR, "does not exist"),
    "5.1: RST_STREAM of the server": (head(3) + reset(2, 0), PROTOCOL_ERROR, "does not exist"),
    "5.1: WINDOW_UPDATE, idle": (window(1, 1), PROTOCOL_ERROR, "does not exist"),
    "5.1: DATA after the end": (head(1) + data(1, b"a"), STREAM_CLOSED, "DATA for a stream that it had ended"),
    "5.1: DATA after the body": (POST + data(1, b"a", end=True) * 2, STREAM_CLOSED, "that it had ended"),
    "5.1: DATA after a reset": (POST + reset(1, 0) + data(1, b"a"), STREAM_CLOSED, "that it had ended"),
    "5.1: HEADERS after the end": (head(1) + head(1), STREAM_CLOSED, "HEADERS for a stream that it had ended"),
    "5.1.1: a lower number": (head(3) + head(1), STREAM_CLOSED, "HEADERS for a stream that it had ended"),
    "5.1.1: an even number": (head(2), PROTOCOL_ERROR, "even number"),
    "6.2: HEADERS of the connection": (head(0), STREAM_CLOSED, "that it had ended"),
    "6.3: PRIORITY of the connection": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR, "PRIORITY for the connection"),
    "6.3: PRIORITY of a wrong size": (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR, "PRIORITY of the wrong size"),
    "6.4: RST_STREAM of a wrong size": (head(1) + frame(RST_STREAM, 0, 1), FRAME_SIZE_ERROR, "wrong size"),
    "6.5: SETTINGS of a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR, "SETTINGS for a stream"),
    "6.5: SETTINGS of a wrong size": (frame(SETTINGS, 0, 0, b"a"), FRAME_SIZE_ERROR, "the client sent a SETTINGS"),
    "6.5: a long acknowledgement": (frame(SETTINGS, ACK, 0, b"a"), FRAME_SIZE_ERROR, "acknowledgement"),
    "6.5.2: push": (settings(s2=2), PROTOCOL_ERROR, "ENABLE_PUSH"),
    "6.5.2: a frame size": (settings(s5=1), PROTOCOL_ERROR, "the client set a frame size"),
    "6.5.2: a window": (settings(s4=2**31), FLOW_CONTROL_ERROR, "the client set a window"),
    "6.6: PUSH_PROMISE": (frame(PUSH_PROMISE, 0, 1, bytes(4)), PROTOCOL_ERROR, "PUSH_PROMISE"),
    "6.7: PING of a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR, "PING for a stream"),
    "6.7: PING of a wrong size": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR, "PING of the wrong size"),
    "6.8: GOAWAY of a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR, "GOAWAY for a stream"),
    "6.8: GOAWAY of a wrong size": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR, "GOAWAY of the wrong size"),
    "6.9: WINDOW_UPDATE of 0": (window(0, 0), PROTOCOL_ERROR, "WINDOW_UPDATE of 0"),
    "6.9: WINDOW_UPDATE of a wrong size": (frame(WINDOW_UPDATE), FRAME_SIZE_ERROR, "wrong size"),
    "6.9.1: a large window of the connection": (window(0, 2**31 - 1), FLOW_CONTROL_ERROR, "window too large"),
    "6.9.1: a large window of a stream": (POST + window(1, 2**31 - 1), FLOW_CONTROL_ERROR, "window too large"),
    "6.9.2: large windows": (POST + window(1, 2**30) + settings(s4=2**31 - 1), FLOW_CONTROL_ERROR, "too large"),
    "8.1: trailers without an end": (POST + trailers(1, ("a", "b"), end=False), PROTOCOL_ERROR, "do not end"),
    "8.1: invalid trailers": (POST + trailers(1, (":path", "/")), PROTOCOL_ERROR, "invalid header"),
    "8.1.1: an invalid head": (head(1, ("connection", "x")), PROTOCOL_ERROR, "HTTP/2 does not have"),
    "8.1.1: a short body": (
        head(1, ("content-length", "2"), end=False) + data(1, b"a", end=True),
        PROTOCOL_ERROR,
        "not as long as its Content-Length",
    ),
    "8.1.1: a long body": (
        head(1, ("content-length", "2"), end=False) + data(1, b"abc", end=True),
        PROTOCOL_ERROR,
        "not as long as its Content-Length",
    ),
    "8.1.1: no body": (head(1, ("content-length", "2")), PROTOCOL_ERROR, "not as long as its Content-Length"),
}


def test_faults() -> None:
    """5.4.1: what a client must not send is an error that says what it is, and a GOAWAY with its code."""
    for name, (received, code, message) in FAULTS.items():
        server = Server()
        with pytest.raises(ProtocolError, match=message):
            server.receive(received)
        last = server.sent()[-1]
        assert (last.kind, int.from_bytes(last.payload[4:])) == (GOAWAY, code), name


def test_faults_at_the_beginning() -> None:
    """3.4: a client begins with the preface and a SETTINGS."""
    for received, message in {
        b"GET / HTTP/1.1\r\n": "does not speak HTTP/2: it did not begin with the preface",
        b"PRI * HTTP/1": "the preface",
        PREFACE + frame(PING, 0, 0, bytes(8)): "did not begin with SETTINGS",
    }.items():
        with pytest.raises(ProtocolError, match=message):
            H2Server().receive(received)


def test_the_goaway_for_a_fault() -> None:
    """6.8: it names the last request that was received, and nothing else is sent."""
    server = Server(head(1), head(3, end=False))
    server.protocol.send_head(1, 200, [], is_last=False)
    server.sent()
    server.protocol.send_body(1, b"abc")
    server.receive(*[data(3, BIG)] * 3)
    with pytest.raises(ProtocolError):
        server.receive(window(0, 0))
    assert server.sent() == [SentFrame(GOAWAY, 0, 0, uint32(3, PROTOCOL_ERROR))]


def test_too_large_headers() -> None:
    """10.5.1: a block may be small, and the headers in it large."""
    server = Server()
    indexed = b"\x82\x87\x84\x01\x01a\x40\x01b\x7f\xe0\x1e" + b"x" * 4063
    received = frame(HEADERS, END_HEADERS | END_STREAM, 1, indexed + b"\xbe" * 300)
    with pytest.raises(ProtocolError, match="headers that are too large"):
        server.receive(received)
    assert server.sent()[-1].payload == uint32(0, ENHANCE_YOUR_CALM)


def test_too_much_data() -> None:
    """6.9.1: the client must keep to the windows of a stream and of the connection, until more is allowed."""
    for first, second, message in [(1, 1, "the connection's window"), (1, 3, "the connection's window")]:
        server = Server(head(1, end=False), head(3, end=False))
        server.receive(*[data(first, BIG)] * 3, data(first, BIG[:-1]))
        with pytest.raises(ProtocolError, match=message):
            server.receive(data(second, b"a"))
        assert server.sent()[-1].payload[4:] == uint32(FLOW_CONTROL_ERROR)
    server = Server(head(1, end=False), head(3, end=False))
    server.receive(data(1, BIG), data(3, BIG), data(3, BIG))
    server.sent()  # the window of stream 1 is not given back: half of it is left
    server.receive(data(1, BIG), data(1, BIG), data(1, BIG[:-1]))
    with pytest.raises(ProtocolError, match="the stream's window"):
        server.receive(data(1, b"a"))


def test_new_windows() -> None:
    """6.9.1: as much as the output has allowed may be sent again."""
    server = Server(head(1, end=False))
    for _ in range(3):
        server.receive(*[data(1, BIG)] * 3, data(1, BIG[:-1]))
        assert server.sent() == [
            SentFrame(WINDOW_UPDATE, 0, 0, uint32(DEFAULT_WINDOW)),
            SentFrame(WINDOW_UPDATE, 0, 1, uint32(DEFAULT_WINDOW)),
        ]
