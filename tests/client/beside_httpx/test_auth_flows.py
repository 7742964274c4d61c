"""Custom auth flows are run as by httpx.AsyncClient: what they see, in which order, and how they end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any

import anyio.lowlevel
import httpx
import pytest
from support.beside_httpx import URL, Run, Stream, describe_request, describe_response, in_both_modes
from support.rows import each_row

Flow = Generator[httpx.Request, httpx.Response, None]


async def _chunks() -> AsyncIterator[bytes]:
    yield b"one-"
    yield b"two"


class TokenAuth(httpx.Auth):
    """Asks for a token, sends the request with it, and asks for another one if that is refused.

    Notes what it is given, and what it raises. When its generator is closed is up to httpx.Auth, which leaves that to
    the garbage collector.
    """

    def __init__(self, run: Run, *, body: str = "", fails: str = "") -> None:
        self._run = run
        self.requires_request_body = "request" in body
        self.requires_response_body = "response" in body
        self._fails = fails

    def auth_flow(self, request: httpx.Request) -> Flow:
        try:
            self._step("start", request)
            token = yield httpx.Request("POST", "http://tokens/new", content=b"grant")
            self._step("token", token)
            request.headers["Authorization"] = f"Bearer {token.headers['X-Token']}"
            response = yield request
            self._step("response", response)
            if response.status_code == 401:
                request.headers["Authorization"] = "Bearer again"
                response = yield request
                self._step("second", response)
        except Exception as error:
            self._run.note("flow failed", type(error).__name__)
            raise

    def _step(self, name: str, seen: httpx.Request | httpx.Response) -> None:
        describe: Any = describe_request if isinstance(seen, httpx.Request) else describe_response
        self._run.note("flow", name, describe(seen))
        if self._fails == name:
            raise ZeroDivisionError(name)


class AsyncTokenAuth(TokenAuth):
    """The same with a flow that is async. Notes when it ends, also where it is closed."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        flow = self.auth_flow(request)
        try:
            if self.requires_request_body:
                await request.aread()
            wanted = next(flow)
            while True:
                await anyio.lowlevel.checkpoint()
                response = yield wanted
                if self.requires_response_body:
                    await response.aread()
                try:
                    wanted = flow.send(response)
                except StopIteration:
                    break
        finally:
            self._run.note("async flow ended")
            flow.close()


KINDS = [TokenAuth, AsyncTokenAuth]


def answers(run: Run, *, status: int = 200) -> list[httpx.Response]:
    """Return the answers to the requests of a flow, with streams that note how they are used."""
    return [
        httpx.Response(200, headers={"X-Token": "t"}, stream=Stream(run, b"token", name="token")),
        httpx.Response(status, stream=Stream(run, b"first", name="first")),
        httpx.Response(200, stream=Stream(run, b"second", name="second")),
    ]


@pytest.mark.trio
@pytest.mark.parametrize("kind", KINDS)
@in_both_modes
async def test_several_requests(run: Run, kind: type[TokenAuth]) -> None:
    """A flow makes requests of its own, and reads bodies if it wants them."""
    for body in ("", "request", "response", "request and response"):
        for status in (200, 401, 503):
            run.case(body, status)
            client = run.client(*answers(run, status=status), auth=kind(run, body=body), event_hooks=run.hooks())
            await run.request(client, "PUT", content=b"body")


@pytest.mark.trio
@pytest.mark.parametrize("kind", KINDS)
@in_both_modes
async def test_a_flow_that_fails(run: Run, kind: type[TokenAuth]) -> None:
    """What a flow raises is raised, and the response that it had is closed."""
    for place in ("start", "token", "response", "second"):
        run.case(place)
        await run.request(run.client(*answers(run, status=401), auth=kind(run, fails=place)))


@pytest.mark.trio
@pytest.mark.parametrize("kind", KINDS)
@in_both_modes
async def test_a_request_of_a_flow_that_fails(run: Run, kind: type[TokenAuth]) -> None:
    """The flow is closed if one of its requests fails."""
    for place in range(3):
        run.case(place)
        script: list[Any] = answers(run, status=401)
        script[place] = httpx.ReadError("broken")
        await run.request(run.client(*script, auth=kind(run)))


