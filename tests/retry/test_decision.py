"""Whether a failed attempt is followed by another, and after what wait: no client, no clock, no loop."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http import InvalidResponse, RetryPolicy, ThrottleTimeout
from prefect_http._internal_errors import RequestNotProcessed, TunnelDelayed, TunnelFailed
from prefect_http._retry.decision import FailedAttempt, Failure, GiveUp, Retry, classify, decide

MIDDLE = 0.5  # the random number that chooses the middle of a wait's bounds
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
OTHERS = ("POST", "PATCH", "CONNECT", "PROPFIND")


def delay_of(policy: RetryPolicy, facts: FailedAttempt, random: float = MIDDLE) -> float:
    """Return the wait of a decision that must be to retry."""
    decision = decide(policy, facts, random)
    assert isinstance(decision, Retry), decision
    return decision.delay


def reason_of(policy: RetryPolicy, facts: FailedAttempt) -> str:
    """Return the reason of a decision that must be to give up."""
    decision = decide(policy, facts, MIDDLE)
    assert isinstance(decision, GiveUp), decision
    return decision.reason


def rejected(number: int = 1, *, retry_after: float | None = None) -> FailedAttempt:
    """Return the facts of an attempt that got a 503."""
    return FailedAttempt(retry=number, failure=Failure.REJECTED, label="503", retry_after=retry_after)


def with_limit(facts: FailedAttempt, limit: str, left: float) -> FailedAttempt:
    """Return the same facts with another limit."""
    changes: dict[str, Any] = {limit: left}
    return facts._replace(**changes)


# --- How an attempt fails

CLASSES: dict[str, Failure] = {
    "ConnectTimeout": Failure.NEVER_SENT,
    "PoolTimeout": Failure.NEVER_SENT,
    "ConnectError": Failure.UNREACHABLE,
    "ReadTimeout": Failure.AMBIGUOUS,
    "WriteTimeout": Failure.AMBIGUOUS,
    "ReadError": Failure.AMBIGUOUS,
    "WriteError": Failure.AMBIGUOUS,
    "RemoteProtocolError": Failure.AMBIGUOUS,
}
REQUEST_ERRORS = sorted(
    name
    for name, kind in vars(httpx).items()
    if inspect.isclass(kind) and issubclass(kind, httpx.RequestError)  # all of them, including those of later versions
)


@each_row("name", REQUEST_ERRORS)
def test_classify(name: str) -> None:
    """Exactly the eight documented exceptions may be retried, and no other exception of httpx."""
    assert classify(getattr(httpx, name)("oh")) is CLASSES.get(name, Failure.FINAL)


def test_request_that_was_not_processed() -> None:
    """A request that the server says it has not processed counts as not sent, even by an unknown server."""
    assert classify(RequestNotProcessed("refused")) is Failure.NEVER_SENT


def test_tunnels_that_failed() -> None:
    """A proxy that cannot reach the server leaves it as unreachable as a direct connection; a busy one may be free."""
    assert classify(TunnelFailed("502")) is Failure.UNREACHABLE
    assert classify(TunnelDelayed("429")) is Failure.NEVER_SENT


def test_classify_knows_every_listed_exception() -> None:
    """All documented exceptions exist in httpx."""
    assert set(CLASSES) <= set(REQUEST_ERRORS)


def test_classify_a_subclass() -> None:
    """A transport's own subclass of an exception counts as that exception."""

    class OurReadError(httpx.ReadError):
        pass

    assert classify(OurReadError("oh")) is Failure.AMBIGUOUS


@pytest.mark.parametrize("error", [InvalidResponse("garbage"), ThrottleTimeout("no")])
def test_classify_what_no_retry_can_mend(error: httpx.RequestError) -> None:
    """An error of ours that another attempt would end in as well is final, whatever its base class."""
    assert classify(error) is Failure.FINAL


# --- Whether it is repeated


@each_row("method", [*IDEMPOTENT, *OTHERS])
@each_row("failure", [Failure.REJECTED, Failure.NEVER_SENT, Failure.UNREACHABLE])
def test_what_was_not_acted_on_is_repeated_for_any_method(failure: Failure, method: str) -> None:
    """A request that was rejected or never sent is repeated, whatever the method."""
    facts = FailedAttempt(retry=1, failure=failure, label="x", method=method)
    assert isinstance(decide(RetryPolicy(), facts, MIDDLE), Retry)


