"""Fleet: keeps what a Throttle shares with those of other processes up to date, in root tasks of its own.

A key has a task while requests for it wait or are in flight, and for a second longer. A further task listens to news as
long as there is any of these. So a Throttle that is not used costs nothing, here and in the store.

If the store cannot be reached, or takes too long, no request fails: each process goes on with its last share.
"""

from __future__ import annotations

import contextvars
import logging
import math
import random
import secrets
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

import anyio

from prefect_http._concurrency.backend import CancelScope, Event, new_cancel_scope, new_event, spawn_root_task
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._redact import safe_exception
from prefect_http._throttle.fleet_state import (
    LEASE,
    FleetState,
    KnownRate,
    Lease,
    Report,
    from_text,
    synced,
    to_text,
)
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.share import Share
from prefect_http._throttle.store import Store, Stored

# In seconds. A store that takes longer to answer holds up requests more than it helps.
_TIMEOUT = 1.0
# How often a swap is tried again because another process was faster.
_ATTEMPTS = 50
# After how many seconds without any use the store may forget a key. Its longest use is a closure of an hour.
_KEPT = 2 * 3600.0
# In seconds: the processes that hear of news at the same time do not all ask at the same time.
_MOST_DOUBTS = 100
_SPREAD_PER_MEMBER = 0.005
# In seconds: how long the first pause is at most after another process was faster; then twice as long, and so on.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1

# What a Fleet calls when something has changed: "alone" or "shared", and the key; None if the gates know what.
OnChange = Callable[[str | None, Hashable], object]

_logger = logging.getLogger("prefect_http.throttle")


class _News(NamedTuple):
    """What other processes are told at once.

    Attributes:
        name: of the key.
        member: who tells it.
        cycle: in which it was.
        what: "closed"; "opened"; "doubts", if there were rejections that may be faults; "joined".
        value: until when the gate is closed; how many doubts there are; 0 for the others.
    """

    name: str
    member: str
    cycle: int
    what: str
    value: float

    def __str__(self) -> str:
        return f"{self.name} {self.member} {self.cycle} {self.what} {self.value!r}"

    @classmethod
    def parse(cls, text: str) -> _News | None:
        """Return the news that a text stands for; None if it is of another version of the package."""
        try:
            name, member, cycle, what, value = text.split(" ")
            return cls(name, member, int(cycle), what, float(value))
        except ValueError:
            return None


def _news(part: Part, before: FleetState, after: FleetState, doubts: int) -> str:
    """Return what the others are to be told of a change; nothing for most changes."""
    what, value = "", 0.0
    if after.closed_until is not None and after.closed_until != before.closed_until:
        what, value = "closed", after.closed_until
    elif after.cycle != before.cycle:
        what = "opened"
    elif doubts:
        what, value = "doubts", doubts
    elif len(after.members) > len(before.members) and len(after.members).bit_count() == 1:
        what = "joined"  # each time that they have become twice as many
    return str(_News(part.name, part.member, after.cycle, what, value)) if what else ""


class Part:
    """The part that a process has of a key.

    Attributes:
        member: the name of the process, for this key.
        name: of the key in the store.
        gate: of the key in this process.
        share: the share of this process.
        version: what is known of the store's; -1: nothing.
        state: what the store had then.
        pending: a report of which it is not known whether it has arrived.
        is_settling: whether the task is to end as soon as it can.
        task: tells the task that keeps it up to date from an earlier one; None if there is none.
    """

    def __init__(self, key: Hashable, known: KnownRate) -> None:
        self.member = secrets.token_hex(6)
        self.name = blake2b(repr(key).encode(), digest_size=16).hexdigest()
        self.share = Share(self.member, known)
        self.gate: Gate
        self.version = -1
        self.state = FleetState()
        self.pending: Report | None = None
        self.task: object = None
        self.is_settling = False
        self._due = -math.inf
        self._event: Event | None = None

    def next_report(self, now: float) -> float:
        """Return when the store is to be asked; infinity if there is nothing to ask."""
        limiter = self.gate.limiter
        return self.share.next_report(
            now,
            waiting=self.gate.waiting,
            in_flight=limiter.in_flight,
            own_until=limiter.own_until,
            closed_until=limiter.closed_until,
            has_rate=min(limiter.rate, limiter.known_rate) < math.inf,
        )

    def report(self, now: float, *, is_leaving: bool) -> Report:
        """Return the next report."""
        limiter = self.gate.limiter
        accepted, done = limiter.to_tell()
        return self.share.report(
            now,
            accepted=accepted,
            done=done,
            own_until=limiter.own_until,
            curve=limiter.curve,
            waiting=self.gate.waiting,
            is_waiting=self.gate.waiting > 0 or limiter.is_probing,
            is_leaving=is_leaving,
        )

    def wake(self, now: float) -> None:
        """Let the task look, if there is anything earlier than what it waits for."""
        if self._event is not None and self.next_report(now) < self._due:
            self._event.set()

    @property
    def is_in_use(self) -> bool:
        """Whether any request waits or is in flight."""
        return self.gate.waiting > 0 or self.gate.limiter.in_flight > 0

    def settle(self) -> None:
        """Let the task end as soon as it has told what there is to tell."""
        self.is_settling = True
        if self._event is not None:
            self._event.set()

    async def wait_until(self, due: float) -> None:
        """Wait until then, or until ``wake()``."""
        self._due, self._event = due, new_event()
        scope = new_cancel_scope()
        scope.deadline = due
        try:
            with scope:
                await self._event.wait()
        finally:
            self._event = None