@pytest.mark.trio
@pytest.mark.parametrize("kind", KINDS)
@in_both_modes
async def test_a_body_within_a_flow_that_breaks_off(run: Run, kind: type[TokenAuth]) -> None:
    """The flow is closed, and so is the response; of an async flow that needs the body, the response comes first."""
    for place, body in ((0, ""), (0, "response"), (1, ""), (1, "response"), (2, "response")):
        if kind is AsyncTokenAuth and body:
            continue
        run.case(place, body)
        script = answers(run, status=401)
        script[place].stream = Stream(run, b"begun", httpx.ReadError("broken"), name="broken")
        await run.request(run.client(*script, auth=kind(run, body=body)))


@pytest.mark.trio
@pytest.mark.parametrize("kind", KINDS)
@in_both_modes
async def test_redirects_within_a_flow(run: Run, kind: type[TokenAuth]) -> None:
    """Each request of a flow may be redirected; the flow sees what came last."""
    for follows in (True, False):
        run.case(follows)
        token, first, second = answers(run, status=401)
        script = [
            *(httpx.Response(307, headers={"Location": "/token", "X-Token": "r"}, text="moved"), token),
            *(httpx.Response(302, headers={"Location": "/first"}, text="moved"), first, second),
        ]
        client = run.client(*script, auth=kind(run), follow_redirects=follows, event_hooks=run.hooks("request"))
        await run.request(client, "POST", content=b"body")


@pytest.mark.trio
@in_both_modes
async def test_a_body_that_a_flow_needs(run: Run) -> None:
    """A generator is read before the flow starts, and can then be sent twice."""
    for kind in KINDS:
        run.case(kind)
        client = run.client(*answers(run, status=401), auth=kind(run, body="request"))
        await run.request(client, "POST", content=_chunks())


class Nothing(httpx.Auth):
    """Sends nothing."""

    def auth_flow(self, request: httpx.Request) -> Flow:
        yield from ()


class Other(httpx.Auth):
    """Sends another request instead."""

    def auth_flow(self, request: httpx.Request) -> Flow:
        yield httpx.Request("DELETE", "http://other/", headers=request.headers, extensions=request.extensions)


class Twice(httpx.Auth):
    """Sends the request twice, whatever comes."""

    def auth_flow(self, request: httpx.Request) -> Flow:
        yield request
        yield request


class Plain(httpx.Auth):
    """Is not a generator."""

    def auth_flow(self, request: httpx.Request) -> Any:
        return [request]


class SyncOnly(httpx.Auth):
    """Has a sync flow only."""

    def sync_auth_flow(self, request: httpx.Request) -> Flow:
        request.headers["Authorization"] = "Sync"
        yield request


class Reading(httpx.Auth):
    """Closes or reads a response by itself."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        response = yield request
        await response.aread()
        response = yield request
        await response.aclose()


class Catching(httpx.Auth):
    """Goes on behind an exception, which it never gets."""

    def auth_flow(self, request: httpx.Request) -> Flow:
        try:
            yield request
        except httpx.RequestError:
            yield request


@pytest.mark.trio
@each_row("kind", [Nothing, Other, Twice, Plain, SyncOnly, Reading, Catching])
@in_both_modes
async def test_odd_flows(run: Run, kind: type[httpx.Auth]) -> None:
    """Flows that do odd things."""
    await run.request(run.client(*answers(run)[1:], auth=kind()), "POST", content=b"body")
    await run.request(run.client(httpx.ReadError("broken"), 200, auth=kind()))
    await run.request(run.client(302, httpx.Response(200, text="second"), 200), auth=kind(), headers={"X-A": "1"})


@pytest.mark.trio
@in_both_modes
async def test_a_request_of_a_flow_that_has_no_timeout(run: Run) -> None:
    """A request that a flow makes has only what the flow has given it: no headers, cookies or timeouts."""
    settings = {"headers": {"X-Client": "1"}, "cookies": {"c": "1"}, "timeout": 3, "params": {"p": "1"}}
    await run.request(run.client(*answers(run), auth=TokenAuth(run), **settings), extensions={"own": 1})


@pytest.mark.trio
@in_both_modes
async def test_a_function_that_fails(run: Run) -> None:
    """What an auth function raises is raised, and what it returns is sent."""

    def fail(request: httpx.Request) -> httpx.Request:
        raise ZeroDivisionError("in the function")

    await run.request(run.client(200, auth=fail))
    await run.request(run.client(200), auth=lambda _: httpx.Request("PUT", "http://other/"))
    await run.send(run.client(200), httpx.Request("GET", URL), auth=lambda request: request)
