"""When the next attempt comes, and when there is none, on trio's virtual clock."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import anyio
import httpx
import pytest
import trio
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of
from trio.testing import MockClock

from prefect_http import Attempt, PrefectHTTPStatusError, PrefectHttpxClient, RetryPolicy

STEADY = RetryPolicy(jitter=0)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_PLUS_30 = "Sun, 06 Nov 1994 08:50:07 GMT"


def busy(retry_after: str | None = None, *, status: int = 503, **headers: str) -> httpx.Response:
    """Return a response with a Retry-After."""
    return httpx.Response(status, headers=headers if retry_after is None else {"Retry-After": retry_after, **headers})


def slow(seconds: float, answer: int | Exception = 200) -> Callable[[httpx.Request], Any]:
    """Return an answer that takes some time."""

    async def take_time(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer)

    return take_time


async def get(server: Server, retry: RetryPolicy = STEADY, *, stream: bool = False, **more: Any) -> httpx.Response:
    """Send one request with a new client."""
    async with PrefectHttpxClient(transport=server, retry=retry, **more) as client:
        return await client.send(client.build_request("GET", URL), stream=stream)


async def waits_of(server: Server, retry: RetryPolicy = STEADY) -> list[float]:
    """Send one request, however it ends, and return the times between its attempts."""
    try:
        with trio.fail_after(10**9):
            await get(server, retry)
    except (PrefectHTTPStatusError, httpx.RequestError):
        pass
    return [later - earlier for earlier, later in itertools.pairwise(server.times)]


# --- Backoff


@pytest.mark.trio
@pytest.mark.parametrize("failure", [503, httpx.ReadTimeout("slow")], ids=["status", "exception"])
async def test_backoff_doubles(failure: object, autojump_clock: MockClock) -> None:
    """The waits of a failing request are 2, 4, 8, 16 and 32 s."""
    assert await waits_of(Server(failure, ...)) == [2, 4, 8, 16, 32]


@pytest.mark.trio
async def test_backoff_is_at_most_max_backoff(autojump_clock: MockClock) -> None:
    """The wait is at most max_backoff."""
    assert await waits_of(Server(503, ...), RetryPolicy(jitter=0, max_backoff=10, max_retries=6)) == [
        *(2, 4, 8),
        *(10, 10, 10),
    ]


@pytest.mark.trio
async def test_backoff_base(autojump_clock: MockClock) -> None:
    """The waits are powers of backoff_base."""
    assert await waits_of(Server(503, ...), RetryPolicy(jitter=0, backoff_base=3, max_retries=3)) == [3, 9, 27]


@pytest.mark.trio
async def test_success_waits_for_nothing(autojump_clock: MockClock) -> None:
    """A request that succeeds does not wait."""
    started = trio.current_time()
    with trio.fail_after(60):
        await get(Server(200))
    assert trio.current_time() == started


@pytest.mark.trio
async def test_the_wait_begins_with_the_failure(autojump_clock: MockClock) -> None:
    """The wait is the time from a failure to the next attempt, whatever the attempt took."""
    server = Server(slow(3, 503), slow(5, httpx.ReadError("broken")), 200)
    assert await waits_of(server) == [3 + 2, 5 + 4]


@pytest.mark.trio
async def test_throwing_a_response_away_is_part_of_the_wait(autojump_clock: MockClock) -> None:
    """A discarded body that never ends does not delay the next attempt."""
    server = Server(httpx.Response(503, stream=Body([1e9])), 200)
    assert await waits_of(server) == [2]


@pytest.mark.trio
async def test_requests_wait_side_by_side(autojump_clock: MockClock) -> None:
    """Two requests of one client wait at the same time, not one after the other."""
    server = Server(503, 503, 200, 200)
    started = trio.current_time()
    with trio.fail_after(60):
        async with PrefectHttpxClient(transport=server, retry=STEADY) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            nursery.start_soon(client.get, URL)
    assert trio.current_time() - started == 2


# --- Retry-After


@pytest.mark.trio
@pytest.mark.parametrize("status", [429, 502, 503])
async def test_retry_after_in_seconds(status: int, autojump_clock: MockClock) -> None:
    """A number of seconds replaces the backoff."""
    assert await waits_of(Server(busy("7", status=status), 200)) == [7]


@pytest.mark.trio
@pytest.mark.parametrize(
    "date", [DATE_PLUS_30, "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"], ids=["imf", "rfc850", "c"]
)
async def test_retry_after_as_a_date(date: str, autojump_clock: MockClock) -> None:
    """A date in any form counts from the response's Date, however wrong that clock is."""
    assert await waits_of(Server(busy(date, Date=DATE), 200)) == [30]


