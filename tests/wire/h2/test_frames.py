"""Frames: written as the RFC says, and found in bytes that are cut anywhere."""

from __future__ import annotations

import pytest
from support.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    SETTINGS,
    SentFrame,
    data,
    frame,
    frames_in,
    read_frames,
    settings,
    uint32,
)
from support.responses import bytewise

from prefect_http._wire.h2.errors import ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, PROTOCOL_ERROR, ConnectionFault
from prefect_http._wire.h2.frames import (
    DATA_RUN,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_PIECES,
    MAX_FRAME_BYTES,
    FrameReader,
    frame_head,
    goaway,
    headers_frames,
    rst_stream,
    window_update,
)

BIG = bytes(MAX_FRAME_BYTES)


def test_written_frames() -> None:
    """4.1, 6.4, 6.8, 6.9: frames are written as the RFC says."""
    cases = {
        frame_head(0x012345, 6, 7, 0x01020304): "012345 06 07 01020304",
        rst_stream(5, 8): "000004 03 00 00000005 00000008",
        window_update(0, 70_000): "000004 08 00 00000000 00011170",
        goaway(11): "000008 07 00 00000000 00000000 0000000b",
    }
    for written, expected in cases.items():
        assert written == bytes.fromhex(expected)


@pytest.mark.parametrize("end", [True, False])
def test_written_headers(end: bool) -> None:
    """6.2, 6.10: a block that is too long for a frame goes on in CONTINUATIONs; the first frame ends the stream."""
    flags = END_STREAM if end else 0
    for size, kinds in {0: 1, 10: 1, 11: 2, 20: 2, 21: 3}.items():
        block = bytes(range(size))
        sent = frames_in(headers_frames(3, block, end_stream=end, max_frame=10))
        assert b"".join(piece.payload for piece in sent) == block
        assert [piece.kind for piece in sent] == [HEADERS] + [CONTINUATION] * (kinds - 1)
        expected = [flags] + [0] * (kinds - 1)
        expected[-1] |= END_HEADERS
        assert [piece.flags for piece in sent] == expected
        assert {piece.stream_id for piece in sent} == {3}


def test_read_frames() -> None:
    """4.1: frames are found however they are cut; the reserved bit is ignored; padding and priority are removed."""
    cases = [
        (data(1, b"abc"), (DATA, 0, 1, b"abc", 0)),
        (data(1, b"", end=True), (DATA, END_STREAM, 1, b"", 0)),
        (data(1, BIG), (DATA, 0, 1, BIG, 0)),
        (frame(PING, 0, 0x8000_0001, b"x"), (PING, 0, 1, b"x", 0)),
        (frame(DATA, PADDED, 1, b"\x02abc\0\0"), (DATA, PADDED, 1, b"abc", 3)),
        (frame(DATA, PADDED, 1, b"\x00"), (DATA, PADDED, 1, b"", 1)),
        (frame(DATA, HAS_PRIORITY, 1, b"abcdef"), (DATA, HAS_PRIORITY, 1, b"abcdef", 0)),
        (frame(HEADERS, END_HEADERS, 1, b"abc"), (HEADERS, END_HEADERS, 1, b"abc", 0)),
        (frame(HEADERS, 0x2C, 1, b"\x01wwwwwab\0"), (HEADERS, 0x2C, 1, b"ab", 7)),
        (frame(HEADERS, 0x24, 1, b"wwwwwab"), (HEADERS, 0x24, 1, b"ab", 5)),
        (frame(250, 99, 7, b"abc"), (250, 99, 7, b"abc", 0)),
        (
            frame(HEADERS, END_STREAM, 1, b"ab") + frame(CONTINUATION, 0, 1, b"") + frame(CONTINUATION, 4, 1, b"cd"),
            (HEADERS, END_STREAM, 1, b"abcd", 0),
        ),
    ]
    for written, expected in cases:
        assert read_frames([written]) == [expected]
        if len(written) < 100:
            assert read_frames(bytewise(written)) == [expected]
    whole = b"".join(written for written, _ in cases)
    expected_all = [expected for _, expected in cases]
    assert read_frames([whole]) == expected_all
    for size in (7, 9, 1000, 16_384, 16_400):
        assert read_frames([whole[at : at + size] for at in range(0, len(whole), size)]) == expected_all


def test_reserved_bit_of_the_first_frame() -> None:
    """4.1: it is ignored, as that of any other frame."""
    assert list(FrameReader().feed(frame(SETTINGS, 0, 0x8000_0000))) == [(SETTINGS, 0, 0, b"", 0)]


def test_a_cut_frame_is_copied_once() -> None:
    """However a large frame is cut, its bytes are not copied for each cut."""
    reader = FrameReader()
    list(reader.feed(settings()))
    written = data(1, BIG)
    for byte in bytewise(written[:-1]):
        assert list(reader.feed(byte)) == []
    assert len(list(reader.feed(written[-1:]))) == 1


