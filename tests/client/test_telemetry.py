"""What a client tells its telemetry: attempts, waits, the events of a throttle and of a lifespan."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import anyio
import httpx
import pytest
import trio
from support.cancelling import MOST, Way, run_cancelled
from support.scripted_transport import AT_ONCE, URL, Body, Server
from support.virtual_time import virtual_time_backend
from trio.testing import MockClock

from prefect_http import (
    AttemptObserver,
    LifespanError,
    LifespanEvent,
    PrefectHttpxClient,
    Receive,
    RetryPolicy,
    Scope,
    Send,
    Telemetry,
    Throttle,
    ThrottleEvent,
    ThrottleTimeout,
)
from prefect_http._throttle.transport import observed_transport

CURRENT: ContextVar[str | None] = ContextVar("CURRENT", default=None)


class Notes(AttemptObserver):
    """Notes what an attempt is told."""

    def __init__(self, told: list[object], name: str) -> None:
        self._told = told
        self._name = name

    def note(self, what: str) -> None:
        self._told.append(f"{self._name} {what} at {anyio.current_time():g}")

    def __enter__(self) -> Self:
        self.note("begins")
        self._token = CURRENT.set(self._name)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        CURRENT.reset(self._token)
        self.note("ends" if exc_type is None else f"ends with {exc_type.__name__}")

    def set_response(self, response: httpx.Response) -> None:
        self.note(f"has {response.status_code}")

    def set_error(self, error: BaseException) -> None:
        self.note(f"has {type(error).__name__}")


class Recorder(Telemetry):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    @property
    def texts(self) -> list[str]:
        """What was told, without the times."""
        return [str(each).partition(" at ")[0] for each in self.told]

    def attempt(self, request: httpx.Request, resend_count: int) -> AttemptObserver:
        return Notes(self.told, f"{request.method} {request.url.path} #{resend_count}")

    def wait(self, request: httpx.Request, delay: float, reason: str) -> None:
        self.told.append(f"{request.url.path} waits {delay:g} s: {reason}")

    def throttle_event(self, event: ThrottleEvent) -> None:
        self.told.append(event.kind)

    def lifespan_event(self, event: LifespanEvent) -> None:
        self.told.append(event)


# --- Attempts


@pytest.mark.trio
async def test_attempts_and_waits(autojump_clock: MockClock) -> None:
    """Each attempt begins and ends, also one whose body breaks off; between them are the waits."""
    telemetry = Recorder()
    broken = httpx.Response(200, stream=Body([b"half", httpx.ReadError("broken")]))
    server = Server(httpx.Response(503, headers={"Retry-After": "7"}), httpx.ConnectTimeout("slow"), broken, 200)
    async with PrefectHttpxClient(transport=server, telemetry=telemetry, retry=RetryPolicy(jitter=0)) as client:
        start = trio.current_time()
        await client.get(URL)
    assert [str(each).replace(f"at {start:g}", "at 0") for each in telemetry.told] == [
        "GET /path #0 begins at 0",
        "GET /path #0 has 503 at 0",
        "GET /path #0 ends at 0",
        "/path waits 7 s: Retry-After of 7 s",
        "GET /path #1 begins at 7",
        "GET /path #1 has ConnectTimeout at 7",
        "GET /path #1 ends with ConnectTimeout at 7",
        "/path waits 4 s: backoff of 4 s",
        "GET /path #2 begins at 11",
        "GET /path #2 has 200 at 11",
        "GET /path #2 has ReadError at 11",
        "GET /path #2 ends with ReadError at 11",
        "/path waits 8 s: backoff of 8 s",
        "GET /path #3 begins at 19",
        "GET /path #3 has 200 at 19",
        "GET /path #3 ends at 19",
    ]


@pytest.mark.anyio
async def test_redirects_and_challenges_are_counted() -> None:
    """Each request of a send() is an attempt, and its resend_count is that of OpenTelemetry."""
    telemetry = Recorder()
    challenge = httpx.Response(401, headers={"WWW-Authenticate": 'Digest realm="a", nonce="b", qop="auth"'})
    server = Server(challenge, httpx.Response(307, headers={"Location": "/other"}), 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, telemetry=telemetry, retry=AT_ONCE) as client:
            await client.post(URL, content=b"body", auth=httpx.DigestAuth("user", "password"), follow_redirects=True)
    assert [text for text in telemetry.texts if "has" in text or "waits" in text] == [
        "POST /path #0 has 401",
        "POST /path #1 has 307",
        "POST /other #2 has 503",
        "/other waits 0 s: backoff of 0 s",
        "POST /other #3 has 200",
    ]


class TwoSteps(httpx.Auth):
    """Sends two requests, and notes during which attempts it runs. Afterwards it may fail."""

    def __init__(self, fails: bool = False, requires_response_body: bool = False) -> None:
        self.fails = fails
        self.requires_response_body = requires_response_body
        self.seen: list[str | None] = []

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        self.seen.append(CURRENT.get())
        yield request
        self.seen.append(CURRENT.get())
        yield request
        self.seen.append(CURRENT.get())
        if self.fails:
            raise LookupError


@pytest.mark.anyio
@pytest.mark.parametrize("fails", [False, True])
async def test_an_auth_flow_runs_around_the_attempts(fails: bool) -> None:
    """What it does first belongs to no attempt, nor what it does with a challenge; it may read a good response."""
    telemetry, flow = Recorder(), TwoSteps(fails)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(401, 200), telemetry=telemetry) as client:
            with pytest.raises(LookupError) if fails else contextlib.nullcontext():
                await client.get(URL, auth=flow)
    assert flow.seen == [None, None, "GET /path #1"]
    end = ["GET /path #1 has LookupError", "GET /path #1 ends with LookupError"] if fails else ["GET /path #1 ends"]
    assert telemetry.texts == [
        *("GET /path #0 begins", "GET /path #0 has 401", "GET /path #0 ends"),
        *("GET /path #1 begins", "GET /path #1 has 200", *end),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("reads", [False, True])
async def test_a_good_response_that_leads_an_auth_flow_on(reads: bool) -> None:
    """Its attempt ends before the next one begins, whether the flow wants its body or not."""
    telemetry = Recorder()
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(200, 200), telemetry=telemetry) as client:
            await client.get(URL, auth=TwoSteps(requires_response_body=reads))
    assert telemetry.texts == [
        f"GET /path #{number} {what}" for number in range(2) for what in ("begins", "has 200", "ends")
    ]


AUTHS: dict[str, Any] = {
    "none": None,
    "basic": ("user", "password"),
    "function": lambda request: request,  # pyright: ignore[reportUnknownLambdaType]
    "digest": httpx.DigestAuth("user", "password"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("auth", AUTHS.values(), ids=AUTHS)
async def test_a_body_breaks_off_behind_an_auth_flow(auth: Any) -> None:
    """The attempt has the error, although the flow gets the response before its body is read."""
    telemetry = Recorder()
    server = Server(httpx.Response(200, stream=Body([b"half", httpx.ReadError("broken")])), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, telemetry=telemetry, retry=AT_ONCE) as client:
            await client.get(URL, auth=auth)
    assert telemetry.texts == [
        *("GET /path #0 begins", "GET /path #0 has 200", "GET /path #0 has ReadError"),
        *("GET /path #0 ends with ReadError", "/path waits 0 s: backoff of 0 s"),
        *("GET /path #1 begins", "GET /path #1 has 200", "GET /path #1 ends"),
    ]


@pytest.mark.anyio
async def test_an_attempt_may_set_context_variables() -> None:
    """They are seen by the transport, and by hooks, and are gone when the caller has the response."""
    seen = list[str | None]()

    async def note(_: object) -> None:
        seen.append(CURRENT.get())

    async def respond(request: httpx.Request) -> httpx.Response:
        await note(request)
        return httpx.Response(200)

    hooks: Any = {"request": [note], "response": [note]}
    transport = httpx.MockTransport(respond)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=transport, telemetry=Recorder(), event_hooks=hooks) as client:
            async with client.stream("GET", URL):
                await note(None)
    assert seen == ["GET /path #0"] * 3 + [None]


class Marking(Telemetry):
    """Marks each request with its number."""

    def attempt(self, request: httpx.Request, resend_count: int) -> AttemptObserver:
        request.headers["X-Resent"] = str(resend_count)
        return AttemptObserver()


@pytest.mark.anyio
@pytest.mark.parametrize("throttled", [False, True])
async def test_an_attempt_may_change_headers(throttled: bool) -> None:
    """Each request is sent with those of its own attempt, as tracing needs it."""
    server = Server(503, httpx.Response(307, headers={"Location": "/other"}), 200)
    throttle = Throttle() if throttled else None
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, telemetry=Marking(), throttle=throttle, retry=AT_ONCE, follow_redirects=True
        ) as client:
            await client.get(URL)
    assert [seen.headers["X-Resent"] for seen in server.seen] == ["0", "1", "2"]


WAYS: list[Any] = [("scope", "asyncio"), ("scope", "trio"), ("task", "asyncio")]


@pytest.mark.parametrize(("way", "backend"), WAYS, ids=["asyncio-scope", "trio-scope", "asyncio-task"])
def test_an_attempt_that_is_cancelled_at_each_step(way: Way, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt that has begun ends once, before the next one begins, and in the context in which it has begun."""

    async def main() -> None:
        for when in ("waiting", "woken"):
            number, begun = 0, list[str]()
            for number in range(1, MOST):
                telemetry = Recorder()
                if not await run_cancelled(number, way, when, functools.partial(send, telemetry)):
                    break
                steps = [text.partition("#")[2].split()[:2] for text in telemetry.texts if "#" in text]
                begun = [step[0] for step in steps if step[1] == "begins"]
                assert [step for step in steps if step[1] != "has"] == [
                    [each, what] for each in begun for what in ("begins", "ends")
                ]
            assert number > 10
            assert begun == ["0", "1", "2", "3", "4"]

    async def send(telemetry: Recorder) -> None:
        challenge = httpx.Response(401, headers={"WWW-Authenticate": 'Digest realm="a", nonce="b", qop="auth"'})
        moved = httpx.Response(307, headers={"Location": "/other"})
        broken = httpx.Response(200, stream=Body([b"half", httpx.ReadError("broken")]))
        good = httpx.Response(200, stream=Body([b"who", 1.0, b"le"]))
        async with PrefectHttpxClient(
            transport=Server(challenge, 503, broken, moved, good),
            telemetry=telemetry,
            throttle=Throttle(rate=1),
            auth=httpx.DigestAuth("user", "password"),
            follow_redirects=True,
        ) as client:
            await client.get(URL)

    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert "has raised an exception" not in caplog.text


