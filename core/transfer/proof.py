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
from hawker.core.storage import Entry

log = logging.getLogger(__name__)

# Runs whose reader the scheduler has not named yet; more than this are not remembered.
MAX_PENDING = 1024


@dataclass
class Judged:
    """Pieces by verdict: `good` and `bad` have a known digest, `held` wait for one."""

    good: dict[int, bytes] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


class Proof:
    """The digests of one generation as far as they can be trusted."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._readers: dict[tuple[str, str], Reader] = {}
        self._pending: dict[bytes, DigestRun] = {}
        self._held: dict[int, tuple[bytes, str]] = {}

    def name_readers(self, readers: Iterable[Reader]) -> None:
        """Readers whose runs count, as the scheduler names them."""
        self._readers.update({(reader.host, reader.lease): reader for reader in readers})

    async def learn(self, runs: Sequence[DigestRun]) -> None:
        """Take runs that can be trusted, also those that waited for their reader to be named.

        Raises:
            DigestMismatch: one of `runs` is forged, out of its lease or of the wrong length.
        """
        for run in runs:
            if (run.host, run.lease) in self._readers and not self._known(run):
                self._check(run)
        ready: list[DigestRun] = []
        for run in [*runs, *self._pending.values()]:
            if (run.host, run.lease) not in self._readers:
                if len(self._pending) < MAX_PENDING:
                    self._pending[run.signature] = run
            elif not self._known(run):
                ready.append(run)
        await self._take(ready)

    async def _take(self, runs: Sequence[DigestRun]) -> None:
        good: list[DigestRun] = []
        for run in runs:
            if self._pending.pop(run.signature, None) is not None:
                try:
                    self._check(run)
                except DigestMismatch as exc:
                    log.warning("task %s: %s", run.task[:12], exc)
                    continue
            good.append(run)
        if good:
            readers = {(r.host, r.lease): self._readers[r.host, r.lease] for r in good}
            await self._entry.learn(good, list(readers.values()))

    def _check(self, run: DigestRun) -> None:
        entry = self._entry
        if (run.task, run.generation) != (entry.task, entry.generation):
            raise DigestMismatch(f"a digest run of another task or generation: {run.task[:12]}")
        check_run(run, entry.layout, list(self._readers.values()))

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
        layout = self._entry.layout
        if run.total >= 0 and layout.total is None:
            return False
        first, last = run.run
        return all(self._entry.digest_of(p) == run.digest(p) for p in range(first, last + 1))
