"""PrefectHttpxClient: what every request can rely on."""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio.testing
from support.cancelled_groups import run_in_cancelled_group
from support.rows import each_row
from support.scripted_transport import AT_ONCE, ONCE, URL, Body, Server, notes_of, raising

from prefect_http import (
    Attempt,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    Receive,
    RetryPolicy,
    Scope,
    Send,
    Throttle,
)
from prefect_http._response import REJECTED

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


# --- The response


@pytest.mark.anyio
@each_row("method", METHODS)
async def test_every_response_is_a_prefect_response(method: str) -> None:
    """Every verb returns a PrefectResponse."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(200)) as client:
            response = await getattr(client, method.lower())(URL)
    assert type(response) is PrefectResponse
    assert response.request.method == method


@pytest.mark.anyio
async def test_a_response_to_request_is_a_prefect_response() -> None:
    """client.request() returns a PrefectResponse, in a subclass that overrides send() as well."""

    class Subclass(PrefectHttpxClient):
        async def send(self, request: httpx.Request, **arguments: Any) -> PrefectResponse:
            return await super().send(request, **arguments)

    with anyio.fail_after(5):
        for kind in (PrefectHttpxClient, Subclass):
            async with kind(transport=Server(200, 200)) as client:
                assert type(await client.request("GET", URL)) is PrefectResponse
                assert type(await client.get(URL)) is PrefectResponse


@pytest.mark.anyio
async def test_a_streamed_response_is_a_prefect_response() -> None:
    """client.stream() yields a PrefectResponse."""
    with anyio.fail_after(5):
        async with (
            PrefectHttpxClient(transport=Server(200)) as client,
            client.stream("GET", URL) as response,
        ):
            assert type(response) is PrefectResponse


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_prefect_response_is_not_copied(stream: bool) -> None:
    """A transport may make a PrefectResponse itself, which is returned as it is."""
    original = PrefectResponse(200, stream=Body([b"body"]))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(original)) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert response is original
            await response.aclose()


@pytest.mark.anyio
async def test_a_response_is_read() -> None:
    """A response that is not streamed has been read and closed when it is returned."""
    body = Body([b"all ", b"of it"])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(200, stream=body))) as client:
            response = await client.get(URL)
    assert response.content == b"all of it"
    assert response.is_closed
    assert body.is_closed


@pytest.mark.anyio
@each_row("status", [200, 204, 299])
async def test_2xx_is_returned(status: int) -> None:
    """Any 2xx is returned."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(status)) as client:
            assert (await client.get(URL)).status_code == status


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("status", [100, 300, 304, 404, 500, 599])
async def test_anything_but_2xx_is_raised_at_once(status: int, stream: bool) -> None:
    """As in httpx, anything but 2xx is a bad status; what the policy does not list is raised after one attempt."""
    server = Server(httpx.Response(status, stream=Body([b"what happened"])))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.send(client.build_request("GET", URL), stream=stream)
    assert server.count == 1
    error = caught.value
    assert error.response.status_code == status
    assert error.response.is_closed
    assert error.response.content == b"what happened"
    assert "what happened" in str(error)
    assert [(attempt.number, attempt.status_code, attempt.delay) for attempt in error.attempts] == [(1, status, None)]
    assert f"{status} is not retried" in notes_of(error)


@pytest.mark.anyio
async def test_a_redirect_that_is_not_followed_is_raised() -> None:
    """A 302 is a bad status if redirects are not followed; the error has the request for its target."""
    server = Server(httpx.Response(302, headers={"Location": "/elsewhere"}))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            with pytest.raises(PrefectHTTPStatusError, match="302 Found") as caught:
                await client.get(URL)
    assert caught.value.response.next_request is not None
    assert caught.value.response.next_request.url == "http://server/elsewhere"


