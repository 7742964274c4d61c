"""Log: all that has happened in a network."""

from __future__ import annotations

from prefect_http.testing._received import FakeConnection, ReceivedRequest


class Log:
    """All that has happened in a network.

    Attributes:
        requests: what has arrived.
        connections: what has been opened.
        mistakes: what went wrong in the test, in words.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.connections: list[FakeConnection] = []
        self.mistakes: list[str] = []