@pytest.mark.trio
async def test_retry_after_as_a_date_without_a_date(autojump_clock: MockClock) -> None:
    """A date counts from the wall clock if the response has no Date."""
    (wait,) = await waits_of(Server(busy(formatdate(time.time() + 60, usegmt=True)), 200))
    assert 50 < wait <= 60


@pytest.mark.trio
async def test_retry_after_of_nothing(autojump_clock: MockClock) -> None:
    """With a Retry-After of 0 the next attempt comes at once."""
    assert await waits_of(Server(busy("0"), busy(DATE, Date=DATE), 200)) == [0, 0]


@pytest.mark.trio
@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "-inf", "1e9", "9" * 400, "1, 2", DATE])
async def test_a_malformed_retry_after_counts_as_absent(value: str, autojump_clock: MockClock) -> None:
    """If it is malformed, negative, NaN or infinite, the backoff holds."""
    assert await waits_of(Server(busy(value), 200)) == [2]


@pytest.mark.trio
async def test_a_retry_after_never_outlives_its_response(autojump_clock: MockClock) -> None:
    """A Retry-After does not affect the wait after the next failure, of whatever kind."""
    server = Server(busy("10"), 503, busy("20"), httpx.ReadError("broken"), 200)
    assert await waits_of(server) == [10, 4, 20, 16]


@pytest.mark.trio
async def test_a_retry_after_never_outlives_its_request(autojump_clock: MockClock) -> None:
    """A Retry-After does not affect another request."""
    server = Server(busy("10"), 200, 503, 200)
    with trio.fail_after(60):
        async with PrefectHttpxClient(transport=server, retry=STEADY) as client:
            await client.get(URL)
            await client.get(URL)
    assert server.times[3] - server.times[2] == 2


@pytest.mark.trio
async def test_a_retry_after_counts_as_one_retry(autojump_clock: MockClock) -> None:
    """The backoff before retry n is 2 ** n s, whatever the waits before it."""
    assert await waits_of(Server(busy("1"), busy("1"), 503, ...)) == [1, 1, 8, 16, 32]


@pytest.mark.trio
async def test_a_retry_after_may_be_longer_than_max_backoff(autojump_clock: MockClock) -> None:
    """max_backoff does not limit a Retry-After."""
    assert await waits_of(Server(busy("300"), 200), RetryPolicy(jitter=0, max_backoff=1)) == [300]


@pytest.mark.trio
async def test_too_long_a_retry_after_is_refused(autojump_clock: MockClock) -> None:
    """A Retry-After above max_retry_after ends the request at once."""
    server = Server(busy("301"), 200)
    started = trio.current_time()
    with trio.fail_after(1000), pytest.raises(PrefectHTTPStatusError) as caught:
        await get(server)
    assert trio.current_time() == started
    assert server.count == 1
    assert caught.value.retry_after == 301
    assert "max_retry_after" in caught.value.attempts[-1].reason
    assert "max_retry_after" in notes_of(caught.value)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (503, [("Retry-After", "59"), ("Retry-After", "59")], 59),
        (503, [("Retry-After", "7"), ("Retry-After", "59"), ("Retry-After", "soon")], 59),
        (503, [("Date", DATE), ("Retry-After", DATE_PLUS_30), ("Retry-After", "5")], 30),
        (429, [("retry-after-ms", "1500"), ("Retry-After", "2")], 1.5),
        (429, [("x-ms-retry-after-ms", "2500")], 2.5),
        (429, [("retry-after-ms", "soon"), ("Retry-After", "3")], 3),
        (429, [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "90")], 90),
        (429, [("X-RateLimit-Remaining", "14"), ("X-RateLimit-Reset", "90")], 90),
        (429, [("RateLimit", '"default";r=0;t=30')], 30),
        (429, [("X-RateLimit-Reset", "90"), ("Retry-After", "3")], 3),
        (429, [("X-RateLimit-Reset", "90"), ("Retry-After", "soon")], 90),
        (429, [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "0")], 2),
        (429, [("X-RateLimit-Remaining", "0")], 2),
        (503, [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "90")], 2),
    ],
)
async def test_the_wait_that_a_response_asks_for(
    status: int, headers: list[tuple[str, str]], wait: float, autojump_clock: MockClock
) -> None:
    """The longest Retry-After counts, milliseconds win over it, and a 429 without them waits for its reset."""
    assert await waits_of(Server(httpx.Response(status, headers=headers), 200)) == [wait]


