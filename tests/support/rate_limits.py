"""What the tests of rate-limit fields share: two dates, a shorthand, and strategies for fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC

from hypothesis import strategies as st

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_parser import parse_rate_limit

EARLIER = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER_AT = 784111777
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
DATE_AT = 1_700_000_000

FIELDS = [
    *("RateLimit", "RateLimit-Policy", "X-RateLimit-Reset-After"),
    *(f"X-RateLimit-{name}-{unit}" for name in ("Limit", "Remaining", "Reset") for unit in ("Tokens", "Minute")),
    *(f"Anthropic-RateLimit-Requests-{name}" for name in ("Limit", "Remaining", "Reset")),
    *(
        f"{prefix}{name}"
        for prefix in ("RateLimit-", "X-RateLimit-", "X-Rate-Limit-")
        for name in ("Limit", "Remaining", "Reset")
    ),
]

# These get further into a parser of Structured Fields than random texts do.
_PIECES = st.lists(
    st.sampled_from(
        '"a" "b" "a a a b ; ; , , = ( ) ? ?1 @ @1 : :YQ==: % %"a" %c3 \\ " - . 0 1 0.5 9999999999 1700000000000 '
        "r t q w qu pk ;r= ;r=5 ;t= ;t=30 ;q=9 ;qu= ;r=-1 ;t=1.5 limit= remaining= reset= nan inf é ５ \x00".split(" ")
    ),
    max_size=9,
).map("".join)
counts = st.integers(0, 10**15 - 1)
_NUMBERS = st.one_of(st.integers(), counts, st.floats(), st.decimals()).map(str)
_UNITS = st.sampled_from(["", ';qu="requests"', ';qu="content-bytes"', ';qu="concurrent-requests"'])
_NAMES = st.sampled_from("abc")
_ITEMS = st.lists(st.builds('"{}";r={};t={}'.format, _NAMES, counts, counts), max_size=4).map(", ".join)
_POLICIES = st.lists(st.builds('"{}";q={}{}'.format, _NAMES, counts, _UNITS), max_size=4).map(", ".join)

_TIMES = st.one_of(
    st.datetimes(timezones=st.sampled_from([None, UTC])).map(lambda at: at.isoformat()),
    st.lists(st.sampled_from("1 12 0.5 . - d h m s ms us µs T Z :00 -01 2023".split()), max_size=6).map("".join),
)

VALUES = st.one_of(st.text(max_size=20), _PIECES, _NUMBERS, _ITEMS, _POLICIES, _TIMES)


def parse(headers: Mapping[str, str], date: str | None = None, now: float = 0.0) -> RateLimit | None:
    """Parse the fields of a response that, except in the tests of clocks, came at the epoch."""
    return parse_rate_limit(headers, date=date, now=now)
