"""H1Server talks with the client of the package h11: both sides see what the other one has sent."""

from __future__ import annotations

import os
import random
from typing import NamedTuple

import h11
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.pieces import cut
from support.server_events import joined

from prefect_http.testing._events import BodyReceived, Event, RequestBegun, RequestEnded
from prefect_http.testing._h1_server import H1Server

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = hypothesis_settings(
    max_examples=_EXAMPLES or 15,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=3)


class Exchange(NamedTuple):
    """A request and its response.

    Attributes:
        method: of the request.
        body: of the request, in parts.
        has_length: whether the request says how long it is.
        status: of the response.
        answer: the body of the response, in parts.
        answer_has_length: whether the response says how long it is.
        informational: the responses before it.
    """

    method: str
    body: list[bytes]
    has_length: bool
    status: int
    answer: list[bytes]
    answer_has_length: bool
    informational: list[int]


EXCHANGES = st.builds(
    Exchange,
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    body=BODIES,
    has_length=st.booleans(),
    status=st.sampled_from([200, 204, 205, 304, 404, 599]),
    answer=BODIES,
    answer_has_length=st.booleans(),
    informational=st.lists(st.sampled_from([100, 103]), max_size=2),
)


class Client:
    """A client, and a server that gets its bytes in random pieces."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.h11 = h11.Connection(h11.CLIENT)
        self.server = H1Server()
        self.events: list[Event] = []

    def send(self, event: h11.Event) -> None:
        """Send something to the server."""
        for piece in cut(self.source, self.h11.send(event) or b""):
            self.events += self.server.receive(piece)

    def receive(self) -> list[h11.Event]:
        """Receive what the server has to send."""
        received: list[h11.Event] = []
        for piece in cut(self.source, self.server.take_output()):
            self.h11.receive_data(piece)
            while True:
                event = self.h11.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                assert isinstance(event, h11.Event)
                received.append(event)
                if isinstance(event, h11.EndOfMessage):
                    break
        return received


def requested(client: Client, exchange: Exchange, stream: int) -> None:
    """Send a request, and check what the server reports."""
    headers = [("Host", "h"), ("X-Stream", str(stream))]
    if exchange.has_length:
        headers.append(("Content-Length", str(len(b"".join(exchange.body)))))
    elif exchange.body:
        headers.append(("Transfer-Encoding", "chunked"))
    client.send(h11.Request(method=exchange.method, target=f"/{stream}", headers=headers))
    for part in exchange.body:
        client.send(h11.Data(data=part))
    client.send(h11.EndOfMessage())
    sent = tuple((name.encode(), value.encode()) for name, value in headers)
    target, body = b"/%d" % stream, b"".join(exchange.body)
    expected: list[Event] = [
        RequestBegun(stream, exchange.method.encode(), target, sent, b"h", is_last=not body),
    ]
    if body:
        expected += [BodyReceived(stream, body), RequestEnded(stream)]
    assert joined(client.events) == expected
    client.events.clear()


def answered(client: Client, exchange: Exchange, stream: int) -> None:
    """Send the response, and check what the client receives."""
    server = client.server
    for status in exchange.informational:
        server.send_head(stream, status, [(b"X-A", b"b")], is_last=False)
    headers = [(b"X-Stream", b"%d" % stream)]
    body = b"".join(exchange.answer)
    if exchange.answer_has_length and exchange.status != 204:
        headers.append((b"Content-Length", b"%d" % len(body)))
    server.send_head(stream, exchange.status, headers, is_last=not exchange.answer)
    for part in exchange.answer:
        server.send_body(stream, part)
    server.end(stream)
    received = client.receive()
    assert [event.status_code for event in received if isinstance(event, h11.InformationalResponse)] == (
        exchange.informational
    )
    (response,) = [event for event in received if isinstance(event, h11.Response)]
    assert response.status_code == exchange.status
    assert (b"x-stream", b"%d" % stream) in response.headers
    has_body = exchange.method != "HEAD" and exchange.status not in {204, 304}
    assert b"".join(event.data for event in received if isinstance(event, h11.Data)) == (body if has_body else b"")
    assert isinstance(received[-1], h11.EndOfMessage)


@FUZZ
@given(exchanges=st.lists(EXCHANGES, min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_conversations(exchanges: list[Exchange], seed: int) -> None:
    """Each request and each response arrives as it was sent, and the connection can be used again."""
    client = Client(random.Random(seed))
    for stream, exchange in enumerate(exchanges, 1):
        requested(client, exchange, stream)
        answered(client, exchange, stream)
        assert not client.server.closes_after(stream)
        client.h11.start_next_cycle()
