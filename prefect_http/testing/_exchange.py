"""Exchange: a request at a server, and how far its answer has come."""

from __future__ import annotations

from prefect_http.testing._feed import Feed
from prefect_http.testing._operations import Answer, Fields
from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._steps import Step


class Exchange:
    """A request and its answer.

    Attributes:
        stream: which request it is, on its connection.
        request: the request.
        parts: its body.
        step: what the server does with it.
        fields: what it adds to the head of the answer.
        answer: what remains of that; None: it has not begun.
        feed: what runs the answer, if that has to wait for something; None: nothing does.
        due: when the next operation is, in seconds on the event loop's clock.
        has_ended: whether the whole answer has been sent.
    """

    __slots__ = ("answer", "due", "feed", "fields", "has_ended", "parts", "request", "step", "stream")

    def __init__(self, stream: int, request: ReceivedRequest, parts: list[bytes], step: Step, fields: Fields) -> None:
        self.stream = stream
        self.request = request
        self.parts = parts
        self.step = step
        self.fields = fields
        self.answer: Answer | Feed | None = None
        self.feed: Feed | None = None
        self.due = 0.0
        self.has_ended = False
