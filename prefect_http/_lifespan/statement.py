"""Tells an `async with` statement from a context manager entered by hand.

It matters because only the statement is sure to leave in the task that it entered in, innermost first. There, and only
there, a cancel scope may stay open around the body. Who enters by hand, or through an exit stack, may leave in any task
and in any order; a scope that they leave behind would be in the way of whatever they enclosed the entering with.

The statement looks up ``__aexit__`` before it calls ``__aenter__``, both for the instance and from one place in the
code (https://docs.python.org/3/reference/compound_stmts.html#async-with). A descriptor in the place of ``__aexit__``
sees the first, and where it came from; ``__aenter__`` sees where the second comes from. A statement in an async
generator does not count: another task may finish the generator, or finish it out of order (PEP 789).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, overload

_Leave = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], Coroutine[Any, Any, bool]]


# A place in running code: the identity of the frame, and the offset of the instruction.
Caller = tuple[int, int]

# How far apart a statement's two look-ups may be. They are one instruction up to Python 3.13, and a few from 3.14 on,
# of two bytes each; what a program writes itself is further apart.
_REACH = 16


def current_caller() -> Caller | None:
    """Say who called the function that asks; None for an async generator."""
    # Not inspect.currentframe(): going back from there makes objects of the frames between, at half a microsecond.
    caller = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    if caller.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
        return None
    return id(caller), caller.f_lasti


def is_statement(looked: Caller | None, called: Caller | None) -> bool:
    """Decide whether who looked up ``__aexit__`` and who calls ``__aenter__`` are one `async with` statement."""
    if looked is None or called is None:
        return False
    return looked[0] == called[0] and 0 <= called[1] - looked[1] <= _REACH


class _Context(Protocol):
    last_look: Caller | None

    def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> Coroutine[Any, Any, bool]: ...


class RememberedLook:
    """A descriptor for ``__aexit__`` that finds ``leave``, and notes on the context who looked it up last."""

    @overload
    def __get__(self, context: None, owner: type[_Context]) -> Callable[..., Coroutine[Any, Any, bool]]: ...

    @overload
    def __get__(self, context: _Context, owner: type[_Context]) -> _Leave: ...

    def __get__(
        self, context: _Context | None, owner: type[_Context]
    ) -> _Leave | Callable[..., Coroutine[Any, Any, bool]]:
        if context is None:
            return owner.leave
        context.last_look = current_caller()
        return context.leave
