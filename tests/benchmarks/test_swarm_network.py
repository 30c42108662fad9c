"""The bed's network: its links are as described, and nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.description import Link
from benchmarks.swarm.janitor import PREFIX, namespaces
from benchmarks.swarm.network import Network
from benchmarks.swarm.tools import NETWORK_TOOLS, check, run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(tool) is None for tool in NETWORK_TOOLS),
    reason=f"needs root, {', '.join(NETWORK_TOOLS)}",
)
SIZE = 1_000_000
OWNER = """
import asyncio, sys
from pathlib import Path
from benchmarks.swarm.description import Link
from benchmarks.swarm.network import Network

async def main():
    links = {"one": Link(10, 10), "two": Link(10, 10)}
    async with Network(links, {}, {}, Path(sys.argv[1]), sys.argv[2]):
        print("built", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def fetch(network: Network, name: str, source: str) -> tuple[float, bytes]:
    """Bytes per second that curl got, and what it got."""
    file = network.directory / f"{name}.got"
    url = f"http://{network.address(source)}:8080/"
    told = await run(
        *network.command(name, "curl", "-sS", "-o", str(file), "-w", "%{speed_download}", url)
    )
    return float(told), file.read_bytes()


async def play(tmp_path: Path) -> None:
    directory = tmp_path / "bed"
    directory.mkdir()
    content = directory / "content"
    content.write_bytes(os.urandom(SIZE))
    links = {
        "source": Link(40, 40),
        "near": Link(40, 40),
        "far": Link(40, 40),
        "lossy": Link(40, 40, loss=0.02),
    }
    zones = {"away": Link(8, 8, delay=20)}
    owner = f"{os.getpid()}-test"
    async with Network(links, zones, {"far": "away"}, directory, owner) as network:
        module = (sys.executable, "-m", "benchmarks.swarm.origin")
        command = (*module, network.address("source"), "8080", str(content))
        origin = await Agent.start(
            "source", network.command("source", *command), directory / "origin.log"
        )
        await origin.hear()
        rate, got = await fetch(network, "near", "source")
        assert got == content.read_bytes()
        # Less than the rate by what headers take; a burst of 80 KiB comes on top.
        assert 0.85 * 40e6 / 8 < rate < 1.15 * 40e6 / 8
        rate, got = await fetch(network, "far", "source")
        assert got == content.read_bytes() and 0.7 * 1e6 < rate < 1.1 * 1e6
        _, got = await fetch(network, "lossy", "source")
        assert got == content.read_bytes()
        received = await network.received()
        for name in ("near", "far", "lossy"):
            assert SIZE < received[name]["source"] < 1.2 * SIZE
        traffic = network.traffic()
        assert SIZE < traffic["zone:away"].down < 1.2 * SIZE
        assert traffic["source"].up > 3 * SIZE
        assert await origin.ask("count") == {"sent": 3 * SIZE, "requests": 3}
        await network.slow("near", 16)
        rate, _ = await fetch(network, "near", "source")
        assert 0.85 * 16e6 / 8 < rate < 1.2 * 16e6 / 8
        await network.cut("zone:away")
        with pytest.raises(SystemExit):
            await run(
                *network.command("far", "curl", "-sS", "-m", "1"),
                f"http://{network.address('source')}:8080/",
            )
        await network.heal("zone:away")
        _, got = await fetch(network, "far", "source")
        assert got == content.read_bytes()
        await network.corrupt("source")
        _, got = await fetch(network, "near", "source")
        assert len(got) == SIZE and got != content.read_bytes()
        await origin.kill()
    assert not namespaces(f"{PREFIX}{owner}") and not directory.exists()


def test_links_and_what_is_done_to_them(tmp_path: Path) -> None:
    asyncio.run(play(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_when_its_owner_is_interrupted_or_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    directory = tmp_path / "bed"
    directory.mkdir()
    owner = f"{os.getpid()}-{number.name.lower()}"
    process = subprocess.Popen(
        (sys.executable, "-c", OWNER, str(directory), owner),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"built\n"
        assert len(namespaces(f"{PREFIX}{owner}")) == 3
        process.send_signal(number)
    end = time.monotonic() + 10
    while namespaces(f"{PREFIX}{owner}") or directory.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_without_root_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="as root"):
        check([])


def test_a_missing_tool_is_named_with_what_installs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks.swarm.run", "equal16"),
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nft" in done.stderr and "apt install iproute2 nftables curl aria2" in done.stderr
