"""One manager for all tests of a file, and who asks it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.apps.manager.running import Manager


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with Manager(tmp_path_factory.mktemp("manager") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def root(manager: Manager) -> Iterator[httpx.Client]:
    """Who may do everything."""
    with manager.set_up() as client:
        yield client
