"""FloodGuard: how many frames a server may send without making progress. Pure. RFC 9113 section 10.5.

- SETTINGS, PING, GOAWAY, PRIORITY, WINDOW_UPDATE, empty DATA, unknown frames, and frames of streams that have ended
  cost the server little. They are counted until there is progress: a response, or a part of a body in either
  direction. A connection may be quiet for hours but for PINGs.
- Each stream that is reset allows for some more of them: frames that were in flight are no attack.
- Answers that have not been sent are counted as well. Their number grows if the server sends without reading.
- Too many of either end the connection with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from prefect_http._wire.h2.errors import ENHANCE_YOUR_CALM, ConnectionFault
from prefect_http._wire.h2.settings import STREAM_WINDOW

MAX_IDLE_FRAMES = 5_000
MAX_UNSENT_ANSWERS = 5_000
SETTINGS_WEIGHT = 10  # a SETTINGS may change every stream
LATE_BLOCK_BYTES = 512  # a late HEADERS counts once more for so many: decoding them may take 0.2 ms
LATE_FRAMES = STREAM_WINDOW // 1024  # of a stream that was reset: its window, in pieces of 1 KiB
# A smaller part of a request body is not progress: the server could ask for it byte by byte.
_SMALL_BODY = 256


class FloodGuard:
    """Counts the frames that make no progress.

    Attributes:
        idle: how many have arrived since the last progress: set it to 0 then, if it is larger. It is negative while
            late frames are expected.
    """

    __slots__ = ("_answers", "idle")

    def __init__(self) -> None:
        self.idle = 0
        self._answers = 0

    def count(self, weight: int = 1) -> None:
        """Count a frame that makes no progress.

        Raises:
            ConnectionFault: there are too many.
        """
        self.idle += weight
        if self.idle > MAX_IDLE_FRAMES:
            raise ConnectionFault("the server sent too many frames without making progress", ENHANCE_YOUR_CALM)

    def count_answer(self) -> None:
        """Count an answer to a frame of the server.

        Raises:
            ConnectionFault: too many have not been sent.
        """
        self._answers += 1
        if self._answers > MAX_UNSENT_ANSWERS:
            raise ConnectionFault("the server sends frames but does not read the answers", ENHANCE_YOUR_CALM)

    def expect_late_frames(self) -> None:
        """Note that a stream was reset."""
        self.idle -= LATE_FRAMES

    def sent(self) -> None:
        """Note that all answers have been sent."""
        self._answers = 0

    def body_sent(self, size: int, *, has_emptied: bool) -> None:
        """Note that so many bytes of request bodies have been framed, and whether nothing is left of one of them."""
        if self.idle > 0 and (has_emptied or size >= _SMALL_BODY):
            self.idle = 0
