"""Why connections are closed, in words for a telemetry. Few, so that metrics can be grouped by them. Pure."""

from __future__ import annotations

# The pool decides so.
EXPIRED = "it was idle for longer than keepalive_expiry"
TOO_MANY_IDLE = "more than max_keepalive_connections would be idle"
MAKES_ROOM = "it makes room for another connection, within max_connections"
CLOSED_BY_SERVER = "the server closed it while it was idle"
TRANSPORT_CLOSED = "the transport was closed"
LOOP_ENDED = "its event loop has ended"

# Its request was the last one.
FAILED = "a request on it failed"
CANCELLED = "a request on it was cancelled"
UNCLOSED = "a response was never closed"
UNREAD = "a response was not read to its end"
UNSENT = "a request was not sent to its end"
REQUEST_CLOSES = "a request said Connection: close"
RESPONSE_CLOSES = "a response did not allow it to be reused, as with Connection: close"
ENDED_RESPONSE = "a response had no length, and so ended with the connection"
TUNNEL = "it was used for another protocol"
TRAILING_DATA = "the server sent more data than a response"

# HTTP/2.
GOAWAY = "the server said GOAWAY"
BROKEN_OFF = "the server closed it, or the network failed"
NO_LIFE = "the server no longer answers"
RULE_BROKEN = "the server broke a rule of HTTP/2"
USED_UP = "the numbers of its streams are used up, or too many of them were cancelled"
MISDIRECTED = "the server said 421 Misdirected Request"
STREAM_FAILED = "its stream raised an unexpected error"
