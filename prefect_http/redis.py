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
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, cast

import anyio

from prefect_http._concurrency.backend import new_cancel_scope, new_event, spawn_root_task
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
_LOOK_EACH = 0.1
"""Seconds after which an abandoned call looks whether the client has been left."""
_SILENCE = 10.0
"""Seconds without any answer after which a connection is given up."""
# A thousand processes need a tenth of it.
_LONGEST_TEXT = 1024 * 1024

# The version is a time in microseconds, and always grows: after all has been lost, it is no version of before.
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
    """Where Throttles of any number of processes and machines share what they know: for ``Throttle(shared=)``.

    If Redis cannot be reached, or takes longer than a second, no request fails: each process goes on with its last
    share, logs a warning, and reports the event "alone". When Redis is back, it reports "shared".

    Each key of a throttle is one hash in Redis, whose name is the prefix and a hash of the key, so that it contains no
    URL and no credential. It takes about 70 bytes for each process, and expires two hours after its last use. There is
    one channel for all keys.

    Args:
        client: a client of coredis 6.2 or later, for a server or a cluster of Redis 6 or later, or Valkey. It must have
            been entered, in the event loop in which the throttle is used, and be left only when no more requests are
            sent. A Throttle uses two of its connections at a time, and one more for each further key.
        prefix: what the names of all keys in Redis begin with. Throttles share what they know if they have the same
            prefix, so it has to tell those with different arguments apart. 1 to 100 characters, without braces and
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
    asyncio; and a subscription whose connection breaks. The fourth: a connection whose server has vanished stays in
    the pool, and all further calls hang as well.

    Attributes:
        silence: seconds without any answer after which a connection is given up.
    """

    def __init__(self, client: _Client, prefix: str) -> None:
        self.silence: float = _SILENCE
        self._client = client
        self._prefix = prefix
        self._channel = f"{prefix}:news"
        script: object = client.register_script(_SWAP)
        self._script = cast("Callable[[list[str], list[str]], Awaitable[object]]", script)
        self._abandoned: set[_Call] = set()
        self._lost_subscriptions = 0
        self._probe: _Call | None = None

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Run the script.

        Raises:
            coredis.exceptions.RedisError: Redis cannot be reached, or refuses it.
            OSError: likewise.
            RuntimeError: the client is not entered.
            ValueError: there is something else under this name.

        Cancellation:
            What has been sent to Redis is not taken back. As long as it has no answer, no further call is sent.
        """
        while self._abandoned:
            await next(iter(self._abandoned)).ended.wait()
        self._check_entered()
        key = f"{self._prefix}:{{{name}}}"  # in braces, for clusters
        arguments = [str(version), text, str(round(seconds * 1000)), news, self._channel]
        call = self._new_call(partial(self._script, [key], arguments), self._abandoned.discard)
        try:
            answer = await call.answer()
        finally:
            if not call.ended.is_set():
                self._abandoned.add(call)
                call.abandon()
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
        except BaseException as error:
            # Lost: the connection of a subscription that breaks, and one that is cancelled before it is there.
            self._lost_subscriptions += is_ready == isinstance(error, Exception)
            raise

    def _new_call(self, call: Callable[[], Awaitable[object]], on_exit: Callable[[_Call], object]) -> _Call:
        return _Call(call, self._is_entered, self._look_for_a_dead_connection, self.silence, on_exit)

    def _look_for_a_dead_connection(self) -> None:
        if self._probe is None or self._probe.ended.is_set():
            self._probe = self._new_call(self._drop_if_dead, lambda call: None)
            self._probe.abandon()

    async def _drop_if_dead(self) -> None:
        """Invalidate the connection that was used last, if it has answered nothing for long; then its calls fail."""
        pool = self._client.connection_pool
        connection = await pool.get_connection()
        pool.release(connection)  # before it is invalidated; or else the pool would have one connection less
        statistics = connection.statistics
        silent_since = max(statistics.connected_at, statistics.last_byte_received_at)
        if statistics.requests_pending and time.perf_counter() - silent_since >= self.silence:
            connection.invalidate(f"Redis has not answered for {self.silence:g} s")

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
        is_entered: whether the client is still entered; otherwise, the call is cancelled.
        on_silence: called each time that an abandoned call has had no answer for so long.
        silence: seconds.
        on_exit: called with this object when the call has ended.
    """

    def __init__(
        self,
        call: Callable[[], Awaitable[object]],
        is_entered: Callable[[], bool],
        on_silence: Callable[[], object],
        silence: float,
        on_exit: Callable[[_Call], object],
    ) -> None:
        self._call = call
        self._is_entered = is_entered
        self._on_silence = on_silence
        self._silence = silence
        self._on_exit = on_exit
        self._answer: object = None
        self._error: Exception | None = RuntimeError("the Redis client has been left")
        self._scope = new_cancel_scope()
        self.ended = new_event()
        self._watcher: object = None
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

    def abandon(self) -> None:
        """Let it go on without its caller, until the client is left, which on trio waits for what connects."""
        self._watcher = spawn_root_task(self._watch, "prefect_http Redis client")

    async def _run(self) -> None:
        with self._scope:
            try:
                self._answer = await self._call()
                self._error = None
            except* Exception as group:  # it may come together with a cancellation
                self._error = first_exception(group)

    async def _watch(self) -> None:
        due = anyio.current_time() + self._silence
        while self._is_entered() and not self.ended.is_set():
            with anyio.move_on_after(_LOOK_EACH):
                await self.ended.wait()
            if anyio.current_time() >= due:
                due += self._silence
                self._on_silence()
        self._scope.cancel()

    def _end(self) -> None:
        self.ended.set()
        self._on_exit(self)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
