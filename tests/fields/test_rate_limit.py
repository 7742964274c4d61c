"""RateLimit, RateLimit-Policy, and the forms that came before them, parsed."""

from __future__ import annotations

import dataclasses
import math
from email.utils import formatdate

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_github import github_throttled
from prefect_http._fields.rate_limit_parser import parse_rate_limit

SENT = "Sun, 06 Nov 1994 08:49:37 GMT"
SENT_AT = 784111777
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
DATE_AT = 1_700_000_000


def parse(headers: dict[str, str], date: str | None = None, now: float = 0.0) -> RateLimit | None:
    """Read the fields of an answer that, but for the tests of clocks, came at the epoch."""
    return parse_rate_limit(headers, date=date, now=now)


# --- The draft's Lists


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('"default";r=50;t=30', RateLimit(remaining=50, reset=30.0)),
        ('"default";r=1;t=7', RateLimit(remaining=1, reset=7.0)),
        ('"problemPolicy";r=0;t=10', RateLimit(remaining=0, reset=10.0)),
        ('"default";r=999;pk=:dHJpYWwxMjEzMjM=:', RateLimit(remaining=999)),
        ('"default";r=300000000;t=60;pk=:QXBwLTk5OQ==:', RateLimit(remaining=300000000, reset=60.0)),
        ('"day";r=100;t=36000', RateLimit(remaining=100, reset=36000.0)),
    ],
)
def test_examples_of_the_draft(field: str, expected: RateLimit) -> None:
    """Each example of the draft is read as it is explained there."""
    assert parse({"RateLimit": field}) == expected


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        ('"default";q=100;w=10', 100),
        ('"burst";q=100;w=60,"daily";q=1000;w=86400', 100),
        ('"permin";q=50;w=60,"perhr";q=1000;w=3600', 50),
        ('"peruser";q=100;w=60;pk=:cHsdsRa894==:', 100),
    ],
)
def test_examples_of_policies(policy: str, limit: int) -> None:
    """Policies alone tell the smallest quota, and nothing of what remains."""
    assert parse({"RateLimit-Policy": policy}) == RateLimit(limit=limit)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('"a";r=5;t=10, "b";r=3;t=60', RateLimit(remaining=3, reset=60.0)),
        ('"b";r=3;t=60,"a";r=5;t=10', RateLimit(remaining=3, reset=60.0)),
        ('"a";r=0;t=1, "b";r=0;t=3600, "c";r=0;t=60', RateLimit(remaining=0, reset=3600.0)),
        ('"a";r=0, "b";r=0;t=0', RateLimit(remaining=0, reset=0.0)),
        ('"a";r=0;t=5, "b";r=0', RateLimit(remaining=0, reset=5.0)),
        ('"a";r=4;t=5 \t,\t "b";r=2', RateLimit(remaining=2)),
    ],
)
def test_the_tightest_item_wins(field: str, expected: RateLimit) -> None:
    """The smallest remainder wins, and of equal ones the longest that is known."""
    assert parse({"RateLimit": field}) == expected


def test_repeated_fields_are_one_list() -> None:
    """Fields that are repeated, in whatever case, are joined and read as one."""
    headers = httpx.Headers([("RateLimit", '"a";r=5;t=10'), ("ratelimit", '"b";r=3;t=60')])
    assert parse_rate_limit(headers, date=None, now=0.0) == RateLimit(remaining=3, reset=60.0)


@pytest.mark.parametrize(
    ("field", "policy", "expected"),
    [
        ('"burst";r=5', '"burst";q=100;w=60,"daily";q=1000;w=86400', RateLimit(remaining=5, limit=100)),
        ('"daily";r=5', '"burst";q=100;w=60,"daily";q=1000;w=86400', RateLimit(remaining=5, limit=1000)),
        ('"burst";r=5, "daily";r=4', '"burst";q=100,"daily";q=1000', RateLimit(remaining=4, limit=1000)),
        ('"daily";r=5', '"burst";q=100;w=60', RateLimit(remaining=5)),
        ('"user";r=5', '"user";q=100;pk=:YQ==:, "user";q=10;pk=:Yg==:', RateLimit(remaining=5, limit=10)),
        ('"user";r=5', '"user";q=10;pk=:YQ==:, "user";q=100;pk=:Yg==:', RateLimit(remaining=5, limit=10)),
        ('"a";r=0', '"a";q=0', RateLimit(remaining=0, limit=0)),
    ],
)
def test_limit_is_the_quota_of_the_tightest(field: str, policy: str, expected: RateLimit) -> None:
    """The quota is that of the policy with the name of the item that won, the smallest if it has several."""
    assert parse({"RateLimit": field, "RateLimit-Policy": policy}) == expected


