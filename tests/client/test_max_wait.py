"""``max_wait``: the one rule for how long a request waits for a throttle; in virtual time on both backends."""

from __future__ import annotations

import contextlib
import gc
import re
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.timed_transport import KEY, Server, busy
from support.virtual_time import virtual_time_backend

from prefect_http import Attempt, PrefectHTTPStatusError, PrefectHttpxClient, RetryPolicy, Throttle, ThrottleTimeout

pytestmark = pytest.mark.anyio

STEADY = RetryPolicy(jitter=0)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run the tests on both backends, in virtual time."""
    return virtual_time_backend(request.param)


def client_of(server: Server, throttle: Throttle, **arguments: Any) -> PrefectHttpxClient:
    """Return a client of a server, behind a throttle."""
    return PrefectHttpxClient(transport=server, throttle=throttle, retry=STEADY, **arguments)


def asking(name: str, value: str, status: int = 429) -> httpx.Response:
    """Return a response with a header."""
    return httpx.Response(status, headers={name: value})


@pytest.mark.parametrize(("arguments", "seconds"), [({}, 3899), ({"max_wait": 10}, 9), ({"max_wait": None}, 86400)])
async def test_retry_after_is_waited_for(arguments: dict[str, Any], seconds: int) -> None:
    """A Retry-After of up to max_wait is waited for, by all, whatever max_retry_after is; by default up to 3,900 s."""
    server = Server(busy(seconds), seconds=0)
    async with client_of(server, Throttle(**arguments)) as client, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(client.get, "http://host/")
            await anyio.sleep(0.001)
    assert len(server.sent) == 4
    assert server.sent[1:] == pytest.approx([seconds] * 3, abs=0.5)


@each_row(
    ("answer", "what"),
    [
        (busy(3901), "429 with Retry-After: 3901"),
        (busy(3901, 503), "503 with Retry-After: 3901"),
        (asking("retry-after-ms", "3901000"), "429 with Retry-After: 3901"),
        (asking("X-RateLimit-Reset", "3901"), "429 with rate limit reset: 3901"),
    ],
    ids=["429", "503", "ms", "reset"],
)
async def test_longer_retry_after_fails_at_once(answer: httpx.Response, what: str) -> None:
    """Above max_wait the rejected request fails at once; the error says until when and why, and what was rejected."""
    attempts = list[Attempt]()
    copies = [httpx.Response(answer.status_code, headers=answer.headers, text="quota") for _ in range(2)]
    client = client_of(
        Server(*copies, seconds=0), Throttle(), on_attempt=lambda request, attempt: attempts.append(attempt)
    )
    async with client:
        with pytest.raises(ThrottleTimeout) as caught:
            await client.get("http://host/path")
    assert anyio.current_time() == 0
    error = caught.value
    assert re.fullmatch(
        rf"the request was rejected: the server accepts no requests for 3901\.0 s, until ....-..-.. ..:..:.. UTC "
        rf"\({what}\), and max_wait is 3900 s",
        str(error),
    )
    assert error.request.url == "http://host/path"
    (note,) = error.__notes__
    assert note.startswith("prefect_http made 1 of at most 6 attempts:")
    assert note.endswith("of 3901 s exceeds max_wait of 3900 s")
    assert isinstance(error.__cause__, PrefectHTTPStatusError)
    assert error.__cause__.response.text == "quota"
    assert error.__cause__.response.is_closed
    assert list(error.__cause__.attempts) == attempts
    assert attempts[0].delay is None


async def test_others_fail_at_once_too() -> None:
    """Those in the queue, and those that come later, fail at once as well, for the same reason."""
    server = Server(httpx.Response(200), busy(7200), seconds=0.1)
    messages = list[str]()

    async def get() -> None:
        with pytest.raises(ThrottleTimeout) as caught:
            await client.get("http://host/")
        messages.append(str(caught.value))

    async with client_of(server, throttle := Throttle(max_in_flight=1)) as client:
        await client.get("http://host/")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(get)
        await get()
    assert anyio.current_time() == pytest.approx(0.2)
    assert len(server.sent) == 2
    assert throttle.statistics(KEY).waiting == 0
    rejected = [message for message in messages if message.startswith("the request was rejected: ")]
    assert len(rejected) == 1
    for message in set(messages[:3]) - set(rejected):
        assert re.fullmatch(
            r"the request was not sent: the server accepts no requests for 7200\.\d s, until ....-..-.. ..:..:.. UTC "
            r"\(429 with Retry-After: 7200\), and max_wait ends in 3899\.9 s",
            message,
        )


async def test_response_is_returned() -> None:
    """With raise_on_all_errors=False the response is returned, as one that is not retried for any other reason."""
    server = Server(busy(7200), seconds=0)
    async with client_of(server, Throttle(), raise_on_all_errors=False) as client:
        response = await client.get("http://host/")
    assert response.status_code == 429
    assert response.attempts[-1].reason == "Retry-After of 7200 s exceeds max_wait of 3900 s"


async def test_rejection_by_another_rule_than_the_throttles() -> None:
    """A response that the throttle does not take for a rejection has its own error, though max_wait is the limit."""
    server = Server(busy(7200, 502), busy(3000, 502), seconds=0)
    async with client_of(server, Throttle()) as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            await client.get("http://host/")
        assert caught.value.attempts[-1].reason == "Retry-After of 7200 s exceeds max_wait of 3900 s"
        await client.get("http://host/")
    assert anyio.current_time() == pytest.approx(3000)


async def test_other_reasons_come_first() -> None:
    """If the request would not be retried anyway, the error is that of its response."""
    server = Server(busy(7200), seconds=0)
    async with client_of(server, Throttle()) as client:
        with pytest.raises(PrefectHTTPStatusError):
            await client.get("http://host/", retry=RetryPolicy(max_retries=0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Retry-After", "86401"),
        ("Retry-After", "4102444800"),
        ("Retry-After", "4102444800000"),
        ("Retry-After", "9" * 300),
    ],
    ids=["seconds", "epoch", "milliseconds", "absurd"],
)
@pytest.mark.parametrize("max_wait", [3900, None])
async def test_more_than_a_day_is_a_mistake(name: str, value: str, max_wait: float | None) -> None:
    """The gate does not close for more than a day; the rejected request fails, or follows it if nothing limits that."""
    server = Server(asking(name, value), seconds=0)
    async with client_of(server, throttle := Throttle(max_wait=max_wait)) as client, anyio.create_task_group() as tasks:
        if max_wait is None:
            tasks.start_soon(client.get, "http://host/")
        else:
            with pytest.raises(ThrottleTimeout, match="max_wait is 3900 s") as caught:
                await client.get("http://host/")
            assert len(str(caught.value)) < 200
        await anyio.sleep(0.001)
        closed_until = throttle.statistics(KEY).closed_until
        assert closed_until is not None
        assert closed_until < 0.2
        await client.get("http://host/")
    assert server.sent == pytest.approx([0, 0.1, 2][: 3 - (max_wait is not None)], abs=0.05)


async def test_ignored_retry_after_is_named() -> None:
    """If a request fails while a gate is closed by a Retry-After that was ignored, the error says so."""
    server = Server(asking("Retry-After", "172800"), seconds=0)
    async with client_of(server, Throttle(max_wait=0.05)) as client:
        for what, limit in (
            (r"172800", r"max_wait is 0\.05 s"),
            (r"172800, which is ignored because it is more than a day", r"max_wait ends in 0\.1 s"),
        ):
            with pytest.raises(ThrottleTimeout, match=rf" \(429 with Retry-After: {what}\), and {limit}"):
                await client.get("http://host/")


async def test_epoch_is_compared_with_the_date() -> None:
    """A Retry-After that is a time since the epoch is compared with the response's own Date."""
    headers = {"Retry-After": "1700000030", "Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    server = Server(httpx.Response(429, headers=headers), seconds=0)
    async with client_of(server, Throttle()) as client:
        await client.get("http://host/")
    assert server.sent[1] == pytest.approx(30.1, abs=0.3)


async def test_error_is_in_no_reference_cycle() -> None:
    """The error is freed without the garbage collector: it does not hold the frame that holds it."""
    async with client_of(Server(busy(7200), seconds=0), Throttle()) as client:
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            with contextlib.suppress(ThrottleTimeout):
                await client.get("http://host/")
            gc.collect()
            kinds = {type(item) for item in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert ThrottleTimeout not in kinds
