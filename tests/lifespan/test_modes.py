"""Apps that do not speak the lifespan protocol, and the three modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import anyio
import anyio.lowlevel
import pytest
import trio
from support.lifespan_apps import LIFESPAN, Boom, FakeApp, nothing_left, steps
from trio.testing import MockClock

from prefect_http import LifespanNotSupported, LifespanStartupError, app_lifespan_context
from prefect_http._lifespan.registry import current_entries
from prefect_http._types import ASGIApp, Receive, Scope, Send

Mode = Literal["auto", "on", "off"]


async def asserting(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse what is not a request, as the ASGI specification says."""
    assert scope["type"] == "http"


async def hello_world(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request without asking whether it is one."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello world"})


async def hello_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Read a request's body, then answer, without asking whether there was a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await hello_world(scope, receive, send)


async def hello_patiently(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that was none, ignore the error, and wait for the client to go away."""
    try:
        await hello_world(scope, receive, send)
    except Exception:
        await receive()


async def returning(scope: Scope, receive: Receive, send: Send) -> None:
    """Handle nothing but requests."""
    if scope["type"] == "http":
        raise AssertionError


async def listening(scope: Scope, receive: Receive, send: Send) -> None:
    """Take the startup message, and have nothing to say to it."""
    await receive()


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept a websocket that was none."""
    await send({"type": "websocket.accept"})


def synchronous(scope: Scope, receive: Receive, send: Send) -> object:
    """Be no ASGI app, but one of those that WSGI users write first."""
    return []


UNSUPPORTED = pytest.mark.parametrize(
    "app", [asserting, hello_world, hello_body, hello_patiently, returning, listening, websocket, synchronous]
)


@pytest.mark.anyio
@UNSUPPORTED
async def test_auto_runs_without_hooks(app: ASGIApp) -> None:
    """With "auto", an app that does not speak lifespan is held without hooks, by however many, with no error."""
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app) as first, app_lifespan_context(app) as second:
            await steps()
            assert (first.supported, second.supported) == (False, False)
            assert (first.app, first.state) == (app, {})


@pytest.mark.anyio
@UNSUPPORTED
async def test_on_raises(app: ASGIApp) -> None:
    """With "on", an app that does not speak lifespan is a clear error."""
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanNotSupported, match="does not speak") as caught:
            async with app_lifespan_context(app, mode="on"):
                pytest.fail("the body ran")
    assert type(caught.value) is LifespanNotSupported


@pytest.mark.anyio
async def test_on_tells_what_the_app_raised() -> None:
    """The error of "on" has what the app raised as its cause."""
    with anyio.fail_after(30):
        with pytest.raises(LifespanNotSupported) as caught:
            async with app_lifespan_context(asserting, mode="on"):
                pytest.fail("the body ran")
    assert type(caught.value.__cause__) is AssertionError


@pytest.mark.anyio
@UNSUPPORTED
async def test_on_is_checked_for_everyone(app: ASGIApp) -> None:
    """With "on", an app that others hold with "auto" is an error too, and they go on holding it."""
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app) as lifespan:
            with pytest.raises(LifespanNotSupported):
                async with app_lifespan_context(app, mode="on"):
                    pytest.fail("the body ran")
            await steps()
            assert list(current_entries()) == [id(app)]
        assert not lifespan.supported


@pytest.mark.anyio
async def test_on_and_auto_wait_together() -> None:
    """Of those who wait for one startup, each gets what its own mode says."""
    go_on = anyio.Event()
    outcomes: list[str] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        raise Boom

    async def enter(mode: Mode) -> None:
        try:
            async with app_lifespan_context(slow, mode=mode):
                outcomes.append(mode)
                await steps()
        except LifespanNotSupported:
            outcomes.append("not supported")

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for mode in ("on", "auto", "on", "auto"):
                group.start_soon(enter, mode)
            await steps()
            go_on.set()
    assert sorted(outcomes) == ["auto", "auto", "not supported", "not supported"]


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_app_with_hooks(mode: Mode) -> None:
    """With "auto" and with "on", an app that speaks lifespan has its hooks run."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, mode=mode) as lifespan:
            assert lifespan.supported
    assert app.log == LIFESPAN


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_failure_is_not_taken_for_silence(mode: Mode) -> None:
    """An app that has asked for its startup message and raises then does speak lifespan: that is a failed startup."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise Boom

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError):
            async with app_lifespan_context(app, mode=mode):
                pytest.fail("the body ran")


@pytest.mark.anyio
async def test_off_sends_nothing() -> None:
    """With "off", the app is not called at all, and the registry does not know it."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, mode="off") as lifespan:
            await steps()
            assert current_entries() == {}
            assert (lifespan.app, lifespan.state, lifespan.supported) == (app, {}, False)
    assert app.scopes == []


@pytest.mark.anyio
async def test_off_beside_auto() -> None:
    """Who enters with "off" does not see, hold or end what others have started."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app) as started:
            async with app_lifespan_context(app, mode="off") as lifespan:
                assert not lifespan.supported
                assert lifespan.state is not started.state
            await steps()
            assert app.log == ["startup", "up"]
        off = app_lifespan_context(app, mode="off")
        await off.__aenter__()
        await steps()
        assert app.log == LIFESPAN
        await off.__aexit__(None, None, None)


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_body_raises(mode: Mode) -> None:
    """Without hooks, too, what the body raises goes through as it is."""
    error = Boom("body")
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(Boom) as caught:
            async with app_lifespan_context(asserting, mode=mode):
                raise error
    assert caught.value is error


@pytest.mark.trio
async def test_slow_to_refuse(autojump_clock: MockClock) -> None:
    """Whether an app speaks lifespan is known when it has said so, or when its call has ended, and not before."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(5)
        raise Boom

    with trio.fail_after(60), nothing_left():
        async with app_lifespan_context(slow) as lifespan:
            assert trio.current_time() == 5
            assert not lifespan.supported


@pytest.mark.trio
async def test_refusing_app_that_goes_on(autojump_clock: MockClock) -> None:
    """An app that has answered a request instead, and goes on, is cancelled; nobody waits for it."""
    log: list[str] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await hello_world(scope, receive, send)
        except Exception:
            try:
                await trio.sleep_forever()
            finally:
                log.append("cancelled")

    with trio.fail_after(60), nothing_left():
        async with app_lifespan_context(stubborn) as lifespan:
            assert not lifespan.supported
            assert log == ["cancelled"]
        assert trio.current_time() == 0


@pytest.mark.anyio
async def test_started_again_after_silence() -> None:
    """An app is asked anew each time it is started; it may speak lifespan one time and not the next."""
    turns: Iterator[ASGIApp] = iter([asserting, FakeApp(), asserting])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await next(turns)(scope, receive, send)

    supported: list[bool] = []
    with anyio.fail_after(30), nothing_left():
        for _ in range(3):
            async with app_lifespan_context(app) as lifespan:
                supported.append(lifespan.supported)
    assert supported == [False, True, False]
