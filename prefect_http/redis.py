"""One throttle for many processes, through Redis or Valkey; needs coredis (``pip install 'prefect_http[redis]'``).

::

    async with coredis.Redis(host="redis.example.org") as redis:
        throttle = Throttle(shared=RedisBackend(redis))
        async with PrefectHttpxClient(throttle=throttle) as client:
            ...

coredis, because it runs on trio as well as on asyncio.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, cast

import anyio

from prefect_http._concurrency.backend import Event, new_cancel_scope, new_event, spawn_root_task
from prefect_http._concurrency.exception_groups import first_exception
from prefect_http._throttle.store import SharedBackend, Stored

try:
    import coredis
except ImportError as _error:
    raise ImportError(
        "prefect_http.redis needs the package coredis; install it with: pip install 'prefect_http[redis]'"
    ) from _error

__all__ = ["RedisBackend"]

_Client: TypeAlias = (
    "coredis.Redis[bytes] | coredis.Redis[str] | coredis.RedisCluster[bytes] | coredis.RedisCluster[str]"
)

_LONGEST_PREFIX = 100
# In seconds: how often it is checked whether the client has been left, while calls are abandoned.
_POLL_INTERVAL = 0.1
# In seconds: after an abandoned call has had no answer for so long, all connections are closed.
_SILENCE = 10.0
# How many calls for different keys may be abandoned; each may be connecting, and so have taken a connection.
_MOST_ABANDONED = 8
# A thousand processes need a tenth of it.
_LONGEST_TEXT = 1024 * 1024

# The version is a time in microseconds, and always grows, so that none is used again after Redis has lost its data.
_SWAP = """
local time = redis.call('TIME')
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then
    return {0, version, redis.call('HGET', KEYS[1], 'state') or '', time[1], time[2]}
