"""PrefectHttpxClient(app=...): lifespan, state, retries, errors, and requests whose response is read whole."""

from __future__ import annotations

import gzip
import logging
import pickle
from collections.abc import Generator
from typing import Any, cast

import anyio
import httpx
import pytest
import trio
from starlette.applications import Starlette
from support.asgi_apps import (
    ONCE,
    Boom,
    FakeApp,
    app_client,
    endless,
    hang,
    hello,
    last,
    listen,
    part,
    sending,
    start,
    wait_until,
)
from support.lifespan_apps import nothing_left
from support.rows import each_row
from support.scripted_transport import URL, Server, notes_of

from prefect_http import (
    ASGITransport,
    LifespanCrashed,
    LifespanShutdownError,
    LifespanStartupError,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RetryPolicy,
    Throttle,
    app_lifespan_context,
)
from prefect_http._types import ASGIApp, Receive, Scope, Send

AT_ONCE = RetryPolicy(max_retries=3, backoff_base=0, jitter=0)


@pytest.mark.anyio
async def test_client_runs_the_lifespan() -> None:
    """Entering the client starts the app, leaving it stops the app; requests run in between."""
    app = FakeApp(hello)
    async with PrefectHttpxClient(app=app) as client:
        response = await client.get("/")
        assert isinstance(response, PrefectResponse)
        assert response.text == "hello"
    assert app.log == ["startup", "returned", "shutdown"]


@pytest.mark.anyio
@pytest.mark.parametrize("throttle", [None, Throttle()], ids=["", "throttled"])
async def test_client_has_the_lifespan(throttle: Throttle | None) -> None:
    """While the client is entered, it has the app's lifespan, which all who hold the app share."""
    app = FakeApp(hello, state={"color": "red"})
    client = PrefectHttpxClient(app=app, throttle=throttle)
    assert client.lifespan is None
    async with app_lifespan_context(app) as lifespan:
        async with client:
            assert client.lifespan is lifespan
            assert (lifespan.app, lifespan.state, lifespan.supported) == (app, {"color": "red"}, True)
        assert client.lifespan is None


@pytest.mark.anyio
async def test_client_without_an_app_has_no_lifespan() -> None:
    """A client of a network has none, and one of an app that does not start neither."""
    async with PrefectHttpxClient() as client:
        assert client.lifespan is None
    failing = PrefectHttpxClient(app=FakeApp(hello, state=cast(Any, 3)))
    with pytest.raises(LifespanStartupError):
        await failing.__aenter__()
    assert failing.lifespan is None


@pytest.mark.anyio
async def test_clients_share_the_lifespan() -> None:
    """Several clients and contexts of one app share one lifespan, in whatever order they leave."""
    app = FakeApp(hello)
    first, second = PrefectHttpxClient(app=app), PrefectHttpxClient(app=app)
    await first.__aenter__()
    async with app_lifespan_context(app):
        await second.__aenter__()
        await first.aclose()
    await second.get("/")
    await second.__aexit__()
    assert app.log == ["startup", "returned", "shutdown"]