@pytest.mark.parametrize(
    "parameters",
    ["pk=:YQ==:", "pk=token", 'pk="text"', "pk", "w=1", 'acme-burst="x"', "x=1.5", "x=@1", "qu=bytes", "remaining=7"],
)
def test_other_parameters_are_left_alone(parameters: str) -> None:
    """The partition key, and what a server adds of its own, change nothing, whatever their types."""
    assert parse({"RateLimit": f'"a";{parameters};r=5;t=3'}) == RateLimit(remaining=5, reset=3.0)


@pytest.mark.parametrize("parameters", ["pk=:YQ==:", "pk=token", "w=-1", "w=1.5", 'w="x"', "x=@1", "burst=1000"])
def test_other_parameters_of_policies_are_left_alone(parameters: str) -> None:
    """A policy's window and partition key, and what a server adds of its own, are not looked at."""
    assert parse({"RateLimit-Policy": f'"a";q=5;{parameters}'}) == RateLimit(limit=5)


def test_the_last_of_a_parameter_counts() -> None:
    """A parameter that comes twice has its last value (RFC 9651, section 4.2.3.2)."""
    assert parse({"RateLimit": '"a";r=5;t=3;r=1'}) == RateLimit(remaining=1, reset=3.0)


def test_largest_integer() -> None:
    """An Integer has up to 15 digits (RFC 9651, section 3.3.1)."""
    largest = 10**15 - 1
    expected = RateLimit(remaining=largest, reset=float(largest))
    assert parse({"RateLimit": f'"a";r={largest};t={largest}'}) == expected


MALFORMED_LISTS = {
    "empty": "",
    "space": " ",
    "no r": '"a";t=30',
    "r without a value": '"a";r;t=30',
    "r negative": '"a";r=-1',
    "r fraction": '"a";r=1.0',
    "r string": '"a";r="1"',
    "r token": '"a";r=one',
    "r boolean": '"a";r=?1',
    "r date": '"a";r=@1',
    "r bytes": '"a";r=:YQ==:',
    "r nan": '"a";r=nan',
    "r exponent": '"a";r=1e3',
    "r hexadecimal": '"a";r=0x10',
    "r plus": '"a";r=+1',
    "r underscore": '"a";r=1_000',
    "r huge": '"a";r=9999999999999999',
    "r far too huge": '"a";r=' + "9" * 5000,
    "r other digits": '"a";r=５',
    "r nothing": '"a";r=',
    "R": '"a";R=1',
    "t without a value": '"a";r=1;t',
    "t negative": '"a";r=1;t=-1',
    "t fraction": '"a";r=1;t=1.5',
    "t string": '"a";r=1;t="1"',
    "t infinite": '"a";r=1;t=inf',
    "t huge": '"a";r=1;t=9999999999999999',
    "token": "a;r=1",
    "integer": "1;r=1",
    "boolean": "?1;r=1",
    "bytes": ":YQ==:;r=1",
    "display string": '%"a";r=1',
    "inner list": '("a");r=1',
    "unquoted before revision 08": "default;r=50;t=30",
    "policy of revision 07": "100;w=60",
    "single quotes": "'a';r=1",
    "unclosed": '"a;r=1',
    "not ascii": '"ä";r=1',
    "surrogate": '"\udc80";r=1',
    "null": '"a\x00";r=1',
    "trailing comma": '"a";r=1,',
    "trailing semicolon": '"a";r=1;',
    "space before semicolon": '"a" ;r=1',
    "no comma": '"a";r=1 "b";r=2',
    "comma for semicolon": '"a";r=0, t=10',
    "one item of two": '"a";r=1, "b"',
    "one item of two, the other first": '"a";t=1, "b";r=2',
}


