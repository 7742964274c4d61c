"""What an Outcome is."""

from __future__ import annotations

import dataclasses

import httpx
import pytest
from support.rows import each_row

from prefect_http import Outcome, PrefectResponse

REQUEST = httpx.Request("GET", "http://user:secret@server/path?a=1")


def test_is_immutable() -> None:
    """An outcome cannot be changed, and has nothing but its three attributes."""
    outcome = Outcome(REQUEST, PrefectResponse(200), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.error = ValueError()  # type: ignore[misc]
    assert [field.name for field in dataclasses.fields(outcome)] == ["request", "response", "error"]
    assert not hasattr(outcome, "__dict__")


@each_row(
    "outcome, text",
    [
        (Outcome(REQUEST, PrefectResponse(204), None), "Outcome(GET http://server/path?a=1: 204)"),
        (
            Outcome(REQUEST, None, httpx.ReadError("secret broken", request=REQUEST)),
            "Outcome(GET http://server/path?a=1: ReadError: [secure] broken)",
        ),
        (Outcome(None, None, TypeError("no request")), "Outcome(no request: TypeError: no request)"),
    ],
)
def test_repr_has_no_credentials(outcome: Outcome, text: str) -> None:
    """The repr tells how the request ended, without the credentials of its URL."""
    assert repr(outcome) == text
