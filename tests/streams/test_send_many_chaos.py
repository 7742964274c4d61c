"""``send_many()`` with random delays, failures, pauses and cancellations, from seeds; what must hold is checked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from support.many_requests import ONCE
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient

SEEDS = range(15)


class AppError(Exception):
    """Raised by a server, the iterable or the block."""


class Run:
    """One run, all of whose decisions come from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.max_at_once = self.random.choice([1, 2, 3, 8, 50])
        self.requests = self.random.choice([0, 1, 5, 20])
        self.ordered = self.random.random() < 0.5
        self.is_async = self.random.random() < 0.5
        self.fails_after = self.random.choice([None, None, None, 0, 7])
        self.ending = self.random.choice(["end", "end", "break", "error", "cancel"])
        self.leaves_after = self.random.randrange(8)
        self.pulled = self.taken = self.current = 0
        self.has_closed = False
        self.outcomes = Counter[int]()
        self.order: list[int] = []
        self.cancelled = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.current += 1
        assert self.current <= self.max_at_once
        try:
            await anyio.sleep(self.random.choice([0, 0, 1, 2, 5]))
            if self.random.random() < 0.3:
                raise self.random.choice([AppError("app"), httpx.ReadError("broken"), httpx.InvalidURL("url")])
            return httpx.Response(self.random.choice([200, 200, 404]))
        finally:
            self.current -= 1

    def next_item(self) -> str | int:
        if self.pulled == self.fails_after:
            raise AppError("iterable")
        self.pulled += 1
        assert self.pulled - self.taken <= self.max_at_once
        return f"http://server/{self.pulled - 1}"

    async def in_async(self) -> AsyncIterator[str | int]:
        try:
            while self.pulled < self.requests:
                await anyio.sleep(self.random.choice([0, 0, 1, 3]))
                yield self.next_item()
        finally:
            self.has_closed = True

    async def run(self) -> None:
        given: Any = self.in_async() if self.is_async else (self.next_item() for _ in range(self.requests))
        client = PrefectHttpxClient(transport=httpx.MockTransport(self.answer), retry=ONCE)
        many = client.send_many(given, max_at_once=self.max_at_once, ordered=self.ordered)
        ended = came_out = "end"
        with anyio.fail_after(10_000), anyio.CancelScope() as scope:
            try:
                async with many as outcomes:
                    try:
                        await self.take(outcomes, scope)
                    except AppError as error:
                        ended = str(error)
                        raise
            except AppError as error:
                came_out = str(error)
        assert came_out == ended
        self.check(ended, is_cancelled=scope.cancelled_caught)

    async def take(self, outcomes: AsyncIterator[Any], scope: anyio.CancelScope) -> None:
        while True:
            if self.taken == self.leaves_after and self.ending != "end":
                if self.ending == "error":
                    raise AppError("block")
                if self.ending == "break":
                    return
                scope.cancel()
            with anyio.move_on_after(self.random.choice([0, 1, 1000])) as attempt:
                try:
                    outcome = await anext(outcomes)
                except StopAsyncIteration:
                    return
            if attempt.cancelled_caught:
                continue
            self.taken += 1
            assert (outcome.response is None) != (outcome.error is None)
            number = int(outcome.request.url.path[1:])
            self.outcomes[number] += 1
            self.order.append(number)
            if self.random.random() < 0.3:
                await anyio.sleep(self.random.choice([0, 1, 4]))

    def check(self, ended: str, *, is_cancelled: bool) -> None:
        assert self.current == 0
        assert all(count == 1 for count in self.outcomes.values())
        if self.ordered:
            assert self.order == sorted(self.order)
        if self.is_async:
            assert self.has_closed or not self.pulled
        if ended == "iterable":
            assert self.taken == self.pulled == self.fails_after
        elif ended == "end" and not is_cancelled and self.taken != self.leaves_after:
            assert self.taken == self.pulled == self.requests


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_chaos(backend: str) -> None:
    """Each request has one outcome, the bounds hold, errors come out as they are, and nothing is left, at any rate."""

    async def main() -> None:
        for seed in SEEDS:
            try:
                await Run(seed).run()
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise

    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
