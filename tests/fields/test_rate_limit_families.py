"""The fields that come in threes, beside RateLimit-* and X-RateLimit-*: what each vendor sends."""

from __future__ import annotations

import time

import pytest
from support.rate_limits import DATE, DATE_AT, parse
from support.rows import each_row

from prefect_http._fields.rate_limit import RateLimit, is_meaningful
from prefect_http._fields.rate_limit_families import FAMILY_NAMES

OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:21Z",
    "anthropic-ratelimit-tokens-limit": "96000",
    "anthropic-ratelimit-tokens-remaining": "96000",
    "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:20Z",
    "anthropic-ratelimit-input-tokens-limit": "80000",
    "anthropic-ratelimit-input-tokens-remaining": "80000",
    "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:20Z",
    "anthropic-ratelimit-output-tokens-limit": "16000",
    "anthropic-ratelimit-output-tokens-remaining": "16000",
    "anthropic-ratelimit-output-tokens-reset": "2023-11-14T22:13:20Z",
}
AZURE = {
    "x-ratelimit-limit-tokens": "-1",
    "x-ratelimit-remaining-tokens": "-1",
    "x-ratelimit-reset-tokens": "0",
}
KONG = {
    "RateLimit-Limit": "6",
    "RateLimit-Remaining": "4",
    "RateLimit-Reset": "47",
    "X-RateLimit-Limit-Second": "50",
    "X-RateLimit-Remaining-Second": "49",
    "X-RateLimit-Limit-Hour": "6",
    "X-RateLimit-Remaining-Hour": "4",
}
MISTRAL = {
    "x-ratelimit-limit-tokens-minute": "5000000",
    "x-ratelimit-remaining-tokens-minute": "4999911",
    "x-ratelimit-tokens-query-cost": "52",
    "x-ratelimit-limit-req-minute": "720",
    "x-ratelimit-remaining-req-minute": "717",
}
DISCORD = {
    "X-RateLimit-Limit": "5",
    "X-RateLimit-Remaining": "0",
    "X-RateLimit-Reset": f"{DATE_AT + 2}.500",
    "X-RateLimit-Reset-After": "1.25",
    "X-RateLimit-Bucket": "abcd1234",
}


@each_row(
    ("headers", "expected"),
    [
        pytest.param(OPENAI, RateLimit(limit=60, remaining=59, reset=1.0), id="OpenAI"),
        pytest.param(ANTHROPIC, RateLimit(limit=1000, remaining=999, reset=1.0), id="Anthropic"),
        pytest.param(AZURE, None, id="Azure"),
        # The minute and the hour of 22:13:20 end after 40 s and 2,800 s.
        pytest.param(KONG, RateLimit(limit=6, remaining=4, reset=2800.0), id="Kong"),
        pytest.param(MISTRAL, RateLimit(limit=720, remaining=717, reset=40.0), id="Mistral"),
        pytest.param(DISCORD, RateLimit(limit=5, remaining=0, reset=1.25), id="Discord"),
        pytest.param({**DISCORD, "X-RateLimit-Reset-After": "soon"}, RateLimit(limit=5, remaining=0, reset=2.5)),
    ],
)
def test_vendors(headers: dict[str, str], expected: RateLimit | None) -> None:
    """What each of them sends with a good response is read."""
    assert parse(headers, date=DATE) == expected


@each_row(
    ("headers", "expected"),
    [
        ({**OPENAI, "x-ratelimit-remaining-tokens": "0"}, RateLimit(remaining=0, reset=360.0)),
        ({**OPENAI, "x-ratelimit-remaining-tokens": "1"}, RateLimit(limit=60, remaining=59, reset=1.0)),
        (
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"},
            RateLimit(remaining=0, reset=0.012),
        ),
        ({"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "12ms"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0"}, None),
        ({**OPENAI, **AZURE, "x-ratelimit-remaining-tokens": "0"}, RateLimit(limit=60, remaining=59, reset=1.0)),
        (
            {**OPENAI, "x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0"},
            RateLimit(limit=60, remaining=59, reset=1.0),
        ),
        (
            {
                **ANTHROPIC,
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:14:20Z",
                "anthropic-ratelimit-output-tokens-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "2023-11-14T22:14:30Z",
            },
            RateLimit(remaining=0, reset=70.0),
        ),
        ({"X-RateLimit-Remaining-Tokens-Minute": "0"}, RateLimit(remaining=0, reset=40.0)),
    ],
)
def test_tokens_matter_only_if_none_remain(headers: dict[str, str], expected: RateLimit | None) -> None:
    """Tokens are no requests: they say nothing unless none remain, and the time of the reset is known."""
    assert parse(headers, date=DATE) == expected


