"""What may happen to a host, a task, a generation and a peer, as tables.

A pair that is not in its table is an illegal event.
"""

from __future__ import annotations

from collections.abc import Mapping

from hawker.core.errors import IllegalTransition

Table = Mapping[tuple[str, str], str]

# known: announced, its decision stream not open. away: the stream was open and broke.
HOST: Table = {
    ("new", "announce"): "known",
    ("known", "announce"): "known",
    ("known", "connect"): "connected",
    ("known", "leave"): "gone",
    ("connected", "announce"): "connected",
    ("connected", "connect"): "connected",
    ("connected", "disconnect"): "away",
    ("connected", "leave"): "gone",
    ("away", "announce"): "away",
    ("away", "connect"): "connected",
    ("away", "leave"): "gone",
}

# empty: nobody knows the content. reading: a lease is out, its generation not known yet.
TASK: Table = {
    ("empty", "lease"): "reading",
    ("empty", "found"): "live",
    ("empty", "fail"): "failed",
    ("reading", "found"): "live",
    ("reading", "lease-ended"): "empty",
    ("live", "found"): "live",
    ("live", "lost"): "empty",
    ("live", "fail"): "failed",
    ("failed", "ask"): "empty",
    ("failed", "found"): "live",
}

# superseded: the origin has another one now; whoever can still finish it may.
GENERATION: Table = {
    ("live", "supersede"): "superseded",
    ("live", "withdraw"): "withdrawn",
    ("superseded", "supersede"): "superseded",
    ("superseded", "withdraw"): "withdrawn",
}

# holding: it wants nothing, and serves what it has.
PEER: Table = {
    ("new", "ask"): "waiting",
    ("new", "offer"): "holding",
    ("waiting", "ask"): "waiting",
    ("waiting", "offer"): "holding",
    ("waiting", "join"): "running",
    ("waiting", "fail"): "failed",
    ("holding", "ask"): "waiting",
    ("holding", "offer"): "holding",
    ("holding", "join"): "holding",
    ("holding", "finish"): "holding",
    ("holding", "lose"): "holding",
    ("holding", "fail"): "failed",
    ("running", "ask"): "running",
    ("running", "offer"): "holding",
    ("running", "join"): "running",
    ("running", "finish"): "complete",
    ("running", "lose"): "waiting",
    ("running", "fail"): "failed",
    ("complete", "ask"): "running",
    ("complete", "offer"): "complete",
    ("complete", "join"): "complete",
    ("complete", "finish"): "complete",
    ("complete", "lose"): "waiting",
    ("complete", "fail"): "failed",
    ("failed", "ask"): "waiting",
    ("failed", "offer"): "holding",
}


class Machine:
    """A state that changes only as its table says."""

    __slots__ = ("_name", "_table", "state")

    def __init__(self, name: str, table: Table, state: str) -> None:
        self._name = name
        self._table = table
        self.state = state

    def fire(self, event: str) -> str:
        """The state after the event; raises IllegalTransition, naming both, where there is none."""
        try:
            self.state = self._table[self.state, event]
        except KeyError:
            raise IllegalTransition(self._name, self.state, event) from None
        return self.state

    def allows(self, event: str) -> bool:
        return (self.state, event) in self._table
