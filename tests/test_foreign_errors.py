"""The mark on errors that are not the wire's: on any exception, and on that one alone."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback
from typing import NoReturn

import httpx
import pytest

from prefect_http._foreign_errors import is_foreign, mark_foreign


class Slotted(Exception):
    __slots__ = ("detail",)

    def __init__(self, detail: str = "") -> None:
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenAndSlotted(Exception):
    detail: str = ""


class Guarded(Exception):
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise TypeError(name)


class Equal(Exception):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Exception.__hash__


ERRORS: list[BaseException] = [
    Exception(),
    ValueError("text"),
    OSError(2, "no such file"),
    KeyError("key"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    StopIteration(5),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    ExceptionGroup("group", [ValueError()]),
    BaseExceptionGroup("group", [KeyboardInterrupt()]),
    httpx.ReadError("text"),
    Slotted("text"),
    Frozen("text"),
    FrozenAndSlotted("text"),
    Guarded("text"),
    Equal("text"),
]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def fresh(error: BaseException) -> BaseException:
    """Give an error of the same kind that nobody has seen yet."""
    if isinstance(error, UnicodeDecodeError):
        return UnicodeDecodeError(error.encoding, error.object, error.start, error.end, error.reason)
    return type(error)(*error.args)


@each_error
def test_mark(error: BaseException) -> None:
    """Any exception can be marked, whatever its class forbids, and is handed back."""
    error = fresh(error)
    assert not is_foreign(error)
    assert mark_foreign(error) is error
    assert is_foreign(error)


@each_error
def test_mark_twice(error: BaseException) -> None:
    """A mark is there or it is not."""
    error = fresh(error)
    assert is_foreign(mark_foreign(mark_foreign(error)))


@each_error
def test_mark_shows_nowhere(error: BaseException) -> None:
    """A marked exception reads as it did before."""
    error = fresh(error)
    before = repr(error), str(error), error.args, traceback.format_exception(error)
    mark_foreign(error)
    assert (repr(error), str(error), error.args, traceback.format_exception(error)) == before


@each_error
def test_mark_is_on_one_error(error: BaseException) -> None:
    """Another exception of the same kind is not marked, even if it is equal."""
    mark_foreign(fresh(error))
    assert not is_foreign(fresh(error))


def test_neighbours() -> None:
    """A mark is no other's: not that of an error caused by it, or of a group or its members."""
    inner, outer = ValueError("text"), OSError("text")
    outer.__cause__ = outer.__context__ = mark_foreign(inner)
    assert not is_foreign(outer)
    assert not is_foreign(ExceptionGroup("group", [inner]))
    mark_foreign(ExceptionGroup("group", [outer]))
    assert not is_foreign(outer)


def test_mark_lasts() -> None:
    """A mark is there after the exception was raised, noted, copied and pickled."""
    error = mark_foreign(ValueError("text"))
    with pytest.raises(ValueError, match="text"):
        raise error
    error.add_note("note")
    assert is_foreign(error)
    assert is_foreign(copy.copy(error))
    assert is_foreign(pickle.loads(pickle.dumps(error)))
