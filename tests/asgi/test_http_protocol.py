"""What an app may send in answer to a request, as a state machine: no app, no loop."""

from __future__ import annotations

import string
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_http._asgi.http_protocol import Head, HTTPProtocol, MessageError

START = "http.response.start"
BODY = "http.response.body"
OK: dict[str, object] = {"type": START, "status": 200}

# How to come into each stage.
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
# What each event does in each stage: the bytes it gives, "-" for none; or the words of the error, and no change.
TABLE = {
    "NEW": ["-", "before http.response.start", "before http.response.start"],
    "STARTED": ["sent twice", "ab", "cd"],
    "FLOWING": ["sent twice", "ab", "cd"],
    "COMPLETE": ["after the response was complete"] * 3,
    "COMPLETE after more": ["after the response was complete"] * 3,
}


class Odd(BaseException):
    """What no app should raise and no server catch."""


def protocol_in(stage: str, method: str = "GET") -> HTTPProtocol:
    """Make a protocol and bring it into a stage."""
    protocol = HTTPProtocol(method)
    for event in WAYS[stage].split():
        protocol.send(EVENTS[event])
    return protocol


def state_of(protocol: HTTPProtocol) -> tuple[Head | None, bool]:
    """Give all that a protocol shows."""
    return protocol.head, protocol.is_complete


def started(
    headers: object = (), *, status: int = 200, method: str = "GET", length: bytes | None = None
) -> HTTPProtocol:
    """Make a protocol whose app has sent the beginning of its response."""
    protocol = HTTPProtocol(method)
    if length is not None:
        headers = [(b"Content-Length", length)]
    protocol.send({"type": START, "status": status, "headers": headers})
    return protocol


def refusal(protocol: HTTPProtocol, message: object = None) -> Exception:
    """Give the error that a protocol has for a message, a wrong one if none is given."""
    with pytest.raises(MessageError) as caught:
        protocol.send(cast("Mapping[str, object]", message))
    return caught.value


# Stages.


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("stage", WAYS)
def test_table(stage: str, event: str) -> None:
    """In each stage, each message gives the bytes that the table says, or is an error that names it."""
    protocol = protocol_in(stage)
    before = state_of(protocol)
    known = list(EVENTS).index(event) < 3
    expected = (
        TABLE[stage][list(EVENTS).index(event)] if known else f"unknown ASGI message type {EVENTS[event]['type']!r}"
    )
    if " " in expected:
        error = refusal(protocol, EVENTS[event])
        assert type(error) is MessageError
        assert expected in str(error)
        assert str(EVENTS[event]["type"]) in str(error)
        assert state_of(protocol) == before
    else:
        assert protocol.send(EVENTS[event]) == expected.strip("-").encode()
        assert protocol.head == Head(200, [(b"X-Part", b"one")])
        assert protocol.is_complete is (event == "last")


def test_new() -> None:
    """Before the first message there is no head, and nothing is complete."""
    assert state_of(HTTPProtocol("GET")) == (None, False)


def test_unknown_type_says_what_is_known() -> None:
    """The error for an unknown type says which types there are, and quotes a long one in part."""
    error = refusal(HTTPProtocol("GET"), {"type": "http." * 1000})
    assert f"expected {START} or {BODY}" in str(error)
    assert len(str(error)) < 400


@given(
    st.sampled_from(["GET", "HEAD"]),
    st.lists(st.one_of(st.sampled_from(list(EVENTS.values())), st.none(), st.just({"type": BODY, "body": 5}))),
)
def test_no_history_breaks_the_promises(method: str, messages: list[Mapping[str, object]]) -> None:
    """Whatever an app sends, there is one head, then bytes, then an end; and what is refused changes nothing."""
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


