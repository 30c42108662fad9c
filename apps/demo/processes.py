"""Processes that announce themselves by one JSON line, and that never outlive their fleet.

Each runs in a session of its own, so that Ctrl-C on the terminal reaches the fleet's owner alone,
who then ends them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from hawker.core.errors import Unavailable

GRACE_SECONDS = 5.0
LOG_TAIL_BYTES = 2000


class Ready(msgspec.Struct, frozen=True):
    """What a process says once it can be used; `socket` is empty where it has none."""

    url: str
    socket: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that is ready."""

    name: str
    pid: int
    ready: Ready


class Fleet:
    """Starts Python processes, and ends all of them when its context is left.

    Args:
        logs: directory that takes what each process writes to standard error.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[Process] = []
        # The user's own configuration must not reach into this cluster.
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")}

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, name: str, module: str, *arguments: str, timeout: float) -> Running:
        """Run `python -m module arguments` until it says that it is ready.

        Raises:
            Unavailable: it ended, said something else, or was not ready within `timeout` seconds.
        """
        log = self._logs / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=errors,
                env=self._environment,
                start_new_session=True,
            )
        self._processes.append(process)
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), timeout)
            ready = msgspec.json.decode(line, type=Ready)
        except TimeoutError as exc:
            raise Unavailable(
                f"{name} was not ready within {timeout:.0f} s", hint=_tail(log)
            ) from exc
        except (ValueError, msgspec.DecodeError) as exc:
            raise Unavailable(f"{name} did not start", hint=_tail(log)) from exc
        return Running(name, process.pid, ready)

    async def stop(self) -> None:
        """End every process: asked first, and killed if that takes too long or is cancelled."""
        running = [process for process in self._processes if process.returncode is None]
        try:
            _signal(running, signal.SIGTERM)
            await _ended(running, GRACE_SECONDS)
        finally:
            left = [process for process in running if process.returncode is None]
            _signal(left, signal.SIGKILL)
            await _ended(left, GRACE_SECONDS)
        self._processes.clear()


def _signal(processes: Sequence[Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            # Each leads a group of its own, which holds whatever it started itself.
            os.killpg(process.pid, number)


async def _ended(processes: Sequence[Process], timeout: float) -> None:
    if processes:
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        await asyncio.wait(waits, timeout=timeout)
        for wait in waits:
            wait.cancel()


def _tail(log: Path) -> str:
    """The end of what the process wrote, as the best hint there is."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return "it wrote: " + " | ".join(lines[-3:]) if lines else "it wrote nothing"
