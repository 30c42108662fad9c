"""Plain HTTP: every host reads all of the content from the origin."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.swarm.systems.base import Figures, System
from benchmarks.swarm.versions import first_line


class Plain(System):
    """`curl`, once a host."""

    name = "http"

    @classmethod
    def about(cls) -> str:
        return first_line("curl", "--version")

    async def start(self) -> None:
        await self.start_origin()

    async def fetch(self, name: str) -> float:
        output = str(self.output(name))
        agent = await self.run_program(name, "curl", "-sS", "--fail", "-o", output, self.origin_url)
        if await agent.ended():
            raise RuntimeError(f"curl failed: {agent.tail()}")
        return time.monotonic()

    def output(self, name: str) -> Path:
        return self.directory / f"{name}.bin"

    async def figures(self, live: list[str]) -> Figures:
        return await self.origin_figures()
