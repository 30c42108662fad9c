"""Hawker's processes under test, other programs, and what the kernel says of both."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hawker.apps.demo.processes import Fleet, Running
from hawker.core.tokens import create_key_file

CHUNK = 16 * 2**20
START_SECONDS = 60.0
ROUND_SECONDS = 600.0
TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = {
    "nginx": "nginx-light",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "aria2c": "aria2",
}


@dataclass(frozen=True)
class Certificate:
    """What a process over TLS needs; all processes of a benchmark show the same one."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """For `hawker serve`."""
        pairs = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        return tuple(part for name, path in pairs.items() for part in (f"--tls-{name}", str(path)))


class Cluster:
    """Daemons with one cluster key, each with a data directory below `directory`."""

    def __init__(self, fleet: Fleet, directory: Path, *common: str) -> None:
        self._fleet, self._directory, self._common = fleet, directory, common
        self.key = directory / "cluster.key"
        directory.mkdir(parents=True, exist_ok=True)
        create_key_file(self.key)

    async def serve(self, name: str, role: str, *flags: str) -> Running:
        """`hawker serve`, ready to be used."""
        return await self._fleet.start(
            f"{self._directory.name}-{name}",
            "hawker",
            *("serve", role, "--port", "0", "--data", str(self._directory / name)),
            *("--cluster-key", str(self.key), "--json", *self._common, *flags),
            timeout=START_SECONDS,
        )


def need(*programs: str) -> None:
    """Raises SystemExit where a program is not installed."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES.get(name, name) for name in missing))
        raise SystemExit(f"{', '.join(missing)} not found; Debian: apt install {packages}")


async def issue(directory: Path) -> Certificate:
    """A certificate for 127.0.0.1 by an authority of its own."""
    hawker = (sys.executable, "-m", "hawker", "ca")
    await output_of(*hawker, "create", str(directory / "ca"))
    told = await output_of(
        *(*hawker, "issue", "127.0.0.1", "--ca", str(directory / "ca"), "-O", str(directory))
    )
    certificate, key = told.split()
    return Certificate(directory / "ca" / "ca.crt", Path(certificate), Path(key))


async def output_of(*command: str) -> str:
    """What a program prints; raises SystemExit where it fails."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        told, _ = await asyncio.wait_for(process.communicate(), ROUND_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with {process.returncode}")
    return told.decode()


def cpu_seconds(pid: int) -> float:
    """User and system time of all of a process's threads so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_of_all(pids: Sequence[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)


def cpu_of_ended() -> float:
    """User and system time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident_bytes(pid: int) -> int:
    """Memory that a process occupies."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


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
