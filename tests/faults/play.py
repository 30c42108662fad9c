"""One seed: start, ask, strike, and check that every invariant holds."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.bounds import Bounds
from tests.faults.clients import MARGIN, STALL, Outcome, Violation, request
from tests.faults.origin import FaultyOrigin
from tests.faults.plan import (
    ORIGIN_FAULTS,
    PATIENCE,
    PEER_FAULTS,
    SECRET,
    SEED_FAULTS,
    SHORT_FREEZE,
    Ask,
    Fault,
    Plan,
)
from tests.faults.world import Daemon, World

MIB = 1 << 20
LONGEST_ILLNESS = 1.5
SLOWER = 4.0
# A file that was not written for so long is not within a write; how long to wait for that.
UNWRITTEN = 0.02
LONGEST_WRITING = 5.0
# Digest runs, and pieces that are written while others are evicted.
DISK_SLACK = 2 * MIB


class Run:
    """The processes of one plan, and what is seen of them; `root` takes data and logs."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan, self.root = plan, root
        self.random = random.Random(-plan.seed)
        self.world = World(root, plan)
        self.origin = FaultyOrigin(
            [os.urandom(size) for size in plan.sizes],
            validators=plan.validators,
            ranges=plan.ranges,
            rate=plan.rate,
            reader_of=self.world.reader_of,
        )
        self.bounds = Bounds(plan, self.origin, self.world)
        self.most_stored = 0
        self._waiting: list[Ask] = list(plan.asks)
        self._damaged = False

    def play(self) -> None:
        """Raises Violation for the first invariant that does not hold."""
        try:
            self.world.start()
            outcomes = self._ask_and_strike()
            for outcome in outcomes:
                self._check_outcome(outcome)
            self._check("I3", self.bounds.excess())
            self._check("I7", self.bounds.haste())
            self._check_disk()
            self._come_back()
            self._check("I8: a credential is seen in", ", ".join(self.world.leaks()))
        finally:
            self.world.stop()
            self.origin.close()
        self._check_ends()

    # ------------------------------------------------------------------ the run

    def _ask_and_strike(self) -> list[Outcome]:
        plan, over = self.plan, threading.Event()
        with ThreadPoolExecutor(len(plan.asks) + len(plan.faults) + 1) as pool:
            watcher = pool.submit(self._watch_disk, over)
            began = time.monotonic()
            asked = [pool.submit(self._ask, ask, began) for ask in plan.asks]
            struck = [pool.submit(self._strike, fault, began) for fault in plan.faults]
            try:
                outcomes = [future.result() for future in asked]
                for future in struck:
                    future.result()
            finally:
                over.set()
            watcher.result()
        return outcomes

    def _ask(self, ask: Ask, began: float) -> Outcome:
        time.sleep(max(0.0, began + ask.at - time.monotonic()))
        target = self.root / f"out-{ask.host}-{ask.thing}"
        thing, daemon = self.origin.things[ask.thing], self.world.peers[ask.host]
        try:
            return request(ask, daemon, self._url(ask.thing), thing, target, self.plan.private)
        finally:
            self._waiting.remove(ask)

    def _url(self, thing: int) -> str:
        signature = f"?X-Amz-Signature={SECRET}&X-Amz-Algorithm=A" if self.plan.signed else ""
        return self.origin.url(thing) + signature

    # ------------------------------------------------------------------ faults

    def _strike(self, fault: Fault, began: float) -> None:
        time.sleep(max(0.0, began + fault.at - time.monotonic()))
        world = self.world
        group = world.seeds if fault.kind in SEED_FAULTS else world.peers
        hosts = [fault.host]
        if fault.kind == "peers-gone":
            hosts = self.plan.gone(fault)
        daemons = [group[number] for number in hosts]
        match fault.kind:
            case "kill-peer" | "kill-seed" | "peers-gone":
                self._kill(daemons)
            case "restart-peer" | "restart-seed":
                self._kill(daemons)
                time.sleep(fault.seconds)
                daemons[0].revive()
            case "freeze-peer" | "freeze-seed":
                self._freeze(daemons[0], fault.seconds)
            case "restart-scheduler":
                world.scheduler.kill()
                time.sleep(fault.seconds)
                world.scheduler.revive()
            case "freeze-scheduler":
                world.scheduler.freeze()
                time.sleep(fault.seconds)
                world.scheduler.thaw()
            case "stop-scheduler":
                self.bounds.alone([(ask.host, ask.thing) for ask in self._waiting])
                world.scheduler.kill()
            case "flip-byte" | "delete-file" | "disk-full":
                self._damage(daemons[0], fault)
            case "link-cut":
                world.cut(world.links[fault.host])
            case "link-stalls":
                world.links[fault.host].stall(fault.seconds)
            case "link-slow":
                world.links[fault.host].bucket.rate = 2e6
                time.sleep(fault.seconds)
                world.links[fault.host].bucket.rate = 0.0
            case _:
                self._strike_origin(fault)

    def _strike_origin(self, fault: Fault) -> None:
        origin = self.origin
        match fault.kind:
            case "origin-changes":
                number = int(fault.part * len(origin.things))
                origin.change(number, os.urandom(self.plan.sizes[number]))
            case "origin-ill":
                origin.ill_until = time.monotonic() + min(fault.seconds, LONGEST_ILLNESS)
            case "origin-cut":
                self.bounds.cut()
                origin.cut()
            case "origin-slow":
                origin.slower = SLOWER
                time.sleep(fault.seconds)
                origin.slower = 1.0
            case _:
                raise AssertionError(fault.kind)

    def _kill(self, daemons: list[Daemon]) -> None:
        stakes = self.bounds.stakes(daemons)
        for daemon in daemons:
            daemon.kill()
        self.bounds.lost(stakes, f"{', '.join(d.name for d in daemons)} was killed")

    def _freeze(self, daemon: Daemon, seconds: float) -> None:
        stakes = self.bounds.stakes([daemon])
        daemon.freeze()
        if seconds > SHORT_FREEZE:
            self.bounds.lost(stakes, f"{daemon.name} was frozen")
        time.sleep(seconds)
        if seconds > SHORT_FREEZE:
            self.bounds.thawed(daemon)
        daemon.thaw()

    def _damage(self, peer: Daemon, fault: Fault) -> None:
        """What lies on a peer's disk is not what it wrote, or nothing more can be written."""
        if not peer.live:
            return
        self._damaged = True
        stakes = self.bounds.stakes([peer])
        if fault.kind == "disk-full":
            peer.limit_files(MIB + int(fault.part * max(self.plan.sizes)))
        else:
            for path in peer.content_files():
                try:
                    _spoil(path, fault)
                except OSError:
                    # Its owner removed it just now.
                    continue
        self.bounds.lost(stakes, f"the files of {peer.name} were damaged")

    def _watch_disk(self, over: threading.Event) -> None:
        if self.plan.small is None:
            return
        content = self.world.peers[self.plan.small].data / "content"
        while not over.wait(0.05):
            used = 0
            for path in content.rglob("*"):
                try:
                    used += path.stat().st_blocks * 512
                except OSError:
                    continue
            self.most_stored = max(self.most_stored, used)

    # ------------------------------------------------------------------ invariants

    def _check(self, name: str, problem: str) -> None:
        if problem:
            raise Violation(f"{name}: {problem}")

    def _check_outcome(self, outcome: Outcome) -> None:
        """I4, and that a request which nothing stood in the way of succeeded."""
        ask = outcome.ask
        name = f"{ask.how} at peer-{ask.host} of thing {ask.thing} ({ask.at} s)"
        limit = ask.patience + MARGIN + (0 if ask.how == "get" else STALL)
        # Also at a host that was hit: a dead one ends it at once, a frozen one when it thaws.
        if outcome.seconds > limit + self.plan.frozen_seconds(ask.host):
            raise Violation(f"I4: {name} took {outcome.seconds:.1f} s")
        if outcome.problem and not self._excused(outcome):
            raise Violation(f"{name} failed without need: {outcome.problem}")

    def _excused(self, outcome: Outcome) -> bool:
        """A fault stood in the way, so that failing openly is right."""
        ask, plan = outcome.ask, self.plan
        if plan.struck(ask.host):
            return True
        if ask.patience < PATIENCE and outcome.seconds >= ask.patience:
            return True
        # What was delivered belongs to a version that nobody can finish.
        reader_lost = plan.has(*SEED_FAULTS, *PEER_FAULTS, "origin-cut") and not plan.resumable
        return outcome.begun and (plan.has("origin-changes") or reader_lost or self._damaged)

    def _check_disk(self) -> None:
        """I6."""
        plan = self.plan
        if plan.small is not None and self.most_stored > plan.quota + DISK_SLACK:
            told = f"{self.most_stored} bytes with a quota of {plan.quota}"
            raise Violation(f"I6: peer-{plan.small} stored {told}")

    def _come_back(self) -> None:
        """I5: after a restart of everyone all content is there, right, and not read again."""
        plan, world, origin = self.plan, self.world, self.origin
        origin.ill_until, origin.slower, origin.rate = 0.0, 1.0, 0
        world.heal()
        kept = [self._kept(number) for number in range(len(origin.things))]
        world.restart(world.peers)
        before = [sum(thing.sent) for thing in origin.things]
        answered = len(origin.answers)
        asks = [
            Ask(0.0, host, thing, "get" if plan.private else "plain", PATIENCE, (0.0, 1.0))
            for host in range(plan.peers)
            for thing in range(len(origin.things))
        ]
        self._waiting += asks
        with ThreadPoolExecutor(len(asks)) as pool:
            outcomes = list(pool.map(lambda ask: self._ask(ask, 0.0), asks))
        for outcome in outcomes:
            ask = outcome.ask
            # The small peer cannot keep two contents that are in use at the same moment.
            crowded = ask.host == plan.small and len(plan.sizes) > 1
            if outcome.problem and not crowded:
                what = f"peer-{ask.host} does not give thing {ask.thing}"
                raise Violation(f"I5: after a restart {what}: {outcome.problem}")
        for number, thing in enumerate(origin.things):
            again = sum(thing.sent) - before[number]
            checks = [a for a in origin.answers[answered:] if a.thing == number]
            if kept[number] and again > len(asks) + self.bounds.closed_early(checks):
                raise Violation(f"I5: {kept[number]} had all of thing {number}; {again} bytes read")

    def _kept(self, thing: int) -> str:
        """A daemon that has all of the newest version, where nothing was damaged.

        What was read without a scheduler stands under no lease, so that nobody else trusts it.
        """
        if self.plan.has("stop-scheduler") or self._damaged:
            return ""
        if not self.plan.validators and self.plan.has(*ORIGIN_FAULTS):
            return ""
        size = self.plan.sizes[thing]
        for daemon in self.world.hosts:
            if self.bounds.held(daemon).get(thing, -1) == size:
                return daemon.name
        return ""

    def _check_ends(self) -> None:
        for daemon in self.world.daemons:
            self._check("at the end", "; ".join(daemon.faults))
            if "Traceback" in (text := self.world.log_of(daemon)):
                at = text.index("Traceback")
                raise Violation(
                    f"{daemon.name} logged a traceback: {text[max(0, at - 300) :][:2500]}"
                )
        left = [path.name for path in self.root.glob(".*")] + list(self.root.glob("out-*"))
        self._check("clients left", ", ".join(map(str, left)))


def _spoil(path: Path, fault: Fault) -> None:
    if fault.kind == "delete-file":
        path.unlink()
        return
    if not _quiet(path):
        return
    with path.open("r+b") as file:
        at = int(fault.part * max(0, path.stat().st_size - 1))
        file.seek(at)
        byte = file.read(1)
        if byte:
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x40]))


def _quiet(path: Path) -> bool:
    """Wait until the daemon does not write the file just now; false where it does so all the time.

    What is changed within a write of the store itself is not seen: docs/decisions.md.
    """
    deadline = time.monotonic() + LONGEST_WRITING
    while time.monotonic() < deadline:
        if time.time() - path.stat().st_mtime > UNWRITTEN:
            return True
        time.sleep(UNWRITTEN / 4)
    return False
