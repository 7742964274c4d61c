"""Fleet: keeps what a Throttle shares with those of other processes up to date, in root tasks of its own.

A key has a task while requests for it wait or are in flight, and for a second longer. A further task listens to news as
long as there is any of these. So a Throttle that is not used costs nothing, here and in the store.

If the store cannot be reached, or takes too long, no request fails: each process goes on with its last share.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import random
import re
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

import anyio

from prefect_http._concurrency.backend import CancelScope, new_cancel_scope, spawn_root_task
from prefect_http._concurrency.exception_groups import first_exception
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._redact import safe_exception
from prefect_http._throttle.fleet_state import (
    LEASE,
    FleetState,
    KnownRate,
    completed,
    from_text,
    is_ahead,
    moved_ahead,
    synced,
    to_text,
)
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.news import News, news_of
from prefect_http._throttle.part import Part
from prefect_http._throttle.store import Store, Stored

# In seconds. A store that takes longer to answer holds up requests more than it helps.
_TIMEOUT = 1.0
# In seconds: for so long, it is tried again if other processes are faster.
_LONGEST_EXCHANGE = 10.0
# After how many seconds without any use the store may forget a key. Its longest use is a closure of an hour.
_KEPT = 2 * 3600.0
# In seconds: the processes that hear of news at the same time do not all ask at the same time.
_SPREAD_PER_MEMBER = 0.005
# In seconds: how long the first pause is at most after another process was faster; then twice as long, and so on.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1

# What a process does that does not reach the store any more, and one that has never reached it.
_AS_BEFORE, _AS_THE_ONLY_ONE = "at the last share of the rate limit", "as if this were the only process"

_logger = logging.getLogger("prefect_http.throttle")


class Fleet:
    """What one Throttle shares, in one event loop.

    Args:
        store: where it is shared.
        known: the limit that the user knows, of all processes together.
        now: returns the event loop's time.
    """

    def __init__(self, store: Store, known: KnownRate, now: Callable[[], float]) -> None:
        self._store = store
        self._known = known
        self._now = now
        self._parts: dict[str, Part] = {}  # those that have a task
        self._away: set[str] = set()  # those of them that have not been able to reach the store
        self._is_away = False  # what the log has said last
        self._listener: CancelScope | None = None
        self._tasks: dict[object, object] = {}  # held, because asyncio does not
        self._ended = RepeatedEvent()

    def new_part(self, key: Hashable) -> Part:
        """Return a part for a key; its gate is to be set, and then ``watch()`` to be called.

        Raises:
            TypeError: the key looks different in each process.
        """
        if re.search(" at 0x[0-9a-f]", repr(key), re.IGNORECASE):
            raise TypeError(f"key must return something that is the same in all processes, as a string, not {key!r}")
        return Part(key, self._known)

    def watch(self, part: Part, gate: Gate, on_change: Callable[[str | None], object]) -> None:
        """Keep a part up to date, from its first request on.

        Args:
            part: the part.
            gate: its gate.
            on_change: called when something has changed that may have to be reported: with "alone" or "shared", or with
                None if the gate knows what.
        """
        part.gate, part.on_change = gate, on_change
        gate.on_dispatch = partial(self._wake, part)

    def _wake(self, part: Part) -> None:
        if part.task is not None:
            part.wake(self._now())
        elif part.is_in_use:
            part.task = task = object()
            self._parts[part.name] = part
            self._tasks[task] = spawn_root_task(
                partial(self._keep, part, task),
                "prefect_http shared throttle",
                partial(self._task_ended, part, task),
                contextvars.Context(),
            )
            if self._listener is None:
                self._listener = scope = new_cancel_scope()
                self._tasks[scope] = spawn_root_task(
                    partial(self._listen, scope),
                    "prefect_http throttle news",
                    lambda: self._forget_task(scope),
                    contextvars.Context(),
                )

    def _forget_task(self, task: object) -> None:
        self._tasks.pop(task, None)
        self._ended.notify()

    def _task_ended(self, part: Part, task: object) -> None:
        """Take note that a task has ended, or will in a moment; it may be told twice."""
        if part.task is task:
            part.task = None
            if self._parts.get(part.name) is part:
                del self._parts[part.name]
                self._away.discard(part.name)
            if self._listener is not None and not self._parts:
                self._listener.cancel()
                self._listener = None
        self._forget_task(task)

    async def settle(self) -> None:
        """Release the shares of all idle keys now instead of after a second, and wait for their tasks to end.

        Cancellation:
            The tasks end nevertheless.
        """
        idle = [part for part in self._parts.values() if not part.is_in_use]
        tasks = [part.task for part in idle]
        if len(idle) == len(self._parts):
            tasks.append(self._listener)
        for part in idle:
            part.settle()
        with anyio.move_on_after(_TIMEOUT):
            while any(task in self._tasks for task in tasks):
                await self._ended.wait()

    async def _keep(self, part: Part, task: object) -> None:
        """Keep a part up to date as long as it is used."""
        try:
            while True:
                now = self._now()
                due = part.next_report(now)
                if due <= now:
                    await self._exchange_or_go_on_alone(part)
                    continue
                is_idle = due == math.inf
                if not (is_idle and part.is_settling):
                    await part.wait_until(now + LEASE if is_idle else due)
                if is_idle and not part.is_in_use:
                    await self._leave(part)
                    part.is_settling = False
                    # It may have been in use meanwhile, and have something to tell.
                    if not part.is_in_use and part.next_report(self._now()) == math.inf:
                        return
        except Exception:
            _logger.exception("the throttle can no longer share; it goes on alone")
            part.gate.follow_others(part.share.store_lost)
        finally:
            self._task_ended(part, task)  # here, since a request may come before the task has really ended

    async def _exchange_or_go_on_alone(self, part: Part) -> None:
        part.share.asked(self._now())
        problem = ""
        try:
            await self._exchange(part)
        except Exception as error:
            problem = safe_exception(error)
        if problem and self._now() > part.answered_at + 2 * _TIMEOUT:
            return  # it was this process that has been stopped: ask again, and send nothing before
        self._note_whether_reached(part, problem)

    def _note_whether_reached(self, part: Part, problem: str) -> None:
        """Take note of whether a part has reached the store, and report it if that is new.

        Args:
            part: the part.
            problem: why it has not; empty if it has.
        """
        was_alone = part.share.is_alone
        part.gate.follow_others(part.share.store_lost if problem else part.share.store_reached)
        if was_alone != part.share.is_alone:
            part.on_change("alone" if problem else "shared")
        else:
            part.on_change(None)
        if problem:
            self._away.add(part.name)
            if not self._is_away:
                how = _AS_BEFORE if part.share.knows_clock else _AS_THE_ONLY_ONE
                _logger.warning("cannot use Redis; continuing alone, %s: %s", how, problem)
            self._is_away = True
        else:
            self._away.discard(part.name)
            if self._is_away and not self._away:
                _logger.warning("Redis can be used now; sharing the rate limit")
                self._is_away = False

    async def _leave(self, part: Part) -> None:
        try:
            if part.pending is not None:
                await self._exchange(part)
            await self._exchange(part, is_leaving=True)
            self._note_whether_reached(part, "")
        except Exception as error:
            _logger.debug("the throttle could not give up its share: %s", safe_exception(error))
        finally:
            part.pending = None
            part.share.left()

    async def _exchange(self, part: Part, *, is_leaving: bool = False) -> None:
        """Report what has happened here, and take over what the others know.

        Raises:
            TimeoutError: an answer takes too long, or other processes are faster each time.
            Exception: the store cannot be reached, or holds something else.
        """
        started = self._now()
        scope = new_cancel_scope()
        with scope:
            await self._swap(part, started, scope, is_leaving=is_leaving)
        if scope.cancelled_caught:
            is_busy = self._now() >= started + _LONGEST_EXCHANGE
            raise TimeoutError("other processes were faster each time" if is_busy else f"no answer for {_TIMEOUT:g} s")

    async def _swap(self, part: Part, started: float, scope: CancelScope, *, is_leaving: bool) -> None:
        """Try until no other process was faster."""
        share, state, version = part.share, part.share.state, part.version
        if not share.knows_clock:
            stored, _ = await self._call(part, started, scope, -1, "", "")
            state, version = _read(part, stored.text, self._now()), stored.version
        doubts, pause, trusts_news = share.doubts, _FIRST_PAUSE, True
        while True:
            if trusts_news:
                state, version = _newest(part, state, version, self._now())
            report = part.to_report(self._now(), is_leaving=is_leaving)
            now = share.store_time(self._now())
            state = completed(state, share.state, now)
            after, lease = synced(state, share.in_store_time(report), self._known, now)
            text = to_text(after)
            news = news_of(part.name, part.member, state, after, text, doubts, is_slow=share.is_store_slow)
            stored, jump = await self._call(part, started, scope, version, text, news)
            if stored.is_swapped:
                share.doubts -= doubts
                doubts = 0
            if stored.is_swapped and not jump:
                part.version = stored.version
                part.gate.follow_others(partial(part.apply, report, lease, started))
                return
            # News of a later version than the store's are from one that it has replaced.
            trusts_news = trusts_news and stored.version >= version
            # After a change of the clock, the answer to the report has to be had again, in its times.
            state = _read(part, text if stored.is_swapped else stored.text, self._now())
            version = stored.version
            pause = max(pause, share.shortest_trip)
            await anyio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, max(_LONGEST_PAUSE, share.members * share.shortest_trip))

    async def _call(
        self, part: Part, started: float, scope: CancelScope, version: int, text: str, news: str
    ) -> tuple[Stored, float]:
        """Call the store, which has a second to answer.

        Returns:
            What it holds, and by how many seconds its clock has jumped.
        """
        part.answered_at = sent_at = self._now()
        scope.deadline = min(sent_at + _TIMEOUT, started + _LONGEST_EXCHANGE)
        stored = await self._store.swap(part.name, version, text, _KEPT, news)
        part.answered_at = self._now()
        scope.deadline = started + _LONGEST_EXCHANGE
        return stored, part.share.saw_clock(stored.now, sent_at, part.answered_at)

    async def _listen(self, scope: CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._store.listen(lambda: None, self._hear)
                except* Exception as group:  # it may come together with a cancellation
                    error = first_exception(group)
                    _logger.debug("the throttle hears no news from other processes: %s", safe_exception(error))
                await anyio.sleep(LEASE)

    def _hear(self, version: int, text: str) -> None:
        """Close the gate if another process has, and ask soon."""
        news = News.parse(text)
        part = None if news is None else self._parts.get(news.name)
        if news is None or part is None or part.member == news.member:
            return
        if news.text:
            part.heard = version, news.text
        if news.what == "changed":
            return
        share = part.share
        # In times of another clock, they could close the gate for however long that is ahead.
        is_in_time = share.knows_clock and share.is_about_now(news.at, self._now())
        if is_in_time and not share.has_news and news.cycle == share.state.cycle:
            part.gate.follow_others(partial(part.hear, news))
        if news.what != "doubts":
            spread = _SPREAD_PER_MEMBER * share.members
            share.hurry(self._now() + random.uniform(0, spread))
        part.wake(self._now())
        part.on_change(None)


def _newest(part: Part, state: FleetState, version: int, now: float) -> tuple[FleetState, int]:
    """Return a state and its version, or those of the last news, which are forgotten, if they are newer."""
    heard, part.heard = part.heard, None
    if heard is not None and heard[0] > version:
        with contextlib.suppress(ValueError):  # then the store says whether it is its fault
            told = from_text(heard[1])
            # One that seems to come from the future would be taken for that of a clock which has gone back.
            if part.share.is_about_now(told.at, now) and not is_ahead(told, part.share.store_time(now)):
                return told, heard[0]
    return state, version


def _read(part: Part, text: str, now: float) -> FleetState:
    share = part.share
    if not text:  # the store has lost everything. This process still knows what it knew; the others will come again
        return replace(share.state, members={})
    # Others may not have seen yet that its clock has jumped.
    return moved_ahead(from_text(text), share.recent_jump(now), share.store_time(now))
