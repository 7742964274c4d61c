"""FakeNetwork: what its servers do with requests, in virtual time, over HTTP/1.1 and HTTP/2, on both backends."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import HTTPTransport, PrefectHTTPStatusError, PrefectHttpxClient, RetryPolicy, Throttle
from prefect_http._types import Receive, Scope, Send
from prefect_http.testing import (
    ConcurrencyLimit,
    FakeNetwork,
    FakeServer,
    FixedWindow,
    Flaky,
    ReceivedRequest,
    Reply,
    Restarts,
    TokenBucket,
    UnexpectedRequest,
)

pytestmark = pytest.mark.anyio
API = "https://api.example.com"
STEADY = RetryPolicy(jitter=0)
NEVER = RetryPolicy(max_retries=0)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


@pytest.fixture(params=[False, True], ids=["http1", "http2"])
def http2(request: pytest.FixtureRequest) -> bool:
    """Run a test over HTTP/1.1 and over HTTP/2."""
    return bool(request.param)


def new_network() -> tuple[FakeNetwork, FakeServer]:
    """Return a network, and the server in it."""
    network = FakeNetwork()
    return network, network.serve(API)


# --- Replies


async def test_example_of_the_contract(http2: bool) -> None:
    """A 503 with a Retry-After, then the answer: the client waits a minute, which takes no time."""
    network, api = new_network()
    api.get("/flows/1").reply(503, headers={"Retry-After": "60"}).reply(json={"name": "etl"})
    api.post("/runs").drop(after=10).reply(201)
    async with network, network.client(PrefectHttpxClient, retry=STEADY, http2=http2) as client:
        response = await client.get(f"{API}/flows/1")
        assert (response.status_code, response.json(), anyio.current_time()) == (200, {"name": "etl"}, 60)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(f"{API}/runs", json=[1])
        assert (await client.post(f"{API}/runs")).status_code == 201
        network.assert_waits([60, 0, 0])
    assert [(each.method, str(each.url), each.status) for each in network.requests] == [
        ("GET", f"{API}/flows/1", 503),
        ("GET", f"{API}/flows/1", 200),
        ("POST", f"{API}/runs", 200),
        ("POST", f"{API}/runs", 201),
    ]
    dropped = network.requests[2]
    assert (dropped.body, dropped.text, dropped.json(), dropped.time) == (b"[1]", "[1]", [1], 60)
    assert dropped.headers["Content-Type"] == "application/json"
    assert (dropped.is_complete, dropped.is_answered, dropped.connection.closed_by) == (True, False, "server")


REPLIES: dict[str, tuple[dict[str, Any], bytes, dict[str, str]]] = {
    "nothing": ({}, b"", {"content-length": "0"}),
    "content": ({"content": b"\x00\xff"}, b"\x00\xff", {"content-length": "2"}),
    "content as text": ({"content": "\xe9"}, b"\xc3\xa9", {"content-length": "2"}),
    "JSON": ({"json": {"a": [1]}}, b'{"a":[1]}', {"content-type": "application/json"}),
    "JSON of None": ({"json": None}, b"null", {"content-type": "application/json"}),
    "text": ({"text": "\xe9"}, b"\xc3\xa9", {"content-type": "text/plain; charset=utf-8"}),
    "a stream": ({"stream": [b"a", b"", b"bc"]}, b"abc", {}),
    "a stream of known length": ({"stream": [b"ab", b"c"], "headers": {"Content-Length": "3"}}, b"abc", {}),
    "own type": ({"json": 1, "headers": {"content-type": "text/odd"}}, b"1", {"content-type": "text/odd"}),
    "headers twice": ({"headers": [("A", "1"), ("A", "2")]}, b"", {"a": "1, 2"}),
    "large": ({"content": bytes(300_000)}, bytes(300_000), {"content-length": "300000"}),
    "no content": ({"status": 204}, b"", {}),
    "unknown status": ({"status": 799, "text": "x"}, b"x", {}),
}


async def test_replies(http2: bool) -> None:
    """A reply has the status, the headers and the body that it was given, and what frames the body."""
    network, api = new_network()
    for reply, _, _ in REPLIES.values():
        api.get("/").reply(**reply)
    async with network, network.client(httpx.AsyncClient, http2=http2) as client:
        for name, (reply, body, headers) in REPLIES.items():
            response = await client.get(API)
            assert (response.status_code, response.content) == (reply.get("status", 200), body), name
            assert {header: response.headers.get(header) for header in headers} == headers, name
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert [each.http_version for each in network.connections] == ["HTTP/2" if http2 else "HTTP/1.1"]


async def test_endless_stream(http2: bool) -> None:
    """Each part of a stream is made when the client has received those before it."""
    made = itertools.count()
    network, api = new_network()
    api.get("/").reply(stream=(b"%d" % next(made) * 10_000 for _ in itertools.count()))
    async with HTTPTransport(connect=network.connect, http2=http2) as transport:
        response = await transport.handle_async_request(httpx.Request("GET", API))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        assert await anext(aiter(response.stream))
        await response.aclose()
    assert next(made) < 300


async def test_stream_again(http2: bool) -> None:
    """A list can be sent again. An iterator would be empty, so that is an error."""
    parts = [b"a", b"b"]
    once = Reply(stream=iter(parts))
    network, api = new_network()
    api.get("/").reply(stream=parts, times=2)
    api.get("/").call(lambda request: once)
    api.get("/odd").reply(stream=["text"])  # type: ignore[list-item]
    async with network.client(httpx.AsyncClient, http2=http2) as client:
        for _ in range(3):
            assert (await client.get(API)).content == b"ab"
        with pytest.raises(TypeError, match="the parts of stream= must be bytes, not str"):
            await client.get(f"{API}/odd")
        with pytest.raises(RuntimeError, match=r"the stream= of a reply was sent before, and .* only once"):
            await client.get(API)


async def test_delay() -> None:
    """A delay passes on the event loop's clock; the client's timeout ends it."""
    network, api = new_network()
    api.get("/").reply(delay=3600).reply(delay=3600)
    async with network.client(httpx.AsyncClient, timeout=None) as client:
        await client.get(API)
        assert anyio.current_time() == 3600
        with pytest.raises(httpx.ReadTimeout):
            await client.get(API, timeout=5)
        assert anyio.current_time() == 3605
    assert network.requests[1].ended_at == 3605
    assert network.connections[0].closed_by == "client"
    network.check()


async def test_delay_that_the_client_leaves(http2: bool) -> None:
    """What would have been due later for a request that has been given up is due no more."""
    network, api = new_network()
    api.get("/").reply().reply(delay=60).reply()
    async with network.client(httpx.AsyncClient, http2=http2, limits=httpx.Limits(keepalive_expiry=1000)) as client:
        await client.get(API)
        with anyio.move_on_after(5):
            await client.get(API, timeout=None)
        await anyio.sleep(100)
        await client.get(API)
    assert len(network.connections) == (1 if http2 else 2)


INVALID: dict[str, tuple[Callable[[FakeServer], object], type[Exception], str]] = {
    "status": (lambda api: api.get("/").reply(100), ValueError, "from 200 to 999, not 100"),
    "a body as the status": (lambda api: api.get("/").reply({}), ValueError, "not {}; a body is given as json=, "),  # type: ignore[arg-type]
    "two bodies": (lambda api: api.get("/").reply(text="", json=1), TypeError, "json= and text= are given"),
    "body": (lambda api: api.get("/").reply(content=1), TypeError, "content= must be bytes or str, not int"),  # type: ignore[arg-type]
    "stream": (lambda api: api.get("/").reply(stream=b""), TypeError, "stream= must be an iterable of bytes"),  # type: ignore[arg-type]
    "an iterator twice": (
        lambda api: api.get("/").early_answer(stream=iter([b""]), times=2),
        TypeError,
        "times=2, but stream= is an iterator, and an iterator can be sent only once: give a list, or",
    ),
    "delay": (lambda api: api.get("/").reply(delay=-1), ValueError, "delay must be a number of seconds, 0 or more"),
    "header": (lambda api: api.get("/").reply(headers={"A": "b\n"}), ValueError, "'A' cannot be sent"),
    "type of a header": (lambda api: api.get("/").reply(headers={"A": 1}), TypeError, "must be text"),  # type: ignore[dict-item]
    "times": (lambda api: api.get("/").reply(times=0), ValueError, "1 or more, not 0"),
    "a step that is never reached": (
        lambda api: api.get("/").reply(times=None).hang(),
        ValueError,
        r"GET /: reply\(200\) is for all further requests, so hang\(\) is never reached",
    ),
    "path": (lambda api: api.get("flows"), ValueError, "must begin with a slash, not 'flows'"),
    "unknown kind of braces": (
        lambda api: api.get("/{n:int}"),
        ValueError,
        r"'/\{n:int\}' has \{n:int\}, not \{name\} or \{name:path\}; %7B stands for a brace",
    ),
    "empty braces": (lambda api: api.get("/{}/a"), ValueError, r"has \{\}, not \{name\}"),
    "braces twice": (lambda api: api.get("/{a}/{a}"), ValueError, r"has \{a\} twice"),
    "call": (lambda api: api.get("/").call(1), TypeError, "a function of the request, not 1"),  # type: ignore[arg-type]
    "after": (lambda api: api.get("/").drop(-1), ValueError, "after must be a number of bytes, 0 or more"),
    "every": (lambda api: api.get("/").drip(every=-1), ValueError, "every must be a number of seconds"),
    "size": (lambda api: api.get("/").drip(every=1, size=0), ValueError, "size must be a number of bytes, 1 or more"),
    "drip of a stream": (lambda api: api.get("/").drip(every=1, stream=[b""]), TypeError, "not stream="),
    "garbage": (lambda api: api.get("/").garbage("x"), TypeError, "takes bytes, not str"),  # type: ignore[arg-type]
    "limit": (lambda api: api.limit(10), TypeError, r"limit\(\) takes an object such as TokenBucket\(10\), not 10"),  # type: ignore[arg-type]
    "class of limits": (lambda api: api.limit(TokenBucket), TypeError, r"not <class .*TokenBucket'>"),  # type: ignore[arg-type]
    "class of faults": (lambda api: api.fault(Flaky), TypeError, r"such as Flaky\(0\.1\), not <class"),  # type: ignore[arg-type]
    "status of a limit": (lambda api: api.limit(TokenBucket(1), status=200), ValueError, "from 400 to 999"),
    "headers of a limit": (lambda api: api.limit(TokenBucket(1), headers="x"), ValueError, "no headers of the style"),  # type: ignore[arg-type]
}


def test_invalid_scripts() -> None:
    """What cannot be sent is an error where the script is written."""
    for name, (write, kind, message) in INVALID.items():
        with pytest.raises(kind, match=message):
            write(new_network()[1])
            pytest.fail(name)


# --- Routes


async def test_routes() -> None:
    """The first route that is for a request and has a step left answers; those for any path come last."""
    network = FakeNetwork()
    api = network.serve("http://host:8000/v1/")
    api.any().reply(text="any", times=None)
    api.route("PURGE", "/flows").reply(text="PURGE")
    api.get("/flows?limit=1").reply(text="limit")
    api.get("/flows").reply(text="flows").reply(text="flows again")
    api.any("/flows/{flow}/runs/{run}").call(lambda request: Reply(json=request.path_parameters))
    api.get("/files/{path:path}").call(lambda request: Reply(json=request.path_parameters))
    api.get("/caf%C3%A9").reply(text="decoded")
    expected = [
        ("GET", "/flows?limit=1", "limit"),
        ("GET", "/flows?limit=1", "flows"),
        ("GET", "/flows?limit=2", "flows again"),
        ("GET", "/flows", "any"),
        ("PURGE", "/flows", "PURGE"),
        ("PUT", "/flows/a%20b/runs/1", '{"flow":"a b","run":"1"}'),
        ("GET", "/flows/1/runs", "any"),
        ("GET", "/files/a/b", '{"path":"a/b"}'),
        ("GET", "/caf\xe9", "decoded"),
        ("GET", "", "any"),
    ]
    async with network, network.client(httpx.AsyncClient, base_url="http://host:8000/v1") as client:
        for method, path, text in expected:
            assert (await client.request(method, path)).text == text, (method, path)
    assert api.route("purge", "/flows").requests == api.route("PURGE", "/flows").requests
    assert [each.target for each in api.get("/flows").requests] == ["/v1/flows?limit=1", "/v1/flows?limit=2"]
    network.assert_order(api.get("/flows?limit=1"), api.route("PURGE", "/flows"), api.any())
    with pytest.raises(AssertionError, match="in this order: PURGE /flows, GET /flows\n"):
        network.assert_order(api.route("PURGE", "/flows"), api.get("/flows"))
    wrong: Any = "/flows"
    with pytest.raises(TypeError, match=r"^assert_order\(\) takes routes, such as .*, not '/flows'$"):
        network.assert_order(wrong)


# The path of a route, what is requested, and the path parameters; None: the route is for something else.
PATHS: list[tuple[str, str, dict[str, str] | None]] = [
    ("/a b", "/a%20b", {}),
    ("/a%20b", "/a b", {}),
    ("/~a:b", "/%7ea%3Ab", {}),
    ("/caf\xe9", "/caf%C3%A9", {}),
    ("/a%25b", "/a%25b", {}),
    ("/a%2Fb", "/a%2fb", {}),
    ("/a/b", "/a%2Fb", None),
    ("/a%252Fb", "/a%2Fb", None),
    ("/%7Ba%7D", "/%7Ba%7D", {}),
    ("/a{b", "/a{b", {}),
    ("/a", "/a/", None),
    ("/a", "/A", None),
    ("/{a}", "/x%2Fy", {"a": "x/y"}),
    ("/{a}", "/x/y", None),
    ("/{a}", "/x%25y%0Az", {"a": "x%y\nz"}),
    ("/\xe9/{a}-{b}.json", "/%C3%A9/1-2.json", {"a": "1", "b": "2"}),
    ("/{a:path}", "/x/y%2Fz%0A", {"a": "x/y/z\n"}),
    ("/{a:path}", "/", None),
    ("/?a=1&b=2", "/?b=2&a=1", {}),
    ("/?a=1&a=2", "/?a=2&a=1", None),
    ("/?a=1", "/?a=1&b=2", None),
    ("/?a=x y&b=\xe9", "/?a=x+y&b=%C3%A9", {}),
    ("/?a=x%20y", "/?a=x+y", {}),
    ("/?a", "/?a=", {}),
    ("/?", "/", {}),
    ("/?", "/?a=1", None),
    ("/{a}?b=1", "/x?b=1", {"a": "x"}),
]


async def test_paths() -> None:
    """A route is for a path however it is encoded, but for slashes; and for a query in whatever order."""
    for base, (path, requested, parameters) in itertools.product(["https://a", "https://a/b%20\xe9/"], PATHS):
        network = FakeNetwork()
        route = network.serve(base).get(path).reply(times=None)
        async with network.client(httpx.AsyncClient) as client:
            with contextlib.suppress(UnexpectedRequest):
                await client.get(base.rstrip("/") + requested)
        assert [each.path_parameters for each in route.requests] == ([] if parameters is None else [parameters]), path


async def test_methods() -> None:
    """There is a method for each common method. What arrived shows what it was."""
    network, api = new_network()
    for route in (api.get, api.head, api.options, api.post, api.put, api.patch, api.delete):
        route("/a").reply()
    api.get("/b").reply()
    async with network, network.client(httpx.AsyncClient) as client:
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
            await client.request(method, f"{API}/a")
        target = {"target": b"https://api.example.com/b?c"}  # as to a proxy
        await client.get(API, extensions=target)
    assert [repr(each) for each in network.requests[-2:]] == [
        f"<ReceivedRequest(DELETE {API}/a)>",
        f"<ReceivedRequest(GET {API}/b?c)>",
    ]
    assert network.requests[0].headers is network.requests[0].headers


async def test_functions(http2: bool) -> None:
    """A function of the request may answer, at once or later; what it raises is raised by the request."""

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(201, content=request.body[::-1])

    async def answer_later(request: ReceivedRequest) -> Reply:
        await anyio.sleep(100)
        return answer(request)

    async def fail(request: ReceivedRequest) -> Reply:
        raise LookupError("a mistake in the test")

    network, api = new_network()
    api.post("/now").call(answer)
    api.post("/later").call(answer_later)
    api.post("/odd").call(lambda request: 1)  # type: ignore[arg-type,return-value]
    api.post("/fault").call(fail)
    async with network.client(httpx.AsyncClient, http2=http2, timeout=None) as client:
        assert (await client.post(f"{API}/now", content=b"abc")).content == b"cba"
        assert anyio.current_time() == 0
        assert (await client.post(f"{API}/later", content=b"abc")).content == b"cba"
        assert anyio.current_time() == 100
        with pytest.raises(TypeError, match="must return a Reply, not int"):
            await client.post(f"{API}/odd")
        with pytest.raises(LookupError, match="a mistake in the test"):
            await client.post(f"{API}/fault")
    with pytest.raises(AssertionError, match=r"must return a Reply(?s:.)*LookupError: a mistake in the test"):
        network.check()


async def test_functions_that_fail_the_test(http2: bool) -> None:
    """A function may call ``pytest.fail()``, whose exception is no Exception: the request raises an AssertionError."""

    async def fail_later(request: ReceivedRequest) -> Reply:
        await anyio.sleep(1)
        pytest.fail("later")

    for function, message in ((lambda request: pytest.fail("at once"), "at once"), (fail_later, "later")):
        network, api = new_network()
        api.get("/").call(function)
        async with network.client(PrefectHttpxClient, http2=http2) as client:
            with pytest.raises(AssertionError, match=f"^Failed: {message}"):
                await client.get(API)
        with pytest.raises(AssertionError, match=f"Failed: {message}"):
            network.check()


async def test_function_at_the_end_of_the_run() -> None:
    """A function that still runs when the event loop's run ends is cancelled with it."""
    network = FakeNetwork()
    network.serve("http://a").any().call(lambda request: anyio.sleep_forever())  # type: ignore[arg-type,return-value]
    stream = await network.connect("a", 80)
    await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await anyio.wait_all_tasks_blocked()
    assert len(network.requests) == 1


