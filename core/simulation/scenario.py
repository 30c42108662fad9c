"""What is simulated: hosts, links, when they come, what befalls them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from hawker.core.errors import BadRequest
from hawker.core.pieces import MIB, Layout

AT_ONCE = "at-once"
MOST_PEERS = 1_000_000
MOST_PIECES = 65_536


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When peers begin: `at-once`, `poisson` over about `seconds` in all, or `count` `waves` of
    equal size, `seconds` apart."""

    kind: str = AT_ONCE
    seconds: float = 0.0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Arrivals:
        """From `at-once`, `poisson:SECONDS` or `waves:COUNT:SECONDS`; raises BadRequest."""
        kind, *values = text.split(":")
        try:
            if kind == AT_ONCE and not values:
                return cls()
            if kind == "poisson" and len(values) == 1 and float(values[0]) > 0:
                return cls(kind, float(values[0]))
            if kind == "waves" and len(values) == 2 and int(values[0]) > 0:
                if float(values[1]) >= 0:
                    return cls(kind, float(values[1]), int(values[0]))
        except ValueError:
            pass
        raise BadRequest(
            f"{text!r} says not how peers arrive",
            hint="such as at-once, poisson:60 or waves:4:30",
        )

    def times(self, peers: int, rng: random.Random) -> list[float]:
        """When each of the peers begins, in seconds from the first, in order."""
        if self.kind == "poisson":
            times, now = [], 0.0
            for _ in range(peers):
                times.append(now)
                now += rng.expovariate(peers / self.seconds)
            return times
        if self.kind == "waves":
            return [number * self.count // peers * self.seconds for number in range(peers)]
        return [0.0] * peers


@dataclass(frozen=True, slots=True)
class Scenario:
    """A swarm to simulate.

    Attributes:
        peers: hosts that want all of the content, besides the seeds.
        pieces, piece_length: the content; the length in bytes.
        link: bytes per second of a link of class 1, each way.
        classes: rates of the peers' links as multiples of `link`, dealt out in turn.
        arrivals: when peers begin.
        zones: the peers are spread over so many, the seeds are in the first.
        zone_link: bytes per second of each zone's way to the others, each way; 0 for no limit.
        churn: part of the peers whose process dies at half the optimum after the last arrival.
        freeze: part of the peers that stand still from then on, connections open.
        seeds: hosts that read the origin, each with a link of class 1; without any a peer reads.
        origin: bytes per second the origin sends, in all.
        latency: seconds a message takes.
        seed: of every random choice.
    """

    peers: int
    pieces: int = 1024
    piece_length: int = MIB
    link: float = 125e6
    classes: Sequence[float] = (1.0,)
    arrivals: Arrivals = Arrivals()
    zones: int = 1
    zone_link: float = 0.0
    churn: float = 0.0
    freeze: float = 0.0
    seeds: int = 1
    origin: float = 1.25e9
    latency: float = 0.002
    seed: int = 1

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.pieces * self.piece_length

    @property
    def layout(self) -> Layout:
        return Layout(self.size, self.piece_length)

    def rate(self, peer: int) -> float:
        """Bytes per second of a peer's link."""
        return self.link * self.classes[peer % len(self.classes)]

    def zone(self, peer: int) -> int:
        """The zone a peer is in; not in step with its class."""
        return peer // len(self.classes) % self.zones

    def check(self) -> Scenario:
        """This scenario; raises BadRequest for one that cannot be."""
        if not 1 <= self.peers <= MOST_PEERS:
            raise BadRequest(f"{self.peers} peers are not from 1 to {MOST_PEERS}")
        if not 1 <= self.pieces <= MOST_PIECES:
            raise BadRequest(f"{self.pieces} pieces are not from 1 to {MOST_PIECES}")
        self.layout.check()
        if min(self.link, self.origin, *self.classes) <= 0:
            raise BadRequest("every link needs a rate above 0")
        if self.churn + self.freeze >= 1:
            raise BadRequest("somebody must stay: churn and freeze together are below 1")
        if self.churn and self.seeds == 0 and self.peers == 1:
            raise BadRequest("the only peer cannot leave")
        return self
