"""Processes that bad requests are sent to; one of each for all tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.apps.running import Running


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Every side asks for a token."""
    data = tmp_path_factory.mktemp("closed") / "data"
    os.environ["HAWKER_AUTH__MODE"] = "required"
    try:
        running = Running(data)
    finally:
        del os.environ["HAWKER_AUTH__MODE"]
    yield running
    running.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Client-facing sides are open to this machine."""
    running = Running(tmp_path_factory.mktemp("opened") / "data")
    yield running
    running.close()