async def test_interrupted_function() -> None:
    """A KeyboardInterrupt in a function stays one."""

    def interrupt(request: ReceivedRequest) -> Reply:
        raise KeyboardInterrupt

    network, api = new_network()
    api.get("/").call(interrupt)
    async with network.client(httpx.AsyncClient) as client:
        with pytest.raises(KeyboardInterrupt):
            await client.get(API)
    network.check()


async def test_function_is_cancelled_with_its_connection(http2: bool) -> None:
    """An async function is cancelled when the client gives up."""
    ends: list[float] = []

    async def wait(request: ReceivedRequest) -> Reply:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append(anyio.current_time())
        raise AssertionError("not reached")

    network, api = new_network()
    api.get("/").call(wait)
    async with network.client(httpx.AsyncClient, http2=http2, timeout=5) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(API)
        await anyio.wait_all_tasks_blocked()
        assert ends == [5]
    network.check()


# --- Faults


async def faulty(
    script: Callable[[FakeServer], object], send: Callable[[httpx.AsyncClient], Awaitable[object]], *, http2: bool
) -> tuple[str, FakeNetwork]:
    """Return the outcome of a request in a network with a script, and the network."""
    network, api = new_network()
    script(api)
    async with network, network.client(httpx.AsyncClient, http2=http2, timeout=10) as client:
        try:
            response = await send(client)
        except httpx.HTTPError as error:
            return type(error).__name__, network
        assert isinstance(response, httpx.Response)
        return f"{response.status_code} {response.text}", network