@pytest.mark.anyio
async def test_each_request_has_a_shallow_copy_of_the_state() -> None:
    """What a request adds to its state stays there; the objects in the state are shared."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["mine"] = True
        scope["state"]["shared"].append(len(scope["state"]))
        await hello(scope, receive, send)

    app = FakeApp(handler, state={"shared": []})
    async with app_client(app) as client:
        await client.get("/")
        async with client.stream("GET", "/") as response:
            await response.aread()
    assert app.scopes[0]["state"]["shared"] == [2, 2]
    assert app.scopes[0]["state"] is not app.scopes[1]["state"]


@pytest.mark.anyio
async def test_app_without_a_lifespan_has_an_empty_state() -> None:
    """An app that does not support the lifespan protocol still gets its requests."""
    states: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        states.append(scope["state"])
        await hello(scope, receive, send)

    async with app_client(app) as client:
        assert (await client.get("/")).text == "hello"
    assert states == [{}]


@pytest.mark.anyio
async def test_relative_urls_go_to_localhost() -> None:
    """Without a base_url, relative URLs work; absolute ones reach the app as well."""
    app = FakeApp(hello)
    async with PrefectHttpxClient(app=app) as client:
        await client.get("/a")
        await client.get("b")
        await client.get("https://example.org/c")
    seen = [(scope["scheme"], scope["server"], scope["path"]) for scope in app.scopes]
    assert seen == [
        ("http", ("localhost", 80), "/a"),
        ("http", ("localhost", 80), "/b"),
        ("https", ("example.org", 443), "/c"),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("base_url", ["http://example.org/api", httpx.URL("http://example.org/api/")])
async def test_base_url(base_url: str | httpx.URL) -> None:
    """A base_url is used as in httpx."""
    app = FakeApp(hello)
    async with PrefectHttpxClient(app=app, base_url=base_url) as client:
        await client.get("/a")
    assert (app.scopes[0]["server"], app.scopes[0]["path"]) == (("example.org", 80), "/api/a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transport", httpx.MockTransport(lambda request: httpx.Response(200))),
        ("mounts", {}),
        ("proxy", "http://localhost:1"),
    ],
)
def test_app_excludes_the_network(name: str, value: object) -> None:
    """An app together with a transport, mounts or a proxy is a TypeError that names both."""
    with pytest.raises(TypeError, match=f"app= replaces the network, so {name}= cannot be given as well"):
        PrefectHttpxClient(app=hello, **cast(Any, {name: value}))


@pytest.mark.anyio
async def test_environment_proxies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used for an app."""
    monkeypatch.setenv("HTTP_PROXY", "http://localhost:1")
    async with PrefectHttpxClient(app=FakeApp(hello)) as client:
        assert (await client.get("/")).text == "hello"


@pytest.mark.anyio
async def test_client_that_was_never_entered() -> None:
    """A request before the app is started is a RuntimeError that says what to do; after closing, it is httpx's."""
    client = PrefectHttpxClient(app=FakeApp(hello))
    with pytest.raises(RuntimeError, match=r"not entered, so its app is not started; use `async with Prefect"):
        await client.get("/")
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get("/")


@pytest.mark.anyio
async def test_failing_startup_is_raised_by_entering() -> None:
    """An app that fails to start raises where the client is entered, and leaves nothing behind."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise Boom

    client = PrefectHttpxClient(app=app)
    with pytest.raises(LifespanStartupError) as raised:
        await client.__aenter__()
    assert isinstance(raised.value.__cause__, Boom)
    with nothing_left():
        await client.aclose()


@pytest.mark.anyio
async def test_failing_shutdown_is_raised_by_leaving() -> None:
    """An app that fails to stop raises where the client is left, unless the body has raised an exception."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise Boom

    with pytest.raises(LifespanShutdownError):
        async with PrefectHttpxClient(app=app):
            pass
    client = PrefectHttpxClient(app=app)
    await client.__aenter__()
    with pytest.raises(LifespanShutdownError):
        await client.aclose()
    with pytest.raises(KeyError) as raised:
        async with PrefectHttpxClient(app=app):
            raise KeyError
    assert "LifespanShutdownError" in str(raised.value.__notes__)


@pytest.mark.anyio
async def test_running_requests_end_before_the_shutdown_begins() -> None:
    """Closing the client disconnects running requests, and waits for them before the app's shutdown."""

    async def get() -> None:
        with pytest.raises(httpx.ReadError):
            await client.get("/")

    async def read() -> None:
        with pytest.raises(httpx.ReadError):
            async with client.stream("GET", "/") as response:
                await response.aread()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        app.log.append((await receive())["type"])
        await anyio.sleep(0.02)

    app = FakeApp(handler)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with app_client(app) as client:
                tasks.start_soon(get)
                tasks.start_soon(read)
                await wait_until(lambda: app.running == 2)
    assert app.log == ["startup", "http.disconnect", "http.disconnect", "returned", "returned", "shutdown"]


