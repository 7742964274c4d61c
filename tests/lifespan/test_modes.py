"""Apps that do not speak the lifespan protocol, and the three modes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import anyio
import anyio.lowlevel
import pytest
import trio
from support.lifespan_apps import LIFESPAN, Boom, FakeApp, nothing_left, steps
from support.rows import each_row
from trio.testing import MockClock

from prefect_http import LifespanNotSupported, LifespanStartupError, app_lifespan_context
from prefect_http._lifespan.registry import current_entries
from prefect_http._types import ASGIApp, Receive, Scope, Send

Mode = Literal["auto", "on", "off"]


async def asserting(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse anything but requests, as the ASGI specification says."""
    assert scope["type"] == "http"


async def hello_world(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request without checking that it is one."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello world"})


async def hello_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Read a request's body, then answer, without checking that there was a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await hello_world(scope, receive, send)


async def hello_patiently(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that was not there, ignore the error, and wait for the client to go away."""
    try:
        await hello_world(scope, receive, send)
    except Exception:
        await receive()


async def returning(scope: Scope, receive: Receive, send: Send) -> None:
    """Do nothing for anything but a request."""
    if scope["type"] == "http":
        raise AssertionError


async def listening(scope: Scope, receive: Receive, send: Send) -> None:
    """Take the startup message, and do not answer it."""
    await receive()


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept a websocket that was not there."""
    await send({"type": "websocket.accept"})


def synchronous(scope: Scope, receive: Receive, send: Send) -> object:
    """Be a plain function, as WSGI users write at first."""
    return []


UNSUPPORTED = each_row(
    "app", [asserting, hello_world, hello_body, hello_patiently, returning, listening, websocket, synchronous]
)


@pytest.mark.anyio
@UNSUPPORTED
async def test_auto_runs_without_hooks(app: ASGIApp) -> None:
    """With "auto", an app that does not speak lifespan is held without hooks, by any number of users."""
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
        with pytest.raises(LifespanNotSupported, match="does not support") as caught:
            async with app_lifespan_context(app, mode="on"):
                pytest.fail("the body ran")
    assert type(caught.value) is LifespanNotSupported
    assert 'mode="on" requires it' in str(caught.value)


@pytest.mark.anyio
async def test_what_the_app_raised_is_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    """What the app raised instead is the cause of the error, and in a DEBUG line of the log."""
    caplog.set_level(logging.DEBUG, logger="prefect_http")
    with anyio.fail_after(30):
        with pytest.raises(LifespanNotSupported) as caught:
            async with app_lifespan_context(asserting, mode="on"):
                pytest.fail("the body ran")
    assert type(caught.value.__cause__) is AssertionError
    (record,) = [record for record in caplog.records if record.name == "prefect_http"]
    assert record.levelno == logging.DEBUG
    assert "does not support the lifespan protocol (AssertionError" in record.getMessage()


@pytest.mark.anyio
@UNSUPPORTED
async def test_on_is_checked_for_everyone(app: ASGIApp) -> None:
    """With "on", an app that others hold with "auto" is an error as well, and they go on holding it."""
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
    """Users that wait for the same startup each get what their own mode says."""
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
async def test_failed_startup(mode: Mode) -> None:
    """An app that raises after asking for its startup message does speak lifespan: that is a failed startup."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise Boom

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError):
            async with app_lifespan_context(app, mode=mode):
                pytest.fail("the body ran")


@pytest.mark.anyio
async def test_off_sends_nothing() -> None:
    """With "off", the app is not called at all, and is not in the registry."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, mode="off") as lifespan:
            await steps()
            assert current_entries() == {}
            assert (lifespan.app, lifespan.state, lifespan.supported) == (app, {}, False)
    assert app.scopes == []


@pytest.mark.anyio
async def test_off_beside_auto() -> None:
    """A user with "off" does not see, hold or end what others have started."""
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
    """Even without hooks, what the body raises goes through as it is."""
    error = Boom("body")
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(Boom) as caught:
            async with app_lifespan_context(asserting, mode=mode):
                raise error
    assert caught.value is error


@pytest.mark.trio
async def test_slow_to_refuse(autojump_clock: MockClock) -> None:
    """Whether an app speaks lifespan is known when it answers, or when its call has ended, and not before."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(5)
        raise Boom

    with trio.fail_after(60), nothing_left():
        async with app_lifespan_context(slow) as lifespan:
            assert trio.current_time() == 5
            assert not lifespan.supported


@pytest.mark.trio
async def test_refusing_app_that_goes_on(autojump_clock: MockClock) -> None:
    """An app that answers a request instead, and goes on, is cancelled at once."""
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
async def test_asked_anew_each_time() -> None:
    """Each time an app is started it may speak lifespan or not."""
    turns: Iterator[ASGIApp] = iter([asserting, FakeApp(), asserting])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await next(turns)(scope, receive, send)

    supported: list[bool] = []
    with anyio.fail_after(30), nothing_left():
        for _ in range(3):
            async with app_lifespan_context(app) as lifespan:
                supported.append(lifespan.supported)
    assert supported == [False, True, False]
