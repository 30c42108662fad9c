"""One hop: a child daemon takes 1 GiB from its parent, against `curl -o` from nginx.

    python benchmarks/hop/run.py [--size 1GiB] [--pairs 7] [--json]

Targets 1, 2 and 12 of the design. The parent (a seed) is complete and its file in the page cache;
the child is warm. Hawker is timed from sending the request to reading the `done` event: every piece
verified and valid in the child's store. curl is timed by its own `time_total`, which leaves out its
start. After each round the child's copy, or curl's file, is removed, so that each round writes a
fresh file on the same filesystem. Rounds are interleaved, and each pair begins with the other one.
Ratios are taken within a pair. The CLI round is `hawker get URL -O FILE -e SOCKET`, process start
and delivery to FILE included.

CPU is user + system time of the parent's and the child's processes (/proc/PID/stat, all threads)
over the round; the scheduler runs and is not counted. Lag is the p99 of all rounds' event-loop lag,
from the difference of each daemon's histogram before and after a round.

Needs Linux, nginx and curl (Debian: apt install nginx-light curl).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from hawker.apps.demo.processes import Fleet, Running
from hawker.core.clients.daemon import DaemonClient
from hawker.core.messages import DownloadRequest, Progress
from hawker.core.tokens import create_key_file

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}
CHUNK = 16 * 2**20
START_SECONDS = 60.0
ROUND_SECONDS = 600.0
RATE_TARGET, CPU_TARGET, LAG_TARGET = 1.3, 2.0, 0.020
VERDICT = {True: "met", False: "NOT MET"}
LAG_METRIC = "hawker_event_loop_lag_seconds_bucket"
PACKAGES = {"nginx": "nginx-light", "curl": "curl"}
TICKS = os.sysconf("SC_CLK_TCK")
# A worker that root starts would run as nobody, who may not read the temporary directory.
USER = "user root;\n" if os.geteuid() == 0 else ""
NGINX = """\
{user}worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 256; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    client_body_temp_path {directory}/tmp;
    proxy_temp_path {directory}/tmp;
    fastcgi_temp_path {directory}/tmp;
    uwsgi_temp_path {directory}/tmp;
    scgi_temp_path {directory}/tmp;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/www;
    }}
}}
"""


@dataclass
class Round:
    """One timed transfer by Hawker's API: seconds, and CPU seconds of parent and child."""

    seconds: float
    parent_cpu: float
    child_cpu: float


@dataclass
class Series:
    """All that was measured; lists run in step, one entry a pair."""

    size: int
    hawker: list[Round] = field(default_factory=list)
    curl: list[float] = field(default_factory=list)
    cli: list[float] = field(default_factory=list)
    lag: dict[str, dict[float, float]] = field(default_factory=dict)

    def ratios(self, seconds: Sequence[float]) -> list[float]:
        """The rate of curl's partner over curl's, pair by pair."""
        return [curl / own for own, curl in zip(seconds, self.curl, strict=True)]

    def rates(self, seconds: Sequence[float]) -> list[float]:
        """MB/s."""
        return [self.size / value / 1e6 for value in seconds]

    def cpu(self) -> list[float]:
        """CPU seconds per GB, parent and child together."""
        return [(r.parent_cpu + r.child_cpu) / (self.size / 1e9) for r in self.hawker]