async def get(client: httpx.AsyncClient) -> httpx.Response:
    """Send a GET."""
    return await client.get(API)


async def get_twice(client: httpx.AsyncClient) -> httpx.Response:
    """Send two GETs, one after the other, and return the response to the second."""
    await client.get(API)
    return await client.get(API)


async def upload(client: httpx.AsyncClient) -> httpx.Response:
    """Send a large body, part by part."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10_000)
            await anyio.sleep(0.01)

    return await client.post(API, content=body())


FAULTS: dict[str, tuple[Callable[[FakeServer], object], Callable[..., Any], str, str, int]] = {
    # The outcome over HTTP/1.1 and over HTTP/2, and how many connections there are.
    "drop at once": (lambda api: api.any().drop(), get, "RemoteProtocolError", "RemoteProtocolError", 1),
    "drop in the head": (lambda api: api.any().drop(after=5), get, "RemoteProtocolError", "RemoteProtocolError", 1),
    "drop in the body": (
        lambda api: api.any().drop(200, content=bytes(1000)),
        get,
        "RemoteProtocolError",
        "RemoteProtocolError",
        1,
    ),
    "drip": (lambda api: api.any().drip(text="abc", every=9), get, "200 abc", "200 abc", 1),
    "drip too slowly": (lambda api: api.any().drip(text="abc", every=11), get, "ReadTimeout", "ReadTimeout", 1),
    "hang": (lambda api: api.any().hang(), get, "ReadTimeout", "ReadTimeout", 1),
    "reset": (lambda api: api.any().reset(), get, "ReadError", "RemoteProtocolError", 1),
    "refuse": (lambda api: api.any().refuse(), get, "ConnectError", "ConnectError", 0),
    "refuse an open connection": (
        lambda api: api.any().reply().refuse(),
        get_twice,
        "ConnectError",
        "ConnectError",
        1,
    ),
    "stale keep-alive": (
        lambda api: api.any().reply().stale_keep_alive().reply(text="again"),
        get_twice,
        "200 again",
        "200 again",
        2,
    ),
    "stale keep-alive after the first": (
        lambda api: api.any().stale_keep_alive(text="first").reply(text="again"),
        get_twice,
        "200 again",
        "200 again",
        2,
    ),
    "early answer": (lambda api: api.any().early_answer(413, text="no"), upload, "413 no", "413 no", 1),
    "garbage": (lambda api: api.any().garbage(b"\x00\x01"), get, "InvalidResponse", "RemoteProtocolError", 1),
}


async def test_faults(http2: bool) -> None:
    """Each fault of a script is what the client would meet with a real server."""
    for name, (script, send, over_http1, over_http2, connections) in FAULTS.items():
        outcome, network = await faulty(script, send, http2=http2)
        assert outcome == (over_http2 if http2 else over_http1), name
        assert len(network.connections) == connections, name
    network, api = new_network()
    api.any().stale_keep_alive()
    async with network.client(httpx.AsyncClient) as client:  # nobody comes back
        await client.get(API)
    network.check()


async def test_goaway() -> None:
    """A request that a GOAWAY leaves out is sent again on another connection. HTTP/1.1 has none."""
    outcome, network = await faulty(lambda api: api.any().goaway().reply(text="again"), get, http2=True)
    assert (outcome, len(network.connections)) == ("200 again", 2)
    assert network.connections[0].closed_by == "server"
    network, api = new_network()
    api.any().goaway()
    async with network.client(httpx.AsyncClient) as client:
        with pytest.raises(ValueError, match=r"goaway\(\) needs HTTP/2, but GET https://api\.example\.com/ arrived"):
            await client.get(API)


async def test_goaway_behind_a_large_response() -> None:
    """A GOAWAY does not wait until the client has taken what came before, so later requests use no steps in vain."""
    network, api = new_network()
    api.get("/large").reply(content=bytes(1_000_000))
    api.get("/gone").goaway().reply()
    api.get("/later").reply(times=5)
    async with network, network.client(httpx.AsyncClient, http2=True) as client, anyio.create_task_group() as tasks:
        for path in ("large", "gone", *["later"] * 5):
            tasks.start_soon(client.get, f"{API}/{path}")
            await anyio.lowlevel.checkpoint()
    assert len(network.connections) == 2


async def test_drop_after_the_end(http2: bool) -> None:
    """A drop behind the end of the answer would never happen: it is a mistake in the test."""
    network, api = new_network()
    api.any().drop(after=10_000)
    async with network.client(httpx.AsyncClient, http2=http2) as client:
        with pytest.raises(ValueError, match=r"drop\(after=10000\): the whole answer is shorter than that"):
            await client.get(API)


async def test_drop_far_into_the_body(http2: bool) -> None:
    """A drop is where it was put, also beyond the flow control windows; responses beside it are complete."""
    network, api = new_network()
    api.get("/large").drop(after=20_000_000, content=bytes(30_000_000))
    api.get("/small").reply(text="whole")
    received = 0
    async with network, network.client(httpx.AsyncClient, http2=http2) as client:
        async with client.stream("GET", f"{API}/large") as response:
            assert (await client.get(f"{API}/small")).text == "whole"
            with pytest.raises(httpx.RemoteProtocolError):
                async for part in response.aiter_raw():
                    received += len(part)
    assert 19_980_000 < received < 20_000_000
    assert [each.is_answered for each in network.requests] == [False, True]


async def test_many_steps() -> None:
    """``times`` repeats a step."""
    network, api = new_network()
    api.get("/").reply(503, times=3).reply(times=None)
    async with network, network.client(PrefectHttpxClient, retry=STEADY) as client:
        await client.get(API)
        await client.get(API)
    assert [each.status for each in network.requests] == [503, 503, 503, 200, 200]


async def test_delay_that_nobody_waits_for(http2: bool) -> None:
    """What was due for a client that has given up holds up neither the event loop nor the next request."""
    network, api = new_network()
    api.get("/").reply(delay=10).reply(text="next")
    async with network, network.client(httpx.AsyncClient, http2=http2, timeout=5) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, f"{API}/held")
            api.get("/held").reply(delay=4)
            with pytest.raises(httpx.ReadTimeout):
                await client.get(API)
        await anyio.sleep(20)
        assert (await client.get(API)).text == "next"
        assert anyio.current_time() == 25


# --- Connections


async def test_connections() -> None:
    """Each connection tells when it was opened and closed, by whom, and what it was used for."""
    network, api = new_network()
    api.get("/").reply().reply(headers={"Connection": "close"}).reply(delay=100)
    async with network.client(httpx.AsyncClient, timeout=None) as client:
        for _ in range(3):
            await client.get(API)
    told = [
        (each.number, each.host, each.port, each.opened_at, each.closed_at, each.closed_by, len(each.requests))
        for each in network.connections
    ]
    assert told == [
        (0, "api.example.com", 443, 0, 0, "server", 2),
        (1, "api.example.com", 443, 0, 100, "client", 1),
    ]
    assert [each.is_reused for each in network.connections] == [True, False]


async def test_unknown_hosts_refuse() -> None:
    """A host without a server refuses connections, and so does a port; the message names those that there are."""
    network, _ = new_network()
    network.serve("http://other:81")
    async with network.client(httpx.AsyncClient) as client:
        for url in ("https://unknown/", "http://api.example.com/", "https://api.example.com:444/"):
            with pytest.raises(httpx.ConnectError, match=r"there are: https://api\.example\.com, http://other:81$"):
                await client.get(url)
        with pytest.raises(httpx.ConnectError, match="the FakeServer at other:81 speaks http, not https"):
            await client.get("https://other:81")
        with pytest.raises(ValueError, match=r"http to the FakeServer at api\.example\.com:443, which speaks https"):
            await client.get("http://api.example.com:443")
    assert not network.requests


async def test_http2_is_negotiated() -> None:
    """A server chooses HTTP/2 if it is offered, unless it was told not to; without TLS, the client's bytes tell."""
    network = FakeNetwork()
    for url, http2 in (("https://both", True), ("https://old", False), ("http://plain", True)):
        network.serve(url, http2=http2).any().reply(times=None)
    clients: list[dict[str, Any]] = [{}, {"http2": True}, {"http1": False, "http2": True}]
    for arguments, versions in zip(clients, ("111", "211", "2-2"), strict=True):
        async with network.client(httpx.AsyncClient, **arguments) as client:
            for url, version in zip(("https://both", "https://old", "http://plain"), versions, strict=True):
                if version == "-":
                    continue
                assert (await client.get(url)).http_version == {"1": "HTTP/1.1", "2": "HTTP/2"}[version]


