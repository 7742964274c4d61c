"""RetryPolicy, Attempt, and the decision: no client, no clock, no loop."""

from __future__ import annotations

import copy
import dataclasses
import http
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prefect_http import Attempt, PrefectHTTPStatusError, RetryPolicy
from prefect_http._attempt import format_attempts, format_outcome
from prefect_http._retry.decision import FailedAttempt, Failure, GiveUp, Retry, classify, decide

MIDDLE = 0.5  # the random number that puts a wait in the middle of its bounds
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
NO_SIZES: tuple[object, ...] = (-1, -0.001, math.nan, math.inf, -math.inf, "1", True, 10**400, 1j, [])
OTHERS = ("POST", "PATCH", "CONNECT", "PROPFIND")


def delay_of(policy: RetryPolicy, situation: FailedAttempt, random: float = MIDDLE) -> float:
    """Give the wait of a decision that must be a retry."""
    decision = decide(policy, situation, random)
    assert isinstance(decision, Retry), decision
    return decision.delay


def reason_of(policy: RetryPolicy, situation: FailedAttempt) -> str:
    """Give the reason of a decision that must be to give up."""
    decision = decide(policy, situation, MIDDLE)
    assert isinstance(decision, GiveUp), decision
    return decision.reason


def refused(number: int = 1, *, retry_after: float | None = None) -> FailedAttempt:
    """Describe an answer of 503."""
    return FailedAttempt(number=number, failure=Failure.REJECTED, label="503", retry_after=retry_after)


def with_limit(situation: FailedAttempt, limit: str, left: float) -> FailedAttempt:
    """Give the situation with so many seconds left."""
    changes: dict[str, Any] = {limit: left}
    return dataclasses.replace(situation, **changes)


# --- RetryPolicy: the values


@pytest.mark.parametrize(
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
    """A policy that is told nothing has the documented values."""
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
    """Positional values are refused, for nobody can read them."""
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]


def test_a_policy_cannot_be_changed() -> None:
    """A policy that is shared cannot change under anyone's feet."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_retries = 1  # type: ignore[misc]


def test_a_policy_takes_no_further_attributes() -> None:
    """A misspelt field is an error, not a new attribute."""
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(RetryPolicy(), "max_retry", 1)


def test_a_policy_does_not_follow_the_set_it_was_made_from() -> None:
    """The statuses are a copy."""
    statuses = {503}
    policy = RetryPolicy(statuses=statuses)
    statuses.add(404)
    assert policy.statuses == {503}


def test_a_policy_can_be_hashed() -> None:
    """Equal policies are one key of a dictionary, whatever kind of set they were made from."""
    assert len({RetryPolicy(statuses={503, 429}), RetryPolicy(statuses=frozenset({429, 503}))}) == 1


@pytest.mark.parametrize("copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_a_policy_can_be_copied_and_pickled(copied: Callable[[RetryPolicy], RetryPolicy]) -> None:
    """A policy survives the way into another process."""
    policy = RetryPolicy(max_retries=7, statuses={500}, total_timeout=3)
    assert copied(policy) == policy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_retries", 0),
        ("max_retries", 10_000),
        ("statuses", frozenset()),
        ("statuses", {100, 599}),
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
    """The edges of each field's range belong to it."""
    assert getattr(RetryPolicy(**{field: value}), field) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
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
        ("statuses", {600}),
        ("statuses", {"503"}),
        ("statuses", {503.0}),
        ("statuses", {True}),
        ("statuses", "503"),
        ("statuses", [[503]]),
        *(
            (field, value)
            for field in ("backoff_base", "max_backoff", "jitter", "max_retry_after", "total_timeout")
            for value in NO_SIZES
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
    ids=lambda value: ascii(value)[:20],
)
def test_bad_value_names_the_field(field: str, value: object) -> None:
    """A value out of range or of the wrong type is a ValueError that names the field."""
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]


def test_bad_value_is_shown() -> None:
    """The message shows what it refuses."""
    with pytest.raises(ValueError, match=r"jitter .* not 1\.5$"):
        RetryPolicy(jitter=1.5)


