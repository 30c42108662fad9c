"""What members of a cluster are told, and the ends of their waits; without I/O or clock."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from hawker.core.membership import KEEPALIVE, Configuration, Kept
from hawker.core.messages import encode


class Told:
    """An answer to keepalives, made once for all who get the same; `waiting` are the polls that it
    keeps back."""

    __slots__ = ("answer", "revision", "waiting")

    def __init__(
        self,
        drain: bool,
        schedulers: Iterable[str],
        configuration: Mapping[str, Any],
        removed: Iterable[str],
        revoked: Iterable[str],
    ) -> None:
        told = {name: value for name, value in configuration.items() if value is not None}
        kept = Kept(
            after=KEEPALIVE,
            drain=drain,
            schedulers=sorted(set(schedulers)),
            configuration=msgspec.convert(told, Configuration),
            removed=sorted(removed),
            revoked=sorted(revoked),
        )
        self.revision = hashlib.sha256(encode(kept)).hexdigest()[:32]
        self.answer = Response(
            encode(msgspec.structs.replace(kept, revision=self.revision)),
            headers={"cache-control": "no-store"},
            media_type="application/json",
        )
        self.waiting: set[asyncio.Future[None]] = set()


def end(poll: asyncio.Future[None]) -> None:
    """Have a poll answered."""
    if not poll.done():
        poll.set_result(None)


class Slots:
    """Ends waits so that they are spread over time.

    Polls that were answered together come back together, and would all their lives: so many end in
    each `WIDTH` seconds, and those for whom their last moment is full end earlier.
    """

    WIDTH = 0.1
    LEAST = 20
    """So few are no crowd."""
    MORE = 1.5
    """Times as many as there would be in each, were they spread evenly."""

    def __init__(self) -> None:
        self._taken: dict[int, int] = {}

    def take(self, now: float, wait: float, members: int) -> tuple[float, int]:
        """When a wait of so many seconds is to end, and the slot, which is to be given back."""
        first, last = int(now / self.WIDTH) + 1, int((now + wait) / self.WIDTH)
        self._forget(first)
        even = members * self.WIDTH / max(wait, self.WIDTH)
        room = max(self.LEAST, int(even * self.MORE))
        taken = self._taken
        slot = next((s for s in range(last, first, -1) if taken.get(s, 0) < room), last)
        taken[slot] = taken.get(slot, 0) + 1
        return (now + wait if slot == last else slot * self.WIDTH), slot

    def give(self, slot: int) -> None:
        """The wait is over, whenever that was."""
        if self._taken.get(slot, 0) > 1:
            self._taken[slot] -= 1
        else:
            self._taken.pop(slot, None)

    def _forget(self, first: int) -> None:
        """What has passed and was never given back, now and then."""
        if len(self._taken) > 4 * KEEPALIVE / self.WIDTH:
            self._taken = {s: n for s, n in self._taken.items() if s >= first}
