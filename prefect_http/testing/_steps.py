"""Steps: what a server does with a request, as a script says: a reply, or a fault. Pure."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prefect_http.testing._operations import (
    Answer,
    AsyncAnswer,
    Body,
    Close,
    Cut,
    End,
    Fields,
    GoAway,
    Head,
    Operation,
    Raw,
    Reset,
    TurnStale,
    Wait,
    Whole,
)
from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._reply import Reply, answer_with, sent_at_once

Function = Callable[[ReceivedRequest], Reply | Awaitable[Reply]]


class Step(abc.ABC):
    """What a server does with one request.

    Attributes:
        is_early: whether it is done as soon as the head of the request has arrived.
        whole: the one operation that is all of it; None: there are others.
    """

    is_early = False
    whole: Whole | None = None

    @abc.abstractmethod
    def answer(self, request: ReceivedRequest) -> Answer | AsyncAnswer:
        """Return the operations. What has to wait for something runs in a task."""


class ReplyStep(Step):
    """Sends a reply."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.whole = sent_at_once(reply)

    def answer(self, request: ReceivedRequest) -> Answer:
        return answer_with(self.reply)

    def __str__(self) -> str:
        return f"reply({self.reply.status})"


@dataclass(frozen=True, slots=True)
class FunctionStep(Step):
    """Sends the reply that a function of the request returns, which may be async."""

    function: Function

    def answer(self, request: ReceivedRequest) -> Answer | AsyncAnswer:
        reply = self.function(request)
        return self._answer_later(reply) if isinstance(reply, Awaitable) else answer_with(self._checked(reply))

    async def _answer_later(self, reply: Awaitable[Reply]) -> AsyncAnswer:
        for operation in answer_with(self._checked(await reply)):
            yield operation

    def _checked(self, reply: object) -> Reply:
        if isinstance(reply, Reply):
            return reply
        raise TypeError(f"the function of {self} must return a Reply, not {type(reply).__name__}")

    def __str__(self) -> str:
        return f"call({getattr(self.function, '__qualname__', repr(self.function))})"


@dataclass(frozen=True, slots=True)
class Drop(Step):
    """Breaks the connection off in the middle of a reply."""

    reply: Reply
    after: int

    def answer(self, request: ReceivedRequest) -> Answer:
        yield Cut(self.after, is_reset=False)
        yield from answer_with(self.reply, in_parts=True)  # the end is sent only if it is not cut off

    def __str__(self) -> str:
        return f"drop(after={self.after})"


@dataclass(frozen=True, slots=True)
class Drip(Step):
    """Sends the body of a reply in small parts, each after a pause."""

    reply: Reply
    every: float
    size: int

    def answer(self, request: ReceivedRequest) -> Answer:
        content = self.reply.body
        assert isinstance(content, bytes)
        if self.reply.delay:
            yield Wait(self.reply.delay)
        yield Head(self.reply.status, self.reply.fields, not content)
        for start in range(0, len(content), self.size):
            yield Wait(self.every)
            yield Body(content[start : start + self.size])
        yield End()

    def __str__(self) -> str:
        return f"drip(every={self.every:g})"


@dataclass(frozen=True, slots=True)
class Hang(Step):
    """Never answers."""

    def answer(self, request: ReceivedRequest) -> Answer:
        return iter(())

    def __str__(self) -> str:
        return "hang()"


@dataclass(frozen=True, slots=True)
class ResetStep(Step):
    """Resets the connection, or the stream of HTTP/2, instead of an answer."""

    def answer(self, request: ReceivedRequest) -> Answer:
        yield Reset()

    def __str__(self) -> str:
        return "reset()"


@dataclass(frozen=True, slots=True)
class Refuse(Step):
    """Refuses the connection. A request that arrives on an open one finds that it is being closed."""

    is_early = True

    def answer(self, request: ReceivedRequest) -> Answer:
        yield Close()

    def __str__(self) -> str:
        return "refuse()"


@dataclass(frozen=True, slots=True)
class StaleKeepAlive(Step):
    """Closes the connection just as a request arrives that reuses it. One that opened the connection is answered."""

    reply: Reply

    def answer(self, request: ReceivedRequest) -> Answer:
        if request.connection.is_reused:
            yield Close()
        else:
            yield TurnStale()
            yield from answer_with(self.reply)

    def __str__(self) -> str:
        return "stale_keep_alive()"


@dataclass(frozen=True, slots=True)
class EarlyAnswer(Step):
    """Answers before the body of the request has arrived, and takes no more of it."""

    is_early = True
    reply: Reply

    def answer(self, request: ReceivedRequest) -> Answer:
        is_http1 = request.connection.http_version == "HTTP/1.1"
        answer = answer_with(self.reply)
        yield from map(_closing, answer) if is_http1 else answer

    def __str__(self) -> str:
        return f"early_answer({self.reply.status})"


@dataclass(frozen=True, slots=True)
class Garbage(Step):
    """Sends bytes that are no response, and closes the connection."""

    data: bytes

    def answer(self, request: ReceivedRequest) -> Answer:
        yield Raw(self.data)
        yield Close()

    def __str__(self) -> str:
        return f"garbage({self.data[:20]!r})"


@dataclass(frozen=True, slots=True)
class GoAwayStep(Step):
    """Says that the connection is going away, and that the request has not been processed. HTTP/2."""

    is_early = True

    def answer(self, request: ReceivedRequest) -> Answer:
        if request.connection.http_version != "HTTP/2":
            raise ValueError(
                f"goaway() needs HTTP/2, but {request.method} {request.url} arrived over HTTP/1.1; "
                "give the client http2=True, or use stale_keep_alive()"
            )
        yield GoAway()

    def __str__(self) -> str:
        return "goaway()"


def _closing(operation: Operation) -> Operation:
    """Let a head say that nothing can follow on the connection."""
    match operation:
        case Head(status, fields, is_last):
            return Head(status, _with_close(fields), is_last)
        case Whole(status, fields, body):
            return Whole(status, _with_close(fields), body)
        case _:
            return operation


def _with_close(fields: Fields) -> Fields:
    return (*(field for field in fields if field[0].lower() != b"connection"), (b"Connection", b"close"))
