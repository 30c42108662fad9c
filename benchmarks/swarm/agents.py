"""Programs inside the bed's hosts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.processes import cpu_seconds

END_SECONDS = 10.0
LOG_TAIL_BYTES = 1000


class Agent:
    """A process; those of our own are spoken to by lines and end when their input does."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self._process, self._log = name, process, log
        self._cpu = 0.0

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None
    ) -> Agent:
        """Run a command; `extra` is added to its environment, from which ours is left out."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")}
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=clean | dict(extra or {}),
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def cpu(self) -> float:
        """User and system time so far, seconds; the last known one of a process that ended."""
        with contextlib.suppress(OSError, IndexError):
            self._cpu = cpu_seconds(self.pid)
        return self._cpu

    async def hear(self) -> dict[str, Any]:
        """Its next line, which is a JSON object.

        Raises:
            SystemExit: it ended, or said something else.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        try:
            found: dict[str, Any] = msgspec.json.decode(line)
        except msgspec.DecodeError as exc:
            raise SystemExit(f"{self.name} said {line!r}; its log ends: {self.tail()}") from exc
        return found

    async def ask(self, line: str) -> dict[str, Any]:
        """Say a line and hear the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return await self.hear()

    def signal(self, number: signal.Signals) -> None:
        self.cpu  # noqa: B018  the last look at it, should it end
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        return await self._process.wait()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        """End it as an operator would; killed where that takes too long."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.ended()
        except TimeoutError:
            await self.kill()

    def tail(self) -> str:
        """The end of what it wrote to standard error."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
