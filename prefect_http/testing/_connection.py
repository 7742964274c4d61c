"""The server's end of a connection in memory: what arrives goes in, and what is due comes out. No waiting here."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from typing import Literal, Protocol

from prefect_http._wire.h2.errors import INTERNAL_ERROR
from prefect_http._wire.h2.settings import PREFACE
from prefect_http.testing._events import (
    BodyReceived,
    RequestBegun,
    RequestCancelled,
    RequestEnded,
    ServerProtocol,
)
from prefect_http.testing._exchange import Exchange
from prefect_http.testing._feed import Feed
from prefect_http.testing._h1_server import H1Server
from prefect_http.testing._h2_server import H2Server
from prefect_http.testing._operations import (
    Body,
    Close,
    Cut,
    End,
    Fields,
    Head,
    Operation,
    Raw,
    Reset,
    TurnStale,
    Wait,
    Whole,
)
from prefect_http.testing._received import FakeConnection, ReceivedRequest
from prefect_http.testing._steps import Step

# How much may wait for the client before an answer goes on.
_MAX_AHEAD = 64 * 1024
_FIRST_LINE = PREFACE[: PREFACE.index(b"\n") + 1]
_WHEN_THERE_IS_ROOM = -math.inf


class Script(Protocol):
    """What says what is to be done with requests."""

    def begin(self, request: ReceivedRequest) -> tuple[Step, Fields]:
        """Return what is to be done with a request whose head has arrived, and the fields to add to the answer.

        Raises:
            Exception: nothing is; it is raised by the client's request.
        """
        ...

    def is_down(self) -> bool:
        """Return whether the server refuses connections, so that those which are idle have been closed as well."""
        ...

    def ended(self, request: ReceivedRequest, now: float) -> None:
        """Take note that the answer to a request has ended, whole or not."""
        ...

    def failed(self, error: Exception) -> None:
        """Take note of a mistake in the test."""
        ...


class ServerConnection:
    """The server's end of a connection.

    Args:
        record: its entry in ``FakeNetwork.connections``.
        scheme: http or https.
        script: what is to be done with requests.
        now: the event loop's clock.
        wake: called when there may be something new for the client.

    Attributes:
        record: as given.
        scheme: as given.
        is_secure: whether there was a TLS handshake.
        alpn: the protocol that was chosen in the TLS handshake; None: there was none, and the client's bytes tell.
        next_due: when something is to be done; infinity: when something arrives.
        end: how the server has ended the connection: "closed" or "reset"; None: it has not.
        failure: a mistake in the test, to be raised by the client's requests.
    """

    def __init__(
        self,
        record: FakeConnection,
        scheme: str,
        script: Script,
        now: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self.record = record
        self.scheme = scheme
        self.is_secure = False
        self.alpn: str | None = None
        self.next_due = math.inf
        self.end: Literal["closed", "reset"] | None = None
        self.failure: Exception | None = None
        self._script = script
        self._now = now
        self._wake = wake
        self._protocol: ServerProtocol | None = None
        self._http2: H2Server | None = None  # the same, if it is that
        self._exchanges: dict[int, Exchange] = {}  # in the order of their arrival, until they are answered
        self._output = bytearray()
        self._cut: Cut | None = None
        self._cut_by: Exchange | None = None
        self._is_stale = False
        self._is_deaf = False  # after an early answer: what the client still sends is dropped
        self._last_kept = math.inf  # the last stream in a GOAWAY
        self._due: float | None = None  # when what is being done was due: the client may look late

    # --- For the client's end

    def receive(self, data: bytes) -> None:
        """Take what the client sends."""
        if self.end is not None or self._is_deaf or self.failure is not None:
            return
        try:
            now = self._now()
            protocol = self._protocol or self._choose(data)
            for event in protocol.receive(data):
                if isinstance(event, RequestBegun):
                    self._begin(event, now)
                else:
                    self._handle(event, now)
                if self.end is not None:
                    return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # also that of pytest.fail()
            self._fail(error)
        self.advance()

    def advance(self) -> None:
        """Do what is due."""
        self.next_due = math.inf
        exchanges = self._exchanges
        if not exchanges:
            self._collect()
            return
        now = self._now()
        has_finished = True
        while has_finished and exchanges:  # on HTTP/1.1, the next one has its turn
            has_finished = False
            self.next_due = math.inf
            for exchange in list(exchanges.values()) if self._http2 is not None else [next(iter(exchanges.values()))]:
                if exchange.answer is not None and exchange.due <= now:
                    has_finished |= self._go_on(exchange, now)
                if self.end is not None:
                    break
                if now < exchange.due < self.next_due:
                    self.next_due = exchange.due
        if not has_finished:  # otherwise that was done when the last one did
            self._collect()

    @property
    def has_news(self) -> bool:
        """Whether there is something for the client: data, the end of the connection, or a mistake in the test."""
        return bool(self._output) or self.end is not None or self.failure is not None

    def take(self, max_bytes: int) -> bytes:
        """Take what has been sent to the client; ``b""``: nothing has."""
        if self.next_due < math.inf and self.next_due <= self._now():
            self.advance()
        output = self._output
        if not output:
            return b""
        if len(output) <= max_bytes:
            data = bytes(output)
            output.clear()
        else:
            data = bytes(output[:max_bytes])
            del output[:max_bytes]
        if self._exchanges:
            self.advance()  # there is room for more; and what has been taken may have been the end
        return data

    def peek(self) -> bytes | None:
        """Return what the client would receive now; ``b""`` for the end of the connection; None: nothing."""
        if self._exchanges:
            self.advance()
        if not self._exchanges and self._script.is_down():
            self._end_connection("closed")
        if self._output:
            return bytes(self._output)
        return None if self.end is None else b""

    def close_by_client(self) -> None:
        """Take note that the client has closed the connection."""
        self._close_record("client")
        self._end_exchanges()

    # --- Requests

    def _choose(self, data: bytes) -> ServerProtocol:
        if self.scheme == "https" and not self.is_secure:
            place = f"{self.record.host}:{self.record.port}"
            raise ValueError(f"the client sent http to the FakeServer at {place}, which speaks https")
        if self.alpn == "h2" or (self.alpn is None and data.startswith(_FIRST_LINE)):
            self._protocol = self._http2 = H2Server()
            self.record.http_version = "HTTP/2"
        else:
            self._protocol = H1Server()
            self.record.http_version = "HTTP/1.1"
        return self._protocol

    def _handle(self, event: BodyReceived | RequestEnded | RequestCancelled, now: float) -> None:
        exchange = self._exchanges.get(event.stream)
        if exchange is None:  # answered already
            return
        if isinstance(event, BodyReceived):
            exchange.parts.append(event.data)
        elif isinstance(event, RequestEnded):
            self._complete(exchange, now)
        else:
            self._forget(exchange)

    def _begin(self, event: RequestBegun, now: float) -> None:
        stream, method, target, headers, authority, is_last, expects_continue = event
        if stream > self._last_kept:
            return
        if self._is_stale:
            self._end_connection("closed")
            return
        record = self.record
        parts: list[bytes] = []
        request = ReceivedRequest(
            method.decode("latin-1"),
            (self.scheme, authority),
            target.decode("latin-1"),
            headers,
            now,
            record,
            parts,
        )
        record.requests.append(request)
        step, fields = self._script.begin(request)
        if is_last and self._answer_at_once(stream, request, step, fields):
            return
        exchange = self._exchanges[stream] = Exchange(stream, request, parts, step, fields)
        if step.is_early:
            self._answer(exchange, now)
            self._is_deaf = self._http2 is None and not is_last  # nothing follows on the connection
            # Before other requests that came with it: GOAWAY concerns these, and does not wait for room.
            self._go_on(exchange, now, at_once=True)
        if is_last:
            self._complete(exchange, now)
        elif expects_continue and not step.is_early:
            assert self._protocol is not None
            self._protocol.send_head(stream, 100, (), is_last=False)

    def _answer_at_once(self, stream: int, request: ReceivedRequest, step: Step, fields: Fields) -> bool:
        """Send a reply, unless something holds it up. Most replies are sent like that, in half the time."""
        whole, protocol = step.whole, self._protocol
        assert protocol is not None
        if (
            whole is None
            or (self._exchanges and self._http2 is None)  # on HTTP/1.1, it is not its turn
            or self._cut is not None
            or len(self._output) >= _MAX_AHEAD
            or not protocol.has_room(stream, len(whole.body))
        ):
            return False
        request.is_complete = request.is_answered = True
        request.status = status = whole.status
        protocol.send_response(stream, status, whole.fields + fields, whole.body)
        self._collect()
        self._script.ended(request, request.time)
        if protocol.closes_after(stream) or (not self._exchanges and self._script.is_down()):
            self._end_connection("closed")
        return True

    def _complete(self, exchange: Exchange, now: float) -> None:
        exchange.request.is_complete = True
        if exchange.answer is None:
            self._answer(exchange, now)

    def _answer(self, exchange: Exchange, now: float) -> None:
        exchange.due = now
        answer = exchange.step.answer(exchange.request)
        if isinstance(answer, AsyncGenerator):

            def resume() -> None:
                exchange.due = self._now()
                self.advance()  # whether the client looks or not
                self._wake()

            exchange.answer = exchange.feed = Feed(answer, resume, self._fail)
        else:
            exchange.answer = answer

    # --- Answers

    def _go_on(self, exchange: Exchange, now: float, *, at_once: bool = False) -> bool:
        """Send what is due of an answer, and what the client has room for. Return whether it has ended.

        Args:
            exchange: whose answer it is.
            now: the time.
            at_once: whether the first operation is done even if there is no room.
        """
        assert exchange.answer is not None
        stream = exchange.stream
        if exchange.due == _WHEN_THERE_IS_ROOM:
            exchange.due = now
        self._due = exchange.due
        try:
            while at_once or not (exchange.has_ended or self._is_held(stream)):
                at_once = False
                operation = next(exchange.answer, None)
                if operation is None:  # the client waits for the rest for ever
                    exchange.due = math.inf
                    return False
                if isinstance(operation, Wait):
                    self._due = exchange.due = exchange.due + operation.seconds
                    if exchange.due > now:
                        return False
                    continue
                self._do(exchange, operation)
                if self.end is not None:
                    return False
            if exchange.has_ended:
                self._collect()
                if self.end is not None:  # the answer was cut off
                    return False
                if self._http2 is None or not self._http2.is_sending(stream):
                    self._finish(exchange)
                    return True
            exchange.due = _WHEN_THERE_IS_ROOM
        except Exception as error:
            exchange.due = math.inf
            self._fail(error)
        finally:
            self._due = None
        return False

    def _is_held(self, stream: int) -> bool:
        """Return whether the client has to receive something before an answer goes on."""
        return len(self._output) >= _MAX_AHEAD or (self._http2 is not None and self._http2.is_sending(stream))

    def _do(self, exchange: Exchange, operation: Operation) -> None:
        protocol, stream = self._protocol, exchange.stream
        assert protocol is not None
        match operation:
            case Whole(status, fields, body):
                exchange.request.status = status
                protocol.send_response(stream, status, fields + exchange.fields, body)
                exchange.has_ended = True
            case Head(status, fields, is_last):
                exchange.request.status = status
                protocol.send_head(stream, status, fields + exchange.fields, is_last=is_last)
                exchange.has_ended = is_last
            case Body(data):
                protocol.send_body(stream, data)
                self._collect()  # so that it is known how much waits for the client
            case End():
                protocol.end(stream)
                exchange.has_ended = True
            case Raw(data):
                self._collect()
                self._emit(data)
            case Cut():
                self._collect()
                self._cut, self._cut_by = operation, exchange
            case Close():
                self._collect()
                self._end_connection("closed")
            case Reset() if self._http2 is not None:
                self._http2.reset(stream, INTERNAL_ERROR)
                self._forget(exchange)
            case Reset():
                self._collect()
                self._end_connection("reset")
            case TurnStale():
                self._is_stale = True
            case _:  # GoAway
                assert self._http2 is not None
                self._last_kept = max(stream - 2, 0)
                self._http2.goaway(self._last_kept)
                self._forget(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """End an answer that has been sent."""
        assert self._protocol is not None
        if self._cut_by is exchange:
            raise ValueError(f"{exchange.step}: the whole answer is shorter than that, head and body")
        exchange.request.is_answered = True
        self._forget(exchange)
        if self._protocol.closes_after(exchange.stream):
            self._end_connection("closed")

    def _forget(self, exchange: Exchange) -> None:
        del self._exchanges[exchange.stream]
        self._end_exchange(exchange)
        if not self._exchanges and (self._last_kept < math.inf or self._script.is_down()):
            self._collect()
            self._end_connection("closed")

    # --- Output, and the end

    def _collect(self) -> None:
        """Take what the protocol has to send."""
        if self.end is None and self._protocol is not None and (data := self._protocol.take_output()):
            self._emit(data)

    def _emit(self, data: bytes) -> None:
        cut = self._cut
        if cut is None:
            self._output += data
            return
        self._output += data[: cut.after]
        self._cut = Cut(max(cut.after - len(data), 0), is_reset=cut.is_reset)
        if len(data) >= cut.after:
            self._end_connection("reset" if cut.is_reset else "closed")

    def _end_connection(self, end: Literal["closed", "reset"]) -> None:
        if self.end is None:
            self.end = end
            self._close_record("server")
            self._end_exchanges()
            self._wake()

    def _close_record(self, side: Literal["client", "server"]) -> None:
        if self.record.closed_by is None:
            self.record.closed_by = side
            self.record.closed_at = self._time()

    def _end_exchanges(self) -> None:
        self.next_due = math.inf
        while self._exchanges:
            _, exchange = self._exchanges.popitem()
            self._end_exchange(exchange)

    def _end_exchange(self, exchange: Exchange) -> None:
        if exchange.feed is not None:
            exchange.feed.cancel()
        elif (close := getattr(exchange.answer, "close", None)) is not None:  # it is a generator
            try:
                close()
            except Exception as error:
                self._fail(error)
        self._script.ended(exchange.request, self._time())

    def _time(self) -> float:
        return self._now() if self._due is None else self._due

    def _fail(self, error: BaseException) -> None:
        """Take note of a mistake in the test, which the client's requests raise."""
        if not isinstance(error, Exception):  # which would end the tasks of an HTTP/2 connection
            outcome, error = error, AssertionError(f"{type(error).__name__}: {error}")
            error.__cause__ = outcome
        self.failure = self.failure or error
        self._script.failed(error)
        self._wake()
