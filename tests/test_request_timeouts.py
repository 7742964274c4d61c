"""The timeouts of a request, checked."""

from __future__ import annotations

import math
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import anyio
import httpx
import pytest
from support.asgi_apps import FakeApp, app_client, hello
from support.rows import each_row
from support.servers import answer, raw_server
from support.wire import new_transport

from prefect_http._request_timeouts import checked_timeouts


@each_row(
    "timeouts",
    [httpx.Timeout(5).as_dict(), httpx.Timeout(None).as_dict(), {"read": math.inf}, {"read": 0, "write": -0.0}],
)
def test_good_timeouts(timeouts: dict[str, Any]) -> None:
    """Numbers from 0 and None are valid."""
    assert checked_timeouts(timeouts) is timeouts


@pytest.mark.parametrize("extension", [None, {}])
def test_no_timeouts(extension: object) -> None:
    """There may be none."""
    assert checked_timeouts(extension) == {}


@each_row("extension", [5, httpx.Timeout(5), (1, 2, 3, 4), "5"])
def test_no_dictionary(extension: object) -> None:
    """The error for anything but a mapping says what it must be."""
    with pytest.raises(TypeError) as caught:
        checked_timeouts(extension)
    assert str(caught.value).startswith(
        'extensions["timeout"] must be a dictionary, as of httpx.Timeout.as_dict(), not'
    )


@each_row("seconds", ["5", math.nan, b"", httpx.Timeout, [5], 10**400, -1, -1.5, -math.inf, -(10**400)])
def test_bad_seconds(seconds: object) -> None:
    """Anything but a number from 0 is invalid, and the error names it."""
    expected = "^the read timeout must be a number of seconds, 0 or more, or None for no limit, not "
    with pytest.raises(ValueError, match=expected) as caught:
        checked_timeouts({"connect": 5.0, "read": seconds})
    assert str(caught.value).endswith('; it is set by timeout= or extensions["timeout"]')


@each_row("seconds", [7, 0, 0.5])
def test_a_bad_timeout_says_nothing_about_an_equal_one(seconds: float) -> None:
    """A Decimal is not a timeout, neither before nor after a number that equals it has been."""
    for _ in range(2):
        with pytest.raises(ValueError, match=r"not Decimal"):
            checked_timeouts({"read": Decimal(seconds)})
        assert checked_timeouts({"read": seconds}) == {"read": seconds}


def _not_async(*_: object) -> None:
    pass


@pytest.mark.anyio
@each_row(
    ("name", "value", "error"),
    [
        ("timeout", 5, TypeError),
        ("timeout", {"read": "5"}, ValueError),
        ("timeout", {"read": [5]}, ValueError),
        ("timeout", {"pool": -1}, ValueError),
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
async def test_extensions_are_checked_for_a_network(name: str, value: object, error: type[Exception]) -> None:
    """A bad value in a request's extensions is an error that names the extension, and no connection is opened."""
    async with new_transport() as transport:
        with pytest.raises(error, match=name):
            await transport.handle_async_request(httpx.Request("GET", "http://127.0.0.1:9/", extensions={name: value}))
        assert transport.statistics().connections == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("timeout", "error"), [(5, TypeError), ({"read": "5"}, ValueError)])
async def test_timeouts_are_checked_for_an_app(timeout: object, error: type[Exception]) -> None:
    """Bad timeouts are the same errors for an app in this process, which is not called then."""
    app, extensions = FakeApp(hello), {"timeout": timeout}
    with anyio.fail_after(5):
        async with app_client(app) as client:
            with pytest.raises(error, match="timeout"):
                await client.get("/", extensions=extensions)
            with pytest.raises(error, match="timeout"):
                await client.send(client.build_request("GET", "/", extensions=extensions), stream=True)
    assert app.scopes == []


@pytest.mark.anyio
@each_row("extensions", [{}, {"timeout": None}, {"timeout": {}}, {"timeout": MappingProxyType({"read": 5})}])
async def test_good_extensions(extensions: dict[str, Any]) -> None:
    """A request needs no timeouts, and they may be in any mapping."""
    async with raw_server(answer()) as server, new_transport() as transport:
        response = await transport.handle_async_request(httpx.Request("GET", server.url, extensions=extensions))
        await response.aread()
