"""The mark on foreign errors: any exception can have it, and it affects that exception alone."""

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
    """Return a new error of the same kind."""
    if isinstance(error, UnicodeDecodeError):
        return UnicodeDecodeError(error.encoding, error.object, error.start, error.end, error.reason)
    return type(error)(*error.args)


@each_error
def test_mark(error: BaseException) -> None:
    """Any exception can be marked, even twice, whatever its class forbids; the function returns it."""
    error = fresh(error)
    assert not is_foreign(error)
    for _ in range(2):
        assert mark_foreign(error) is error
        assert is_foreign(error)


@each_error
def test_mark_is_invisible(error: BaseException) -> None:
    """A marked exception looks as it did before."""
    error = fresh(error)
    before = repr(error), str(error), error.args, traceback.format_exception(error)
    mark_foreign(error)
    assert (repr(error), str(error), error.args, traceback.format_exception(error)) == before


@each_error
def test_equal_error_is_not_marked(error: BaseException) -> None:
    """Another exception of the same kind is not marked, even if it is equal."""
    mark_foreign(fresh(error))
    assert not is_foreign(fresh(error))


def test_related_errors_are_not_marked() -> None:
    """A mark does not spread to an error that is caused by a marked one, or between a group and its members."""
    inner, outer = ValueError("text"), OSError("text")
    outer.__cause__ = outer.__context__ = mark_foreign(inner)
    assert not is_foreign(outer)
    assert not is_foreign(ExceptionGroup("group", [inner]))
    mark_foreign(ExceptionGroup("group", [outer]))
    assert not is_foreign(outer)


def test_mark_is_permanent() -> None:
    """An exception is still marked after it was raised, and its copies and pickles are marked as well."""
    error = mark_foreign(ValueError("text"))
    with pytest.raises(ValueError, match="text"):
        raise error
    error.add_note("note")
    assert is_foreign(error)
    assert is_foreign(copy.copy(error))
    assert is_foreign(pickle.loads(pickle.dumps(error)))
