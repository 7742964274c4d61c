"""The lifespan protocol as a state machine: no app, no loop."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Literal, cast, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http import LifespanError
from prefect_http._lifespan.protocol import LifespanProtocol, Phase

How = Literal["returned", "raised", "cancelled"]

HOW: tuple[How, ...] = get_args(How)
UP, UP_FAILED = "lifespan.startup.complete", "lifespan.startup.failed"
DOWN, DOWN_FAILED = "lifespan.shutdown.complete", "lifespan.shutdown.failed"
RESPONSE = "http.response.start"

# How to get into each phase: "receive", the type of a message, or how the call ends. "stop" asks the app to stop.
WAYS = {
    "CALLED": "",
    "STARTING": "receive",
    "UP": f"receive {UP}",
    "UP, asked to stop": f"receive {UP} stop",
    "STOPPING": f"receive {UP} stop receive",
    "FAILING": f"receive {UP} {DOWN_FAILED}",
    "DOWN": f"receive {UP} stop receive {DOWN}",
    "UNSUPPORTED": "returned",
    "STARTUP_FAILED": f"receive {UP_FAILED}",
    "SHUTDOWN_FAILED": f"receive {UP} stop receive {DOWN_FAILED}",
    "CRASHED": f"receive {UP} raised",
}

# What each event does in each phase: the next phase, "-" for nothing at all, "!" for an error and no change.
TABLE = f"""
                    receive   {UP} {UP_FAILED} {DOWN} {DOWN_FAILED} {RESPONSE}    returned     raised           cancelled