@pytest.mark.trio
async def test_a_reset_is_treated_as_a_retry_after(autojump_clock: MockClock) -> None:
    """The wait for a reset is spread upwards only, and given up if it exceeds max_retry_after."""
    limited = httpx.Response(429, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "100"})
    (wait,) = await waits_of(Server(limited, 200), RetryPolicy(jitter=1))
    assert 100 <= wait <= 200
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await get(Server(limited), RetryPolicy(max_retry_after=99))
    assert caught.value.attempts[-1].reason == "rate limit reset of 100 s exceeds max_retry_after of 99 s"


# --- Jitter


async def jittered_waits(answer: Callable[[], object], retry: RetryPolicy) -> list[float]:
    """Return the first waits of many requests."""
    waits: list[float] = []
    for _ in range(100):
        waits += await waits_of(Server(answer(), 200), retry)
    return waits


@pytest.mark.trio
async def test_jitter_spreads_a_backoff_both_ways(autojump_clock: MockClock) -> None:
    """A backoff of 2 s with a jitter of 0.2 is spread over 1.6 to 2.4 s."""
    waits = await jittered_waits(lambda: 503, RetryPolicy())
    assert min(waits) >= 1.6 - 1e-9
    assert max(waits) <= 2.4 + 1e-9
    assert min(waits) < 1.7  # of 100 evenly distributed waits
    assert max(waits) > 2.3


@pytest.mark.trio
async def test_jitter_is_never_earlier_than_a_retry_after(autojump_clock: MockClock) -> None:
    """A Retry-After of 10 s with a jitter of 0.5 is spread over 10 to 15 s."""
    waits = await jittered_waits(lambda: busy("10"), RetryPolicy(jitter=0.5))
    assert min(waits) >= 10 - 1e-9
    assert max(waits) <= 15 + 1e-9
    assert min(waits) < 11
    assert max(waits) > 14


@pytest.mark.trio
async def test_jitter_does_not_exceed_max_backoff(autojump_clock: MockClock) -> None:
    """With jitter no backoff is longer than max_backoff either."""
    waits = await jittered_waits(lambda: 503, RetryPolicy(jitter=1, max_backoff=2))
    assert max(waits) <= 2 + 1e-9
    assert min(waits) < 0.5


@pytest.mark.trio
async def test_jitter_keeps_to_the_time_there_is(autojump_clock: MockClock) -> None:
    """If a wait fits but its jitter might not, the wait ends in time."""
    waits = await jittered_waits(lambda: busy("10"), RetryPolicy(jitter=1, total_timeout=11))
    assert len(waits) == 100
    assert min(waits) >= 10 - 1e-9
    assert max(waits) <= 11 + 1e-9


# --- total_timeout


@pytest.mark.trio
async def test_a_wait_that_cannot_fit_total_timeout_is_not_begun(autojump_clock: MockClock) -> None:
    """If the next wait would end after total_timeout, the failure is raised at once."""
    server = Server(503, ...)
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(PrefectHTTPStatusError) as caught:
        await get(server, RetryPolicy(jitter=0, total_timeout=10))
    assert [at - started for at in server.times] == [0, 2, 6]
    assert trio.current_time() - started == 6
    assert "total_timeout" in caught.value.attempts[-1].reason
    assert "total_timeout" in notes_of(caught.value)


@pytest.mark.trio
async def test_a_retry_after_that_cannot_fit_total_timeout_is_not_begun(autojump_clock: MockClock) -> None:
    """A Retry-After is not shortened to fit."""
    server = Server(busy("11"), 200)
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(PrefectHTTPStatusError):
        await get(server, RetryPolicy(jitter=0, total_timeout=10))
    assert trio.current_time() == started
    assert server.count == 1