async def test_limits_of_the_pool() -> None:
    """``limits`` of a client holds for its connections in the network."""
    network, api = new_network()
    api.get("/").reply(delay=1, times=None)
    async with network.client(httpx.AsyncClient, limits=httpx.Limits(max_connections=2), timeout=None) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(client.get, API)
    assert (len(network.connections), anyio.current_time()) == (2, 3)


# --- Clients


async def test_clients() -> None:
    """Any class of async clients will do; so will any transport that takes ``connect=``."""

    class OwnClient(PrefectHttpxClient):
        pass

    network, api = new_network()
    api.get("/").reply(text="hello", times=None)
    for client_class in (httpx.AsyncClient, PrefectHttpxClient, OwnClient, httpx2.AsyncClient):
        client: Any = network.client(client_class, verify=False, base_url=API)
        assert type(client) is client_class
        async with client:
            assert (await client.get("/")).text == "hello"
    async with httpx.AsyncClient(transport=HTTPTransport(connect=network.connect)) as client:
        assert (await client.get(API)).text == "hello"
    network.check()


async def test_code_that_makes_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test can replace a class of clients by clients of its network, whatever code calls it."""
    network, api = new_network()
    api.get("/").reply(text="hello", times=None)
    monkeypatch.setattr(httpx, "AsyncClient", partial(network.client, httpx.AsyncClient))
    async with httpx.AsyncClient(base_url=API, verify=False) as client:
        assert (await client.get("/")).text == "hello"


# Where a server is, and URLs that lead to it.
HOSTS: list[tuple[str, list[str]]] = [
    ("http://a", ["http://a/", "http://A:80/"]),
    ("https://a:443", ["https://a/"]),
    ("https://a:80", ["https://a:80/"]),
    ("http://A.b.", ["http://a.b./"]),
    ("http://127.0.0.1:8000", ["http://127.0.0.1:8000/"]),
    ("http://[::1]:8000", ["http://[::1]:8000/", "http://[0:0::1]:8000/"]),
    ("http://[2001:DB8::1]", ["http://[2001:db8::1]/"]),
    ("https://b\xfccher.example", ["https://b\xfccher.example/", "https://xn--bcher-kva.example/"]),
]


async def test_hosts() -> None:
    """A server is found by its host in any spelling, and by its port."""
    for url, others in HOSTS:
        network = FakeNetwork()
        network.serve(url).get("/").reply(times=None)
        async with network, network.client(httpx.AsyncClient) as client:
            for other in [url, *others]:
                assert (await client.get(other)).status_code == 200
        assert [each.url for each in network.requests[1:]] == [httpx.URL(each) for each in others]


INVALID_CLIENTS: dict[str, tuple[Callable[[FakeNetwork], object], type[Exception], str]] = {
    "sync": (lambda network: network.client(httpx.Client), TypeError, "sync clients are not supported"),
    "no client": (
        lambda network: network.client(dict),
        TypeError,
        "takes httpx.AsyncClient, httpx2.AsyncClient or a subclass, not",
    ),
    "an instance": (lambda network: network.client(httpx.AsyncClient()), TypeError, "pass the class, followed by"),  # type: ignore[arg-type]
    "no class": (
        lambda network: network.client(len),
        TypeError,
        r"for any other client, pass transport=HTTPTransport\(connect=network\.connect\)",
    ),
    "transport": (
        lambda network: network.client(httpx.AsyncClient, transport=HTTPTransport()),
        TypeError,
        "transport= cannot be given",
    ),
    "URL": (lambda network: network.serve("api.example.com"), ValueError, "not api.example.com"),
    "URL of a page": (lambda network: network.serve("http://a/?b"), ValueError, "not http://a/\\?b"),
    "credentials": (lambda network: network.serve("http://u:p@a"), ValueError, "not http://a$"),
    "two servers": (lambda network: network.serve(API), ValueError, "there is a server at https://api.example.com"),
}


def test_invalid_clients_and_servers() -> None:
    """What cannot be is an error that says why."""
    for name, (make, kind, message) in INVALID_CLIENTS.items():
        with pytest.raises(kind, match=message):
            make(new_network()[0])
            pytest.fail(name)
    network, api = new_network()
    assert (repr(network), repr(api)) == (f"<FakeNetwork({API})>", f"<FakeServer({API})>")
    assert repr(api.get("/a")) == "<Route(GET /a)>"


# --- Limits and faults


async def test_limited_server() -> None:
    """A limit rejects what it does not admit, before any script; a throttle gets by with few rejections."""
    network, api = new_network()
    api.limit(TokenBucket(1, burst=2))
    api.get("/").reply(text="hello", times=None)
    async with network, network.client(PrefectHttpxClient, retry=STEADY, throttle=Throttle()) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client.get, API)
    statuses = [each.status for each in network.requests]
    assert (statuses.count(200), set(statuses)) == (10, {200, 429})
    assert 8 <= anyio.current_time() < 20
    assert len(api.get("/").requests) == 10


async def test_headers_of_limits() -> None:
    """A limit is in the headers of each answer, or of rejections only, as it was told."""
    network, api = new_network()
    api.limit(FixedWindow(1, 60), headers=("retry-after", "x-ratelimit"))
    api.get("/").reply()
    async with network, network.client(PrefectHttpxClient, retry=NEVER) as client:
        response = await client.get(API)
        assert response.headers["X-RateLimit-Remaining"] == "0"
        assert response.rate_limit is not None
        with pytest.raises(PrefectHTTPStatusError) as caught:
            await client.get(API)
        assert caught.value.response.headers["Retry-After"] == "60"


async def test_concurrency_limit_is_released() -> None:
    """A concurrency limit counts the requests that are being answered, whatever ends them."""
    network, api = new_network()
    api.limit(ConcurrencyLimit(1), status=503, headers=None)
    api.get("/").reply(delay=5).hang().reply(times=None)
    async with network, network.client(httpx.AsyncClient, timeout=10) as client:
        statuses: list[int] = []

        async def send() -> None:
            statuses.append((await client.get(API)).status_code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(send)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(API)
        await send()
    assert sorted(statuses) == [200, 200, 503]


async def test_concurrency_limit_counts_what_nobody_reads(http2: bool) -> None:
    """A request counts while the client does not read the rest of a large response."""
    network, api = new_network()
    api.limit(ConcurrencyLimit(1)).get("/").reply(content=bytes(20_000_000)).reply(times=None)
    async with network.client(httpx.AsyncClient, http2=http2) as client:
        async with client.stream("GET", API) as response:
            assert (await client.get(API)).status_code == 429
            await response.aread()
        assert (await client.get(API)).status_code == 200


async def test_shared_limit() -> None:
    """Servers share a limit that is the same object."""
    network, api = new_network()
    limit = FixedWindow(1, 60)
    other = network.serve("http://other")
    for server in (api, other):
        server.limit(limit).any().reply(times=None)
    async with network.client(httpx.AsyncClient) as client:
        assert [(await client.get(url)).status_code for url in (API, "http://other")] == [200, 429]


async def test_faulty_servers() -> None:
    """Faults strike requests before any limit and any script."""
    network, api = new_network()
    api.fault(Flaky(1)).limit(TokenBucket(1)).any().reply(times=None)
    restarting = network.serve("http://restarting")
    restarting.fault(Restarts(10, 1, status=None)).any().reply(times=None)
    async with network.client(httpx.AsyncClient) as client:
        assert [(await client.get(API)).status_code for _ in range(3)] == [503] * 3
        await client.get("http://restarting")
        await anyio.sleep(9.5)
        with pytest.raises(httpx.ConnectError, match="refuses the connection"):  # the idle connection has expired
            await client.get("http://restarting")
        await anyio.sleep(5)
        await client.get("http://restarting")
        await anyio.sleep(4.5)
        with pytest.raises(httpx.ConnectError):  # the open connection is reset, and no other can be opened
            await client.get("http://restarting")
    assert [each.closed_by for each in network.connections] == ["client", "client", "server"]


# --- Apps


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the body; the lifespan has a state."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["greeting"] = "hello"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/fault":
        raise LookupError("a fault of the app")
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["raw_path"])]})
    await send({"type": "http.response.body", "body": scope["state"]["greeting"].encode(), "more_body": True})
    if scope["path"] == "/late":
        raise LookupError("a late fault of the app")
    await anyio.sleep(60)
    await send({"type": "http.response.body", "body": b" " + body})


async def test_app_as_a_server(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An app serves what no route is for, inside ``async with``, which runs its lifespan."""
    network = FakeNetwork()
    network.serve(API, app).get("/own").reply(418)
    with pytest.raises(RuntimeError, match="inside `async with network`"):
        async with network.client(httpx.AsyncClient, http2=http2, base_url=API) as client:
            await client.get("/")
    network = FakeNetwork()
    network.serve(API, app).get("/own").reply(418)
    async with network, network.client(httpx.AsyncClient, http2=http2, base_url=API, timeout=None) as client:
        with pytest.raises(RuntimeError, match="before `async with network`"):
            network.serve("http://late", app)
        response = await client.post("/a%20b", content=b"world")
        assert (response.text, response.headers["x-path"], anyio.current_time()) == ("hello world", "/a%20b", 60)
        assert (await client.get("/own")).status_code == 418
        assert (await client.get("/fault")).status_code == 500
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.get("/late")
    assert [record.levelno for record in caplog.records if record.name == "prefect_http"] == [logging.ERROR] * 2


