"""HTTPProtocol, without an app or an event loop: which messages are allowed when, and what the caller gets."""

from __future__ import annotations

import string
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._asgi.http_protocol import Head, HTTPProtocol, MessageError

START = "http.response.start"
BODY = "http.response.body"
OK: dict[str, object] = {"type": START, "status": 200}

# The messages that lead to each stage.
WAYS = {
    "NEW": "",
    "STARTED": "start",
    "FLOWING": "start more",
    "COMPLETE": "start last",
    "COMPLETE after more": "start more last",
}
EVENTS: dict[str, dict[str, object]] = {
    "start": {"type": START, "status": 200, "headers": [(b"X-Part", b"one")]},
    "more": {"type": BODY, "body": b"ab", "more_body": True},
    "last": {"type": BODY, "body": b"cd"},
    "trailers": {"type": "http.response.trailers"},
    "accept": {"type": "websocket.accept"},
    "nothing": {"type": None},
}
# The result of each message in each stage: the bytes of its body, "-" for none; or a part of the error message.
TABLE = {
    "NEW": ["-", "before http.response.start", "before http.response.start"],
    "STARTED": ["sent twice", "ab", "cd"],
    "FLOWING": ["sent twice", "ab", "cd"],
    "COMPLETE": ["after the response was complete"] * 3,
    "COMPLETE after more": ["after the response was complete"] * 3,
}


class Odd(BaseException):
    """A BaseException that is not an Exception."""


def protocol_in(stage: str, method: str = "GET") -> HTTPProtocol:
    """Return a protocol in a stage."""
    protocol = HTTPProtocol(method)
    for event in WAYS[stage].split():
        protocol.send(EVENTS[event])
    return protocol


def state_of(protocol: HTTPProtocol) -> tuple[Head | None, bool]:
    """Return the public state of a protocol."""
    return protocol.head, protocol.is_complete


def started(
    headers: object = (), *, status: int = 200, method: str = "GET", length: bytes | None = None
) -> HTTPProtocol:
    """Return a protocol whose app has started its response."""
    protocol = HTTPProtocol(method)
    if length is not None:
        headers = [(b"Content-Length", length)]
    protocol.send({"type": START, "status": status, "headers": headers})
    return protocol


def error_of(protocol: HTTPProtocol, message: object = None) -> Exception:
    """Return the error that a protocol raises for an invalid message."""
    with pytest.raises(MessageError) as caught:
        protocol.send(cast("Mapping[str, object]", message))
    return caught.value


# Stages.


@each_row("event", EVENTS)
@each_row("stage", WAYS)
def test_table(stage: str, event: str) -> None:
    """In each stage, each message has the result in the table; an error names the message and changes nothing."""
    protocol = protocol_in(stage)
    before = state_of(protocol)
    known = list(EVENTS).index(event) < 3
    expected = (
        TABLE[stage][list(EVENTS).index(event)] if known else f"unknown ASGI message type {EVENTS[event]['type']!r}"
    )
    if " " in expected:
        error = error_of(protocol, EVENTS[event])
        assert type(error) is MessageError
        assert expected in str(error)
        assert str(EVENTS[event]["type"]) in str(error)
        assert state_of(protocol) == before
    else:
        assert protocol.send(EVENTS[event]) == expected.strip("-").encode()
        assert protocol.head == Head(200, [(b"X-Part", b"one")])
        assert protocol.is_complete is (event == "last")


def test_new() -> None:
    """Before the first message there is no head, and the response is not complete."""
    assert state_of(HTTPProtocol("GET")) == (None, False)


def test_error_for_an_unknown_type() -> None:
    """The error for an unknown type names the known ones, and shows a long type only in part."""
    error = error_of(HTTPProtocol("GET"), {"type": "http." * 1000})
    assert f"expected {START} or {BODY}" in str(error)
    assert len(str(error)) < 400


