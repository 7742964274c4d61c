"""What a transport tells of itself, and what limits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportStatistics:
    """A snapshot of an HTTPTransport.

    Attributes:
        connections: the number of connections that are open or being opened.
        idle: the number of open connections that no request uses.
        waiting: the number of requests that wait for a connection.
        streams: the number of requests on HTTP/2 connections, each of which several requests may share.
    """

    connections: int
    idle: int
    waiting: int
    streams: int = 0


class Limits(Protocol):
    """What httpx.Limits and httpx2.Limits have."""

    max_connections: int | None
    max_keepalive_connections: int | None
    keepalive_expiry: float | None
