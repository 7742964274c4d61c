"""The addresses of a host, and connecting to whichever of them is first to accept (RFC 8305).

anyio.connect_tcp() does the same, but its streams hide the transport that they are on, and it does not say how long the
lookup took. uvloop's own connections try one address after the other.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

# As in RFC 8305, and in anyio: how long one address may take before the next one is tried as well.
_NEXT_ADDRESS_AFTER = 0.25


T = TypeVar("T")


async def connect_to_first(
    host: str,
    port: int,
    local_host: str | None,
    on_looked_up: Callable[[], object],
    connect: Callable[[str, int, Any], Awaitable[T]],
    close: Callable[[T], object],
) -> T:
    """Connect to a host, and return the connection.

    Args:
        host: a name or an address.
        port: the port.
        local_host: the address that the connection comes from; None: the system chooses.
        on_looked_up: called when the host, being a name, has been looked up.
        connect: connects to an address and a port, from a socket address or None.
        close: closes a connection that is not needed.

    Raises:
        OSError: no address accepts the connection, or the host is unknown. If there are several addresses, the cause
            is a group of their errors.
    """
    family, local_address = socket.AF_UNSPEC, None
    if local_host:
        family, *_, local_address = (await anyio.getaddrinfo(local_host, 0))[0]
    addresses = await _addresses_of(host, port, family, on_looked_up)
    if len(addresses) == 1:  # without a nursery, which takes as much memory as all the rest of a request
        return await connect(addresses[0], port, local_address)
    race = _Race(connect, close)
    failures, connections = race.failures, race.connections
    try:
        async with anyio.create_task_group() as race.tasks:
            for address in addresses:
                has_ended = anyio.Event()
                race.tasks.start_soon(race.attempt, address, port, local_address, has_ended)
                with anyio.move_on_after(_NEXT_ADDRESS_AFTER):
                    await has_ended.wait()
                if connections:
                    break  # a task of asyncio begins to connect even if it is cancelled before its first step
        if not connections:
            failure = "no address accepts a connection"
            raise OSError(failure) from ExceptionGroup(failure, list(failures))
        return connections.pop()
    finally:
        failures.clear()  # or an error would refer to this frame, and this frame to the error
        for connection in connections:
            close(connection)


class _Race(Generic[T]):
    """Attempts to connect, of which the first that succeeds ends the others.

    Attributes:
        tasks: where the attempts run.
        failures: of those that have failed.
        connections: that of the first.
    """

    __slots__ = ("_close", "_connect", "connections", "failures", "tasks")

    tasks: TaskGroup

    def __init__(self, connect: Callable[[str, int, Any], Awaitable[T]], close: Callable[[T], object]) -> None:
        self._connect = connect
        self._close = close
        self.failures: list[OSError] = []
        self.connections: list[T] = []

    async def attempt(self, address: str, port: int, local_address: Any, has_ended: anyio.Event) -> None:
        """Connect to an address."""
        try:
            connection = await self._connect(address, port, local_address)
        except OSError as error:
            self.failures.append(error)
            return
        finally:
            has_ended.set()
        if self.connections:
            self._close(connection)
        else:
            self.connections.append(connection)
            self.tasks.cancel_scope.cancel()


async def _addresses_of(host: str, port: int, family: int, on_looked_up: Callable[[], object]) -> list[str]:
    """Return the addresses of a host, in the order in which to try them."""
    with contextlib.suppress(ValueError):
        return [ipaddress.ip_address(host).compressed]
    found = await anyio.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    on_looked_up()
    addresses = [str(address[0]) for _, _, _, _, address in found]
    # One of each family first (RFC 8305 section 4), beginning with IPv6.
    firsts = [next((each for each in addresses if (":" in each) is is_ipv6), None) for is_ipv6 in (True, False)]
    return list(dict.fromkeys([*filter(None, firsts), *addresses]))