@pytest.mark.anyio
async def test_an_attempt_that_is_cancelled() -> None:
    """It ends with the cancellation."""
    telemetry = Recorder()
    with anyio.fail_after(5), anyio.CancelScope() as scope:

        async def respond(_: httpx.Request) -> httpx.Response:
            scope.cancel()
            await anyio.sleep(1)
            raise AssertionError("it was not cancelled")

        async with PrefectHttpxClient(transport=httpx.MockTransport(respond), telemetry=telemetry) as client:
            await client.get(URL)
    name = anyio.get_cancelled_exc_class().__name__
    assert telemetry.texts == ["GET /path #0 begins", f"GET /path #0 has {name}", f"GET /path #0 ends with {name}"]


@pytest.mark.trio
async def test_total_timeout(autojump_clock: MockClock) -> None:
    """The attempt has the error that the caller gets."""
    telemetry = Recorder()

    async def respond(_: httpx.Request) -> httpx.Response:
        await trio.sleep(9)
        raise AssertionError("it took too long")

    policy = RetryPolicy(total_timeout=5)
    async with PrefectHttpxClient(transport=httpx.MockTransport(respond), telemetry=telemetry, retry=policy) as client:
        with pytest.raises(httpx.TimeoutException):
            await client.get(URL)
    assert telemetry.texts[1:] == ["GET /path #0 has TimeoutException", "GET /path #0 ends with TimeoutException"]