@pytest.mark.parametrize("field", MALFORMED_LISTS.values(), ids=MALFORMED_LISTS)
def test_malformed_list_counts_as_absent(field: str) -> None:
    """A field in which anything is malformed is ignored whole: the next form has its turn."""
    assert parse({"RateLimit": field}) is None
    assert parse({"RateLimit": field, "X-RateLimit-Remaining": "7"}) == RateLimit(remaining=7)


# --- Units


@pytest.mark.parametrize("unit", ["content-bytes", "concurrent-requests", "tokens", ""])
def test_items_of_other_units_are_left_out(unit: str) -> None:
    """What remains of something else than requests is not what remains of requests, be it tighter."""
    headers = {
        "RateLimit": '"other";r=0;t=60, "calls";r=5;t=30',
        "RateLimit-Policy": f'"other";q=9;qu="{unit}", "calls";q=100;qu="requests"',
    }
    found = parse(headers)
    assert found
    assert dataclasses.replace(found, concurrency=None) == RateLimit(remaining=5, reset=30.0, limit=100)


def test_items_of_other_units_alone_say_nothing() -> None:
    """With nothing but bytes in it, the field says nothing of requests, and the next form has its turn."""
    headers = {"RateLimit": '"b";r=0;t=60', "RateLimit-Policy": '"b";q=65535;qu="content-bytes";w=10'}
    assert parse(headers) is None
    assert parse({**headers, "RateLimit-Remaining": "7"}) == RateLimit(remaining=7)


def test_a_name_with_two_units_counts() -> None:
    """A name under which requests are counted as well is obeyed."""
    headers = {"RateLimit": '"a";r=5', "RateLimit-Policy": '"a";q=9;qu="content-bytes", "a";q=7'}
    assert parse(headers) == RateLimit(remaining=5, limit=7)


@pytest.mark.parametrize(
    ("policy", "concurrency"),
    [
        ('"c";q=4;qu="concurrent-requests"', 4),
        ('"c";q=4;qu="concurrent-requests", "d";q=2;qu="concurrent-requests"', 2),
        ('"c";q=4;qu="concurrent-requests", "d";q=0;qu="concurrent-requests"', 4),
        ('"c";q=0;qu="concurrent-requests"', None),
        ('"c";q=4;qu=concurrent-requests', None),
        ('"c";q=4;qu="Concurrent-Requests"', None),
        ('"c";q=-4;qu="concurrent-requests"', None),
        ('"c";qu="concurrent-requests"', None),
    ],
)
def test_concurrency(policy: str, concurrency: int | None) -> None:
    """The smallest quota of concurrent requests is the concurrency; one of none could not be acted on."""
    expected = RateLimit(concurrency=concurrency) if concurrency else None
    assert parse({"RateLimit-Policy": policy}) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"RateLimit": '"requests";r=41;t=23, "c";r=0'},
        {"RateLimit": "limit=60, remaining=41, reset=23"},
        {"RateLimit-Limit": "60", "RateLimit-Remaining": "41", "RateLimit-Reset": "23"},
        {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "41", "X-RateLimit-Reset": "23"},
    ],
)
def test_concurrency_goes_with_each_form(headers: dict[str, str]) -> None:
    """The concurrency is told by the policies, whatever tells the rest."""
    policy = '"requests";q=60;w=60, "c";q=4;qu="concurrent-requests"'
    expected = RateLimit(remaining=41, reset=23.0, limit=60, concurrency=4)
    assert parse({**headers, "RateLimit-Policy": policy}) == expected


@pytest.mark.parametrize(
    "policy",
    [
        '"a";w=10',
        '"a";q=-1',
        '"a";q=1.5',
        '"a";q="1"',
        '"a";q',
        "a;q=1",
        "100;w=60",
        '"a";q=1;qu=requests',
        '"a";q=1;qu',
        '"a";q=1, "b"',
        '("a");q=1',
        '"a";q=1;',
        "nonsense!",
    ],
)
def test_malformed_policies_count_as_absent(policy: str) -> None:
    """Policies with anything malformed are ignored whole, and what remains is told without them."""
    headers = {"RateLimit": '"a";r=5', "RateLimit-Policy": f'"a";q=9;qu="content-bytes", {policy}'}
    assert parse(headers) == RateLimit(remaining=5)
    assert parse({"RateLimit-Policy": policy}) is None


