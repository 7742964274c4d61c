"""Parsing server-sent events: what the standard says, whatever way the stream is cut."""

from __future__ import annotations

import random
import re
import tracemalloc
from collections.abc import Iterable
from typing import Any

import httpx_sse
import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st
from support.pieces import cut
from support.rows import each_row
from support.steps import steps

from prefect_http import ResponseTooLarge, ServerSentEvent
from prefect_http._streams.sse_parser import EventParser

LIMIT = 1 << 20
BOM = "\ufeff".encode()
NO_LINE_ENDS = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"  # but for str.splitlines()


def new_parser(max_event_bytes: int = LIMIT) -> EventParser:
    """Return a parser."""
    return EventParser(max_event_bytes)


def parse(*pieces: bytes, parser: EventParser | None = None) -> list[ServerSentEvent]:
    """Return the events of a stream that arrives in pieces."""
    parser = parser or new_parser()
    return [event for piece in pieces for event in parser.feed(piece)]


def by_the_book(stream: bytes) -> tuple[list[ServerSentEvent], str, int | None]:
    """Return the events, the last event ID and the reconnection time, step by step as the standard has it.

    The only step that is added is the field ``retry`` of an event.
    """
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _ = re.split("\r\n|\r|\n", text)  # what has no line end behind it is discarded
    data = event_type = event_id = last_event_id = ""
    retry: int | None = None
    own_retry: int | None = None
    events: list[ServerSentEvent] = []
    for line in lines:
        if line == "":
            last_event_id = event_id
            if data:
                events.append(ServerSentEvent(event_type or "message", data.removesuffix("\n"), event_id, own_retry))
            data, event_type, own_retry = "", "", None
            continue
        if line.startswith(":"):
            continue
        name, value = line.split(":", 1) if ":" in line else (line, "")
        value = value.removeprefix(" ")
        if name == "event":
            event_type = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            event_id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retry = own_retry = int(value)
    return events, last_event_id, retry


# --- What a stream means

