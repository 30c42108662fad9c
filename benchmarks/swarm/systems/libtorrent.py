"""libtorrent: a seed that has the content, and a tracker that names everybody."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.description import SCHEDULER, SEED
from benchmarks.swarm.systems.base import PORT, Figures, System
from benchmarks.swarm.torrent import write_torrent
from hawker.core.pieces import piece_length_for


class Libtorrent(System):
    """One session a host, by the library's Python binding."""

    name = "libtorrent"

    @classmethod
    def about(cls) -> str:
        from benchmarks.swarm.libtorrent_host import SETTINGS

        told = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
        version = importlib.metadata.version("libtorrent")
        return f"libtorrent {version}: pieces as Hawker's, the rest as it comes but for {told}"

    async def start(self) -> None:
        tracker = await self.start_tracker()
        self._torrent = self.directory / "content.torrent"
        length = piece_length_for(self.content.stat().st_size)
        write_torrent(self.content, self._torrent, tracker, length)
        await self._host(SEED, self.content.parent, "seed")
        for name in self.receivers:
            self.output(name).parent.mkdir()
            await self._host(name, self.output(name).parent)

    async def _host(self, name: str, directory: Path, *role: str) -> Agent:
        address = self.network.address(name)
        files = (str(self._torrent), str(directory))
        return await self.run_module(name, "libtorrent_host", address, str(PORT), *files, *role)

    async def fetch(self, name: str) -> float:
        return float((await self.agents[name].ask("go"))["done"])

    def output(self, name: str) -> Path:
        return self.directory / name / self.content.name

    async def figures(self, live: list[str]) -> Figures:
        found = Figures()
        for name in live:
            told = await self.agents[name].ask("count")
            found.duplicates[name] = int(told["duplicate_bytes"])
        return found

    async def stop(self) -> None:
        for name in [*self.receivers, SEED, SCHEDULER]:
            await self.agents[name].kill()
