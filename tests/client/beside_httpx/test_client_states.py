"""Clients are opened and closed, and choose transports, as httpx.AsyncClient does."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import httpx
import pytest
from support.beside_httpx import URL, Run, Stream, beside_httpx, describe_error, in_both_modes


def ok(_: httpx.Request) -> httpx.Response:
    """Return a response."""
    return httpx.Response(200)


# --- Opening and closing


async def enter(run: Run, client: httpx.AsyncClient) -> None:
    """Enter and leave a client, and note what that raises."""
    try:
        async with client as entered:
            run.note("entered", entered is client, client.is_closed)
    except Exception as error:
        run.note(describe_error(error))
    run.note(client.is_closed)


@pytest.mark.trio
@in_both_modes
async def test_a_client_in_a_block(run: Run) -> None:
    """It can be used within, but not afterwards, nor be opened again."""
    async with run.client(ok) as client:
        await run.request(client)
        await enter(run, client)
        await run.request(client)
    await run.request(client)
    await run.send(client, httpx.Request("GET", URL))
    await enter(run, client)
    await client.aclose()


@pytest.mark.trio
@in_both_modes
async def test_a_client_without_a_block(run: Run) -> None:
    """It can be used at once, but then not be entered any more; it may be closed twice."""
    client = run.client(ok)
    run.note(client.is_closed)
    await run.request(client)
    await enter(run, client)
    await run.request(client)
    await client.aclose()
    await client.aclose()
    run.note(client.is_closed)
    await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_a_client_that_is_closed_before_it_is_opened(run: Run) -> None:
    """It stays closed."""
    client = run.client(ok)
    await client.aclose()
    await run.request(client)
    await enter(run, client)


@pytest.mark.trio
@in_both_modes
async def test_a_client_that_failed(run: Run) -> None:
    """A failure opens the client as well."""
    client = run.client(httpx.ConnectError("refused"), ok)
    await run.request(client)
    await enter(run, client)
    await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_a_client_that_is_closed_while_a_response_is_open(run: Run) -> None:
    """The response can be read."""
    client = run.client(httpx.Response(200, stream=Stream(run, b"one")))
    async with client.stream("GET", URL) as response:
        await client.aclose()
        run.note(await response.aread())


@pytest.mark.trio
@beside_httpx
async def test_transports_are_opened_and_closed_in_order(run: Run) -> None:
    """The transport first, then what is mounted, also behind an exception; None is left out."""
    mounts = {
        "http://": run.transport(ok, name="http"),
        "all://other": run.transport(ok, name="other"),
        "https://": None,
    }
    for error in (None, ZeroDivisionError("x")):
        with contextlib.suppress(ZeroDivisionError):
            async with run.client(transport=run.transport(ok, name="default"), mounts=mounts):
                if error is not None:
                    raise error
    client = run.client(transport=run.transport(ok, name="default"), mounts=mounts)
    await client.aclose()


@pytest.mark.trio
@beside_httpx
async def test_transports_that_fail(run: Run) -> None:
    """What opening and closing a transport raises is raised."""

    class Failing(httpx.AsyncBaseTransport):
        def __init__(self, where: str) -> None:
            self._where = where

        async def __aenter__(self) -> Any:
            self._fail("enter")
            return self

        async def __aexit__(self, *args: object) -> None:
            self._fail("exit")

        async def aclose(self) -> None:
            self._fail("close")

        def _fail(self, where: str) -> None:
            run.note(self._where, where)
            if where in self._where:
                raise ZeroDivisionError(where)

    for where in ("enter", "exit", "close"):
        await enter(run, run.client(transport=Failing(where), mounts={"http://": run.transport(ok, name="mounted")}))
        await enter(run, run.client(transport=run.transport(ok), mounts={"http://": Failing(where)}))
        client = run.client(transport=Failing(where))
        try:
            await client.aclose()
        except ZeroDivisionError:
            run.note("closing failed", client.is_closed)


@pytest.mark.anyio
@beside_httpx
async def test_a_cancelled_request(run: Run) -> None:
    """A cancelled request closes its response; the client can be used further."""

    async def cancel(_: object = None) -> httpx.Response:
        scope.cancel()
        await anyio.sleep_forever()
        raise AssertionError("it sleeps for ever")

    client = run.client(httpx.Response(200, stream=Stream(run, b"begun", cancel)), cancel, ok)
    for _ in range(2):
        with anyio.CancelScope() as scope:
            await client.get(URL)
        run.note(scope.cancelled_caught)
    await run.request(client)


# --- Which transport

PATTERNS = [
    *("all://", "http://", "https://", "custom://", "all://server", "http://server", "http://server:8080"),
    *("all://*.server", "all://*server", "http://*", "all://*:8080", "all://*.sub.server:443", "https://server:443"),
    *("http://[::1]", "all://127.0.0.1", "ws://server", "http://SERVER", "all://server:80"),
]
_URLS = [
    *("http://server/", "https://server/", "http://server:8080/", "http://www.server/", "https://a.sub.server/"),
    *("custom://server/", "http://[::1]/", "http://127.0.0.1:8080/", "http://notserver/", "ws://server/x"),
]


@pytest.mark.trio
@beside_httpx
async def test_one_mount(run: Run) -> None:
    """Which URLs each pattern matches."""
    for pattern in PATTERNS:
        for mount in (run.transport(ok, name="mounted"), None):
            client = run.client(transport=run.transport(ok, name="default"), mounts={pattern: mount})
            for url in _URLS if mount else _URLS[:1]:
                run.case(pattern, url)
                await client.get(url)


@pytest.mark.trio
@beside_httpx
async def test_which_of_several_mounts(run: Run) -> None:
    """The most specific pattern wins; None is the client's own transport."""
    mounts: dict[str, Any] = {pattern: run.transport(ok, name=pattern) for pattern in PATTERNS}
    mounts["http://127.0.0.1:8080"] = None
    for order in (mounts, dict(reversed(mounts.items()))):
        client = run.client(transport=run.transport(ok, name="default"), mounts=order)
        for url in _URLS:
            await client.get(url)


@pytest.mark.trio
@beside_httpx
async def test_patterns_that_are_wrong(run: Run) -> None:
    """They are refused by the constructor."""
    for pattern in ("", "server", "http", "://", "http://[x/", "http:/"):
        run.case(pattern)
        try:
            run.client(ok, mounts={pattern: None})
        except Exception as error:
            run.note(type(error).__name__, str(error))


@pytest.mark.trio
@beside_httpx
async def test_arguments_of_the_constructor(run: Run) -> None:
    """Wrong arguments are refused alike, and mappings of the caller are not changed."""
    for wrong in (
        *(
            {"nonsense": 1},
            {"base_url": 7},
            {"params": object()},
            {"headers": 7},
            {"auth": 7},
            {"base_url": "http://[x/"},
        ),
        *({"event_hooks": 7}, {"timeout": (1, 2)}),
    ):
        run.case(wrong if "params" not in wrong else "params")
        try:
            run.client(ok, **wrong)
        except Exception as error:
            run.note(type(error).__name__)
    mounts: Any = {"http://": None}
    hooks: Any = {"request": []}
    headers = {"X-A": "1"}
    client = run.client(ok, mounts=mounts, event_hooks=hooks, headers=headers)
    client.headers["X-B"] = "2"
    client.event_hooks["request"].append(print)
    run.note(mounts, hooks, headers)
