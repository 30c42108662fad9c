"""Which tests run in one process where several share the work (`-n 2`), and which when named."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Swarms of many processes, which two cores have time for one after the other.
SWARMS = ("e2e", "examples", "faults")
# Those that mostly wait for something else may run beside them.
BESIDE = ("test_priorities.py", "test_quotas_proxy.py", "test_registry.py", "test_tenants.py")
# Of `e2e`, what takes minutes: run where it is named, as `python -m tests.outside.swarms` does.
LONG = (
    "test_job_commands.py", "test_jobs.py", "test_joining.py", "test_lying_parents.py",
    "test_origin_limits.py", "test_proxy_small_store.py",
)  # fmt: skip


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what takes minutes; pytest does not ask about files that it is given by name."""
    place = collection_path.parent
    return True if place == HERE / "e2e" and collection_path.name in LONG else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Swarms one after the other, beside them one file at a time: what a file's tests share is made
    once."""
    for item in items:
        place = item.path.relative_to(HERE)
        swarm = place.parts[0] in SWARMS and place.name not in BESIDE
        name = "swarms" if swarm else str(place)
        item.add_marker(pytest.mark.xdist_group(name))