@pytest.mark.parametrize("stage", WAYS)
@pytest.mark.parametrize("message", [None, BODY, 5, b"type", [("type", START)], [], object()])
def test_not_a_message(stage: str, message: object) -> None:
    """What is no dict is an error that shows it, in every stage, and changes nothing."""
    protocol = protocol_in(stage)
    before = state_of(protocol)
    error = refusal(protocol, message)
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
    """A message without what it must have is an error that says what that is."""
    error = refusal(HTTPProtocol("GET"), message)
    assert type(error) is MessageError
    assert str(error) == text


def test_any_mapping_is_a_message() -> None:
    """A message need not be a dict."""
    protocol = HTTPProtocol("GET")
    protocol.send(UserDict[str, object]({"type": START, "status": 201}))
    assert protocol.send(UserDict[str, object]({"type": BODY, "body": b"text"})) == b"text"
    assert state_of(protocol) == (Head(201, []), True)


def test_long_values_are_quoted_in_part() -> None:
    """An error quotes the beginning of what the app has sent, however long it is."""
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
        assert len(str(refusal(HTTPProtocol("GET"), message))) < 400


# Status.


@pytest.mark.parametrize("status", [101, 200, 201, 204, 299, 304, 404, 500, 599, 600, 999, HTTPStatus.IM_A_TEAPOT])
def test_status(status: int) -> None:
    """A status that ends a request is taken as it is."""
    assert started(status=status).head == Head(status, [])


@pytest.mark.parametrize("status", [-200, -1, 0, 1, 99, 100, 102, 103, 199, 1000, 2000])
def test_status_out_of_range(status: int) -> None:
    """A status that HTTP does not know, or that announces another, is an error."""
    protocol = HTTPProtocol("GET")
    error = refusal(protocol, {"type": START, "status": status})
    assert type(error) is MessageError
    assert f"not {status}" in str(error)
    assert protocol.head is None


@pytest.mark.parametrize("status", [None, "200", b"200", 200.0, True, False, [200]], ids=repr)
def test_status_of_a_wrong_type(status: object) -> None:
    """A status that is no int is an error that shows it; a bool is none."""
    error = refusal(HTTPProtocol("GET"), {"type": START, "status": status})
    assert type(error) is MessageError
    assert f"status must be an int, not {status!r}" in str(error)


# Headers.