@each_row(
    ("period", "seconds"),
    [("Second", 1.0), ("Minute", 40.0), ("Hour", 2800.0), ("Day", 6400.0), ("Month", None), ("Year", None)],
)
def test_a_period_of_kong(period: str, seconds: float | None) -> None:
    """A period without a reset ends with that second, minute, hour or day of the response's Date."""
    names = (f"X-RateLimit-Limit-{period}", f"X-RateLimit-Remaining-{period}", f"X-RateLimit-Reset-{period}")
    headers = dict(zip(names[:2], ("9", "7"), strict=True))
    assert parse(headers, date=DATE) == RateLimit(limit=9, remaining=7, reset=seconds)
    assert parse(headers, now=DATE_AT) == RateLimit(limit=9, remaining=7, reset=seconds)
    assert parse({**headers, names[2]: "5"}, date=DATE) == RateLimit(limit=9, remaining=7, reset=5.0)
    assert parse({names[0]: "9"}, date=DATE) == RateLimit(limit=9)


def test_time_is_bounded() -> None:
    """If all fields have the longest value that is parsed, or a longer one, it takes less than a second."""
    for value in ("5" + ";x=1" * 255, "5" + ",5" * 511, "5" + ";x=1" * 2000):
        began = time.process_time()
        found = parse(dict.fromkeys(FAMILY_NAMES, value))
        assert time.process_time() - began < 1
        assert (found is None) == (len(value) > 1024)


NONE_LEFT = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}


@each_row(
    ("headers", "expected"),
    [
        # The tightest, in whatever form; of equal ones that with the longest reset.
        ({**NONE_LEFT, "RateLimit": '"a";r=5;t=9'}, RateLimit(remaining=0, reset=20.0)),
        ({**NONE_LEFT, "RateLimit": '"a";r=0;t=9'}, RateLimit(remaining=0, reset=20.0)),
        ({**NONE_LEFT, "RateLimit": '"a";r=0;t=90'}, RateLimit(remaining=0, reset=90.0)),
        ({**NONE_LEFT, "X-RateLimit-Remaining-Hour": "0"}, RateLimit(remaining=0, reset=2800.0)),
        ({"RateLimit-Remaining": "3", "X-Rate-Limit-Remaining": "2"}, RateLimit(remaining=2)),
        # What no client can act on does not hide what it can: no time, one that has passed, more than a day, no limit.
        ({"RateLimit-Remaining": "0", "X-RateLimit-Remaining": "3"}, RateLimit(remaining=3)),
        ({"RateLimit": '"a";r=0;t=0', "X-RateLimit-Remaining": "3"}, RateLimit(remaining=3)),
        ({"RateLimit": '"a";r=0;t=86401', "X-RateLimit-Remaining": "3"}, RateLimit(remaining=3)),
        ({**NONE_LEFT, "X-RateLimit-Limit": "0", "RateLimit-Remaining": "3"}, RateLimit(remaining=3)),
        # Alone, it is shown nevertheless.
        ({"RateLimit": '"a";r=0;t=86401'}, RateLimit(remaining=0, reset=86401.0)),
        ({**NONE_LEFT, "X-RateLimit-Limit": "0"}, RateLimit(limit=0, remaining=0, reset=20.0)),
    ],
)
def test_forms_that_contradict_each_other(headers: dict[str, str], expected: RateLimit) -> None:
    """The safest of several forms is taken."""
    assert parse(headers, date=DATE) == expected


@each_row(
    ("limit", "expected"),
    [
        (RateLimit(remaining=0, reset=5.0), True),
        (RateLimit(remaining=0, reset=86_400.0), True),
        (RateLimit(remaining=0, reset=86_401.0), False),
        (RateLimit(remaining=0, reset=0.0), False),
        (RateLimit(remaining=0), False),
        (RateLimit(remaining=1), True),
        (RateLimit(remaining=1, reset=0.0), True),
        (RateLimit(remaining=1, reset=86_401.0), False),
        (RateLimit(limit=0, remaining=0, reset=5.0), False),
        (RateLimit(limit=0, remaining=1), False),
        (RateLimit(limit=5, reset=5.0), False),
    ],
)
def test_what_a_client_can_act_on(limit: RateLimit, expected: bool) -> None:
    """It must be known what remains and until when, and there must be a limit."""
    assert is_meaningful(limit) is expected