@each_row("method", [*IDEMPOTENT, *OTHERS])
@each_row("key", [False, True], ids=["", "key"])
@each_row("allowed", [False, True], ids=["", "allowed"])
def test_ambiguous_is_repeated_if_that_is_safe(method: str, *, key: bool, allowed: bool) -> None:
    """What broke off is repeated for idempotent methods, with an Idempotency-Key, or if the policy says so."""
    decision = decide(
        RetryPolicy(retry_non_idempotent=allowed),
        FailedAttempt(
            retry=1,
            failure=Failure.AMBIGUOUS,
            label="ReadError",
            method=method,
            has_idempotency_key=key,
        ),
        MIDDLE,
    )
    assert isinstance(decision, Retry) is (method in IDEMPOTENT or key or allowed)


def test_ambiguous_says_what_would_make_it_safe() -> None:
    """The reason says what would allow a retry."""
    facts = FailedAttempt(retry=1, failure=Failure.AMBIGUOUS, label="ReadError", method="POST")
    reason = reason_of(RetryPolicy(), facts)
    assert "POST" in reason
    assert "Idempotency-Key" in reason
    assert "retry_non_idempotent" in reason


def test_final_is_never_repeated() -> None:
    """Any other failure is not repeated, and the reason names it."""
    facts = FailedAttempt(retry=1, failure=Failure.FINAL, label="404", has_idempotency_key=True)
    assert "404" in reason_of(RetryPolicy(retry_non_idempotent=True), facts)


def test_a_wrong_address_fails_fast() -> None:
    """An origin that has never answered is not tried again."""
    facts = FailedAttempt(retry=1, failure=Failure.UNREACHABLE, label="ConnectError", origin_has_answered=False)
    assert "never answered" in reason_of(RetryPolicy(), facts)


@pytest.mark.parametrize("failure", [Failure.REJECTED, Failure.NEVER_SENT, Failure.AMBIGUOUS])
def test_only_unreachable_depends_on_whether_the_origin_has_answered(failure: Failure) -> None:
    """Everything but a ConnectError is repeated even if the origin has never answered."""
    facts = FailedAttempt(retry=1, failure=failure, label="x", origin_has_answered=False)
    assert isinstance(decide(RetryPolicy(), facts, MIDDLE), Retry)


@each_row("failure", [failure for failure in Failure if failure is not Failure.FINAL])
def test_a_spent_body_is_never_sent_again(failure: Failure) -> None:
    """A one-shot body that has been read rules out a retry, whatever else allows it, and the reason says so."""
    facts = FailedAttempt(retry=1, failure=failure, label="x", method="PUT", body_is_spent=True)
    assert "one-shot" in reason_of(RetryPolicy(retry_non_idempotent=True), facts)


@each_row(("number", "repeated"), [(1, True), (2, True), (3, False), (4, False)])
def test_max_retries_counts_the_attempts_after_the_first(number: int, *, repeated: bool) -> None:
    """With two retries the third attempt is the last."""
    assert isinstance(decide(RetryPolicy(max_retries=2), rejected(number), MIDDLE), Retry) is repeated


@pytest.mark.parametrize(("max_retries", "reason"), [(0, "max_retries is 0"), (1, "all retries are used up")])
def test_the_reason_when_no_retry_is_left(max_retries: int, reason: str) -> None:
    """The reason distinguishes retries that are used up from a policy without retries."""
    assert reason_of(RetryPolicy(max_retries=max_retries), rejected(max_retries + 1)) == reason


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_missing_certificate_is_not_mended_by_a_retry(method: str) -> None:
    """Nothing is repeated if the server wants a certificate, whatever the method, and the reason says so."""
    facts = FailedAttempt(
        retry=1,
        failure=Failure.AMBIGUOUS,
        label="ReadError",
        method=method,
        needs_certificate=True,
    )
    assert "client certificate" in reason_of(RetryPolicy(), facts)


