"""Rounds of one hop over each transport, beside curl from nginx over the same protocol."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.nginx import Nginx
from benchmarks.processes import (
    ROUND_SECONDS,
    Certificate,
    Cluster,
    cpu_of_all,
    cpu_of_ended,
    cpu_seconds,
    output_of,
    sha256_of,
)
from hawker.apps.demo.processes import Fleet, Running
from hawker.core.clients.daemon import DaemonClient
from hawker.core.messages import DownloadRequest, Progress

LAG_METRIC = "hawker_event_loop_lag_seconds_bucket"


@dataclass(frozen=True)
class Over:
    """How bytes travel: a transport plugin of the child, with or without TLS; what curl speaks."""

    name: str
    plugin: str
    secure: bool
    reference: str
    curl: str


OVER = {
    over.name: over
    for over in (
        Over("http1", "http1", False, "HTTP/1.1", "--http1.1"),
        Over("tls", "http1", True, "HTTP/1.1, TLS", "--http1.1"),
        Over("http2", "http2", False, "HTTP/2", "--http2-prior-knowledge"),
        Over("http2-tls", "http2", True, "HTTP/2, TLS", "--http2"),
        # This curl speaks no HTTP/3, nor does this nginx.
        Over("http3", "http3", True, "HTTP/1.1, TLS", "--http1.1"),
    )
}


@dataclass(frozen=True)
class Content:
    """A file in nginx's directory."""

    name: str
    size: int
    digest: str


@dataclass
class Timed:
    """One transfer: seconds, and CPU seconds of the sending and the receiving process."""

    seconds: float
    sender_cpu: float = 0.0
    receiver_cpu: float = 0.0

    @property
    def cpu(self) -> float:
        return self.sender_cpu + self.receiver_cpu


@dataclass
class Series:
    """All that was measured over one transport; lists run in step, one entry a pair."""

    over: Over
    size: int
    hawker: list[Timed] = field(default_factory=list)
    curl: list[Timed] = field(default_factory=list)
    cli: list[Timed] = field(default_factory=list)
    floor: list[Timed] = field(default_factory=list)
    lag: dict[str, dict[float, float]] = field(default_factory=dict)

    def ratios(self, rounds: Sequence[Timed]) -> list[float]:
        """The rate of curl's partner over curl's, pair by pair."""
        return [curl.seconds / own.seconds for own, curl in zip(rounds, self.curl, strict=True)]

    def rates(self, rounds: Sequence[Timed]) -> list[float]:
        """MB/s."""
        return [self.size / timed.seconds / 1e6 for timed in rounds]

    def cpu(self, seconds: Sequence[float]) -> list[float]:
        """CPU seconds per GB."""
        return [value / (self.size / 1e9) for value in seconds]


class Bench:
    """The processes under test over one transport, and one round of each kind."""

    def __init__(
        self,
        over: Over,
        content: Content,
        origin: Nginx,
        parent: Running,
        child: Running,
        output: Path,
        curl: Sequence[str],
    ) -> None:
        self.over, self.content, self.origin, self.output = over, content, origin, output
        self.daemons = {"parent": parent, "child": child}
        self.child = DaemonClient(child.ready.socket)
        self.url = f"{origin.plain}/{content.name}"
        server = origin.secure if over.secure else origin.plain
        server = origin.http2 if over.name == "http2" else server
        self._curl = (
            "curl",
            "-sSf",
            "--noproxy",
            "*",
            over.curl,
            *curl,
            f"{server}/{content.name}",
        )
        self.series = Series(over, content.size)

    async def hawker(self) -> None:
        """From the request to the `done` event."""
        lag = {name: await event_loop_lag(daemon) for name, daemon in self.daemons.items()}
        cpu = [cpu_seconds(daemon.pid) for daemon in self.daemons.values()]
        began = time.perf_counter()
        step = await download(self.child, self.url)
        seconds = time.perf_counter() - began
        used = [cpu_seconds(d.pid) - b for d, b in zip(self.daemons.values(), cpu, strict=True)]
        for name, daemon in self.daemons.items():
            total = self.series.lag.setdefault(name, {})
            add_difference(total, lag[name], await event_loop_lag(daemon))
        if step.from_origin or step.from_seeds + step.from_peers != self.content.size:
            raise SystemExit(f"{self.over.name}: not all bytes came from the parent: {step}")
        self.series.hawker.append(Timed(seconds, *used))
        await self.child.remove(step.task)

    async def curl(self) -> None:
        """`curl -o` of the same file from nginx."""
        cpu, own = cpu_of_all(self.origin.pids), cpu_of_ended()
        told = await output_of(
            *self._curl, "-o", str(self.output), "-w", "%{time_total} %{size_download}"
        )
        used = (cpu_of_all(self.origin.pids) - cpu, cpu_of_ended() - own)
        seconds, received = told.split()
        if int(received) != self.content.size:
            raise SystemExit(f"curl received {received} bytes of {self.content.size}")
        self.output.unlink()
        self.series.curl.append(Timed(float(seconds), *used))

    async def cli(self) -> None:
        """`hawker get`, from its start to its end."""
        began = time.perf_counter()
        told = await output_of(
            *(sys.executable, "-m", "hawker", "get", self.url, "-O", str(self.output)),
            *("-e", self.daemons["child"].ready.socket, "--json"),
        )
        self.series.cli.append(Timed(time.perf_counter() - began))
        if self.output.stat().st_size != self.content.size:
            raise SystemExit(f"hawker get wrote another size: {told}")
        self.output.unlink()
        for stat in await self.child.tasks():
            await self.child.remove(stat.task)

    async def floor(self) -> None:
        """The least that Python can do, from nginx."""
        cpu, own = cpu_of_all(self.origin.pids), cpu_of_ended()
        told = await output_of(
            *(sys.executable, "-m", "benchmarks.hop.floor", self.url, str(self.content.size)),
            str(self.output),
        )
        used = (cpu_of_all(self.origin.pids) - cpu, cpu_of_ended() - own)
        self.output.unlink()
        self.series.floor.append(Timed(float(told), *used))

    async def warm(self) -> None:
        """Every process does once what is measured, and the bytes are right."""
        async with self.child.download(DownloadRequest(self.url, pin=True)) as steps:
            last = [step async for step in steps][-1]
            found = await asyncio.to_thread(sha256_of, Path(last.path))
        if found != self.content.digest:
            raise SystemExit(f"the child stored sha256 {found}, not {self.content.digest}")
        await self.child.remove(last.task)
        await self.curl()
        await self.cli()
        self.series = Series(self.over, self.content.size)