@pytest.mark.anyio
async def test_the_error_carries_a_prefect_response() -> None:
    """The error's response is a PrefectResponse, and its request the one that was sent."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(404)) as client:
            request = client.build_request("GET", URL)
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.send(request)
    assert type(caught.value.response) is PrefectResponse
    assert caught.value.request is request


@pytest.mark.anyio
async def test_the_error_has_no_context() -> None:
    """The error has no exception of an earlier attempt as its context."""
    server = Server(httpx.ReadTimeout("slow"), 503, httpx.ReadError("broken"), 404)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.get(URL)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@each_row("name", ["request", *map(str.lower, METHODS), "stream", "send", "build_request"])
def test_verbs_have_the_signatures_of_httpxs(name: str) -> None:
    """What help() and inspect show of a verb is what httpx has, and ``retry``, with its docstring."""
    ours, theirs = getattr(PrefectHttpxClient, name), getattr(httpx.AsyncClient, name)
    assert inspect.iscoroutinefunction(ours) is inspect.iscoroutinefunction(theirs)
    assert ours.__doc__
    if name != "build_request":
        added = set() if name == "send" else {"retry"}
        assert inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys() | added


# --- raise_on_all_errors=False


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("status", [304, 404, 500])
async def test_a_bad_status_can_be_returned(status: int, stream: bool) -> None:
    """With raise_on_all_errors=False a bad status is returned, read or streamed as requested."""
    body = Body([b"why"])
    server = Server(httpx.Response(status, stream=body))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, raise_on_all_errors=False) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert response.status_code == status
            assert response.is_closed is not stream
            assert await response.aread() == b"why"
    assert type(response) is PrefectResponse
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_bad_status_is_returned_after_the_last_retry(stream: bool) -> None:
    """With raise_on_all_errors=False a 503 is still retried, and the last one is returned whole."""
    bodies = [Body([b"1"]), Body([b"2"]), Body([b"3"])]
    server = Server(*(httpx.Response(503, stream=body) for body in bodies))
    policy = RetryPolicy(max_retries=2, backoff_base=0, jitter=0)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, raise_on_all_errors=False, retry=policy) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert [body.is_closed for body in bodies] == [True, True, not stream]
            assert await response.aread() == b"3"
    assert server.count == 3


@pytest.mark.anyio
async def test_an_exception_is_still_raised() -> None:
    """raise_on_all_errors=False is about statuses; without a response the exception is raised."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=Server(httpx.ConnectError("refused")), raise_on_all_errors=False
        ) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(URL)


@pytest.mark.anyio
async def test_a_body_that_breaks_off_while_its_response_is_returned() -> None:
    """If the body of a response that would be returned breaks off, the error has the note with the attempts."""
    body = Body([b"half", httpx.ReadError("broken")])
    server = Server(httpx.Response(503, stream=body))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, raise_on_all_errors=False, retry=ONCE) as client:
            with pytest.raises(httpx.ReadError) as caught:
                await client.get(URL)
    assert body.is_closed
    assert "attempt" in notes_of(caught.value)


# --- A throttle may reject a good status


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_rejected_good_status_is_retried_and_then_returned(stream: bool) -> None:
    """A 202 that a throttle has marked as a rejection is repeated; when the retries are used up it is returned."""
    policy = RetryPolicy(max_retries=1, backoff_base=0, jitter=0)
    rejected = {REJECTED: True}
    server = Server(
        httpx.Response(202, extensions=rejected), httpx.Response(202, stream=Body([b"later"]), extensions=rejected)
    )
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=policy) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert await response.aread() == b"later"
    assert server.count == 2
    assert [attempt.number for attempt in response.attempts] == [1, 2]
    assert response.attempts[-1].reason == "all retries are used up"


# --- Unusual transports


class OddResponse(httpx.Response):
    """A transport's own response class."""


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_a_transport_may_have_its_own_response_class(stream: bool) -> None:
    """A response of a subclass is not modified; the client returns a PrefectResponse that shares its stream."""
    original = OddResponse(200, stream=Body([b"odd"]), extensions={"odd": True})
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(original)) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            assert await response.aread() == b"odd"
    assert type(original) is OddResponse
    assert type(response) is PrefectResponse
    assert response.extensions["odd"] is True
    assert response.is_closed
    assert original.is_closed
    assert response.elapsed


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_the_error_of_a_transports_own_response_class(stream: bool) -> None:
    """A bad response of a subclass is retried, closed and raised like any other."""
    bodies = [Body([b"first"]), Body([b"second"])]
    server = Server(OddResponse(503, stream=bodies[0]), OddResponse(404, stream=bodies[1]))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError, match=r"404 Not Found .*: second") as caught:
                await client.send(client.build_request("GET", URL), stream=stream)
    assert all(body.is_closed for body in bodies)
    assert type(caught.value.response) is PrefectResponse
    assert caught.value.response.content == b"second"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [httpx.Response, OddResponse])
async def test_a_transport_may_answer_with_the_same_object_each_time(kind: type[httpx.Response]) -> None:
    """A fake that returns the same Response for all requests works, with retries and without."""
    bad, good = kind(503, text="no"), kind(200, text="yes")
    server = Server(bad, bad, good, good, bad, bad)
    policy = RetryPolicy(max_retries=1, backoff_base=0, jitter=0)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=policy) as client:
            with pytest.raises(PrefectHTTPStatusError, match="no"):
                await client.get(URL)
            assert [(await client.get(URL)).text for _ in range(2)] == ["yes", "yes"]
            with pytest.raises(PrefectHTTPStatusError, match="no"):
                await client.get(URL)
    assert server.count == 6


