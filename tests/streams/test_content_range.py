"""Content-Range: what is read, and what is refused."""

from __future__ import annotations

import itertools

from support.rows import each_row

from prefect_http._streams.content_range import (
    ContentRange,
    parse_content_length,
    parse_content_range,
    parse_unsatisfied_range,
)


@each_row(
    "value, parsed",
    [
        ("bytes 0-0/1", ContentRange(0, 1, 1)),
        ("bytes 42-1233/1234", ContentRange(42, 1234, 1234)),  # RFC 9110
        ("bytes 42-1233/*", ContentRange(42, 1234, None)),
        ("Bytes 0-499/1234", ContentRange(0, 500, 1234)),
        ("bytes 0-00499/1234", ContentRange(0, 500, 1234)),
        ("", None),
        ("bytes", None),
        ("bytes 5-4/10", None),
        ("bytes 5-10/10", None),
        ("bytes 0-9", None),
        ("bytes 0-9/", None),
        ("bytes */10", None),
        ("bytes=0-9/10", None),
        ("bytes  0-9/10", None),
        ("bytes 0-9/10 ", None),
        ("bytes 0-9/10\n", None),
        ("bytes -9/10", None),
        ("bytes +0-9/10", None),
        ("bytes 0x0-9/10", None),
        ("bytes \u0660-9/10", None),
        ("items 0-9/10", None),
        ("bytes 0-9/10, bytes 20-29/40", None),
        (f"bytes 0-9/1{'0' * 18}", None),
    ],
)
def test_content_range(value: str, parsed: ContentRange | None) -> None:
    """Only what the RFC allows, and what makes sense, is a range."""
    assert parse_content_range(value) == parsed


@each_row(
    "value, parsed",
    [("bytes */0", 0), ("BYTES */47022", 47022), ("*/10", None), ("bytes 0-9/10", None), ("bytes */*", None)],
)
def test_unsatisfied_range(value: str, parsed: int | None) -> None:
    """The size of a file is read from a 416."""
    assert parse_unsatisfied_range(value) == parsed


@each_row(
    "value, parsed",
    [("0", 0), ("12", 12), ("", None), ("1_0", None), ("-1", None), ("5, 5", None), ("1e3", None), ("9" * 19, None)],
)
def test_content_length(value: str, parsed: int | None) -> None:
    """A length is digits alone."""
    assert parse_content_length(value) == parsed


def test_what_is_parsed_makes_sense() -> None:
    """A range is not empty, and lies within the file."""
    for first, last, total in itertools.product(range(4), repeat=3):
        found = parse_content_range(f"bytes {first}-{last}/{total}")
        assert found == (ContentRange(first, last + 1, total) if first <= last < total else None)