STREAMS: list[tuple[bytes, list[ServerSentEvent]]] = [
    # The examples of the standard.
    (
        (
            b"data: This is the first message.\n\n"
            b"data: This is the second message, it\ndata: has two lines.\n\n"
            b"data: This is the third message.\n\n"
        ),
        [
            ServerSentEvent(data="This is the first message."),
            ServerSentEvent(data="This is the second message, it\nhas two lines."),
            ServerSentEvent(data="This is the third message."),
        ],
    ),
    (b"event: add\ndata: 73857293\n\n", [ServerSentEvent("add", "73857293")]),
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [ServerSentEvent(data="YHOO\n+2\n10")]),
    (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [ServerSentEvent(data="first event", id="1"), ServerSentEvent(data="second event")],
    ),
    (b"data\n\ndata\ndata\n\ndata:", [ServerSentEvent(data=""), ServerSentEvent(data="\n")]),
    (b"data:test\n\ndata: test\n\n", [ServerSentEvent(data="test"), ServerSentEvent(data="test")]),
    # Line ends.
    (b"data: a\rdata: b\r\r", [ServerSentEvent(data="a\nb")]),
    (b"data: a\r\ndata: b\r\n\r\n", [ServerSentEvent(data="a\nb")]),
    (b"data: a\r\n\n", [ServerSentEvent(data="a")]),
    (b"data: a\n\r\n", [ServerSentEvent(data="a")]),
    (b"data: a\n\r", [ServerSentEvent(data="a")]),
    (f"data: {NO_LINE_ENDS}\n\n".encode(), [ServerSentEvent(data=NO_LINE_ENDS)]),
    # A byte order mark, once, at the beginning.
    (BOM + b"data: a\n\n", [ServerSentEvent(data="a")]),
    (BOM + b"\ndata: a\n\n", [ServerSentEvent(data="a")]),
    (BOM + BOM + b"data: a\n\ndata: b\n\n", [ServerSentEvent(data="b")]),
    (b"\n" + BOM + b"data: a\n\ndata: " + BOM + b"b\n\n", [ServerSentEvent(data="\ufeffb")]),
    (b"\xef\xbbdata: a\n\n", []),
    # Comments and fields that are unknown.
    (b":\n\n: a\n\n:data: b\n\n", []),
    (b"data: a\n: in between\ndata: b\n\n", [ServerSentEvent(data="a\nb")]),
    (b"Data: a\nDATA: b\ndata : c\n data: d\nxdata: e\nfoo\nfoo: bar\n\n", []),
    # The colon, and one blank behind it.
    (b"data:a:b\n\ndata::\n\ndata: : \n\n", [ServerSentEvent(data=t) for t in ("a:b", ":", ": ")]),
    (b"data:  a \n\ndata:\ta\n\n", [ServerSentEvent(data=" a "), ServerSentEvent(data="\ta")]),
    # No event without data, and what that leaves.
    (b"event: a\n\ndata: b\n\n", [ServerSentEvent(data="b")]),
    (b"id: 1\n\ndata: b\n\n", [ServerSentEvent(data="b", id="1")]),
    (b"retry: 5\n\ndata: b\n\n", [ServerSentEvent(data="b")]),
    (b"event: a\nevent: b\nevent:\ndata: c\n\n", [ServerSentEvent(data="c")]),
    (b"event: a\nevent: b\ndata: c\n\ndata: d\n\n", [ServerSentEvent("b", "c"), ServerSentEvent(data="d")]),
    # The ID stays in force; one with NUL in it is ignored.
    (b"id: 1\ndata: a\n\ndata: b\n\n", [ServerSentEvent(data="a", id="1"), ServerSentEvent(data="b", id="1")]),
    (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [ServerSentEvent(data="a", id="1"), ServerSentEvent(data="b")]),
    (b"id: 1\nid: 2\0\ndata: a\n\n", [ServerSentEvent(data="a", id="1")]),
    ("id:  é \ndata: a\0b\n\n".encode(), [ServerSentEvent(data="a\0b", id=" é ")]),
    # The reconnection time: ASCII digits only.
    (b"retry: 3000\ndata: a\n\ndata: b\n\n", [ServerSentEvent(data="a", retry=3000), ServerSentEvent(data="b")]),
    (b"retry: 1\nretry: 007\ndata: a\n\n", [ServerSentEvent(data="a", retry=7)]),
    (b"retry: 1\nretry: \nretry\nretry:  2\nretry: 3 \ndata: a\n\n", [ServerSentEvent(data="a", retry=1)]),
    (b"retry: -1\nretry: +1\nretry: 1.5\nretry: 1_0\nretry: 0x1\ndata: a\n\n", [ServerSentEvent(data="a")]),
    ("retry: ١\nretry: ²\ndata: a\n\n".encode(), [ServerSentEvent(data="a")]),
    (b"retry: 1" + b"0" * 299 + b"\ndata: a\n\n", [ServerSentEvent(data="a", retry=10**299)]),
    (b"retry: 5\nretry: " + b"9" * 100_000 + b"\ndata: a\n\n", [ServerSentEvent(data="a", retry=5)]),
    # What is not UTF-8 is replaced, as the Encoding standard has it.
    (b"data: \xff\xe2\x82\ndata: \xac\n\n", [ServerSentEvent(data="\ufffd\ufffd\n\ufffd")]),
    (b"data: \xed\xa0\x80\xf0\x80\x80\xc0\n\n", [ServerSentEvent(data="\ufffd" * 7)]),
    (b"d\xffata: a\ndata\xff: b\n\n", []),
    (b"event: \xff\nid: \xfe\ndata: \xf0\x9f\x98\x80\n\n", [ServerSentEvent("\ufffd", "\U0001f600", "\ufffd")]),
    # What has not ended is discarded.
    (b"", []),
    (b"data: a", []),
    (b"data: a\n", []),
    (b"data: a\n\ndata: b\nid: 1\n", [ServerSentEvent(data="a")]),
]


def test_streams() -> None:
    """Streams are read as the standard says, in one piece and cut at every byte, and so does its algorithm."""
    for stream, events in STREAMS:
        assert parse(stream) == events, stream
        assert by_the_book(re.sub(rb"9{301,}", b"", stream))[0] == events, stream
        if len(stream) < 1000:
            assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == events, stream
            for at in range(len(stream)):
                assert parse(stream[:at], b"", stream[at:]) == events, (stream, at)


