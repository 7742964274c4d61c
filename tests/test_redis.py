"""RedisBackend: its arguments, and its store on a real redis-server, also one that breaks off, hangs or refuses."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
import coredis
import pytest
from anyio.abc import SocketStream, TaskStatus
from coredis.exceptions import ConnectionError as RedisConnectionError
from coredis.exceptions import RedisError, ResponseError
from support.redis_server import RedisServer, redis_server
from support.rows import each_row

from prefect_http._throttle.store import Store, store_of
from prefect_http.redis import RedisBackend

# coredis does not close the queues of a connection that it could not open.
UNCLOSED = [
    "ignore:Unclosed <MemoryObject:ResourceWarning",
    "ignore:Exception ignored in. <function MemoryObject:pytest.PytestUnraisableExceptionWarning",
]
pytestmark = [pytest.mark.anyio, *map(pytest.mark.filterwarnings, UNCLOSED)]

KEY = "prefect_http:{ab}"


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Look for what is unclosed here, where it is allowed, and not in the tests of others."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a server for the tests that leave it as it is."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a server for one test."""
    with redis_server(tmp_path) as server:
        yield server


def new_client(server: RedisServer, decode_responses: bool) -> coredis.Redis[bytes] | coredis.Redis[str]:
    """Make a client whose answers are bytes or strings."""
    if decode_responses:
        return coredis.Redis(port=server.port, decode_responses=True)
    return coredis.Redis(port=server.port)


def store_on(client: coredis.Redis[bytes] | coredis.Redis[str], prefix: str = "prefect_http") -> Store:
    """Make the store of a backend."""
    return store_of(RedisBackend(client, prefix=prefix))


async def read(store: Store) -> tuple[int, str]:
    """Read what is there, and return its version and its text."""
    with anyio.fail_after(5):
        stored = await store.swap("ab", -1, "", 10, "")
    assert not stored.is_swapped
    return stored.version, stored.text


async def assert_hangs(store: Store) -> None:
    """Check that a call has no answer, and cancel it."""
    with anyio.move_on_after(0.03) as scope:
        await store.swap("ab", -1, "", 10, "")
    assert scope.cancelled_caught


@each_row("prefix", ["", "x" * 101, "a{b", "a}b", "a\nb", "a b"])
async def test_bad_prefixes(prefix: str) -> None:
    """A prefix that cannot be the beginning of a key is a ValueError."""
    with pytest.raises(ValueError, match="prefix must have 1 to 100 characters"):
        RedisBackend(coredis.Redis(), prefix=prefix)


async def test_bad_types() -> None:
    """What is no client of coredis, and a prefix that is no string, is a TypeError."""
    with pytest.raises(TypeError, match=r"client must be a coredis\.Redis or coredis\.RedisCluster"):
        RedisBackend(cast("coredis.Redis[bytes]", "redis://localhost"))
    with pytest.raises(TypeError, match="prefix must be a string, not 5"):
        RedisBackend(coredis.Redis(), prefix=cast("str", 5))


@each_row("decode_responses", [False, True])
async def test_swap(shared_server: RedisServer, decode_responses: bool) -> None:
    """A text is stored if the version is the last one, and expires; the clock is Redis's."""
    async with new_client(shared_server, decode_responses) as client:
        await client.flushall()
        store = store_on(client)
        assert await read(store) == (0, "")
        first = await store.swap("ab", 0, '{"é": 1}', 10, "")
        assert first.is_swapped
        assert await read(store) == (first.version, '{"é": 1}')
        assert not (await store.swap("ab", 0, "late", 10, "")).is_swapped
        second = await store.swap("ab", first.version, "two", 10, "")
        assert second.is_swapped
        assert second.version > first.version
        assert second.now >= first.now > 1e9
        assert 0 < await client.pttl(KEY) <= 10_000
        assert await read(store_on(client, "another")) == (0, "")


async def test_scripts_are_flushed(shared_server: RedisServer) -> None:
    """A server that has forgotten the script is given it again."""
    async with coredis.Redis(port=shared_server.port) as client:
        store = store_on(client)
        before = await read(store)
        await client.script_flush()
        assert await read(store) == before


