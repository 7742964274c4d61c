"""Many requests at once: their outcomes, the order of these, and how far the iterable is read."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from support.many_requests import CountingServer, name_of
from support.scripted_transport import Body
from support.virtual_time import virtual_time_backend
from trio.testing import MockClock

from prefect_http import (
    Outcome,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    ResponseTooLarge,
    RetryPolicy,
    Throttle,
    ThrottleTimeout,
)
from prefect_http.testing import FakeNetwork, TokenBucket

BOTH = [False, True]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run in virtual time."""
    return virtual_time_backend(str(request.param))


async def in_async(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Yield items from an async generator."""
    for item in items:
        await anyio.lowlevel.checkpoint()
        yield item


async def outcomes_of(client: PrefectHttpxClient, requests: Any, **arguments: Any) -> list[Outcome]:
    """Return all outcomes."""
    with anyio.fail_after(1000):
        async with client.send_many(requests, **arguments) as outcomes:
            return [outcome async for outcome in outcomes]


# --- Outcomes


@pytest.mark.anyio
@pytest.mark.parametrize("make", [iter, in_async], ids=["sync", "async"])
async def test_requests_and_urls(make: Any) -> None:
    """Requests, URLs and strings are sent; a URL stands for a GET, and may be relative to the client's base_url."""
    server = CountingServer()
    async with server.client(headers={"X-Team": "etl"}) as client:
        request = client.build_request("POST", "/a/3", content=b"body")
        given = [request, httpx.URL("http://other/b/2"), "/c/1"]
        outcomes = await outcomes_of(client, make(given))
    assert [str(outcome.request and outcome.request.url) for outcome in outcomes] == [
        *("http://server/c/1", "http://other/b/2", "http://server/a/3")
    ]
    assert outcomes[-1].request is request
    for outcome in outcomes:
        assert isinstance(outcome.response, PrefectResponse)
        assert outcome.error is None
        assert outcome.request is not None
        assert outcome.request.headers["X-Team"] == "etl"
        assert outcome.response.is_closed
        assert outcome.response.text == outcome.request.url.path


@pytest.mark.anyio
async def test_no_requests() -> None:
    """There are no outcomes of no requests, also when asked again."""
    async with CountingServer().client() as client:
        empty: Any
        for empty in ([], in_async([])):
            async with client.send_many(empty) as outcomes:
                for _ in range(2):
                    with pytest.raises(StopAsyncIteration):
                        await anext(outcomes)


@pytest.mark.anyio
async def test_one_failure_is_no_others() -> None:
    """A request that fails is an outcome with what send() would have raised; the others go on."""

    class AppError(Exception):
        pass

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/app":
            raise AppError
        if request.url.path == "/broken":
            raise httpx.ReadError("broken")
        status = 404 if request.url.path == "/missing" else 200
        return httpx.Response(status, stream=Body([bytes(len(request.url.query))]))

    transport = httpx.MockTransport(answer)
    retry = RetryPolicy(max_retries=1, backoff_base=0)
    async with PrefectHttpxClient(
        transport=transport, base_url="http://server", retry=retry, max_response_bytes=10
    ) as client:
        urls = ["/app", "/ok", "/broken", "/missing", "/large?12345678901"]
        outcomes = await outcomes_of(client, urls, ordered=True)
    assert [type(outcome.error) for outcome in outcomes] == [
        *(AppError, type(None), httpx.ReadError, PrefectHTTPStatusError, ResponseTooLarge)
    ]
    for outcome in outcomes:
        assert outcome.request is not None
        assert (outcome.response is None) != (outcome.error is None)
    assert "made 2 of at most 2 attempts" in str(getattr(outcomes[2].error, "__notes__", None))


NO_REQUESTS = [
    (5, TypeError, "item 1 of the requests is an object of the class int, not an httpx.Request, a URL or a string"),
    (None, TypeError, "item 1 of the requests is an object of the class NoneType, not an"),
    (("u", "secret"), TypeError, "item 1 of the requests is an object of the class tuple, not an"),
    (b"http://u:secret@h", TypeError, "item 1 of the requests is an object of the class bytes, not an"),
    ("http://u:secret@h:port/", httpx.InvalidURL, "item 1 of the requests is not a valid URL: Invalid port"),
    ("http://u:sec/ret@h/", httpx.InvalidURL, "item 1 of the requests is not a valid URL: Invalid port"),
    ("http://u:secret@h/\n", httpx.InvalidURL, "item 1 of the requests is not a valid URL: Invalid non-printable"),
    ("http://secret \udc80/", httpx.InvalidURL, "item 1 of the requests is not a valid URL"),
    ("http://" + "secret" * 20_000, httpx.InvalidURL, "item 1 of the requests is not a valid URL: URL too long"),
]


@pytest.mark.anyio
async def test_what_is_no_request() -> None:
    """What is neither a request nor a valid URL is an outcome without a request; its error says where it was."""
    async with CountingServer().client() as client:
        for item, kind, message in NO_REQUESTS:
            first, wrong, last = await outcomes_of(client, ["/a/1", item, "/b/1"], ordered=True)
            assert (name_of(first), name_of(last)) == ("a", "b")
            assert wrong.request is None
            assert wrong.response is None
            assert type(wrong.error) is kind, item
            assert str(wrong.error).startswith(message), item
            assert "sec" not in repr(wrong)
            assert wrong.error is not None
            assert wrong.error.__cause__ is None
            assert wrong.error.__suppress_context__ or wrong.error.__context__ is None


@pytest.mark.anyio
async def test_building_a_request_fails() -> None:
    """What a subclass raises as it builds a request is an outcome as well."""

    class Signing(PrefectHttpxClient):
        def build_request(self, *args: Any, **arguments: Any) -> httpx.Request:
            raise LookupError("no key")

    async with Signing(transport=CountingServer()) as client:
        (outcome,) = await outcomes_of(client, ["http://server/a/1"])
    assert outcome.request is None
    assert outcome.response is None
    assert isinstance(outcome.error, LookupError)


@pytest.mark.anyio
async def test_subclass_that_sends() -> None:
    """Requests go through the send() of a subclass."""

    class Marking(PrefectHttpxClient):
        async def send(self, request: httpx.Request, **arguments: Any) -> PrefectResponse:
            request.headers["X-Marked"] = "yes"
            return await super().send(request, **arguments)

    async with Marking(transport=CountingServer()) as client:
        (outcome,) = await outcomes_of(client, ["http://server/a/1"])
    assert outcome.request is not None
    assert outcome.request.headers["X-Marked"] == "yes"


@pytest.mark.anyio
async def test_client_that_is_closed_meanwhile() -> None:
    """After the client has been closed, the requests that are left are outcomes with httpx's error."""
    server = CountingServer()
    client = server.client()
    async with client.send_many((f"/{number}/1" for number in range(6)), max_at_once=2, ordered=True) as outcomes:
        found = [await anext(outcomes)]
        await client.aclose()
        found += [outcome async for outcome in outcomes]
    assert len(found) == 6
    assert found[0].error is None
    assert all(isinstance(outcome.error, RuntimeError) for outcome in found[3:])


# --- Order and bounds


@pytest.mark.anyio
@pytest.mark.parametrize("ordered", BOTH, ids=["completion", "ordered"])
@pytest.mark.parametrize("make", [iter, in_async], ids=["sync", "async"])
async def test_order(make: Any, ordered: bool) -> None:
    """Outcomes come as requests end, or in the order of the requests."""
    server = CountingServer()
    async with server.client() as client:
        urls = ["/a/5", "/b/1", "/c/3", "/d/1.5/500", "/e/4"]
        outcomes = await outcomes_of(client, make(urls), ordered=ordered)
    assert "".join(map(name_of, outcomes)) == ("abcde" if ordered else "bdcea")
    assert anyio.current_time() % 1000 >= 5


@pytest.mark.anyio
@pytest.mark.parametrize("ordered", BOTH, ids=["completion", "ordered"])
@pytest.mark.parametrize("make", [iter, in_async], ids=["sync", "async"])
async def test_bound(make: Any, ordered: bool) -> None:
    """Never more than max_at_once requests are taken from the iterable beyond the outcomes that were taken."""
    pulled = taken = most = 0

    def urls() -> Iterator[str]:
        nonlocal pulled, most
        for number in range(20):
            pulled += 1
            most = max(most, pulled - taken)
            yield f"/{number}/{1 + number * 7 % 5}"

    for max_at_once in (1, 2, 7, 50):
        pulled = taken = most = 0
        server = CountingServer()
        async with (
            server.client() as client,
            client.send_many(make(urls()), max_at_once=max_at_once, ordered=ordered) as outcomes,
        ):
            async for _ in outcomes:
                taken += 1
                if taken % 3:
                    await anyio.sleep(taken % 5)
        assert taken == pulled == 20
        assert most == min(max_at_once, 20)
        assert server.most == min(max_at_once, 20)


@pytest.mark.anyio
async def test_requests_are_sent_at_once() -> None:
    """As many requests as may are sent from the beginning, and each outcome that is taken makes room for another."""
    server = CountingServer()
    async with (
        server.client() as client,
        client.send_many((f"/{number}/10" for number in itertools.count()), max_at_once=3) as outcomes,
    ):
        await anyio.sleep(5)
        assert len(server.started) == 3
        await anyio.sleep(100)
        assert len(server.started) == 3, "nothing is sent while nothing is taken"
        await anext(outcomes)
        await anyio.sleep(1)
        assert len(server.started) == 4


@pytest.mark.anyio
async def test_requests_are_sent_together() -> None:
    """While there are outcomes to take, a quarter of max_at_once are sent together; then, all that may be are."""
    server = CountingServer()
    started = []
    urls = [f"/{number}/{1 + number}" for number in range(60)]
    async with server.client() as client, client.send_many(urls, max_at_once=12) as outcomes:
        await anyio.sleep(11.5)  # there are 11 outcomes
        for _ in range(11):
            await anext(outcomes)
            for _ in range(10):  # no time passes
                await anyio.lowlevel.checkpoint()
            started.append(len(server.started) - 12)
    assert started == [0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 11]


@pytest.mark.anyio
async def test_requests_do_not_wait_for_others_for_long() -> None:
    """If the task that takes the outcomes does something else, the next requests are sent meanwhile."""
    server = CountingServer()
    urls = [f"/{number}/1" for number in range(60)]
    async with server.client() as client, client.send_many(urls, max_at_once=12) as outcomes:
        await anyio.sleep(1.5)
        for number in range(5):
            await anext(outcomes)
            await anyio.sleep(1 / 128)
            assert len(server.started) == 12 + 1 + number


@pytest.mark.anyio
async def test_slow_consumer_leaves_no_request_behind() -> None:
    """If taking an outcome takes as long as a request does on average, no time is lost."""
    server = CountingServer()
    began = anyio.current_time()
    urls = [f"/{number}/1" for number in range(640)]
    async with server.client() as client, client.send_many(urls, max_at_once=64) as outcomes:
        async for _ in outcomes:
            await anyio.sleep(1 / 64)
    assert anyio.current_time() - began < 11.1


@pytest.mark.anyio
async def test_iterable_that_waits_for_outcomes() -> None:
    """A channel without a buffer is read as soon as an outcome is taken: each may lead to a further request."""
    sender, receiver = anyio.create_memory_object_stream[str](0)

    async def begin() -> None:
        for number in range(24):
            await sender.send(f"/{number}/1")

    taken = 0
    with anyio.fail_after(10):
        async with (
            CountingServer().client() as client,
            receiver,
            sender,
            anyio.create_task_group() as tasks,
            client.send_many(receiver, max_at_once=24) as outcomes,
        ):
            tasks.start_soon(begin)
            await anyio.sleep(1.5)
            async for _ in outcomes:
                taken += 1
                if taken <= 48:
                    await sender.send(f"/more/{taken % 5}")
                    if taken == 48:
                        sender.close()
    assert taken == 72


@pytest.mark.anyio
async def test_no_more_tasks_than_requests() -> None:
    """A limit of a million costs nothing if there are three requests."""
    server = CountingServer()
    async with server.client() as client:
        assert len(await outcomes_of(client, ["/a/1", "/b/1", "/c/1"], max_at_once=10**6)) == 3


@pytest.mark.anyio
async def test_slow_iterable_holds_up_no_outcome() -> None:
    """Outcomes that are there can be taken while an async iterable takes its time."""

    async def slow() -> AsyncIterator[str]:
        for name in "abc":
            yield f"/{name}/1"
            await anyio.sleep(100)

    started = anyio.current_time()
    async with CountingServer().client() as client, client.send_many(slow()) as outcomes:
        times = [anyio.current_time() - started async for _ in outcomes]
    assert times == [1, 101, 201]
    assert anyio.current_time() - started == 300


@pytest.mark.anyio
async def test_iterable_that_can_be_both() -> None:
    """What can be iterated over in both ways is iterated over as an async iterable, each time anew."""

    class Both(AsyncIterable[str], Iterable[str]):
        def __iter__(self) -> Iterator[str]:
            raise NotImplementedError

        def __aiter__(self) -> AsyncIterator[str]:
            return in_async(["/a/1"])

    both = Both()
    async with CountingServer().client() as client:
        for _ in range(2):
            assert [name_of(outcome) for outcome in await outcomes_of(client, both)] == ["a"]


# --- Iterables that fail


@pytest.mark.anyio
@pytest.mark.parametrize("ordered", BOTH, ids=["completion", "ordered"])
@pytest.mark.parametrize("make", [iter, in_async], ids=["sync", "async"])
async def test_iterable_raises(make: Any, ordered: bool) -> None:
    """What the iterable raises comes out of the iteration, behind the outcomes of what it had yielded, and once."""

    def urls() -> Iterator[str]:
        yield "/a/5"
        yield "/b/1"
        raise LookupError("the database is gone")

    async with CountingServer().client() as client, client.send_many(make(urls()), ordered=ordered) as outcomes:
        found = [name_of(await anext(outcomes)) for _ in range(2)]
        with pytest.raises(LookupError, match=r"^the database is gone$"):
            await anext(outcomes)
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)
    assert found == (["a", "b"] if ordered else ["b", "a"])


