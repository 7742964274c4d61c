"""RememberedHeads: parses the heads of responses, and remembers them for as long as the server repeats them. Pure.

Many servers change nothing in a head but its Date, once a second. To parse the same head again takes 3 us, and its
objects make the garbage collector run more often: with 100 tasks, small requests take a tenth more time. But if each
head has an identifier of its own, to remember them is of no use, and takes 1 us for each.
"""

from __future__ import annotations

from prefect_http._caching import remember
from prefect_http._wire.h1.plain_head import plain_head
from prefect_http._wire.h1.response_head import ResponseHead

_MAX_HEADS = 32
_MAX_BYTES = 2048  # of a head; a larger one is not remembered
# A head that is found saves four times what it takes to look for one in vain.
_MAX_CREDIT = 64
_GAIN = 4
# For how many heads nothing is remembered once that has turned out to be of no use.
_PAUSE = 1000


class RememberedHeads:
    """The last heads that were parsed."""

    __slots__ = ("_credit", "_heads", "_pause")

    def __init__(self) -> None:
        self._heads: dict[tuple[str, bytes], ResponseHead] = {}
        self._credit = _MAX_CREDIT  # how many times more a head may be looked for in vain
        self._pause = 0  # for how many heads more nothing is remembered

    def parse(self, method: str, data: bytes) -> ResponseHead | None:
        """Return a head as ``plain_head()`` does, perhaps the same object as before."""
        if self._pause or len(data) > _MAX_BYTES:
            self._pause = max(self._pause - 1, 0)
            return plain_head(method, data)
        key = method, data
        head = self._heads.get(key)
        if head is not None:
            if self._credit < _MAX_CREDIT:
                self._credit += _GAIN
            return head
        head = plain_head(method, data)
        if head is not None:
            self._remember(key, head)
        return head

    def clear(self) -> None:
        """Forget all heads: there may be credentials among them."""
        self._heads.clear()

    def _remember(self, key: tuple[str, bytes], head: ResponseHead) -> None:
        self._credit -= 1
        if self._credit < 0:
            self._heads.clear()
            self._credit, self._pause = _MAX_CREDIT, _PAUSE
            return
        remember(self._heads, key, head, _MAX_HEADS)
