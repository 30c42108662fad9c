"""Who is in which generation of a task, what they have of it, and how one gives way to another."""

from __future__ import annotations

from hawker.core.messages import Withdrawn
from hawker.core.pieces import PieceSet
from hawker.core.scheduling.board import Board
from hawker.core.scheduling.entities import Generation, Peer, Task
from hawker.core.scheduling.origin import held_by_members


class Generations:
    """Rules of membership; bytes of two generations never meet."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def begin(self, task: Task, generation: Generation) -> None:
        """This is the generation that peers join from now on."""
        task.current = generation
        task.machine.fire("found")

    def gather(self, task: Task, now: float) -> None:
        """Let those who waited for a generation join it, once whoever has it is a root.

        Before that, the first of them would be the only one to get the root as a parent.
        """
        if task.current is None:
            return
        for peer in list(task.peers.values()):
            if peer.generation is None and peer.wants:
                self.enter(task, peer, task.current, now)

    def enter(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        former = peer.generation
        if former is not None:
            self.exit(task, peer, now)
        peer.have = PieceSet()
        self._board.graph.join(task, peer, generation, now)
        peer.machine.fire("join")
        self._board.graph.supply(task, peer, now)
        self._board.touch(task, peer)
        if former is not None:
            # It drops what it had of that one, where it had not all.
            self.release_stranded(task, now)

    def exit(self, task: Task, peer: Peer, now: float) -> None:
        self._board.graph.leave(task, peer, now)
        peer.have = PieceSet()
        if peer.machine.allows("lose"):
            peer.machine.fire("lose")

    def gained(self, task: Task, peer: Peer, generation: str, pieces: PieceSet, now: float) -> None:
        """Pieces became valid at a peer."""
        mine = peer.generation
        if mine is None or mine.id != generation:
            return
        layout = mine.layout
        if layout.total is not None:
            pieces &= layout.everything()
        new = pieces - peer.have
        peer.have |= new
        for host in peer.parents:
            self._board.hosts[host].served += len(new)
        if layout.total is not None and layout.everything() <= peer.have:
            self.complete(task, peer, mine, now)

    def restate(self, peer: Peer, have: PieceSet) -> None:
        """All that a peer has: pieces may have gone, where its disk was damaged."""
        if peer.generation is not None and peer.have - have:
            peer.have &= have
            peer.generation.complete.discard(peer.host)

    def complete(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        """The peer has all of it."""
        if peer.host not in generation.complete:
            self._board.note(task, "finished", now, peer.host)
        generation.complete.add(peer.host)
        task.attempts = 0
        peer.machine.fire("finish")
        self._board.graph.make_root(task, peer, now)

    def settle_root(self, task: Task, peer: Peer, now: float) -> None:
        """Readers, holders and whoever has everything are roots, the others are not."""
        generation = peer.generation
        if generation is None:
            return
        reading = any(lease.host == peer.host for lease in task.leases.values())
        holder = peer.only_offers and bool(peer.have)
        if peer.host in generation.complete or reading or holder:
            self._board.graph.make_root(task, peer, now)
        else:
            self._board.graph.unmake_root(task, peer, now)

    def can_finish(self, task: Task, peer: Peer) -> bool:
        """Everything the peer wants is held by live members of its generation."""
        generation = peer.generation
        if generation is None:
            return False
        if generation.complete - {peer.host}:
            return True
        wanted = peer.wanted(generation.layout)
        return wanted is not None and wanted <= held_by_members(task, generation)

    def supersede(self, task: Task, now: float) -> None:
        """The origin has other content: who can finish from peers may, the others start over."""
        generation = task.current
        if generation is None:
            return
        generation.machine.fire("supersede")
        self._board.figures.generations_ended["superseded"] += 1
        self._board.note(task, "superseded", now)
        self.lose(task)
        task.older.append(generation)
        self.release_stranded(task, now)

    def release_stranded(self, task: Task, now: float) -> None:
        """Who waits in an older generation for what nobody there has any more starts over."""
        if not task.older:
            return
        for generation in list(task.older):
            # Those who go take with them what they had.
            while stranded := self._stranded(task, generation):
                for peer in stranded:
                    self.withdraw_from(task, peer, generation, "the origin changed", now)
            if not any(task.peers[host].wants for host in generation.members):
                task.older.remove(generation)
        self.gather(task, now)

    def reconsider(self, task: Task, peer: Peer, now: float) -> None:
        """A peer of an older generation asks for more, or has less of it than it had."""
        generation = peer.generation
        if generation is not None and generation is not task.current:
            if generation not in task.older:
                task.older.append(generation)
            self.release_stranded(task, now)

    def _stranded(self, task: Task, generation: Generation) -> list[Peer]:
        if len(generation.complete) > 1:
            return []
        held = held_by_members(task, generation)
        found = []
        for peer in (task.peers[host] for host in generation.members):
            if peer.host in generation.complete:
                # It has all of it, and delivers that to its users.
                continue
            if peer.wants and not generation.complete - {peer.host}:
                wanted = peer.wanted(generation.layout)
                if wanted is None or not wanted <= held:
                    found.append(peer)
        return found

    def lose(self, task: Task) -> None:
        """No generation is the task's current one."""
        task.current = None
        if task.machine.state == "live":
            task.machine.fire("lost")

    def withdraw_from(
        self, task: Task, peer: Peer, generation: Generation, reason: str, now: float
    ) -> None:
        """Make a peer drop a generation."""
        self.exit(task, peer, now)
        peer.revision += 1
        gone = Withdrawn(
            task=task.id, revision=peer.revision, generation=generation.id, reason=reason
        )
        self._board.send(peer.host, gone)
        self._board.touch(task, peer)
