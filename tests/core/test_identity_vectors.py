"""The vectors of docs/identity.md are what the code computes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from hawker.core.ids import TaskSpec, canonical_url, generation_of, host_id

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()


def rows(columns: int) -> list[list[str]]:
    table = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.splitlines()
        if line.startswith("| `")
    ]
    return [row for row in table if len(row) == columns and re.search(r"`[0-9a-f]{16,}`", row[-1])]


@pytest.mark.parametrize("row", rows(5), ids=lambda row: row[0])
def test_task_ids_are_those_of_the_page(row: list[str]) -> None:
    url, fields, filtered, canonical, task = (cell.replace("`", "") for cell in row)
    named = dict(field.split("=", 1) for field in fields.split())
    spec = TaskSpec(url=canonical_url(url, filtered.split()), **named)
    assert (spec.url, spec.task_id) == (canonical, task)


@pytest.mark.parametrize("row", rows(3), ids=lambda row: row[0] + row[1])
def test_generations_are_those_of_the_page(row: list[str]) -> None:
    validator, length, generation = (cell.replace("`", "") for cell in row)
    assert generation_of(validator, int(length) if length else None) == generation


def test_an_independent_computation_gives_the_same_ids() -> None:
    def digest(*fields: str) -> str:
        raw = b"".join(len(f.encode()).to_bytes(8, "big") + f.encode() for f in fields)
        return hashlib.sha256(raw).hexdigest()

    spec = TaskSpec(url="https://example.com/", tag="t")
    url = "https://example.com/"
    assert spec.task_id == digest("hawker-task-1", "default", url, "t", "", "", "")
    assert generation_of('"v"', 7) == digest("hawker-generation-1", '"v"', "7")[:16]
    assert host_id(b"k" * 32) == hashlib.sha256(b"k" * 32).hexdigest()[:32]


def test_the_page_has_vectors() -> None:
    assert len(rows(5)) >= 10 and len(rows(3)) >= 3
