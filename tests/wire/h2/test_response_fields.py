"""The fields of a response: which are valid, and what they say about the body."""

from __future__ import annotations

import pytest

from prefect_http._wire.h2.errors import PROTOCOL_ERROR, StreamError
from prefect_http._wire.h2.response_fields import NO_LENGTH, response_head, trailers
from prefect_http._wire.h2.stream import Headers

OK = (b":status", b"200")


def test_valid_heads() -> None:
    """8.2.1, 8.3.2: what a server may send, and what is accepted beyond that."""
    cases: list[tuple[Headers, tuple[int, Headers, int]]] = [
        ([OK], (200, [], NO_LENGTH)),
        ([(b":status", b"999")], (999, [], NO_LENGTH)),
        ([(b":status", b"100"), (b"a", b"")], (100, [(b"a", b"")], NO_LENGTH)),
        ([OK, (b"content-length", b"12")], (200, [(b"content-length", b"12")], 12)),
        (
            [OK, (b"content-length", b"7"), (b"content-length", b"07")],
            (200, [(b"content-length", b"7")], 7),
        ),
        ([OK, (b"content-length", b"7, 7")], (200, [(b"content-length", b"7")], 7)),
        ([OK, (b"content-length", b" 7")], (200, [(b"content-length", b"7")], 7)),
        ([OK, (b"a", b" b\t"), (b"c", b"d e")], (200, [(b"a", b"b"), (b"c", b"d e")], NO_LENGTH)),
        ([OK, (b"a", b"\x01\x7f\xff\t.")], (200, [(b"a", b"\x01\x7f\xff\t.")], NO_LENGTH)),
        ([OK, (b"!#$%&'*+-.^_`|~09az", b"b")], (200, [(b"!#$%&'*+-.^_`|~09az", b"b")], NO_LENGTH)),
        ([OK, (b"a", b"1"), (b"a", b"2")], (200, [(b"a", b"1"), (b"a", b"2")], NO_LENGTH)),
        ([OK, (b"te", b"x"), (b"host", b"x")], (200, [(b"te", b"x"), (b"host", b"x")], NO_LENGTH)),
    ]
    for fields, expected in cases:
        assert response_head(fields) == expected, fields


BAD_FIELDS = [
    (b"A", b"b"),
    (b"aB", b"b"),
    (b"", b"b"),
    (b"a b", b"b"),
    (b"a:", b"b"),
    (b":path", b"/"),
    (b":status", b"200"),
    (b":unknown", b"x"),
    (b"a\n", b"b"),
    (b"a\xe9", b"b"),
    (b"a\0", b"b"),
    (b"connection", b"close"),
    (b"keep-alive", b"5"),
    (b"proxy-connection", b"x"),
    (b"transfer-encoding", b"chunked"),
    (b"upgrade", b"x"),
    (b"a", b"b\r\nc: d"),
    (b"a", b"b\n"),
    (b"a", b"\rb"),
    (b"a", b"b\0c"),
]


def test_invalid_heads() -> None:
    """8.1.1, 8.2, 8.3: what makes a response malformed is an error of the stream."""
    heads: list[Headers] = [
        [],
        [(b"a", b"b")],
        [(b"a", b"b"), OK],
        [(b":path", b"/")],
        *[
            [(b":status", status)]
            for status in (b"", b"20", b"2000", b"099", b"000", b"2x0", b" 20", b"+20", "²00".encode())
        ],
        *[
            [OK, (b"content-length", value)]
            for value in (b"", b"-1", b"+1", b"1.0", b"0x1", b"1 1", b"1" * 19, b"1,", b"1, 2")
        ],
        [OK, (b"content-length", b"1"), (b"content-length", b"2")],
        *[[OK, field] for field in BAD_FIELDS],
        *[[OK, (b"x", b"y"), field, (b"x", b"y")] for field in BAD_FIELDS],
    ]
    for fields in heads:
        with pytest.raises(StreamError) as caught:
            response_head(fields)
            pytest.fail(f"accepted {fields}")
        assert caught.value.code == PROTOCOL_ERROR


def test_trailers() -> None:
    """8.1: trailers are fields without a pseudo-header field."""
    assert trailers([]) == []
    assert trailers([(b"a", b" b"), (b"content-length", b"x")]) == [(b"a", b"b"), (b"content-length", b"x")]
    for field in BAD_FIELDS:
        with pytest.raises(StreamError):
            trailers([field])
            pytest.fail(f"accepted {field}")
