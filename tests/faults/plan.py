"""What happens in one run, drawn from its seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MIB = 1 << 20
SECRET = "SECRET7d9f"

# Faults, with the extra reads of the whole content that each can justify at most. A scheduler's
# restart and a peer that reads nothing justify none.
FAULTS: dict[str, int] = {
    "kill-peer": 0,
    "restart-peer": 0,
    "freeze-peer": 0,
    "peers-gone": 0,
    "kill-seed": 1,
    "restart-seed": 1,
    "freeze-seed": 1,
    "restart-scheduler": 0,
    "stop-scheduler": 0,
    "flip-byte": 1,
    "delete-file": 1,
    "origin-changes": 1,
    "origin-ill": 1,
    "origin-cut": 1,
}


@dataclass(frozen=True)
class Fault:
    """`at` seconds after the first request; `host` is a peer's number where one is meant."""

    at: float
    kind: str
    host: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ask:
    """A request at a peer's daemon: by `hawker get`, or plain HTTP."""

    at: float
    host: int
    plain: bool


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    peers: int
    seeds: int
    size: int
    validators: bool
    ranges: bool
    delay: float
    small: int | None
    signed: bool
    private: bool
    asks: list[Ask] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def struck(self, host: int) -> bool:
        """The daemon itself is hit: its requests may fail, but never wrongly."""
        hits = ("kill-peer", "restart-peer", "freeze-peer")
        gone = {h for f in self.faults if f.kind == "peers-gone" for h in self.gone(f)}
        mine = any(f.host == host and f.kind in hits for f in self.faults)
        return mine or host in gone or host == self.small

    def gone(self, fault: Fault) -> list[int]:
        """The 30 % of peers that a `peers-gone` takes away."""
        count = max(1, round(0.3 * self.peers))
        return [(fault.host + number) % self.peers for number in range(count)]

    def has(self, *kinds: str) -> bool:
        return any(fault.kind in kinds for fault in self.faults)

    @property
    def extra_reads(self) -> int:
        """How often the whole content may be read beyond once for each version.

        Where no seed may read, or none is left, peers are readers, and each fault of a peer counts.
        """
        extra = sum(FAULTS[fault.kind] for fault in self.faults)
        peers_read = self.signed or self.private or self.has("kill-seed")
        if peers_read:
            kinds = ("kill-peer", "restart-peer", "freeze-peer", "peers-gone")
            extra += sum(fault.kind in kinds for fault in self.faults)
        if self.has("stop-scheduler"):
            # Each peer decides alone then.
            extra += self.peers + self.seeds
        if self.small is not None:
            extra += 1
        return extra


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    peers, seeds = rng.randint(3, 5), rng.choice([1, 1, 2])
    validators, ranges = rng.choice([(True, True)] * 3 + [(True, False), (False, False)])
    size = rng.choice([0, 1, rng.randrange(300_000), *[rng.randrange(3 * MIB, 10 * MIB)] * 5])
    chunks = max(1, size // 65536)
    kind = rng.random()
    plan = Plan(
        seed=seed,
        peers=peers,
        seeds=seeds,
        size=size,
        validators=validators,
        ranges=ranges,
        delay=rng.choice([0.0, 1.0, 2.5]) / chunks,
        small=rng.randrange(peers) if rng.random() < 0.15 else None,
        signed=kind < 0.1,
        private=0.1 <= kind < 0.2,
    )
    for host in range(peers):
        if rng.random() < 0.85 or host == 0:
            plain = rng.random() < 0.3 and not plan.private
            plan.asks.append(Ask(round(rng.choice([0.0, rng.uniform(0, 2)]), 2), host, plain))
    for _ in range(rng.choice([1, 1, 2, 2, 3])):
        kinds = [kind for kind in FAULTS if kind != "stop-scheduler"] * 3 + ["stop-scheduler"]
        plan.faults.append(
            Fault(
                at=round(rng.uniform(0.1, 2.5), 2),
                kind=rng.choice(kinds),
                host=rng.randrange(peers),
                seconds=round(rng.uniform(0.3, 3.5), 2),
            )
        )
    plan.faults.sort(key=lambda fault: fault.at)
    return plan
