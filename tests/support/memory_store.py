"""A store in this process, which can be slow, lose messages, and be away."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from prefect_http._throttle.store import SharedBackend, Stored


@dataclass
class MemoryStore:
    """See Store. Several throttles may share one.

    Attributes:
        texts: the version and the text of each name.
        delay: how many seconds each way of a call takes, and news.
        loss: the share of calls whose answer is lost, and of news that do not arrive, from 0 to 1.
        error: raised by all calls, if there is one.
        calls: how many calls there were.
        refused: how many of them would have stored something, had it not changed in the meantime.
        shift: what its clock shows at zero.
    """

    delay: float = 0.0
    loss: float = 0.0
    error: Exception | None = None
    shift: float = 1000.0
    calls: int = 0
    refused: int = 0
    seed: int = 0
    texts: dict[str, tuple[int, str]] = field(default_factory=dict)
    listeners: list[Callable[[int, str], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        self.calls += 1
        await self._travel()
        now = anyio.current_time() + self.shift
        before, stored = self.texts.get(name, (0, ""))
        if before != version:
            self.refused += version >= 0
            answer = Stored(False, before, stored, now)
        else:
            self.texts[name] = version + 1, text
            answer = Stored(True, version + 1, "", now)
        try:
            await self._travel()
        finally:  # the news travel for as long
            if answer.is_swapped and news:
                self._tell(version + 1, news)
        if self._random.random() < self.loss:
            await anyio.sleep_forever()
        return answer

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[int, str], object]) -> None:
        await self._travel()
        self.listeners.append(on_news)
        on_ready()
        try:
            await anyio.sleep_forever()
        finally:
            self.listeners.remove(on_news)

    def _tell(self, version: int, news: str) -> None:
        for listener in list(self.listeners):
            if self._random.random() >= self.loss:
                listener(version, news)

    async def _travel(self) -> None:
        if self.delay:
            await anyio.sleep(self.delay)
        else:
            await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error


class DeafStore(MemoryStore):
    """A store whose news are all lost."""

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[int, str], object]) -> None:
        """Do nothing."""
        await anyio.sleep_forever()


class _MemoryBackend(SharedBackend):
    def __init__(self, store: MemoryStore) -> None:
        self._store = store


def memory_backend(store: MemoryStore) -> SharedBackend:
    """Return a backend for a Throttle."""
    return _MemoryBackend(store)