def test_a_changed_copy_is_checked() -> None:
    """dataclasses.replace() is no way round the checks."""
    with pytest.raises(ValueError, match="max_retries"):
        dataclasses.replace(RetryPolicy(), max_retries=-1)


# --- RetryPolicy: the environment


@pytest.mark.parametrize(
    ("environ", "changes"),
    [
        ({}, {}),
        ({"PREFECT_CLIENT_MAX_RETRIES": "3"}, {"max_retries": 3}),
        ({"PREFECT_CLIENT_MAX_RETRIES": " 0 "}, {"max_retries": 0}),
        ({"PREFECT_CLIENT_RETRY_EXTRA_CODES": "408,504"}, {"statuses": {408, 429, 502, 503, 504}}),
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


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PREFECT_CLIENT_MAX_RETRIES", "-1"),
        ("PREFECT_CLIENT_MAX_RETRIES", "five"),
        ("PREFECT_CLIENT_MAX_RETRIES", "1.5"),
        ("PREFECT_CLIENT_MAX_RETRIES", "9" * 5000),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "408;504"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "408,teapot"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "4080"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "-408"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "much"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "1.1"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "-0.1"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "nan"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "inf"),
    ],
)
def test_from_env_names_the_bad_variable(variable: str, text: str) -> None:
    """A bad variable is a ValueError that names it."""
    with pytest.raises(ValueError, match=rf"\b{variable}\b"):
        RetryPolicy.from_env({variable: text})


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument it is the environment of the process, as it is at that moment."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "8")
    assert RetryPolicy.from_env().max_retries == 8


def test_from_env_of_a_subclass() -> None:
    """A subclass gets its own kind."""

    class Stubborn(RetryPolicy):
        pass

    assert type(Stubborn.from_env({"PREFECT_CLIENT_MAX_RETRIES": "99"})) is Stubborn


# --- Attempt


def test_attempt_fields() -> None:
    """An attempt has the six documented fields, in their order."""
    assert [field.name for field in dataclasses.fields(Attempt)] == [
        "number",
        "status_code",
        "exception",
        "delay",
        "reason",
        "elapsed",
    ]


