"""The tasks that send the requests of ``send_many()``, and the iterator over what becomes of them.

A worker pulls a request, sends it, and waits until its outcome has been taken before it pulls the next one. So there
are never more requests than workers beyond the outcomes that were taken. Each worker that gets a request starts two
others, up to the limit: so all are there soon, but a few requests take only a few tasks.

Workers rather than a task for each request, because starting a task costs more than waking one: with the transport in
memory, a request took 102 us instead of 121 on trio, and 123 instead of 179 on asyncio. Each request has a context of
its own, as it would have in a task of its own.

Taking an outcome is a checkpoint. If a worker went on at each of them, the requests would be sent one by one, and each
would wake a server that sleeps: over loopback, a request would take 1.2 times as long. So as long as there are more
outcomes to be taken, a few workers wait for each other for a moment, and then go on together. Those of an async
iterable do not: the task that takes the outcomes may be waiting until one is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import NamedTuple

import anyio

from prefect_http._concurrency.backend import Waiter, checkpoint, new_waiter
from prefect_http._concurrency.context import in_context
from prefect_http._streams.outcome import Outcome
from prefect_http._streams.outcome_queue import OutcomeQueue
from prefect_http._streams.request_source import Pulled, RequestSource, Turn

# At most one in so many workers waits for others, and for at most so many seconds, since the task that takes the
# outcomes may be busy with something else.
_ONE_IN = 4
_MOMENT = 1 / 256

_LEFT = "the outcomes of send_many() can be iterated over only within its `async with` block, which has been left"
_CANCELLED = "send_many() has been cancelled, so there are no more outcomes"
_TAKEN_TWICE = "two tasks are waiting for the outcomes of one send_many(): iterate over them in one task"


class Finished(NamedTuple):
    """An outcome, and the turn that its worker gets when it is taken."""

    outcome: Outcome
    turn: Turn


class Outcomes(AsyncIterator[Outcome]):
    """The outcomes of many requests, and the workers that send them.

    Args:
        source: where the requests come from.
        queue: the outcomes that are to be taken.
        max_workers: how many requests may be pulled beyond the outcomes that were taken.
        send: sends what was pulled, and adds the outcome to a list.
        start: starts a worker in a task.
    """

    def __init__(
        self,
        source: RequestSource,
        queue: OutcomeQueue[Finished],
        max_workers: int,
        send: Callable[[Pulled, list[Outcome]], Coroutine[object, object, None]],
        start: Callable[[Callable[[], Awaitable[None]]], object],
    ) -> None:
        self._source = source
        self._queue = queue
        self._free_workers = max_workers
        self._send = send
        self._start = start
        self._taken = 0
        self._turns: list[Turn] = []  # of workers that wait for others
        self._has_timer = False
        self._max_turns = 1 if source.may_need_outcomes else max(1, max_workers // _ONE_IN)
        self._consumer: Waiter | None = None  # while it waits
        self._is_waiting = False
        self._why_over: str | None = None

    def start_worker(self) -> None:
        """Start another worker, unless there are enough."""
        if self._free_workers:
            self._free_workers -= 1
            self._start(self._work)

    def _start_two(self) -> None:
        self.start_worker()
        self.start_worker()

    def leave(self) -> None:
        """Have all further iteration fail, because the block has been left."""
        self._why_over = _LEFT
        self._source.end()
        self._wake()

    def stop(self) -> None:
        """End the iteration behind the outcomes that are there, because the workers have been cancelled."""
        self._why_over = self._why_over or _CANCELLED
        self._wake()

    async def _work(self) -> None:
        turn = Turn()
        self._source.ask(turn)
        while (pulled := await self._source.pull(turn)) is not None:
            self._start_two()
            outcomes: list[Outcome] = []
            await in_context(pulled.context, self._send(pulled, outcomes), _do_nothing)
            turn = Turn()
            # Not by a name: this frame may be among those that the traceback of an error holds.
            self._queue.put(pulled.number, Finished(outcomes.pop(), turn))
            self._wake()
        self._wake()

    def _wake(self) -> None:
        if self._consumer is not None:
            self._consumer.set()

    async def __anext__(self) -> Outcome:
        """Wait for the next outcome and return it.

        Raises:
            Exception: the iterable of requests raised it. All outcomes of the requests before come first.
            RuntimeError: another task is waiting for an outcome, or the ``async with`` block has been left.

        Cancellation:
            No outcome is lost.
        """
        if self._is_waiting:
            raise RuntimeError(_TAKEN_TWICE)
        self._is_waiting = True
        try:
            if self._has_result():
                await checkpoint()
            while not self._has_result():
                self._consumer = new_waiter()
                try:
                    await self._consumer.wait()
                finally:
                    self._consumer = None
                if self._why_over is not None:
                    await checkpoint()  # if it is this task that has been cancelled, it is to be told so
        finally:
            self._is_waiting = False
        return self._result()

    def _has_result(self) -> bool:
        """Whether there is an outcome to return, or an exception to raise."""
        is_over = self._source.has_ended and self._taken == self._source.count
        return self._queue.is_ready() or is_over or self._why_over is not None

    def _result(self) -> Outcome:
        if self._why_over is _LEFT:
            raise RuntimeError(_LEFT)
        if self._queue.is_ready():
            finished = self._queue.take()
            self._taken += 1
            self._turns.append(finished.turn)
            if len(self._turns) >= self._max_turns or not self._queue.is_ready():
                self._let_workers_go_on()
            elif not self._has_timer:
                self._has_timer = True
                self._start(self._let_workers_go_on_soon)
            return finished.outcome
        if self._why_over is not None:
            raise RuntimeError(self._why_over)
        if self._source.errors:
            raise self._source.errors.pop()
        raise StopAsyncIteration

    async def _let_workers_go_on_soon(self) -> None:
        await anyio.sleep(_MOMENT)
        self._has_timer = False
        self._let_workers_go_on()

    def _let_workers_go_on(self) -> None:
        for turn in self._turns:
            self._source.ask(turn)
        self._turns.clear()


def _do_nothing() -> None:
    pass
