"""What the tests of HTTP dates and of ``Retry-After`` share."""

from __future__ import annotations

from hypothesis import strategies as st

SENT = "Sun, 06 Nov 1994 08:49:37 GMT"
SENT_AT = 784111777.0
# The same time in the three forms of RFC 9110, section 5.6.7.
FORMS = {
    "imf-fixdate": "Sun, 06 Nov 1994 08:50:07 GMT",
    "rfc850": "Sunday, 06-Nov-94 08:50:07 GMT",
    "asctime": "Sun Nov  6 08:50:07 1994",
}

# These get further into a parser of dates than random texts do.
_PIECES = st.lists(
    st.sampled_from(
        "Sun, Sunday, Sun 06 6 - -06 Nov Nov-94 Feb 1994 94 0 00 99999 10000 08:49:37 8:49 24:00:00 23:59:60 08.49.37 "
        'GMT EST +0000 -0000 -9999 +99999999999 ( ) " : , / nan inf 1e5 é ５ \x00'.split(" ")
    ),
    max_size=9,
).map(" ".join)
_NUMBERS = st.one_of(st.integers(), st.floats(), st.decimals()).map(str)
VALUES = st.one_of(st.text(max_size=30), _PIECES, _NUMBERS)
