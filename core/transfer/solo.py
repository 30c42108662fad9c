"""Deciding without a scheduler: every lease is this host's own.

For the command line alone, a daemon without a cluster, and a task whose scheduler stays away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from hawker.core.digests import ALONE, HostKey, Reader
from hawker.core.errors import OriginFailed, Problem
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyDecision,
    AnyReport,
    Changed,
    Failed,
    LeaseProgress,
    Left,
    Parents,
    Read,
    Register,
    Stop,
    Withdrawn,
)
from hawker.core.priorities import reads_origin, refusal

ATTEMPTS = 3
AGAIN_AFTER = 0.25
# Longer than this nobody is kept waiting: the failure is told, with the time to come back.
PATIENCE = 30.0
# As with a scheduler: a client that broke off, and asks for the rest at once, finds the reading
# still at work.
UNWANTED = 5.0


@dataclass
class _Case:
    """A task that is wanted here, or is still read until it is `over`, as nobody wants it
    any more; `attempts` were made since it last gained a piece."""

    register: Register
    over: asyncio.TimerHandle | None = None
    lease: str = ""
    ranged: bool = False
    read_pieces: int = 0
    attempts: int = 0
    paused: bool = False


class Solo:
    """A `SchedulerPort` that answers each register with a lease."""

    def __init__(
        self,
        key: HostKey,
        deliver: Callable[[AnyDecision], None],
        level_of: Callable[[TaskSpec], int],
    ) -> None:
        self._key = key
        self._deliver = deliver
        self._level_of = level_of
        self._cases: dict[str, _Case] = {}

    async def wait_connected(self, timeout: float) -> bool:
        return True

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        for decision in self._decide(report):
            asyncio.get_running_loop().call_soon(self._deliver, decision)

    def _decide(self, report: AnyReport) -> list[AnyDecision]:
        case = self._cases.get(report.task)
        match report:
            case Register() if report.want != []:
                if case is None:
                    case = self._cases[report.task] = _Case(report)
                case.register = report
                if case.over is not None:
                    case.over.cancel()
                    case.over = None
                return [] if case.paused else [self._lease(case)]
            case Register() | Left():
                if case is not None and case.over is None:
                    loop = asyncio.get_running_loop()
                    case.over = loop.call_later(UNWANTED, self._over, case)
            case LeaseProgress(generation=""):
                pass
            case LeaseProgress():
                if case is not None:
                    _note(case, report)
                if report.done:
                    self._cases.pop(report.task, None)
                reader = Reader(self._key.host, self._key.public, report.lease)
                return [
                    Parents(
                        task=report.task,
                        generation=report.generation,
                        layout=report.layout,
                        readers=[reader],
                        modified=report.modified,
                    )
                ]
            case Changed():
                gone = Withdrawn(task=report.task, generation=report.generation)
                if case is None or case.over is not None:
                    self._cases.pop(report.task, None)
                    return [gone]
                case.lease = ""
                return [gone, self._lease(case)]
            case Failed(problem=problem):
                pause = None if case is None or case.over is not None else _pause(case, problem)
                if case is None or pause is None:
                    self._cases.pop(report.task, None)
                    return [Stop(task=report.task, problem=problem)]
                case.lease, case.paused = "", True
                asyncio.get_running_loop().call_later(pause, self._again, case)
            case _:
                pass
        return []

    def _again(self, case: _Case) -> None:
        """Read on, where somebody still wants it."""
        case.paused = False
        if case.over is None and self._cases.get(case.register.task) is case:
            self._deliver(self._lease(case))

    def _over(self, case: _Case) -> None:
        """Read no further: nobody came back."""
        task = case.register.task
        if self._cases.get(task) is not case:
            return
        del self._cases[task]
        if case.lease:
            self._deliver(Read(task=task, lease=case.lease, spec=case.register.spec, ranges=[]))

    def _lease(self, case: _Case) -> AnyDecision:
        register = case.register
        level = register.priority
        if level is None:
            level = self._level_of(register.spec)
        if not register.readable or not reads_origin(level):
            refused = refusal(level, register.spec)
            return Stop(task=register.task, problem=refused.problem())
        if not case.lease:
            case.lease = ALONE + secrets.token_hex(8)
            case.read_pieces = 0
            case.attempts += 1
        return Read(
            task=register.task,
            lease=case.lease,
            spec=register.spec,
            ranges=register.want,
        )


def _note(case: _Case, report: LeaseProgress) -> None:
    """What a report of its reader says of a task."""
    if report.read_pieces > case.read_pieces:
        case.attempts = 0
    case.ranged, case.read_pieces = report.ranged, report.read_pieces


def _pause(case: _Case, problem: Problem) -> float | None:
    """Seconds after which it makes sense to go on reading; None where it does not."""
    if problem.code != OriginFailed.code or case.attempts >= ATTEMPTS:
        return None
    if problem.retry_after is not None:
        return problem.retry_after if problem.retry_after <= PATIENCE else None
    return AGAIN_AFTER if case.ranged else None