# --- Errors


def no_observer(*_: object) -> object:
    """Return something that is not an AttemptObserver."""
    return contextlib.nullcontext()


def nothing(*_: object) -> None:
    """Forget to return something."""


def interrupt(*_: object) -> None:
    """Raise what a Ctrl-C raises."""
    raise KeyboardInterrupt


def raising(*_: object) -> Any:
    """Fail as a telemetry may."""
    raise ZeroDivisionError


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["attempt", "wait", "__enter__", "__exit__", "set_response", "set_error"])
async def test_errors_of_a_telemetry_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged, and the request goes its way."""
    telemetry = Recorder()
    monkeypatch.setattr(Recorder if hasattr(Recorder, name) else Notes, name, raising)
    server = Server(httpx.ConnectTimeout("slow"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, telemetry=telemetry, retry=AT_ONCE) as client:
            assert (await client.get(URL)).status_code == 200
    failed = [record for record in caplog.records if record.name == "prefect_http.telemetry"]
    assert {record.levelno for record in failed} == {logging.ERROR}
    assert {record.exc_info[0] for record in failed if record.exc_info} == {ZeroDivisionError}
    assert {record.message for record in failed} == {"raising has raised an exception"}


@pytest.mark.anyio
async def test_a_keyboard_interrupt_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only exceptions are logged."""
    monkeypatch.setattr(Recorder, "attempt", interrupt)
    client = PrefectHttpxClient(transport=Server(200), telemetry=Recorder())
    with anyio.fail_after(5), pytest.raises(KeyboardInterrupt):
        await client.get(URL)