class Bench:
    """The processes under test, and one round of each kind."""

    def __init__(self, directory: Path, url: str, parent: Running, child: Running, size: int):
        self.directory, self.url, self.size = directory, url, size
        self.daemons = {"parent": parent, "child": child}
        self.child = DaemonClient(child.ready.socket)
        self.output = directory / "output"

    async def hawker(self, series: Series) -> Progress:
        """From the request to the `done` event."""
        lag = {name: await event_loop_lag(daemon) for name, daemon in self.daemons.items()}
        cpu = [cpu_seconds(daemon.pid) for daemon in self.daemons.values()]
        began = time.perf_counter()
        step = await download(self.child, self.url)
        seconds = time.perf_counter() - began
        used = [cpu_seconds(d.pid) - b for d, b in zip(self.daemons.values(), cpu, strict=True)]
        for name, daemon in self.daemons.items():
            add_difference(series.lag.setdefault(name, {}), lag[name], await event_loop_lag(daemon))
        if step.from_origin or step.from_seeds + step.from_peers != self.size:
            raise SystemExit(f"hop: not all bytes came from the parent: {step}")
        series.hawker.append(Round(seconds, used[0], used[1]))
        await self.child.remove(step.task)
        return step

    async def curl(self, series: Series) -> None:
        """`curl -o` of the same file from nginx."""
        told = await output_of(
            *("curl", "-sSf", "--noproxy", "*", "-o", str(self.output)),
            *("-w", "%{time_total} %{size_download}", self.url),
        )
        seconds, received = told.split()
        if int(received) != self.size:
            raise SystemExit(f"hop: curl received {received} bytes of {self.size}")
        self.output.unlink()
        series.curl.append(float(seconds))

    async def cli(self, series: Series) -> None:
        """`hawker get`, from its start to its end."""
        began = time.perf_counter()
        told = await output_of(
            *(sys.executable, "-m", "hawker", "get", self.url, "-O", str(self.output)),
            *("-e", self.daemons["child"].ready.socket, "--json"),
        )
        series.cli.append(time.perf_counter() - began)
        if self.output.stat().st_size != self.size:
            raise SystemExit(f"hop: hawker get wrote another size: {told}")
        self.output.unlink()
        for stat in await self.child.tasks():
            await self.child.remove(stat.task)

    async def verify(self, expected: str) -> None:
        """One download, read back from the child's store; then removed."""
        async with self.child.download(DownloadRequest(self.url, pin=True)) as steps:
            last = [step async for step in steps][-1]
            found = await asyncio.to_thread(sha256_of, Path(last.path))
        if found != expected:
            raise SystemExit(f"hop: the child stored sha256 {found}, not {expected}")
        await self.child.remove(last.task)


async def download(daemon: DaemonClient, url: str) -> Progress:
    """The last step of a download, which is `done`."""
    async with asyncio.timeout(ROUND_SECONDS), daemon.download(DownloadRequest(url)) as steps:
        return [step async for step in steps][-1]


def cpu_seconds(pid: int) -> float:
    """User and system time of all of a process's threads so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def event_loop_lag(daemon: Running) -> dict[float, float]:
    """Cumulative counts of the daemon's lag histogram by upper bound in seconds."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{daemon.ready.url}/metrics")).raise_for_status().text
    found: dict[float, float] = {}
    for labels, value in re.findall(rf"^{LAG_METRIC}\{{(.*)\}} (\S+)", text, re.MULTILINE):
        bound = re.search(r'le="([^"]+)"', labels)
        assert bound is not None
        found[float(bound[1])] = found.get(float(bound[1]), 0.0) + float(value)
    if not found:
        raise SystemExit(f"hop: {daemon.name} does not export {LAG_METRIC}")
    return found


def add_difference(
    total: dict[float, float], before: dict[float, float], after: dict[float, float]
) -> None:
    for bound, count in after.items():
        total[bound] = total.get(bound, 0.0) + count - before.get(bound, 0.0)


def percentile(cumulative: dict[float, float], share: float) -> float:
    """A quantile of a histogram, linear within its bucket; seconds, nan where it is empty."""
    bounds = sorted(cumulative)
    wanted = share * cumulative[bounds[-1]]
    if not wanted:
        return float("nan")
    low, counted = 0.0, 0.0
    for bound in bounds:
        if cumulative[bound] >= wanted:
            if bound == float("inf"):
                return low
            part = (wanted - counted) / (cumulative[bound] - counted)
            return low + (bound - low) * part
        low, counted = bound, cumulative[bound]
    return low


async def output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        told, _ = await asyncio.wait_for(process.communicate(), ROUND_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"hop: {command[0]} failed with {process.returncode}")
    return told.decode()


