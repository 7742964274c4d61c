"""What the protocol of a server reports, and its interface, which is the same for HTTP/1.1 and HTTP/2. Pure.

Bytes go in and events come out; calls go in and bytes come out. There is no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from prefect_http.testing._operations import Fields


class ProtocolError(Exception):
    """The client broke the protocol; the message says how. It quotes nothing that the client sent."""


class RequestBegun(NamedTuple):
    """The head of a request has arrived.

    A tuple is made in a third of the time of a frozen dataclass.

    Attributes:
        stream: the number of the request on its connection: 1, 2, 3 with HTTP/1.1, and 1, 3, 5 with HTTP/2.
        method: the method.
        target: as in the request line: the path and query, an absolute URL, or ``*``. For CONNECT the host and port.
        headers: with HTTP/1.1 as they were sent; with HTTP/2 in lower case, and without pseudo-header fields.
        authority: the Host, or with HTTP/2 ``:authority``; empty if there is none.
        is_last: whether the request is complete: no body follows, and no `RequestEnded`. With HTTP/1.1 it is true for
            CONNECT as well, with HTTP/2 it is not.
        expects_continue: whether the client waits for a 100 before it sends the body.
    """

    stream: int
    method: bytes
    target: bytes
    headers: Fields
    authority: bytes
    is_last: bool
    expects_continue: bool = False


@dataclass(frozen=True, slots=True)
class BodyReceived:
    """A part of the body has arrived, without its framing. In a tunnel: what the client has sent."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The body has arrived to its end."""

    stream: int


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The client has reset the stream (HTTP/2 only). What is sent on it from now on is dropped."""

    stream: int


Event = RequestBegun | BodyReceived | RequestEnded | RequestCancelled


class ServerProtocol(Protocol):
    """The server's side of one connection.

    With HTTP/1.1, requests are answered one after another, in the order in which they came. A response may begin before
    its request is complete.
    """

    def receive(self, data: bytes) -> list[Event]:
        """Take in what has been received, cut anywhere, and return what it means.

        Raises:
            ProtocolError: the client broke the protocol. Call nothing but ``take_output()`` after it.
        """
        ...

    def send_head(
        self,
        stream: int,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        is_last: bool,
        reason: bytes = b"",
    ) -> None:
        """Send the head of a response.

        Args:
            stream: which request it answers.
            status: 1xx but 101 is informational: another head follows.
            headers: nothing is checked. What frames the body is added if it is missing.
            is_last: whether the response has no body. Then it is complete.
            reason: the reason phrase, for HTTP/1.1; empty: the usual one.
        """
        ...

    def has_room(self, stream: int, size: int) -> bool:
        """Return whether a response with a body of so many bytes can be sent at once."""
        ...

    def send_response(self, stream: int, status: int, headers: Fields, body: bytes) -> None:
        """Send a whole response: as ``send_head()``, ``send_body()`` and ``end()``, but faster."""
        ...

    def send_body(self, stream: int, data: bytes) -> None:
        """Send a part of the body. It is dropped if the response cannot have one: for HEAD, 204 and 304."""
        ...

    def end(self, stream: int) -> None:
        """End the body. This does nothing if the response is complete."""
        ...

    def take_output(self) -> bytes:
        """Return what can be sent now, and forget it; ``b""``: nothing."""
        ...

    def closes_after(self, stream: int) -> bool:
        """Whether the connection is to be closed after this response. Call it when the head has been sent."""
        ...
