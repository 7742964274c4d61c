"""Bodies are cut as httpx cuts them, in whatever parts they arrive."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._body_splitters import BytesSplitter, LineSplitter, Splitter, TextSplitter, check_size

# All ends of lines, characters of several bytes, a byte that is not UTF-8.
ALPHABET = ["a", "b", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "ä", "€"]
TEXTS = st.lists(st.sampled_from([*(text.encode() for text in ALPHABET), b"\xff"]), max_size=30).map(b"".join)
SIZES = st.none() | st.integers(1, 12)


def cut(splitter: Splitter[bytes | str], parts: list[bytes]) -> list[bytes | str]:
    """Return all pieces of a body that arrives in parts."""
    return [*(piece for part in parts for piece in splitter.feed(part)), *splitter.end()]


def parts_of(body: bytes, seed: int) -> list[bytes]:
    """Cut a body anywhere."""
    ends = sorted(random.Random(seed).choices(range(len(body) + 1), k=5))
    return [part for part in map(lambda start, end: body[start:end], [0, *ends], [*ends, len(body)]) if part]


@given(TEXTS, SIZES, st.integers(0, 1000))
def test_pieces_are_those_of_httpx(body: bytes, size: int | None, seed: int) -> None:
    """The same pieces, the same texts, the same lines."""
    parts = parts_of(body, seed)

    def theirs() -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "text/plain; charset=utf-8"}, content=iter(parts))

    ways: dict[str, tuple[Splitter[bytes | str], Callable[[], Iterator[bytes | str]]]] = {
        "bytes": (BytesSplitter(size), lambda: theirs().iter_bytes(size)),
        "text": (TextSplitter("utf-8", size), lambda: theirs().iter_text(size)),
        "lines": (LineSplitter("utf-8"), lambda: theirs().iter_lines()),
    }
    for name, (ours, iterate) in ways.items():
        assert cut(ours, parts) == list(iterate()), name


def test_a_long_line_in_small_parts_takes_linear_time() -> None:
    """Nothing is copied with each part: 10 MB in parts of 1 KiB would be 50 GB."""
    parts = [b"x" * 1024] * 10_000
    assert [len(piece) for piece in cut(LineSplitter("utf-8"), parts)] == [1024 * 10_000]
    assert [len(piece) for piece in cut(BytesSplitter(2**26), parts)] == [1024 * 10_000]


@each_row("size", [0, -1])
def test_a_size_must_be_positive(size: int) -> None:
    """A size of 0 would never come to an end."""
    with pytest.raises(ValueError, match=rf"^chunk_size must be 1 or more, or None, not {size}$"):
        check_size(size)


@each_row("size", [None, 1])
def test_a_size_is_a_number_or_none(size: int | None) -> None:
    """Other sizes are fine."""
    check_size(size)