@pytest.mark.parametrize(
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
    """Pairs of whatever is like bytes come out in their order, case and number, without white space around values."""
    head = started(headers).head
    assert head is not None
    assert head == Head(200, expected)
    assert all(type(part) is bytes for pair in head.headers for part in pair)


def test_no_headers() -> None:
    """A response need not have headers."""
    protocol = HTTPProtocol("GET")
    protocol.send(OK)
    assert protocol.head == Head(200, [])


@pytest.mark.parametrize(
    "headers",
    [
        5,
        True,
        object(),
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
    ids=repr,
)
def test_headers_of_a_wrong_type(headers: object) -> None:
    """Headers that are no pairs of bytes are an error."""
    protocol = HTTPProtocol("GET")
    error = refusal(protocol, {"type": START, "status": 200, "headers": headers})
    assert type(error) is MessageError
    assert "headers must be pairs of bytes, not " in str(error)
    assert protocol.head is None


@pytest.mark.parametrize("name", [b"", b" ", b"a b", b"a:", b"a\r\nb", b"a\n", b" a", b"a ", b"\xfc", b"a\0", b"(a)"])
def test_header_names(name: bytes) -> None:
    """A header name that is no token is an error that shows it."""
    error = refusal(HTTPProtocol("GET"), {"type": START, "status": 200, "headers": [(name, b"1")]})
    assert type(error) is MessageError
    assert f"invalid header name {name!r}" in str(error)


@pytest.mark.parametrize("value", [b"\r", b"\n", b"\0", b"1\r\nSet-Cookie: a=b", b"1\n", b"\n1", b"1\0"])
def test_header_values(value: bytes) -> None:
    """A header value that would end its line is an error; it may be a secret, so only the name is shown."""
    error = refusal(HTTPProtocol("GET"), {"type": START, "status": 200, "headers": [(b"Set-Cookie", value)]})
    assert type(error) is MessageError
    assert str(error) == f"{START}: the value of the header b'Set-Cookie' contains CR, LF or NUL"


TOKEN_CHARS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
TOKEN = st.text(TOKEN_CHARS, min_size=1).map(str.encode).filter(lambda name: name.lower() != b"content-length")


@given(st.lists(st.tuples(TOKEN, st.binary())))
def test_any_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Headers go through as they are, or not at all."""
    is_good = not any(char in value for _, value in headers for char in (b"\r", b"\n", b"\0"))
    if is_good:
        assert started(headers).head == Head(200, [(name, value.strip(b" \t")) for name, value in headers])
    else:
        assert type(refusal(HTTPProtocol("GET"), {**OK, "headers": headers})) is MessageError


@given(st.binary(max_size=3) | st.text(TOKEN_CHARS, min_size=1).map(str.encode))
def test_any_header_name(name: bytes) -> None:
    """A name goes through as it is, if it is a token, or not at all."""
    protocol = HTTPProtocol("GET")
    if name and set(name.decode("latin-1")) <= set(TOKEN_CHARS):
        protocol.send({**OK, "headers": [(name, b"1")]})
        assert protocol.head == Head(200, [(name, b"1")])
    else:
        assert type(refusal(protocol, {**OK, "headers": [(name, b"1")]})) is MessageError


def test_another_try() -> None:
    """An app whose first beginning was refused may send a better one."""
    for bad in ({"status": 5}, {"status": 200, "headers": 5}, {"status": 200, "headers": [(b"Content-Length", b"x")]}):
        protocol = HTTPProtocol("GET")
        refusal(protocol, {"type": START, **bad})
        protocol.send({"type": START, "status": 500})
        assert protocol.send({"type": BODY, "body": b"sorry"}) == b"sorry"
        assert state_of(protocol) == (Head(500, []), True)


def test_another_try_after_one_without_a_body() -> None:
    """A refused beginning of a response without a body does not take away the body of the one that comes instead."""
    protocol = HTTPProtocol("GET")
    refusal(protocol, {"type": START, "status": 204, "headers": [(b"Content-Length", b"x")]})
    protocol.send({"type": START, "status": 500})
    assert protocol.send({"type": BODY, "body": b"sorry"}) == b"sorry"


# Bodies.


@pytest.mark.parametrize(
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
@pytest.mark.parametrize("more_body", [False, True])
def test_body(body: object, expected: bytes, more_body: bool) -> None:
    """A body is whatever is like bytes; None is none."""
    protocol = started()
    got = protocol.send({"type": BODY, "body": body, "more_body": more_body})
    assert (got, type(got)) == (expected, bytes)
    assert protocol.is_complete is not more_body


def test_body_is_a_copy() -> None:
    """What an app does to its buffer afterwards does not change what it has sent."""
    buffer = bytearray(b"text")
    got = started().send({"type": BODY, "body": buffer})
    buffer[:] = b"gone"
    assert got == b"text"


@pytest.mark.parametrize(("more", "is_complete"), [({}, True), ({"more_body": None}, True), ({"more_body": 1}, False)])
def test_no_body(more: dict[str, object], is_complete: bool) -> None:
    """A message without a body has an empty one, and ends the response unless it says otherwise."""
    protocol = started()
    assert protocol.send({"type": BODY, **more}) == b""
    assert protocol.is_complete is is_complete


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("body", ["text", "", 0, 5, False, [116], ()], ids=repr)
def test_body_of_a_wrong_type(body: object, method: str) -> None:
    """A body that is not like bytes is an error that names its type, also where the response has none."""
    protocol = started(method=method)
    error = refusal(protocol, {"type": BODY, "body": body})
    assert type(error) is MessageError
    assert str(error) == f"{BODY}: body must be bytes, not {type(body).__name__}"
    assert not protocol.is_complete


@pytest.mark.parametrize("length", [None, b"0", b"1", b"100"])
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("HEAD", 404), ("HEAD", 204), ("GET", 101), ("GET", 204), ("GET", 304)]
)
def test_response_without_a_body(method: str, status: int, length: bytes | None) -> None:
    """The body of a response that must not have one is thrown away, whatever length was announced."""
    protocol = started(method=method, status=status, length=length)
    assert protocol.send({"type": BODY, "body": b"some", "more_body": True}) == b""
    assert not protocol.is_complete
    assert protocol.send({"type": BODY, "body": b"text"}) == b""
    assert protocol.is_complete


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("POST", 201), ("DELETE", 205), ("GET", 404), ("GET", 301)]
)
def test_response_with_a_body(method: str, status: int) -> None:
    """Any other response has the body that the app gives it."""
    assert started(method=method, status=status).send({"type": BODY, "body": b"text"}) == b"text"


# Content-Length.


@pytest.mark.parametrize(
    "parts", [[b"text"], [b"te", b"xt"], [b"", b"text", b""], [b"text", b""], [b"t", b"e", b"x", b"t"]]
)
def test_content_length(parts: list[bytes]) -> None:
    """A body of the announced length goes through, in any parts."""
    protocol = started(length=b"4")
    sent = [
        protocol.send({"type": BODY, "body": part, "more_body": number < len(parts)})
        for number, part in enumerate(parts, 1)
    ]
    assert sent == parts
    assert protocol.is_complete


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length", b"CONTENT-LENGTH"])
@pytest.mark.parametrize(
    ("body", "than"), [(b"longer", "longer"), (b"s", "shorter"), (b"", "shorter"), (None, "shorter")]
)
def test_wrong_content_length(name: bytes, body: bytes | None, than: str) -> None:
    """A body of another length is an error that says so, and does not complete the response."""
    protocol = started([(name, b"4")])
    error = refusal(protocol, {"type": BODY, "body": body})
    assert type(error) is MessageError
    assert str(error) == f"the response body is {than} than its Content-Length of 4"
    assert not protocol.is_complete


def test_too_long_before_its_end() -> None:
    """A body is too long as soon as it is; the part that would be too long counts as not sent."""
    protocol = started(length=b"4")
    protocol.send({"type": BODY, "body": b"123", "more_body": True})
    assert "longer" in str(refusal(protocol, {"type": BODY, "body": b"45", "more_body": True}))
    assert protocol.send({"type": BODY, "body": b"4", "more_body": True}) == b"4"
    assert "longer" in str(refusal(protocol, {"type": BODY, "body": b"5"}))
    assert protocol.send({"type": BODY}) == b""
    assert protocol.is_complete


def test_too_short_may_go_on() -> None:
    """A body whose end came too soon may be sent to its end all the same."""
    protocol = started(length=b"4")
    assert "shorter" in str(refusal(protocol, {"type": BODY, "body": b"123"}))
    assert protocol.send({"type": BODY, "body": b"1234"}) == b"1234"


@pytest.mark.parametrize(
    "value", [b"", b" ", b"-1", b"+4", b"4.0", b"4 4", b"4, 4", b"0x4", b"1_000", b"four", "٤".encode(), b"9" * 5000]
)
def test_bad_content_length(value: bytes) -> None:
    """A Content-Length that is no number is an error."""
    protocol = HTTPProtocol("GET")
    error = refusal(protocol, {**OK, "headers": [(b"content-length", value)]})
    assert type(error) is MessageError
    assert protocol.head is None


@pytest.mark.parametrize(
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
    """A Content-Length may come twice if it says the same."""
    protocol = HTTPProtocol("GET")
    message = {**OK, "headers": [(b"Content-Length", value) for value in values]}
    if is_good:
        protocol.send(message)
        assert protocol.send({"type": BODY, "body": b"text"}) == b"text"
    else:
        error = refusal(protocol, message)
        assert (type(error), str(error)) == (MessageError, f"{START}: Content-Length must be a single number")


def test_header_of_the_same_length() -> None:
    """Only the Content-Length is one."""
    protocol = started([(b"content-lengty", b"4"), (b"content-lengths", b"4")])
    assert protocol.send({"type": BODY, "body": b"longer"}) == b"longer"


@given(st.integers(0, 12), st.lists(st.binary(max_size=4), min_size=1, max_size=5))
def test_any_content_length(length: int, parts: list[bytes]) -> None:
    """A response completes if and only if all of its body has the announced length, and never sends more than that."""
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
# What the caller gets: "spoilt" is a RemoteProtocolError, "500" that status and no error.
AT_THE_END = {
    # stage: what the app's call came to
    #          returned  returned, plain off  raised   raised, plain off
    "NEW": ["spoilt", "spoilt", "error", "500"],
    "STARTED": ["spoilt", "spoilt", "error", "spoilt"],
    "FLOWING": ["spoilt", "spoilt", "error", "spoilt"],
    "COMPLETE": ["nothing", "nothing", "error", "nothing"],
}
WHERE = {
    "NEW": "before it sent http.response.start",
    "STARTED": "in the middle of the response body",
    "FLOWING": "in the middle of the response body",
}


@pytest.mark.parametrize("raise_app_exceptions", [True, False])
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_end(stage: str, raises: bool, raise_app_exceptions: bool) -> None:
    """What the caller gets depends on what there is of the response, and whether it wants the app's exceptions."""
    protocol = protocol_in(stage)
    before = state_of(protocol)
    error = ZeroDivisionError("by zero") if raises else None
    expected = AT_THE_END[stage][2 * raises + (not raise_app_exceptions)]
    outcome = protocol.end(error, raise_app_exceptions=raise_app_exceptions)
    assert state_of(protocol) == ((Head(500, []), True) if expected == "500" else before)
    if expected == "error":
        assert outcome is error
    elif expected == "spoilt":
        assert type(outcome) is httpx.RemoteProtocolError
        how = "failed with ZeroDivisionError: by zero," if raises else "returned"
        assert str(outcome) == f"the app {how} {WHERE[stage]}"
        assert outcome.__cause__ is error
    else:
        assert outcome is None


@pytest.mark.parametrize("raise_app_exceptions", [True, False])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "error",
    [Odd(), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), BaseExceptionGroup("", [Odd(), ValueError()])],
    ids=lambda error: type(error).__name__,
)
def test_end_by_what_is_no_exception(error: BaseException, stage: str, raise_app_exceptions: bool) -> None:
    """A BaseException is never held back, never explained away and never a status."""
    protocol = protocol_in(stage)
    before = state_of(protocol)
    assert protocol.end(error, raise_app_exceptions=raise_app_exceptions) is error
    assert state_of(protocol) == before