@pytest.mark.anyio
async def test_iterable_that_cannot_begin() -> None:
    """What ``__iter__()`` or ``__aiter__()`` raises comes out of the iteration as well."""

    class Bad(Iterable[str]):
        def __iter__(self) -> Iterator[str]:
            raise LookupError

    class BadAsync(AsyncIterable[str]):
        def __aiter__(self) -> AsyncIterator[str]:
            raise LookupError

    async with CountingServer().client() as client:
        for bad in (Bad(), BadAsync()):
            with pytest.raises(LookupError):
                await outcomes_of(client, bad)


# --- Use and misuse


def test_arguments_are_checked() -> None:
    """What cannot be iterated over, one URL, and a max_at_once that is no number of requests are refused at once."""
    client = CountingServer().client()
    wrong: Any
    for wrong in (b"http://server/", 5, None):
        with pytest.raises(
            TypeError, match=rf"^requests must be an iterable .* not an object of .*{type(wrong).__name__}$"
        ):
            client.send_many(wrong)
    url = "http://server/"
    for name, single in (("URL", url), ("URL", httpx.URL(url)), ("request", httpx.Request("GET", url))):
        with pytest.raises(TypeError, match=rf"^requests must be an iterable .* not a single {name}; put it into a li"):
            client.send_many(single)  # type: ignore[arg-type]
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=r"^max_at_once must be an integer, not "):
            client.send_many([], max_at_once=wrong)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=rf"^max_at_once must be 1 or more, not {wrong}$"):
            client.send_many([], max_at_once=wrong)


