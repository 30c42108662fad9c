"""The scheduler's file keeps a bounded number of lease records, the newest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hawker.apps.scheduler import ledger
from hawker.core.ids import TaskSpec
from hawker.core.scheduling import LeaseRecord


def test_the_file_keeps_the_newest_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_RECORDS", 3)
    spec = TaskSpec(url="http://origin.test/x")

    def record(lease: str) -> LeaseRecord:
        return LeaseRecord(lease, spec.task_id, "0" * 16, "ab" * 16, bytes(32), spec)

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
