"""Frames as a server writes them, valid or not, and a client's connection to feed with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prefect_http._wire.h2.connection import H2Connection
from prefect_http._wire.h2.frames import FrameReader
from prefect_http._wire.h2.hpack.decoder import Decoder
from prefect_http._wire.h2.request_fields import request_fields
from prefect_http._wire.h2.stream import Stream

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
HAS_PRIORITY = 32

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = request_fields(b"GET", b"https", b"/", [(b"Host", b"a")])
POST = request_fields(b"POST", b"https", b"/", [(b"Host", b"a")])
HEAD = request_fields(b"HEAD", b"https", b"/", [(b"Host", b"a")])
CONNECT = request_fields(b"CONNECT", b"https", b"a:1", [(b"Host", b"a")])


class SentFrame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame, whatever is wrong with it."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream_id.to_bytes(4) + payload


def uint32(*numbers: int) -> bytes:
    """Return numbers of four bytes."""
    return b"".join(number.to_bytes(4) for number in numbers)


def settings(**values: int) -> bytes:
    """Return a SETTINGS; the names are those of the numbers, such as ``s3=100``."""
    return frame(SETTINGS, payload=b"".join(int(name[1:]).to_bytes(2) + uint32(values[name]) for name in values))


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return a block of fields that changes no table (RFC 7541 section 6.2.2); each is shorter than 127 bytes."""
    strings = [text.encode("latin-1") for field in fields for text in field]
    return b"".join((b"" if at % 2 else b"\0") + bytes([len(string)]) + string for at, string in enumerate(strings))


def headers(stream_id: int, *fields: tuple[str, str], status: str = "200", end: bool = False) -> bytes:
    """Return the head of a response."""
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, flags, stream_id, block([(":status", status), *fields]))


def trailers(stream_id: int, *fields: tuple[str, str], end: bool = True) -> bytes:
    """Return fields without a status."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream_id, block(fields))


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    """Return a DATA."""
    return frame(DATA, END_STREAM if end else 0, stream_id, payload)


def reset(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, uint32(code))


def goaway(last_id: int, code: int = 0, debug: bytes = b"") -> bytes:
    """Return a GOAWAY."""
    return frame(GOAWAY, payload=uint32(last_id, code) + debug)


def window(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream_id, uint32(increment))


def frames_in(sent: bytes) -> list[SentFrame]:
    """Return the frames that a client has sent."""
    found: list[SentFrame] = []
    sent = sent.removeprefix(PREFACE)
    while sent:
        length, kind, flags, stream_id = int.from_bytes(sent[:3]), sent[3], sent[4], int.from_bytes(sent[5:9])
        assert len(sent) >= 9 + length
        found.append(SentFrame(kind, flags, stream_id, sent[9 : 9 + length]))
        sent = sent[9 + length :]
    return found


class Client:
    """A client's connection under test.

    Args:
        received: what the server sends first; its SETTINGS are among it unless it is b"".
    """

    def __init__(self, received: bytes | None = None) -> None:
        self.connection = H2Connection()
        self.woken: list[Stream] = []
        self.decoder = Decoder()
        self.connection.data_to_send()
        self.connection.receive(settings() if received is None else received)
        self.connection.data_to_send()

    def request(self, fields: list[tuple[bytes, bytes]] = GET, *, end: bool = True, is_sent: bool = True) -> Stream:
        """Send a request."""
        stream = self.connection.send_request(fields, end_stream=end, wake=lambda: self.woken.append(stream))
        if is_sent:
            self.connection.data_to_send()
        return stream

    def receive(self, *received: bytes) -> list[Stream]:
        """Receive, and return the streams that have changed."""
        self.connection.receive(b"".join(received))
        return self.connection.take_changed()

    def sent(self, max_body: int = 64 * 1024) -> list[SentFrame]:
        """Return the frames that are to be sent."""
        return frames_in(self.connection.data_to_send(max_body))


def read_frames(parts: Iterable[bytes]) -> list[tuple[int, int, int, bytes, int]]:
    """Return the frames that a reader finds behind the SETTINGS of a server."""
    reader = FrameReader()
    assert len(list(reader.feed(settings()))) == 1
    return [found for part in parts for found in reader.feed(part)]
