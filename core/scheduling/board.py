"""What the scheduler's parts share: hosts, tasks, the ledger, and the records to be sent."""

from __future__ import annotations

import random

from hawker.core.contracts import Evaluator
from hawker.core.errors import NotFound
from hawker.core.messages import AnyDecision, ParentRef, Parents, kind_of
from hawker.core.scheduling.entities import Generation, Host, Outgoing, Peer, Task
from hawker.core.scheduling.figures import Figures
from hawker.core.scheduling.graph import Graph
from hawker.core.scheduling.origin import Ledger
from hawker.core.scheduling.recorder import Recorder


class Board:
    """State without rules. A peer that changes is touched; `take` then sends its record once.

    `record`: what happens is recorded for observers.
    """

    def __init__(self, evaluator: Evaluator, rng: random.Random, *, record: bool = False) -> None:
        self.rng = rng
        self.hosts: dict[str, Host] = {}
        self.tasks: dict[str, Task] = {}
        self.ledger = Ledger()
        self.figures = Figures()
        self.recorder = Recorder(self.hosts, self.tasks) if record else None
        self.graph = Graph(self.hosts, evaluator, rng, self.touch)
        self._touched: dict[tuple[str, str], None] = {}
        self._out: list[Outgoing] = []

    def host(self, host: str) -> Host:
        """Raises NotFound for a host that never announced itself."""
        known = self.hosts.get(host)
        if known is None:
            raise NotFound(f"host {host} never announced itself", hint="announce it first")
        return known

    # ------------------------------------------------------------------ records

    def touch(self, task: Task, peer: Peer) -> None:
        """The peer's record changed."""
        self._touched[task.id, peer.host] = None
        if self.recorder is not None:
            self.recorder.touch(task, peer)

    def note(
        self, task: Task, kind: str, now: float, host: str = "", other: str = "", detail: str = ""
    ) -> None:
        """Something happened that observers are told of: to a host, with another one."""
        if self.recorder is not None:
            self.recorder.happened(task, kind, now, host, other, detail)

    def touch_members(self, task: Task) -> None:
        """What every member of the current generation knows changed."""
        if task.current is not None:
            for host in task.current.members:
                self.touch(task, task.peers[host])

    def forget(self, task: Task, peer: Peer) -> None:
        """The peer takes no part any more: nothing is sent to it for this task."""
        if self.recorder is not None:
            self.recorder.departed(task, peer)
        self._touched.pop((task.id, peer.host), None)

    def send(self, host: str, decision: AnyDecision) -> None:
        self._out.append(Outgoing(host, decision))

    def take(self) -> list[Outgoing]:
        """What was decided since the last call; one record for each peer that changed."""
        out, self._out = self._out, []
        touched, self._touched = self._touched, {}
        for name, host in touched:
            task = self.tasks.get(name)
            peer = None if task is None else task.peers.get(host)
            if task is None or peer is None or host not in self.hosts:
                continue
            out.extend(Outgoing(host, record) for record in self.renewed(task, peer))
        # A host may have gone after something was decided for it.
        out = [outgoing for outgoing in out if outgoing.host in self.hosts]
        for _, decision in out:
            self.figures.decisions[kind_of(decision)] += 1
        return out

    def renewed(self, task: Task, peer: Peer) -> list[Parents]:
        """The peer's record as a new revision; none for who only offers.

        That one takes nothing from others. Nor may a record that was on its way pass for the answer
        to what it asks next: the generation may be over by then.
        """
        if peer.only_offers:
            return []
        peer.revision += 1
        return [self._parents(task, peer)]

    def _parents(self, task: Task, peer: Peer) -> Parents:
        generation = peer.generation
        if generation is None:
            return Parents(task=task.id, revision=peer.revision)
        refs = []
        for other in (
            *sorted(peer.parents),
            *sorted({*self.graph.exchanges_with(task, peer)} - peer.parents),
        ):
            known = self.hosts.get(other)
            if known is None:
                continue
            announcement = known.announcement
            refs.append(
                ParentRef(
                    host=other,
                    url=announcement.url,
                    spine=other in peer.parents,
                    seed=announcement.seed,
                    transports=announcement.transports,
                )
            )
        return Parents(
            task=task.id,
            revision=peer.revision,
            generation=generation.id,
            layout=generation.layout,
            parents=refs,
            readers=self.ledger.readers(task.id, generation.id),
            digest="" if self._is_checked(task, generation) else generation.digest,
            modified=generation.modified,
            gateway=peer.gateway,
        )

    @staticmethod
    def _is_checked(task: Task, generation: Generation) -> bool:
        """A reader has seen that the whole is what its origin says, or will have before anybody
        gets the last of it."""
        checking = any(
            lease.checks and lease.generation == generation.id for lease in task.leases.values()
        )
        return generation.checked or checking