def make_file(path: Path, size: int) -> str:
    """Random bytes; their hex SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            block = os.urandom(min(CHUNK, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_nginx(directory: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    """nginx, its base URL and its configuration; ready to answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = NGINX.format(user=USER, directory=directory, port=port)
    (directory / "nginx.conf").write_text(configuration)
    nginx = subprocess.Popen(
        ["nginx", "-c", str(directory / "nginx.conf"), "-e", str(directory / "nginx.log")],
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return nginx, f"http://127.0.0.1:{port}", configuration
        if nginx.poll() is not None or time.monotonic() > deadline:
            nginx.kill()
            raise SystemExit(f"hop: nginx did not start, see {directory / 'nginx.log'}")
        time.sleep(0.02)


async def measure(directory: Path, url: str, digest: str, size: int, pairs: int) -> Series:
    key = directory / "cluster.key"
    create_key_file(key)

    async def start(name: str, role: str, *flags: str) -> Running:
        return await fleet.start(
            name,
            "hawker",
            *("serve", role, "--port", "0", "--data", str(directory / name)),
            *("--cluster-key", str(key), "--json", *flags),
            timeout=START_SECONDS,
        )

    async with Fleet(directory) as fleet:
        scheduler = await start("scheduler", "scheduler")
        attached = ("--scheduler", scheduler.ready.url)
        parent = await start("parent", "peer", "--seed", *attached)
        async with DaemonClient(parent.ready.socket) as daemon:
            told = await download(daemon, url)
        print(f"the parent has {told.valid_bytes} bytes", file=sys.stderr)
        child = await start("child", "peer", *attached)
        bench = Bench(directory, url, parent, child, size)
        async with bench.child:
            # Warm: every process has done once what is measured, and the bytes are right.
            await bench.verify(digest)
            for kind in (bench.curl, bench.cli):
                await kind(Series(size))
            series = Series(size)
            for pair in range(pairs):
                first, second = (bench.hawker, bench.curl)[:: 1 if pair % 2 == 0 else -1]
                await first(series)
                await second(series)
                await bench.cli(series)
                print(f"pair {pair + 1} of {pairs} done", file=sys.stderr)
            return series


def spread(values: Sequence[float], digits: int) -> str:
    """Median and, in brackets, the least and the most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def report(series: Series, configuration: str) -> dict[str, object]:
    """Print the table; everything in it as one object."""
    hawker = [r.seconds for r in series.hawker]
    ratios, cpu = series.ratios(hawker), series.cpu()
    gigabytes = series.size / 1e9
    lag = {name: percentile(counts, 0.99) for name, counts in series.lag.items()}
    rate_met = statistics.median(ratios) >= RATE_TARGET
    cpu_met = statistics.median(cpu) <= CPU_TARGET
    lag_met = all(value <= LAG_TARGET for value in lag.values())
    parent_cpu = [r.parent_cpu / gigabytes for r in series.hawker]
    child_cpu = [r.child_cpu / gigabytes for r in series.hawker]
    rows = [
        ("hawker, request to done, MB/s", spread(series.rates(hawker), 0), ""),
        ("curl -o from nginx, MB/s", spread(series.rates(series.curl), 0), ""),
        ("hawker get, wall time, MB/s", spread(series.rates(series.cli), 0), ""),
        ("1: hawker / curl", spread(ratios, 2), f">= {RATE_TARGET}: {VERDICT[rate_met]}"),
        ("   hawker get / curl", spread(series.ratios(series.cli), 2), ""),
        ("2: CPU, s/GB", spread(cpu, 2), f"<= {CPU_TARGET}: {VERDICT[cpu_met]}"),
        ("   of it the parent's", spread(parent_cpu, 2), ""),
        ("   of it the child's", spread(child_cpu, 2), ""),
    ]
    for name, value in lag.items():
        told = f"<= {LAG_TARGET * 1e3:.0f}: {VERDICT[value <= LAG_TARGET]}"
        rows.append((f"12: event-loop lag p99, {name}, ms", f"{value * 1e3:.1f}", told))
    print(
        f"{series.size} random bytes, {len(ratios)} pairs, median (min-max); "
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    )
    for row in rows:
        print(f"{row[0]:<36} {row[1]:>20}  {row[2]}".rstrip())
    print(f"\nnginx was configured with\n\n{configuration}")
    return {
        "size": series.size,
        "hawker_seconds": hawker,
        "curl_seconds": series.curl,
        "cli_seconds": series.cli,
        "ratios": ratios,
        "cpu_seconds_per_gb": cpu,
        "parent_cpu_seconds_per_gb": parent_cpu,
        "child_cpu_seconds_per_gb": child_cpu,
        "lag_p99_seconds": lag,
        "met": {"1": rate_met, "2": cpu_met, "12": lag_met},
    }


def size_of(text: str) -> int:
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    if not match or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1GiB")
    return int(match[1]) * UNITS[match[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=size_of, default=2**30, help="such as 1GiB")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    arguments = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if missing:
        packages = " ".join(PACKAGES[name] for name in missing)
        raise SystemExit(f"hop: {', '.join(missing)} not found; Debian: apt install {packages}")
    with tempfile.TemporaryDirectory(prefix="hawker-hop-") as name:
        directory = Path(name)
        (directory / "www").mkdir()
        digest = make_file(directory / "www" / "file", arguments.size)
        nginx, base, configuration = start_nginx(directory)
        try:
            series = asyncio.run(
                measure(directory, f"{base}/file", digest, arguments.size, arguments.pairs)
            )
        finally:
            nginx.terminate()
            nginx.wait(10)
        figures = report(series, configuration)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