async def test_app_with_background_work(http2: bool) -> None:
    """A response ends with its body. What the app does behind that holds up no client."""
    ends: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await anyio.sleep(1)
        await send({"type": "http.response.body"})
        await anyio.sleep(100)
        ends.append(anyio.current_time())

    network = FakeNetwork()
    network.serve(API, app)
    async with network, network.client(httpx.AsyncClient, http2=http2, timeout=10) as client:
        assert ((await client.get(API)).text, anyio.current_time()) == ("hello", 1)
        assert network.requests[0].ended_at == 1
        await anyio.sleep(200)
    assert ends == [101]


async def test_entered_again() -> None:
    """A network can be entered again, once it has been left, and starts its apps anew."""
    network = FakeNetwork()
    network.serve(API, app)
    for _ in range(2):
        async with network, network.client(httpx.AsyncClient, timeout=None) as client:
            assert (await client.get(API)).status_code == 200
            with pytest.raises(RuntimeError, match="the network has been entered already"):
                async with network:
                    raise AssertionError("not reached")


async def cancelled_after_startup(turns: int) -> list[str]:
    """Cancel the entering of a network so many turns after its app has started, and return what the app is told."""
    told: list[str] = []
    with anyio.CancelScope() as outer:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            outer.cancel()
            told.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})

        network = FakeNetwork()
        network.serve(API, app)
        async with network:
            await anyio.sleep_forever()
    return told