@pytest.mark.trio
async def test_an_exception_whose_wait_cannot_fit_is_raised_itself(autojump_clock: MockClock) -> None:
    """What is raised is the last failure, not a timeout."""
    error = httpx.ReadError("broken")
    server = Server(error, 200)
    with trio.fail_after(60), pytest.raises(httpx.ReadError) as caught:
        await get(server, RetryPolicy(jitter=0, total_timeout=1))
    assert caught.value is error
    assert server.count == 1


@pytest.mark.trio
async def test_total_timeout_includes_the_attempts(autojump_clock: MockClock) -> None:
    """The time that attempts take counts, too."""
    server = Server(slow(5, 503), slow(5, 503), 200)
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(PrefectHTTPStatusError):
        await get(server, RetryPolicy(jitter=0, total_timeout=15))
    assert [at - started for at in server.times] == [0, 7]
    assert trio.current_time() - started == 12


@pytest.mark.trio
async def test_total_timeout_cuts_an_attempt(autojump_clock: MockClock) -> None:
    """An attempt in progress at the end of total_timeout ends in an httpx.TimeoutException with the attempts."""
    server = Server(503, slow(1000))
    started = trio.current_time()
    with trio.fail_after(2000):
        async with PrefectHttpxClient(transport=server, retry=RetryPolicy(jitter=0, total_timeout=10)) as client:
            request = client.build_request("GET", URL)
            with pytest.raises(httpx.TimeoutException) as caught:
                await client.send(request)
    assert trio.current_time() - started == 10
    assert caught.value.request is request
    assert "total_timeout" in str(caught.value) + notes_of(caught.value)
    assert "1: 503" in notes_of(caught.value)
    assert server.count == 2


@pytest.mark.trio
async def test_total_timeout_cuts_a_body(autojump_clock: MockClock) -> None:
    """Reading a body ends at the end of total_timeout, and its response is closed."""
    body = Body(itertools.cycle([b"x", 1.5]))
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(httpx.TimeoutException):
        await get(Server(httpx.Response(200, stream=body)), RetryPolicy(total_timeout=10))
    assert trio.current_time() - started == 10
    assert body.is_closed


@pytest.mark.trio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_total_timeout_includes_the_error_body(stream: bool, autojump_clock: MockClock) -> None:
    """A bad response that drips does not exceed total_timeout; its status is raised nevertheless."""
    body = Body(itertools.cycle([b"x", 0.4]))
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(PrefectHTTPStatusError):
        await get(Server(httpx.Response(404, stream=body)), RetryPolicy(total_timeout=2), stream=stream)
    assert trio.current_time() - started <= 2
    assert body.is_closed


@pytest.mark.trio
async def test_total_timeout_includes_a_bad_response_that_is_given_back(autojump_clock: MockClock) -> None:
    """A bad response that is returned is read within total_timeout."""
    body = Body(itertools.cycle([b"x", 0.4]))
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(httpx.TimeoutException) as caught:
        await get(
            Server(httpx.Response(503, stream=body)),
            RetryPolicy(total_timeout=2, max_retries=0),
            raise_on_all_errors=False,
        )
    assert trio.current_time() - started == pytest.approx(2)
    assert caught.value.request.url == URL
    assert body.is_closed


@pytest.mark.trio
async def test_total_timeout_does_not_cut_what_is_streamed(autojump_clock: MockClock) -> None:
    """total_timeout does not limit the reading of a stream."""
    body = Body([b"a", 100.0, b"b"])
    with trio.fail_after(200):
        async with PrefectHttpxClient(
            transport=Server(httpx.Response(200, stream=body)), retry=RetryPolicy(total_timeout=10)
        ) as client:
            async with client.stream("GET", URL) as response:
                assert await response.aread() == b"ab"


@pytest.mark.trio
async def test_total_timeout_is_each_requests_own(autojump_clock: MockClock) -> None:
    """Each request has a total_timeout of its own."""
    server = Server(slow(8), ...)
    with trio.fail_after(60):
        async with PrefectHttpxClient(transport=server, retry=RetryPolicy(total_timeout=10)) as client:
            await client.get(URL)
            await client.get(URL)
    assert server.count == 2