@pytest.mark.parametrize("failure", [Failure.REJECTED, Failure.AMBIGUOUS])
def test_a_spent_body_comes_before_the_method(failure: Failure) -> None:
    """The reason for a spent body does not advise what would not help, such as an Idempotency-Key."""
    facts = FailedAttempt(retry=1, failure=failure, label="x", method="POST", body_is_spent=True)
    assert reason_of(RetryPolicy(), facts) == "the request body is a one-shot stream, and some of it has been read"


@each_row("failure", list(Failure))
def test_a_response_can_forbid_a_retry(failure: Failure) -> None:
    """``x-should-retry: false`` rules out a retry."""
    facts = FailedAttempt(retry=1, failure=failure, label="503", should_retry=False)
    assert reason_of(RetryPolicy(), facts) == "503 is not retried: x-should-retry is false"


@each_row(
    ("failure", "method", "repeated"),
    [
        (Failure.FINAL, "GET", True),
        (Failure.FINAL, "POST", False),
        (Failure.REJECTED, "GET", True),
        (Failure.REJECTED, "POST", True),
        (Failure.AMBIGUOUS, "POST", False),
    ],
)
def test_a_response_can_allow_a_retry(failure: Failure, method: str, *, repeated: bool) -> None:
    """``x-should-retry: true`` allows a retry of any status, as far as the method is safe to repeat."""
    facts = FailedAttempt(retry=1, failure=failure, label="500", method=method, should_retry=True)
    assert isinstance(decide(RetryPolicy(), facts, MIDDLE), Retry) is repeated


# --- The wait


@each_row(("number", "wait"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64), (7, 120), (2000, 120)])
def test_backoff(number: int, wait: float) -> None:
    """The wait before retry n is 2 ** n seconds, up to max_backoff, however large n is."""
    assert delay_of(RetryPolicy(jitter=0, max_retries=10_000), rejected(number)) == wait


@each_row(
    ("base", "number", "wait"),
    [(0, 3, 0), (1, 9, 1), (0.5, 3, 0.125), (3, 2, 9), (1e200, 2, 50), (10**200, 2, 50), (2.0, 5000, 50)],
)
def test_backoff_base(base: float, number: int, wait: float) -> None:
    """The wait is backoff_base ** n; if that is too large for a float, it is max_backoff."""
    policy = RetryPolicy(jitter=0, backoff_base=base, max_backoff=50, max_retries=10_000)
    assert delay_of(policy, rejected(number)) == wait


@pytest.mark.parametrize(("random", "wait"), [(0.0, 3.2), (0.5, 4.0), (1 - 2**-53, 4.8)])
def test_jitter_goes_both_ways(random: float, wait: float) -> None:
    """A backoff of 4 s with a jitter of 0.2 is between 3.2 and 4.8 s."""
    assert delay_of(RetryPolicy(), rejected(2), random) == pytest.approx(wait)


@pytest.mark.parametrize(("random", "wait"), [(0.0, 10.0), (0.5, 11.0), (1 - 2**-53, 12.0)])
def test_jitter_of_a_retry_after_goes_up_only(random: float, wait: float) -> None:
    """No attempt comes before the time that the server asked for."""
    assert delay_of(RetryPolicy(), rejected(retry_after=10.0), random) == pytest.approx(wait)


def test_max_backoff_includes_the_jitter() -> None:
    """Jitter does not make a backoff longer than max_backoff."""
    assert delay_of(RetryPolicy(jitter=1, max_backoff=4), rejected(2), 1 - 2**-53) <= 4


def test_retry_after_replaces_the_backoff() -> None:
    """A Retry-After replaces the backoff, whether it is shorter or longer than max_backoff."""
    policy = RetryPolicy(jitter=0, max_backoff=1)
    assert [delay_of(policy, rejected(retry_after=seconds)) for seconds in (0.0, 0.5, 300.0)] == [0.0, 0.5, 300.0]


def test_a_retry_after_that_is_too_long() -> None:
    """A Retry-After above max_retry_after is not shortened: there is no further attempt."""
    reason = reason_of(RetryPolicy(), rejected(retry_after=300.5))
    assert "300.5" in reason
    assert "max_retry_after" in reason