def test_an_attempt_cannot_be_changed() -> None:
    """What has happened stays so."""
    attempt = Attempt(1, 503, None, 2.0, "backoff of 2 s", 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attempt.delay = 3.0  # type: ignore[misc]


def test_an_attempt_can_be_pickled() -> None:
    """An attempt takes its exception along into another process."""
    attempt = Attempt(2, None, httpx.ReadTimeout("slow", request=httpx.Request("GET", "http://a/")), None, "why", 0.5)
    again = pickle.loads(pickle.dumps(attempt))
    assert (again.number, type(again.exception), str(again.exception)) == (2, httpx.ReadTimeout, "slow")


# --- What a failure is

CLASSES: dict[str, Failure] = {
    "ConnectTimeout": Failure.NEVER_SENT,
    "PoolTimeout": Failure.NEVER_SENT,
    "ConnectError": Failure.UNREACHABLE,
    "ReadTimeout": Failure.AMBIGUOUS,
    "WriteTimeout": Failure.AMBIGUOUS,
    "ReadError": Failure.AMBIGUOUS,
    "WriteError": Failure.AMBIGUOUS,
    "RemoteProtocolError": Failure.AMBIGUOUS,
    "LocalProtocolError": Failure.AMBIGUOUS,
}
REQUEST_ERRORS = sorted(
    name
    for name, kind in vars(httpx).items()
    if inspect.isclass(kind) and issubclass(kind, httpx.RequestError)  # every one, those of later versions included
)


@pytest.mark.parametrize("name", REQUEST_ERRORS)
def test_classify(name: str) -> None:
    """Exactly the nine documented exceptions may be retried; no other exception of httpx ever is."""
    assert classify(getattr(httpx, name)("oh")) is CLASSES.get(name, Failure.FINAL)


def test_classify_knows_every_listed_exception() -> None:
    """No documented exception has left httpx unnoticed."""
    assert set(CLASSES) <= set(REQUEST_ERRORS)


def test_classify_a_subclass() -> None:
    """A transport's own kind of an exception counts as that exception."""

    class OurReadError(httpx.ReadError):
        pass

    assert classify(OurReadError("oh")) is Failure.AMBIGUOUS


# --- Whether it is repeated


@pytest.mark.parametrize("method", [*IDEMPOTENT, *OTHERS])
@pytest.mark.parametrize("failure", [Failure.REJECTED, Failure.NEVER_SENT, Failure.UNREACHABLE])
def test_refused_or_never_sent_is_repeated_for_any_method(failure: Failure, method: str) -> None:
    """A refused request and one that never left are repeated, whatever the method."""
    situation = FailedAttempt(number=1, failure=failure, label="x", method=method, redirected_method=method)
    assert isinstance(decide(RetryPolicy(), situation, MIDDLE), Retry)


@pytest.mark.parametrize("method", [*IDEMPOTENT, *OTHERS])
@pytest.mark.parametrize("key", [False, True], ids=["", "key"])
@pytest.mark.parametrize("allowed", [False, True], ids=["", "allowed"])
def test_ambiguous_is_repeated_if_that_is_safe(method: str, *, key: bool, allowed: bool) -> None:
    """What broke off on the way is repeated for safe methods, with an Idempotency-Key, or where the policy says so."""
    decision = decide(
        RetryPolicy(retry_non_idempotent=allowed),
        FailedAttempt(
            number=1,
            failure=Failure.AMBIGUOUS,
            label="ReadError",
            method=method,
            redirected_method=method,
            has_idempotency_key=key,
        ),
        MIDDLE,
    )
    assert isinstance(decision, Retry) is (method in IDEMPOTENT or key or allowed)


def test_ambiguous_says_what_would_make_it_safe() -> None:
    """The reason tells the way out."""
    situation = FailedAttempt(
        number=1, failure=Failure.AMBIGUOUS, label="ReadError", method="POST", redirected_method="POST"
    )
    reason = reason_of(RetryPolicy(), situation)
    assert "POST" in reason
    assert "Idempotency-Key" in reason
    assert "retry_non_idempotent" in reason


@pytest.mark.parametrize("failure", [Failure.REJECTED, Failure.NEVER_SENT, Failure.UNREACHABLE, Failure.AMBIGUOUS])
@pytest.mark.parametrize(
    ("more", "repeated"),
    [
        ({}, False),
        ({"has_idempotency_key": True}, True),
    ],
    ids=["", "key"],
)
def test_a_post_that_was_carried_out_is_not_repeated(
    failure: Failure, more: dict[str, bool], *, repeated: bool
) -> None:
    """A POST whose redirect to a GET failed has been carried out, so only what makes it safe lets it go again."""
    situation = FailedAttempt(number=1, failure=failure, label="503", method="POST", redirected_method="GET", **more)
    assert isinstance(decide(RetryPolicy(), situation, MIDDLE), Retry) is repeated


def test_final_is_never_repeated() -> None:
    """What is on no list is not repeated, and the reason names it."""
    situation = FailedAttempt(number=1, failure=Failure.FINAL, label="404", has_idempotency_key=True)
    assert "404" in reason_of(RetryPolicy(retry_non_idempotent=True), situation)


def test_a_wrong_address_fails_fast() -> None:
    """An origin that has never answered is not asked again."""
    situation = FailedAttempt(number=1, failure=Failure.UNREACHABLE, label="ConnectError", origin_has_answered=False)
    assert "never answered" in reason_of(RetryPolicy(), situation)


@pytest.mark.parametrize("failure", [Failure.REJECTED, Failure.NEVER_SENT, Failure.AMBIGUOUS])
def test_only_unreachable_asks_whether_the_origin_has_answered(failure: Failure) -> None:
    """Everything but a ConnectError is repeated at an origin's first request as well."""
    situation = FailedAttempt(number=1, failure=failure, label="x", origin_has_answered=False)
    assert isinstance(decide(RetryPolicy(), situation, MIDDLE), Retry)


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.FINAL])
def test_a_spent_body_is_never_sent_again(failure: Failure) -> None:
    """A one-shot body that has been touched forbids the retry, whatever allows it, and the reason says so."""
    situation = FailedAttempt(
        number=1, failure=failure, label="x", method="PUT", redirected_method="PUT", body_is_spent=True
    )
    assert "one-shot" in reason_of(RetryPolicy(retry_non_idempotent=True), situation)