@pytest.mark.trio
async def test_total_timeout_that_is_not_needed_leaves_no_trace(autojump_clock: MockClock) -> None:
    """A request that is complete in time is not affected later."""
    with trio.fail_after(60):
        await get(Server(slow(9.9)), RetryPolicy(total_timeout=10))
        await trio.sleep(20)


@pytest.mark.trio
async def test_the_callers_cancellation_is_no_total_timeout(autojump_clock: MockClock) -> None:
    """A caller that cancels gets the cancellation, not a TimeoutException."""
    with trio.move_on_after(3) as scope:
        await get(Server(slow(1000)), RetryPolicy(total_timeout=10))
    assert scope.cancelled_caught


# --- The caller's deadline


@pytest.mark.trio
async def test_a_wait_that_cannot_fit_the_deadline_is_not_begun(autojump_clock: MockClock) -> None:
    """If the caller's deadline comes before the next attempt, the failure is raised at once."""
    server = Server(503, ...)
    started = trio.current_time()
    with trio.fail_after(10), pytest.raises(PrefectHTTPStatusError) as caught:
        await get(server)
    assert [at - started for at in server.times] == [0, 2, 6]
    assert trio.current_time() - started == 6
    assert "deadline" in caught.value.attempts[-1].reason
    assert "deadline" in notes_of(caught.value)


@pytest.mark.trio
@pytest.mark.parametrize("scope", [trio.move_on_after, anyio.move_on_after], ids=["trio", "anyio"])
async def test_the_nearest_deadline_counts(scope: Callable[[float], Any], autojump_clock: MockClock) -> None:
    """Of nested scopes, of trio's or anyio's, the earliest deadline counts."""
    for outer, inner in ((3, 1000), (1000, 3)):
        server = Server(busy("5"), 200)
        started = trio.current_time()
        with scope(outer) as first, scope(inner) as second, pytest.raises(PrefectHTTPStatusError):
            await get(server)
        assert not first.cancelled_caught
        assert not second.cancelled_caught
        assert trio.current_time() == started
        assert server.count == 1


@pytest.mark.trio
async def test_an_exception_is_raised_where_its_wait_cannot_fit_the_deadline(autojump_clock: MockClock) -> None:
    """The same for an exception."""
    error = httpx.ConnectTimeout("no")
    with trio.fail_after(1), pytest.raises(httpx.ConnectTimeout) as caught:
        await get(Server(error))
    assert caught.value is error


@pytest.mark.trio
async def test_a_wait_that_fits_the_deadline_is_waited(autojump_clock: MockClock) -> None:
    """A deadline that is far enough away changes nothing."""
    server = Server(busy("5"), 200)
    with trio.fail_after(5.5):
        await get(server)
    assert server.count == 2


@pytest.mark.trio
async def test_a_wait_that_ends_at_the_deadline_does_not_fit(autojump_clock: MockClock) -> None:
    """An attempt at the deadline itself would only be cancelled."""
    server = Server(busy("5"), 200)
    with trio.move_on_after(5) as scope, pytest.raises(PrefectHTTPStatusError):
        await get(server)
    assert not scope.cancelled_caught
    assert server.count == 1


@pytest.mark.trio
async def test_a_deadline_outside_of_a_shield_does_not_count(autojump_clock: MockClock) -> None:
    """A shield hides the deadlines outside it."""
    server = Server(busy("5"), 200)
    started = trio.current_time()
    with trio.move_on_after(1), trio.CancelScope(shield=True):
        await get(server)
        assert trio.current_time() - started == 5
    assert server.count == 2


@pytest.mark.trio
async def test_the_deadline_of_a_shield_counts(autojump_clock: MockClock) -> None:
    """A shield with a deadline of its own counts."""
    server = Server(busy("5"), 200)
    with trio.move_on_after(1000), trio.move_on_after(3) as shield:
        shield.shield = True
        with pytest.raises(PrefectHTTPStatusError):
            await get(server)
    assert server.count == 1