FAULTS = {
    "3.4: HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n", PROTOCOL_ERROR),
    "3.4: SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", PROTOCOL_ERROR),
    "3.4: another frame first": (frame(PING, payload=bytes(8)), PROTOCOL_ERROR),
    "3.4: an acknowledgement first": (frame(SETTINGS, 1), PROTOCOL_ERROR),
    "4.2: too large": (settings() + bytes.fromhex("004001 00 00 00000001"), FRAME_SIZE_ERROR),
    "6.1: padding beyond the payload": (settings() + frame(DATA, PADDED, 1, b"\x03ab"), PROTOCOL_ERROR),
    "6.1: no padding length": (settings() + frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
    "6.2: no priority": (settings() + frame(HEADERS, 0x24, 1, b"abcd"), FRAME_SIZE_ERROR),
    "6.2: padding beyond the priority": (settings() + frame(HEADERS, 0x2C, 1, b"\x01wwwww"), PROTOCOL_ERROR),
    "6.2: HEADERS of the connection": (settings() + frame(HEADERS, 0, 0, b"a") + frame(PING), PROTOCOL_ERROR),
    "6.10: CONTINUATION alone": (settings() + frame(CONTINUATION, 4, 1), PROTOCOL_ERROR),
    "6.10: another frame between": (settings() + frame(HEADERS, 0, 1) + frame(PING), PROTOCOL_ERROR),
    "6.10: another stream": (settings() + frame(HEADERS, 0, 1) + frame(CONTINUATION, 4, 3), PROTOCOL_ERROR),
    "6.10: another HEADERS": (settings() + frame(HEADERS, 0, 1) + frame(HEADERS, 4, 1), PROTOCOL_ERROR),
    "10.5: pieces without an end": (
        settings() + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * MAX_BLOCK_PIECES,
        ENHANCE_YOUR_CALM,
    ),
    "10.5: bytes without an end": (
        settings() + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, BIG) * (MAX_BLOCK_BYTES // len(BIG) + 1),
        ENHANCE_YOUR_CALM,
    ),
}


def test_faults() -> None:
    """4.2, 6: what breaks the framing is an error of the connection, however it is cut."""
    for name, (written, code) in FAULTS.items():
        pieces = [written[at : at + 4096] for at in range(0, len(written), 4096)]
        for parts in ([written], pieces, [*bytewise(written[:100]), written[100:]]):
            reader = FrameReader()
            with pytest.raises(ConnectionFault) as caught:
                [found for part in parts for found in reader.feed(part)]
            assert caught.value.code == code, name


def test_a_large_block() -> None:
    """10.5: as many bytes and pieces as the limits allow are accepted."""
    written = frame(HEADERS, 0, 1, BIG) + frame(CONTINUATION, 0, 1, BIG) * 6 + frame(CONTINUATION, 4, 1, BIG)
    assert len(read_frames([written])[0][3]) == MAX_BLOCK_BYTES
    pieces = frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * (MAX_BLOCK_PIECES - 2) + frame(CONTINUATION, 4, 1, b"x")
    assert read_frames([pieces])[0][3] == b"x"


def test_frames_before_a_fault() -> None:
    """What came before a fault is still read."""
    found: list[bytes] = []
    reader = FrameReader()
    with pytest.raises(ConnectionFault):
        for _, _, _, payload, _ in reader.feed(settings() + data(1, b"abc") + frame(CONTINUATION, 4, 1, uint32(1))):
            found.append(payload)
    assert found == [b"", b"abc"]
    assert SentFrame(DATA, 0, 1, b"abc") == frames_in(data(1, b"abc"))[0]


def test_runs_of_data() -> None:
    """DATA frames of one size and stream, without flags, leave as one run; whatever differs ends it."""
    part = b"x" * 1024
    for frames, expected in (
        ([data(1, part)] * 3, [(1, [part] * 3)]),
        ([data(1, part), data(1, part), data(1, part, end=True)], [(1, [part] * 2), (1, part)]),
        ([data(1, part), data(3, part), data(3, part)], [(1, part), (3, [part] * 2)]),
        ([data(1, part), data(1, part + b"y"), data(1, part)], [(1, part), (1, part + b"y"), (1, part)]),
        ([data(1, part[1:])] * 2, [(1, part[1:])] * 2),
    ):
        reader = FrameReader()
        list(reader.feed(settings()))
        found = [
            (stream_id, reader.run if kind == DATA_RUN else payload)
            for kind, _, stream_id, payload, _ in reader.feed(b"".join(frames) + b"\0")
        ]
        assert found == expected
        assert reader.run == []
