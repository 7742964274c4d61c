"""H2Connection: the life of a connection and of its streams."""

from __future__ import annotations

import pytest
from support.h2_frames import (
    ACK,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEAD,
    HEADERS,
    PING,
    POST,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    SentFrame,
    data,
    frame,
    frames_in,
    goaway,
    headers,
    reset,
    settings,
    trailers,
    uint32,
)

from prefect_http._wire.h2 import errors
from prefect_http._wire.h2.connection import H2Connection
from prefect_http._wire.h2.errors import CANCEL, FailureKind, RequestTooLarge, StreamFailure, error_name
from prefect_http._wire.h2.resets import MAX_RESETS
from prefect_http._wire.h2.stream import Stream

NEVER, MAYBE = FailureKind.NEVER_PROCESSED, FailureKind.MAY_HAVE_BEEN_PROCESSED
INVALID, HTTP_1_1 = FailureKind.INVALID_RESPONSE, FailureKind.HTTP_1_1_REQUIRED


def kind_of(stream: Stream) -> FailureKind | None:
    """Return what a stream's failure means."""
    return None if stream.failure is None else stream.failure.kind


# --- The beginning


def test_first_flight() -> None:
    """3.4: preface, SETTINGS, WINDOW_UPDATE and the first request are one write; nothing waits for the server."""
    connection = H2Connection()
    assert connection.has_data_to_send
    assert connection.free_streams == 100
    connection.send_request(GET, end_stream=True, wake=lambda: None)
    sent = connection.data_to_send()
    assert sent.startswith(PREFACE)
    assert [frame.kind for frame in frames_in(sent)] == [SETTINGS, WINDOW_UPDATE, HEADERS]
    assert not connection.has_data_to_send
    assert connection.data_to_send() == b""


def test_settings_are_acknowledged() -> None:
    """6.5.3: each SETTINGS is acknowledged; an acknowledgement of ours is not."""
    client = Client()
    client.receive(settings(s3=5), settings(s3=7))
    assert client.sent() == [SentFrame(SETTINGS, ACK, 0, b"")] * 2
    assert client.connection.free_streams == 7
    client.receive(frame(SETTINGS, ACK))
    assert client.sent() == []


def test_not_http2() -> None:
    """3.4: what is not HTTP/2 is an invalid response, which a repetition does not mend."""
    for received in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", settings(s2=1)):
        client = Client(b"")
        stream = client.request()
        assert client.receive(received) == [stream]
        assert kind_of(stream) is INVALID
        assert client.connection.error is not None


# --- A request and its response


def test_response() -> None:
    """8.1: the head, the body and the trailers of a response are there as they arrive."""
    client = Client()
    stream = client.request(POST, end=False)
    assert (stream.id, stream.status, stream.headers, stream.trailers) == (1, 0, [], None)
    assert not stream.has_body
    assert client.receive(headers(1, ("a", "b"), status="201")) == [stream]
    assert (stream.status, stream.headers, stream.is_complete) == (201, [(b"a", b"b")], False)
    assert client.receive(data(1, b"abc"), data(1, b"def"), data(1, b"ghi")) == [stream]
    assert stream.has_body
    assert client.connection.take_body(stream) == b"abcdefghi"
    assert client.connection.take_body(stream) == b""
    assert client.receive(trailers(1, ("c", "d"))) == [stream]
    assert stream.trailers == [(b"c", b"d")]
    assert (stream.is_complete, stream.is_finished, stream.is_request_complete) == (True, True, False)
    assert client.connection.open_streams == 1
    client.connection.send_body(stream, b"", end_stream=True)
    assert (stream.is_request_complete, client.connection.open_streams) == (True, 0)
    assert client.sent() == [SentFrame(DATA, END_STREAM, 1, b"")]


