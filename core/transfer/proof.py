"""Judging pieces by signed digest runs; nobody vouches for the bytes it sends.

A piece may arrive before its digest: it is held, neither valid nor served, until a run of a reader
who held the lease says what it must be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hawker.core.digests import DigestRun, Reader, check_run
from hawker.core.errors import DigestMismatch
from hawker.core.pieces import PieceSet
from hawker.core.storage import Entry

log = logging.getLogger(__name__)

# Digests in runs whose reader the scheduler has not named yet, from one parent.
MAX_PENDING = 262_144


@dataclass
class Judged:
    """Pieces by verdict: `good` and `bad` have a known digest, `held` wait for one."""

    good: dict[int, bytes] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


@dataclass
class _Pending:
    """Runs that nobody can check yet, and how many digests they hold."""

    runs: dict[bytes, DigestRun] = field(default_factory=dict)
    size: int = 0


class Proof:
    """The digests of one generation as far as they can be trusted."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._readers: dict[tuple[str, str], Reader] = {}
        self._pending: dict[str, _Pending] = {}
        self._held: dict[int, tuple[bytes, str]] = {}
        # Checked already, perhaps not stored yet: every parent hands on the same runs.
        self._checked: dict[bytes, DigestRun] = {}

    def name_readers(self, readers: Iterable[Reader]) -> None:
        """Readers whose runs count, as the scheduler names them."""
        self._readers.update({(reader.host, reader.lease): reader for reader in readers})

    async def learn(self, runs: Sequence[DigestRun], parent: str = "") -> None:
        """Take runs that can be trusted, also those that waited for their reader to be named.

        Raises:
            DigestMismatch: one of `runs` is forged or of the wrong length, or the parent sent too
                many that nobody can check yet.
        """
        fresh = [run for run in runs if self._admit(run, parent)]
        for run in fresh:
            self._check(run)
        fresh.extend(self._named_since())
        if fresh:
            readers = {(r.host, r.lease): self._readers[r.host, r.lease] for r in fresh}
            await self._entry.learn(fresh, list(readers.values()))

    def forget(self, parent: str) -> None:
        """The parent is gone, and so is what it said and nobody could check."""
        self._pending.pop(parent, None)

    def drop(self, pieces: PieceSet) -> None:
        """These pieces wait for their digests no more."""
        for piece in [piece for piece in self._held if piece in pieces]:
            del self._held[piece]

    def _admit(self, run: DigestRun, parent: str) -> bool:
        """Whether the run must be checked now: it is new, and its reader is named."""
        if (run.host, run.lease) in self._readers:
            return not self._known(run)
        pending = self._pending.setdefault(parent, _Pending())
        if run.signature not in pending.runs:
            pending.runs[run.signature] = run
            # An empty run, which only tells the length, takes room, too.
            pending.size += max(1, run.count)
        if pending.size > MAX_PENDING:
            raise DigestMismatch(f"more than {MAX_PENDING} digests of readers that nobody named")
        return False

    def _named_since(self) -> list[DigestRun]:
        """Runs that waited for their reader, checked; a forged one is dropped."""
        good: list[DigestRun] = []
        for pending, run in [(p, run) for p in self._pending.values() for run in p.runs.values()]:
            if (run.host, run.lease) not in self._readers:
                continue
            del pending.runs[run.signature]
            pending.size -= max(1, run.count)
            if self._known(run):
                continue
            try:
                self._check(run)
            except DigestMismatch as exc:
                log.warning("%s", exc)
            else:
                good.append(run)
        return good

    def _check(self, run: DigestRun) -> None:
        entry = self._entry
        if (run.task, run.generation) != (entry.task, entry.generation):
            raise DigestMismatch(f"a digest run of another task or generation: {run.task[:12]}")
        check_run(run, entry.layout, [self._readers[run.host, run.lease]])
        self._checked[run.signature] = run

    def judge(self, parent: str, digests: dict[int, bytes]) -> Judged:
        """Compare what arrived from a parent with what it must be."""
        judged = Judged()
        for piece, digest in digests.items():
            expected = self._entry.digest_of(piece)
            if expected is None:
                self._held[piece] = (digest, parent)
                judged.held.append(piece)
            elif expected == digest:
                judged.good[piece] = digest
            else:
                judged.bad.append(piece)
        return judged

    def judge_held(self) -> dict[str, Judged]:
        """Verdicts, by parent, on held pieces whose digest is known now."""
        verdicts: dict[str, Judged] = {}
        for piece, (digest, parent) in list(self._held.items()):
            if self._entry.digest_of(piece) is not None:
                del self._held[piece]
                judged = self.judge(parent, {piece: digest})
                verdict = verdicts.setdefault(parent, Judged())
                verdict.good.update(judged.good)
                verdict.bad.extend(judged.bad)
        return verdicts

    def _known(self, run: DigestRun) -> bool:
        """Nothing in the run is new: its digests are those already trusted."""
        return self._checked.get(run.signature) == run or not self._entry.is_news(run)