FRAGMENTS = [
    *(b"\r", b"\n", b"\r\n", b"\n\n", b":", b" ", b"\0", BOM, b"\xe2\x82\xac", b"\xe2\x82", b"\xff", b"a", b"5"),
    *(b"data", b"data:", b"data: x", b"event:", b"event: x", b"id", b"id:", b"id: 7", b"retry:", b"retry: 30"),
]
streams = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join) | st.binary(max_size=60)
seeds = st.integers(0, 1 << 32)


@given(streams, seeds)
def test_any_cut_reads_like_the_standard(stream: bytes, seed: int) -> None:
    """Any stream, cut anywhere, gives what the standard's algorithm gives: events, last ID and reconnection time."""
    parser = new_parser()
    events = parse(*cut(random.Random(seed), stream), parser=parser)
    assert (events, parser.last_event_id, parser.retry) == by_the_book(stream)


@given(streams, seeds, st.integers(1, 30))
def test_any_cut_has_the_same_limit(stream: bytes, seed: int, limit: int) -> None:
    """Where an event is too large, and what comes before it, does not depend on how the stream is cut."""

    def read(pieces: Iterable[bytes]) -> tuple[list[ServerSentEvent], bool]:
        events: list[ServerSentEvent] = []
        parser = new_parser(limit)
        try:
            for piece in pieces:
                events.extend(parser.feed(piece))
        except ResponseTooLarge:
            return events, True
        return events, False

    assert read(cut(random.Random(seed), stream)) == read([stream])


# --- Beside httpx-sse


def with_httpx_sse(stream: bytes) -> list[httpx_sse.ServerSentEvent]:
    """Return the events that httpx-sse finds in text that httpx has decoded."""
    lines, events = SSELineDecoder(), SSEDecoder()
    found: list[Any] = [events.decode(line) for line in [*lines.decode(stream.decode()), *lines.flush()]]
    return [event for event in found if event is not None]


LINES = [
    *("data: a", "data:b", "data:  c:d ", "data", "data: \x0b\x85\u2028\xe9", "event: x", "event:y", "event", "id: 1"),
    *("id", "id: \u20ac", "id: \0", "retry: 0", "retry: 1000", ": comment", ":", "x", "x: y", "Data: z", " data: z"),
]
blocks = st.lists(st.sampled_from(LINES), max_size=5)


@given(st.lists(blocks, max_size=5), st.sampled_from(["\n", "\r\n", "\r"]))
def test_beside_httpx_sse(events: list[list[str]], end: str) -> None:
    """Events that have data, and end, are those that httpx-sse finds."""
    stream = "".join(line + end for event in events for line in ("data: always", *event, "")).encode()
    assert [(each.event, each.data, each.id, each.retry) for each in parse(stream)] == [
        (each.event, each.data, each.id, each.retry) for each in with_httpx_sse(stream)
    ]


