"""`hawker demo` as a user runs it: a cluster of real processes, and nothing left of it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

PEERS = 3
TIMEOUT = 120


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hawker", "demo", "--peers", str(PEERS), *map(str, arguments)]


def mine(marker: Path) -> dict[str, str]:
    """An environment whose temporary directory is the test's own; short, for unix sockets."""
    return {**os.environ, "TMPDIR": str(marker)}


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hd-") as name:
        yield Path(name)


def processes_of(place: Path) -> list[str]:
    """Command lines of running processes that work below `place`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20 + 7])
def test_every_peer_gets_the_file_and_the_origin_is_read_once(
    size: int, tmp_path: Path, temporary: Path
) -> None:
    content = secrets.token_bytes(size)
    (tmp_path / "content").write_bytes(content)
    svg = tmp_path / "chart.svg"
    done = subprocess.run(
        command(tmp_path / "content", "--json", "--svg", svg),
        capture_output=True,
        timeout=TIMEOUT,
        env=mine(temporary),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert (figures["size"], figures["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    assert [row["right"] for row in figures["rows"]] == [True] * PEERS
    for row in figures["rows"]:
        assert row["from_seed"] + row["from_peers"] + row["from_origin"] == size
        assert row["sha256"] == figures["sha256"]
    assert figures["origin"]["content_bytes"] == size
    assert figures["origin"]["unfinished"] <= 1
    ElementTree.fromstring(svg.read_text())
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_interrupted_demo_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "content").write_bytes(secrets.token_bytes(2_000_000))
    # At this rate the plain download alone takes minutes.
    arguments = (tmp_path / "content", "--rate", 0.01, "--svg", tmp_path / "chart.svg")
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, text=True, env=mine(temporary)
    ) as demo:
        assert demo.stdout is not None
        told = next(line for line in demo.stdout if "plain download" in line)
        assert "http://127.0.0.1:" in told
        assert len(processes_of(temporary)) >= PEERS + 2
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []
