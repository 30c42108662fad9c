from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apps.membership.standin import StandIn


@pytest.fixture
def manager() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.thawed.set()
    made.stop()