class Fleet:
    """What one Throttle shares, in one event loop.

    Args:
        store: where it is shared.
        known: the limit that the user knows, of all processes together.
        now: returns the event loop's time.
        on_change: called when something has changed that may have to be reported.
    """

    def __init__(
        self,
        store: Store,
        known: KnownRate,
        now: Callable[[], float],
        on_change: OnChange,
    ) -> None:
        self._store = store
        self._known = known
        self._now = now
        self._on_change = on_change
        self._parts: dict[str, Part] = {}  # those that have a task
        self._is_away = False
        self._listener: CancelScope | None = None
        self._tasks: dict[object, object] = {}  # held, because asyncio does not
        self._ended = RepeatedEvent()

    def new_part(self, key: Hashable) -> Part:
        """Return a part for a key; its gate is to be set, and then ``watch()`` to be called.

        Raises:
            TypeError: the key looks different in each process.
        """
        if " object at 0x" in repr(key):
            raise TypeError(f"key must return something that is the same in all processes, as a string, not {key!r}")
        return Part(key, self._known)

    def watch(self, part: Part, gate: Gate, key: Hashable) -> None:
        """Keep a part up to date, from its first request on."""
        part.gate = gate
        gate.on_dispatch = partial(self._wake, part, key)

    def _wake(self, part: Part, key: Hashable) -> None:
        if part.task is not None:
            part.wake(self._now())
        elif part.is_in_use:
            part.task = task = object()
            self._parts[part.name] = part
            self._tasks[task] = spawn_root_task(
                partial(self._keep, part, key, task),
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
            if self._listener is not None and not self._parts:
                self._listener.cancel()
                self._listener = None
        self._forget_task(task)

    async def settle(self) -> None:
        """Tell the others now, and not in a second, that what is not used at present is not needed; end its tasks.

        Cancellation:
            They end nevertheless.
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

    async def _keep(self, part: Part, key: Hashable, task: object) -> None:
        """Keep a part up to date as long as it is used."""
        try:
            while True:
                now = self._now()
                due = part.next_report(now)
                if due <= now:
                    await self._exchange_or_go_on_alone(part, key)
                    continue
                is_idle = due == math.inf
                if not (is_idle and part.is_settling):
                    await part.wait_until(now + LEASE if is_idle else due)
                if is_idle and not part.is_in_use:
                    part.is_settling = False
                    await self._leave(part)
                    if not part.is_in_use:
                        return
        except Exception:
            _logger.exception("the throttle can no longer share; it goes on alone")
            part.share.lost()
            part.gate.follow_others(lambda now: None)
        finally:
            self._task_ended(part, task)  # here, since a request may come before the task has really ended

    async def _exchange_or_go_on_alone(self, part: Part, key: Hashable) -> None:
        part.share.asked(self._now())
        problem = f"it took longer than {_TIMEOUT:g} s"
        try:
            with anyio.move_on_after(_TIMEOUT):
                await self._exchange(part)
                problem = ""
        except Exception as error:
            problem = safe_exception(error)
        was_alone = part.share.is_alone
        if problem:
            part.share.lost()
        else:
            part.share.found()
        part.gate.follow_others(lambda now: None)
        if was_alone != part.share.is_alone:
            self._on_change("alone" if problem else "shared", key)
        else:
            self._on_change(None, key)
        self._log(problem)

    def _log(self, problem: str) -> None:
        if self._is_away == bool(problem):
            return
        self._is_away = bool(problem)
        if problem:
            _logger.warning(
                "the throttle cannot reach what it shares with other processes, and goes on with its last share: %s",
                problem,
            )
        else:
            _logger.warning("the throttle can reach again what it shares with other processes")

    async def _leave(self, part: Part) -> None:
        part.share.left()
        try:
            with anyio.move_on_after(_TIMEOUT):
                await self._exchange(part, is_leaving=True)
        except Exception as error:
            _logger.debug("the throttle could not say that it needs its share no longer: %s", safe_exception(error))

    async def _exchange(self, part: Part, *, is_leaving: bool = False) -> None:
        """Report what has happened here, and take over what the others know."""
        share, state, version = part.share, part.state, part.version
        asked_at = self._now()
        if not share.knows_clock:
            stored = await self._store.swap(part.name, -1, "", _KEPT, "")
            share.saw_clock(stored.now, asked_at, self._now())
            state, version = _read(part, stored)
        report = part.pending = part.pending or part.report(self._now(), is_leaving=is_leaving)
        doubts = share.take_doubts()
        for attempt in range(_ATTEMPTS):
            after, lease = synced(state, report, self._known, share.store_time(self._now()))
            news = _news(part, state, after, doubts)
            sent_at = self._now()
            stored = await self._store.swap(part.name, version, to_text(after), _KEPT, news)
            share.saw_clock(stored.now, sent_at, self._now())
            if stored.is_swapped:
                part.version, part.state, part.pending = stored.version, after, None
                part.gate.follow_others(partial(_apply, part, report, lease, asked_at))
                return
            state, version = _read(part, stored)
            if attempt > 1:
                await anyio.sleep(random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)))
        raise TimeoutError(f"{_ATTEMPTS} times in a row, another process was faster")

    async def _listen(self, scope: CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._store.listen(lambda: None, self._hear)
                except* Exception as error:  # it may come together with a cancellation
                    _logger.debug("the throttle hears no news from other processes: %s", safe_exception(error))
                await anyio.sleep(LEASE)

    def _hear(self, text: str) -> None:
        """Close the gate if another process has, and ask soon."""
        news = _News.parse(text)
        part = None if news is None else self._parts.get(news.name)
        if news is None or part is None or part.member == news.member or part.task is None:
            return
        if part.share.knows_clock and not part.share.has_news and news.cycle == part.share.state.cycle:
            part.gate.follow_others(partial(_apply_news, part, news))
        if news.what != "doubts":
            spread = _SPREAD_PER_MEMBER * part.share.members
            part.share.hurry(self._now() + random.uniform(0, spread))
        part.wake(self._now())
        self._on_change(None, None)


def _read(part: Part, stored: Stored) -> tuple[FleetState, int]:
    # If the store has lost everything, this process still knows what it knew; the others will come again.
    state = from_text(stored.text) if stored.text else replace(part.share.state, members={})
    return state, stored.version


def _apply_news(part: Part, news: _News, now: float) -> None:
    limiter = part.gate.limiter
    if news.what == "closed":
        limiter.close_with_others(now, part.share.local_time(news.value))
    elif news.what == "doubts":
        for _ in range(min(int(news.value), _MOST_DOUBTS)):
            limiter.doubt_with_others(now, random.random())


def _apply(part: Part, report: Report, lease: Lease, asked_at: float, now: float) -> None:
    """Take over what is known to all."""
    share, limiter = part.share, part.gate.limiter
    before, state = share.state, lease.state
    share.apply(report, lease, asked_at, now)
    limiter.told(report.accepted, report.done)
    if share.has_news:  # it is newer
        return
    if state.cycle != before.cycle and report.opening is None:
        began = share.local_time(state.began)
        limiter.open_with_others(now, began, begins_cycle=state.began != before.began)
    if state.closed_until is not None:
        limiter.close_with_others(now, share.local_time(state.closed_until))
    limiter.follow(state.curve, state.done, accepted=None if state.cycle else state.accepted)