end
local now = time[1] * 1000000 + time[2]
version = string.format('%.0f', math.max(version + 1, now))
redis.call('HSET', KEYS[1], 'version', version, 'state', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if ARGV[4] ~= '' then
    redis.call('PUBLISH', ARGV[5], version .. ' ' .. ARGV[4])
end
return {1, version, '', time[1], time[2]}
"""

_logger = logging.getLogger("prefect_http.throttle")


class RedisBackend(SharedBackend):
    """Lets the Throttles of any number of processes and machines share what they know: for ``Throttle(shared=)``.

    If Redis cannot be reached, or takes longer than a second, requests do not fail: each process continues with its
    last share, logs a warning, and reports the event "alone". When Redis is available again, it reports "shared".

    Each key of a throttle is one hash in Redis, whose name is the prefix and a digest of the key, so it contains no URL
    and no credential. It takes about 70 bytes for each process, and expires two hours after its last use. There is one
    channel for all keys.

    Args:
        client: a client of coredis 6.2 or later, for a server or a cluster of Redis 6 or later, or Valkey. It must have
            been entered, in the event loop in which the throttle is used, and be left only when no more requests are
            sent. A Throttle uses two of its connections at a time, and one more for each additional key.
        prefix: what the names of all keys in Redis begin with. Throttles with the same prefix share what they know, so
            use different prefixes for Throttles with different arguments. 1 to 100 characters, without braces and
            whitespace.

    Raises:
        TypeError: ``client`` is not a coredis client, or ``prefix`` is not a string.
        ValueError: the prefix is empty, too long, or contains a character that is not allowed.
    """

    def __init__(self, client: _Client, *, prefix: str = "prefect_http") -> None:
        if not isinstance(client, coredis.Redis | coredis.RedisCluster):
            raise TypeError(
                f"client must be a coredis.Redis or coredis.RedisCluster, which run on trio and asyncio, not {client!r}"
            )
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string, not {prefix!r}")
        if not 1 <= len(prefix) <= _LONGEST_PREFIX or any(char in "{}" or char.isspace() for char in prefix):
            raise ValueError(
                f"prefix must have 1 to {_LONGEST_PREFIX} characters, without braces and whitespace, not {prefix!r}"
            )
        self._store = _RedisStore(client, prefix)


class _RedisStore:
    """See Store.

    It works around four faults of coredis 6.9. Three of them take a connection out of the pool for good, until calls
    hang rather than fail: a call of a client that is not entered; a call that is cancelled while it connects, on
    asyncio; and a subscription whose connection breaks. The fourth: connections whose server has vanished stay in the
    pool, and all further calls hang as well.

    Attributes:
        silence: seconds without an answer to a call after which all connections are closed.
    """

    def __init__(self, client: _Client, prefix: str) -> None:
        self.silence: float = _SILENCE
        self._client = client
        self._prefix = prefix
        self._channel = f"{prefix}:news"
        script: object = client.register_script(_SWAP)
        self._script = cast("Callable[[list[str], list[str]], Awaitable[object]]", script)
        self._abandoned: dict[str, _Call] = {}
        self._watcher: object = None
        self._lost_subscriptions = 0

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Run the script.

        Raises:
            coredis.exceptions.RedisError: Redis cannot be reached, or refuses it.
            OSError: likewise.
            RuntimeError: the client is not entered.
            ValueError: there is something else under this name.

        Cancellation:
            What has been sent to Redis is not taken back. As long as it has no answer, no further call is sent for this
            name.
        """
        while name in self._abandoned or len(self._abandoned) >= _MOST_ABANDONED:
            await (self._abandoned.get(name) or next(iter(self._abandoned.values()))).ended.wait()
        self._check_entered()
        key = f"{self._prefix}:{{{name}}}"  # in braces, for clusters
        arguments = [str(version), text, str(round(seconds * 1000)), news, self._channel]
        call = _Call(partial(self._script, [key], arguments), partial(self._abandoned.pop, name, None))
        try:
            answer = await call.answer()
        finally:
            if not call.ended.is_set():
                self._abandon(name, call)
        try:
            is_swapped, stored, state, whole, microseconds = cast("list[int | str | bytes]", answer)
            if len(_text(state)) > _LONGEST_TEXT:
                raise ValueError(f"it is larger than the limit of {_LONGEST_TEXT:,} characters")
            now = int(_text(whole)) + int(_text(microseconds)) / 1e6
            return Stored(bool(is_swapped), int(_text(stored)), _text(state), now)
        except (TypeError, ValueError) as error:
            raise ValueError(f"what Redis holds under {key!r} cannot be read: {error}") from error

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[int, str], object]) -> None:
        """Subscribe to the channel. When a quarter of the pool has been lost to broken subscriptions, only wait.

        Raises:
            Exception: as ``swap()``, in an ExceptionGroup.
        """
        self._check_entered()
        if self._lost_subscriptions > self._client.connection_pool.max_connections // 4:
            _logger.warning(
                "no longer listening to the other processes: each broken subscription costs one of coredis's "
                "connections, and %d have been lost; rejections reach this process up to a second later",
                self._lost_subscriptions,
            )
            await anyio.sleep_forever()
        is_ready = False
        try:
            # Whoever listens tries again; coredis would not say that it has missed something.
            async with self._client.pubsub(
                channels=[self._channel], ignore_subscribe_messages=True, retry_policy=None
            ) as subscription:
                is_ready = True
                on_ready()
                async for message in subscription:
                    version, _, news = _text(message["data"]).partition(" ")
                    if version.isdecimal():
                        on_news(int(version), news)
        except Exception:
            self._lost_subscriptions += is_ready
            raise

    def _abandon(self, name: str, call: _Call) -> None:
        """Let a call go on without its caller, until the client is left, which on trio waits for what connects."""
        call.abandoned_at = anyio.current_time()
        self._abandoned[name] = call
        if self._watcher is None:
            self._watcher = spawn_root_task(self._watch, "prefect_http Redis client", self._forget_watcher)

    def _forget_watcher(self) -> None:
        self._watcher = None

    async def _watch(self) -> None:
        while self._abandoned and self._is_entered():
            with anyio.move_on_after(_POLL_INTERVAL):
                await next(iter(self._abandoned.values())).ended.wait()
            silent_since = anyio.current_time() - self.silence
            silent = [call for call in self._abandoned.values() if call.abandoned_at <= silent_since]
            if silent:
                for call in silent:
                    call.abandoned_at = math.inf  # once: if it goes on after that, it is still connecting
                _logger.warning("Redis has not answered for %g s; opening new connections", self.silence)
                self._client.connection_pool.disconnect()
        for call in self._abandoned.values():
            call.cancel()

    def _check_entered(self) -> None:
        if not self._is_entered():
            raise RuntimeError("the Redis client is not entered: use the throttle inside of 'async with client:'")

    def _is_entered(self) -> bool:
        try:
            return bool(self._client.connection_pool.task_group)
        except RuntimeError:
            return False


class _Call:
    """A call of coredis in a task of its own, which is not cancelled with the caller's.

    Args:
        call: what is called.
        on_exit: called when the call has ended.

    Attributes:
        ended: set when the call has ended.
        abandoned_at: when its caller was cancelled.
    """

    def __init__(self, call: Callable[[], Awaitable[object]], on_exit: Callable[[], object]) -> None:
        self.ended: Event = new_event()
        self.abandoned_at = math.inf
        self._call = call
        self._on_exit = on_exit
        self._answer: object = None
        self._error: Exception | None = RuntimeError("the Redis client has been left")
        self._scope = new_cancel_scope()
        self._task = spawn_root_task(self._run, "prefect_http Redis", self._end)

    async def answer(self) -> object:
        """Wait for the answer.

        Raises:
            Exception: that of coredis.
            RuntimeError: the client has been left.
        """
        await self.ended.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._answer
        finally:
            error = None  # its traceback holds this frame

    def cancel(self) -> None:
        """Cancel it."""
        self._scope.cancel()

    async def _run(self) -> None:
        with self._scope:
            try:
                self._answer = await self._call()
                self._error = None
            except* Exception as group:  # it may come together with a cancellation
                self._error = first_exception(group)

    def _end(self) -> None:
        self.ended.set()
        self._on_exit()


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
