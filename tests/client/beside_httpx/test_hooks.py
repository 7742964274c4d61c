"""Event hooks are called as by httpx.AsyncClient: how often, in which order, and with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.beside_httpx import URL, Run, Stream, describe_response, in_both_modes

CHALLENGE = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}


def answers(run: Run) -> list[httpx.Response]:
    """Return a challenge, a redirect and a response, with streams that note how they are used."""
    return [
        httpx.Response(401, headers=CHALLENGE, stream=Stream(run, b"no", name="challenge")),
        httpx.Response(302, headers={"Location": "/next"}, stream=Stream(run, b"moved", name="redirect")),
        httpx.Response(200, stream=Stream(run, b"fi", b"ne", name="final")),
    ]


async def request_all(run: Run, hooks: Any, *, follows: bool = True) -> None:
    """Make a request that is challenged and redirected."""
    client = run.client(*answers(run), auth=httpx.DigestAuth("user", "pw"), follow_redirects=follows, event_hooks=hooks)
    await run.request(client, "POST", content=b"body")


@pytest.mark.trio
@in_both_modes
async def test_hooks_of_either_kind(run: Run) -> None:
    """Hooks see each request and each response of a challenge and of a redirect."""
    for kinds in (["request"], ["response"], ["request", "response"]):
        run.case(kinds)
        await request_all(run, run.hooks(*kinds))
        await request_all(run, run.hooks(*kinds), follows=False)


@pytest.mark.trio
@in_both_modes
async def test_several_hooks(run: Run) -> None:
    """They are called in order, and may be added later."""
    one, two = run.hooks(), run.hooks()
    client = run.client(lambda _: httpx.Response(200), event_hooks={kind: one[kind] + two[kind] for kind in one})
    await run.request(client)
    client.event_hooks["request"].append(one["request"][0])
    client.event_hooks["response"].clear()
    await run.request(client)
    client.event_hooks = {"response": two["response"]}
    await run.request(client)
    client.event_hooks = {}
    await run.request(client)


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["request", "response"])
@in_both_modes
async def test_a_hook_that_raises(run: Run, kind: str) -> None:
    """What a hook raises at any place is raised, and the response is closed."""
    request = httpx.Request("GET", "http://hook/")
    for error in (ZeroDivisionError("x"), httpx.ReadError("of the hook", request=request), httpx.InvalidURL("x")):
        for place in range(3):
            run.case(error, place)
            left = iter(range(3))

            async def hook(_: object, error: Exception = error, place: int = place, left: Any = left) -> None:
                if next(left) == place:
                    raise error

            await request_all(run, {kind: [*run.hooks()[kind], hook, *run.hooks()[kind]]})


@pytest.mark.trio
@in_both_modes
async def test_a_hook_that_raises_for_the_status(run: Run) -> None:
    """As httpx's documentation suggests."""

    async def strict(response: httpx.Response) -> None:
        await response.aread()
        try:
            response.raise_for_status()
        except httpx.HTTPStatusError as error:
            run.note(str(error.request.url), error.response is response)
            raise RuntimeError("refused") from None

    for status in (200, 302, 404, 503):
        run.case(status)
        await run.request(run.client(httpx.Response(status, text="said"), event_hooks={"response": [strict]}))


def _changing(run: Run) -> dict[str, Callable[[Any], Any]]:
    async def header(request: httpx.Request) -> None:
        request.headers["X-Hook"] = "set"
        request.headers.pop("Accept", None)

    async def url(request: httpx.Request) -> None:
        request.url = request.url.copy_with(host="changed")

    async def method(request: httpx.Request) -> None:
        request.method = "PATCH"

    async def extensions(request: httpx.Request) -> None:
        request.extensions = {**request.extensions, "hook": 1}

    async def own_extensions(request: httpx.Request) -> None:
        request.extensions["hook"] = 1

    async def body(request: httpx.Request) -> None:
        request.stream = httpx.ByteStream(b"other")
        request.headers["Content-Length"] = "5"

    async def reading(request: httpx.Request) -> None:
        run.note(await request.aread(), request.content)

    return {each.__name__: each for each in (header, url, method, extensions, own_extensions, body, reading)}


@pytest.mark.trio
@in_both_modes
async def test_a_hook_that_changes_the_request(run: Run) -> None:
    """What it changes is sent."""
    for name, hook in _changing(run).items():
        run.case(name)
        await request_all(run, {"request": [hook]})


@pytest.mark.trio
@in_both_modes
async def test_a_hook_that_uses_the_response(run: Run) -> None:
    """It may read, stream, close or change the response."""

    async def read(response: httpx.Response) -> None:
        run.note(await response.aread(), describe_response(response))

    async def stream(response: httpx.Response) -> None:
        run.note([chunk async for chunk in response.aiter_bytes(1)])

    async def raw(response: httpx.Response) -> None:
        run.note([chunk async for chunk in response.aiter_raw()])

    async def close(response: httpx.Response) -> None:
        await response.aclose()
        run.note(describe_response(response))

    async def change(response: httpx.Response) -> None:
        response.status_code = 404
        response.headers["X-Hook"] = "set"
        response.headers.pop("Location", None)
        response.extensions["hook"] = 1
        response.default_encoding = "latin-1"

    async def sent_elsewhere(response: httpx.Response) -> None:
        if response.status_code == 200 and response.url.path != "/more":
            response.status_code = 303
            response.headers["Location"] = "/more"

    # What a hook has streamed or closed httpx cannot read, so it neither follows a redirect nor meets a challenge.
    only_final = {stream, raw, close}
    for hook in (read, stream, raw, close, change, sent_elsewhere):
        for follows in (True, False):
            run.case(hook.__name__, follows)
            client = run.client(
                *(answers(run)[-1:] if hook in only_final else answers(run)),
                httpx.Response(200, text="more"),
                auth=httpx.DigestAuth("user", "pw"),
                follow_redirects=follows,
                event_hooks={"response": [hook, *run.hooks()["response"]]},
            )
            await run.request(client, "POST", content=b"body")


@pytest.mark.trio
@in_both_modes
async def test_a_hook_that_uses_the_client(run: Run) -> None:
    """A hook may make requests and set cookies and headers."""

    async def log_in(request: httpx.Request) -> None:
        if "log-in" not in request.url.path:
            await run.request(client, url="http://server/log-in")
            request.headers["Authorization"] = "Now"
            client.cookies.set("hook", "1")

    client = run.client(lambda _: httpx.Response(200, headers={"Set-Cookie": "s=1"}), event_hooks={"request": [log_in]})
    await run.request(client)
    await run.request(client)


@pytest.mark.trio
@in_both_modes
async def test_hooks_that_are_not_async(run: Run) -> None:
    """They are called, and fail where their result is awaited."""
    calls: list[object] = []
    for kind in ("request", "response"):
        run.case(kind)
        await run.request(run.client(httpx.Response(200, stream=Stream(run, b"x")), event_hooks={kind: [calls.append]}))
    run.note(len(calls))


@pytest.mark.trio
@in_both_modes
async def test_hooks_and_failures(run: Run) -> None:
    """A request hook is called before a failure, a response hook is not."""
    for failure in (httpx.ConnectError("refused"), ZeroDivisionError("x")):
        client = run.client(failure, event_hooks=run.hooks())
        await run.request(client, url=URL)