def test_two_responses_at_once() -> None:
    """Responses may come in any order; each stream changes once for all that came for it."""
    client = Client()
    one, two = client.request(), client.request()
    assert (one.id, two.id) == (1, 3)
    changed = client.receive(headers(3), headers(1, end=True), data(3, b"x"), data(3, b"", end=True))
    assert changed == [two, one]
    for stream in changed:
        stream.wake()
    assert client.woken == [two, one]
    assert client.connection.take_changed() == []
    assert client.connection.take_body(two) == b"x"
    assert client.connection.open_streams == 0


def test_informational_responses() -> None:
    """8.1, RFC 8297: informational responses come before the response, and do not end it."""
    client = Client()
    stream = client.request()
    assert stream.informational is None
    client.receive(headers(1, status="100"), headers(1, ("link", "x"), status="103"), headers(1, end=True))
    assert stream.informational == [(100, []), (103, [(b"link", b"x")])]
    assert (stream.status, stream.is_complete) == (200, True)


def test_responses_without_body() -> None:
    """8.1.1, RFC 9110 section 6.4.1: a Content-Length without DATA is right where there is no body."""
    length = ("content-length", "5")
    for fields, status in ((HEAD, "200"), (GET, "304"), (GET, "204")):
        client = Client()
        stream = client.request(fields)
        client.receive(headers(1, length, status=status, end=True))
        assert (stream.is_complete, stream.failure) == (True, None)
        other = client.request(fields)
        client.receive(headers(3, status=status), data(3, b"", end=True))
        assert (other.is_complete, other.failure) == (True, None)


def test_connect() -> None:
    """8.5: the Content-Length of a successful CONNECT means nothing; that of another answer does."""
    client = Client()
    stream, refused = client.request(CONNECT, end=False), client.request(CONNECT, end=False)
    client.receive(headers(1, ("content-length", "1")), data(1, b"abc"))
    assert (client.connection.take_body(stream), stream.failure) == (b"abc", None)
    client.receive(headers(3, ("content-length", "1"), status="407"), data(3, b"abc"))
    assert kind_of(refused) is INVALID


def test_padded_body() -> None:
    """6.1: padding is not part of the body."""
    client = Client()
    stream = client.request()
    client.receive(headers(1, ("content-length", "2")), frame(DATA, 9, 1, b"\x02ab\0\0"))
    assert client.connection.take_body(stream) == b"ab"
    assert stream.is_complete


def test_request_body() -> None:
    """8.1: the body follows the head; the stream changes when a part has been framed."""
    client = Client()
    stream = client.request(POST, end=False, is_sent=False)
    client.connection.send_body(stream, b"abc", end_stream=False)
    assert stream.unsent == 3
    assert [(frame.kind, frame.flags) for frame in client.sent()] == [(HEADERS, END_HEADERS), (DATA, 0)]
    assert client.connection.take_changed() == [stream]
    assert (stream.unsent, stream.is_request_complete) == (0, False)
    client.connection.send_body(stream, b"def", end_stream=True)
    assert client.sent() == [SentFrame(DATA, END_STREAM, 1, b"def")]
    assert client.connection.take_changed() == [stream]
    assert stream.is_request_complete


def test_request_body_ends_later() -> None:
    """6.1: the end may be said while a part is still queued, or alone; alone it needs no window."""
    client = Client(settings(s4=2))
    stream, other = client.request(POST, end=False), client.request(POST, end=False)
    client.connection.send_body(stream, b"abc", end_stream=False)
    client.connection.send_body(stream, b"", end_stream=False)
    client.connection.send_body(stream, b"", end_stream=True)
    client.connection.send_body(other, b"", end_stream=True)
    assert client.connection.take_changed() == [other]
    assert client.sent() == [SentFrame(DATA, END_STREAM, 3, b""), SentFrame(DATA, 0, 1, b"ab")]
    client.receive(settings(s4=3))
    assert client.sent()[1:] == [SentFrame(DATA, END_STREAM, 1, b"c")]


