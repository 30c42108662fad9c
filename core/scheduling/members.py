"""A set of hosts to choose from at random."""

from __future__ import annotations

import random
from collections.abc import Iterator


class Members:
    """Hosts of a generation, with random choice in constant time."""

    __slots__ = ("_at", "_list")

    def __init__(self) -> None:
        self._list: list[str] = []
        self._at: dict[str, int] = {}

    def add(self, host: str) -> None:
        if host not in self._at:
            self._at[host] = len(self._list)
            self._list.append(host)

    def remove(self, host: str) -> None:
        at = self._at.pop(host, None)
        if at is not None:
            last = self._list.pop()
            if last != host:
                self._list[at] = last
                self._at[last] = at

    def sample(self, rng: random.Random, count: int) -> list[str]:
        """Different members at random, all of them where there are no more than `count`."""
        if len(self._list) <= count:
            return list(self._list)
        return rng.sample(self._list, count)

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[str]:
        return iter(self._list)
