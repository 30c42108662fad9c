"""Two managers on one PostgreSQL, for what `python -m tests.outside.postgres` runs, and swarms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.manager.running import SERVER, Manager, new_database
from tests.e2e.conftest import cluster, origin

__all__ = ["cluster", "origin", "pair"]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Manager, Manager]]:
    assert SERVER, "run it with python -m tests.outside.postgres"
    database = new_database()
    key = tmp_path / "key"
    first = Manager(tmp_path / "one", database=database, HAWKER_MANAGER__KEY_FILE=str(key))
    second = Manager(tmp_path / "two", database=database, HAWKER_MANAGER__KEY_FILE=str(key))
    yield first, second
    for manager in (first, second):
        manager.close()
