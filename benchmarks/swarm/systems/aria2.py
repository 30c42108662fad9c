"""aria2 as a BitTorrent client: a seed that has the content, and a tracker that names everybody."""

from __future__ import annotations

import asyncio
import shlex
import time
from pathlib import Path

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.description import SCHEDULER, SEED
from benchmarks.swarm.systems.base import PORT, System
from benchmarks.swarm.torrent import write_torrent
from benchmarks.swarm.versions import first_line
from hawker.core.pieces import piece_length_for

# It has no setting for its upload slots. The rest lifts what would hold a quick swarm back.
SETTINGS = (
    "--no-conf",
    "--enable-dht=false",
    "--bt-enable-lpd=false",
    "--bt-max-peers=0",
    "--bt-request-peer-speed-limit=1000M",
    "--bt-tracker-interval=5",
    "--max-upload-limit=0",
    "--seed-ratio=0.0",
    "--file-allocation=none",
    "--disk-cache=64M",
    "--follow-torrent=false",
    "--summary-interval=0",
    "--console-log-level=error",
)
POLL_SECONDS = 0.01


class Aria2(System):
    """One `aria2c` a host. Its start belongs to its time: it cannot be told to wait."""

    name = "aria2"

    @classmethod
    def about(cls) -> str:
        told = first_line("aria2c", "--version")
        return f"{told}: pieces as Hawker's, {' '.join(SETTINGS)}"

    async def start(self) -> None:
        tracker = await self.start_tracker()
        self._torrent = self.directory / "content.torrent"
        length = piece_length_for(self.content.stat().st_size)
        write_torrent(self.content, self._torrent, tracker, length)
        for name in self.receivers:
            self.output(name).parent.mkdir()
        # It seeds once it has read all of the content, and says so to the tracker.
        await self._host(SEED, self.content.parent, "--check-integrity=true")
        await self._told_of(SEED)

    async def _host(self, name: str, directory: Path, *more: str) -> Agent:
        # Its hook is a program that it gives arguments to.
        hook = self.directory / f"{name}.sh"
        hook.write_text(f"#!/bin/sh\n: > {shlex.quote(str(self._stamp(name)))}\n")
        hook.chmod(0o755)
        return await self.run_program(
            name,
            *("aria2c", *SETTINGS, f"--listen-port={PORT}", f"--dir={directory}", *more),
            *(f"--on-bt-download-complete={hook}", str(self._torrent)),
        )

    def _stamp(self, name: str) -> Path:
        return self.directory / f"{name}.done"

    async def _told_of(self, name: str) -> float:
        """When it had everything. Another process: there is nothing but to look."""
        stamp, agent = self._stamp(name), self.agents[name]
        while not stamp.exists():
            if not agent.running:
                raise RuntimeError(f"aria2c ended: {agent.tail()}")
            await asyncio.sleep(POLL_SECONDS)
        return stamp.stat().st_mtime - time.time() + time.monotonic()

    async def fetch(self, name: str) -> float:
        await self._host(name, self.output(name).parent)
        return await self._told_of(name)

    def output(self, name: str) -> Path:
        return self.directory / name / self.content.name

    async def stop(self) -> None:
        for name in [*self.receivers, SEED, SCHEDULER]:
            await self.agents[name].kill()
