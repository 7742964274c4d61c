"""RetryPolicy: its values, and the environment."""

from __future__ import annotations

import copy
import dataclasses
import http
import math
import pickle
from collections.abc import Callable

import pytest
from support.rows import each_row

from prefect_http import RetryPolicy

NOT_NUMBERS: tuple[object, ...] = (-1, -0.001, math.nan, math.inf, -math.inf, "1", True, 10**400, 1j, [])

# --- The values


@each_row(
    ("field", "value"),
    [
        ("max_retries", 5),
        ("statuses", frozenset({429, 502, 503})),
        ("backoff_base", 2.0),
        ("max_backoff", 120.0),
        ("jitter", 0.2),
        ("max_retry_after", 300.0),
        ("total_timeout", None),
        ("retry_non_idempotent", False),
    ],
)
def test_default(field: str, value: object) -> None:
    """The defaults are as documented."""
    assert getattr(RetryPolicy(), field) == value


def test_a_policy_has_no_other_fields() -> None:
    """The policy has the eight documented fields, in their order."""
    assert [field.name for field in dataclasses.fields(RetryPolicy)] == [
        "max_retries",
        "statuses",
        "backoff_base",
        "max_backoff",
        "jitter",
        "max_retry_after",
        "total_timeout",
        "retry_non_idempotent",
    ]


def test_a_policy_takes_keywords_only() -> None:
    """Positional values are rejected."""
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]


def test_a_policy_cannot_be_changed() -> None:
    """A policy is immutable, so it can be shared."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_retries = 1  # type: ignore[misc]


def test_a_policy_takes_no_further_attributes() -> None:
    """A misspelled field is an error, not a new attribute."""
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(RetryPolicy(), "max_retry", 1)


def test_a_policy_copies_its_statuses() -> None:
    """Later changes to the set that was passed do not change the policy."""
    statuses = {503}
    policy = RetryPolicy(statuses=statuses)
    statuses.add(404)
    assert policy.statuses == {503}


def test_a_policy_can_be_hashed() -> None:
    """Equal policies have the same hash, whatever kind of set they were made from."""
    assert len({RetryPolicy(statuses={503, 429}), RetryPolicy(statuses=frozenset({429, 503}))}) == 1


@pytest.mark.parametrize("copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_a_policy_can_be_copied_and_pickled(copied: Callable[[RetryPolicy], RetryPolicy]) -> None:
    """A copy equals the policy."""
    policy = RetryPolicy(max_retries=7, statuses={500}, total_timeout=3)
    assert copied(policy) == policy


@each_row(
    ("field", "value"),
    [
        ("max_retries", 0),
        ("max_retries", 10_000),
        ("statuses", frozenset()),
        ("statuses", {300, 599, 600, 999}),
        ("statuses", {http.HTTPStatus.BAD_GATEWAY}),
        ("backoff_base", 0),
        ("backoff_base", 0.5),
        ("backoff_base", 1e308),
        ("max_backoff", 0),
        ("jitter", 0),
        ("jitter", 1),
        ("max_retry_after", 0),
        ("total_timeout", 1e-9),
        ("total_timeout", 10),
        ("retry_non_idempotent", True),
    ],
)
def test_good_value(field: str, value: object) -> None:
    """The bounds of each field's range are valid."""
    assert getattr(RetryPolicy(**{field: value}), field) == value  # type: ignore[arg-type]


@each_row(
    ("field", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1.0),
        ("max_retries", True),
        ("max_retries", "5"),
        ("max_retries", None),
        ("max_retries", math.inf),
        ("statuses", None),
        ("statuses", 503),
        ("statuses", {99}),
        ("statuses", {100}),
        ("statuses", {200, 503}),
        ("statuses", {299}),
        ("statuses", {1000}),
        ("statuses", {"503"}),
        ("statuses", {503.0}),
        ("statuses", {True}),
        ("statuses", "503"),
        ("statuses", [[503]]),
        *(
            (field, value)
            for field in ("backoff_base", "max_backoff", "jitter", "max_retry_after", "total_timeout")
            for value in NOT_NUMBERS
        ),
        ("backoff_base", None),
        ("max_backoff", None),
        ("jitter", None),
        ("jitter", 1.0001),
        ("max_retry_after", None),
        ("total_timeout", 0),
        ("retry_non_idempotent", 1),
        ("retry_non_idempotent", "yes"),
        ("retry_non_idempotent", None),
    ],
)
def test_bad_value_names_the_field(field: str, value: object) -> None:
    """A value out of range or of the wrong type is a ValueError that names the field."""
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]


