"""Hawker: an origin, a scheduler, a seed and a peer a host, with nothing but their defaults."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.description import ORIGIN, SCHEDULER, SEED
from benchmarks.swarm.network import Network
from benchmarks.swarm.systems.base import PORT, Figures, System
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file
from hawker.core.version import version

READY_SECONDS = 60.0
FIRST_ZONE = "first"
PEER_METRICS = (
    "origin_bytes",
    "seed_bytes",
    "peer_bytes",
    "uploaded_bytes",
    "duplicate_bytes",
    "refused_requests",
    "failed_requests",
    "corrupt_pieces",
    "parents_left",
)


class Hawker(System):
    """The time of a host begins with its request, and ends with the line that says `done`."""

    name = "hawker"
    survives = System.survives | {"corrupt", "restart"}

    @classmethod
    def about(cls) -> str:
        return f"hawker {version()}: default settings; its seed is cold, and reads the origin"

    def __init__(
        self, network: Network, content: Path, receivers: list[str], directory: Path
    ) -> None:
        super().__init__(network, content, receivers, directory)
        self._outputs: dict[str, Path] = {}

    async def start(self) -> None:
        await self.start_origin()
        self._key = self.directory / "cluster.key"
        create_key_file(self._key)
        self._token = ClusterKey(read_key_file(self._key)).mint("", ["downloads"])
        await self._scheduler()
        async with asyncio.TaskGroup() as group:
            for name in (SEED, *self.receivers):
                group.create_task(self._peer(name))

    async def _scheduler(self) -> None:
        await self._serve(SCHEDULER, "scheduler")

    async def _peer(self, name: str) -> None:
        scheduler = f"http://{self.network.address(SCHEDULER)}:{PORT}"
        seed = ("--seed",) if name == SEED else ()
        # A zone is a data centre, the first one, too.
        place = ("--idc", self.network.zone(name) or FIRST_ZONE)
        await self._serve(name, "peer", "--scheduler", scheduler, *seed, *place)
        async with self._client(name, READY_SECONDS) as client, asyncio.timeout(READY_SECONDS):
            # Another process: there is nothing to wait for but its answer.
            while not (await client.get("/readyz")).is_success:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _serve(self, name: str, role: str, *flags: str) -> Agent:
        host = self.network.address(name)
        agent = await self.run_program(
            name,
            *(sys.executable, "-m", "hawker", "serve", role, "--json"),
            *("--host", host, "--port", str(PORT), "--data", str(self.directory / name)),
            *("--cluster-key", str(self._key), *flags),
            HAWKER_AUTH__MODE="required",
        )
        async with asyncio.timeout(READY_SECONDS):
            await agent.hear()
        return agent

    def _client(self, name: str, timeout: float) -> httpx.AsyncClient:
        # Without TLS: to prepare for it takes 40 ms, for one host after the other.
        socket = str(self.directory / name / "hawker.sock")
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False, trust_env=False)
        headers = {"authorization": f"Bearer {self._token}"}
        return httpx.AsyncClient(
            transport=transport,
            base_url="http://daemon",
            timeout=timeout,
            headers=headers,
            trust_env=False,
        )

    async def fetch(self, name: str) -> float:
        last: dict[str, Any] = {}
        async with (
            self._client(name, READY_SECONDS) as client,
            client.stream("POST", "/peer/v1/downloads", json={"url": self.origin_url}) as answer,
        ):
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                last = msgspec.json.decode(line)
        ended = time.monotonic()
        if not last.get("done"):
            raise RuntimeError(f"{name}: {last.get('problem')}")
        self._outputs[name] = Path(last["path"])
        return ended

    def output(self, name: str) -> Path:
        return self._outputs[name]

    async def figures(self, live: list[str]) -> Figures:
        found = await self.origin_figures()
        for name in (SEED, *live):
            told = await self._metrics(name)
            found.more[name] = {
                key: told.get(f"hawker_peer_{key}_total", 0.0) for key in PEER_METRICS
            }
            found.duplicates[name] = int(found.more[name]["duplicate_bytes"])
        told = await self._metrics(SCHEDULER)
        for kind in ("reports", "decisions"):
            found.messages[kind] = int(told.get(f"hawker_scheduler_{kind}_total", 0))
        found.messages["requests"] = int(told.get("hawker_http_requests_total", 0))
        for key in ("refused_requests", "failed_requests", "corrupt_pieces", "parents_left"):
            found.told[key] = sum(host[key] for host in found.more.values())
        for key in ("hosts_suspected", "leases_granted"):
            found.told[key] = told.get(f"hawker_scheduler_{key}_total", 0)
        return found

    async def _metrics(self, name: str) -> dict[str, float]:
        """Each metric's sum over its labels."""
        async with self._client(name, READY_SECONDS) as client:
            text = (await client.get("/metrics")).raise_for_status().text
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    async def restart_scheduler(self) -> None:
        await self.agents[SCHEDULER].kill()
        await self._scheduler()

    async def stop(self) -> None:
        """Receivers, then the seed, the scheduler and the origin."""
        for group in (self.receivers, [SEED], [SCHEDULER]):
            async with asyncio.TaskGroup() as tasks:
                for name in group:
                    tasks.create_task(self.agents[name].stop())
        await self.agents[ORIGIN].kill()
