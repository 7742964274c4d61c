"""Stream: the state of one request and its response. RFC 9113 sections 5.1 and 8.1.

The connection changes it; the caller only reads it, and passes it to the methods of the connection. The order in which
to look at it: `informational`, `status`, the body, then `is_complete` or `failure`. What arrived before a failure
stays readable.
"""

from __future__ import annotations

from collections.abc import Callable

from prefect_http._wire.h2.errors import StreamFailure

Headers = list[tuple[bytes, bytes]]

_NOTHING = memoryview(b"")


class Stream:
    """One request and its response.

    Args:
        stream_id: its number.
        method: the method of the request.
        send_window: how many bytes of the body the server accepts.
        receive_window: how many bytes the server may send.
        wake: for the caller: what to call when the stream is in ``take_changed()``.

    Attributes:
        id: odd, and never used again on the connection.
        wake: as given.
        status: the status code of the final response, 200 to 999; 0: it has not arrived.
        headers: the final response's headers, in lower case, without pseudo-header fields.
        informational: the informational responses (1xx) so far, as pairs of status and headers; None: there were none.
        trailers: the trailers; None: there are none, or they have not arrived.
        is_complete: whether the response has arrived to its end and is valid. There may still be body to take.
        failure: why the stream ended before that; None: it did not.
        is_request_complete: whether all of the request has been framed, or need not be sent any more.
        unsent: the number of bytes of the request body that have been queued, but not framed.
    """

    __slots__ = (
        "body",
        "body_left",
        "ends_request",
        "failure",
        "headers",
        "id",
        "informational",
        "is_changed",
        "is_complete",
        "is_queued",
        "is_request_complete",
        "method",
        "outgoing",
        "receive_credit",
        "receive_window",
        "send_window",
        "status",
        "trailers",
        "unsent",
        "wake",
    )

    def __init__(
        self, stream_id: int, method: bytes, send_window: int, receive_window: int, wake: Callable[[], object]
    ) -> None:
        self.id = stream_id
        self.wake = wake
        self.status = 0
        self.headers: Headers = []
        self.informational: list[tuple[int, Headers]] | None = None
        self.trailers: Headers | None = None
        self.is_complete = False
        self.failure: StreamFailure | None = None
        self.is_request_complete = False
        self.unsent = 0
        # The rest is the connection's.
        self.method = method
        self.is_changed = False  # whether it is among those that have changed
        # The response: what has not been taken of the body, and how much of it is to come (-1: it does not say); how
        # much the server may send, and how much was taken that it has not been told of.
        self.body: list[bytes | bytearray] = []
        self.body_left = -1
        self.receive_window = receive_window
        self.receive_credit = 0
        # The request: what is queued of its body, and whether that is its end; how much the server accepts.
        self.outgoing = _NOTHING
        self.ends_request = False
        self.is_queued = False
        self.send_window = send_window

    @property
    def has_begun(self) -> bool:
        """Whether a part of the response has arrived."""
        return self.status > 0 or self.informational is not None

    @property
    def has_body(self) -> bool:
        """Whether a part of the response body has arrived that has not been taken yet."""
        return bool(self.body)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will arrive."""
        return self.is_complete or self.failure is not None