async def test_foreign_key(shared_server: RedisServer) -> None:
    """What somebody else has put under the key is an error that says so, and stays."""
    async with coredis.Redis(port=shared_server.port) as client:
        await client.flushall()
        store = store_on(client)
        await client.set(KEY, "something else")
        with pytest.raises(ResponseError, match=r"WRONGTYPE|wrong kind"):
            await read(store)
        await client.delete([KEY])
        await client.hset(KEY, {"version": "garbage", "state": "x"})
        with pytest.raises(ValueError, match=r"what Redis holds under 'prefect_http:\{ab\}' cannot be read"):
            await read(store)
        await client.hset(KEY, {"version": "5", "state": "x" * (1024 * 1024 + 1)})
        with pytest.raises(ValueError, match=r"larger than the limit of 1,048,576"):
            await read(store)


@each_row("decode_responses", [False, True])
async def test_news(shared_server: RedisServer, decode_responses: bool) -> None:
    """Listeners hear the news of texts that are stored."""
    heard: list[tuple[int, str]] = []
    is_ready, has_heard = anyio.Event(), anyio.Event()

    def hear(version: int, news: str) -> None:
        heard.append((version, news))
        has_heard.set()

    async with new_client(shared_server, decode_responses) as client:
        await client.flushall()
        store = store_on(client)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.listen, is_ready.set, hear)
                await is_ready.wait()
                assert not (await store.swap("ab", 7, "no", 10, "not stored")).is_swapped
                await client.publish("prefect_http:news", "something else")
                stored = await store.swap("ab", 0, "yes", 10, "was stored")
                assert stored.is_swapped
                await has_heard.wait()
                tasks.cancel_scope.cancel()
    assert heard == [(stored.version, "was stored")]


async def test_client_is_not_entered(shared_server: RedisServer) -> None:
    """Calls of a client that is not entered, or has been left, fail, any number of times, and do it no harm."""
    client = coredis.Redis(port=shared_server.port, max_connections=1)
    store = store_on(client)
    for _ in range(2):
        for _ in range(3):
            with pytest.raises(RuntimeError, match="the Redis client is not entered"):
                await read(store)
            with pytest.raises(RuntimeError, match="the Redis client is not entered"):
                await store.listen(lambda: None, lambda version, news: None)
        async with client:
            await read(store)


@each_row("is_connected", [False, True])
async def test_server_hangs(server: RedisServer, is_connected: bool) -> None:
    """Calls of a server that hangs can be cancelled, more often than there are connections; later it works again."""
    async with coredis.Redis(port=server.port, max_connections=2) as client:
        store = store_on(client)
        if is_connected:
            await read(store)
        server.pause()
        for _ in range(4):
            await assert_hangs(store)
        server.resume()
        assert await read(store) == (0, "")


@each_row("is_connected", [False, True])
async def test_client_is_left_while_server_hangs(server: RedisServer, is_connected: bool) -> None:
    """A client can be left while a call has no answer: the call fails, or, if it was cancelled, is given up."""
    errors: list[str] = []

    async def fail(store: Store) -> None:
        try:
            await store.swap("ab", -1, "", 10, "")
        except Exception as error:
            errors.append(type(error).__name__)

    client = coredis.Redis(port=server.port)
    store = store_on(client)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with client:
                if is_connected:
                    await read(store)
                server.pause()
                if is_connected:
                    tasks.start_soon(fail, store)
                await anyio.wait_all_tasks_blocked()
                await assert_hangs(store)
    server.resume()
    assert len(errors) == is_connected
    with pytest.raises(RuntimeError, match="the Redis client is not entered"):
        await read(store)