async def test_entering_is_cancelled_as_the_app_has_started() -> None:
    """The app is shut down, whenever the cancellation comes."""
    for turns in range(12):
        assert await cancelled_after_startup(turns) == ["lifespan.shutdown"], turns


# --- Verdicts


async def test_unexpected_request(http2: bool) -> None:
    """It is raised by the request, which no client retries, and by ``check()``; both show what came."""
    network, api = new_network()
    api.get("/flows/1").reply()
    api.post("/runs").reply(times=2)
    async with network.client(PrefectHttpxClient, http2=http2) as client:
        await client.get(f"{API}/flows/1")
        with pytest.raises(UnexpectedRequest) as caught:
            await client.get(f"{API}/flows/2")
    reason = "no rule is for it; the nearest is GET /flows/1, which is for another path"
    first_line = f"unexpected request: GET {API}/flows/2: {reason}\n"
    requests = """\
requests:
  0.000 s  GET  https://api.example.com/flows/1  200        connection 0
  0.000 s  GET  https://api.example.com/flows/2  no answer  connection 0"""
    rules = """\
rules of https://api.example.com:
  GET   /flows/1  used once     left: nothing
  POST  /runs     used 0 times  left: reply(200) 2 times
"""
    assert str(caught.value) == first_line + rules + requests
    with pytest.raises(AssertionError) as checked:
        network.check()
    left = """\
scripted, and never used:
  POST /runs  reply(200)  2 requests  https://api.example.com
"""
    assert str(checked.value) == first_line + left + requests