@settings(max_examples=50)
@given(
    st.sampled_from(["GET", "HEAD"]),
    st.lists(st.one_of(st.sampled_from(list(EVENTS.values())), st.none(), st.just({"type": BODY, "body": 5}))),
)
def test_any_messages(method: str, messages: list[Mapping[str, object]]) -> None:
    """Whatever an app sends, there is one head, then parts of a body, then an end; invalid messages change nothing."""
    protocol = HTTPProtocol(method)
    for message in messages:
        before = state_of(protocol)
        try:
            body = protocol.send(message)
        except MessageError:
            assert state_of(protocol) == before
            continue
        head, was_complete = before
        assert not was_complete
        assert protocol.head is not None
        assert (head is None) is (message["type"] == START)
        assert head in (None, protocol.head)
        assert body in ((b"",) if method == "HEAD" or head is None else (b"ab", b"cd"))
    assert protocol.head is not None or not protocol.is_complete


# Messages.


@each_row("message", [None, BODY, 5, b"type", [("type", START)], [], ...])
def test_not_a_message(message: object) -> None:
    """In every stage, an object that is not a dict is an error that shows it and changes nothing."""
    for stage in WAYS:
        protocol = protocol_in(stage)
        before = state_of(protocol)
        error = error_of(protocol, message)
        assert type(error) is MessageError
        assert str(error) == f"an ASGI message must be a dict with a type, not {message!r}"
        assert error.__suppress_context__
        assert state_of(protocol) == before


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, "an ASGI message must be a dict with a type, not {}"),
        ({"status": 200}, "an ASGI message must be a dict with a type, not {'status': 200}"),
        ({"type": START}, "http.response.start: status must be an int, not None"),
    ],
)
def test_message_without_a_key(message: dict[str, object], text: str) -> None:
    """A message without a required key is an error that names the key."""
    error = error_of(HTTPProtocol("GET"), message)
    assert type(error) is MessageError
    assert str(error) == text


def test_any_mapping_is_a_message() -> None:
    """A message may be any mapping."""
    protocol = HTTPProtocol("GET")
    protocol.send(UserDict[str, object]({"type": START, "status": 201}))
    assert protocol.send(UserDict[str, object]({"type": BODY, "body": b"text"})) == b"text"
    assert state_of(protocol) == (Head(201, []), True)


def test_long_values_are_quoted_in_part() -> None:
    """An error shows only the beginning of a long value."""
    long = "a" * 10_000
    messages: list[object] = [
        long,
        {"type": START, "status": long},
        {"type": START, "status": 200, "headers": 10**4000},
        {"type": START, "status": 200, "headers": [(long, b"")]},
        {"type": START, "status": 200, "headers": [(long.encode() + b" ", b"")]},
        {"type": START, "status": 200, "headers": [(long.encode(), b"\0")]},
    ]
    for message in messages:
        assert len(str(error_of(HTTPProtocol("GET"), message))) < 400


# Status.


@each_row("status", [101, 200, 201, 204, 299, 304, 404, 500, 599, 600, 999, HTTPStatus.IM_A_TEAPOT])
def test_status(status: int) -> None:
    """A final status is accepted as it is."""
    assert started(status=status).head == Head(status, [])


@each_row("status", [-200, -1, 0, 1, 99, 100, 102, 103, 199, 1000, 2000])
def test_status_out_of_range(status: int) -> None:
    """A status that is out of range, or not final, is an error."""
    protocol = HTTPProtocol("GET")
    error = error_of(protocol, {"type": START, "status": status})
    assert type(error) is MessageError
    assert f"not {status}" in str(error)
    assert protocol.head is None


@each_row("status", [None, "200", b"200", 200.0, True, False, [200]])
def test_status_of_a_wrong_type(status: object) -> None:
    """A status that is not an int is an error that shows it; a bool does not count as an int."""
    error = error_of(HTTPProtocol("GET"), {"type": START, "status": status})
    assert type(error) is MessageError
    assert f"status must be an int, not {status!r}" in str(error)


# Headers.