@pytest.mark.trio
async def test_requests_that_do_not_end_are_cancelled_before_the_shutdown(autojump_clock: trio.abc.Clock) -> None:
    """Requests that do not end after a disconnect are cancelled after one second, before the app's shutdown."""

    async def get(timeout: float | None) -> None:
        with pytest.raises(httpx.ReadError):
            await client.get("/", timeout=timeout)

    app = FakeApp(hang)
    async with trio.open_nursery() as nursery:
        async with app_client(app) as client:
            nursery.start_soon(get, None)
            nursery.start_soon(get, 30)
            await trio.sleep(10)
        assert trio.current_time() == pytest.approx(11)
    assert app.log == ["startup", "cancelled", "cancelled", "shutdown"]


@pytest.mark.anyio
async def test_no_request_after_closing() -> None:
    """A redirect that is followed after the client was closed does not reach the app."""

    async def linger(response: httpx.Response) -> None:
        if response.is_redirect:
            waiting.set()
            await closed.wait()

    async def get() -> None:
        with pytest.raises(RuntimeError, match="not entered"):
            await client.get("/", follow_redirects=True)

    waiting, closed = anyio.Event(), anyio.Event()
    app = FakeApp(sending(start(307, [(b"location", b"/next")]), last()))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with app_client(app, event_hooks={"response": [linger]}) as client:
                tasks.start_soon(get)
                await waiting.wait()
            closed.set()
    assert [scope["path"] for scope in app.scopes] == ["/"]


def crashing(crash: anyio.Event, handler: ASGIApp) -> ASGIApp:
    """Return an app whose lifespan crashes when the event is set."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await handler(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await crash.wait()
        raise Boom("in the lifespan")

    return app


@pytest.mark.anyio
async def test_crash_of_the_lifespan_reaches_every_request() -> None:
    """If the lifespan crashes, running and new requests, and leaving the client, raise LifespanCrashed, unwrapped."""
    failed: list[BaseException] = []
    crash, running = anyio.Event(), 0

    async def get() -> None:
        with pytest.raises(LifespanCrashed) as raised:
            await client.get("/")
        failed.append(raised.value)

    async def read() -> None:
        with pytest.raises(LifespanCrashed) as raised:
            async with client.stream("GET", "/") as response:
                await response.aread()
        failed.append(raised.value)

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        await listen(scope, receive, send)

    with anyio.fail_after(5):
        with pytest.raises(LifespanCrashed) as left:
            async with app_client(crashing(crash, handler), AT_ONCE) as client:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(get)
                    tasks.start_soon(read)
                    await wait_until(lambda: running == 2)
                    crash.set()
                await get()
    assert isinstance(left.value.__cause__, Boom)
    assert len(failed) == 3
    assert all(isinstance(error.__cause__, Boom) for error in failed)


@pytest.mark.parametrize("app", [FakeApp(hello), Starlette()], ids=lambda app: type(app).__name__)
@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_client_whose_event_loop_has_ended(
    first: str, second: str, app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    """That is no crash of the app: in the next loop, a request says that the client has to be entered there."""

    async def enter() -> None:
        await client.__aenter__()

    async def get() -> None:
        with pytest.raises(RuntimeError, match="entered in an event loop that has ended") as raised:
            await client.get("/")
        assert not isinstance(raised.value, LifespanCrashed)

    client = PrefectHttpxClient(app=app)
    anyio.run(enter, backend=first)
    anyio.run(get, backend=second)
    assert caplog.records == []


@pytest.mark.anyio
async def test_retries_work_as_over_a_socket() -> None:
    """A retryable status, and a response that breaks off, are retried."""
    answers = iter(
        [
            [start(503), last(b"busy")],
            [start(), part(b"broken")],
            [start(200, [(b"content-length", b"100")]), last(b"short")],
            [start(), last(b"fine")],
        ]
    )

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await sending(*next(answers))(scope, receive, send)

    app = FakeApp(handler)
    async with app_client(app, AT_ONCE) as client:
        assert (await client.get("/")).text == "fine"
    assert len(app.scopes) == 4


@pytest.mark.trio
async def test_timeouts_are_retried_as_over_a_socket(autojump_clock: trio.abc.Clock) -> None:
    """A request that times out is retried, as over a socket."""
    app = FakeApp(hang)
    async with app_client(app, RetryPolicy(max_retries=1, backoff_base=0, jitter=0)) as client:
        with pytest.raises(httpx.ReadTimeout) as raised:
            await client.get("/", timeout=3)
    assert trio.current_time() == 6
    assert "made 2 of at most 2 attempts" in str(raised.value.__notes__)


@pytest.mark.anyio
@each_row("error", [Boom, httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
@each_row("before", [(), (start(200), part(b"x")), (start(503), last()), (start(404), last(b"gone"))])
async def test_exception_of_the_app_is_never_retried(error: type[Exception], before: tuple[Any, ...]) -> None:
    """An exception of the app is raised unchanged, even if httpx raises the same type for a network failure."""
    raised_by_app = error("the app's own")

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise raised_by_app

    app = FakeApp(handler)
    async with app_client(app, AT_ONCE) as client:
        with pytest.raises(error) as raised:
            await client.get("/")
        assert raised.value is raised_by_app
        assert len(app.scopes) == 1
        with pytest.raises(error) as raised:
            async with client.stream("GET", "/") as response:
                await response.aread()
        assert raised.value is raised_by_app
    assert len(app.scopes) == 2


@pytest.mark.anyio
async def test_the_same_exception_elsewhere_is_retried() -> None:
    """An exception that an app has raised is retried where another transport raises the same object."""
    shared = httpx.ReadTimeout("upstream is slow")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise shared

    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://app") as plain:
        with pytest.raises(httpx.ReadTimeout):
            await plain.get("/")
    server = Server(shared, shared, 200)
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
        assert (await client.get(URL)).status_code == 200
    assert server.count == 3
    async with app_client(app, AT_ONCE) as client:
        with pytest.raises(httpx.ReadTimeout) as caught:
            await client.get("/")
    assert notes_of(caught.value) == ""


@pytest.mark.anyio
async def test_bad_status_has_the_apps_detail() -> None:
    """A bad status is an error with the app's detail, streamed or not."""
    app = FakeApp(sending(start(404, [(b"content-type", b"application/json")]), last(b'{"detail": "No such flow"}')))
    async with app_client(app) as client:
        with pytest.raises(PrefectHTTPStatusError, match="404 Not Found for GET http://app/: No such flow"):
            await client.get("/")
        with pytest.raises(PrefectHTTPStatusError, match="No such flow"):
            async with client.stream("GET", "/"):
                pass