@pytest.mark.parametrize(("number", "repeated"), [(1, True), (2, True), (3, False), (4, False)])
def test_max_retries_counts_the_attempts_after_the_first(number: int, *, repeated: bool) -> None:
    """With two retries the third attempt is the last."""
    assert isinstance(decide(RetryPolicy(max_retries=2), refused(number), MIDDLE), Retry) is repeated


@pytest.mark.parametrize(("max_retries", "reason"), [(0, "max_retries is 0"), (1, "all retries are used up")])
def test_no_retry_left_is_said(max_retries: int, reason: str) -> None:
    """The reason tells retries that are used up from none allowed."""
    assert reason_of(RetryPolicy(max_retries=max_retries), refused(max_retries + 1)) == reason


# --- The wait


@pytest.mark.parametrize(("number", "wait"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64), (7, 120), (2000, 120)])
def test_backoff(number: int, wait: float) -> None:
    """Retry n waits 2 ** n seconds, up to max_backoff, however large n is."""
    assert delay_of(RetryPolicy(jitter=0, max_retries=10_000), refused(number)) == wait


@pytest.mark.parametrize(
    ("base", "number", "wait"),
    [(0, 3, 0), (1, 9, 1), (0.5, 3, 0.125), (3, 2, 9), (1e200, 2, 50), (10**200, 2, 50), (2.0, 5000, 50)],
)
def test_backoff_base(base: float, number: int, wait: float) -> None:
    """The wait is backoff_base to the power of n; what is too large for a float is max_backoff."""
    policy = RetryPolicy(jitter=0, backoff_base=base, max_backoff=50, max_retries=10_000)
    assert delay_of(policy, refused(number)) == wait


@pytest.mark.parametrize(("random", "wait"), [(0.0, 3.2), (0.5, 4.0), (1 - 2**-53, 4.8)])
def test_jitter_goes_both_ways(random: float, wait: float) -> None:
    """A backoff of 4 s with a jitter of 0.2 is between 3.2 and 4.8 s, in its middle on average."""
    assert delay_of(RetryPolicy(), refused(2), random) == pytest.approx(wait)


@pytest.mark.parametrize(("random", "wait"), [(0.0, 10.0), (0.5, 11.0), (1 - 2**-53, 12.0)])
def test_jitter_of_a_retry_after_goes_up_only(random: float, wait: float) -> None:
    """Nobody comes back before the time the server has named."""
    assert delay_of(RetryPolicy(), refused(retry_after=10.0), random) == pytest.approx(wait)


def test_max_backoff_includes_the_jitter() -> None:
    """Jitter does not lift a backoff over max_backoff."""
    assert delay_of(RetryPolicy(jitter=1, max_backoff=4), refused(2), 1 - 2**-53) <= 4


def test_retry_after_takes_the_place_of_the_backoff() -> None:
    """The server's word counts, where it is shorter and where it is longer than max_backoff."""
    policy = RetryPolicy(jitter=0, max_backoff=1)
    assert [delay_of(policy, refused(retry_after=seconds)) for seconds in (0.0, 0.5, 300.0)] == [0.0, 0.5, 300.0]


def test_too_long_a_retry_after_is_refused() -> None:
    """A Retry-After above max_retry_after ends it: refused, not shortened."""
    reason = reason_of(RetryPolicy(), refused(retry_after=300.5))
    assert "300.5" in reason
    assert "max_retry_after" in reason