@pytest.mark.anyio
async def test_entered_twice() -> None:
    """It can be entered only once, and says so."""
    async with CountingServer().client() as client:
        many = client.send_many([])
        async with many:
            pass
        with pytest.raises(RuntimeError, match=r"^send_many\(\) can be entered only once"):
            await many.__aenter__()


@pytest.mark.anyio
async def test_not_entered() -> None:
    """Iterating over it without entering it says what to write."""
    async with CountingServer().client() as client:
        many: Any = client.send_many(["/a/1"])
        with pytest.raises(RuntimeError, match=r"^send_many\(\) must be entered: use `async with client.send_many"):
            async for _ in many:
                raise AssertionError


@pytest.mark.anyio
async def test_iterated_after_the_block() -> None:
    """Behind the block, iterating is an error, whatever is left; so it is for a task that still waits."""
    errors = []

    async def wait(outcomes: AsyncIterator[Outcome]) -> None:
        with pytest.raises(RuntimeError, match=r"which has been left$") as caught:
            await anext(outcomes)
        errors.append(caught.value)

    async with CountingServer().client() as client, anyio.create_task_group() as tasks:
        async with client.send_many(["/a/1", "/b/1", "/c/9"]) as outcomes:
            await anext(outcomes)
            await anyio.sleep(1)
        await wait(outcomes)
        async with client.send_many(["/a/1"]) as outcomes:
            tasks.start_soon(wait, outcomes)
            await anyio.sleep(0.5)
    assert len(errors) == 2