def test_bad_value_is_shown() -> None:
    """The message shows the value."""
    with pytest.raises(ValueError, match=r"jitter .* not 1\.5$"):
        RetryPolicy(jitter=1.5)


def test_a_changed_copy_is_checked() -> None:
    """dataclasses.replace() checks the values as well."""
    with pytest.raises(ValueError, match="max_retries"):
        dataclasses.replace(RetryPolicy(), max_retries=-1)


# --- The environment


@each_row(
    ("environ", "changes"),
    [
        ({}, {}),
        ({"PREFECT_CLIENT_MAX_RETRIES": "3"}, {"max_retries": 3}),
        ({"PREFECT_CLIENT_MAX_RETRIES": " 0 "}, {"max_retries": 0}),
        ({"PREFECT_CLIENT_RETRY_EXTRA_CODES": "408,504"}, {"statuses": {408, 429, 502, 503, 504}}),
        ({"PREFECT_CLIENT_RETRY_EXTRA_CODES": "600,999"}, {"statuses": {429, 502, 503, 600, 999}}),
        ({"PREFECT_CLIENT_RETRY_EXTRA_CODES": " 408 , 504, "}, {"statuses": {408, 429, 502, 503, 504}}),
        ({"PREFECT_CLIENT_RETRY_EXTRA_CODES": "503"}, {}),
        ({"PREFECT_CLIENT_RETRY_JITTER_FACTOR": "0.5"}, {"jitter": 0.5}),
        ({"PREFECT_CLIENT_RETRY_JITTER_FACTOR": "0"}, {"jitter": 0.0}),
        ({"PREFECT_CLIENT_MAX_RETRIES": "", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "  "}, {}),
        ({"prefect_client_max_retries": "9", "PREFECT_CLIENT_MAX_RETRY_AFTER": "x"}, {}),
        (
            {
                "PREFECT_CLIENT_MAX_RETRIES": "1",
                "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
                "PREFECT_CLIENT_RETRY_JITTER_FACTOR": "1",
            },
            {"max_retries": 1, "statuses": {429, 500, 502, 503}, "jitter": 1.0},
        ),
    ],
)
def test_from_env(environ: dict[str, str], changes: dict[str, object]) -> None:
    """The three variables change the default policy; an empty one counts as not set."""
    assert RetryPolicy.from_env(environ) == RetryPolicy(**changes)  # type: ignore[arg-type]


@each_row(
    ("variable", "text"),
    [
        ("PREFECT_CLIENT_MAX_RETRIES", "-1"),
        ("PREFECT_CLIENT_MAX_RETRIES", "five"),
        ("PREFECT_CLIENT_MAX_RETRIES", "1.5"),
        ("PREFECT_CLIENT_MAX_RETRIES", "1_0"),
        ("PREFECT_CLIENT_MAX_RETRIES", "٣"),
        ("PREFECT_CLIENT_MAX_RETRIES", "9" * 5000),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "408;504"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "408,teapot"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "4080"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "-408"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "200"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "much"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "1.1"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "-0.1"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "nan"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "inf"),
    ],
)
def test_from_env_names_the_bad_variable(variable: str, text: str) -> None:
    """An invalid value is a ValueError that names the variable, and says what it may be."""
    expected = {
        "PREFECT_CLIENT_MAX_RETRIES": "a whole number, 0 or more",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "status codes from 300 to 999, as in '408,504'",
        "PREFECT_CLIENT_RETRY_JITTER_FACTOR": "a number from 0 to 1",
    }[variable]
    with pytest.raises(ValueError, match=r"^environment variable ") as raised:
        RetryPolicy.from_env({variable: text})
    assert str(raised.value) == f"environment variable {variable} must be {expected}, not {text!r}"


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is the environment of the process, as it is at that time."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "8")
    assert RetryPolicy.from_env().max_retries == 8


def test_from_env_of_a_subclass() -> None:
    """A subclass gets an instance of its own."""

    class Stubborn(RetryPolicy):
        pass

    assert type(Stubborn.from_env({"PREFECT_CLIENT_MAX_RETRIES": "99"})) is Stubborn
