"""Parsing server-sent events: WHATWG HTML, sections 9.2.5 and 9.2.6. Pure.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

    stream        = [ bom ] *event
    event         = *( comment / field ) end-of-line
    comment       = colon *any-char end-of-line
    field         = 1*name-char [ colon [ space ] *any-char ] end-of-line
    end-of-line   = ( cr lf / cr / lf )

Lines are cut as bytes, and decoded later. That comes to the same: no CR, LF or colon is a part of a longer character in
UTF-8, and what is not valid UTF-8 ends at the end of its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prefect_http._errors import ResponseTooLarge
from prefect_http._wording import counted

_BOM = b"\xef\xbb\xbf"
# Far beyond any time, and a float can still hold it. Python reads numbers of more than 4300 digits only on request.
_MAX_RETRY_DIGITS = 300


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event that a server has sent.

    Attributes:
        event: its type; "message" unless the server has named another.
        data: its text, with a line feed between its lines.
        id: the last event ID: that of this event, or of the last earlier event that had one; "" if there is none.
        retry: the time to wait before a reconnection, in milliseconds, if the event itself has one; otherwise None.
    """

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None


class EventParser:
    """Finds the events in what arrives, however that is cut.

    Args:
        max_event_bytes: the largest size of an event: of its data, type and ID, and of the line at hand.
        last_event_id: the last event ID in force at the beginning.

    Attributes:
        last_event_id: the last event ID, as of the last event that has ended, with data or without.
        retry: the time to wait before a reconnection, in milliseconds, as the server has last said; None: it has not.
    """

    def __init__(self, max_event_bytes: int, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._max_event_bytes = max_event_bytes
        self.start()

    def start(self) -> None:
        """Begin to parse another stream of the same source. An event that has not ended is discarded.

        The last event ID stays in force, so that a stream without IDs does not lose the position in the one before it.
        """
        self._line = bytearray()  # the line that has not ended
        self._is_first_line = True
        self._ends_with_cr = False
        self._id = self.last_event_id
        self._clear()

    def _clear(self) -> None:
        """Forget the fields of an event. The ID stays in force."""
        self._data = bytearray()  # each line, followed by a line feed
        self._type = b""
        self._id_size = 0
        self._retry: int | None = None

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that end in the data. The attributes are always as of the event that was yielded last.

        Args:
            data: the next part of the stream. It is parsed while the iterator is used, which must be exhausted before
                the next part is fed.

        Raises:
            ResponseTooLarge: an event is too large. The parser must not be used any more.
        """
        if self._ends_with_cr and data.startswith(b"\n"):
            data = data[1:]
            self._ends_with_cr = False
        if not data:
            return
        self._ends_with_cr = data.endswith(b"\r")
        lines = data.splitlines()  # of bytes: at CR, LF and CRLF only
        rest = b"" if data.endswith((b"\r", b"\n")) else lines.pop()
        for line in lines:
            if self._line:
                line = bytes(self._line + line)
                self._line.clear()
            self._check_size(len(line))
            event = self._take(line)
            if event is not None:
                yield event
        self._line += rest
        self._check_size(len(self._line))

    def _check_size(self, line: int) -> None:
        if line + len(self._data) + len(self._type) + self._id_size > self._max_event_bytes:
            raise ResponseTooLarge(
                f"an event of the stream is larger than max_event_bytes of {counted(self._max_event_bytes, 'byte')}"
            )

    def _take(self, line: bytes) -> ServerSentEvent | None:
        """Process a line, and return the event that it ends; None if it ends none."""
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data += value
                self._data += b"\n"
            case b"event":
                self._type = value
            case b"id":
                if b"\0" not in value:
                    self._id, self._id_size = _decode(value), len(value)
            case b"retry":
                # bytes.isdigit() is about ASCII only.
                if value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                    self.retry = self._retry = int(value)
            case _:  # a comment has no name
                pass
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        event = None
        if self._data:
            del self._data[-1]
            event = ServerSentEvent(_decode(self._type) or "message", _decode(self._data), self._id, self._retry)
        self._clear()
        return event


def _decode(value: bytes | bytearray) -> str:
    return value.decode("utf-8", "replace")