@pytest.mark.trio
async def test_a_shield_under_a_cancelled_scope_waits(autojump_clock: MockClock) -> None:
    """A shield also hides a cancellation that has happened already: retries work in cleanup code."""
    server = Server(busy("5"), 200)
    with trio.CancelScope() as scope:
        scope.cancel()
        with trio.move_on_after(10, shield=True):
            await get(server)
    assert server.count == 2


@pytest.mark.trio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_an_error_body_that_drips_does_not_outlast_the_deadline(stream: bool, autojump_clock: MockClock) -> None:
    """A bad status is raised in time even if reading its body would take longer."""
    body = Body(itertools.cycle([b"x", 0.1]))
    server = Server(httpx.Response(503, headers={"Retry-After": "60"}, stream=body))
    with trio.move_on_after(3) as scope, pytest.raises(PrefectHTTPStatusError):
        await get(server, stream=stream)
    assert not scope.cancelled_caught
    assert body.is_closed


@pytest.mark.anyio
@pytest.mark.parametrize("failure", [httpx.ConnectTimeout("no"), "60"], ids=["exception", "status"])
async def test_giving_up_does_not_sleep_on_either_backend(failure: Exception | str) -> None:
    """A wait that does not fit is not begun on asyncio either."""
    policy = RetryPolicy(backoff_base=60, jitter=0)
    answer = busy(failure) if isinstance(failure, str) else failure
    for retry, seconds in (
        (policy, 5),
        (dataclasses.replace(policy, total_timeout=5), math.inf),
        (dataclasses.replace(policy, max_retries=0), math.inf),
    ):
        server = Server(answer)
        with anyio.fail_after(20), anyio.move_on_after(seconds), pytest.raises(httpx.HTTPError) as caught:
            await get(server, retry)
        assert isinstance(caught.value, httpx.ConnectTimeout | PrefectHTTPStatusError)
        assert server.count == 1


# --- Cancellation


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [1.0, 2.5, 4.0])
async def test_a_cancelled_wait_ends_at_once(seconds: float, autojump_clock: MockClock) -> None:
    """A wait that is cancelled ends at that time, with no further attempt and nothing open."""
    body = Body([b"no"])
    server = Server(httpx.Response(503, headers={"Retry-After": "5"}, stream=body), 200)
    started = trio.current_time()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, server)
            await trio.sleep(seconds)
            scope.cancel()
    assert scope.cancelled_caught
    assert trio.current_time() - started == seconds
    assert server.count == 1
    assert body.is_closed


@pytest.mark.trio
async def test_a_cancelled_attempt_ends_at_once(autojump_clock: MockClock) -> None:
    """An attempt that is cancelled ends at that time and is not retried."""
    server = Server(503, slow(1000))
    started = trio.current_time()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, server)
            await trio.sleep(7)
            scope.cancel()
    assert trio.current_time() - started == 7
    assert server.count == 2


@pytest.mark.trio
@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.1, 1.9, 2.3, 4.9])
async def test_a_cancelled_body_is_closed(status: int, seconds: float, autojump_clock: MockClock) -> None:
    """A body that is being read when the caller cancels is closed at that time."""
    bodies = [Body(itertools.cycle([b"x", 0.7])) for _ in range(6)]
    server = Server(*(httpx.Response(status, stream=body) for body in bodies))
    started = trio.current_time()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, server)
            await trio.sleep(seconds)
            scope.cancel()
    assert scope.cancelled_caught
    assert trio.current_time() - started == seconds
    assert all(body.is_closed for body in bodies[: server.count])


@pytest.mark.trio
async def test_a_close_that_hangs_holds_a_cancellation_for_5_seconds(autojump_clock: MockClock) -> None:
    """A response is closed properly under cancellation, but not for longer than 5 s."""
    body = Body([1e9], on_close=trio.sleep_forever)
    started = trio.current_time()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, Server(httpx.Response(404, stream=body)))
            await trio.sleep(1)
            scope.cancel()
    assert trio.current_time() - started == 6


@pytest.mark.anyio
@pytest.mark.parametrize("failure", [503, httpx.ReadError("broken")], ids=["status", "exception"])
async def test_a_cancellation_from_on_retry_is_seen_before_the_next_attempt(failure: object) -> None:
    """A wait of 0 s is a checkpoint."""
    server = Server(failure, 200)
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        await get(server, AT_ONCE, on_retry=lambda *_: scope.cancel())
    assert scope.cancelled_caught
    assert server.count == 1