def test_base_group_that_holds_the_protocols_error() -> None:
    """A group with a BaseException in it goes to the caller, whatever else it holds."""
    protocol = HTTPProtocol("GET")
    group = BaseExceptionGroup("", [refusal(protocol), Odd()])
    assert protocol.end(group, raise_app_exceptions=True) is group


WRAPS: dict[str, Callable[[Exception], Exception]] = {
    "plain": lambda error: error,
    "group": lambda error: ExceptionGroup("", [error]),
    "group of several": lambda error: ExceptionGroup("", [OSError(), error]),
    "group in a group": lambda error: ExceptionGroup("", [OSError(), ExceptionGroup("", [ValueError(), error])]),
}


@pytest.mark.parametrize("raise_app_exceptions", [True, False])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_end_by_the_protocols_error(
    wrap: Callable[[Exception], Exception], stage: str, raise_app_exceptions: bool
) -> None:
    """What an app sends wrongly spoils its response: the caller gets what the wire would give it, and the reason."""
    protocol = protocol_in(stage)
    error = wrap(refusal(protocol, {"type": "http.wrong"}))
    outcome = protocol.end(error, raise_app_exceptions=raise_app_exceptions)
    if stage == "COMPLETE":
        assert outcome is (error if raise_app_exceptions else None)
    elif stage == "NEW" and not raise_app_exceptions:
        assert outcome is None
        assert state_of(protocol) == (Head(500, []), True)
    else:
        assert type(outcome) is httpx.RemoteProtocolError
        assert str(outcome).startswith(f"the app failed with {type(error).__name__}")
        assert str(outcome).endswith(f", {WHERE[stage]}")
        assert outcome.__cause__ is error


