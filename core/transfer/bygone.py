"""Leases that ended here."""

from __future__ import annotations

KEPT = 1024


class Bygone:
    """The last `KEPT` leases whose end was told.

    An extension may cross the word that its lease is over. Nothing is read for it: whoever granted
    it hears of the end and grants another lease, under which the same would be read again.
    """

    def __init__(self) -> None:
        self._leases: dict[str, None] = {}

    def __contains__(self, lease: str) -> bool:
        return lease in self._leases

    def add(self, lease: str) -> None:
        self._leases[lease] = None
        if len(self._leases) > KEPT:
            del self._leases[next(iter(self._leases))]

    def clear(self) -> None:
        """A scheduler that begins anew may hold on to leases whose end it never heard."""
        self._leases.clear()