@pytest.mark.trio
async def test_error_bodies_are_bounded(autojump_clock: trio.abc.Clock) -> None:
    """The body of an error is read up to 1 MiB, for at most 5 s or half of the time that the caller has left."""

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(500))
        while True:
            await send(part(b"x" * 10_000))

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(500))
        while True:
            await send(part(b"x"))
            await trio.sleep(1)

    app = FakeApp(large)
    async with app_client(app) as client:
        with pytest.raises(PrefectHTTPStatusError) as raised:
            await client.get("/")
        assert 1024 * 1024 <= len(raised.value.response.content) < 1024 * 1024 + 10_000
        assert "too long to be read whole" in str(raised.value.__notes__)
        for handler in (slow, hang_after_head):
            app.handler = handler
            began = trio.current_time()
            with pytest.raises(PrefectHTTPStatusError) as raised:
                await client.get("/")
            assert trio.current_time() - began == pytest.approx(5)
            assert raised.value.response.content == b"x" * (5 if handler is slow else 0)
            with trio.fail_after(4), pytest.raises(PrefectHTTPStatusError):
                await client.get("/")
            assert trio.current_time() - began == pytest.approx(7)
            assert "did not arrive in time" in str(raised.value.__notes__)
    assert app.running == 0


async def hang_after_head(scope: Scope, receive: Receive, send: Send) -> None:
    """Start an error response, and send no more of it."""
    await send(start(500))
    await trio.sleep_forever()


@pytest.mark.trio
async def test_short_read_timeout_applies_to_errors(autojump_clock: trio.abc.Clock) -> None:
    """A read timeout that is shorter than the time limit for errors ends the reading of one."""
    async with app_client(FakeApp(hang_after_head)) as client:
        with pytest.raises(PrefectHTTPStatusError) as raised:
            await client.get("/", timeout=3)
    assert trio.current_time() == 3
    assert "no more of its response within 3 s" in str(raised.value.__notes__)


