"""`hawker top` on a real swarm: in a terminal, off one, as JSON; at a scheduler, at a manager."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

from hawker.core.ids import TaskSpec
from tests.e2e.conftest import Cluster, Origin, fetch, hawker, wait_for
from tests.e2e.managed import Managed
from tests.e2e.test_job_commands import Somebody

MIB = 2**20
ENTER, LEAVE, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """`hawker top` in a pseudo-terminal of 24 lines of 80."""

    def __init__(self, *arguments: str) -> None:
        self.said = b""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-m", "hawker", "top", *arguments])
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def read(self) -> bool:
        """Whether it still runs, having read what it says now."""
        if select.select([self._fd], [], [], 0.1)[0]:
            try:
                self.said += os.read(self._fd, 65536)
            except OSError:
                return False
        return True

    def wait_for(self, *texts: str) -> None:
        def all_there() -> bool:
            assert self.read(), self.said
            return all(text.encode() in self.said for text in texts)

        wait_for(all_there, f"{texts} are shown", 30)

    def interrupt(self) -> int:
        """Its exit code after Ctrl-C."""
        os.write(self._fd, b"\x03")
        until = time.monotonic() + 20
        while self.read():
            assert time.monotonic() < until
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def top(*arguments: str) -> dict[str, Any]:
    done = hawker("top", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_swarm_is_watched_in_a_terminal_and_off_one(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    scheduler, _, peers = cluster.swarm(2)
    at = ("--scheduler", scheduler.url, "--cluster-key", str(cluster.key))
    assert top(*at)["tasks"] == []
    origin.delay = 0.06
    data = os.urandom(12 * MIB)
    url = origin.put("/model.bin", data)
    task = TaskSpec(url).task_id
    gets = [
        threading.Thread(target=fetch, args=(peer, url, tmp_path / str(number)))
        for number, peer in enumerate(peers)
    ]
    for get in gets:
        get.start()
    wait_for(lambda: top(*at)["tasks"], "the task is there")
    with_task = Terminal(task[:8], *at)
    without = Terminal(*at)
    with_task.wait_for(f"task {task[:8]}", "running", "reads the origin", "█", "MB/s")
    without.wait_for(task[:8], "wanted", "/model.bin")
    for terminal in (with_task, without):
        assert ENTER in terminal.said and LEAVE not in terminal.said
        assert terminal.interrupt() == 130
        assert LEAVE in terminal.said and terminal.said.rindex(CURSOR) > 0
        assert b"Traceback" not in terminal.said
    for get in gets:
        get.join(60)
    told = top(task, *at)
    assert told["overview"]["delivered_bytes"] == 2 * len(data)
    assert {peer["state"] for peer in told["task"]["peers"]} == {"complete", "holding"}
    assert {str(peer["have"]) for peer in told["task"]["peers"]} == {"[[0, 47]]"}
    assert told["task"]["ended"] is True
    off = hawker("top", task[:8], *at)
    assert off.returncode == 0 and b"100 %" in off.stdout and b"\x1b" not in off.stdout
    # Who is no daemon, or has no scheduler, is named.
    for arguments, text in (
        (("-e", peers[0].socket), "has no scheduler"),
        (("--data", str(tmp_path / "none")), "no scheduler is named"),
        (("nonsense", *at), "is no task"),
    ):
        done = hawker("top", "--once", *arguments)
        assert done.returncode == 3 and text in done.stderr.decode()


def test_what_runs_here_is_found_without_a_flag(cluster: Cluster, origin: Origin) -> None:
    daemon = cluster.start("up", "up", "--config", str(_no_proxy(cluster.root)))
    daemon.wait_ready()
    url = origin.put("/small", os.urandom(MIB))
    assert fetch(daemon, url, cluster.root / "got")[0] == 0
    told = top("--data", str(daemon.data))
    assert [line["url"] for line in told["tasks"]] == [url]


def test_a_manager_s_cluster_is_watched(cluster: Cluster, origin: Origin, tmp_path: Path) -> None:
    managed = Managed(cluster)
    ada = Somebody(tmp_path / "home", managed)
    _, _, peers = managed.swarm(1)
    url = origin.put("/x", os.urandom(MIB))
    assert fetch(peers[0].daemon, url, tmp_path / "x")[0] == 0
    told = ada.told("top", "--manager", managed.url)
    assert [line["url"] for line in told["tasks"]] == [url]
    task = ada.told("top", "--cluster", "eu", told["tasks"][0]["task"])["task"]
    assert len(task["peers"]) == 2 and task["ended"] is True
    missing = ada.run("top", "--once", "--cluster", "us")
    assert missing.returncode == 3 and "no cluster 'us'" in missing.stderr
    managed.api.close()


def _no_proxy(root: Path) -> Path:
    """The port after its own may be another's."""
    path = root / "up.toml"
    path.write_text("[proxy]\nport = 0\n")
    return path
