"""Deciding without a scheduler: every lease is this host's own.

For the command line alone, a daemon without a cluster, and a task whose scheduler stays away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from hawker.core.digests import HostKey, Reader
from hawker.core.errors import NotFound
from hawker.core.messages import (
    AnyDecision,
    AnyReport,
    Changed,
    Failed,
    LeaseProgress,
    Parents,
    Read,
    Register,
    Stop,
    Withdrawn,
)


class Solo:
    """A `SchedulerPort` that answers each register with a lease."""

    def __init__(self, key: HostKey, deliver: Callable[[AnyDecision], None]) -> None:
        self._key = key
        self._deliver = deliver
        self._registers: dict[str, Register] = {}
        self._leases: dict[str, str] = {}

    async def wait_connected(self, timeout: float) -> bool:
        return True

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        for decision in self._decide(report):
            asyncio.get_running_loop().call_soon(self._deliver, decision)

    def _decide(self, report: AnyReport) -> list[AnyDecision]:
        match report:
            case Register() if report.want != []:
                self._registers[report.task] = report
                return [self._lease(report)]
            case Register():
                self._registers.pop(report.task, None)
            case LeaseProgress(generation=""):
                pass
            case LeaseProgress():
                if report.done:
                    self._leases.pop(report.task, None)
                reader = Reader(self._key.host, self._key.public, report.lease)
                return [
                    Parents(
                        task=report.task,
                        generation=report.generation,
                        layout=report.layout,
                        readers=[reader],
                    )
                ]
            case Changed():
                self._leases.pop(report.task, None)
                again = self._registers.get(report.task)
                gone = Withdrawn(task=report.task, generation=report.generation)
                return [gone, self._lease(again)] if again is not None else [gone]
            case Failed(problem=problem):
                self._leases.pop(report.task, None)
                return [Stop(task=report.task, problem=problem)]
            case _:
                pass
        return []

    def _lease(self, register: Register) -> AnyDecision:
        if not register.readable:
            absent = NotFound(
                f"{register.spec.url} is not stored here, and the origin may not be read"
            )
            return Stop(task=register.task, problem=absent.problem())
        lease = self._leases.setdefault(register.task, f"solo-{secrets.token_hex(8)}")
        return Read(
            task=register.task,
            lease=lease,
            spec=register.spec,
            ranges=register.want,
        )
