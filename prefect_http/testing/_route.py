"""Route: the requests that a script is for, and the script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, Unpack

from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._reply import ONCE, Reply, ReplyArguments, checked_seconds
from prefect_http.testing._rule import Rule
from prefect_http.testing._steps import (
    Drip,
    Drop,
    EarlyAnswer,
    Function,
    FunctionStep,
    Garbage,
    GoAwayStep,
    Hang,
    Refuse,
    ReplyStep,
    ResetStep,
    StaleKeepAlive,
    Step,
)


class Route:
    """A script for some of a server's requests: what the server does with the first one, the next one, and so on.

    Created by the methods of a FakeServer, such as ``get()``. Each method adds a step to the script and returns the
    route, so that calls can be chained. A step is for one request, or for the number that ``times`` says; None: for all
    that follow. ``status``, ``headers``, ``content``, ``json``, ``text``, ``stream`` and ``delay`` are those of a
    `Reply`.
    """

    _rule: Rule

    def __str__(self) -> str:
        return str(self._rule)

    def __repr__(self) -> str:
        return f"<Route({self})>"

    @property
    def requests(self) -> Sequence[ReceivedRequest]:
        """The requests that this route has handled, in order."""
        return self._rule.requests

    def reply(self, status: int = 200, *, times: int | None = 1, **reply: Unpack[ReplyArguments]) -> Self:
        """Send a response."""
        return self._add(ReplyStep(_reply(status, times, reply)), times)

    def call(self, function: Function, *, times: int | None = None) -> Self:
        """Send what a function returns.

        Args:
            function: called with the ReceivedRequest, once its body has arrived; returns a Reply. If it is async, it
                runs in a separate task, which is cancelled when the connection is closed. An exception that it raises
                is a mistake in the test, and is raised by the request.
            times: for how many requests; None: for all that follow.
        """
        if not callable(function):
            raise TypeError(f"call() takes a function of the request, not {function!r}")
        return self._add(FunctionStep(function), times)

    def drop(
        self, after: int = 0, status: int = 200, *, times: int | None = 1, **reply: Unpack[ReplyArguments]
    ) -> Self:
        """Close the connection in the middle of a response.

        Args:
            after: how many bytes of it to send first, head and body; 0 or more.
            status: of the response.
            times: for how many requests; None: for all that follow.
            **reply: the rest of the response.
        """
        if not isinstance(after, int) or isinstance(after, bool) or after < 0:
            raise ValueError(f"after must be a number of bytes, 0 or more, not {after!r}")
        return self._add(Drop(_reply(status, times, reply), after), times)

    def drip(
        self,
        status: int = 200,
        *,
        every: float,
        size: int = 1,
        times: int | None = 1,
        **reply: Unpack[ReplyArguments],
    ) -> Self:
        """Send the body slowly.

        Args:
            status: of the response.
            every: how many seconds pass before each part; 0 or more.
            size: how many bytes a part has; 1 or more.
            times: for how many requests; None: for all that follow.
            **reply: the rest of the response, except ``stream``.
        """
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"size must be a number of bytes, 1 or more, not {size!r}")
        if reply.get("stream") is not None:
            raise TypeError("drip() takes content=, json= or text=, not stream=")
        return self._add(Drip(_reply(status, times, reply), checked_seconds("every", every), size), times)

    def hang(self, *, times: int | None = 1) -> Self:
        """Never answer. The connection stays open."""
        return self._add(Hang(), times)

    def reset(self, *, times: int | None = 1) -> Self:
        """Reset the connection when the request has arrived; over HTTP/2, only its stream."""
        return self._add(ResetStep(), times)

    def refuse(self, *, times: int | None = 1) -> Self:
        """Refuse the connection.

        While this is the next step of any route, all connections to the server are refused, and each one counts as a
        request, since it is unknown what it would have been for. Idle connections are closed, as by a server that goes
        down. A request on an HTTP/2 connection that is still open finds that the connection is being closed, and does
        not count.
        """
        return self._add(Refuse(), times)

    def stale_keep_alive(self, status: int = 200, *, times: int | None = 1, **reply: Unpack[ReplyArguments]) -> Self:
        """Close the connection just as a request that reuses it arrives, as at the end of a server's keep-alive time.

        This cannot happen to the first request on a connection. That is answered, by default with an empty 200, and the
        connection is closed as soon as the next request arrives on it.
        """
        return self._add(StaleKeepAlive(_reply(status, times, reply)), times)

    def early_answer(self, status: int = 413, *, times: int | None = 1, **reply: Unpack[ReplyArguments]) -> Self:
        """Answer as soon as the head of the request has arrived, and do not read the body."""
        return self._add(EarlyAnswer(_reply(status, times, reply)), times)

    def garbage(self, data: bytes, *, times: int | None = 1) -> Self:
        """Send these bytes instead of a valid response, and close the connection."""
        if not isinstance(data, bytes):
            raise TypeError(f"garbage() takes bytes, not {type(data).__name__}")
        return self._add(Garbage(data), times)

    def goaway(self, *, times: int | None = 1) -> Self:
        """Send a GOAWAY that says that the request has not been processed (RFC 9113 section 6.8). HTTP/2 only."""
        return self._add(GoAwayStep(), times)

    def _add(self, step: Step, times: int | None) -> Self:
        self._rule.add(step, times)
        return self


def new_route(rule: Rule) -> Route:
    """Return the route whose script is that of a rule."""
    route = Route()
    route._rule = rule  # pyright: ignore[reportPrivateUsage]
    return route


def _reply(status: int, times: int | None, arguments: ReplyArguments) -> Reply:
    reply = Reply(status, **arguments)
    if times != 1 and reply.is_for_once:
        raise TypeError(f"times={times}, but stream= is an iterator, and {ONCE}")
    return reply
