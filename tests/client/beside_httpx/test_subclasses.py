"""A subclass that overrides methods works with PrefectHttpxClient as with httpx.AsyncClient as its base."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from support.beside_httpx import URL, Run, Stream, describe_request, describe_response, in_both_modes
from support.rows import each_row


def _overriding_send(run: Run, base: Any) -> type[httpx.AsyncClient]:
    class Client(base):  # type: ignore[misc]
        async def send(self, request: httpx.Request, **arguments: Any) -> httpx.Response:
            run.note("send", describe_request(request), sorted(arguments))
            request.headers["X-Send"] = "1"
            response: httpx.Response = await super().send(request, **arguments)
            run.note("sent", describe_response(response))
            response.headers["X-Sent"] = "1"
            return response

    return Client


def _overriding_build_request(run: Run, base: Any) -> type[httpx.AsyncClient]:
    class Client(base):  # type: ignore[misc]
        def build_request(self, method: str, url: Any, **arguments: Any) -> httpx.Request:
            run.note("build", method, str(url), sorted(arguments))
            arguments["headers"] = {"X-Built": "1", **(arguments.get("headers") or {})}
            request: httpx.Request = super().build_request(method, url, **arguments)
            return request

    return Client


def _overriding_request(run: Run, base: Any) -> type[httpx.AsyncClient]:
    class Client(base):  # type: ignore[misc]
        async def request(self, method: str, url: Any, *, token: str = "none", **arguments: Any) -> httpx.Response:
            run.note("request", method, str(url), token)
            arguments["headers"] = {"X-Token": token, **(arguments.get("headers") or {})}
            response: httpx.Response = await super().request(method, url, **arguments)
            return response

        @asynccontextmanager
        async def stream(self, method: str, url: Any, *, token: str = "none", **arguments: Any) -> Any:
            run.note("stream", method, str(url), token)
            async with super().stream(method, url, **arguments) as response:
                yield response

    return Client


def _overriding_init(run: Run, base: Any) -> type[httpx.AsyncClient]:
    class Client(base):  # type: ignore[misc]
        def __init__(self, tenant: str = "none", **arguments: Any) -> None:
            super().__init__(**{"headers": {"X-Tenant": tenant}, "base_url": "http://server/api", **arguments})
            self.tenant = tenant

        async def __aenter__(self) -> Any:
            run.note("enter")
            return await super().__aenter__()

        async def aclose(self) -> None:
            run.note("close")
            await super().aclose()

    return Client


def _overriding_properties(run: Run, base: Any) -> type[httpx.AsyncClient]:
    class Client(base):  # type: ignore[misc]
        @property
        def auth(self) -> Any:
            return super().auth

        @property
        def headers(self) -> httpx.Headers:
            return httpx.Headers({"X-Always": "1"})

        @headers.setter
        def headers(self, headers: Any) -> None:
            run.note("headers are set")

        @property
        def cookies(self) -> httpx.Cookies:
            return httpx.Cookies({"always": "1"})

    return Client


def _overriding_verbs(run: Run, base: Any) -> type[httpx.AsyncClient]:
    class Client(base):  # type: ignore[misc]
        async def get(self, url: Any, **arguments: Any) -> httpx.Response:
            run.note("get", str(url))
            response: httpx.Response = await super().get(url, **arguments)
            return response

    return Client


@pytest.mark.trio
@each_row(
    "override",
    [
        *(_overriding_send, _overriding_build_request, _overriding_request, _overriding_init),
        *(_overriding_properties, _overriding_verbs),
    ],
)
@in_both_modes
async def test_overridden_methods(run: Run, override: Callable[[Run, Any], type[httpx.AsyncClient]]) -> None:
    """Each method that is overridden is called as often, with the same arguments, and its result counts."""
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}

    def transport() -> httpx.AsyncBaseTransport:
        return run.transport(
            httpx.Response(401, headers=challenge, stream=Stream(run, b"no")),
            httpx.Response(302, headers={"Location": "/next", "Set-Cookie": "a=1"}, stream=Stream(run, b"moved")),
            lambda _: httpx.Response(200, stream=Stream(run, b"fine")),
        )

    client_class = override(run, run.client_class)
    async with run.instance_of(client_class, transport=transport(), follow_redirects=True) as client:
        await run.request(client, "POST", auth=httpx.DigestAuth("user", "pw"), content=b"body", headers={"X-A": "1"})
        await run.outcome(client.get(URL))
        await run.outcome(client.post("http://server/post", json={"a": 1}))
        await run.send(client, client.build_request("PUT", URL))


@pytest.mark.trio
@in_both_modes
async def test_more_arguments(run: Run) -> None:
    """Methods and constructors may take more arguments."""
    client = run.instance_of(_overriding_request(run, run.client_class), transport=run.transport(200, 200))
    await run.outcome(client.request("GET", URL, token="mine"))  # type: ignore[call-arg]
    async with client.stream("GET", URL, token="mine") as response:  # type: ignore[call-arg]
        run.note(describe_response(response))
    client = run.instance_of(_overriding_init(run, run.client_class), tenant="t", transport=run.transport(200))
    await run.request(client, url="/x")