@pytest.mark.anyio
async def test_a_transport_may_raise_the_same_object_each_time() -> None:
    """A fake that raises the same exception for all requests works; the exception is raised unchanged."""
    error = httpx.ReadTimeout("slow")
    server = Server(error, ...)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.ReadTimeout) as caught:
                await client.get(URL)
    assert caught.value is error
    assert server.count == 6


@pytest.mark.anyio
@each_row(
    "error",
    [KeyboardInterrupt(), SystemExit(3), RuntimeError("bug"), OSError("disk"), ValueError("bad")],
)
async def test_other_exceptions_are_not_retried(error: BaseException) -> None:
    """Anything but an httpx.RequestError is raised at once, unchanged."""
    server = Server(error, 200)

    async def get() -> BaseException | None:
        try:
            await client.get(URL)
        except BaseException as raised:
            return raised
        return None

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            assert await get() is error
    assert server.count == 1
    assert not notes_of(error)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")], ids=lambda error: type(error).__name__)
async def test_a_response_is_closed_when_its_body_raises(error: BaseException) -> None:
    """Whatever a body raises while it is read is raised unchanged, and the response is closed."""
    body = Body([b"half", error])
    raised: BaseException | None = None
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(httpx.Response(200, stream=body)), retry=AT_ONCE) as client:
            try:
                await client.get(URL)
            except BaseException as caught:
                raised = caught
    assert raised is error
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.skipif(httpx.__name__ != "httpx", reason="httpx2 closes by itself, and raises what happens there instead")
@pytest.mark.parametrize("error", [httpx.CloseError("gone"), OSError("gone")])
async def test_closing_that_fails_does_not_hide_how_the_body_failed(error: Exception) -> None:
    """If the body breaks off and closing fails as well, the body's exception decides, and is retried."""
    body = Body([b"half", httpx.ReadError("broken")], on_close=raising(error))
    server = Server(httpx.Response(200, stream=body), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            assert (await client.get(URL)).status_code == 200
    assert server.count == 2


@pytest.mark.anyio
@pytest.mark.parametrize("error", [httpx.CloseError("gone"), OSError("gone")])
async def test_a_discarded_response_that_cannot_be_closed(error: Exception) -> None:
    """If closing a discarded response fails, the next attempt is made nevertheless."""
    server = Server(httpx.Response(503, stream=Body([b"no"], on_close=raising(error))), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            assert (await client.get(URL)).status_code == 200


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("error", [httpx.CloseError("gone"), OSError("gone")])
async def test_a_bad_response_that_cannot_be_closed_is_still_raised(error: Exception, stream: bool) -> None:
    """If closing a bad response fails, the status is raised nevertheless."""
    server = Server(httpx.Response(404, stream=Body([b"no such thing"], on_close=raising(error))))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError, match=r"404 Not Found .*no such thing"):
                await client.send(client.build_request("GET", URL), stream=stream)


# --- Garbage


def fail_to_connect(request: httpx.Request) -> httpx.Response:
    """Fail as a transport does."""
    raise httpx.ConnectError("refused", request=request)


def time_out(request: httpx.Request) -> httpx.Response:
    """Fail in a way that is retried."""
    raise httpx.ReadTimeout("slow", request=request)


def refuse(request: httpx.Request) -> httpx.Response:
    """Fail with a status."""
    return httpx.Response(503, text="busy")


def succeed(request: httpx.Request) -> httpx.Response:
    """Succeed."""
    return httpx.Response(200)


@pytest.mark.anyio
@each_row("answer", [fail_to_connect, time_out, refuse, succeed])
async def test_failures_leave_no_garbage_cycles(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """A failed request is freed without the garbage collector: no exception holds the frame that holds it."""
    calls = iter((time_out, answer, answer))

    async def fail() -> None:
        with contextlib.suppress(httpx.ConnectError, httpx.ReadTimeout, PrefectHTTPStatusError):
            await client.get(URL)

    with anyio.fail_after(5):
        policy = RetryPolicy(max_retries=1, backoff_base=0, jitter=0)
        transport = httpx.MockTransport(lambda request: next(calls)(request))
        async with PrefectHttpxClient(transport=transport, retry=policy) as client:
            gc.collect()
            gc.disable()
            try:
                await fail()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                kinds = {type(item) for item in gc.garbage}
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
    # A response of httpx is a cycle by itself, to which the errors of its attempts belong.
    assert not kinds & {PrefectHTTPStatusError, httpx.ConnectError, FrameType, TracebackType}


# --- Checkpoints


async def says_ok(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond without waiting for anything."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def mock(*statuses: int) -> httpx.MockTransport:
    """Return a transport that responds without waiting for anything."""
    answers = iter(statuses)
    return httpx.MockTransport(lambda request: httpx.Response(next(answers, 200)))


@pytest.mark.anyio
@each_row("status", [404, 503])
async def test_a_task_that_is_started_in_a_cancelled_group(status: int) -> None:
    """It is cancelled, although anyio tells it nothing, and does not wait for that in a busy loop."""
    async with PrefectHttpxClient(transport=mock(status), base_url=URL) as client:
        assert await run_in_cancelled_group(lambda: client.get("/"))


EAGER: dict[str, Callable[[], PrefectHttpxClient]] = {
    "app": lambda: PrefectHttpxClient(app=says_ok),
    "mock": lambda: PrefectHttpxClient(transport=mock(), base_url=URL),
    "throttled mock": lambda: PrefectHttpxClient(transport=mock(), throttle=Throttle(), base_url=URL),
    "mounted mock": lambda: PrefectHttpxClient(mounts={"all://": mock()}, base_url=URL),
    "failing mock": lambda: PrefectHttpxClient(transport=httpx.MockTransport(time_out), retry=ONCE, base_url=URL),
    "rejecting mock": lambda: PrefectHttpxClient(
        transport=httpx.MockTransport(refuse), retry=ONCE, raise_on_all_errors=False, base_url=URL
    ),
}


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("kind", EAGER)
async def test_every_send_is_a_checkpoint(kind: str, stream: bool) -> None:
    """Each send() lets other tasks run, and can be cancelled, also if nothing waits in it."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    async def send() -> None:
        with contextlib.suppress(httpx.ReadTimeout):
            await (await client.send(client.build_request("GET", "/"), stream=stream)).aclose()

    with anyio.fail_after(5):
        async with EAGER[kind]() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await anyio.lowlevel.checkpoint()
            before = ticks
            for _ in range(20):
                await send()
            assert ticks - before >= 19
            with anyio.CancelScope() as scope:
                scope.cancel()
                while True:
                    await send()
            assert scope.cancelled_caught
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_cancelled_checkpoint_closes_the_response() -> None:
    """A response that has come without waiting is closed if the caller has been cancelled meanwhile."""
    body = Body([b"x"])

    def respond(request: httpx.Request) -> httpx.Response:
        scope.cancel()
        return httpx.Response(200, stream=body)

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=httpx.MockTransport(respond)) as client:
            with anyio.CancelScope() as scope:
                await client.send(client.build_request("GET", URL), stream=True)
    assert scope.cancelled_caught
    assert body.is_closed


@pytest.mark.trio
async def test_a_response_from_a_network_costs_no_further_checkpoint() -> None:
    """Where the network has been waited for, nothing else is."""

    class Network(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, extensions={"network_stream": object()})

    async with PrefectHttpxClient(transport=Network()) as client:
        with trio.testing.assert_no_checkpoints():
            await client.get(URL)


# --- Several tasks


@pytest.mark.anyio
async def test_two_tasks_on_one_client_do_not_mix() -> None:
    """Concurrent requests have their own attempts and responses."""
    retried: list[tuple[str, int]] = []
    failures = {"/a": 1, "/b": 3, "/c": 0}
    left = dict(failures)

    async def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        await anyio.lowlevel.checkpoint()
        if left[path]:
            left[path] -= 1
            return httpx.Response(503)
        return httpx.Response(200, text=path)

    texts: dict[str, str] = {}

    def on_retry(request: httpx.Request, attempt: Attempt) -> None:
        retried.append((request.url.path, attempt.number))

    async def get(path: str) -> None:
        texts[path] = (await client.get(f"http://server{path}")).text

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(answer, ...), retry=AT_ONCE, on_retry=on_retry) as client:
            async with anyio.create_task_group() as group:
                for path in failures:
                    group.start_soon(get, path)
    assert texts == {path: path for path in failures}
    assert sorted(retried) == [("/a", 1), ("/b", 1), ("/b", 2), ("/b", 3)]


@pytest.mark.anyio
async def test_one_tasks_failure_is_its_own() -> None:
    """A request that gives up, or is cancelled, does not affect another one."""
    waiting = anyio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/bad":
            return httpx.Response(404)
        if request.url.path == "/slow":
            waiting.set()
            await anyio.sleep_forever()
        await waiting.wait()
        return httpx.Response(200)

    async def slow() -> None:
        with scope:
            await client.get("http://server/slow")

    scope = anyio.CancelScope()
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(answer, ...), retry=AT_ONCE) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(slow)
                with pytest.raises(PrefectHTTPStatusError):
                    await client.get("http://server/bad")
                assert (await client.get("http://server/good")).status_code == 200
                scope.cancel()
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_the_same_request_can_be_sent_twice() -> None:
    """A request with a body of bytes can be sent again, by the caller as well as by a retry."""
    server = Server(503, 200, 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            request = client.build_request("POST", URL, content=b"body")
            await client.send(request)
            await client.send(request)
    assert [seen.body for seen in server.seen] == [b"body"] * 4
