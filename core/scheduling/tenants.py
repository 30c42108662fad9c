"""Tenants' quotas in a scheduler: the accounts, and the hosts that are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from hawker.core.limits import Limits
from hawker.core.messages import Usage
from hawker.core.quotas import Accounts
from hawker.core.scheduling.board import Board
from hawker.core.scheduling.recall import Recall

# Hosts that came back say what they use of quotas within a moment.
SAYING = 0.5
# So many records of other quotas are sent at once, the others with the ticks that follow; hosts
# that announce themselves meanwhile hear it then.
TOLD_AT_ONCE = 512


class Tenants:
    """After a restart nothing is granted before the hosts of before are back, or had time to be.

    `clock_offset` is what makes a time of this machine one in seconds since 1970.
    """

    def __init__(self, board: Board, recall: Recall, limits: Mapping[str, Limits]) -> None:
        self.accounts = Accounts(limits)
        self.clock_offset = 0.0
        self._board = board
        self._recall = recall
        # How often other quotas were set.
        self.version = 0
        self._absent_at: float | None = None
        # Tenants with other quotas, and the hosts that were not told of them yet.
        self._news: dict[str, None] = {}
        self._untold: deque[str] = deque()

    def take(self, host: str, usage: Usage, now: float) -> None:
        """A host says what it uses of a tenant's quotas."""
        self._look(now)
        self.accounts.take(host, usage, now, self.wall(now))
        self._send()

    def gone(self, host: str, now: float) -> None:
        """A host is not there any more, or begins another life."""
        self.accounts.gone(host, now, self.wall(now))
        self._send()

    def tick(self, now: float) -> None:
        self._look(now)
        self.accounts.tick(now, self.wall(now))
        self._send()
        self._tell()

    def limit(self, limits: Mapping[str, Limits], now: float) -> None:
        """Other quotas from now on: every host is told, by this tick and the next ones."""
        if news := self.accounts.limit(limits):
            self.version += 1
            self._news.update(dict.fromkeys(sorted(news)))
            self._untold = deque(self._board.hosts)
        self.tick(now)

    def wall(self, now: float) -> float:
        return now + self.clock_offset

    def _look(self, now: float) -> None:
        if self._recall.waiting(now):
            self._absent_at = now
        away = self._absent_at
        self.accounts.waiting = away is not None and now < away + SAYING

    def _tell(self) -> None:
        hosts = max(1, TOLD_AT_ONCE // max(1, len(self._news)))
        for _ in range(min(hosts, len(self._untold))):
            host = self._untold.popleft()
            known = self._board.hosts.get(host)
            if known is not None and known.connected:
                for tenant in self._news:
                    self._board.send(host, self.accounts.record(host, tenant))
        if not self._untold:
            self._news.clear()

    def _send(self) -> None:
        for host, allowance in self.accounts.take_changed():
            self._board.send(host, allowance)