@pytest.mark.parametrize("raise_app_exceptions", [True, False])
@pytest.mark.parametrize("stage", ["NEW", "STARTED", "FLOWING"])
def test_end_after_an_error_that_the_app_has_caught(stage: str, raise_app_exceptions: bool) -> None:
    """An app that swallows the error of a wrong message and returns too early leaves the error as the reason."""
    protocol = protocol_in(stage)
    reason = refusal(protocol)
    outcome = protocol.end(None, raise_app_exceptions=raise_app_exceptions)
    assert type(outcome) is httpx.RemoteProtocolError
    assert str(outcome) == f"the app returned {WHERE[stage]}"
    assert outcome.__cause__ is reason


def test_wrong_content_length_is_the_reason() -> None:
    """A body that is shorter than announced ends in an error whose cause says so."""
    protocol = started(length=b"4")
    reason = refusal(protocol, {"type": BODY, "body": b"s"})
    outcome = protocol.end(reason, raise_app_exceptions=True)
    assert isinstance(outcome, httpx.RemoteProtocolError)
    assert outcome.__cause__ is reason
    assert "shorter than its Content-Length of 4" in str(outcome)


@pytest.mark.parametrize("error", [OSError(), ExceptionGroup("", [OSError()])], ids=repr)
def test_end_by_another_error_after_a_wrong_message(error: Exception) -> None:
    """An app that swallows the error of a wrong message and fails by itself later fails with its own exception."""
    protocol = HTTPProtocol("GET")
    refusal(protocol)
    assert protocol.end(error, raise_app_exceptions=True) is error


