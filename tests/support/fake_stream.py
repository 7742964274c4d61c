"""A byte stream that does as it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel


class FakeStream(anyio.abc.ByteStream):
    """Gives and takes what it is told to, each after so many seconds.

    Attributes:
        given: what receive() gives or raises, in turn; at the end it hangs.
        sent: what has been sent.
        closings: how often it was closed.
    """

    def __init__(self, *given: bytes | Exception, delay: float = 0.0, failure: Exception | None = None) -> None:
        self.given = list(given)
        self.delay = delay
        self.failure = failure
        self.sent: list[bytes] = []
        self.closings = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.sleep(self.delay if self.given else math.inf)
        data = self.given.pop(0)
        if isinstance(data, Exception):
            raise data
        assert len(data) <= max_bytes
        return data

    async def send(self, item: bytes) -> None:
        await anyio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        self.sent.append(item)

    async def send_eof(self) -> None:
        raise AssertionError("nobody asks for it")

    async def aclose(self) -> None:
        self.closings += 1
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return {}
