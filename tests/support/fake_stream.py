"""A byte stream that follows a script."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel


class FakeStream(anyio.abc.ByteStream):
    """Receives what it is given, and keeps what it is told to send, each after so many seconds.

    Attributes:
        to_receive: what ``receive()`` returns or raises, in turn; at the end it waits forever.
        sent: what has been sent.
        closings: the number of times that it was closed.
    """

    def __init__(self, *to_receive: bytes | Exception, delay: float = 0.0, failure: Exception | None = None) -> None:
        self.to_receive = list(to_receive)
        self.delay = delay
        self.failure = failure
        self.sent: list[bytes] = []
        self.closings = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.sleep(self.delay if self.to_receive else math.inf)
        data = self.to_receive.pop(0)
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
        raise AssertionError("not used")

    async def aclose(self) -> None:
        self.closings += 1
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return {}
