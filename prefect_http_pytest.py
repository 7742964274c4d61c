"""The pytest plugin of prefect_http: the fixture ``fake_network``.

pytest imports this file in every run where prefect_http is installed. So it is a module of its own, beside the package:
the package, httpx and anyio are imported only when a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect_http.testing import FakeNetwork

_NETWORK = pytest.StashKey["FakeNetwork"]()


@pytest.fixture
def fake_network(request: pytest.FixtureRequest) -> FakeNetwork:
    """A prefect_http.testing.FakeNetwork. If the test passes, its check() is called, and may still fail the test."""
    from prefect_http.testing import FakeNetwork

    network = request.node.stash[_NETWORK] = FakeNetwork()
    return network


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Check the network, as a part of the test.

    pytest runs the test before it calls this hook, and if the test fails or is skipped, it does not call it. So a
    failure of the test itself is the one that is reported.
    """
    network = item.stash.get(_NETWORK, None)
    if network is None:
        return
    try:
        network.check()
    except AssertionError as error:
        message = str(error)
    else:
        return
    pytest.fail(message, pytrace=False)  # the table is what there is to see, not who called check()
