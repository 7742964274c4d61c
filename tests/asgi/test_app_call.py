"""AppCall: what an app's call tells the caller's side, here a fake one, and how it treats its app."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from support.asgi_apps import Boom, hello, last, part, sending, start
from support.rows import each_row

from prefect_http._asgi.app_call import GRACE, AppCall
from prefect_http._asgi.patience import Progress
from prefect_http._asgi.request_body import RequestBody, StreamedBody, WholeBody
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._foreign_errors import clear_mark, is_foreign
from prefect_http._types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio

DISCONNECT = {"type": "http.disconnect"}
REQUEST = httpx.Request("POST", "http://app/path")


class FakeSink:
    """A caller's side that logs what it is told.

    Attributes:
        log: what it was told.
        is_full: what it returns for a part of a body.
    """

    def __init__(self) -> None:
        self.log: list[object] = []
        self.is_full = False

    def request_changed(self) -> None:
        self.log.append("request")

    def head_received(self) -> None:
        self.log.append("head")

    def body_received(self, chunk: bytes) -> bool:
        self.log.append(chunk)
        return self.is_full

    def response_ended(self) -> None:
        self.log.append("end")

    async def wait_for_room(self) -> None:
        self.log.append("wait for room")

    async def wait_for_request(self, request_changed: RepeatedEvent) -> None:
        self.log.append("wait for request")
        await request_changed.wait()


def new_call(
    app: ASGIApp, sink: FakeSink, body: RequestBody | None = None, *, raise_app_exceptions: bool = True
) -> AppCall:
    """Return a call that logs its end to the sink."""
    scope: Scope = {"type": "http", "method": "POST", "path": "/path"}
    ended = sink.log.append
    return AppCall(
        app, scope, REQUEST, body or WholeBody(b"content"), sink, raise_app_exceptions, lambda _: ended("over")
    )


async def run(call: AppCall) -> None:
    """Run a call to its end, in a way that is neither of the package's."""
    error: BaseException | None = None
    with anyio.fail_after(5):
        try:
            with call.cancel_scope:
                await call.run_app()
        except Exception as raised:
            error = raised
    call.end(error)


async def test_sink_is_told_of_each_step() -> None:
    """The sink is told of each step, in order, with empty parts and with the end."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"content", "more_body": False}
        await sending(start(), part(b"a"), part(b""), last(b"b"))(scope, receive, send)
        assert await receive() == DISCONNECT

    call = new_call(app, sink := FakeSink())
    await run(call)
    assert sink.log == ["request", "head", b"a", b"", b"b", "end", "over"]
    assert (call.failure, call.is_over, call.is_disconnected) == (None, True, False)


async def test_progress() -> None:
    """The progress says what has been sent and taken so far."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in (receive(), send(start()), send(last())):
            seen.append(call.progress)
            await step

    seen: list[Progress] = []
    await run(call := new_call(app, FakeSink()))
    assert [*seen, call.progress] == [
        Progress(False, False, True, False),
        Progress(False, False, False, False),
        Progress(True, False, False, False),
        Progress(True, True, False, False),
    ]


async def test_app_waits_for_room() -> None:
    """An app waits if the sink says so, but not after the last part."""
    sink = FakeSink()
    sink.is_full = True
    await run(new_call(sending(start(), part(b"a"), last(b"b")), sink))
    assert sink.log == ["head", b"a", "wait for room", b"b", "end", "over"]


@pytest.mark.parametrize("how", ["disconnect", "abort"])
async def test_end_from_the_callers_side(how: str) -> None:
    """A disconnected app is told, and its sink hears nothing more until the end; aborting tells the sink as well."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        assert await receive() == DISCONNECT
        await send(part(b"not heard"))
        for _ in range(10):
            assert await receive() == DISCONNECT

    async def leave() -> None:
        await anyio.wait_all_tasks_blocked()
        if how == "abort":
            call.abort(failure, is_foreign=False)
        call.disconnect(failure)
        assert call.cancel_scope.deadline == pytest.approx(anyio.current_time() + GRACE, abs=0.5)

    failure = httpx.ReadError("enough")
    call = new_call(app, sink := FakeSink())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        await run(call)
    assert sink.log == ["request", "head", "wait for request", *["end"] * (how == "abort"), "end", "over"]
    assert call.failure is failure
    assert not is_foreign(failure, REQUEST)


async def test_streamed_request_body() -> None:
    """The sink is told when the caller's stream has produced a part, and when the app has taken it."""

    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"one"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert [(await receive())["body"] for _ in range(2)] == [b"one", b""]
        await hello(scope, receive, send)

    body = StreamedBody(Stream())
    call = new_call(app, sink := FakeSink(), body)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(body.produce, call.on_request_body, call.on_request_body_error)
        await run(call)
    waits = ["wait for request", "request", "request"]  # produced, taken
    assert sink.log == [*waits, *waits, "head", b"hello", "end", "over"]


async def test_failure_is_raised_once() -> None:
    """The failure is the app's exception, and is raised once; after that, the response is closed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise boom

    boom = Boom()
    await run(call := new_call(app, FakeSink()))
    assert call.failure is boom
    assert is_foreign(boom, REQUEST)
    with pytest.raises(Boom):
        call.raise_failure()
    with pytest.raises(httpx.ReadError, match="the response has been closed"):
        call.raise_failure()


@pytest.mark.parametrize("before", ["nothing", "failure", "disconnect"])
async def test_what_the_caller_does_not_get_is_logged(before: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of the app is logged, once, if it comes too late for the caller, or is not read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if before == "failure":
            call.failure = httpx.ReadTimeout("too late")
        elif before == "disconnect":
            call.disconnect()
        raise Boom

    await run(call := new_call(app, FakeSink()))
    assert len(caplog.records) == (before != "nothing")
    call.disconnect()
    call.disconnect()
    record = caplog.records[-1]
    assert (len(caplog.records), record.levelno) == (1, logging.ERROR)
    assert record.getMessage() == "the app test_what_the_caller_does_not_get_is_logged.<locals>.app: POST /path raised"
    assert call.failure is None


async def test_end_is_final() -> None:
    """Only the first end counts."""
    call = new_call(hello, sink := FakeSink())
    call.end(Boom())
    call.end()
    assert sink.log == ["end", "over"]
    assert type(call.failure) is Boom


@each_row("raises", [False, True])
@each_row("complete", [False, True])
async def test_stray_cancellation(complete: bool, raises: bool) -> None:
    """A call that was cancelled, but not by its caller, breaks a response that is not complete, and only that.

    It is the app's own exception, and not retried, unless app exceptions are treated as a server treats them.
    """
    call = new_call(hello, FakeSink(), raise_app_exceptions=raises)
    if complete:
        await call.run_app()
    clear_mark(REQUEST)  # of another test
    call.note_stray_cancellation()
    call.end()
    assert str(call.failure) == ("None" if complete else "the app's call was cancelled")
    assert call.failure is None or is_foreign(call.failure, REQUEST) == raises
