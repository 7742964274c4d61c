"""News: which of them carry the state."""

from __future__ import annotations

import pytest

from prefect_http._throttle.fleet_state import FleetState, Member
from prefect_http._throttle.news import News, news_of


@pytest.mark.parametrize(
    ("members", "is_slow", "is_told"),
    [
        (1, False, False),
        (2, False, True),
        (16, False, True),
        (17, False, False),
        (17, True, True),
        (64, True, True),
        (65, True, False),
    ],
)
def test_state(members: int, is_slow: bool, is_told: bool) -> None:
    """A few processes tell each other the state with each change; if the store is slow, more of them do."""
    state = FleetState(at=1.0, members={f"{number}": Member(2.0, 1) for number in range(members)})
    text = news_of("key", "0", state, state, "the state", 0, is_slow=is_slow)
    news = News.parse(text)
    assert (news is not None and news.text == "the state") is is_told
