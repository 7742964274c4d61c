"""Requests broken in random places: the servers in memory raise nothing but ProtocolError, however they are cut."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.h2_frames import PREFACE, block, data, frame, goaway, reset, settings, trailers, window
from support.pieces import cut
from support.server_events import joined

from prefect_http.testing._events import Event, ProtocolError, ServerProtocol
from prefect_http.testing._h1_server import H1Server
from prefect_http.testing._h2_server import H2Server

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = hypothesis_settings(
    max_examples=_EXAMPLES or 20,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)

REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nA: b\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
)
PSEUDO = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")]


def random_frames(source: random.Random) -> bytes:
    """Return frames that a client could send, in an order that it perhaps must not."""
    frames, last = [PREFACE, settings()], -1
    for _ in range(source.randrange(12)):
        if last < 0 or source.random() < 0.4:
            last += 2
            head = frame(1, source.choice((0, 0, 0, 1)), last, block(PSEUDO))
            frames.append(head + frame(9, 4, last, block([("a", "b")])))
        stream = last if source.random() < 0.9 else source.randrange(10)
        frames.append(
            source.choice(
                (
                    b"",
                    frame(1, source.choice((4, 5)), stream, block(PSEUDO)),
                    data(stream, b"abc"),
                    data(stream, b"abc", end=source.random() < 0.5),
                    data(stream, bytes(16_384)),
                    trailers(stream, ("a", "b")),
                    reset(stream, 8),
                    window(stream, source.choice((1, 2**31 - 1))),
                    settings(s4=source.choice((0, 10, 100_000)), s1=100),
                    frame(6, source.randrange(2), 0, bytes(8)),
                    frame(source.randrange(10, 256), 0, stream, b"?"),
                    goaway(0),
                )
            )
        )
    return b"".join(frames)


def broken(source: random.Random, received: bytes) -> bytes:
    """Return the bytes with something wrong in them."""
    for _ in range(source.randrange(3)):
        at, width = source.randrange(len(received) + 1), source.choice((0, 1, 1, 2, 9))
        middle = source.choice((b"", source.randbytes(width), received[at : at + width] * 2))
        received = received[:at] + middle + received[at + width :]
    return received


def outcome(server: ServerProtocol, pieces: list[bytes]) -> list[Event] | None:
    """Return what a server reports; None: the client broke the protocol."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += server.receive(piece)
    except ProtocolError:
        assert isinstance(server.take_output(), bytes)
        return None
    return joined(events)


@FUZZ
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("new", [H1Server, H2Server])
def test_broken_requests(new: Callable[[], ServerProtocol], seed: int) -> None:
    """It does not matter how they are cut."""
    source = random.Random(seed)
    if new is H1Server:
        received = b"".join(source.choices(REQUESTS, k=source.randrange(1, 4)))
    else:
        received = random_frames(source)
    received = broken(source, received)
    assert outcome(new(), [received]) == outcome(new(), cut(source, received))