@each_row(
    ("headers", "expected"),
    [
        (None, []),
        ([], []),
        ((), []),
        ([(b"X-One", b"1")], [(b"X-One", b"1")]),
        ([[b"X-One", b"1"]], [(b"X-One", b"1")]),
        (((b"a", b"1"), (b"A", b"2"), (b"a", b"1")), [(b"a", b"1"), (b"A", b"2"), (b"a", b"1")]),
        (iter([(b"a", b"1")]), [(b"a", b"1")]),
        ({b"a": b"1"}.items(), [(b"a", b"1")]),
        ([(bytearray(b"a"), memoryview(b"1"))], [(b"a", b"1")]),
        ([(b"a", bytearray(b"1"))], [(b"a", b"1")]),
        ([(memoryview(b"a"), b"1")], [(b"a", b"1")]),
        ([(b"a", b"")], [(b"a", b"")]),
        ([(b"a", b" \t1 2\t ")], [(b"a", b"1 2")]),
        ([(b"a", b" \t")], [(b"a", b"")]),
        ([(b"a", "ü".encode("latin-1"))], [(b"a", b"\xfc")]),
        ([(b"!#$%&'*+-.^_`|~09azAZ", b"1")], [(b"!#$%&'*+-.^_`|~09azAZ", b"1")]),
    ],
)
def test_headers(headers: object, expected: list[tuple[bytes, bytes]]) -> None:
    """Pairs of bytes-like objects keep their order, case and number; white space around values is removed."""
    head = started(headers).head
    assert head is not None
    assert head == Head(200, expected)
    assert all(type(part) is bytes for pair in head.headers for part in pair)


def test_no_headers() -> None:
    """A response may have no headers."""
    protocol = HTTPProtocol("GET")
    protocol.send(OK)
    assert protocol.head == Head(200, [])


@each_row(
    "headers",
    [
        5,
        True,
        ...,
        "ab",
        b"ab",
        [None],
        [5],
        ["ab"],
        [b"ab"],
        [()],
        [(b"a",)],
        [(b"a", b"b", b"c")],
        [("a", b"b")],
        [(b"a", "b")],
        [(b"a", 5)],
        [(b"a", None)],
        [(b"a", [98])],
        {b"a": b"b"},
        {"ab": b"b"},
        [(b"a", b"b"), ("a", "b")],
    ],
)
def test_headers_of_a_wrong_type(headers: object) -> None:
    """Headers that are not pairs of bytes are an error."""
    protocol = HTTPProtocol("GET")
    error = error_of(protocol, {"type": START, "status": 200, "headers": headers})
    assert type(error) is MessageError
    assert "headers must be pairs of bytes, not " in str(error)
    assert protocol.head is None


@each_row("name", [b"", b" ", b"a b", b"a:", b"a\r\nb", b"a\n", b" a", b"a ", b"\xfc", b"a\0", b"(a)"])
def test_header_names(name: bytes) -> None:
    """A header name that is not a token is an error that shows it."""
    error = error_of(HTTPProtocol("GET"), {"type": START, "status": 200, "headers": [(name, b"1")]})
    assert type(error) is MessageError
    assert f"invalid header name {name!r}" in str(error)


@each_row("value", [b"\r", b"\n", b"\0", b"1\r\nSet-Cookie: a=b", b"1\n", b"\n1", b"1\0"])
def test_header_values(value: bytes) -> None:
    """A header value that would end its line is an error. The value may be a secret, so only the name is shown."""
    error = error_of(HTTPProtocol("GET"), {"type": START, "status": 200, "headers": [(b"Set-Cookie", value)]})
    assert type(error) is MessageError
    assert str(error) == f"{START}: the value of the header b'Set-Cookie' contains CR, LF or NUL"


TOKEN_CHARS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
TOKEN = st.text(TOKEN_CHARS, min_size=1).map(str.encode).filter(lambda name: name.lower() != b"content-length")