def test_early_response() -> None:
    """8.1: a complete response and a RST_STREAM behind it are a success, and end the upload."""
    for code in (errors.NO_ERROR, errors.CANCEL):
        client = Client()
        stream = client.request(POST, end=False)
        client.connection.send_body(stream, bytes(100_000), end_stream=True)
        client.sent()
        client.connection.take_changed()
        assert client.receive(headers(1, status="413"), data(1, b"x", end=True), reset(1, code)) == [stream]
        assert (stream.is_complete, stream.failure, stream.is_request_complete) == (True, None, True)
        assert client.connection.take_body(stream) == b"x"
        assert (stream.unsent, client.connection.open_streams) == (0, 0)
        client.connection.send_body(stream, b"more", end_stream=True)
        assert client.sent() == []


def test_response_before_the_end_of_the_request() -> None:
    """5.1: a stream whose response is complete goes on until the request is, and then is gone."""
    client = Client(settings(s4=2))
    stream = client.request(POST, end=False)
    client.connection.send_body(stream, b"abcd", end_stream=True)
    client.sent()
    client.receive(headers(1, end=True), settings(s4=4))
    assert (stream.is_complete, client.connection.open_streams) == (True, 1)
    client.sent()
    assert client.connection.open_streams == 0


def test_large_head() -> None:
    """4.2, 6.10: a head larger than a frame is cut, at the size that the server allows."""
    big = [*GET, (b"x", b"\x7f" * 40_000)]
    for received, limit in ((settings(), 16_384), (settings(s5=20_000), 20_000)):
        client = Client(received)
        client.request(big, is_sent=False)
        sent = client.sent()
        assert [frame.kind for frame in sent] == [HEADERS] + [CONTINUATION] * (len(sent) - 1)
        assert {len(frame.payload) for frame in sent[:-1]} == {limit}
        assert client.decoder.decode(b"".join(frame.payload for frame in sent)) == big


def test_head_larger_than_the_server_accepts() -> None:
    """6.5.2: a head beyond the server's SETTINGS_MAX_HEADER_LIST_SIZE is refused here, and changes nothing."""
    size = sum(len(name) + len(value) + 32 for name, value in GET)
    client = Client(settings(s6=size - 1))
    with pytest.raises(RequestTooLarge, match=str(size - 1)):
        client.request()
    assert (client.connection.open_streams, client.sent()) == (0, [])
    client.receive(settings(s6=size))
    assert client.request().id == 1


def test_table_size() -> None:
    """RFC 7541 section 4.2: the server's table size is kept to, at most our own limit."""
    for size in (0, 100, 4096, 2**32 - 1):
        client = Client(settings(s1=size))
        for _ in range(3):
            client.request([*GET, (b"x", b"y")], is_sent=False)
            assert client.decoder.decode(client.sent()[0].payload) == [*GET, (b"x", b"y")]


# --- How many streams


def test_free_streams() -> None:
    """5.1.2: 100 until the server has said how many; then as it says, up to 1,000, even below what is open."""
    cases = [
        (b"", 100),
        (settings(), 1000),
        (settings(s3=3), 3),
        (settings(s3=2**32 - 1), 1000),
        (settings(s3=0), 0),
        (settings(s3=3) + settings(s4=9), 3),
        (settings(s4=9) + settings(s3=3), 3),
    ]
    for received, expected in cases:
        connection = Client(received).connection
        assert (connection.free_streams, connection.has_settings) == (expected, received != b"")
    client = Client(settings(s3=2))
    client.request()
    client.request()
    assert client.connection.free_streams == 0
    client.receive(settings(s3=1))
    assert (client.connection.free_streams, client.connection.open_streams) == (0, 2)
    client.receive(headers(1, end=True))
    assert client.connection.free_streams == 0
    client.receive(headers(3, end=True))
    assert client.connection.free_streams == 1
    client.receive(settings(s3=5))
    assert client.connection.free_streams == 5


