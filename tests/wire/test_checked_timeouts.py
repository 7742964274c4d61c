"""The timeouts of a request, checked."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from support.wire import new_transport

from prefect_http._wire.checked_timeouts import checked_timeouts


@pytest.mark.parametrize(
    "timeouts",
    [{}, httpx.Timeout(5).as_dict(), httpx.Timeout(None).as_dict(), {"read": math.inf}, {"read": 0, "write": -1.5}],
)
def test_good_timeouts(timeouts: dict[str, Any]) -> None:
    """Numbers and None are valid, in any mapping."""
    assert checked_timeouts(timeouts) is timeouts
    proxy = MappingProxyType(timeouts)
    assert checked_timeouts(proxy) is proxy


def test_no_timeouts() -> None:
    """Without the extension there are no limits."""
    assert checked_timeouts(None) == {}


@pytest.mark.parametrize("timeouts", [5, httpx.Timeout(5), (1, 2, 3, 4), "5"])
def test_no_dictionary(timeouts: object) -> None:
    """Anything but a mapping is an error that names the extension, and what it must be."""
    with pytest.raises(TypeError, match=r'^extensions\["timeout"\] must be a dictionary, as of httpx\.Timeout'):
        checked_timeouts(timeouts)


@pytest.mark.parametrize("seconds", ["5", math.nan, [5], b"", httpx.Timeout(5)])
def test_bad_seconds(seconds: object) -> None:
    """Anything but a number is an error that names it, each time."""
    for _ in range(2):
        with pytest.raises(ValueError, match=r'^extensions\["timeout"\]\["read"\] must be a number of seconds or None'):
            checked_timeouts({"connect": 5.0, "read": seconds})


def _not_async(*_: object) -> None:
    pass


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("timeout", 5, TypeError),
        ("timeout", {"read": "5"}, ValueError),
        ("target", 5, TypeError),
        ("target", "/\ud800", httpx.LocalProtocolError),
        ("sni_hostname", 5, TypeError),
        ("sni_hostname", b"x.test", TypeError),
        ("sni_hostname", ".x", TypeError),
        ("sni_hostname", "x\0y", TypeError),
        ("trace", "yes", TypeError),
        ("trace", _not_async, TypeError),
    ],
)
async def test_extensions_are_checked(name: str, value: object, error: type[Exception]) -> None:
    """A bad value in a request's extensions is an error that names the extension, and no connection is opened."""
    async with new_transport() as transport:
        with pytest.raises(error, match=name):
            await transport.handle_async_request(httpx.Request("GET", "http://127.0.0.1:9/", extensions={name: value}))
        assert transport.statistics().connections == 0