def test_end_by_an_earlier_error_of_the_protocol() -> None:
    """An app that fails with its first wrong message has spoilt its response, also where a second one was swallowed."""
    protocol = HTTPProtocol("GET")
    first = refusal(protocol, {"type": BODY})
    refusal(protocol, {"type": "http.wrong"})
    outcome = protocol.end(first, raise_app_exceptions=True)
    assert isinstance(outcome, httpx.RemoteProtocolError)
    assert outcome.__cause__ is first


def test_equal_is_not_the_same() -> None:
    """An exception of the app that only equals the protocol's is the app's own."""

    class Equal(Exception):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = Exception.__hash__

    protocol = HTTPProtocol("GET")
    refusal(protocol)
    for error in (Equal(), ExceptionGroup("", [Equal()])):
        assert protocol.end(error, raise_app_exceptions=True) is error


@given(
    st.sampled_from(STAGES),
    st.sampled_from([None, ZeroDivisionError(), ExceptionGroup("", [OSError()]), Odd()]),
    st.booleans(),
    st.booleans(),
)
def test_an_end_is_always_an_answer(stage: str, error: Any, raise_app_exceptions: bool, sends_wrongly: bool) -> None:
    """Whatever a call comes to, the caller gets a whole response or an exception."""
    protocol = protocol_in(stage)
    if sends_wrongly:
        refusal(protocol)
    outcome = protocol.end(error, raise_app_exceptions=raise_app_exceptions)
    assert outcome is not None or protocol.is_complete
    assert not protocol.is_complete or protocol.head is not None