@pytest.mark.trio
async def test_bad_status_that_is_not_raised_is_read_whole(autojump_clock: trio.abc.Clock) -> None:
    """With raise_on_all_errors=False, an error response is read to its end like any other."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(500))
        for _ in range(30):
            await send(part(b"x" * 100_000))
            await trio.sleep(1)
        await send(last())

    async with app_client(FakeApp(handler), raise_on_all_errors=False) as client:
        response = await client.get("/")
    assert (response.status_code, len(response.content)) == (500, 3_000_000)
    assert trio.current_time() == 30


@pytest.mark.trio
async def test_total_timeout(autojump_clock: trio.abc.Clock) -> None:
    """total_timeout ends a running attempt."""
    async with app_client(FakeApp(endless), RetryPolicy(total_timeout=7)) as client:
        with pytest.raises(httpx.TimeoutException, match="total_timeout of 7 s has passed"):
            await client.get("/")
        assert trio.current_time() == 7


@pytest.mark.anyio
async def test_redirects_cookies_and_auth_work() -> None:
    """Redirects, cookies and auth work as over a socket."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["path"] == "/":
            location = [(b"location", b"/next"), (b"set-cookie", b"a=b")]
            await sending(start(302, location), last(b"x" * 100_000))(scope, receive, send)
        else:
            await sending(start(), last(headers[b"cookie"] + b" " + headers[b"authorization"]))(scope, receive, send)

    async with app_client(FakeApp(handler), auth=("user", "pass"), follow_redirects=True) as client:
        response = await client.get("/")
        assert response.text == "a=b Basic dXNlcjpwYXNz"
        assert [answer.status_code for answer in response.history] == [302]


@pytest.mark.anyio
async def test_request_can_be_sent_again() -> None:
    """One request object can be sent again, streamed or not."""
    app = FakeApp(hello)
    async with app_client(app) as client:
        request = client.build_request("POST", "/", content=b"x", extensions={"custom": 1})
        for stream in (False, True, False):
            response = await client.send(request, stream=stream)
            assert await response.aread() == b"hello"
            assert request.extensions["custom"] == 1
    assert app.log == ["startup", "returned", "returned", "returned", "shutdown"]


@pytest.mark.anyio
async def test_client_may_be_left_in_another_task() -> None:
    """A client may be entered in one task, used in a second and left in a third."""
    app = FakeApp(hello)
    client = PrefectHttpxClient(app=app, retry=ONCE)

    async def enter() -> None:
        await client.__aenter__()

    async def use() -> None:
        await client.get("/")

    async def leave() -> None:
        await client.__aexit__(None, None, None)

    with anyio.fail_after(5), nothing_left():
        for step in (enter, use, leave):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(step)
    assert app.log == ["startup", "returned", "shutdown"]


@pytest.mark.anyio
async def test_client_in_the_app_of_another() -> None:
    """An app may call another app through a client of its own."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async with app_client(inner) as client:
            answer = await client.get("/")
        await sending(start(), last(b"outer " + answer.content))(scope, receive, send)

    inner = FakeApp(hello)
    async with app_client(FakeApp(outer)) as client:
        assert (await client.get("/")).text == "outer hello"


@pytest.mark.anyio
async def test_cancelled_leaving_still_stops_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """A client that is left under cancellation still ends its requests and stops its app."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await listen(scope, receive, send)

    caplog.set_level(logging.WARNING)
    app = FakeApp(handler)
    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            async with app_client(app) as client:
                response = await client.send(client.build_request("GET", "/"), stream=True)
                scope.cancel()
                await response.aread()
    assert app.running == 0
    assert app.log == ["startup", "returned", "shutdown"]
    assert caplog.records == []


