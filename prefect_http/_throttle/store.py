"""Store: where the throttles of several processes keep what they share. A compare-and-swap, and news."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Stored(NamedTuple):
    """What a Store holds under a name.

    Attributes:
        is_swapped: whether it is what was to be stored.
        version: grows each time that something is stored; 0: there is nothing.
        text: what it holds, empty if there is nothing, or if it is what was just stored.
        now: the time on the store's clock, in seconds, which all processes share.
    """

    is_swapped: bool
    version: int
    text: str
    now: float


class Store(Protocol):
    """What processes share. It knows nothing of what the texts mean; see fleet_state.py for that."""

    async def swap(self, name: str, version: int, text: str, seconds: float, news: str) -> Stored:
        """Store a text if the name still has this version, and tell all listeners the news.

        Args:
            name: a short name, of lower-case hexadecimal digits.
            version: what was last known; -1: only read, store nothing.
            text: what to store.
            seconds: after how many seconds it may be forgotten.
            news: what listeners are told, if it is stored; empty: nothing.

        Raises:
            Exception: the store cannot be reached, or refuses it.

        Cancellation:
            It may or may not have been stored.
        """
        ...

    async def listen(self, on_ready: Callable[[], object], on_news: Callable[[int, str], object]) -> None:
        """Call ``on_news`` with all news from now on, until it is cancelled.

        Args:
            on_ready: called when it has begun to listen.
            on_news: called with the version of the text that was stored with them, and the news; it does not raise.

        Raises:
            Exception: the store cannot be reached any more.
        """
        ...


class SharedBackend:
    """What ``Throttle(shared=)`` accepts: where the Throttles of several processes share what they know.

    ``prefect_http.redis.RedisBackend`` is one; there are no others yet.
    """

    _store: Store


def store_of(backend: SharedBackend) -> Store:
    """Return the store of a backend; its own methods are for its users.

    Raises:
        TypeError: it is no backend.
    """
    if not isinstance(backend, SharedBackend):
        raise TypeError(f"shared must be a RedisBackend, not {backend!r}")
    return backend._store  # pyright: ignore[reportPrivateUsage]