UNEXPECTED: dict[str, tuple[str, str, str]] = {
    "used up": ("GET", "/once", "the script of GET /once was for 1 request and is used up"),
    "no steps": ("GET", "/nothing", r"the script of GET /nothing has no steps; add one, such as reply\(\)\n"),
    "method": ("PUT", "/once", "the nearest is GET /once, which is for another method"),
    "method and path": ("PUT", "/onc", "which is for another method and path"),
    "query": ("GET", "/query?a=2", r"the nearest is GET /query\?a=1, which is for another query, not a=2"),
    "no query": ("GET", "/query", "which is for another query, not none"),
    "prefix": ("GET", "/../else", "the server's rules are for paths below http://host/v1\n"),
}


async def test_reasons_for_unexpected_requests() -> None:
    """The message says why no rule was for a request."""
    for name, (method, path, message) in UNEXPECTED.items():
        network = FakeNetwork()
        api = network.serve("http://host/v1")
        api.get("/once").reply()
        api.get("/query?a=1").reply()
        api.get("/nothing")
        async with network.client(httpx.AsyncClient) as client:
            await client.get("http://host/v1/once")
            with pytest.raises(UnexpectedRequest, match=message):
                await client.request(method, f"http://host/v1{path}")
                pytest.fail(name)
    network = FakeNetwork()
    network.serve("http://host")
    async with network.client(httpx.AsyncClient) as client:
        with pytest.raises(UnexpectedRequest, match="the server has no rules\nrules of http://host: none\n"):
            await client.get("http://host/")


