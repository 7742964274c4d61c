"""What the tests of the response's parser share: it is fed as the wire feeds it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import httpx

from prefect_http._wire.h1.response_head import Body, ResponseHead
from prefect_http._wire.h1.response_parser import ResponseParser


class Outcome(NamedTuple):
    """What becomes of a response.

    Attributes:
        head: the head, if one came.
        body: what of the body was given.
        leading: the first bytes behind a head that opens a tunnel.
        is_complete: all of the response has come.
        has_failed: the parser has refused it.
        leaves_reusable: the connection can serve another request.
    """

    head: ResponseHead | None
    body: bytes
    leading: bytes
    is_complete: bool
    has_failed: bool
    leaves_reusable: bool


def outcome(method: str, pieces: Iterable[bytes], *, eof: bool = False) -> Outcome:
    """Feed a parser as the wire does: up to the end of the response or its error, and then the end of the stream.

    What comes behind the end in a later piece is never fed. The wire finds it in the socket, so that the connection is
    not reusable either; and in a tunnel, it is read from the socket.
    """
    parser = ResponseParser(method)
    body, left, has_failed = b"", iter(pieces), False
    try:
        for piece in left:
            body += parser.feed(piece)
            if parser.is_complete or parser.error is not None:
                break
        if eof and not parser.is_complete and parser.error is None:
            parser.feed_eof()
    except httpx.RemoteProtocolError:
        has_failed = True
    rest = b"".join(left)
    return Outcome(
        parser.head,
        body,
        parser.leading + rest if is_tunnel(parser) else b"",
        parser.is_complete,
        has_failed or parser.error is not None,
        parser.leaves_reusable and not rest,
    )


def is_tunnel(parser: ResponseParser) -> bool:
    """Say whether what follows the head is another protocol's."""
    return parser.head is not None and parser.head.body is Body.TUNNEL


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut data at these places."""
    ends = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def bytewise(data: bytes) -> list[bytes]:
    """Cut data into single bytes."""
    return [data[at : at + 1] for at in range(len(data))]
