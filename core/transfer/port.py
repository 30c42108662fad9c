"""Where what a host has to tell goes."""

from __future__ import annotations

from typing import Protocol

from hawker.core.messages import AnyReport


class SchedulerPort(Protocol):
    """Where a task's reports go; decisions come back through `TaskRun.apply`."""

    def report(self, report: AnyReport, *, urgent: bool = False) -> None: ...

    async def wait_connected(self, timeout: float) -> bool:
        """Whether somebody will decide, waiting at most `timeout` seconds for it."""
        ...