@pytest.mark.anyio
async def test_a_keyboard_interrupt_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that a throttle has let through, and that ends so, is not in flight any more."""
    monkeypatch.setattr(Recorder, "attempt", interrupt)
    throttle = Throttle()
    client = PrefectHttpxClient(transport=Server(200), telemetry=Recorder(), throttle=throttle)
    with anyio.fail_after(5), pytest.raises(KeyboardInterrupt):
        await client.get(URL)
    assert throttle.statistics(URL).in_flight == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("attempt", "kind"), [(no_observer, "nullcontext"), (nothing, "NoneType")])
async def test_an_attempt_that_is_no_observer(
    attempt: Callable[..., object], kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If ``attempt()`` returns something else, that is logged, and the request goes its way."""
    monkeypatch.setattr(Recorder, "attempt", attempt)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(200), telemetry=Recorder()) as client:
            assert (await client.get(URL)).status_code == 200
    [message] = [record.message for record in caplog.records if record.name == "prefect_http.telemetry"]
    assert message == f"{attempt.__name__} must return an AttemptObserver, not an object of the class {kind}"


def test_a_telemetry_is_a_telemetry() -> None:
    """Something else is a TypeError at once."""
    wrong: Any = Recorder
    with pytest.raises(TypeError, match=r"^telemetry must be an object of a subclass of prefect_http\.Telemetry, not"):
        PrefectHttpxClient(telemetry=wrong)


@pytest.mark.anyio
async def test_a_telemetry_may_do_nothing() -> None:
    """The base classes can be used as they are."""
    with anyio.fail_after(5):
        server = Server(503, httpx.ConnectTimeout("slow"), 200)
        throttle = Throttle(rate=1e6)
        async with PrefectHttpxClient(
            transport=server, telemetry=Telemetry(), retry=AT_ONCE, throttle=throttle
        ) as client:
            await client.get(URL)


# --- The throttle


@pytest.mark.trio
async def test_a_throttle_holds_back_before_the_attempt(autojump_clock: MockClock) -> None:
    """The wait in its queue belongs to no attempt, and is told when it is over."""
    telemetry = Recorder()
    async with PrefectHttpxClient(
        transport=Server(200, ...), telemetry=telemetry, throttle=Throttle(rate=0.5)
    ) as client:
        for _ in range(2):
            await client.get(URL)
    assert telemetry.texts == [
        "GET /path #0 begins",
        "GET /path #0 has 200",
        "GET /path #0 ends",
        "/path waits 2 s: it was in the queue of the throttle",
        "GET /path #0 begins",
        "GET /path #0 has 200",
        "GET /path #0 ends",
    ]


@pytest.mark.trio
async def test_events_of_a_throttle_are_told_once(autojump_clock: MockClock) -> None:
    """However many clients share the telemetry and the throttle; on_event is called all the same."""
    telemetry, events = Recorder(), list[str]()
    throttle = Throttle(on_event=lambda event: events.append(event.kind))
    limited = httpx.Response(429, headers={"Retry-After": "3"})
    async with (
        PrefectHttpxClient(transport=Server(limited, 200), telemetry=telemetry, throttle=throttle) as client,
        PrefectHttpxClient(transport=Server(), telemetry=telemetry, throttle=throttle),
    ):
        await client.get(URL)
    told = [text for text in telemetry.texts if text in ("closed", "opened", "learned")]
    assert told == events
    assert told[:2] == ["closed", "opened"]


@pytest.mark.trio
async def test_events_of_a_throttle_without_on_event(autojump_clock: MockClock) -> None:
    """The telemetry is told of them, and its errors do not matter."""
    telemetry = Recorder()
    limited = httpx.Response(429, headers={"Retry-After": "3"})
    async with PrefectHttpxClient(transport=Server(limited, 200), telemetry=telemetry, throttle=Throttle()) as client:
        await client.get(URL)
    assert [text for text in telemetry.texts if text in ("closed", "opened")] == ["closed", "opened"]


@pytest.mark.anyio
async def test_a_request_that_no_client_sends_has_no_attempt() -> None:
    """The transport behind a throttle may be used by itself."""
    telemetry = Recorder()
    with anyio.fail_after(5):
        async with observed_transport(Server(200), Throttle(), telemetry) as transport:
            await transport.handle_async_request(httpx.Request("GET", URL))
    assert telemetry.told == []


