"""The mark on foreign errors: any exception can have it, and it affects that exception in that request alone."""

from __future__ import annotations

import dataclasses
import traceback
from typing import NoReturn

import httpx
import pytest
from support.rows import each_row

from prefect_http import PrefectHttpxClient
from prefect_http._foreign_errors import clear_mark, is_foreign, mark_foreign


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
each_error = each_row("error", ERRORS)


def new_request() -> httpx.Request:
    """Return a request."""
    return httpx.Request("GET", "http://server/", extensions={"timeout": {}})


def twin(error: BaseException) -> BaseException:
    """Return a new error of the same kind."""
    if isinstance(error, UnicodeDecodeError):
        return UnicodeDecodeError(error.encoding, error.object, error.start, error.end, error.reason)
    return type(error)(*error.args)


@each_error
def test_mark(error: BaseException) -> None:
    """Any exception can be marked, even twice, whatever its class forbids."""
    request = new_request()
    assert not is_foreign(error, request)
    for _ in range(2):
        mark_foreign(error, request)
        assert is_foreign(error, request)


@each_error
def test_mark_leaves_the_exception_alone(error: BaseException) -> None:
    """A marked exception is as it was before."""
    before = repr(error), str(error), error.args, dict(error.__dict__), traceback.format_exception(error)
    mark_foreign(error, new_request())
    assert (repr(error), str(error), error.args, error.__dict__, traceback.format_exception(error)) == before


@each_error
def test_mark_belongs_to_the_request(error: BaseException) -> None:
    """The same exception, raised by another request, is not marked, and neither is an equal one by the same request."""
    request, other = new_request(), new_request()
    mark_foreign(error, request)
    assert not is_foreign(error, other)
    assert not is_foreign(twin(error), request)


def test_one_exception_of_two_requests() -> None:
    """Each request that raises an exception may mark it."""
    error, requests = ValueError(), [new_request(), new_request()]
    for request in requests:
        mark_foreign(error, request)
    assert all(is_foreign(error, request) for request in requests)


def test_mark_does_not_spread() -> None:
    """An error that is caused by a marked one is not marked, nor is a group of it."""
    request = new_request()
    inner, outer = ValueError("text"), OSError("text")
    outer.__cause__ = outer.__context__ = inner
    mark_foreign(inner, request)
    assert not is_foreign(outer, request)
    assert not is_foreign(ExceptionGroup("group", [inner]), request)


def test_mark_leaves_the_callers_extensions_alone() -> None:
    """A dict of extensions that requests share, as older versions of httpx let them, is not changed."""
    shared: dict[str, object] = {}
    request = new_request()
    request.extensions = shared
    mark_foreign(ValueError(), request)
    assert shared == {}


@pytest.mark.anyio
async def test_mark_ends_with_its_send() -> None:
    """A request that is sent again has no mark of before: another error may have the id of the one that is gone."""
    request = new_request()
    clear_mark(request)
    mark_foreign(error := ValueError(), request)
    async with PrefectHttpxClient(transport=httpx.MockTransport(lambda request: httpx.Response(200))) as client:
        await client.send(request)
    assert not is_foreign(error, request)
