"""Where the workers of ``send_many()`` get their requests from: an iterable, or an async iterable."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import NamedTuple, Protocol, cast

import anyio

from prefect_http._concurrency.backend import Waiter, clock, new_cancel_scope, new_waiter

_CLOSE_SECONDS = 5.0


class Pulled(NamedTuple):
    """What an iterable has yielded.

    Attributes:
        number: of the item, from 0.
        item: what was yielded; it may be anything.
        context: a copy of the context in which the iterable ran, with the variables that it has set.
    """

    number: int
    item: object
    context: contextvars.Context


class Turn:
    """The turn of a worker to get an item."""

    __slots__ = ("pulled", "waiter")

    def __init__(self) -> None:
        self.pulled: Pulled | None = None
        self.waiter: Waiter = new_waiter()

    def end(self, pulled: Pulled | None) -> None:
        """Wake the worker, with an item or without one."""
        self.pulled = pulled
        self.waiter.set()


class RequestSource(Protocol):
    """Yields items to workers, each of which asks, or is asked for by another task, before it waits.

    Attributes:
        count: how many items the iterable has yielded.
        has_ended: whether it yields no more.
        errors: the exception that it raised, if any.
        may_need_outcomes: whether it may wait for the task that takes the outcomes, as a channel without a buffer does
            to which that task sends.
    """

    may_need_outcomes: bool
    count: int
    has_ended: bool
    errors: list[Exception]

    def ask(self, turn: Turn) -> None:
        """Have an item pulled for a worker."""

    async def pull(self, turn: Turn) -> Pulled | None:
        """Wait for the item and return it; None if there are no more."""

    def end(self) -> None:
        """Yield no more, whatever the iterable has left."""


class SyncSource:
    """Yields from an iterable. Whichever worker has its turn calls it, and always in the same context."""

    may_need_outcomes = False

    def __init__(self, iterable: Iterable[object]) -> None:
        self.count = 0
        self.has_ended = False
        self.errors: list[Exception] = []
        self._iterable = iterable
        self._iterator: Iterator[object] | None = None
        self._context = contextvars.copy_context()

    def ask(self, turn: Turn) -> None:
        """Let a worker pull an item; it does so itself, when it runs."""
        turn.end(None)

    async def pull(self, turn: Turn) -> Pulled | None:
        """Wait for the turn, and return the next item; None if there are no more."""
        await turn.waiter.wait()
        if self.has_ended:
            return None
        try:
            item = self._context.run(self._next)
        except StopIteration:
            self.has_ended = True
            return None
        except Exception as error:
            self.has_ended = True
            self.errors.append(error)
            return None
        number, self.count = self.count, self.count + 1
        return Pulled(number, item, self._context.copy())

    def end(self) -> None:
        """Yield no more."""
        self.has_ended = True

    def _next(self) -> object:
        if self._iterator is None:
            self._iterator = iter(self._iterable)
        return next(self._iterator)


class AsyncSource:
    """Yields from an async iterable. One task iterates over it, only as far as workers ask.

    So it may have cancel scopes and nurseries open while it yields, and is closed in the task that has run it.

    Attributes:
        is_left: set before ``feed()`` is cancelled, if that is not because of a cancellation from outside. Then a
            generator may still wait while it is closed, for at most 5 s.
    """

    may_need_outcomes = True

    def __init__(self, iterable: AsyncIterable[object]) -> None:
        self.count = 0
        self.has_ended = False
        self.errors: list[Exception] = []
        self.is_left = False
        self._iterable = iterable
        self._turns: deque[Turn] = deque()
        self._iterator: AsyncIterator[object] | None = None
        self._scope = new_cancel_scope()
        self._feeder: Waiter | None = None  # while it waits until it is asked

    def ask(self, turn: Turn) -> None:
        """Have an item pulled for a worker, by the task that iterates."""
        if self.has_ended:
            turn.end(None)
            return
        self._turns.append(turn)
        self._wake()

    async def pull(self, turn: Turn) -> Pulled | None:
        """Wait for the item and return it; None if there are no more."""
        await turn.waiter.wait()
        return turn.pulled

    def end(self) -> None:
        """Yield no more."""
        self.has_ended = True
        while self._turns:
            self._turns.popleft().end(None)
        self._wake()

    def _wake(self) -> None:
        if self._feeder is not None:
            self._feeder.set()

    async def feed(self) -> None:
        """Iterate; for a task of its own.

        Raises:
            Exception: the generator raised it while it was closed, or was cancelled where it waited, because the block
                has been left. If that has been cancelled, what it raises is dropped.

        Cancellation:
            Ends the iteration, and closes the generator, if it is one.
        """
        # Around the iteration, since the generator may have scopes open that have to be left before this one.
        with self._scope:
            try:
                await self._iterate_and_close()
            except Exception as error:
                if self.is_left:
                    raise
                self.errors.append(error)
        self.end()

    async def _iterate_and_close(self) -> None:
        try:
            await self._iterate()
        except Exception:  # an ExceptionGroup as well, which has no cancellation in it
            raise
        except BaseExceptionGroup as group:  # a nursery that it waits in puts the cancellation into a group
            raise _without_cancellation(group) from None
        finally:
            iterator: object = self._iterator
            if isinstance(iterator, AsyncGenerator):
                await self._close(cast("AsyncGenerator[object]", iterator))

    async def _iterate(self) -> None:
        try:
            self._iterator = aiter(self._iterable)
            while await self._is_asked():
                item = await anext(self._iterator)
                if self.has_ended:  # meanwhile, and the iterable has not let itself be cancelled
                    break
                self._turns.popleft().end(Pulled(self.count, item, contextvars.copy_context()))
                self.count += 1
        except StopAsyncIteration:
            pass

    async def _is_asked(self) -> bool:
        """Wait until a worker asks; return False if it is to end instead."""
        if not self._turns and not self.has_ended:
            self._feeder = new_waiter()
            await self._feeder.wait()
            self._feeder = None
        return not self.has_ended

    async def _close(self, generator: AsyncGenerator[object]) -> None:
        self._scope.shield = self.is_left
        self._scope.deadline = clock()() + _CLOSE_SECONDS
        try:
            await generator.aclose()
        except BaseExceptionGroup as group:  # a nursery that it yields in puts the GeneratorExit into a group
            if (rest := group.split(GeneratorExit)[1]) is not None:
                raise rest from None


def _without_cancellation(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return a group without the cancellations in it; the group itself if there is nothing else."""
    return group.split(anyio.get_cancelled_exc_class())[1] or group
