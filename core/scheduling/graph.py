"""The graph of one generation: a spine that cannot have a cycle, and mutual neighbours.

Every member has an order; a spine edge leads only from a lower order to a higher one, so the spine
is acyclic by construction and no search for cycles is ever needed. Members are ordered as they
join. One that becomes a root gives up its parents and moves in front of all others. Edges stay
inside a zone, but for the parents of its gateway (see zones). A host that drains keeps its edges,
and gets new ones only to peers that find what they want at nobody else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from hawker.core.contracts import Candidate, Child, Evaluator
from hawker.core.pieces import Layout, PieceSet
from hawker.core.scheduling.entities import Generation, Host, Peer, Task
from hawker.core.scheduling.members import Members
from hawker.core.scheduling.zones import Zone

PARENTS = 4
NEIGHBOURS_PICKED = 8
MAX_NEIGHBOURS = 32
SAMPLE = 15
PICK_OF = 3
MIN_CHILDREN = 8
# Enough direct children to spread a root's pieces at once; more gain nothing (simulated).
ROOT_CHILDREN = 64


class Graph:
    """Edges of tasks. Changed peers are handed to `touched`, whose records then go out."""

    def __init__(
        self,
        hosts: dict[str, Host],
        evaluator: Evaluator,
        rng: random.Random,
        touched: Callable[[Task, Peer], None],
    ) -> None:
        self._hosts = hosts
        self._evaluator = evaluator
        self._rng = rng
        self._touched = touched
        # (task, host) of peers that want pieces and found no parent: tried again as things change.
        self._orphans: dict[tuple[str, str], None] = {}

    # ------------------------------------------------------------------ members

    def join(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        """Make a peer a member without edges."""
        peer.generation = generation
        generation.last_order += 1
        peer.order = generation.last_order
        generation.members.add(peer.host)
        peer.zone = self._hosts[peer.host].announcement.idc.lower()
        several = generation.zones.several
        generation.zones.join(peer.zone, peer.host)
        if generation.zones.several and not several:
            for name in generation.zones:
                self.renew_gateway(task, generation, name, now)

    def leave(self, task: Task, peer: Peer, now: float) -> None:
        """Remove a member; whoever lost an edge by that gets another."""
        generation = peer.generation
        if generation is None:
            return
        generation.members.remove(peer.host)
        generation.roots.remove(peer.host)
        generation.complete.discard(peer.host)
        generation.zones.leave(peer.zone, peer.host)
        self._orphans.pop((task.id, peer.host), None)
        bereft = self.cut(task, peer)
        peer.generation = None
        for name in generation.zones if not generation.zones.several else (peer.zone,):
            self.renew_gateway(task, generation, name, now)
        for other in bereft:
            self.supply(task, other, now)

    def make_root(self, task: Task, peer: Peer, now: float) -> None:
        """The peer needs no parents any more: it comes before all others."""
        generation = peer.generation
        if generation is None or peer.host in generation.roots:
            return
        for host in list(peer.parents):
            self._unlink(task, task.peers[host], peer)
        generation.first_order -= 1
        peer.order = generation.first_order
        generation.roots.add(peer.host)
        generation.zones.make_root(peer.zone, peer.host)
        self._orphans.pop((task.id, peer.host), None)
        self.renew_gateway(task, generation, peer.zone, now)
        self.adopt(task, now)

    def unmake_root(self, task: Task, peer: Peer, now: float) -> None:
        """The peer needs parents like everybody: it starts again behind all others."""
        generation = peer.generation
        if generation is None or peer.host not in generation.roots:
            return
        generation.roots.remove(peer.host)
        orphans = [task.peers[host] for host in peer.children]
        for child in orphans:
            self._unlink(task, peer, child)
        generation.last_order += 1
        peer.order = generation.last_order
        generation.zones.join(peer.zone, peer.host)
        for other in (*orphans, peer):
            self.supply(task, other, now)

    def cut(self, task: Task, peer: Peer) -> list[Peer]:
        """Remove all edges of a peer; returns the others that lost one."""
        bereft = {*peer.children, *peer.neighbours}
        for host in list(peer.parents):
            self._unlink(task, task.peers[host], peer)
        for host in list(peer.children):
            self._unlink(task, peer, task.peers[host])
        for host in list(peer.neighbours):
            self._part(task, peer, task.peers[host])
        return [task.peers[host] for host in sorted(bereft)]

    def separate(self, task: Task, one: Peer, other: Peer) -> None:
        """Remove whatever edges two peers have."""
        if other.host in one.parents:
            self._unlink(task, other, one)
        if one.host in other.parents:
            self._unlink(task, one, other)
        if other.host in one.neighbours:
            self._part(task, one, other)

    def adopt(self, task: Task, now: float) -> None:
        """Try again to find parents for the task's orphans."""
        for host in [host for name, host in self._orphans if name == task.id]:
            self.supply(task, task.peers[host], now)

    @property
    def orphaned(self) -> set[str]:
        """Tasks with orphans."""
        return {name for name, _ in self._orphans}

    # ------------------------------------------------------------------ zones

    def renew_gateway(self, task: Task, generation: Generation, name: str, now: float) -> None:
        """See that a zone without a root has a gateway, and no other member that takes pieces from
        elsewhere; called where that may have changed."""
        if name not in generation.zones:
            return
        zone = generation.zones[name]
        before = zone.gateway
        chosen = self._choose_gateway(task, zone, now) if generation.zones.several else None
        if chosen == before:
            return
        generation.zones.appoint(name, chosen)
        if before is not None:
            former = task.peers[before]
            for host in [host for host in former.neighbours if self._apart(task, former, host)]:
                self._part(task, former, task.peers[host])
            self._touched(task, former)
            self.supply(task, former, now)
        if chosen is not None:
            self._touched(task, task.peers[chosen])
            self.supply(task, task.peers[chosen], now)

    def _choose_gateway(self, task: Task, zone: Zone, now: float) -> str | None:
        """The first on the spine that works; nobody where a root does."""
        if any(self._works(host, now) for host in zone.roots):
            return None
        return next((h for h in zone if task.peers[h].wants and self._works(h, now)), None)

    def _works(self, host: str, now: float) -> bool:
        known = self._hosts.get(host)
        return known is not None and known.connected and known.suspect_until <= now

    def exchanges_with(self, task: Task, peer: Peer) -> list[str]:
        """The neighbours that it may take pieces from: a zone gives to another's gateway, and takes
        nothing back."""
        if peer.gateway:
            return list(peer.neighbours)
        return [host for host in peer.neighbours if not self._apart(task, peer, host)]

    @staticmethod
    def _apart(task: Task, peer: Peer, host: str) -> bool:
        return task.peers[host].zone != peer.zone

    def _feed_gateways(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        """Let gateways that have too few to take pieces from take them from this peer."""
        for host in sorted(generation.zones.hungry):
            gateway = task.peers[host]
            fits = len(peer.neighbours) < MAX_NEIGHBOURS and self._usable(
                task, gateway, peer.host, now
            )
            if not fits or gateway.zone == peer.zone or peer.host in gateway.neighbours:
                continue
            self._befriend(task, gateway, peer)
            fed = sum(self._apart(task, gateway, other) for other in gateway.neighbours)
            if fed >= NEIGHBOURS_PICKED:
                generation.zones.hungry.discard(host)

    def _return_home(self, task: Task, peer: Peer) -> None:
        """Who is no gateway takes pieces from its own zone alone, once somebody there gives any."""
        away = [host for host in peer.parents if self._apart(task, peer, host)]
        if not peer.gateway and len(away) < len(peer.parents):
            for host in away:
                self._unlink(task, task.peers[host], peer)

    # ------------------------------------------------------------------ choosing

    def supply(self, task: Task, peer: Peer, now: float) -> None:
        """Give a peer the parents and neighbours it lacks."""
        generation = peer.generation
        if generation is None:
            return
        self.renew_gateway(task, generation, peer.zone, now)
        if not peer.wants or peer.host in generation.roots:
            return
        self._return_home(task, peer)
        if len(peer.parents) < PARENTS:
            self._find_parents(task, peer, generation, now)
        if len(peer.neighbours) < NEIGHBOURS_PICKED:
            self._find_neighbours(task, peer, generation, now)
        missed = self._missed(task, peer, generation)
        if missed:
            missed = self._find_holders(task, peer, generation, missed, now)
        if not peer.parents:
            # Nobody else is left: suspects, and hosts that drain, are better than nobody.
            self._find_parents(task, peer, generation, now, suspects=True)
        if peer.parents and not missed:
            self._orphans.pop((task.id, peer.host), None)
        else:
            self._orphans[task.id, peer.host] = None

    def review(self, task: Task, peer: Peer, now: float) -> None:
        """The peer will have less than was thought: look again at who relies on it."""
        for host in sorted(peer.children | peer.neighbours):
            self.supply(task, task.peers[host], now)

    def _missed(self, task: Task, peer: Peer, generation: Generation) -> PieceSet:
        """What the peer wants and will get over none of its edges."""
        layout = generation.layout
        wanted = peer.wanted(layout)
        if wanted is None:
            return PieceSet()
        missed = wanted - peer.have
        for host in peer.parents:
            missed -= self._will_have(task, task.peers[host], layout)
        for host in self.exchanges_with(task, peer):
            missed -= task.peers[host].have
        return missed

    def _will_have(self, task: Task, peer: Peer, layout: Layout) -> PieceSet:
        """What a peer has, reads under a lease, or gets itself from those before it."""
        pieces = peer.have
        if peer.wants:
            pieces |= peer.wanted(layout) or PieceSet()
        for lease in task.leases.values():
            if lease.host == peer.host and (lease.ranges is not None or layout.total is not None):
                pieces |= layout.covering(lease.ranges)
        return pieces

    def _find_holders(
        self, task: Task, peer: Peer, generation: Generation, missed: PieceSet, now: float
    ) -> PieceSet:
        """Link roots that hold parts of what the peer would miss; returns what is still missed.

        A root that holds a part is a path to that part only.
        """
        # Those that drain come last.
        for host in sorted(generation.roots, key=self._drains):
            root = task.peers[host]
            gain = self._will_have(task, root, generation.layout) & missed
            usable = gain and self._usable(task, peer, host, now, drained=True)
            if usable and host not in peer.parents:
                self._link(task, root, peer)
                missed -= gain
                if not missed:
                    break
        return missed

    def _drains(self, host: str) -> bool:
        return self._hosts[host].announcement.draining

    def _find_parents(
        self,
        task: Task,
        peer: Peer,
        generation: Generation,
        now: float,
        *,
        suspects: bool = False,
    ) -> None:
        heads, members = self._around(generation, peer)
        sampled = heads.sample(self._rng, SAMPLE)
        roots = self._possible(task, peer, sampled, now, suspects=suspects)
        free = [root for root in roots if len(root.children) < ROOT_CHILDREN]
        if not any(host in heads for host in peer.parents) and free:
            # The seed's own pieces reach the swarm soonest through many direct children.
            self._link(task, self._best(task, peer, free)[0], peer)
        others = self._possible(task, peer, members.sample(self._rng, SAMPLE), now)
        light = [other for other in others if len(other.children) < self._child_limit(other)]
        for parent in self._best(task, peer, light)[: PARENTS - len(peer.parents)]:
            self._link(task, parent, peer)
        if not peer.parents:
            # Better an overbooked parent than none; a scan only where chance found nobody.
            crowd = roots or self._possible(task, peer, generation.members, now, suspects=suspects)
            for parent in self._best(task, peer, crowd)[:1]:
                self._link(task, parent, peer)

    @staticmethod
    def _has_its_own(peer: Peer) -> bool:
        """Its zone gets pieces from no other one, so that another may take them from there."""
        return peer.generation is not None and bool(peer.generation.zones[peer.zone].roots)

    def _around(self, generation: Generation, peer: Peer) -> tuple[Members, Members]:
        """Those who bring pieces to where the peer is, and all whom it may have as parents."""
        if not generation.zones.several or peer.gateway:
            return generation.roots, generation.members
        zone = generation.zones[peer.zone]
        return zone.heads, zone.members

    def _find_neighbours(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        if self._drains(peer.host):
            # Neighbours give to each other.
            return
        if generation.zones.hungry and self._has_its_own(peer):
            self._feed_gateways(task, peer, generation, now)
        members = generation.zones[peer.zone].members
        for _ in range(NEIGHBOURS_PICKED - len(peer.neighbours)):
            sampled = members.sample(self._rng, PICK_OF)
            fit = [
                task.peers[host]
                for host in sampled
                if self._usable(task, peer, host, now)
                and host not in peer.neighbours
                and len(task.peers[host].neighbours) < MAX_NEIGHBOURS
            ]
            if fit:
                self._befriend(task, peer, min(fit, key=lambda p: (len(p.neighbours), p.order)))

    def _possible(
        self,
        task: Task,
        peer: Peer,
        hosts: Iterable[str],
        now: float,
        *,
        suspects: bool = False,
    ) -> list[Peer]:
        return [
            task.peers[host]
            for host in hosts
            if self._usable(task, peer, host, now, suspects=suspects, drained=suspects)
            and host not in peer.parents
            and task.peers[host].order < peer.order
            and (not peer.gateway or self._has_its_own(task.peers[host]))
        ]

    def _usable(
        self,
        task: Task,
        peer: Peer,
        host: str,
        now: float,
        *,
        suspects: bool = False,
        drained: bool = False,
    ) -> bool:
        known = self._hosts.get(host)
        return (
            host != peer.host
            and known is not None
            and known.connected
            and (suspects or known.suspect_until <= now)
            and (drained or not known.announcement.draining)
            and not peer.keeps_off(host, now, suspects=suspects)
            and not task.peers[host].keeps_off(peer.host, now, suspects=suspects)
        )

    def _child_limit(self, parent: Peer) -> int:
        return max(MIN_CHILDREN, 4 * self._hosts[parent.host].announcement.upload_slots)

    def _best(self, task: Task, peer: Peer, possible: Iterable[Peer]) -> list[Peer]:
        """Possible parents, best first, those the evaluator excludes left out."""
        announcement = self._hosts[peer.host].announcement
        child = Child(peer.host, announcement.idc, announcement.location)
        scored = []
        for parent in possible:
            score = self._evaluator.score(child, self._candidate(child, parent))
            if score >= 0:
                scored.append((score, self._rng.random(), parent))
        scored.sort(key=lambda entry: entry[:2], reverse=True)
        return [parent for _, _, parent in scored]

    def _candidate(self, child: Child, parent: Peer) -> Candidate:
        host = self._hosts[parent.host]
        announcement = host.announcement
        return Candidate(
            host=parent.host,
            seed=announcement.seed,
            have=len(parent.have),
            wanted=0,
            upload_slots=announcement.upload_slots,
            uploads=host.children,
            served=host.served,
            failed=host.failed,
            serving_rate=announcement.load.sent_bytes_per_second,
            idc=announcement.idc,
            location=announcement.location,
            same_zone=bool(child.idc) and child.idc == announcement.idc,
            depth=parent.order,
        )

    # ------------------------------------------------------------------ edges

    def _link(self, task: Task, parent: Peer, child: Peer) -> None:
        parent.children.add(child.host)
        child.parents.add(parent.host)
        self._hosts[parent.host].children += 1
        self._touched(task, child)

    def _unlink(self, task: Task, parent: Peer, child: Peer) -> None:
        parent.children.discard(child.host)
        child.parents.discard(parent.host)
        host = self._hosts.get(parent.host)
        if host is not None:
            host.children -= 1
        self._touched(task, child)

    def _befriend(self, task: Task, one: Peer, other: Peer) -> None:
        one.neighbours.add(other.host)
        other.neighbours.add(one.host)
        self._touched(task, one)
        self._touched(task, other)

    def _part(self, task: Task, one: Peer, other: Peer) -> None:
        one.neighbours.discard(other.host)
        other.neighbours.discard(one.host)
        self._touched(task, one)
        self._touched(task, other)