def touch_memory(directory: Path, size: int) -> None:
    """Write and remove a file as large as what the next round writes.

    A virtual machine may have to get each page from its host first, which costs up to 2.5 s/GB; it
    may have given freed ones back two seconds later. Whichever round came first would pay for that.
    """
    path, block = directory / "touched", bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size, len(block)):
            file.write(block)
    path.unlink()


async def download(daemon: DaemonClient, url: str) -> Progress:
    """The last step of a download, which is `done`."""
    async with asyncio.timeout(ROUND_SECONDS), daemon.download(DownloadRequest(url)) as steps:
        return [step async for step in steps][-1]


async def event_loop_lag(daemon: Running) -> dict[float, float]:
    """Cumulative counts of the daemon's lag histogram by upper bound in seconds."""
    transport = httpx.AsyncHTTPTransport(uds=daemon.ready.socket)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        text = (await client.get("http://localhost/metrics")).raise_for_status().text
    found: dict[float, float] = {}
    for labels, value in re.findall(rf"^{LAG_METRIC}\{{(.*)\}} (\S+)", text, re.MULTILINE):
        bound = re.search(r'le="([^"]+)"', labels)
        assert bound is not None
        found[float(bound[1])] = found.get(float(bound[1]), 0.0) + float(value)
    if not found:
        raise SystemExit(f"{daemon.name} does not export {LAG_METRIC}")
    return found


def add_difference(
    total: dict[float, float], before: dict[float, float], after: dict[float, float]
) -> None:
    for bound, count in after.items():
        total[bound] = total.get(bound, 0.0) + count - before.get(bound, 0.0)


async def measure(
    directory: Path,
    origin: Nginx,
    certificate: Certificate | None,
    contents: dict[str, Content],
    *,
    pairs: int,
    floor: bool,
) -> list[Series]:
    """`pairs` interleaved rounds over each transport that `contents` names."""
    async with Fleet(directory) as fleet:
        benches: list[Bench] = []
        for secure in (False, True):
            chosen = [over for name, over in OVER.items() if over.secure is secure]
            chosen = [over for over in chosen if over.name in contents]
            if chosen:
                tls = certificate if secure else None
                benches += await start(fleet, directory, origin, tls, chosen, contents)
        try:
            for bench in benches:
                await bench.warm()
            for pair in range(pairs):
                for bench in benches:
                    rounds = [bench.hawker, bench.curl][:: 1 if pair % 2 == 0 else -1]
                    rounds.append(bench.cli)
                    if floor and bench.over.name == "http1":
                        rounds.append(bench.floor)
                    for round in rounds:
                        await asyncio.to_thread(touch_memory, directory, bench.content.size)
                        await round()
                print(f"pair {pair + 1} of {pairs} done", file=sys.stderr)
        finally:
            for bench in benches:
                await bench.child.__aexit__(None, None, None)
    return [bench.series for bench in benches]


async def start(
    fleet: Fleet,
    directory: Path,
    origin: Nginx,
    certificate: Certificate | None,
    chosen: Sequence[Over],
    contents: dict[str, Content],
) -> list[Bench]:
    """A cluster of a scheduler, a parent that has the contents, and a child for each transport."""
    common = () if certificate is None else certificate.flags
    curl = () if certificate is None else ("--cacert", str(certificate.ca))
    cluster = Cluster(fleet, directory / ("plain" if certificate is None else "secure"), *common)
    scheduler = await cluster.serve("scheduler", "scheduler")
    attached = ("--scheduler", scheduler.ready.url)
    http3 = ("--http3",) if any(over.plugin == "http3" for over in chosen) else ()
    parent = await cluster.serve("parent", "peer", "--seed", *http3, *attached)
    async with DaemonClient(parent.ready.socket) as daemon:
        for name in {contents[over.name].name for over in chosen}:
            await download(daemon, f"{origin.plain}/{name}")
    benches = []
    for over in chosen:
        settings = directory / f"{over.name}.toml"
        settings.write_text(f'[peer]\ntransports = ["{over.plugin}"]\n')
        child = await cluster.serve(over.name, "peer", "--config", str(settings), *attached)
        output = directory / "output"
        benches.append(Bench(over, contents[over.name], origin, parent, child, output, curl))
    return benches
