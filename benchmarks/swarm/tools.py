"""Other programs: whether they are there, and short runs of them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Sequence

from benchmarks.processes import need

NETWORK_TOOLS = ("ip", "tc", "nft", "curl")
TOOL_SECONDS = 30.0


def check(systems: Sequence[str]) -> None:
    """Raises SystemExit where something that the bed needs is missing; names what to install."""
    if os.geteuid() != 0:
        raise SystemExit("the bed makes network namespaces: run it as root")
    need(*NETWORK_TOOLS, *(("aria2c",) if "aria2" in systems else ()))
    if "libtorrent" in systems and importlib.util.find_spec("libtorrent") is None:
        raise SystemExit(f"libtorrent not found; {sys.executable} -m pip install libtorrent")


async def run(*command: str, text: str = "") -> str:
    """What a program prints, given `text` to read; raises SystemExit where it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TOOL_SECONDS):
            told, errors = await process.communicate(text.encode())
    except TimeoutError as exc:
        process.kill()
        await process.wait()
        raise SystemExit(f"{' '.join(command)} did not end in {TOOL_SECONDS:g} s") from exc
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {errors.decode().strip()}\n{text}")
    return told.decode()
