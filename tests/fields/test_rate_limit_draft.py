"""``RateLimit`` and ``RateLimit-Policy`` as the current draft has them."""

from __future__ import annotations

import dataclasses

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rate_limits import counts, parse
from support.rows import each_row

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_parser import parse_rate_limit

# --- The items


@each_row(
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
    """Each example of the draft means what the draft says."""
    assert parse({"RateLimit": field}) == expected


@each_row(
    ("policy", "limit"),
    [
        ('"default";q=100;w=10', 100),
        ('"burst";q=100;w=60,"daily";q=1000;w=86400', 100),
        ('"permin";q=50;w=60,"perhr";q=1000;w=3600', 50),
        ('"peruser";q=100;w=60;pk=:cHsdsRa894==:', 100),
    ],
)
def test_examples_of_policies(policy: str, limit: int) -> None:
    """Policies alone say what the smallest quota is, and nothing about what remains."""
    assert parse({"RateLimit-Policy": policy}) == RateLimit(limit=limit)


@each_row(
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
    """The item with the smallest remainder wins, and of equal ones that with the longest known reset."""
    assert parse({"RateLimit": field}) == expected


def test_repeated_fields_are_one_list() -> None:
    """Repeated fields, in whatever case, are joined and parsed as one."""
    headers = httpx.Headers([("RateLimit", '"a";r=5;t=10'), ("ratelimit", '"b";r=3;t=60')])
    assert parse_rate_limit(headers, date=None, now=0.0) == RateLimit(remaining=3, reset=60.0)


@each_row(
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
    """The quota is that of the policy with the tightest item's name, and the smallest if there are several."""
    assert parse({"RateLimit": field, "RateLimit-Policy": policy}) == expected


@each_row(
    "parameters",
    ["pk=:YQ==:", "pk=token", 'pk="text"', "pk", "w=1", 'acme-burst="x"', "x=1.5", "x=@1", "qu=bytes", "remaining=7"],
)
def test_other_parameters_are_ignored(parameters: str) -> None:
    """The partition key and a server's own parameters change nothing, whatever their types."""
    assert parse({"RateLimit": f'"a";{parameters};r=5;t=3'}) == RateLimit(remaining=5, reset=3.0)


@each_row("parameters", ["pk=:YQ==:", "pk=token", "w=-1", "w=1.5", 'w="x"', "x=@1", "burst=1000"])
def test_other_parameters_of_policies_are_ignored(parameters: str) -> None:
    """A policy's window, its partition key and a server's own parameters are ignored."""
    assert parse({"RateLimit-Policy": f'"a";q=5;{parameters}'}) == RateLimit(limit=5)


def test_the_last_of_a_parameter_counts() -> None:
    """A parameter that is repeated has its last value (RFC 9651, section 4.2.3.2)."""
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


@each_row("field", MALFORMED_LISTS.values(), ids=MALFORMED_LISTS)
def test_malformed_list_counts_as_absent(field: str) -> None:
    """If any part of a field is malformed, all of it is ignored, and the next form is tried."""
    assert parse({"RateLimit": field}) is None
    assert parse({"RateLimit": field, "X-RateLimit-Remaining": "7"}) == RateLimit(remaining=7)


# --- Units


@each_row("unit", ["content-bytes", "concurrent-requests", "tokens", ""])
def test_items_in_other_units_are_ignored(unit: str) -> None:
    """An item that does not count requests is ignored, even if it is tighter."""
    headers = {
        "RateLimit": '"other";r=0;t=60, "calls";r=5;t=30',
        "RateLimit-Policy": f'"other";q=9;qu="{unit}", "calls";q=100;qu="requests"',
    }
    found = parse(headers)
    assert found
    assert dataclasses.replace(found, concurrency=None) == RateLimit(remaining=5, reset=30.0, limit=100)


def test_items_in_other_units_alone_say_nothing() -> None:
    """If a field only counts bytes, the next form is tried."""
    headers = {"RateLimit": '"b";r=0;t=60', "RateLimit-Policy": '"b";q=65535;qu="content-bytes";w=10'}
    assert parse(headers) is None
    assert parse({**headers, "RateLimit-Remaining": "7"}) == RateLimit(remaining=7)


def test_a_name_with_two_units_counts() -> None:
    """A name that has a policy in requests counts, whatever other policies it has."""
    headers = {"RateLimit": '"a";r=5', "RateLimit-Policy": '"a";q=9;qu="content-bytes", "a";q=7'}
    assert parse(headers) == RateLimit(remaining=5, limit=7)


@each_row(
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
    """The concurrency is the smallest quota of concurrent requests; one of 0 is ignored."""
    expected = RateLimit(concurrency=concurrency) if concurrency else None
    assert parse({"RateLimit-Policy": policy}) == expected


@each_row(
    "headers",
    [
        {"RateLimit": '"requests";r=41;t=23, "c";r=0'},
        {"RateLimit": "limit=60, remaining=41, reset=23"},
        {"RateLimit-Limit": "60", "RateLimit-Remaining": "41", "RateLimit-Reset": "23"},
        {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "41", "X-RateLimit-Reset": "23"},
    ],
)
def test_concurrency_goes_with_each_form(headers: dict[str, str]) -> None:
    """The concurrency comes from the policies, whichever form the rest comes from."""
    policy = '"requests";q=60;w=60, "c";q=4;qu="concurrent-requests"'
    expected = RateLimit(remaining=41, reset=23.0, limit=60, concurrency=4)
    assert parse({**headers, "RateLimit-Policy": policy}) == expected


@each_row(
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
    """If any part of the policies is malformed, all of them are ignored, and the rest is parsed without them."""
    headers = {"RateLimit": '"a";r=5', "RateLimit-Policy": f'"a";q=9;qu="content-bytes", {policy}'}
    assert parse(headers) == RateLimit(remaining=5)
    assert parse({"RateLimit-Policy": policy}) is None


# --- Any input


@settings(max_examples=100)
@given(st.lists(st.tuples(counts, st.one_of(st.none(), counts)), min_size=1, max_size=6))
def test_the_tightest_item_of_any_list(limits: list[tuple[int, int | None]]) -> None:
    """The result has the smallest remainder, and the longest reset of those that share it."""
    field = ", ".join(f'"{i}";r={r}' + ("" if t is None else f";t={t}") for i, (r, t) in enumerate(limits))
    found = parse({"RateLimit": field})
    assert found
    assert found.remaining == min(r for r, _ in limits)
    resets = [float(t) for r, t in limits if r == found.remaining and t is not None]
    assert found.reset == max(resets, default=None)
