"""Remembering by asking: who has a task that this scheduler does not know.

After a restart, and where another scheduler's tasks fall to this one, content may be in the cluster
though nobody told yet. Then the origin is read only once the live hosts have answered, or after
`GRACE` seconds. A scheduler that starts for the first time waits for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Hosts try again every 2 s at the latest, and a busy machine takes its time.
GRACE = 5.0
# Hosts that leave one scheduler for another do not do so in the same moment.
PARTING = 2.0


@dataclass
class _Question:
    unanswered: set[str]
    until: float


class Recall:
    """Which hosts an earlier life knew, and which were asked for what."""

    def __init__(self) -> None:
        self._absent: set[str] = set()
        self._moving = False
        self._until = 0.0
        self._regrouped_until = 0.0
        self._questions: dict[str, _Question] = {}

    def expect(self, hosts: Iterable[str], now: float, *, others: bool) -> None:
        """An earlier life knew these hosts; `others`: there are other schedulers, too."""
        self._absent = set(hosts)
        if self._absent or others:
            self._until = now + GRACE

    def regroup(self, until: float, *, new: bool) -> None:
        """Until then tasks may fall to this one that others had; where it is `new` itself, the
        hosts that know them have yet to come."""
        self._moving = new
        self._until = self._regrouped_until = until

    def doubtful(self, now: float) -> bool:
        """What is unknown now may yet be in the cluster."""
        return now < self._until

    def waiting(self, now: float) -> bool:
        """Hosts that an earlier life knew are not back yet, and may still come."""
        return bool(self._absent) and now < self._until

    def ask(self, task: str, hosts: Iterable[str], now: float) -> None:
        """These hosts are being asked for the task."""
        self._questions[task] = _Question(set(hosts), now + GRACE)

    def left(self, task: str, now: float) -> None:
        """A reader of the task has left this scheduler; where hosts leave it for another one, those
        who still want the task here are about to."""
        if now < self._regrouped_until:
            # Nobody is asked: who is here still would answer, and go all the same.
            self._questions[task] = _Question({""}, now + PARTING)

    def open_questions(self) -> list[str]:
        """Tasks that a host which comes now must be asked for, too."""
        return list(self._questions)

    def asked_too(self, task: str, host: str) -> None:
        question = self._questions.get(task)
        if question is not None:
            question.unanswered.add(host)

    def back(self, host: str) -> None:
        """A host's decision stream is open."""
        self._absent.discard(host)

    def answered(self, task: str, host: str) -> None:
        question = self._questions.get(task)
        if question is not None:
            question.unanswered.discard(host)

    def gone(self, host: str) -> None:
        """A host that will not answer any more."""
        for question in self._questions.values():
            question.unanswered.discard(host)

    def settled(self, task: str, now: float) -> bool:
        """The task may be read: nobody is being asked for it any more."""
        question = self._questions.get(task)
        if question is None:
            return True
        absent = (self._absent or self._moving) and now < self._until
        if now < question.until and (question.unanswered or absent):
            return False
        del self._questions[task]
        return True

    def forget(self, task: str) -> None:
        self._questions.pop(task, None)
