"""What happens in one run, drawn from its seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

MIB = 1 << 20
SECRET = "SECRET7d9f"
PATIENCE = 40.0
# Whole seconds, as the header field of a plain request says them (`Prefer: wait`).
SHORT_PATIENCE = 2.0
# A lease survives a reader that is silent for less than this (`scheduler.lease_timeout` is 2 s).
SHORT_FREEZE = 1.0

PEER_FAULTS = ("kill-peer", "restart-peer", "freeze-peer", "peers-gone")
SEED_FAULTS = ("kill-seed", "restart-seed", "freeze-seed")
DISK_FAULTS = ("flip-byte", "delete-file", "disk-full")
LINK_FAULTS = ("link-cut", "link-stalls", "link-slow")
ORIGIN_FAULTS = ("origin-changes", "origin-ill", "origin-cut", "origin-slow")
SCHEDULER_FAULTS = ("restart-scheduler", "freeze-scheduler", "stop-scheduler")
KINDS = PEER_FAULTS + SEED_FAULTS + DISK_FAULTS + LINK_FAULTS + ORIGIN_FAULTS + SCHEDULER_FAULTS


@dataclass(frozen=True)
class Fault:
    """`at` seconds after the first request; `host` is a number of a peer, or of a seed.

    `seconds` is how long it lasts, where it ends by itself; `part` is a share of the file or the
    content that is meant.
    """

    at: float
    kind: str
    host: int
    seconds: float
    part: float


@dataclass(frozen=True)
class Ask:
    """A request at a peer's daemon: `get` is the command, `plain` and `range` are plain HTTP.

    `span` is the part of the content, as shares, that a `range` asks for. `digest` is what a `get`
    says the content has: "" nothing, "right" what it had in the beginning, "wrong" what it never
    has.
    """

    at: float
    host: int
    thing: int
    how: str
    patience: float
    span: tuple[float, float]
    digest: str = ""


@dataclass(frozen=True)
class Plan:
    """One run.

    `sizes` are the lengths of the contents, `rate` is the origin's in bytes per second (0: as fast
    as it can), `quota` is the small peer's, `limit` what the cluster may read of the origin in
    bytes per second (0: no limit). `signed`: URLs carry a signature; `private`: requests carry
    credentials.
    """

    seed: int
    peers: int
    seeds: int
    sizes: tuple[int, ...]
    validators: bool
    ranges: bool
    rate: int
    small: int | None
    quota: int
    signed: bool
    private: bool
    asks: list[Ask] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    limit: int = 0

    @property
    def resumable(self) -> bool:
        """The origin's content can be read in parts that are known to belong together."""
        return self.validators and self.ranges

    @property
    def scheduler_wait(self) -> float:
        """Seconds a peer waits for a scheduler: never over, unless it stays away for good."""
        return 1.0 if self.has("stop-scheduler") else 60.0

    def has(self, *kinds: str) -> bool:
        return any(fault.kind in kinds for fault in self.faults)

    def gone(self, fault: Fault) -> list[int]:
        """The 30 % of peers that a `peers-gone` takes away."""
        count = max(1, round(0.3 * self.peers))
        return [(fault.host + number) % self.peers for number in range(count)]

    def struck(self, host: int) -> bool:
        """The peer itself is hit: its requests may fail, but never wrongly."""
        kinds = ("kill-peer", "restart-peer", "freeze-peer", *DISK_FAULTS)
        mine = any(f.host == host and f.kind in kinds for f in self.faults)
        gone = any(host in self.gone(f) for f in self.faults if f.kind == "peers-gone")
        return mine or gone or host == self.small

    def frozen_seconds(self, host: int) -> float:
        """How long a peer stands still."""
        frozen = [f for f in self.faults if f.kind == "freeze-peer" and f.host == host]
        return sum(fault.seconds for fault in frozen)

    def lines(self) -> str:
        """The plan, to be read by a person."""
        told = f"{self.peers} peers, {self.seeds} seeds, sizes {self.sizes}"
        told += f", validators {self.validators}, ranges {self.ranges}, rate {self.rate}"
        told += f", small {self.small} (quota {self.quota})" * (self.small is not None)
        told += f", limit {self.limit}" * (self.limit > 0)
        told += ", signed" * self.signed + ", private" * self.private
        return "\n    ".join([told, *map(str, self.asks), *map(str, self.faults)])


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    peers = rng.choice([3, 3, 4, 5])
    sizes = tuple(_size(rng) for _ in range(rng.choice([1, 1, 2])))
    validators, ranges = rng.choice([(True, True)] * 4 + [(True, False), (False, False)])
    guarded = rng.random()
    small = rng.randrange(peers) if rng.random() < 0.2 else None
    plan = Plan(
        seed=seed,
        peers=peers,
        seeds=rng.choice([1, 1, 2]),
        sizes=sizes,
        validators=validators,
        ranges=ranges,
        rate=int(max(sizes) / seconds) if (seconds := rng.choice([0, 1.0, 2.0])) else 0,
        small=small,
        # Room for one of the contents, and not for both.
        quota=max(sizes) + MIB,
        signed=guarded < 0.15,
        private=0.15 <= guarded < 0.3,
    )
    for host in range(peers):
        for thing in range(len(sizes)):
            if rng.random() < 0.75 or host == 0:
                plan.asks.append(_ask(rng, plan, host, thing))
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3])):
        plan.faults.append(_fault(rng, plan))
    plan.faults.sort(key=lambda fault: fault.at)
    return _with_claims(plan)


def _with_claims(plan: Plan) -> Plan:
    """Digests that clients state, and a limit for the origin, drawn apart from all that."""
    rng = random.Random(f"claims {plan.seed}")
    asks = []
    for ask in plan.asks:
        digest = rng.choice(["", "", "", "", "", "right", "right", "wrong"])
        asks.append(replace(ask, digest=digest if ask.how == "get" else ""))
    large = max(plan.sizes) >= 4 * MIB
    limit = int(max(plan.sizes) / rng.choice([3.0, 5.0])) if large and rng.random() < 0.12 else 0
    return replace(plan, asks=asks, limit=limit)


def _size(rng: random.Random) -> int:
    large = rng.randrange(4 * MIB, 14 * MIB)
    return rng.choice([0, 1, rng.randrange(300_000), large, large, large, large, large])


def _ask(rng: random.Random, plan: Plan, host: int, thing: int) -> Ask:
    # Plain HTTP has no way to hand the origin's credentials over.
    how = rng.choice(["get", "get", "plain", "range"])
    first = rng.random() * 0.9
    return Ask(
        at=round(rng.choice([0.0, rng.uniform(0, 2)]), 2),
        host=host,
        thing=thing,
        how="get" if plan.private else how,
        patience=rng.choice([PATIENCE] * 9 + [SHORT_PATIENCE]),
        span=(first, rng.uniform(first, 1.0)),
    )


def _fault(rng: random.Random, plan: Plan) -> Fault:
    kind = rng.choice([kind for kind in KINDS if kind != "stop-scheduler"] * 2 + ["stop-scheduler"])
    return Fault(
        at=round(rng.uniform(0.05, 2.5), 2),
        kind=kind,
        host=rng.randrange(plan.seeds if kind in SEED_FAULTS else plan.peers),
        seconds=round(rng.uniform(0.3, 3.0), 2),
        part=round(rng.random(), 3),
    )
