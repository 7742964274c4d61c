"""The errors: their base classes, and what they carry."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import httpx
import pytest
from support.rows import each_row

import prefect_http
from prefect_http import (
    Attempt,
    DownloadError,
    InvalidResponse,
    LifespanCrashed,
    LifespanError,
    LifespanNotSupported,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
    PrefectHTTPStatusError,
    PrefectResponse,
    ResponseTooLarge,
    RetryPolicy,
    ThrottleTimeout,
)

REQUEST = httpx.Request("POST", "http://server/", json={"a": 1}, extensions={"retry": RetryPolicy()})
ATTEMPTS = (
    Attempt(1, None, httpx.ReadTimeout("slow", request=REQUEST), 2.0, "backoff of 2 s", 5.0),
    Attempt(2, 503, None, None, "all retries are used up", 0.5),
)

Copy = Callable[[PrefectHTTPStatusError], PrefectHTTPStatusError]
COPIES: dict[str, Copy] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))  # type: ignore[misc]
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


def status_error() -> PrefectHTTPStatusError:
    """Return an error with all attributes."""
    error = PrefectHTTPStatusError(
        "503 Service Unavailable for POST http://server/: busy",
        request=REQUEST,
        response=PrefectResponse(503, json={"detail": "busy"}, request=REQUEST),
        attempts=ATTEMPTS,
        retry_after=7.0,
    )
    error.add_note("first note")
    error.add_note("second note")
    return error


# --- The tree


@each_row(
    ("error", "bases"),
    [
        (PrefectHTTPStatusError, (httpx.HTTPStatusError,)),
        (ThrottleTimeout, (httpx.PoolTimeout,)),
        (InvalidResponse, (httpx.RemoteProtocolError,)),
        (ResponseTooLarge, (httpx.RequestError,)),
        (DownloadError, (httpx.RequestError,)),
        (LifespanError, (Exception,)),
        (LifespanNotSupported, (LifespanError,)),
        (LifespanStartupError, (LifespanError,)),
        (LifespanShutdownError, (LifespanError,)),
        (LifespanCrashed, (LifespanError,)),
        (LifespanTimeoutError, (LifespanError, TimeoutError)),
    ],
)
def test_tree(error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    """Each error has exactly the documented bases."""
    assert error.__bases__ == bases


def test_every_error_is_in_the_tree() -> None:
    """The package has no other public errors."""
    errors = {
        value
        for name in prefect_http.__all__
        if isinstance(value := getattr(prefect_http, name), type) and issubclass(value, BaseException)
    }
    ours = {PrefectHTTPStatusError, ThrottleTimeout, InvalidResponse, ResponseTooLarge, DownloadError, LifespanError}
    assert errors == ours | {*LifespanError.__subclasses__()}


@each_row("error", LifespanError.__subclasses__())
def test_a_lifespan_error_can_be_pickled(error: type[LifespanError]) -> None:
    """A lifespan error is pickled with its message."""
    again = pickle.loads(pickle.dumps(error("the app's own words")))
    assert type(again) is error
    assert str(again) == "the app's own words"


# --- PrefectHTTPStatusError


def test_what_it_carries() -> None:
    """The error has the message, the request, the response, the attempts and the Retry-After."""
    error = status_error()
    assert str(error) == "503 Service Unavailable for POST http://server/: busy"
    assert error.request is REQUEST
    assert error.response.json() == {"detail": "busy"}
    assert error.attempts == ATTEMPTS
    assert error.retry_after == 7.0


def test_what_it_carries_by_itself() -> None:
    """By default there are no attempts and no Retry-After."""
    error = PrefectHTTPStatusError("oh", request=REQUEST, response=httpx.Response(503))
    assert error.attempts == ()
    assert error.retry_after is None


@pytest.mark.parametrize("kind", [httpx.HTTPStatusError, httpx.HTTPError, Exception])
def test_it_is_caught_as_httpxs_own(kind: type[Exception]) -> None:
    """Code written for httpx's errors catches it."""
    with pytest.raises(kind):
        raise status_error()


@each_row("way", COPIES)
def test_it_can_be_copied_and_pickled(way: str) -> None:
    """A copy has the same message, status, body and Retry-After."""
    again = COPIES[way](status_error())
    assert type(again) is PrefectHTTPStatusError
    assert str(again) == "503 Service Unavailable for POST http://server/: busy"
    assert again.args == status_error().args
    assert again.request.method == "POST"
    assert again.response.status_code == 503
    assert again.response.json() == {"detail": "busy"}
    assert type(again.response) is PrefectResponse
    assert again.retry_after == 7.0


@each_row("way", COPIES)
def test_a_copy_has_the_attempts(way: str) -> None:
    """A copy has the attempts, with their exceptions."""
    first, second = COPIES[way](status_error()).attempts
    assert (first.number, first.delay, first.reason, first.elapsed) == (1, 2.0, "backoff of 2 s", 5.0)
    assert isinstance(first.exception, httpx.ReadTimeout)
    assert str(first.exception) == "slow"
    assert second == ATTEMPTS[1]


@each_row("way", COPIES)
def test_a_copy_has_the_notes(way: str) -> None:
    """A copy has the notes."""
    assert COPIES[way](status_error()).__notes__ == ["first note", "second note"]


@each_row("way", COPIES)
def test_a_copy_can_be_copied(way: str) -> None:
    """A copy can be copied in turn."""
    again = COPIES[way](COPIES[way](status_error()))
    assert again.attempts[1] == ATTEMPTS[1]
    assert str(again) == str(status_error())


def test_a_subclass_can_be_pickled() -> None:
    """A subclass with arguments of its own is pickled without being called."""
    error = OwnError(7)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is OwnError
    assert again.code == 7
    assert str(again) == "code 7"


class OwnError(PrefectHTTPStatusError):
    """A user's own subclass."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}", request=REQUEST, response=httpx.Response(503))
        self.code = code
