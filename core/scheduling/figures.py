"""What the scheduler counts: plain numbers, so that counting costs nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Since the start; leases by how they ended, reports and decisions by their kind on the wire,
    waits that were ended by the problem's code."""

    leases_granted: int = 0
    leases_ended: Counter[str] = field(default_factory=Counter)
    generations_ended: Counter[str] = field(default_factory=Counter)
    reports: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)
    hosts_suspected: int = 0


@dataclass(frozen=True)
class Standing:
    """How things are: hosts and tasks by state, and sizes."""

    hosts: Counter[str]
    tasks: Counter[str]
    peers: int
    leases: int
    origins_paused: int
    lease_records: int