def test_the_reason_says_where_the_wait_comes_from() -> None:
    """A retry says whether it waits for itself or for the server."""
    reasons = [decide(RetryPolicy(), refused(1, retry_after=wanted), MIDDLE).reason for wanted in (None, 7.0)]
    assert reasons == ["backoff of 2 s", "Retry-After of 7 s"]


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
@pytest.mark.parametrize("left", [1.5, 0.0, -3.0, -math.inf])
def test_a_wait_that_does_not_fit_is_not_begun(limit: str, left: float) -> None:
    """Where even the shortest wait of 1.6 s ends too late, there is none."""
    name = {"total_left": "total_timeout", "deadline_left": "deadline"}[limit]
    assert name in reason_of(RetryPolicy(total_timeout=9), with_limit(refused(), limit, left))


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
def test_a_wait_that_takes_all_that_is_left_does_not_fit(limit: str) -> None:
    """A wait that ends with the time there is leaves none for the attempt."""
    assert reason_of(RetryPolicy(jitter=0, total_timeout=9), with_limit(refused(), limit, 2.0))


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
def test_jitter_does_not_spoil_a_wait_that_fits(limit: str) -> None:
    """Where the shortest wait fits and the longest does not, jitter keeps to what fits."""
    assert delay_of(RetryPolicy(total_timeout=9), with_limit(refused(), limit, 1.7), 1 - 2**-53) <= 1.7


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
def test_a_retry_after_that_does_not_fit_is_not_shortened(limit: str) -> None:
    """Time that is left for a part of a Retry-After is of no use."""
    assert "Retry-After of 10 s" in reason_of(
        RetryPolicy(total_timeout=30), with_limit(refused(retry_after=10.0), limit, 9.9)
    )


# --- The same as properties

seconds = st.floats(min_value=0, max_value=1e6)
policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 8),
    backoff_base=st.floats(min_value=0, max_value=1e308),
    max_backoff=seconds,
    jitter=st.floats(min_value=0, max_value=1),
    max_retry_after=seconds,
    retry_non_idempotent=st.booleans(),
)
methods = st.sampled_from([*IDEMPOTENT, *OTHERS])
left = st.one_of(st.just(math.inf), st.just(-math.inf), st.floats(min_value=-1e3, max_value=1e6))
situations = st.builds(
    FailedAttempt,
    number=st.integers(1, 10),
    failure=st.sampled_from(Failure),
    label=st.just("it"),
    retry_after=st.one_of(st.none(), seconds),
    method=methods,
    redirected_method=methods,
    has_idempotency_key=st.booleans(),
    body_is_spent=st.booleans(),
    origin_has_answered=st.booleans(),
    total_left=left,
    deadline_left=left,
)
randoms = st.floats(min_value=0, max_value=1, exclude_max=True)
thorough = settings(max_examples=500)


def shortest_wait(policy: RetryPolicy, situation: FailedAttempt) -> float:
    """Give the earliest moment of the next attempt, in the words of the contract."""
    if situation.retry_after is not None:
        return situation.retry_after
    try:
        backoff = min(policy.backoff_base**situation.number, policy.max_backoff)
    except OverflowError:
        backoff = policy.max_backoff
    return backoff * (1 - policy.jitter)


def may_be_repeated(policy: RetryPolicy, situation: FailedAttempt) -> bool:
    """Say what the contract says about repeating, waits aside."""
    safe = situation.method in IDEMPOTENT or situation.has_idempotency_key or policy.retry_non_idempotent
    return (
        situation.number <= policy.max_retries
        and not situation.body_is_spent
        and (safe or situation.redirected_method == situation.method)
        and {
            Failure.REJECTED: True,
            Failure.NEVER_SENT: True,
            Failure.UNREACHABLE: situation.origin_has_answered,
            Failure.AMBIGUOUS: safe,
            Failure.FINAL: False,
        }[situation.failure]
    )


@thorough
@given(policies, situations, randoms)
def test_it_gives_up_exactly_when_it_must(policy: RetryPolicy, situation: FailedAttempt, random: float) -> None:
    """It is repeated if and only if that is allowed and the shortest wait fits everywhere."""
    wait = shortest_wait(policy, situation)
    limits = (situation.total_left, situation.deadline_left)
    assume(wait not in limits)
    asked = situation.retry_after
    expected = (
        may_be_repeated(policy, situation)
        and (asked is None or asked <= policy.max_retry_after)
        and all(wait < limit for limit in limits)
    )
    assert isinstance(decide(policy, situation, random), Retry) is expected


