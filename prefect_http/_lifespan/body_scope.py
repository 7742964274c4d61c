"""The cancel scope that stays open around a body with ``cancel_on_crash=True``.

The open cancel scopes of a task are a stack: only that task can close one, and only the innermost. An ``async with``
block keeps to that by itself; code that enters by hand, through an exit stack or in an async generator may not.
When it does not, trio closes the scope and cancels whatever is open inside it, while anyio on asyncio refuses, and the
scope stays open. So a scope that is left in another task, or while another one of ours is open inside it, is only
marked. It is closed when its task leaves the next one around it or inside it, as is one that could not be closed.

https://trio.readthedocs.io/en/stable/reference-core.html#cancellation-and-timeouts
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import cast
from weakref import WeakKeyDictionary

from anyio.lowlevel import RunVar

from prefect_http._concurrency.backend import current_task, new_cancel_scope

_MISUSE = (
    "app_lifespan_context(cancel_on_crash=True) keeps a cancel scope open, so it must be left in the task that entered "
    "it, innermost first, but it was left {}. Enter it with `async with` in one task, or use cancel_on_crash=False, "
    "which may be left in any task and in any order."
)


class BodyScope:
    """A cancel scope around the code that runs until it is left."""

    __slots__ = ("_is_left", "_scope", "_stack")

    def __init__(self) -> None:
        self._is_left = False
        self._scope = new_cancel_scope()
        self._stack = _current_stack()
        self._scope.__enter__()
        self._stack.append(self)

    def cancel(self) -> None:
        """Cancel the code."""
        self._scope.cancel()

    def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> BaseException | None:
        """Leave the scope.

        Returns:
            What is left of the exception: None if it was nothing but the cancellation that this scope asked for.

        Raises:
            RuntimeError: another task entered the scope, or another scope is still open inside it.
        """
        self._is_left = True
        if _current_stack() is not self._stack:
            raise RuntimeError(_MISUSE.format("in another task"))
        while (innermost := self._stack[-1]) is not self:
            if not innermost._is_left:
                raise RuntimeError(_MISUSE.format("while another one was open inside it"))
            self._close_innermost()
        rest = self._close(exc_type, exc, tb)
        self._stack.pop()
        while self._stack and self._stack[-1]._is_left:
            self._close_innermost()
        return rest

    def _close(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> BaseException | None:
        try:
            is_swallowed = self._scope.__exit__(exc_type, exc, tb)
        except RuntimeError as error:
            if _is_part_of(exc, error):
                return error
            raise RuntimeError(_MISUSE.format("while another cancel scope was open inside it")) from error
        except BaseException as rest:  # an exception group, less its cancellations
            return rest
        # A generator that is closed because the code that drives it was cancelled sees only that it is closed.
        is_closed_generator = isinstance(exc, GeneratorExit) and self._scope.cancel_called
        return None if is_swallowed or is_closed_generator else exc

    def _close_innermost(self) -> None:
        """Close a scope that was left too early; if that fails again, or trio has already closed it, forget it."""
        with contextlib.suppress(RuntimeError):
            self._stack.pop()._scope.__exit__(None, None, None)


# The open scopes of each task, the innermost last.
_stacks: RunVar[WeakKeyDictionary[object, list[BodyScope]]] = RunVar("prefect_http_body_scopes")


def _current_stack() -> list[BodyScope]:
    stacks = _stacks.get(None)
    if stacks is None:
        stacks = WeakKeyDictionary[object, list[BodyScope]]()
        _stacks.set(stacks)
    return stacks.setdefault(current_task(), [])


def _is_part_of(whole: BaseException | None, part: BaseException) -> bool:
    """Whether an exception came out of a group: trio may unwrap one from which it has removed the cancellations."""
    if not isinstance(whole, BaseExceptionGroup):
        return False
    return cast("BaseExceptionGroup[BaseException]", whole).subgroup(lambda leaf: leaf is part) is not None