# --- The forms that came before


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("limit=100, remaining=50, reset=30", RateLimit(limit=100, remaining=50, reset=30.0)),
        ("reset=30,remaining=50,limit=100", RateLimit(limit=100, remaining=50, reset=30.0)),
        ("limit=100, remaining=0, reset=0.25", RateLimit(limit=100, remaining=0, reset=0.25)),
        ("limit=10;w=1, remaining=5;x, reset=3", RateLimit(limit=10, remaining=5, reset=3.0)),
        ("remaining=5, policy=(1 2), name=burst", RateLimit(remaining=5)),
        ("remaining=5, remaining=4", RateLimit(remaining=4)),
        ("reset=7", RateLimit(reset=7.0)),
        ("limit=7", RateLimit(limit=7)),
    ],
)
def test_dictionary(field: str, expected: RateLimit) -> None:
    """A single Dictionary tells all three, or some of them; other keys and parameters are left alone."""
    assert parse({"RateLimit": field}) == expected


@pytest.mark.parametrize(
    "field",
    [
        "limit=100, remaining=50, reset=-1",
        "limit=100, remaining=x, reset=30",
        'limit=100, remaining="50", reset=30',
        "limit=100, remaining, reset=30",
        "limit=100, remaining=(50), reset=30",
        "limit=100, remaining=nan, reset=30",
        "limit=100, remaining=50, reset=9999999999999999",
        "limit=100 remaining=50 reset=30",
        "limit=100, remaining=50, reset=30,",
        "limit=100, remaining=, reset=30",
        "Limit=100, Remaining=50, Reset=30",
        "other=1",
    ],
)
def test_malformed_dictionary_counts_as_absent(field: str) -> None:
    """A Dictionary in which anything known is malformed is ignored whole."""
    assert parse({"RateLimit": field}) is None


PREFIXES = ["RateLimit-", "ratelimit-", "X-RateLimit-", "x-ratelimit-", "X-Rate-Limit-", "X-RATE-LIMIT-"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "expected"),
    [
        ("100", "50", "30", RateLimit(limit=100, remaining=50, reset=30.0)),
        ("100, 100;w=60", "0", "0", RateLimit(limit=100, remaining=0, reset=0.0)),
        ("10, 10;w=1;burst=1000, 1000;w=3600", "9", "1", RateLimit(limit=10, remaining=9, reset=1.0)),
        ('12, 12;w=1;comment="fixed window"', "9", "1", RateLimit(limit=12, remaining=9, reset=1.0)),
        ("100;w=21600", "76;w=21600", None, RateLimit(limit=100, remaining=76)),
        (None, "599.0", "280", RateLimit(remaining=599, reset=280.0)),
        ("10.9", "0.9", "1.5", RateLimit(limit=10, remaining=0, reset=1.5)),
        (" 100 ", " 007", "30 ", RateLimit(limit=100, remaining=7, reset=30.0)),
        (None, "5", None, RateLimit(remaining=5)),
        (None, None, "5", RateLimit(reset=5.0)),
        ("5", None, None, RateLimit(limit=5)),
        ("5", "x", "5", RateLimit(limit=5, reset=5.0)),
        ("5", "4, 3", "5, 5", RateLimit(limit=5)),
        (None, None, None, None),
    ],
)
def test_three_fields(
    prefix: str, limit: str | None, remaining: str | None, reset: str | None, expected: RateLimit | None
) -> None:
    """Three fields, or some of them, tell it in each spelling; each is ignored on its own if malformed."""
    headers = {f"{prefix}Limit": limit, f"{prefix}Remaining": remaining, f"{prefix}Reset": reset}
    assert parse({name: value for name, value in headers.items() if value is not None}) == expected


MALFORMED_NUMBERS = (
    '- -1 -0.5 +5 x "5" ?1 @5 :NQ==: (5) nan NaN inf Infinity -inf 1e3 0x10 1_000 1. .5 1.2345 5s 5/s 5! 5,'.split()
)


