"""Reply: a response that a server sends. Pure."""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncIterable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, cast

from prefect_http.testing._operations import Answer, Body, End, Fields, Head, Wait, Whole

_MISSING: Any = ...  # which help() shows as what it is, and JSON does not have
_PART = 64 * 1024  # of a large body, in bytes
ONCE = "an iterator can be sent only once: give a list, or make a new Reply for each request, with call()"

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class ReplyArguments(TypedDict, total=False):
    """The arguments of a Reply, but for the status."""

    headers: Headers | None
    content: bytes | str | None
    json: Any
    text: str | None
    stream: Iterable[bytes] | None
    delay: float


class Reply:
    """A response, as a server sends it.

    Args:
        status: from 200 to 999.
        headers: its header fields. Only Content-Length and Content-Type are added, if the body needs them and they are
            not given.
        content: the body, as bytes, or as text to be encoded in UTF-8.
        json: the body, as an object to be encoded as JSON.
        text: the body, as text/plain.
        stream: the body, in parts; each is generated when the client has received those before it. Without a
            Content-Length, it is chunked on HTTP/1.1. An iterator, such as a generator, can be sent only once.
        delay: how many seconds pass before the server begins to send it; 0 or more, or ``math.inf``.

    Raises:
        TypeError: more than one body is given, or one of a wrong type.
        ValueError: the status, a header or the delay is invalid.
    """

    __slots__ = ("body", "delay", "fields", "status", "was_sent")

    def __init__(
        self,
        status: int = 200,
        *,
        headers: Headers | None = None,
        content: bytes | str | None = None,
        json: Any = _MISSING,
        text: str | None = None,
        stream: Iterable[bytes] | None = None,
        delay: float = 0.0,
    ) -> None:
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 999:
            hint = "" if isinstance(status, int) else "; a body is given as json=, content=, text= or stream="
            raise ValueError(f"the status of a reply must be an integer from 200 to 999, not {status!r}{hint}")
        self.status: int = status
        self.delay: float = checked_seconds("delay", delay)
        self.fields: Fields = _encoded(headers)
        given = {"content": content, "json": json, "text": text, "stream": stream}
        names = [name for name, value in given.items() if value is not (_MISSING if name == "json" else None)]
        if len(names) > 1:
            raise TypeError(f"a reply has one body, but {' and '.join(f'{name}=' for name in names)} are given")
        self.body: bytes | Iterable[bytes] = b""
        if names:
            self.body = self._encode(names[0], given[names[0]])
        self.fields = self._with_length()
        self.was_sent: bool = False

    @property
    def is_for_once(self) -> bool:
        """Whether it can be sent only once, since its body is an iterator."""
        return isinstance(self.body, Iterator)

    def _encode(self, kind: str, value: Any) -> bytes | Iterable[bytes]:
        if kind == "json":
            self._add_default(b"Content-Type", b"application/json")
            return json_module.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if kind == "text":
            self._add_default(b"Content-Type", b"text/plain; charset=utf-8")
        if kind == "stream":
            return _checked_stream(value)
        if isinstance(value, str):
            return value.encode()
        if not isinstance(value, bytes):
            raise TypeError(f"{kind}= must be bytes or str, not {type(value).__name__}")
        return value

    def _add_default(self, name: bytes, value: bytes) -> None:
        if not self.has(name):
            self.fields = (*self.fields, (name, value))

    def has(self, name: bytes) -> bool:
        """Return whether a header is given."""
        wanted = name.lower()
        return any(each.lower() == wanted for each, _ in self.fields)

    def _with_length(self) -> Fields:
        """Return the header fields, with the length of the body where it is known and of use (RFC 9110 section 8.6)."""
        is_framed = self.has(b"Content-Length") or self.has(b"Transfer-Encoding")
        if is_framed or not isinstance(self.body, bytes) or self.status in (204, 304):
            return self.fields
        return (*self.fields, (b"Content-Length", b"%d" % len(self.body)))


def sent_at_once(reply: Reply) -> Whole | None:
    """Return the one operation that sends a reply; None: it takes several."""
    body = reply.body
    if reply.delay or not isinstance(body, bytes) or len(body) > _PART:
        return None
    return Whole(reply.status, reply.fields, body)


def answer_with(reply: Reply, *, in_parts: bool = False) -> Answer:
    """Return the operations that send a reply.

    Args:
        reply: the reply.
        in_parts: whether to do nothing before there is room for it. A large body is always sent like that.
    """
    if reply.delay:
        yield Wait(reply.delay)
    body = reply.body
    if not isinstance(body, bytes):
        yield from _stream(reply, body)
    elif len(body) > _PART or (body and in_parts):
        yield from _stream(reply, [body[start : start + _PART] for start in range(0, len(body), _PART)])
    else:
        yield Whole(reply.status, reply.fields, body)


def _stream(reply: Reply, parts: Iterable[bytes]) -> Answer:
    if reply.is_for_once and reply.was_sent:
        raise RuntimeError("the stream= of a reply was sent before, and " + ONCE)
    reply.was_sent = True
    yield Head(reply.status, reply.fields, False)
    try:
        for part in parts:
            if not isinstance(part, bytes):
                raise TypeError(f"the parts of stream= must be bytes, not {type(part).__name__}")
            yield Body(part)
    finally:
        if isinstance(parts, Generator):  # if the client has left, its `finally` runs now
            parts.close()
    yield End()


def checked_seconds(name: str, value: object) -> float:
    """Return a number of seconds.

    Raises:
        ValueError: it is none, or is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return value


def _checked_stream(stream: Any) -> Iterable[bytes]:
    if isinstance(stream, Iterable) and not isinstance(stream, bytes | str):
        return cast("Iterable[bytes]", stream)
    hint = "; an ASGI app can send what it awaits" if isinstance(stream, AsyncIterable) else ""
    raise TypeError(f"stream= must be an iterable of bytes, not {type(cast(object, stream)).__name__}{hint}")


def _encoded(headers: Headers | None) -> Fields:
    if headers is None:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields: list[tuple[bytes, bytes]] = []
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"the header {name!r} must be text with a value that is text, not {value!r}")
        if not name or any(each in name for each in "\r\n\0: ") or any(each in value for each in "\r\n\0"):
            raise ValueError(f"the header {name!r} cannot be sent: {value!r}; .garbage() sends anything")
        fields.append((name.encode("ascii"), value.encode("latin-1" if value.isascii() else "utf-8")))
    return tuple(fields)
