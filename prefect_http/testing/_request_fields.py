"""What Host, Content-Length and Expect say of a request, over HTTP/1.1 and over HTTP/2 alike. Pure."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"[0-9]{1,18}")


class RequestFields:
    """What some header fields of a request say.

    Attributes:
        host: the Host; None: there is none.
        content_length: what Content-Length says; None: there is none.
        expects_continue: whether the client waits for a 100.
    """

    def __init__(self) -> None:
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.expects_continue = False

    def take(self, name: bytes, value: bytes) -> str | None:
        """Take note of a field, whose name is in lower case. Return what is wrong with it; None: nothing."""
        if name == b"host":
            if self.host is not None:
                return "the client sent more than one Host"
            self.host = value
        elif name == b"content-length":
            if self.content_length is not None or not _LENGTH.fullmatch(value):
                return "the client sent a Content-Length that is not a single number"
            self.content_length = int(value)
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        return None