@pytest.mark.parametrize("prefix", ["RateLimit-", "X-RateLimit-", "X-Rate-Limit-"])
@pytest.mark.parametrize("value", ["", " ", "５", "5 5", SENT, "9" * 16, "9" * 5000, *MALFORMED_NUMBERS], ids=ascii)
def test_malformed_field_counts_as_absent(prefix: str, value: str) -> None:
    """A number that is negative, too long, or none is ignored."""
    assert parse({f"{prefix}Limit": value, f"{prefix}Remaining": value, f"{prefix}Reset": value}) is None


# --- A reset that is a moment


@pytest.mark.parametrize("name", ["RateLimit-Reset", "X-RateLimit-Reset", "X-Rate-Limit-Reset"])
@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1000000000", 1e9),
        ("1000000001", 0.0),
        (f"{DATE_AT + 90}", 90.0),
        (f"{DATE_AT + 90}.125", 90.125),
        (f"{DATE_AT}", 0.0),
        (f"{DATE_AT - 90}", 0.0),
        (f"{(DATE_AT + 90) * 1000}", 90.0),
        (f"{(DATE_AT - 90) * 1000}", 0.0),
        ("1000000000000", 1e12 - DATE_AT),
        ("1000000000001", 0.0),
        ("999999999999999", 999999999999.999 - DATE_AT),
    ],
)
def test_moment_is_measured_against_the_date(name: str, reset: str, seconds: float) -> None:
    """A reset above 10**9 is a moment, which counts from the answer's Date, and is no wait if it has passed."""
    assert parse({name: reset}, date=DATE, now=math.nan) == RateLimit(reset=seconds)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Tue, 14 Nov 2023 99:13:20 GMT"])
def test_moment_is_measured_against_the_wall_clock(date: str | None) -> None:
    """Without a Date, or with a malformed one, a moment counts from the wall clock."""
    assert parse({"X-RateLimit-Reset": f"{DATE_AT + 90}"}, date=date, now=DATE_AT + 60.5) == RateLimit(reset=29.5)


def test_seconds_do_not_look_at_the_date() -> None:
    """Seconds count from the answer's arrival, in each form."""
    for headers in ({"RateLimit": '"a";r=1;t=5'}, {"RateLimit": "remaining=1, reset=5"}):
        assert parse(headers, date=SENT, now=math.nan) == RateLimit(remaining=1, reset=5.0)
    assert parse({"X-RateLimit-Reset": "5"}, date=SENT, now=math.nan) == RateLimit(reset=5.0)


def test_seconds_of_the_draft_are_never_a_moment() -> None:
    """The draft knows seconds only, so that many of them are that many."""
    assert parse({"RateLimit": f'"a";r=1;t={DATE_AT}'}, date=SENT) == RateLimit(remaining=1, reset=float(DATE_AT))


def test_moment_in_a_dictionary() -> None:
    """A Dictionary's reset is read as those of the three fields are."""
    found = parse({"RateLimit": f"remaining=1, reset={SENT_AT + 10**9}"}, date=SENT)
    assert found == RateLimit(remaining=1, reset=1e9)


# --- Which form is taken

FORMS = [
    ({"RateLimit": '"a";r=1'}, 1),
    ({"RateLimit-Limit": "9", "RateLimit-Remaining": "3"}, 3),
    ({"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "4"}, 4),
    ({"X-Rate-Limit-Limit": "9", "X-Rate-Limit-Remaining": "5"}, 5),
]


@pytest.mark.parametrize("first", range(len(FORMS)))
def test_precedence(first: int) -> None:
    """The newest form that is there is taken, whole, in whatever order the fields come."""
    headers: dict[str, str] = {}
    for fields, _ in reversed(FORMS[first:]):
        headers |= fields
    found = parse(headers)
    assert found
    assert found.remaining == FORMS[first][1]
    assert found.limit == (9 if first else None)


def test_dictionary_precedes_the_three_fields() -> None:
    """A Dictionary comes after the List, whose field it shares, and before the three fields."""
    assert parse({"RateLimit": "remaining=2", "RateLimit-Remaining": "3"}) == RateLimit(remaining=2)


@pytest.mark.parametrize(
    "headers",
    [
        {"RateLimit": "limit=100; remaining=100; reset=1"},
        {"RateLimit": "limit=100, reset=1"},
        {"RateLimit-Limit": "100"},
        {"RateLimit-Reset": "100", "RateLimit-Remaining": "?"},
        {"RateLimit-Policy": '"a";q=1'},
    ],
)
def test_what_remains_is_preferred(headers: dict[str, str]) -> None:
    """A form that does not tell what remains, as with Close's semicolons, does not hide one that does."""
    assert parse({**headers, "X-RateLimit-Remaining": "99"}) == RateLimit(remaining=99)


def test_the_first_that_says_anything() -> None:
    """With none that tells what remains, the newest that says anything is taken."""
    headers = {"RateLimit": "reset=2", "RateLimit-Reset": "3", "X-RateLimit-Reset": "4", "RateLimit-Policy": '"a";q=1'}
    assert parse(headers) == RateLimit(reset=2.0)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain", "Retry-After": "5"},
        {"X-RateLimit-Used": "5", "X-RateLimit": "5", "RateLimit-Name": "5", "X-RateLimit-Policy": '"a";q=1'},
    ],
)
def test_nothing_said(headers: dict[str, str]) -> None:
    """Without any of the fields there is no rate limit."""
    assert parse(headers) is None


