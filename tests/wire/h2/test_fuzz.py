"""Random frames, broken in random places: whatever comes, the connection ends each stream in one defined way."""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.h2_frames import (
    GET,
    GOAWAY,
    HEAD,
    PING,
    POST,
    RST_STREAM,
    Client,
    block,
    data,
    frame,
    frames_in,
    goaway,
    headers,
    reset,
    settings,
    trailers,
    window,
)
from support.pieces import cut

from prefect_http._wire.h2.errors import FailureKind
from prefect_http._wire.h2.settings import STREAM_WINDOW
from prefect_http._wire.h2.stream import Headers, Stream

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = hypothesis_settings(
    max_examples=_EXAMPLES or 40,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)

REQUESTS = (GET, HEAD, POST, GET)


class Outcome(NamedTuple):
    """How a stream has ended: as its attributes say, and its body."""

    status: int
    headers: Headers
    trailers: Headers | None
    body: bytes
    is_complete: bool
    kind: FailureKind | None
    code: int | None


def random_frames(source: random.Random) -> list[bytes]:
    """Return frames that a server could send, in an order that it perhaps must not."""
    frames = [settings(), headers(1, ("content-length", "3")), data(1, b"abc", end=True)]
    for _ in range(source.randrange(12)):
        stream_id = source.choice((1, 3, 3, 5, 5, 7, 7, 9, 2, 0))
        frames.append(
            source.choice(
                (
                    headers(stream_id),
                    headers(stream_id, ("a", "b"), ("content-length", "3")),
                    headers(stream_id, end=True),
                    headers(stream_id, status="103"),
                    headers(stream_id, status="204"),
                    trailers(stream_id, ("c", "d")),
                    data(stream_id, source.randbytes(3)),
                    data(stream_id, source.randbytes(3), end=True),
                    data(stream_id, b"", end=True),
                    data(stream_id, bytes(16_384)) * source.choice((1, 65)),
                    frame(0, 8 + source.randrange(2), stream_id, b"\x02abcd\0\0"),
                    frame(1, 0, stream_id, block([(":status", "200")])) + frame(9, 4, stream_id, block([("a", "b")])),
                    frame(1, 4, stream_id, b"\x88\x40\x01a\x01b\xbe"),
                    reset(stream_id, source.randrange(15)),
                    window(stream_id, source.choice((0, 1, 2**31 - 1))),
                    window(0, 1_000),
                    settings(s4=source.choice((0, 10, 100_000))),
                    settings(s1=source.randrange(5000), s3=source.randrange(5), s5=20_000),
                    frame(4, 1),
                    frame(6, source.randrange(2), 0, source.randbytes(8)),
                    frame(2, 0, stream_id, bytes(5)),
                    frame(source.randrange(10, 256), source.randrange(256), stream_id, b"?"),
                    goaway(source.choice((0, 5, 2**31 - 1)), source.randrange(15)),
                )
            )
        )
    return frames


def broken(source: random.Random, received: bytes) -> bytes:
    """Return the bytes with something wrong in them."""
    for _ in range(source.randrange(4)):
        at = source.randrange(len(received) + 1)
        width = source.choice((0, 1, 1, 2, 9, 30))
        match source.randrange(5):
            case 0:
                received = received[:at] + received[at + width :]
            case 1:
                received = received[:at] + source.randbytes(width) + received[at:]
            case 2:
                received = received[:at] + source.randbytes(1) + received[at + 1 :]
            case 3:
                received = received[:at] + received[at : at + width] * 2 + received[at + width :]
            case _:
                start = source.randrange(min(len(received), 200) + 1)
                received = received[:start] + source.randbytes(1) + received[start + 1 :]
    return received


def outcomes(parts: list[bytes], *, ends: bool) -> list[Outcome]:
    """Feed a connection with four open streams, and return what becomes of them."""
    client = Client(b"")
    connection = client.connection
    streams = [client.request(fields, end=fields is not POST) for fields in REQUESTS]
    connection.send_body(streams[2], bytes(100_000), end_stream=True)
    for part in parts:
        connection.receive(part)
        check(connection.take_changed(), streams)
    if ends:
        connection.close("the end")
        check(connection.take_changed(), streams)
        assert all(stream.is_finished for stream in streams)
    sent = frames_in(connection.data_to_send(1_000_000))
    resets = [frame.stream_id for frame in sent if frame.kind == RST_STREAM]
    assert len(resets) == len(set(resets))
    assert len(sent) < 10_000
    if connection.error is None:
        open_streams = [stream for stream in streams if not (stream.is_finished and stream.is_request_complete)]
        assert connection.open_streams == len(open_streams)
        assert connection.send_window >= 0
    elif not ends:
        assert [frame.kind for frame in sent] == [GOAWAY]
        assert all(stream.is_finished for stream in streams)
    found: list[Outcome] = []
    for stream in streams:
        assert sum(map(len, stream.body)) <= STREAM_WINDOW
        assert not (stream.is_complete and stream.failure)
        kind, _, code = stream.failure or (None, "", None)
        has_body, body = stream.has_body, connection.take_body(stream)
        assert has_body == bool(body)
        found.append(Outcome(stream.status, stream.headers, stream.trailers, body, stream.is_complete, kind, code))
    assert {frame.kind for frame in frames_in(connection.data_to_send())} <= {8, RST_STREAM, PING}
    return found


def check(changed: list[Stream], streams: list[Stream]) -> None:
    """Check that each stream that has changed is named once, and is one of these."""
    assert len(changed) == len({stream.id for stream in changed})
    assert all(any(stream is one for one in streams) for stream in changed)


@FUZZ
@given(seed=st.integers(0, 2**32))
def test_random_frames(seed: int) -> None:
    """Whatever arrives, nothing is raised, and each stream ends at most once; it does not matter how it is cut."""
    source = random.Random(seed)
    received = broken(source, b"".join(random_frames(source)))
    ends = source.random() < 0.5
    assert outcomes([received], ends=ends) == outcomes(cut(source, received), ends=ends)


@FUZZ
@given(garbage=st.binary(max_size=200), with_settings=st.booleans())
def test_garbage(garbage: bytes, with_settings: bool) -> None:
    """Bytes that are no frames at all do no harm either."""
    outcomes([settings() + garbage if with_settings else garbage], ends=True)
