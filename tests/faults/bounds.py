"""How many content bytes the origin may send at most, given the faults of a run (invariant I3).

Without a fault each version of an object is sent once. A fault justifies more only as follows.

- A daemon that is killed, or frozen for longer than a lease lasts, or whose stored file is lost:
  what the origin had sent by then and no other live daemon holds. Where the origin's content cannot
  be resumed (no ranges or no strong validator): all of it, but only if that daemon was reading and
  nobody else has all.
- A frozen reader that thaws reads on until it hears that its lease is over: what comes in a second.
- A connection that the origin cuts: what was on its way and not yet stored (`IN_FLIGHT`); all of it
  where the content cannot be resumed.
- A scheduler that stays away: all of it, for each peer that still waits, as each decides alone.
- A scheduler that is killed and started again, a frozen one, a peer's link that is cut, stalls or
  is slow, an origin that is slow, answers 503 or changes: nothing.
- A read of a single byte, by which a reader of a part learns length and validator, and by which
  access to a private or signed object is checked: one byte a request. Where the origin has no
  ranges, what such an answer brings before it is closed, at most `IN_FLIGHT`. The same for an
  answer that a peer with a small quota, or with a full disk, has no room for.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hawker.core.ids import canonical_url, generation_of
from tests.faults.origin import Answer, FaultyOrigin
from tests.faults.plan import Plan
from tests.faults.world import Daemon, World

# Socket buffers of both sides, which the kernel widens as bytes come faster, and what a reader
# gathers before it stores it.
IN_FLIGHT = 3 << 20
# The kernels' buffers alone, filled as fast as they widen, when a reader keeps to a rate.
BUFFERED = 4 << 20
REVOCATION_SECONDS = 1.0
ON_ITS_WAY = 0.1
# In which a limit is checked, and by how much it may be missed.
WINDOW = 1.0
HASTE = 1.25
# After these the cluster may count two readers as one.
UNHEARD = ("freeze-peer", "freeze-seed", "freeze-scheduler", "restart-scheduler")


@dataclass(frozen=True)
class Charge:
    """Extra bytes that a fault justifies."""

    thing: int
    version: int
    size: int
    why: str


@dataclass(frozen=True)
class Stake:
    """What hangs on the daemons that are about to be hit, for the newest version of a thing;
    `names` are theirs, `answers` how many the origin had given by then."""

    thing: int
    version: int
    involved: bool
    reading: bool
    held: int
    names: frozenset[str]
    answers: int


class Bounds:
    """Notes what each fault justifies, as it strikes."""

    def __init__(self, plan: Plan, origin: FaultyOrigin, world: World) -> None:
        self._plan, self._origin, self._world = plan, origin, world
        self.charges: list[Charge] = []

    def stakes(self, hit: list[Daemon]) -> list[Stake]:
        """To be called right before the daemons are hit."""
        given = len(self._origin.answers)
        live = [daemon for daemon in self._world.hosts if daemon.live and daemon not in hit]
        with ThreadPoolExecutor(len(self._world.hosts)) as pool:
            held = list(pool.map(self.held, live))
            own = list(pool.map(self.held, hit))
        # A reader without a name was gone before it could be found.
        names = frozenset(daemon.name for daemon in hit) | {""}
        found = []
        for number, thing in enumerate(self._origin.things):
            answers = [a for a in self._origin.answers if a.thing == number]
            reading = [a for a in answers if not a.over and a.version == thing.newest]
            elsewhere = [a.sent for a in reading if a.reader not in names]
            found.append(
                Stake(
                    number,
                    thing.newest,
                    involved=any(a.reader in names for a in answers)
                    or any(stored.get(number) for stored in own),
                    reading=any(a.reader in names for a in reading),
                    held=max([*elsewhere, *(stored.get(number, 0) for stored in held), 0]),
                    names=names,
                    answers=given,
                )
            )
        return found

    def lost(self, stakes: list[Stake], why: str) -> None:
        """The daemons have lost what they held, or are not there for a while."""
        # What they asked for last may just be on its way to the origin.
        time.sleep(ON_ITS_WAY)
        for stake in stakes:
            thing = self._origin.things[stake.thing]
            size = len(thing.versions[stake.version])
            # Looking at the daemons takes a moment, in which one that is hit may begin to read.
            begun = any(
                answer.thing == stake.thing and answer.reader in stake.names
                for answer in self._origin.answers[stake.answers :]
            )
            if not stake.involved and not begun:
                continue
            if self._plan.resumable:
                sent = min(size, thing.sent[stake.version])
                slack = IN_FLIGHT if stake.reading or begun else 0
                self._charge(stake, max(0, sent - stake.held) + slack, why)
            elif stake.held < size:
                self._charge(stake, size, why)

    def thawed(self, daemon: Daemon) -> None:
        """A frozen reader goes on for a moment."""
        for answer in self._origin.open_answers(daemon.name):
            size = len(self._origin.things[answer.thing].versions[answer.version])
            rate = self._origin.rate
            more = min(size, int(rate * REVOCATION_SECONDS) + IN_FLIGHT) if rate else size
            why = f"{daemon.name} read on when it was thawed"
            self.charges.append(Charge(answer.thing, answer.version, more, why))

    def cut(self) -> None:
        """The origin is about to cut its connections."""
        for answer in self._origin.open_answers():
            size = len(self._origin.things[answer.thing].versions[answer.version])
            more = IN_FLIGHT if self._plan.resumable else size
            why = f"the origin cut {answer.reader} off"
            self.charges.append(Charge(answer.thing, answer.version, more, why))

    def alone(self, waiting: list[tuple[int, int]]) -> None:
        """No scheduler comes back: these (host, thing) decide for themselves."""
        for host, number in sorted(set(waiting)):
            thing = self._origin.things[number]
            size = len(thing.versions[thing.newest])
            why = f"peer-{host} has no scheduler"
            self.charges.append(Charge(number, thing.newest, size, why))

    def excess(self) -> str:
        """What cannot be justified; empty where nothing is."""
        for number, thing in enumerate(self._origin.things):
            for version, sent in enumerate(thing.sent):
                size = len(thing.versions[version])
                own = [c for c in self.charges if (c.thing, c.version) == (number, version)]
                allowed = size + sum(c.size for c in own) + self._checks(number, version)
                if sent > allowed:
                    told = "; ".join(f"{c.size} as {c.why}" for c in own) or "no fault"
                    readers = [
                        (a.reader, a.sent) for a in self._origin.answers if a.thing == number
                    ]
                    return (
                        f"the origin sent {sent} bytes of version {version} of thing {number},"
                        f" which has {size}; {allowed} are justified ({told}); readers {readers}"
                    )
        return ""

    def haste(self) -> str:
        """A second in which more was sent than the cluster may read; empty where there is none."""
        if not self._plan.limit or self._plan.has("stop-scheduler"):
            # Who decides alone knows of nobody to share a limit with.
            return ""
        # A reader that was taken for dead may still read, beside the one in its place.
        share = 2 if self._plan.has(*UNHEARD) else 1
        trace, first, sent = self._origin.trace, 0, 0
        for now, size in trace:
            sent += size
            while trace[first][0] < now - WINDOW:
                sent -= trace[first][1]
                first += 1
            allowed = HASTE * share * WINDOW * self._plan.limit + BUFFERED * self._open(now)
            if sent > allowed:
                told = f"{sent} bytes within {WINDOW:g} s, {allowed:.0f} are justified"
                return f"the origin may be read at {self._plan.limit} bytes/s, and sent {told}"
        return ""

    def _open(self, now: float) -> int:
        """Connections whose buffers were filled within the window."""
        answers = self._origin.answers
        return sum(a.began <= now and (not a.over or a.ended >= now - WINDOW) for a in answers)

    def _checks(self, number: int, version: int) -> int:
        """Bytes of answers that were asked for one byte, or that nobody had room for."""
        answers = [a for a in self._origin.answers if (a.thing, a.version) == (number, version)]
        return self._origin.requests + self.closed_early(answers)

    def closed_early(self, answers: list[Answer]) -> int:
        """Bytes of those answers that were closed for being only a check, or for lack of room."""
        without_room = {fault.host for fault in self._plan.faults if fault.kind == "disk-full"}
        if self._plan.small is not None:
            without_room.add(self._plan.small)
        small = {f"peer-{number}" for number in without_room}
        whole = (self._plan.private or self._plan.signed) and not self._plan.ranges
        closed = [a for a in answers if a.over and a.sent <= IN_FLIGHT]
        return sum(a.sent for a in closed if whole or a.reader in small)

    def _charge(self, stake: Stake, size: int, why: str) -> None:
        if size:
            self.charges.append(Charge(stake.thing, stake.version, size, why))

    def held(self, daemon: Daemon) -> dict[int, int]:
        """Valid bytes of each thing's newest version that a daemon has."""
        if not self._plan.validators:
            # Its generations have random names: which one is the newest cannot be told.
            return self._held_of_any(daemon) if not self._plan.has("origin-changes") else {}
        found = {}
        for stat in daemon.stored():
            for number, thing in enumerate(self._origin.things):
                size = len(thing.versions[thing.newest])
                tag = self._origin.etag(number, thing.newest)
                if stat["generation"] == generation_of(tag, size):
                    found[number] = int(stat["valid_bytes"])
        return found

    def _held_of_any(self, daemon: Daemon) -> dict[int, int]:
        urls = {canonical_url(self._origin.url(n)): n for n in range(len(self._origin.things))}
        found: dict[int, int] = {}
        for stat in daemon.stored():
            number = urls.get(stat["spec"]["url"])
            if number is not None:
                found[number] = max(found.get(number, 0), int(stat["valid_bytes"]))
        return found