def test_frozen() -> None:
    """What was read does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RateLimit(remaining=1).remaining = 2  # type: ignore[misc]


# --- Hostile input


@pytest.mark.parametrize("name", ["RateLimit", "RateLimit-Policy"])
def test_length_is_limited(name: str) -> None:
    """A field of 8 KiB is read, a longer one counts as absent."""
    start = '"a";r=5;q=5;x="'
    assert parse({name: f'{start}{"x" * (8191 - len(start))}"'})
    assert parse({name: f'{start}{"x" * (8192 - len(start))}"'}) is None


@pytest.mark.parametrize("name", ["RateLimit-Remaining", "X-RateLimit-Reset", "X-Rate-Limit-Limit"])
def test_length_of_numbers_is_limited(name: str) -> None:
    """The same holds for the other fields."""
    assert parse({name: "5" + " " * 8191})
    assert parse({name: "5" + " " * 8192}) is None


# --- GitHub


@pytest.mark.parametrize("status_code", [403, 429])
@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{DATE_AT}"},
        {"x-ratelimit-remaining": "0"},
        {"Retry-After": "60"},
        {"retry-after": "60", "x-ratelimit-remaining": "4000"},
        {"Retry-After": DATE},
        {"Retry-After": DATE, "Date": SENT},
        {"Retry-After": "0"},
    ],
)
def test_github_throttled(status_code: int, headers: dict[str, str]) -> None:
    """GitHub says 403 or 429 with nothing remaining, or with a Retry-After."""
    assert github_throttled(status_code, headers)
    assert github_throttled(status_code, httpx.Headers(headers))


def test_github_too_many_requests() -> None:
    """Its 429 is a rejection without any field, as some of its secondary limits are."""
    assert github_throttled(429, {})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-RateLimit-Limit": "60"},
        {"X-RateLimit-Remaining": "59"},
        {"X-RateLimit-Remaining": "none"},
        {"X-RateLimit-Remaining": "-0.5"},
        {"Retry-After": "soon"},
        {"Retry-After": SENT, "Date": DATE},
        {"Retry-After": "9" * 8193},
    ],
)
def test_github_forbidden(headers: dict[str, str]) -> None:
    """A 403 with requests remaining, or with nothing that can be read, is a lack of permission."""
    assert not github_throttled(403, headers)


@pytest.mark.parametrize("status_code", [200, 304, 401, 404, 500, 503])
def test_github_other_answers(status_code: int) -> None:
    """Other answers are no throttle signals, the last one that the quota allowed among them."""
    assert not github_throttled(status_code, {"X-RateLimit-Remaining": "0", "Retry-After": "5"})


# --- The same as properties

NAMES = [
    "RateLimit",
    "RateLimit-Policy",
    *(f"{prefix}{name}" for prefix in ("RateLimit-", "X-RateLimit-", "X-Rate-Limit-") for name in ("Limit", "Reset")),
    *(f"{prefix}Remaining" for prefix in ("RateLimit-", "X-RateLimit-", "X-Rate-Limit-")),
]
# Texts that get further into a parser of Structured Fields than random ones do.
pieces = st.lists(
    st.sampled_from(
        '"a" "b" "a a a b ; ; , , = ( ) ? ?1 @ @1 : :YQ==: % %"a" %c3 \\ " - . 0 1 0.5 9999999999 1700000000000 '
        "r t q w qu pk ;r= ;r=5 ;t= ;t=30 ;q=9 ;qu= ;r=-1 ;t=1.5 limit= remaining= reset= nan inf é ５ \x00".split(" ")
    ),
    max_size=9,
).map("".join)
counts = st.integers(0, 10**15 - 1)
numbers = st.one_of(st.integers(), counts, st.floats(), st.decimals()).map(str)
units = st.sampled_from(["", ';qu="requests"', ';qu="content-bytes"', ';qu="concurrent-requests"'])
names = st.sampled_from("abc")
items = st.lists(st.builds('"{}";r={};t={}'.format, names, counts, counts), max_size=4).map(", ".join)
policies = st.lists(st.builds('"{}";q={}{}'.format, names, counts, units), max_size=4).map(", ".join)
values = st.one_of(st.text(), pieces, numbers, items, policies)
fields = st.dictionaries(st.sampled_from(NAMES), values)
clocks = st.floats(min_value=-1e12, max_value=1e12)
dates = st.one_of(st.none(), st.just(SENT), st.just(DATE), st.text())
thorough = settings(max_examples=500)


@thorough
@given(fields, dates, clocks)
@example({"X-RateLimit-Reset": "-0.0"}, None, 0.0)
@example({"RateLimit": '"a";r=-0;t=-0'}, None, 0.0)
@example({"X-RateLimit-Reset": "999999999999999"}, "Sat, 01 Jan 0001 00:00:00 GMT", 0.0)
def test_whatever_comes_the_values_are_in_range(headers: dict[str, str], date: str | None, now: float) -> None:
    """No fields make the parser raise, or give a value that is negative, NaN or infinite, or nothing at all."""
    found = parse_rate_limit(headers, date=date, now=now)
    assert found != RateLimit()
    if found:
        assert found.remaining is None or (type(found.remaining) is int and found.remaining >= 0)
        assert found.limit is None or (type(found.limit) is int and found.limit >= 0)
        assert found.concurrency is None or (type(found.concurrency) is int and found.concurrency >= 1)
        assert found.reset is None or (type(found.reset) is float and math.isfinite(found.reset) and found.reset >= 0)


@thorough
@given(st.sampled_from([200, 403, 429]), st.dictionaries(st.sampled_from([*NAMES, "Retry-After", "Date"]), values))
def test_whatever_comes_github_is_told(status_code: int, headers: dict[str, str]) -> None:
    """No fields make the predicate raise, and they matter with a 403 alone."""
    throttled = github_throttled(status_code, headers)
    assert throttled == (status_code == 429) or status_code == 403


@thorough
@given(st.lists(st.tuples(counts, st.one_of(st.none(), counts)), min_size=1, max_size=20))
def test_no_item_is_tighter(limits: list[tuple[int, int | None]]) -> None:
    """The item taken has the smallest remainder, and no other with the same has a longer reset."""
    field = ", ".join(f'"{i}";r={r}' + ("" if t is None else f";t={t}") for i, (r, t) in enumerate(limits))
    found = parse({"RateLimit": field})
    assert found
    assert found.remaining == min(r for r, _ in limits)
    resets = [float(t) for r, t in limits if r == found.remaining and t is not None]
    assert found.reset == max(resets, default=None)


@thorough
@given(counts, st.integers(0, 10**9), st.integers(10**9 + 1, 10**10))
def test_seconds_and_moments_round_trip(remaining: int, seconds: int, sent: int) -> None:
    """So many seconds, and the moment so many seconds after the answer's Date, are the same wait."""
    expected = RateLimit(remaining=remaining, reset=float(seconds))
    for reset in (seconds, sent + seconds, (sent + seconds) * 1000):
        headers = {"X-RateLimit-Remaining": f"{remaining}", "X-RateLimit-Reset": f"{reset}"}
        assert parse(headers, date=formatdate(sent, usegmt=True)) == expected