@pytest.mark.anyio
async def test_crash_while_the_client_closes() -> None:
    """If the lifespan crashes while the client ends its requests, leaving the client raises LifespanCrashed."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await listen(scope, receive, send)
        crash.set()
        await anyio.sleep(0.02)

    crash = anyio.Event()
    with anyio.fail_after(5), pytest.raises(LifespanCrashed):
        async with app_client(crashing(crash, handler)) as client:
            await client.send(client.build_request("GET", "/"), stream=True)


@pytest.mark.anyio
async def test_event_hook_may_read_the_response() -> None:
    """An event hook may read a response before the client does, and see its elapsed time."""
    read: list[bytes] = []

    async def hook(response: httpx.Response) -> None:
        read.append(await response.aread())
        assert response.elapsed.total_seconds() >= 0

    body = gzip.compress(b"hello")
    app = FakeApp(sending(start(headers=[(b"content-encoding", b"gzip")]), part(body[:5]), last(body[5:])))
    async with app_client(app, event_hooks={"response": [hook]}) as client:
        response = await client.get("/")
    assert (type(response), read, response.content) == (PrefectResponse, [b"hello"], b"hello")
    assert response.num_bytes_downloaded == len(body)
    assert pickle.loads(pickle.dumps(response)).text == "hello"


@pytest.mark.anyio
async def test_body_that_cannot_be_decoded_is_a_decoding_error() -> None:
    """A body that does not match its content encoding fails as over a socket."""
    async with app_client(FakeApp(sending(start(headers=[(b"content-encoding", b"gzip")]), last(b"no")))) as client:
        with pytest.raises(httpx.DecodingError):
            await client.get("/")


@pytest.mark.anyio
async def test_bodies_that_httpx_reads_are_not_bounded() -> None:
    """The body of a challenge that the auth flow needs, and of any response that a hook reads, is complete."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        known = (b"authorization", b"Test") in scope["headers"]
        status = {"/": 302, "/challenge": 200 if known else 401, "/fine": 200}.get(scope["path"], 404)
        await send(start(status, [(b"location", b"/fine")]))
        for _ in range(20):
            await send(part(b"x" * 100_000))
        await send(last())

    class Challenged(httpx.Auth):
        requires_response_body = True

        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            response = yield request
            assert len(response.content) == 2_000_000
            request.headers["Authorization"] = "Test"
            yield request

    async def hook(response: httpx.Response) -> None:
        read.append(len(await response.aread()))

    read: list[int] = []
    async with app_client(FakeApp(handler)) as client:
        assert len((await client.get("/", follow_redirects=True)).content) == 2_000_000
        assert len((await client.get("/challenge", auth=Challenged())).content) == 2_000_000
        client.event_hooks = {"response": [hook]}
        with pytest.raises(PrefectHTTPStatusError):
            await client.get("/missing")
    assert read == [2_000_000]


@pytest.mark.anyio
async def test_two_closers_wait_for_each_other() -> None:
    """If another task is closing the client, leaving it waits until that has ended."""

    async def close() -> None:
        await client.aclose()
        app.log.append("closed")

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await listen(scope, receive, send)
        await anyio.sleep(0.02)

    async def get() -> None:
        with pytest.raises(httpx.ReadError):
            await client.get("/")

    app = FakeApp(handler)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with app_client(app) as client:
                tasks.start_soon(get)
                await wait_until(lambda: app.running)
                tasks.start_soon(close)
                await anyio.sleep(0.01)
            assert app.log[:3] == ["startup", "returned", "shutdown"]


@pytest.mark.anyio
async def test_client_that_is_closed_while_it_is_entered() -> None:
    """If a client is closed before its app has started, entering it raises, and the app is stopped."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        started.set()
        await go_on.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def enter() -> None:
        with pytest.raises(RuntimeError, match="the client was closed while it was being entered"):
            await client.__aenter__()

    client, started, go_on = app_client(slow), anyio.Event(), anyio.Event()
    with anyio.fail_after(5), nothing_left():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await started.wait()
            await client.aclose()
            go_on.set()
        await client.aclose()


@pytest.mark.anyio
async def test_background_work_may_poll_for_the_disconnect() -> None:
    """An app that calls receive() many times after its response is not put to sleep."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        for _ in range(300):
            assert (await receive())["type"] == "http.disconnect"

    async with app_client(FakeApp(handler)) as client:
        with anyio.fail_after(5):
            assert (await client.get("/")).text == "hello"
            async with client.stream("GET", "/") as response:
                assert await response.aread() == b"hello"
