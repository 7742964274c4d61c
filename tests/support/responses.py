"""What the tests of the response parser share: they feed it as the wire does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import httpx

from prefect_http._wire.h1.response_head import Framing, ResponseHead
from prefect_http._wire.h1.response_parser import ResponseParser


class Outcome(NamedTuple):
    """What a parser has found.

    Attributes:
        head: the head, if it arrived.
        body: the part of the body that arrived.
        trailing_data: the bytes after a head that opens a tunnel.
        is_complete: whether all of the response arrived.
        has_failed: whether the parser refused it.
        can_reuse_connection: whether the connection can serve another request.
    """

    head: ResponseHead | None
    body: bytes
    trailing_data: bytes
    is_complete: bool
    has_failed: bool
    can_reuse_connection: bool


def outcome(method: str, pieces: Iterable[bytes], *, eof: bool = False) -> Outcome:
    """Feed a parser as the wire does: up to the end of the response or its error, and then the end of the stream.

    Later pieces are never fed. The wire finds them in the socket, so that the connection is not reusable either; and in
    a tunnel, they are read from the socket.
    """
    parser = ResponseParser(method)
    body, left, has_failed = b"", iter(pieces), False
    try:
        for piece in left:
            body += parser.feed(piece)
            if parser.is_complete or parser.body_error is not None:
                break
        if eof and not parser.is_complete and parser.body_error is None:
            parser.feed_eof()
    except httpx.RemoteProtocolError:
        has_failed = True
    rest = b"".join(left)
    return Outcome(
        parser.head,
        body,
        parser.trailing_data + rest if is_tunnel(parser) else b"",
        parser.is_complete,
        has_failed or parser.body_error is not None,
        parser.can_reuse_connection and not rest,
    )


def is_tunnel(parser: ResponseParser) -> bool:
    """Return whether another protocol follows the head."""
    return parser.head is not None and parser.head.framing is Framing.TUNNEL


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut data at these places."""
    ends = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def bytewise(data: bytes) -> list[bytes]:
    """Cut data into single bytes."""
    return [data[at : at + 1] for at in range(len(data))]
