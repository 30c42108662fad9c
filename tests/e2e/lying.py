"""Starting a liar, and reading what it noted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Cluster, Daemon

PROGRAM = Path(__file__).with_name("liar.py")


@dataclass(frozen=True)
class Asked:
    """A request for a run of pieces, and when it came (`time.monotonic`)."""

    at: float
    first: int
    last: int


@dataclass(frozen=True)
class Liar:
    """A liar's daemon, and its journal."""

    daemon: Daemon
    journal: Path

    @property
    def asked(self) -> list[Asked]:
        return [
            Asked(float(at), int(rest[0]), int(rest[1]))
            for at, what, *rest in self._lines()
            if what == "asked"
        ]

    @property
    def told(self) -> int:
        """Announcements in which it lied."""
        return sum(what == "told" for _, what, *_ in self._lines())

    def lie(self) -> None:
        """From now on; until then it is honest."""
        self._sign.touch()

    def repent(self) -> None:
        self._sign.unlink()

    @property
    def _sign(self) -> Path:
        return self.journal.with_name(f"{self.journal.name}.lies")

    def _lines(self) -> list[list[str]]:
        if not self.journal.exists():
            return []
        return [line.split() for line in self.journal.read_text().splitlines()]


def start_liar(cluster: Cluster, scheduler: Daemon, mode: str) -> Liar:
    journal = cluster.root / "journal"
    daemon = cluster.start(
        "liar", "serve", "peer", "--scheduler", scheduler.url, "--cluster-key", str(cluster.key),
        program=[str(PROGRAM), mode, str(journal)],
    )  # fmt: skip
    return Liar(daemon, journal)


def host_at(cluster: Cluster, scheduler: Daemon, daemon: Daemon) -> dict[str, Any]:
    """A host as the scheduler sees it."""
    [view] = [h for h in cluster.view(scheduler.url, "hosts") if h["url"].startswith(daemon.url)]
    return view