def test_numbers_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.1.1: a connection whose numbers are used up takes no new streams."""
    monkeypatch.setattr("prefect_http._wire.h2.open_streams.MAX_STREAM_ID", 3)
    client = Client()
    client.request()
    assert client.connection.free_streams == 999
    assert client.request().id == 3
    assert (client.connection.is_going_away, client.connection.free_streams) == (True, 0)
    client.receive(headers(1, end=True), headers(3, end=True))
    assert client.connection.is_drained


# --- GOAWAY


def test_goaway() -> None:
    """6.8: streams above the number were never processed; the others go on, and then the connection is drained."""
    client = Client()
    one, two = client.request(), client.request(POST, end=False)
    client.connection.send_body(two, bytes(10), end_stream=False)
    assert client.receive(goaway(1)) == [two]
    assert two.failure == StreamFailure(NEVER, "the server ended the connection with GOAWAY (NO_ERROR)", 0)
    assert two.is_request_complete
    assert (client.connection.is_going_away, client.connection.free_streams) == (True, 0)
    assert (client.connection.is_drained, client.connection.error) == (False, None)
    assert client.sent() == []
    assert client.receive(headers(1), data(1, b"x", end=True)) == [one]
    assert (client.connection.take_body(one), one.is_complete, client.connection.is_drained) == (b"x", True, True)


def test_goaway_in_two_steps() -> None:
    """6.8: the highest number comes first and ends nothing; the real one follows. A number never rises again."""
    client = Client()
    one, two, three = client.request(), client.request(), client.request()
    assert client.receive(goaway(2**31 - 1)) == []
    assert (client.connection.is_going_away, client.connection.open_streams) == (True, 3)
    assert client.receive(headers(1, end=True), goaway(3, debug=b"why")) == [one, three]
    assert kind_of(three) is NEVER
    assert client.receive(goaway(5)) == []
    client.receive(headers(3, end=True))
    assert (two.is_complete, client.connection.is_drained) == (True, True)


def test_goaway_with_an_error() -> None:
    """6.8: after a GOAWAY with an error, what ends with the connection names the error, which is not its cause."""
    for code, addition in ((errors.ENHANCE_YOUR_CALM, ", after a GOAWAY with ENHANCE_YOUR_CALM"), (0, "")):
        client = Client()
        one, two = client.request(), client.request()
        client.receive(goaway(1, code))
        assert kind_of(two) is NEVER
        client.connection.close("the server closed the connection")
        assert client.connection.take_changed() == [one]
        assert one.failure == StreamFailure(MAYBE, f"the server closed the connection{addition}", None)


def test_goaway_http_1_1_required() -> None:
    """6.8, 7: HTTP_1_1_REQUIRED sends what was not processed to HTTP/1.1."""
    client = Client()
    stream = client.request()
    client.receive(goaway(0, errors.HTTP_1_1_REQUIRED))
    assert kind_of(stream) is HTTP_1_1


def test_goaway_that_lies() -> None:
    """A stream that has a part of its response was processed, whatever GOAWAY says; a complete response stays valid."""
    client = Client()
    begun, complete = client.request(), client.request(POST, end=False)
    client.receive(headers(1), headers(3, end=True), goaway(0))
    assert kind_of(begun) is MAYBE
    assert (complete.is_complete, complete.failure, complete.is_request_complete) == (True, None, True)


def test_own_goaway() -> None:
    """6.8: the client says GOAWAY before it closes the connection; not after the end."""
    client = Client()
    client.connection.go_away()
    assert client.sent() == [SentFrame(GOAWAY, 0, 0, uint32(0, 0))]
    assert client.connection.is_drained
    client.connection.close("over")
    client.connection.go_away()
    assert client.sent() == []


# --- The server resets a stream


def test_reset() -> None:
    """7, 8.7: what a RST_STREAM means depends on its code, and on whether a part of the response has arrived."""
    begin, hint = headers(1), headers(1, status="103")
    cases = [
        (b"", errors.REFUSED_STREAM, NEVER),
        (b"", errors.HTTP_1_1_REQUIRED, HTTP_1_1),
        (b"", errors.NO_ERROR, MAYBE),
        (b"", errors.CANCEL, MAYBE),
        (b"", errors.INTERNAL_ERROR, MAYBE),
        (b"", 12345, MAYBE),
        (begin, errors.REFUSED_STREAM, MAYBE),
        (begin, errors.HTTP_1_1_REQUIRED, MAYBE),
        (begin, errors.NO_ERROR, MAYBE),
        (hint, errors.REFUSED_STREAM, MAYBE),
    ]
    for before, code, kind in cases:
        client = Client()
        stream = client.request(POST, end=False)
        assert client.receive(before, reset(1, code)) == [stream]
        assert stream.failure == StreamFailure(kind, f"the server reset the stream with {error_name(code)}", code)
        assert (stream.is_request_complete, stream.is_finished, client.connection.open_streams) == (True, True, 0)
        assert client.sent() == []
        assert client.receive(reset(1, code)) == []


def test_reset_leaves_what_arrived() -> None:
    """What arrived before a reset can still be read, and gives no window back."""
    client = Client()
    stream = client.request()
    client.receive(headers(1), data(1, b"abc"), reset(1, 2))
    assert (stream.status, client.connection.take_body(stream)) == (200, b"abc")
    assert client.sent() == []


def test_error_names() -> None:
    """7: error codes have names, and unknown ones a number."""
    names = {name: code for name, code in vars(errors).items() if isinstance(code, int)}
    assert len(names) == 11
    for name, code in names.items():
        assert error_name(code) == name
    assert (error_name(4), error_name(10), error_name(14)) == ("SETTINGS_TIMEOUT", "CONNECT_ERROR", "error code 0xe")


# --- The client cancels a stream


def test_cancel() -> None:
    """5.4.2: one RST_STREAM, once; late frames are decoded and counted, but change nothing and are not answered."""
    client = Client()
    stream = client.request(POST, end=False)
    other = client.request()
    client.connection.send_body(stream, bytes(10), end_stream=True)
    client.receive(headers(1), data(1, b"abc"))
    client.connection.cancel(stream)
    sent = client.sent()
    assert [frame.kind for frame in sent] == [RST_STREAM, PING]
    assert sent[0] == SentFrame(RST_STREAM, 0, 1, uint32(CANCEL))
    client.connection.cancel(stream)
    # This head adds a field to the table, which the next one uses (RFC 7541 section 6.2.1).
    late = frame(HEADERS, END_HEADERS, 1, b"\x88\x40\x01a\x01b")
    assert client.receive(late, data(1, b"late"), frame(WINDOW_UPDATE, 0, 1, uint32(5)), reset(1, 0)) == []
    assert client.receive(frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x88\xbe")) == [other]
    assert other.headers == [(b"a", b"b")]
    assert client.sent() == []
    assert (stream.status, stream.is_finished, client.connection.take_body(stream)) == (200, False, b"")
    assert client.connection.open_streams == 0


def test_cancelled_stream_is_not_woken() -> None:
    """A stream that has changed and is cancelled then is not among those that have changed."""
    client = Client()
    one, two = client.request(), client.request()
    client.connection.receive(headers(1) + headers(3))
    client.connection.cancel(one)
    assert client.connection.take_changed() == [two]


def test_cancel_what_is_complete() -> None:
    """A stream that is complete on both sides is not reset; one whose upload goes on is."""
    client = Client()
    stream = client.request()
    client.receive(headers(1, end=True))
    client.connection.cancel(stream)
    assert client.sent() == []
    upload = client.request(POST, end=False)
    client.receive(headers(3, end=True))
    client.connection.cancel(upload)
    assert [frame.kind for frame in client.sent()] == [RST_STREAM, PING]
    assert upload.is_complete


def test_cancelled_streams_count() -> None:
    """CVE-2023-44487: a cancelled stream counts against the limit until the PING behind its reset is answered."""
    client = Client(settings(s3=3))
    streams = [client.request() for _ in range(3)]
    client.connection.cancel(streams[0])
    [_, ping] = client.sent()
    assert (client.connection.free_streams, client.connection.is_ping_pending) == (0, True)
    client.connection.cancel(streams[1])
    client.connection.ping()
    assert [frame.kind for frame in client.sent()] == [RST_STREAM]
    client.receive(frame(PING, ACK, 0, ping.payload))
    assert client.connection.free_streams == 1
    [second] = client.sent()
    client.receive(frame(PING, ACK, 0, second.payload))
    assert (client.connection.free_streams, client.connection.is_ping_pending) == (2, False)


def test_too_many_cancelled_streams() -> None:
    """A connection takes no new streams after 1,000 cancelled ones; the open ones go on."""
    client = Client()
    kept = client.request()
    for _ in range(MAX_RESETS):
        assert not client.connection.is_going_away
        client.connection.cancel(client.request())
        for sent in client.sent():
            if sent.kind == PING:
                client.receive(frame(PING, ACK, 0, sent.payload))
    assert (client.connection.is_going_away, client.connection.error) == (True, None)
    client.receive(headers(1, end=True))
    assert (kept.is_complete, client.connection.is_drained) == (True, True)


# --- PING


def test_server_ping() -> None:
    """6.7: a PING is answered before any body that waits."""
    client = Client()
    stream = client.request(POST, end=False)
    client.connection.send_body(stream, b"abc", end_stream=True)
    client.receive(frame(PING, 0, 0, b"12345678"))
    assert client.sent() == [SentFrame(PING, ACK, 0, b"12345678"), SentFrame(DATA, END_STREAM, 1, b"abc")]


def test_own_ping() -> None:
    """6.7: only one PING is under way; it is answered by its own payload."""
    client = Client()
    client.connection.ping()
    client.connection.ping()
    [ping] = client.sent()
    assert client.connection.is_ping_pending
    client.receive(frame(PING, ACK, 0, b"xxxxxxxx"))
    assert client.connection.is_ping_pending
    client.receive(frame(PING, ACK, 0, ping.payload))
    assert not client.connection.is_ping_pending
    assert client.sent() == []


# --- The end


def test_close() -> None:
    """5.4.1: streams end with the connection: as never processed if their head was never sent."""
    client = Client()
    sent, complete = client.request(), client.request()
    unsent = client.request(is_sent=False)
    client.connection.ping()
    client.receive(headers(3), data(3, b"x", end=True))
    client.connection.close("gone")
    assert sent.failure == StreamFailure(MAYBE, "gone", None)
    assert unsent.failure == StreamFailure(NEVER, "gone", None)
    assert (complete.failure, client.connection.take_body(complete)) == (None, b"x")
    assert client.connection.take_changed() == [sent, unsent]
    assert (client.connection.error, client.connection.free_streams, client.connection.is_drained) == ("gone", 0, True)
    assert not client.connection.has_data_to_send
    client.connection.close("again")
    client.connection.ping()
    assert client.receive(headers(1)) == []
    assert (client.connection.error, client.sent()) == ("gone", [])


def test_close_during_an_upload() -> None:
    """A response that is complete stays valid if the connection ends before the request is."""
    client = Client()
    stream = client.request(POST, end=False)
    client.receive(headers(1, end=True))
    client.connection.close("gone")
    assert (stream.is_complete, stream.failure, stream.is_request_complete) == (True, None, True)


def test_close_before_settings() -> None:
    """A connection that ends before the server's SETTINGS may still have processed the request."""
    client = Client(b"")
    stream = client.request()
    client.connection.close("gone")
    assert kind_of(stream) is MAYBE