@pytest.mark.anyio
async def test_an_exception_out_of_a_cancelled_attempt_is_not_retried() -> None:
    """A transport that turns a cancellation into an exception does not cause a retry."""

    async def answer(request: httpx.Request) -> httpx.Response:
        scope.cancel()
        raise httpx.ReadError("closed by the cancellation")

    server = Server(answer, 200)
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        await get(server, AT_ONCE)
    assert scope.cancelled_caught
    assert server.count == 1


@pytest.mark.anyio
@each_row("status", [200, 404, 503])
async def test_a_response_in_a_cancelled_attempt_is_closed(status: int) -> None:
    """A response that arrives at the same time as a cancellation is closed, and the cancellation wins."""
    body = Body([b"no"])

    async def answer(request: httpx.Request) -> httpx.Response:
        scope.cancel()
        return httpx.Response(status, stream=body)

    with anyio.fail_after(5), anyio.CancelScope() as scope:
        await get(Server(answer), AT_ONCE)
    assert scope.cancelled_caught
    assert body.is_closed


@pytest.mark.anyio
async def test_a_request_under_a_cancelled_scope_is_not_retried() -> None:
    """In a cancelled scope the first checkpoint ends the request."""
    server = Server(503, ...)
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        scope.cancel()
        await get(server, AT_ONCE)
    assert scope.cancelled_caught
    assert server.count == 0


# --- How it is reported


@pytest.mark.trio
async def test_attempts_have_their_times(autojump_clock: MockClock) -> None:
    """Each attempt has the time that it took, and the wait that followed and its reason."""
    server = Server(slow(1, 503), slow(3, httpx.ReadTimeout("slow")), busy("7"), slow(0.5, 404))
    seen: list[Attempt] = []
    with trio.fail_after(60), pytest.raises(PrefectHTTPStatusError) as caught:
        await get(server, on_retry=lambda _, attempt: seen.append(attempt))
    assert [(a.elapsed, a.delay, a.reason) for a in caught.value.attempts] == [
        (1, 2, "backoff of 2 s"),
        (3, 4, "backoff of 4 s"),
        (0, 7, "Retry-After of 7 s"),
        (0.5, None, "404 is not retried"),
    ]
    assert tuple(seen) == caught.value.attempts[:-1]
    assert notes_of(caught.value).splitlines() == [
        "prefect_http made 4 of at most 6 attempts:",
        "  1: 503 after 1 s; waited 2 s (backoff of 2 s)",
        "  2: ReadTimeout after 3 s: slow; waited 4 s (backoff of 4 s)",
        "  3: 503 after 0 s; waited 7 s (Retry-After of 7 s)",
        "  4: 404 after 0.5 s; 404 is not retried",
    ]


@pytest.mark.trio
async def test_elapsed_includes_the_reading_of_the_body(autojump_clock: MockClock) -> None:
    """An attempt whose body breaks off lasts until then."""
    seen: list[Attempt] = []
    body = Body([b"x", 3.0, httpx.ReadError("broken")])
    server = Server(httpx.Response(200, stream=body), 200)
    with trio.fail_after(60):
        await get(server, on_retry=lambda _, attempt: seen.append(attempt))
    assert [attempt.elapsed for attempt in seen] == [3]


@pytest.mark.trio
async def test_on_retry_comes_before_the_wait(autojump_clock: MockClock) -> None:
    """on_retry is called before the wait."""
    seen: list[float] = []
    started = trio.current_time()
    with trio.fail_after(60):
        await get(Server(503, 503, 200), on_retry=lambda *_: seen.append(trio.current_time() - started))
    assert seen == [0, 2]


@pytest.mark.trio
async def test_a_response_is_closed_before_the_wait(autojump_clock: MockClock) -> None:
    """A discarded response is closed when the wait begins, however slow its body is."""
    bodies = [Body([b"no"]), Body([b"half", 1e9])]
    server = Server(*(httpx.Response(503, stream=body) for body in bodies), 200)
    started = trio.current_time()
    with trio.fail_after(60):
        await get(server)
    assert [body.closed_at for body in bodies] == [started, started + 2]
    assert [at - started for at in server.times] == [0, 2, 6]