@thorough
@given(policies, situations, randoms, seconds)
def test_never_earlier_than_a_retry_after(
    policy: RetryPolicy, situation: FailedAttempt, random: float, retry_after: float
) -> None:
    """No jitter, limit or deadline brings an attempt before the time the server has named."""
    decision = decide(policy, dataclasses.replace(situation, retry_after=retry_after), random)
    if isinstance(decision, Retry):
        assert retry_after <= decision.delay <= retry_after * (1 + policy.jitter) * (1 + 1e-12)


@thorough
@given(policies, situations, randoms)
def test_a_backoff_is_within_its_bounds(policy: RetryPolicy, situation: FailedAttempt, random: float) -> None:
    """A backoff is spread by jitter either way, and never longer than max_backoff."""
    situation = dataclasses.replace(situation, retry_after=None)
    decision = decide(policy, situation, random)
    if isinstance(decision, Retry):
        low = shortest_wait(policy, situation)
        assert low <= decision.delay <= policy.max_backoff
        if policy.jitter < 1:
            assert decision.delay <= low / (1 - policy.jitter) * (1 + policy.jitter) * (1 + 1e-9) + 1e-300


@thorough
@given(policies, situations, randoms)
def test_a_wait_always_fits(policy: RetryPolicy, situation: FailedAttempt, random: float) -> None:
    """Whoever waits is back before total_timeout and before the caller's deadline."""
    decision = decide(policy, situation, random)
    if isinstance(decision, Retry):
        assert 0 <= decision.delay <= min(situation.total_left, situation.deadline_left)
        assert math.isfinite(decision.delay)


@thorough
@given(policies, situations, randoms)
def test_a_decision_always_has_a_reason(policy: RetryPolicy, situation: FailedAttempt, random: float) -> None:
    """Every decision says why, in one line."""
    reason = decide(policy, situation, random).reason
    assert reason
    assert reason.splitlines() == [reason]


@thorough
@given(policies, situations, randoms)
def test_the_same_question_has_the_same_answer(policy: RetryPolicy, situation: FailedAttempt, random: float) -> None:
    """The policy is pure: no clock, no random of its own, no memory."""
    assert decide(policy, situation, random) == decide(policy, situation, random)


# --- The note


def test_tell_attempts() -> None:
    """The note has a line for each attempt: what came, how long it took, what was done next and why."""
    attempts = (
        Attempt(1, 503, None, 7.5, "Retry-After of 7 s", 0.25),
        Attempt(2, None, httpx.ReadTimeout("slow"), 4.0, "backoff of 4 s", 5.0),
        Attempt(3, 503, None, None, "all retries are used up", 0.5),
    )
    assert format_attempts(attempts, 2).splitlines() == [
        "prefect_http made 3 of at most 3 attempts:",
        "  1: 503 after 0.25 s; waited 7.5 s (Retry-After of 7 s)",
        "  2: ReadTimeout: slow after 5 s; waited 4 s (backoff of 4 s)",
        "  3: 503 after 0.5 s; all retries are used up",
    ]


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (httpx.ReadError("one\ntwo"), "ReadError: one two"),
    ],
)
def test_outcome_of_an_exception(exception: Exception, text: str) -> None:
    """An exception is its class and its message, in one line."""
    assert format_outcome(Attempt(1, None, exception, None, "", 0)) == text


def test_a_status_error_takes_attempts() -> None:
    """An attempt is what PrefectHTTPStatusError.attempts holds."""
    request = httpx.Request("GET", "http://a/")
    attempt = Attempt(1, 503, None, None, "why", 0.0)
    error = PrefectHTTPStatusError("oh", request=request, response=httpx.Response(503), attempts=(attempt,))
    assert error.attempts == (attempt,)
