"""What servers have received: requests, and connections."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from prefect_http.testing._operations import Fields


class ReceivedRequest:
    """A request that has arrived at a server.

    Attributes:
        method: the method.
        time: when its head arrived, in seconds on the event loop's clock.
        connection: the connection that it arrived on.
        is_complete: whether all of it has arrived.
        path_parameters: the values for the braces in the route's path.
        status: the status of the answer; None: no answer was sent.
        is_answered: whether the whole answer was sent.
        ended_at: when the answer had been sent, or the connection broke, or the client gave up; None: not yet.
        target: what was requested, as in the request line: ``/path?query``.
    """

    __slots__ = (
        "_fields",
        "_headers",
        "_origin",
        "_parts",
        "_url",
        "connection",
        "ended_at",
        "is_answered",
        "is_complete",
        "method",
        "path_parameters",
        "status",
        "target",
        "time",
    )

    def __init__(
        self,
        method: str,
        origin: tuple[str, bytes],
        target: str,
        fields: Fields,
        time: float,
        connection: FakeConnection,
        parts: list[bytes],
    ) -> None:
        self.method: str = method
        self.time: float = time
        self.connection: FakeConnection = connection
        self.is_complete: bool = False
        self.path_parameters: dict[str, str] = {}
        self.status: int | None = None
        self.is_answered: bool = False
        self.ended_at: float | None = None
        self.target: str = target
        self._origin = origin
        self._fields = fields
        self._parts = parts  # which the connection adds to
        self._url: httpx.URL | None = None
        self._headers: httpx.Headers | None = None

    @property
    def url(self) -> httpx.URL:
        """The URL that was requested."""
        if self._url is None:
            scheme, authority = self._origin
            target = self.target
            is_whole = not target.startswith("/") and "://" in target
            path = target if target.startswith("/") else ""
            self._url = httpx.URL(target if is_whole else f"{scheme}://{authority.decode('latin-1')}{path}")
        return self._url

    @property
    def headers(self) -> httpx.Headers:
        """Its header fields."""
        if self._headers is None:
            self._headers = httpx.Headers(self._fields)
        return self._headers

    @property
    def body(self) -> bytes:
        """Its body, as far as it has arrived."""
        if len(self._parts) > 1:
            self._parts[:] = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    @property
    def text(self) -> str:
        """Its body as text, decoded from UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return its body, decoded from JSON."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<ReceivedRequest({self.method} {self.url!s})>"


@dataclass(eq=False)
class FakeConnection:
    """A connection to a server.

    Attributes:
        number: how many connections were opened before it in the network.
        host: the host that it connects to.
        port: the port.
        opened_at: when it was opened, in seconds on the event loop's clock.
        http_version: "HTTP/1.1" or "HTTP/2"; None: nothing has arrived on it.
        closed_at: when it was closed; None: it is open.
        closed_by: "client" or "server".
        requests: the requests that have arrived on it. All but the first have reused it.
    """

    number: int
    host: str
    port: int
    opened_at: float
    http_version: str | None = None
    closed_at: float | None = None
    closed_by: Literal["client", "server"] | None = None
    requests: list[ReceivedRequest] = field(default_factory=list[ReceivedRequest], repr=False)

    @property
    def is_reused(self) -> bool:
        """Whether more than one request has arrived on it."""
        return len(self.requests) > 1