CALLED            | STARTING  UP   STARTUP_FAILED  !  !             !UNSUPPORTED  UNSUPPORTED  UNSUPPORTED      STARTUP_FAILED
STARTING          | -         UP   STARTUP_FAILED  !  !             !UNSUPPORTED  UNSUPPORTED  STARTUP_FAILED   STARTUP_FAILED
UP                | -         !    !               !  FAILING       !             DOWN         CRASHED          CRASHED
UP, asked to stop | STOPPING  !    !       DOWN  SHUTDOWN_FAILED    !             DOWN         SHUTDOWN_FAILED  SHUTDOWN_FAILED
STOPPING          | -         !    !       DOWN  SHUTDOWN_FAILED    !             DOWN         SHUTDOWN_FAILED  SHUTDOWN_FAILED
FAILING           | -         !    !               !  !             !             CRASHED      CRASHED          CRASHED
DOWN              | -         !    !               !  !             !             -            SHUTDOWN_FAILED  SHUTDOWN_FAILED
UNSUPPORTED       | -         !    !               !  !             !             -            -                -
STARTUP_FAILED    | -         !    !               !  !             !             -            -                -
SHUTDOWN_FAILED   | -         !    !               !  !             !             -            -                -
CRASHED           | -         !    !               !  !             !             -            -                -
"""  # noqa: E501

_HEAD, *_ROWS = TABLE.strip().splitlines()
CASES = [
    pytest.param(row.split("|")[0].strip(), event, expected, id=f"{row.split('|')[0].strip()}-{event}")
    for row in _ROWS
    for event, expected in zip(_HEAD.split(), row.split("|")[1].split(), strict=True)
]


def happen(protocol: LifespanProtocol, event: str) -> Mapping[str, object] | None:
    """Let an event happen; return the message for the app, if there is one."""
    if event == "receive":
        return protocol.receive()
    if event == "stop":
        protocol.asked_to_stop = True
    elif event in HOW:
        protocol.end(event)
    else:
        protocol.send({"type": event})
    return None


def protocol_in(place: str) -> LifespanProtocol:
    """Return a protocol in a phase."""
    protocol = LifespanProtocol()
    for event in WAYS[place].split():
        happen(protocol, event)
    assert protocol.phase is Phase[place.split(",")[0]]
    return protocol


@each_row(("place", "event", "expected"), CASES)
def test_table(place: str, event: str, expected: str) -> None:
    """In each phase, each event leads to the phase that the table says, or is an error that names it."""
    protocol = protocol_in(place)
    before = protocol.phase
    if expected.startswith("!"):
        with pytest.raises(LifespanError, match=event):
            happen(protocol, event)
    else:
        happen(protocol, event)
    following = expected.strip("!-")
    assert protocol.phase is (Phase[following] if following else before)


def test_table_is_whole() -> None:
    """The table has every phase."""
    assert {place.split(",")[0] for place in WAYS} == {phase.name for phase in Phase}
    assert len(CASES) == len(WAYS) * 9


@each_row("place", WAYS)
def test_messages_to_the_app(place: str) -> None:
    """The app gets its startup message first, its shutdown message once it is to stop, and nothing else."""
    messages = {"CALLED": {"type": "lifespan.startup"}, "UP, asked to stop": {"type": "lifespan.shutdown"}}
    assert protocol_in(place).receive() == messages.get(place)


def test_each_app_gets_its_own_message() -> None:
    """An app that changes a message it got does not change it for the next one."""
    for _ in range(2):
        message = LifespanProtocol().receive()
        assert message == {"type": "lifespan.startup"}
        message["type"] = "spoiled"


def test_asking_while_starting_spoils_nothing() -> None:
    """An app that asks for messages early gets its shutdown message once it is to stop."""
    protocol = protocol_in("STARTING")
    assert protocol.receive() is None
    protocol.send({"type": UP})
    assert protocol.receive() is None
    protocol.asked_to_stop = True
    assert protocol.receive() == {"type": "lifespan.shutdown"}


@each_row(("place", "kind"), [("STARTING", UP_FAILED), ("STOPPING", DOWN_FAILED)])
@each_row(
    ("extra", "text"),
    [({}, ""), ({"message": "no database"}, "no database"), ({"message": 5}, "5")],
    ids=["none", "text", "number"],
)
def test_message_of_a_failure(place: str, kind: str, extra: dict[str, object], text: str) -> None:
    """The message that an app sends with a failure is kept, as text."""
    protocol = protocol_in(place)
    protocol.send({"type": kind, **extra})
    assert protocol.message == text


@each_row(
    "message",
    [None, "lifespan.startup.complete", [("type", UP)], {}, {"type": None}, {"type": b"lifespan.startup.complete"}],
    ids=["None", "str", "list", "empty", "type-None", "type-bytes"],
)
def test_not_a_message(message: object) -> None:
    """Anything but an ASGI message is an error that shows it, and changes nothing."""
    protocol = protocol_in("STARTING")
    with pytest.raises(LifespanError, match="'type'"):
        protocol.send(cast("Mapping[str, object]", message))
    assert protocol.phase is Phase.STARTING


def test_any_mapping_is_a_message() -> None:
    """A message need not be a dict."""
    protocol = protocol_in("STARTING")
    protocol.send(UserDict({"type": UP}))
    assert protocol.phase is Phase.UP


@pytest.mark.parametrize("kind", ["http.response.start", "http.response.body", "websocket.accept"])
def test_answers_to_a_request(kind: str) -> None:
    """An app that answers with the messages of a request does not speak lifespan."""
    protocol = protocol_in("CALLED")
    with pytest.raises(LifespanError, match=kind):
        protocol.send({"type": kind})
    assert protocol.phase is Phase.UNSUPPORTED


@each_row("place", WAYS)
def test_unknown_message(place: str) -> None:
    """An unknown message is an error that names it, in every phase, and changes nothing."""
    protocol = protocol_in(place)
    before = protocol.phase
    with pytest.raises(LifespanError, match=r"lifespan\.restart"):
        protocol.send({"type": "lifespan.restart"})
    assert protocol.phase is before


@each_row(
    ("place", "kind", "expected"),
    [
        ("CALLED", DOWN, UP),
        ("STARTING", DOWN, UP_FAILED),
        ("UP", UP, "nothing before it has received lifespan.shutdown"),
        ("UP", DOWN, "nothing before it has received lifespan.shutdown"),
        ("STOPPING", UP, DOWN),
        ("DOWN", DOWN, "nothing more"),
    ],
)
def test_error_names_what_is_expected(place: str, kind: str, expected: str) -> None:
    """The error for a message out of place names what the app may send instead."""
    with pytest.raises(LifespanError, match=f"{kind}.*{expected}"):
        protocol_in(place).send({"type": kind})


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["receive", "stop", *_HEAD.split()[1:]]), max_size=20))
def test_no_history_breaks_the_promises(events: list[str]) -> None:
    """Whatever an app does, it is started once, stopped once, and stopped only after it was up and asked to."""
    protocol = LifespanProtocol()
    got: list[object] = []
    for event in events:
        was_up = protocol.phase is Phase.UP and protocol.asked_to_stop
        try:
            message = happen(protocol, event)
        except LifespanError:
            continue
        if message is not None:
            got.append(message["type"])
            assert was_up or message["type"] == "lifespan.startup"
    assert got in ([], ["lifespan.startup"], ["lifespan.shutdown"], ["lifespan.startup", "lifespan.shutdown"])


def test_an_error_is_kept() -> None:
    """What the app's call raised is kept, for whoever has to say why it ended."""
    protocol, error = LifespanProtocol(), ValueError("broken")
    assert (protocol.error, protocol.message) == (None, "")
    protocol.end("raised", error)
    assert protocol.error is error


def test_a_message_after_the_end() -> None:
    """An app that sends more than the protocol has is told that it may send nothing more."""
    protocol = protocol_in("DOWN")
    with pytest.raises(LifespanError, match=r"it may send nothing more$"):
        protocol.send({"type": "lifespan.shutdown.complete"})
