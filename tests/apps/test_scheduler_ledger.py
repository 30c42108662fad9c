"""The scheduler's file: how much it keeps, and who may write it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hawker.apps.scheduler import ledger
from hawker.core.ids import TaskSpec
from hawker.core.quotas import Spent
from hawker.core.scheduling import LeaseRecord

SPEC = TaskSpec(url="http://origin.test/x")


def record(lease: str) -> LeaseRecord:
    return LeaseRecord(lease, SPEC.task_id, "0" * 16, "ab" * 16, bytes(32), SPEC)


def test_the_file_keeps_the_newest_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_RECORDS", 3)
    file = ledger.Ledger(tmp_path / "scheduler.sqlite")
    for lease in ("a", "b", "c", "d"):
        file.save([record(lease)])
    file.save([record("b")])
    assert [kept.lease for kept in file.load()] == ["c", "d", "b"]
    file.close()
    file = ledger.Ledger(tmp_path / "scheduler.sqlite")
    file.save([record("e")])
    assert [kept.lease for kept in file.load()] == ["d", "b", "e"]
    file.close()


def test_leases_and_hosts_are_written_at_the_same_time(tmp_path: Path) -> None:
    """Decisions wait for the ones, a tick writes the others: neither may fail by the other."""
    file = ledger.Ledger(tmp_path / "scheduler.sqlite")
    leases = [[record(f"{number}-{part}") for part in range(50)] for number in range(100)]
    hosts = [[f"{number}-{part}" for part in range(50)] for number in range(100)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(file.save, records) for records in leases]
        jobs += [pool.submit(file.save_hosts, came, []) for came in hosts]
        for job in jobs:
            job.result()
    assert len(file.load()) == 5000 and len(file.hosts()) == 5000
    file.close()


def test_what_tenants_read_is_kept_until_its_period_is_over(tmp_path: Path) -> None:
    file = ledger.Ledger(tmp_path / "scheduler.sqlite")
    other = Spent("acme", "b", "1", 7, 5, 80.0)
    file.save_spent([Spent("acme", "a", "1", 7, 100, 80.0), other], 75)
    later = Spent("acme", "a", "1", 7, 150, 80.0)
    file.save_spent([later], 76)
    file.close()
    file = ledger.Ledger(tmp_path / "scheduler.sqlite")
    assert file.spent() == [other, later]
    file.save_spent([Spent("acme", "a", "1", 8, 1, 90.0)], 80)
    assert file.spent() == [Spent("acme", "a", "1", 8, 1, 90.0)]
    file.close()