@each_row(
    ("retry_after", "max_wait", "decision"),
    [
        (299.0, 3900.0, Retry(299.0, "Retry-After of 299 s")),
        (3900.0, 3900.0, Retry(3900.0, "Retry-After of 3900 s")),
        (3901.0, 3900.0, GiveUp("Retry-After of 3901 s exceeds max_wait of 3900 s", exceeds_max_wait=True)),
        (301.0, None, GiveUp("Retry-After of 301 s exceeds max_retry_after of 300 s")),
        (2.0, 1.0, GiveUp("Retry-After of 2 s exceeds max_wait of 1 s", exceeds_max_wait=True)),
        (86400.0, math.inf, Retry(86400.0, "Retry-After of 86400 s")),
        (86401.0, math.inf, Retry(2.0, "backoff of 2 s")),
        (86401.0, 90000.0, Retry(2.0, "backoff of 2 s")),
        (86401.0, 3900.0, GiveUp("Retry-After of 86401 s exceeds max_wait of 3900 s", exceeds_max_wait=True)),
        (None, 1.0, Retry(2.0, "backoff of 2 s")),
    ],
)
def test_max_wait_takes_the_place_of_max_retry_after(
    retry_after: float | None, max_wait: float | None, decision: Retry | GiveUp
) -> None:
    """With a throttle its max_wait counts; what it allows beyond a day is a mistake, and the backoff holds."""
    facts = rejected(retry_after=retry_after)._replace(max_wait=max_wait)
    assert decide(RetryPolicy(jitter=0), facts, MIDDLE) == decision


def test_max_wait_is_not_to_blame_for_other_reasons() -> None:
    """If there would be no retry anyway, the reason is not max_wait."""
    facts = rejected(retry_after=5000.0)._replace(max_wait=3900.0)
    assert decide(RetryPolicy(max_retries=0), facts, MIDDLE) == GiveUp("max_retries is 0")


def test_the_reason_says_where_the_wait_comes_from() -> None:
    """The reason says whether the wait is a backoff or a Retry-After."""
    reasons = [decide(RetryPolicy(), rejected(1, retry_after=wanted), MIDDLE).reason for wanted in (None, 7.0)]
    assert reasons == ["backoff of 2 s", "Retry-After of 7 s"]


def test_the_reason_names_the_field_that_asked() -> None:
    """The reason names the field that the wait comes from, also if it is too long."""
    facts = rejected(retry_after=90.0)._replace(retry_after_name="rate limit reset")
    assert decide(RetryPolicy(), facts, MIDDLE).reason == "rate limit reset of 90 s"
    assert reason_of(RetryPolicy(max_retry_after=60), facts).startswith("rate limit reset of 90 s exceeds")


@each_row(("limit", "name"), [("total_left", "total_timeout"), ("deadline_left", "the caller's deadline")])
@each_row(("left", "shown"), [(1.5, "1.5"), (0.0, "0"), (-3.0, "0"), (-math.inf, "0")])
def test_a_wait_that_does_not_fit(limit: str, name: str, left: float, shown: str) -> None:
    """If even the shortest wait of 1.6 s ends too late, there is no further attempt."""
    reason = reason_of(RetryPolicy(total_timeout=9), with_limit(rejected(), limit, left))
    assert reason == f"a backoff of 2 s is too long: only {shown} s remain until {name}"


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
def test_a_wait_that_takes_all_that_is_left_does_not_fit(limit: str) -> None:
    """A wait that uses up all the time that is left leaves none for the attempt."""
    reason = reason_of(RetryPolicy(jitter=0, total_timeout=9), with_limit(rejected(), limit, 2.0))
    assert reason.startswith("a backoff of 2 s would leave no time for an attempt: only 2 s remain until ")


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
def test_jitter_is_bounded_by_the_time_left(limit: str) -> None:
    """If the shortest wait fits and the longest does not, jitter chooses one that fits."""
    assert delay_of(RetryPolicy(total_timeout=9), with_limit(rejected(), limit, 1.7), 1 - 2**-53) <= 1.7


@pytest.mark.parametrize("limit", ["total_left", "deadline_left"])
def test_a_retry_after_that_does_not_fit_is_not_shortened(limit: str) -> None:
    """If a Retry-After does not fit, there is no attempt before it has passed."""
    assert "Retry-After of 10 s" in reason_of(
        RetryPolicy(total_timeout=30), with_limit(rejected(retry_after=10.0), limit, 9.9)
    )


