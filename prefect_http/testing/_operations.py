"""Operations: what an answer makes its connection do, one after the other. Pure.

An answer is an iterator of operations. The connection takes the next one as soon as it is due, and the client has
received what came before: so an endless body is never made ahead of the client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

Fields = tuple[tuple[bytes, bytes], ...]


class Wait(NamedTuple):
    """Do nothing for so many seconds; infinity: for ever."""

    seconds: float


class Head(NamedTuple):
    """Send a head. ``is_last``: there is no body."""

    status: int
    fields: Fields
    is_last: bool


class Whole(NamedTuple):
    """Send a head and a whole body: as Head, Body and End, in a third of the time."""

    status: int
    fields: Fields
    body: bytes


class Body(NamedTuple):
    """Send a part of a body."""

    data: bytes


class End(NamedTuple):
    """End the body."""


class Raw(NamedTuple):
    """Send bytes as they are."""

    data: bytes


class Cut(NamedTuple):
    """Break the connection off as soon as so many more bytes have been sent."""

    after: int
    is_reset: bool


class Close(NamedTuple):
    """Close the connection, once the client has received everything."""


class Reset(NamedTuple):
    """Reset the request's stream on HTTP/2, the connection on HTTP/1.1."""


class TurnStale(NamedTuple):
    """Close the connection as soon as another request arrives on it."""


class GoAway(NamedTuple):
    """Send a GOAWAY that says that the request has not been processed. HTTP/2."""


Operation = Wait | Head | Whole | Body | End | Raw | Cut | Close | Reset | TurnStale | GoAway
Answer = Iterator[Operation]
AsyncAnswer = AsyncGenerator[Operation, None]