class Relay:
    """Passes on bytes between clients and a server, until the server vanishes, as a machine does that loses its power.

    Attributes:
        port: where it listens.
        has_vanished: whether no more bytes of the connections that there are get through; new ones work.
    """

    def __init__(self, server: RedisServer) -> None:
        self.port = 0
        self._server = server
        self._connections = 0
        self._dead = 0

    def vanish(self) -> None:
        """Let the connections that there are hang for good."""
        self._dead = self._connections

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Listen."""
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._relay)

    async def _relay(self, client: SocketStream) -> None:
        self._connections += 1
        number = self._connections
        async with client, await anyio.connect_tcp("127.0.0.1", self._server.port) as server:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pass_on, client, server, number)
                tasks.start_soon(self._pass_on, server, client, number)

    async def _pass_on(self, source: SocketStream, target: SocketStream, number: int) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive()
                if number > self._dead:
                    await target.send(data)


async def test_server_vanishes(shared_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """All connections are closed if a call has no answer for long; without that, all further calls would hang."""
    relay = Relay(shared_server)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(relay.serve)
            async with coredis.Redis(port=relay.port, max_connections=4) as client:
                store = store_on(client)
                cast(Any, store).silence = 0.3
                async with AsyncExitStack() as stack:
                    for _ in range(4):
                        await stack.enter_async_context(client.connection_pool.acquire())
                relay.vanish()
                with anyio.fail_after(2):
                    for _ in range(2):
                        await assert_hangs(store)
                    await read(store)
                async with AsyncExitStack() as stack:  # and no connection has been lost to the pool
                    for _ in range(4):
                        await stack.enter_async_context(client.connection_pool.acquire())
            tasks.cancel_scope.cancel()
    assert caplog.messages.count("Redis has not answered for 0.3 s; opening new connections") == 1


async def test_calls_that_hang_hold_up_no_other_keys(server: RedisServer) -> None:
    """A call waits for abandoned ones of its own key only, unless there are many."""
    async with coredis.Redis(port=server.port, max_connections=20) as client:
        store = store_on(client)
        await read(store)
        server.pause()
        for number in range(8):
            with anyio.move_on_after(0.01):
                await store.swap(f"{number}", -1, "", 10, "")
        assert len([task for task in anyio.get_running_tasks() if task.name == "prefect_http Redis"]) == 8
        assert len([task for task in anyio.get_running_tasks() if task.name == "prefect_http Redis client"]) == 1
        with anyio.move_on_after(0.01):
            await store.swap("9", -1, "", 10, "")
        assert len([task for task in anyio.get_running_tasks() if task.name == "prefect_http Redis"]) == 8
        server.resume()
        await read(store)
        await anyio.sleep(0.2)
        assert [task for task in anyio.get_running_tasks() if (task.name or "").startswith("prefect_http")] == []


async def test_server_hangs_for_long_while_connecting(server: RedisServer) -> None:
    """What connects is left alone: to cancel that would cost the pool a connection."""
    async with coredis.Redis(port=server.port, max_connections=2) as client:
        store = store_on(client)
        cast(Any, store).silence = 0.05
        server.pause()
        await assert_hangs(store)
        await anyio.sleep(0.4)
        server.resume()
        for _ in range(3):
            await read(store)


async def test_server_restarts(server: RedisServer) -> None:
    """Calls fail while the server is away, and work when it is back, which has lost everything."""
    async with coredis.Redis(port=server.port) as client:
        store = store_on(client)
        assert (await store.swap("ab", 0, "one", 10, "")).is_swapped
        server.kill()
        with pytest.raises(RedisConnectionError):
            await read(store)
        server.start()
        assert await read(store) == (0, "")


async def test_subscription_breaks(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A lost connection ends listening; when that has cost a quarter of the pool, there is no news any more."""

    async def listen(store: Store) -> None:
        is_ready = anyio.Event()
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(store.listen, is_ready.set, lambda version, news: None))
                await is_ready.wait()
                server.kill()
        assert caught.group_contains(RedisConnectionError)
        server.start()

    async with coredis.Redis(port=server.port, max_connections=3) as client:
        store = store_on(client)
        with anyio.fail_after(5):
            await listen(store)
        with anyio.move_on_after(0.05) as scope:
            await store.listen(lambda: None, lambda version, news: None)
        assert scope.cancelled_caught
        assert await read(store) == (0, "")
        (warning,) = (each for each in caplog.messages if each.startswith("no longer listening to the other processes"))
        assert "1 have been lost" in warning


@each_row(
    ("arguments", "message"),
    [
        (("--maxmemory", "1"), "(?i)oom|maxmemory"),
        (("--replicaof", "127.0.0.1 1"), "(?i)read.?only|replica"),
        (("--requirepass", "secret"), "(?i)auth"),
    ],
    ids=["out of memory", "replica", "password"],
)
async def test_server_refuses(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """What a server refuses is an exception, each time."""
    with redis_server(tmp_path, *arguments) as server:
        async with coredis.Redis(port=server.port, max_connections=2) as client:
            store = store_on(client)
            for _ in range(4):
                with anyio.fail_after(5), pytest.raises(RedisError, match=message):
                    await store.swap("ab", 0, "x", 10, "")


def test_coredis_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without coredis, the import says what to install."""
    monkeypatch.delitem(sys.modules, "prefect_http.redis")
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.raises(ImportError, match=r"coredis; install it with: pip install 'prefect_http\[redis\]'$"):
        importlib.import_module("prefect_http.redis")