# --- Any failed attempt

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
failed_attempts = st.builds(
    FailedAttempt,
    retry=st.integers(1, 10),
    failure=st.sampled_from(Failure),
    label=st.just("it"),
    should_retry=st.sampled_from([None, True, False]),
    needs_certificate=st.booleans(),
    retry_after=st.one_of(st.none(), seconds),
    retry_after_name=st.just("Retry-After"),
    max_wait=st.one_of(st.none(), seconds, st.just(math.inf)),
    method=methods,
    has_idempotency_key=st.booleans(),
    body_is_spent=st.booleans(),
    origin_has_answered=st.booleans(),
    client_is_closed=st.booleans(),
    total_left=left,
    deadline_left=left,
)
randoms = st.floats(min_value=0, max_value=1, exclude_max=True)


def shortest_wait(policy: RetryPolicy, facts: FailedAttempt) -> float:
    """Return the shortest wait that the contract allows."""
    if facts.retry_after is not None and (facts.max_wait is None or facts.retry_after <= 86_400):
        return facts.retry_after
    try:
        backoff = min(policy.backoff_base**facts.retry, policy.max_backoff)
    except OverflowError:
        backoff = policy.max_backoff
    return backoff * (1 - policy.jitter)


def may_be_repeated(policy: RetryPolicy, facts: FailedAttempt) -> bool:
    """Whether the contract allows a repetition, apart from the wait."""
    safe = facts.method in IDEMPOTENT or facts.has_idempotency_key or policy.retry_non_idempotent
    return (
        facts.retry <= policy.max_retries
        and facts.should_retry is not False
        and not facts.needs_certificate
        and not facts.body_is_spent
        and not facts.client_is_closed
        and {
            Failure.REJECTED: True,
            Failure.NEVER_SENT: True,
            Failure.UNREACHABLE: facts.origin_has_answered,
            Failure.AMBIGUOUS: safe,
            Failure.FINAL: safe and facts.should_retry is True,
        }[facts.failure]
    )


@settings(max_examples=100)
@given(policies, failed_attempts, randoms)
def test_any_failed_attempt(policy: RetryPolicy, facts: FailedAttempt, random: float) -> None:
    """It is repeated if and only if that is allowed and the shortest wait fits; the reason is always one line."""
    shortest = shortest_wait(policy, facts)
    limits = (facts.total_left, facts.deadline_left)
    assume(shortest not in limits)
    asked = facts.retry_after
    longest = policy.max_retry_after if facts.max_wait is None else facts.max_wait
    is_allowed = may_be_repeated(policy, facts) and (asked is None or asked <= longest)
    decision = decide(policy, facts, random)
    assert isinstance(decision, Retry) is (is_allowed and all(shortest < limit for limit in limits))
    assert decision == decide(policy, facts, random)
    assert decision.reason
    assert decision.reason.splitlines() == [decision.reason]


@settings(max_examples=100)
@given(policies, st.integers(1, 10), st.one_of(st.none(), seconds), left, left, randoms)
def test_any_wait(
    policy: RetryPolicy,
    number: int,
    retry_after: float | None,
    total_left: float,
    deadline_left: float,
    random: float,
) -> None:
    """A wait is never shorter than a Retry-After, fits all limits, and is spread by no more than the jitter."""
    facts = rejected(number, retry_after=retry_after)._replace(
        total_left=abs(total_left), deadline_left=abs(deadline_left)
    )
    policy = dataclasses.replace(policy, max_retries=10, max_retry_after=1e6)
    decision = decide(policy, facts, random)
    if isinstance(decision, Retry):
        shortest = shortest_wait(policy, facts)
        assert math.isfinite(decision.delay)
        assert shortest <= decision.delay <= min(facts.total_left, facts.deadline_left)
        if retry_after is not None:
            assert decision.delay <= retry_after * (1 + policy.jitter) * (1 + 1e-12)
        else:
            assert decision.delay <= policy.max_backoff
            if policy.jitter < 1:
                assert decision.delay <= shortest / (1 - policy.jitter) * (1 + policy.jitter) * (1 + 1e-9) + 1e-300