@pytest.mark.trio
async def test_a_request_that_a_throttle_does_not_send_has_no_attempt(autojump_clock: MockClock) -> None:
    """It was in the queue, and was not sent."""
    telemetry, throttle = Recorder(), Throttle(rate=0.1, max_wait=20.0)
    async with (
        PrefectHttpxClient(transport=Server(200, ...), telemetry=telemetry, throttle=throttle) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(client.get, URL)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ThrottleTimeout):
            with trio.move_on_after(5):
                await client.get(URL, extensions={"retry": RetryPolicy(max_retries=0)})
    assert [text for text in telemetry.texts if "begins" in text] == ["GET /path #0 begins"] * 2


@pytest.mark.trio
async def test_one_request_sent_by_several_tasks(autojump_clock: MockClock) -> None:
    """Each task has its own attempt, also if a throttle holds the same request back several times."""
    telemetry = Recorder()
    async with PrefectHttpxClient(
        transport=Server(200, ...), telemetry=telemetry, throttle=Throttle(rate=0.5)
    ) as client:
        request = client.build_request("GET", URL)
        async with client.send_many([request] * 3) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None] * 3
    assert telemetry.texts == [
        *("GET /path #0 begins", "GET /path #0 has 200", "GET /path #0 ends"),
        "/path waits 2 s: it was in the queue of the throttle",
        *("GET /path #0 begins", "GET /path #0 has 200", "GET /path #0 ends"),
        "/path waits 4 s: it was in the queue of the throttle",
        *("GET /path #0 begins", "GET /path #0 has 200", "GET /path #0 ends"),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("throttled", [False, True])
async def test_attempts_that_no_throttle_has_seen(throttled: bool) -> None:
    """They are told all the same if a hook fails, or if something has replaced the transport, and the throttle too."""
    telemetry, throttle = Recorder(), Throttle() if throttled else None
    client: Any = PrefectHttpxClient(transport=Server(), telemetry=telemetry, throttle=throttle, retry=AT_ONCE)
    client._transport = Server(httpx.ReadError("broken"), 200)
    client.event_hooks = {"request": [raising_once(httpx.ConnectTimeout("slow"))]}
    with anyio.fail_after(5):
        async with client:
            await client.get(URL)
    assert telemetry.texts == [
        *("GET /path #0 begins", "GET /path #0 has ConnectTimeout", "GET /path #0 ends with ConnectTimeout"),
        "/path waits 0 s: backoff of 0 s",
        *("GET /path #1 begins", "GET /path #1 has ReadError", "GET /path #1 ends with ReadError"),
        "/path waits 0 s: backoff of 0 s",
        *("GET /path #2 begins", "GET /path #2 has 200", "GET /path #2 ends"),
    ]


def raising_once(error: Exception) -> Callable[[httpx.Request], Awaitable[None]]:
    """Return an event hook that raises an error the first time."""
    errors = [error]

    async def hook(_: httpx.Request) -> None:
        if errors:
            raise errors.pop()

    return hook


# --- The lifespan


def app_that(fails: str) -> Callable[..., Any]:
    """Return an app whose startup or shutdown fails, or neither."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.{'failed' if phase == fails else 'complete'}"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    return app


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fails", "told"),
    [("", ["entered", "left"]), ("startup", ["entered failed"]), ("shutdown", ["entered", "left failed"])],
)
async def test_the_lifespan_of_an_app(fails: str, told: list[str]) -> None:
    """Entering and leaving are told, with the error if there is one."""
    telemetry, error = Recorder(), None
    with anyio.fail_after(5):
        try:
            async with PrefectHttpxClient(app=app_that(fails), telemetry=telemetry):
                pass
        except LifespanError as raised:
            error = raised
    events = [each for each in telemetry.told if isinstance(each, LifespanEvent)]
    assert [event.kind + " failed" * (event.error is not None) for event in events] == told
    assert events[-1].error is error
    assert all(event.seconds >= 0 for event in events)


@pytest.mark.anyio
async def test_a_lifespan_that_is_left_as_soon_as_it_is_entered() -> None:
    """If the client is closed while it is being entered, that is told as well."""
    telemetry = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await client.aclose()
        await app_that("")(scope, receive, send)

    client = PrefectHttpxClient(app=app, telemetry=telemetry)
    with anyio.fail_after(5), pytest.raises(RuntimeError, match="closed while it was being entered"):
        await client.__aenter__()
    assert [each.kind for each in telemetry.told if isinstance(each, LifespanEvent)] == ["entered", "left"]