async def test_left_over_steps() -> None:
    """Leaving the network checks it, unless an exception is on its way already."""
    network, api = new_network()
    api.get("/").reply().drop(after=3, times=2).reply(times=None)
    with pytest.raises(AssertionError, match=r"scripted, and never used:\n  GET /  reply\(200\) +1 request "):
        async with network:
            pass
    with pytest.raises(LookupError):
        async with network:
            raise LookupError
    async with network.client(httpx.AsyncClient) as client:
        await client.get(API)
    with pytest.raises(AssertionError, match=r"drop\(after=3\)  2 requests"):
        network.check()


async def test_entered_twice() -> None:
    """A network is entered once at a time."""
    network, _ = new_network()
    for _ in range(2):
        async with network:
            with pytest.raises(RuntimeError, match="entered already"):
                await network.__aenter__()


async def test_waits() -> None:
    """The pauses between requests are from the end of one answer to the next request."""
    network, api = new_network()
    api.get("/").reply(503, delay=2, headers={"Retry-After": "30"}).drop().reply(503).reply()
    async with network, network.client(PrefectHttpxClient, retry=STEADY) as client:
        await client.get(API)
        network.assert_waits([30, 4, 8])
        network.assert_waits([(29, 31), (0, 4), 8], requests=api.get("/").requests)
        network.assert_waits([31, 4, 7], tolerance=1)
        network.assert_waits([], requests=[])
        wrong_ones: list[list[float | tuple[float, float]]] = [[30, 4], [30, 4, 8, 9], [30, 4, 9], [30, (4.5, 5), 8]]
        for wrong in wrong_ones:
            with pytest.raises(AssertionError, match="the pauses between 4 requests are not those that were expected"):
                network.assert_waits(wrong)
        wrong_types: list[tuple[Any, str]] = [
            (60, r"takes a list of pauses in seconds, such as \[60\].*, not 60"),
            ("60", "not '60'"),
            (["60"], "a pause must be a number of seconds, .*, not '60'"),
            ([(1, 2, 3)], r"not \(1, 2, 3\)"),
            ([None], "not None"),
        ]
        for value, message in wrong_types:
            with pytest.raises(TypeError, match=message):
                network.assert_waits(value)
        with pytest.raises(ValueError, match=r"^in a pair of pauses, the least must come first, not \(5, 4.5\)$"):
            network.assert_waits([30, (5, 4.5), 8])
        with pytest.raises(AssertionError) as caught:
            network.assert_waits([30, (9, math.inf)])
    assert "\npauses:\n  was       expected\n  30.000 s  30 s\n  4.000 s   9 s or more\n  8.000 s   none\n" in str(
        caught.value
    )


async def test_messages_without_credentials() -> None:
    """Neither tables nor errors show the userinfo of a URL."""
    network, _ = new_network()
    async with network.client(httpx.AsyncClient) as client:
        with pytest.raises(UnexpectedRequest) as caught:
            await client.get("https://user:secret@api.example.com/")
    assert "secret" not in str(caught.value)
    assert re.search(r"GET +https://api\.example\.com/ ", str(caught.value))


async def test_many_requests_are_shown_in_part() -> None:
    """A table shows the last requests, and the first pauses."""
    network, api = new_network()
    api.get("/").reply(times=30)
    async with network.client(httpx.AsyncClient) as client:
        for _ in range(25):
            await client.get(API)
    with pytest.raises(AssertionError, match=r"requests:\n  \.\.\. 5 before these\n  0\.000 s"):
        network.check()
    with pytest.raises(AssertionError, match=r"  0\.000 s  none\n  \.\.\. 4 after these\nrequests:\n"):
        network.assert_waits([1])


@each_row("times", [1, 2])
def test_rows(times: int) -> None:
    """A network can be made outside of any event loop."""
    network, api = new_network()
    api.get("/").reply(times=times)
    with pytest.raises(AssertionError):
        network.check()
