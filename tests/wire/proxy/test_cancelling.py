"""Cancelling requests through proxies at every await: no connection is lost or left open; see ../test_cancelling.py."""

from __future__ import annotations

import itertools
from functools import partial

import anyio
import httpx
import pytest
from support.cancelling import MOST, WAYS, Way, When, plain, run_cancelled
from support.proxies import ProxyServer, running_proxy
from support.servers import answer, raw_server
from support.sockets import open_sockets, sockets_closed
from support.tls_servers import server_context, tls_server
from support.wire import fetch, figures, trusting_context, until

from prefect_http import HTTPTransport

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

NAME = "origin.test"
# Of the proxy and of the origin; and the smallest plausible number of scheduling points.
KINDS = {("http", "http"): 2, ("http", "https"): 4, ("https", "https"): 5, ("socks5", "http"): 3}


async def send(transport: HTTPTransport, url: str) -> None:
    """Send a request, and read the response."""
    assert await fetch(transport, url) == b"fine"


def is_open(proxy: ProxyServer, count: int) -> bool:
    """Return whether so many of the proxy's connections are open."""
    return proxy.open == count


@pytest.mark.anyio
@WAYS
@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
async def test_cancelled_at_every_await(kind: tuple[str, str], way: Way, when: When) -> None:
    """Wherever a request is cancelled, also while a tunnel is opened, nothing is left, and the next one succeeds."""
    before, failure, number = open_sockets(), "", 0
    act, credentials = answer(body=b"fine"), "user:pw"
    running = tls_server(act, context=server_context(NAME)) if kind[1] == "https" else raw_server(act)
    context = server_context() if kind[0] == "https" else None
    async with running as origin:
        hosts = {NAME: origin.port}
        async with running_proxy(kind[0], hosts, credentials=credentials, context=context) as proxy:
            given = httpx.Proxy(proxy.url(), ssl_context=trusting_context() if context else None)
            url = f"{kind[1]}://{NAME}:{origin.port}/"
            for number in itertools.count(1):
                assert number < MOST
                transport = HTTPTransport(verify=trusting_context(), proxy=given)
                try:
                    if not await run_cancelled(number, way, when, partial(send, transport, url)):
                        break
                    connections, idle, waiting = figures(transport)
                    assert (connections, waiting) == (idle, 0)
                    await until(partial(is_open, proxy, idle))
                    if idle:  # or else there is no connection that could be in a bad state
                        await send(transport, url)
                except Exception as error:  # note where, whatever it is
                    failure = f"{number}: {plain(error)!r}"[:300]
                    break
                finally:
                    await transport.aclose()
                await until(partial(is_open, proxy, 0))
    assert not failure
    assert number > KINDS[kind]
    with anyio.fail_after(5):
        await sockets_closed(before)