@each_row(
    "stream, ours, theirs",
    [
        # The standard: no event without data.
        (b"event: ping\n\n", [], [("ping", "")]),
        (b"id: 1\n\n", [], [("message", "")]),
        (b"id: 1\ndata: a\n\n\n\n", [("message", "a")], [("message", "a"), ("message", ""), ("message", "")]),
        # The standard: only ASCII digits.
        (b"retry: 1_0\n\n", [], [("message", "")]),
        # The standard: a byte order mark is dropped.
        (BOM + b"data: a\n\n", [("message", "a")], []),
    ],
)
def test_where_httpx_sse_differs(stream: bytes, ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> None:
    """What the standard decides in another way than httpx-sse. A test for the differences, not for that package."""
    assert [(each.event, each.data) for each in parse(stream)] == ours
    assert [(each.event, each.data) for each in with_httpx_sse(stream)] == theirs


# --- As of each event


def test_attributes_are_as_of_each_event() -> None:
    """The last ID and the reconnection time are those at the event that has just been returned."""
    parser = new_parser()
    stream = b"retry: 1\nid: 1\ndata: a\n\nretry: 2\nid: 2\ndata: b\n\nid: 3\n\nretry: 4\nid: 4\ndata: c\n"
    seen = [(event.data, parser.last_event_id, parser.retry) for event in parser.feed(stream)]
    assert seen == [("a", "1", 1), ("b", "2", 2)]
    # An ID without data counts, and that of an event that has not ended does not. A reconnection time counts at once.
    assert (parser.last_event_id, parser.retry) == ("3", 4)


def test_next_stream() -> None:
    """The next stream of a source begins anew, but the ID and the reconnection time stay in force."""
    parser = EventParser(LIMIT, "0")
    assert parse(b"data: a\n\n", parser=parser) == [ServerSentEvent(data="a", id="0")]
    assert parse(b"id: 1\nretry: 5\ndata: b\n\ndata: lost\nid: 2\nevent: x\nda\r", parser=parser)
    parser.start()
    assert (parser.last_event_id, parser.retry) == ("1", 5)
    # Nothing is left of the line, the fields and the CR, and there may be a byte order mark once more.
    assert parse(b"\n", BOM[:1], BOM[1:], b"data: c\n\n", parser=parser) == []
    parser.start()
    assert parse(BOM[:1], BOM[1:], b"data: c\n\n", parser=parser) == [ServerSentEvent(data="c", id="1")]


def test_events_are_values() -> None:
    """An event cannot be changed, and is equal to another one with the same fields."""
    event = ServerSentEvent("add", "1", "2", 3)
    assert event == ServerSentEvent(event="add", data="1", id="2", retry=3)
    assert ServerSentEvent() == ServerSentEvent("message", "", "", None)
    with pytest.raises(AttributeError):
        event.data = "2"  # type: ignore[misc]
    assert not hasattr(event, "__dict__")


# --- Limits

TOO_LARGE = r"^an event of the stream is larger than max_event_bytes of 10 bytes$"


@each_row(
    "stream",
    [
        b"data:456789x",
        b": a comment",
        b"unknown----",
        b"data: 4567\ndata: ",
        b"data:\n" * 6 + b"data:",
        b"event: ab\ndata:abcd",
        b"id: abcdef\ndata:",
        b"data\r" * 7 + b"data",
        b"data: 45678\n\n",
    ],
)
def test_too_large(stream: bytes) -> None:
    """An event is too large if its data, type and ID, and the line at hand, exceed the limit."""
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        with pytest.raises(ResponseTooLarge, match=TOO_LARGE):
            parse(*pieces, parser=new_parser(10))


@each_row(
    "stream",
    [
        b"data:56789\n",
        b"data: 6789\nid:",
        b"event: ab\nid: c\nevent:\nid: defgh\nid:\ndata: 6789\n",
        b"\n" * 1000,
        b": comment\n" * 1000,
        b": ping\n\n" * 1000,
        b"retry: 10\n" * 1000,
        b"event: abc\n\n" * 1000,
        b"id: abcdef\n\n" * 1000,
        b"id: abcdef\ndata\n\n" * 3,
        b"data: 6789\n\n" * 1000,
        b"data:\n" * 5 + b"\n" + b"data:\n" * 5,
    ],
)
def test_not_too_large(stream: bytes) -> None:
    """What is replaced, comments, and what has ended do not count."""
    parse(stream, parser=new_parser(10))


def test_events_before_one_that_is_too_large() -> None:
    """They are returned, even if they arrive together with it."""
    found = new_parser(10).feed(b"data: 1\n\ndata: 2\n\ndata: 3456789\n\n")
    assert [next(found).data, next(found).data] == ["1", "2"]
    with pytest.raises(ResponseTooLarge, match=TOO_LARGE):
        next(found)


def test_long_lines_take_linear_time() -> None:
    """A long line in small pieces takes as many steps for each piece as a short one."""

    def read(times: int) -> int:
        return steps(lambda: parse(b"data:", *[b"x" * 50] * times, b"\n\n"))

    assert read(2000) < 11 * read(200)


def test_long_lines_take_linear_memory() -> None:
    """A long line in small pieces, and many short lines, take not much more memory than their text."""
    for pieces in ([b"data: "] + [b"xy"] * 8_000, [b"data:xy\n" * 100] * 80):
        parser = new_parser()
        tracemalloc.start()
        try:
            for piece in pieces:
                assert list(parser.feed(piece)) == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100_000
