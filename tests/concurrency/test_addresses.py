"""Connecting to whichever address of a host is first to accept. Connections are fakes."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from prefect_http._concurrency.addresses import connect_to_first

ADDRESSES = "127.0.0.1", "127.0.0.1", "127.0.0.2", "::1"


class Network:
    """A name has several addresses, and connecting to each does something.

    Args:
        dial: awaited with each address.

    Attributes:
        asked: the addresses that were connected to.
        closed: those whose connections were closed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dial: Callable[[str], Awaitable[object]]) -> None:
        self.dial, self.asked, self.closed = dial, list[str](), list[str]()
        self.families = list[int]()
        monkeypatch.setattr(anyio, "getaddrinfo", self.resolve)

    async def resolve(self, host: str, _: int, *, family: int = 0, **__: object) -> list[Any]:
        await anyio.lowlevel.checkpoint()
        self.families.append(family)
        addresses = ("127.0.0.9",) if host == "local" else ADDRESSES
        return [(socket.AF_INET, 0, 0, "", (address, 0)) for address in addresses]

    async def connect(self, address: str, port: int, local_address: Any) -> str:
        assert port == 80
        self.asked.append(address)
        await self.dial(address)
        return address

    async def run(self, host: str = "name", local_host: str | None = None) -> str:
        """Connect to a host."""
        return await connect_to_first(host, 80, local_host, lambda: None, self.connect, self.closed.append)


async def nothing(_: str) -> None:
    """Connect at once."""
    await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_the_first_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one to be tried is one of IPv6; an address is taken as it is; the local host decides the family.

    If it accepts, no other one is connected to.
    """
    network = Network(monkeypatch, nothing)
    assert [await network.run(), await network.run("127.0.0.3")] == ["::1", "127.0.0.3"]
    await network.run(local_host="local")
    assert network.asked == ["::1", "127.0.0.3", "::1"]
    assert network.families == [socket.AF_UNSPEC, 0, socket.AF_INET]
    assert network.closed == []


@pytest.mark.anyio
async def test_others_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the next ones are tried, each once, and first one of the other family."""

    async def refuse(address: str) -> None:
        if address != "127.0.0.2":
            raise ConnectionRefusedError

    network = Network(monkeypatch, refuse)
    assert await network.run() == "127.0.0.2"
    assert network.asked == ["::1", "127.0.0.1", "127.0.0.2"]


@pytest.mark.trio
async def test_others_if_it_is_slow(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """If it is slow, the next one is tried as well, and the first to accept ends the others."""
    delays = {"::1": 60.0, "127.0.0.1": 1.0, "127.0.0.2": 0.5}
    network = Network(monkeypatch, lambda address: anyio.sleep(delays[address]))
    assert await network.run() == "127.0.0.2"
    assert (network.asked, anyio.current_time(), network.closed) == (["::1", "127.0.0.1", "127.0.0.2"], 1.0, [])


@pytest.mark.anyio
async def test_all_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all fail, the error has the reasons; a single one says itself why."""

    async def refuse(address: str) -> None:
        raise OSError(f"refused by {address}")

    network = Network(monkeypatch, refuse)
    with pytest.raises(OSError, match="no address accepts a connection") as caught:
        await network.run()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [str(each) for each in caught.value.__cause__.exceptions] == [f"refused by {each}" for each in network.asked]
    assert "refused by ::1" in repr(caught.value.__cause__)
    with pytest.raises(OSError, match="refused by ::2"):
        await network.run("::2")


@pytest.mark.anyio
async def test_a_single_address_takes_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is connected to in the caller's own, for a task and a nursery take 10 KiB."""
    tasks = list[int]()

    async def note(_: str) -> None:
        tasks.append(anyio.get_current_task().id)

    network = Network(monkeypatch, note)
    await network.run("::2")
    assert tasks == [anyio.get_current_task().id]


@pytest.mark.anyio
async def test_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but an OSError ends all attempts."""

    async def fail(_: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await Network(monkeypatch, fail).run()
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


@pytest.mark.anyio
async def test_cancelled_when_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """If connecting is cancelled just when it has succeeded, the connection is closed."""
    with anyio.CancelScope() as scope:

        async def cancel(_: str) -> None:
            scope.cancel()

        network = Network(monkeypatch, cancel)
        await network.run()
    assert (scope.cancelled_caught, network.closed) == (True, ["::1"])


@pytest.mark.trio
async def test_two_at_once(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """If two addresses accept at the same moment, one of the connections is closed."""
    both = anyio.Event()

    async def wait(address: str) -> None:
        if address != "::1":
            both.set()
        # Not cancelled by the other one, which may be first by one step.
        with anyio.CancelScope(shield=True):
            await both.wait()

    network = Network(monkeypatch, wait)
    made = await network.run()
    assert network.asked == ["::1", "127.0.0.1"]
    assert {made, *network.closed} == {"::1", "127.0.0.1"}
