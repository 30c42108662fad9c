"""Which stored content has to go; pure, so that it can be checked apart from any disk."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Stored(msgspec.Struct, frozen=True):
    """An entry as eviction sees it: bytes it occupies, when it was used last (seconds)."""

    number: int
    size: int
    used: float
    in_use: bool


class Choice(msgspec.Struct, frozen=True):
    """Numbers of the entries to evict, first to go first, and whether that is enough."""

    victims: list[int]
    enough: bool


def choose(stored: Iterable[Stored], excess: int, oldest: float) -> Choice:
    """Free at least `excess` bytes (none where it is not positive).

    Whatever was used last before `oldest` goes in any case, then the least recently used until
    there is room. Nothing in use goes. Where all of it would not be enough only the old goes:
    evicting the rest would help nobody.
    """
    idle = sorted((s for s in stored if not s.in_use), key=lambda s: (s.used, s.number))
    old = [s for s in idle if s.used < oldest]
    victims = list(old)
    freed = sum(s.size for s in old)
    for candidate in idle[len(old) :]:
        if freed >= excess:
            break
        victims.append(candidate)
        freed += candidate.size
    enough = freed >= excess
    return Choice([s.number for s in (victims if enough else old)], enough)
