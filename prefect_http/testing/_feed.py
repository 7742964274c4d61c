"""Feed: runs an answer that has to wait for something, in a task of its own."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections import deque
from collections.abc import Callable

import anyio

from prefect_http._concurrency.backend import Event, new_cancel_scope, new_event, spawn_root_task
from prefect_http.testing._operations import AsyncAnswer, Operation, Wait

_UNTIL_FED = Wait(math.inf)


class Feed:
    """The operations of an asynchronous answer, as an iterator. While there is none, it yields an endless wait.

    The task makes the next one when the last one has been taken.

    Args:
        answer: the operations.
        resume: called when there is one, or there will be no more.
        fail: called with what the answer raises.
    """

    def __init__(self, answer: AsyncAnswer, resume: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
        self._answer = answer
        self._resume = resume
        self._fail = fail
        self._operations: deque[Operation] = deque()
        self._has_ended = False
        self._taken: Event | None = None
        self._scope = new_cancel_scope()
        # In an empty context: that of the request that is being answered would be kept alive.
        self._task = spawn_root_task(self._run, "prefect_http.testing answer", context=contextvars.Context())

    def __next__(self) -> Operation:
        if self._operations:
            return self._operations.popleft()
        if self._has_ended:
            raise StopIteration
        if self._taken is not None:
            self._taken.set()
        return _UNTIL_FED

    def cancel(self) -> None:
        """Cancel the task."""
        self._scope.cancel()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with contextlib.aclosing(self._answer) as answer:
                    async for operation in answer:
                        self._operations.append(operation)
                        self._taken = new_event()
                        self._resume()
                        await self._taken.wait()
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # such as that of pytest.fail()
            self._fail(error)
        finally:
            self._has_ended = True
            self._resume()