@pytest.mark.anyio
async def test_iterated_by_two_tasks() -> None:
    """A second task that waits for an outcome gets an error; the first one goes on."""
    found = []

    async def first() -> None:
        found.append(name_of(await anext(outcomes)))

    async with (
        CountingServer().client() as client,
        client.send_many(["/a/1"]) as outcomes,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(first)
        await anyio.sleep(0.5)
        with pytest.raises(RuntimeError, match=r"^two tasks are waiting for the outcomes"):
            await anext(outcomes)
    assert found == ["a"]


@pytest.mark.trio
async def test_every_step_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """An iteration is a checkpoint, whether the outcome is there or not, and at the end."""
    async with CountingServer().client() as client, client.send_many(["/a/1", "/b/1"]) as outcomes:
        await trio.sleep(2)
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                await anext(outcomes)
        with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
            await anext(outcomes)


variable = contextvars.ContextVar("variable", default="")


@pytest.mark.anyio
@pytest.mark.parametrize("make", [iter, in_async], ids=["sync", "async"])
async def test_contexts(make: Any) -> None:
    """Each request sees the context variables as the iterable has set them for it, and sets them for itself alone."""

    async def answer(_: httpx.Request) -> httpx.Response:
        seen = variable.get()
        variable.set("answered")
        await anyio.sleep(1)
        assert variable.get() == "answered"
        return httpx.Response(200, text=seen)

    def urls() -> Iterator[str]:
        for number in range(5):
            seen.append(variable.get())
            variable.set(f"{variable.get()}{number}")
            yield "http://server/"

    seen: list[str] = []
    variable.set("+")
    async with PrefectHttpxClient(transport=httpx.MockTransport(answer)) as client:
        outcomes = await outcomes_of(client, make(urls()), max_at_once=2, ordered=True)
    assert [outcome.response and outcome.response.text for outcome in outcomes] == [
        "+0",
        "+01",
        "+012",
        "+0123",
        "+01234",
    ]
    assert seen == ["+", "+0", "+01", "+012", "+0123"]
    assert variable.get() == "+"


# --- With the rest of the package


@pytest.mark.anyio
async def test_retries_and_hooks() -> None:
    """Each request has its own retries, and on_attempt is called for each attempt of each."""
    attempts = []
    async with FakeNetwork() as network:
        api = network.serve("https://api.example.com")
        for number in range(3):
            api.get(f"/{number}").reply(503, headers={"Retry-After": str(10 * number)}).reply(text=str(number))
        async with network.client(
            PrefectHttpxClient,
            on_attempt=lambda request, attempt: attempts.append((request.url.path, attempt.status_code)),
        ) as client:
            urls = [f"https://api.example.com/{number}" for number in (2, 1, 0)]
            outcomes = await outcomes_of(client, urls)
    assert [outcome.response and outcome.response.text for outcome in outcomes] == ["0", "1", "2"]
    assert sorted(attempts) == [(f"/{number}", status) for number in range(3) for status in (200, 503)]


@pytest.mark.anyio
async def test_one_polite_crowd() -> None:
    """With a throttle, the requests keep to a known rate, and no more than max_at_once queue for it."""
    queued = 0
    async with FakeNetwork() as network:
        api = network.serve("https://api.example.com")
        api.any().reply(times=None)
        api.limit(TokenBucket(10, burst=5))
        throttle = Throttle(rate=10, burst=5)
        async with network.client(PrefectHttpxClient, throttle=throttle) as client:
            urls = (f"https://api.example.com/{number}" for number in range(50))
            started = anyio.current_time()
            async with client.send_many(urls, max_at_once=20) as outcomes:
                async for outcome in outcomes:
                    assert outcome.error is None, outcome
                    (statistics,) = throttle.statistics().values()
                    queued = max(queued, statistics.waiting)
            assert anyio.current_time() - started == pytest.approx(4.5, abs=0.3)
        assert len(network.requests) == 50
    assert 0 < queued <= 20


@pytest.mark.anyio
async def test_deadline() -> None:
    """A deadline around the block is that of each request: what cannot be sent in time fails at once."""
    throttle = Throttle(rate=1)
    async with CountingServer().client(throttle=throttle) as client:
        with anyio.fail_after(3.5):
            async with client.send_many([f"/{number}/0" for number in range(8)]) as outcomes:
                found = [outcome async for outcome in outcomes]
    assert [type(outcome.error) for outcome in found if outcome.error] == [ThrottleTimeout] * 4


@pytest.mark.anyio
async def test_app() -> None:
    """Requests can go to an app in this process."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async with PrefectHttpxClient(app=app) as client:
        outcomes = await outcomes_of(client, ["/a", "/b", "/c"], max_at_once=2, ordered=True)
    assert [outcome.response and outcome.response.text for outcome in outcomes] == ["/a", "/b", "/c"]