@settings(max_examples=30)
@given(st.lists(st.tuples(TOKEN, st.binary(max_size=8)), max_size=5))
def test_any_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Headers are accepted as they are, or refused."""
    is_good = not any(char in value for _, value in headers for char in (b"\r", b"\n", b"\0"))
    if is_good:
        assert started(headers).head == Head(200, [(name, value.strip(b" \t")) for name, value in headers])
    else:
        assert type(error_of(HTTPProtocol("GET"), {**OK, "headers": headers})) is MessageError


@settings(max_examples=50)
@given(st.binary(max_size=3) | st.text(TOKEN_CHARS, min_size=1).map(str.encode))
def test_any_header_name(name: bytes) -> None:
    """A header name is accepted as it is if it is a token, or refused."""
    protocol = HTTPProtocol("GET")
    if name and set(name.decode("latin-1")) <= set(TOKEN_CHARS):
        protocol.send({**OK, "headers": [(name, b"1")]})
        assert protocol.head == Head(200, [(name, b"1")])
    else:
        assert type(error_of(protocol, {**OK, "headers": [(name, b"1")]})) is MessageError


def test_valid_start_after_an_invalid_one() -> None:
    """After an invalid start, an app may send a valid one."""
    for bad in ({"status": 5}, {"status": 200, "headers": 5}, {"status": 200, "headers": [(b"Content-Length", b"x")]}):
        protocol = HTTPProtocol("GET")
        error_of(protocol, {"type": START, **bad})
        protocol.send({"type": START, "status": 500})
        assert protocol.send({"type": BODY, "body": b"sorry"}) == b"sorry"
        assert state_of(protocol) == (Head(500, []), True)


def test_valid_start_after_an_invalid_one_without_a_body() -> None:
    """An invalid start of a response without a body does not remove the body of the response that follows."""
    protocol = HTTPProtocol("GET")
    error_of(protocol, {"type": START, "status": 204, "headers": [(b"Content-Length", b"x")]})
    protocol.send({"type": START, "status": 500})
    assert protocol.send({"type": BODY, "body": b"sorry"}) == b"sorry"


# Bodies.


@each_row(
    ("body", "expected"),
    [
        (b"", b""),
        (b"text", b"text"),
        (bytearray(b"text"), b"text"),
        (memoryview(b"text"), b"text"),
        (memoryview(b"t.e.x.t")[::2], b"text"),
        (bytearray(), b""),
        (None, b""),
    ],
)
@each_row("more_body", [False, True])
def test_body(body: object, expected: bytes, more_body: bool) -> None:
    """A body is a bytes-like object; None is an empty one."""
    protocol = started()
    got = protocol.send({"type": BODY, "body": body, "more_body": more_body})
    assert (got, type(got)) == (expected, bytes)
    assert protocol.is_complete is not more_body


def test_body_is_a_copy() -> None:
    """A buffer that the app changes afterwards does not change what it has sent."""
    buffer = bytearray(b"text")
    got = started().send({"type": BODY, "body": buffer})
    buffer[:] = b"gone"
    assert got == b"text"


@pytest.mark.parametrize(("more", "is_complete"), [({}, True), ({"more_body": None}, True), ({"more_body": 1}, False)])
def test_no_body(more: dict[str, object], is_complete: bool) -> None:
    """A message without a body has an empty one, and ends the response unless more_body is true."""
    protocol = started()
    assert protocol.send({"type": BODY, **more}) == b""
    assert protocol.is_complete is is_complete


@each_row("body", ["text", "", 0, 5, False, [116], ()])
def test_body_of_a_wrong_type(body: object) -> None:
    """A body that is not bytes-like is an error that names its type, even if the response must not have a body."""
    for method in ("GET", "HEAD"):
        protocol = started(method=method)
        error = error_of(protocol, {"type": BODY, "body": body})
        assert type(error) is MessageError
        assert str(error) == f"{BODY}: body must be bytes, not {type(body).__name__}"
        assert not protocol.is_complete


@each_row(("method", "status"), [("HEAD", 200), ("HEAD", 404), ("HEAD", 204), ("GET", 101), ("GET", 204), ("GET", 304)])
def test_response_without_a_body(method: str, status: int) -> None:
    """The body of a response that must not have one is dropped, whatever its Content-Length."""
    for length in (None, b"0", b"1", b"100"):
        protocol = started(method=method, status=status, length=length)
        assert protocol.send({"type": BODY, "body": b"some", "more_body": True}) == b""
        assert not protocol.is_complete
        assert protocol.send({"type": BODY, "body": b"text"}) == b""
        assert protocol.is_complete


@each_row(("method", "status"), [("GET", 200), ("POST", 201), ("DELETE", 205), ("GET", 404), ("GET", 301)])
def test_response_with_a_body(method: str, status: int) -> None:
    """Any other response has the body that the app sends."""
    assert started(method=method, status=status).send({"type": BODY, "body": b"text"}) == b"text"


# Content-Length.


@each_row("parts", [[b"text"], [b"te", b"xt"], [b"", b"text", b""], [b"text", b""], [b"t", b"e", b"x", b"t"]])
def test_content_length(parts: list[bytes]) -> None:
    """A body that matches its Content-Length is accepted in any parts."""
    protocol = started(length=b"4")
    sent = [
        protocol.send({"type": BODY, "body": part, "more_body": number < len(parts)})
        for number, part in enumerate(parts, 1)
    ]
    assert sent == parts
    assert protocol.is_complete


@each_row(("body", "than"), [(b"longer", "longer"), (b"s", "shorter"), (b"", "shorter"), (None, "shorter")])
def test_wrong_content_length(body: bytes | None, than: str) -> None:
    """A body of another length is an error that says so, and does not complete the response."""
    for name in (b"content-length", b"Content-Length", b"CONTENT-LENGTH"):
        protocol = started([(name, b"4")])
        error = error_of(protocol, {"type": BODY, "body": body})
        assert type(error) is MessageError
        assert str(error) == f"the response body is {than} than its Content-Length of 4"
        assert not protocol.is_complete


def test_too_long_before_its_end() -> None:
    """A part that would make a body too long is an error at once, and does not count as sent."""
    protocol = started(length=b"4")
    protocol.send({"type": BODY, "body": b"123", "more_body": True})
    assert "longer" in str(error_of(protocol, {"type": BODY, "body": b"45", "more_body": True}))
    assert protocol.send({"type": BODY, "body": b"4", "more_body": True}) == b"4"
    assert "longer" in str(error_of(protocol, {"type": BODY, "body": b"5"}))
    assert protocol.send({"type": BODY}) == b""
    assert protocol.is_complete


def test_too_short_body_may_go_on() -> None:
    """A body that was too short at its end may still be completed."""
    protocol = started(length=b"4")
    assert "shorter" in str(error_of(protocol, {"type": BODY, "body": b"123"}))
    assert protocol.send({"type": BODY, "body": b"1234"}) == b"1234"


@each_row(
    "value", [b"", b" ", b"-1", b"+4", b"4.0", b"4 4", b"4, 4", b"0x4", b"1_000", b"four", "٤".encode(), b"9" * 5000]
)
def test_bad_content_length(value: bytes) -> None:
    """A Content-Length that is not a number is an error."""
    protocol = HTTPProtocol("GET")
    error = error_of(protocol, {**OK, "headers": [(b"content-length", value)]})
    assert type(error) is MessageError
    assert protocol.head is None


@each_row(
    ("values", "is_good"),
    [
        ([b"4", b"4"], True),
        ([b"4", b" 4\t"], True),
        ([b"4", b"5"], False),
        ([b"4", b"04"], False),
        ([b"4", b""], False),
    ],
)
def test_content_length_twice(values: Iterable[bytes], is_good: bool) -> None:
    """A repeated Content-Length is accepted if the values are the same."""
    protocol = HTTPProtocol("GET")
    message = {**OK, "headers": [(b"Content-Length", value) for value in values]}
    if is_good:
        protocol.send(message)
        assert protocol.send({"type": BODY, "body": b"text"}) == b"text"
    else:
        error = error_of(protocol, message)
        assert (type(error), str(error)) == (MessageError, f"{START}: Content-Length must be a single number")


def test_similar_header_names() -> None:
    """A header with a similar name is not a Content-Length."""
    protocol = started([(b"content-lengty", b"4"), (b"content-lengths", b"4")])
    assert protocol.send({"type": BODY, "body": b"longer"}) == b"longer"


@settings(max_examples=50)
@given(st.integers(0, 12), st.lists(st.binary(max_size=4), min_size=1, max_size=5))
def test_any_content_length(length: int, parts: list[bytes]) -> None:
    """A response is complete if and only if its whole body has the announced length; no more is ever sent."""
    protocol = started(length=b"%d" % length)
    sent = b""
    for number, part in enumerate(parts, 1):
        try:
            sent += protocol.send({"type": BODY, "body": part, "more_body": number < len(parts)})
        except MessageError:
            break
    assert length >= len(sent)
    assert protocol.is_complete is (sum(map(len, parts)) == length)


# The end.

STAGES = ["NEW", "STARTED", "FLOWING", "COMPLETE"]
# What the caller gets: "broken" is a RemoteProtocolError, "500" that status and no error.
AT_THE_END = {
    # stage:   app returned            app raised
    # raise_app_exceptions:
    #          True      False         True     False
    "NEW": ["broken", "broken", "error", "500"],
    "STARTED": ["broken", "broken", "error", "broken"],
    "FLOWING": ["broken", "broken", "error", "broken"],
    "COMPLETE": ["nothing", "nothing", "error", "nothing"],
}
WHERE = {
    "NEW": "before it sent http.response.start",
    "STARTED": "in the middle of the response body",
    "FLOWING": "in the middle of the response body",
}


@each_row("raise_app_exceptions", [True, False])
@each_row("raises", [False, True])
@each_row("stage", STAGES)
def test_end(stage: str, raises: bool, raise_app_exceptions: bool) -> None:
    """What the caller gets depends on the stage, and on raise_app_exceptions."""
    protocol = protocol_in(stage)
    before = state_of(protocol)
    error = ZeroDivisionError("by zero") if raises else None
    expected = AT_THE_END[stage][2 * raises + (not raise_app_exceptions)]
    outcome = protocol.end(error, raise_app_exceptions=raise_app_exceptions)
    assert state_of(protocol) == ((Head(500, []), True) if expected == "500" else before)
    if expected == "error":
        assert outcome is error
    elif expected == "broken":
        assert type(outcome) is httpx.RemoteProtocolError
        expected = "failed {}: ZeroDivisionError: by zero" if raises else "returned {}"
        assert str(outcome) == f"the app {expected.format(WHERE[stage])}"
        assert outcome.__cause__ is error
    else:
        assert outcome is None


@each_row("raise_app_exceptions", [True, False])
@each_row(
    "error",
    [Odd(), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), BaseExceptionGroup("", [Odd(), ValueError()])],
)
def test_end_by_a_base_exception(error: BaseException, raise_app_exceptions: bool) -> None:
    """The caller always gets a BaseException that is not an Exception."""
    for stage in STAGES:
        protocol = protocol_in(stage)
        before = state_of(protocol)
        assert protocol.end(error, raise_app_exceptions=raise_app_exceptions) is error
        assert state_of(protocol) == before


def test_end_by_a_base_exception_group() -> None:
    """A group with such a BaseException goes to the caller, whatever else it contains."""
    protocol = HTTPProtocol("GET")
    group = BaseExceptionGroup("", [error_of(protocol), Odd()])
    assert protocol.end(group, raise_app_exceptions=True) is group


WRAPS: dict[str, Callable[[Exception], Exception]] = {
    "plain": lambda error: error,
    "group": lambda error: ExceptionGroup("", [error]),
    "group of several": lambda error: ExceptionGroup("", [OSError(), error]),
    "group in a group": lambda error: ExceptionGroup("", [OSError(), ExceptionGroup("", [ValueError(), error])]),
}


@each_row("raise_app_exceptions", [True, False])
@each_row("stage", STAGES)
@each_row("wrap", WRAPS.values(), ids=WRAPS)
def test_end_by_an_invalid_message(
    wrap: Callable[[Exception], Exception], stage: str, raise_app_exceptions: bool
) -> None:
    """An app that fails because of an invalid message has broken its response; its error is the cause."""
    protocol = protocol_in(stage)
    error = wrap(error_of(protocol, {"type": "http.wrong"}))
    outcome = protocol.end(error, raise_app_exceptions=raise_app_exceptions)
    if stage == "COMPLETE":
        assert outcome is (error if raise_app_exceptions else None)
    elif stage == "NEW" and not raise_app_exceptions:
        assert outcome is None
        assert state_of(protocol) == (Head(500, []), True)
    else:
        assert type(outcome) is httpx.RemoteProtocolError
        assert str(outcome).startswith("the app sent an invalid message: unknown ASGI message type 'http.wrong'")
        assert outcome.__cause__ is error


@each_row("raise_app_exceptions", [True, False])
@each_row("stage", ["NEW", "STARTED", "FLOWING"])
def test_end_after_an_error_that_the_app_has_caught(stage: str, raise_app_exceptions: bool) -> None:
    """If an app catches the error for an invalid message and returns too early, that error is the cause."""
    protocol = protocol_in(stage)
    cause = error_of(protocol)
    outcome = protocol.end(None, raise_app_exceptions=raise_app_exceptions)
    assert type(outcome) is httpx.RemoteProtocolError
    assert str(outcome) == f"the app returned {WHERE[stage]}"
    assert outcome.__cause__ is cause


def test_wrong_content_length_is_the_cause() -> None:
    """If a body is shorter than announced, the cause of the error says so."""
    protocol = started(length=b"4")
    cause = error_of(protocol, {"type": BODY, "body": b"s"})
    outcome = protocol.end(cause, raise_app_exceptions=True)
    assert isinstance(outcome, httpx.RemoteProtocolError)
    assert outcome.__cause__ is cause
    assert "shorter than its Content-Length of 4" in str(outcome)


@pytest.mark.parametrize("error", [OSError(), ExceptionGroup("", [OSError()])], ids=repr)
def test_end_by_another_error_after_an_invalid_message(error: Exception) -> None:
    """If an app catches the error for an invalid message and raises another exception, the caller gets that."""
    protocol = HTTPProtocol("GET")
    error_of(protocol)
    assert protocol.end(error, raise_app_exceptions=True) is error


def test_end_by_the_first_of_two_invalid_messages() -> None:
    """The error for the first of two invalid messages is the cause if the app raises it."""
    protocol = HTTPProtocol("GET")
    first = error_of(protocol, {"type": BODY})
    error_of(protocol, {"type": "http.wrong"})
    outcome = protocol.end(first, raise_app_exceptions=True)
    assert isinstance(outcome, httpx.RemoteProtocolError)
    assert outcome.__cause__ is first


def test_end_by_an_equal_error() -> None:
    """An exception that only equals the protocol's error is the app's own."""

    class Equal(Exception):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = Exception.__hash__

    protocol = HTTPProtocol("GET")
    error_of(protocol)
    for error in (Equal(), ExceptionGroup("", [Equal()])):
        assert protocol.end(error, raise_app_exceptions=True) is error


@settings(max_examples=50)
@given(
    st.sampled_from(STAGES),
    st.sampled_from([None, ZeroDivisionError(), ExceptionGroup("", [OSError()]), Odd()]),
    st.booleans(),
    st.booleans(),
)
def test_any_end(stage: str, error: Any, raise_app_exceptions: bool, sends_wrongly: bool) -> None:
    """However a call ends, the caller gets a complete response or an exception."""
    protocol = protocol_in(stage)
    if sends_wrongly:
        error_of(protocol)
    outcome = protocol.end(error, raise_app_exceptions=raise_app_exceptions)
    assert outcome is not None or protocol.is_complete
    assert not protocol.is_complete or protocol.head is not None
