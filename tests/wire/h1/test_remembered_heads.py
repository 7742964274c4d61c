"""The heads of responses are remembered for as long as the server repeats them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from prefect_http import InvalidResponse
from prefect_http._wire.h1 import remembered_heads
from prefect_http._wire.h1.plain_head import plain_head
from prefect_http._wire.h1.remembered_heads import RememberedHeads
from prefect_http._wire.h1.response_parser import ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


def head_with(number: int) -> bytes:
    """Return a head that differs from all others."""
    return HEAD[:-2] + b"X-Request-Id: %d\r\n\r\n" % number


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what is parsed during a test."""
    heads: list[bytes] = []

    def parse(method: str, data: bytes) -> object:
        heads.append(data)
        return plain_head(method, data)

    monkeypatch.setattr(remembered_heads, "plain_head", parse)
    return heads


def test_the_same_head_is_parsed_once(parsed: list[bytes]) -> None:
    """Until it has been forgotten."""
    heads = RememberedHeads()
    first = heads.parse("GET", HEAD)
    assert first == plain_head("GET", HEAD)
    assert heads.parse("GET", HEAD) is first
    assert parsed == [HEAD]
    heads.clear()
    assert heads.parse("GET", HEAD) == first
    assert parsed == [HEAD] * 2


def test_the_method_counts() -> None:
    """The same head means something else in the response to a HEAD."""
    heads = RememberedHeads()
    for method in ("GET", "HEAD", "GET", "HEAD"):
        assert heads.parse(method, HEAD) == plain_head(method, HEAD)


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 200 OK\r\nOld: folded\r\n value\r\n\r\n", HEAD[:-2] + b"Large: " + b"x" * 2048 + b"\r\n\r\n"],
    ids=["not plain", "large"],
)
def test_what_is_not_remembered(data: bytes, parsed: list[bytes]) -> None:
    """A head that is not plain, and a large one."""
    heads = RememberedHeads()
    for _ in range(2):
        assert heads.parse("GET", data) == plain_head("GET", data)
    assert parsed == [data] * 2


def test_an_invalid_head_stays_invalid() -> None:
    """It is not remembered as a good one."""
    heads = RememberedHeads()
    for _ in range(2):
        with pytest.raises(InvalidResponse, match="Content-Length"):
            heads.parse("GET", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")


def test_only_the_last_ones_are_remembered(parsed: list[bytes]) -> None:
    """A server that has many heads does not fill the memory."""
    heads = RememberedHeads()
    for number in range(33):
        heads.parse("GET", head_with(number))
    parsed.clear()
    for number in range(1, 33):
        heads.parse("GET", head_with(number))
    assert parsed == []
    heads.parse("GET", head_with(0))
    assert parsed == [head_with(0)]


def rest_of(heads: RememberedHeads, parsed: list[bytes]) -> int:
    """Return how often a head has to be repeated until it is remembered."""
    parsed.clear()
    for count in itertools.count():
        heads.parse("GET", HEAD)
        if len(parsed) <= count:
            return count
    raise AssertionError


def test_a_server_that_never_repeats_a_head(parsed: list[bytes]) -> None:
    """After a while, nothing is remembered for the next thousand; and then it is tried again."""
    heads = RememberedHeads()
    numbers = itertools.count()
    for number in itertools.islice(numbers, 65):
        heads.parse("GET", head_with(number))
    assert rest_of(heads, parsed) == 1001
    assert rest_of(heads, parsed) == 0


@pytest.mark.parametrize(("each", "is_remembered"), [(4, True), (6, False)])
def test_a_server_that_seldom_repeats_a_head(each: int, is_remembered: bool, parsed: list[bytes]) -> None:
    """It is worth while if one in five is found."""
    heads = RememberedHeads()
    for number in range(10_000):
        heads.parse("GET", HEAD if number % each == 0 else head_with(number))
    assert (len(parsed) < 8_000) is is_remembered


def test_a_stream_that_yields_bytearrays() -> None:
    """Those that users open may, though anyio's types say otherwise."""
    for _ in range(2):
        data: Any = bytearray(HEAD + b"hello")
        parser = ResponseParser("GET", parse=RememberedHeads().parse)
        assert parser.feed(data) == b"hello"
