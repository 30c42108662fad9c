"""The processes of one run, and what can be done to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from hawker.core.tokens import ClusterKey, read_key_file
from tests.faults.plan import SECRET, Plan

READY = 30.0
END = 15.0
# What a small peer may keep: less than most contents.
SMALL_QUOTA = 2 << 20


class Daemon:
    """One `hawker serve`, that can be killed and started again on its port and data."""

    def __init__(self, root: Path, name: str, arguments: list[str], env: dict[str, str]) -> None:
        self.name = name
        self.data = root / name
        self.log = root / f"{name}.log"
        self.frozen = False
        self.stopped_badly = ""
        self._arguments = [*arguments, "--port", str(_free_port()), "--data", str(self.data)]
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")} | env
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self.url = f"http://127.0.0.1:{self._arguments[self._arguments.index('--port') + 1]}"
        self.socket = str(self.data / "hawker.sock")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process without waiting for it."""
        with self._lock, self.log.open("a") as log:
            command = [sys.executable, "-m", "hawker", "serve", *self._arguments, "--json"]
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._env
            )

    def wait_listening(self) -> None:
        process = self._process
        assert process is not None and process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{self.name} did not start (exit {process.poll()}): see {self.log}"
        json.loads(line)

    def wait_ready(self) -> None:
        """Until its schedulers know it."""
        end = time.monotonic() + READY
        with self.client() as client:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/readyz").status_code == 200:
                        return
                time.sleep(0.05)
        raise AssertionError(f"{self.name} did not become ready: see {self.log}")

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.socket)
        return httpx.Client(transport=transport, base_url="http://daemon", timeout=60)

    def kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            process.send_signal(signal.SIGKILL)
            process.wait(END)
            if process.stdout is not None:
                process.stdout.close()
            self.frozen = False

    def freeze(self) -> None:
        with self._lock:
            if self.running and self._process is not None:
                self._process.send_signal(signal.SIGSTOP)
                self.frozen = True

    def thaw(self) -> None:
        with self._lock:
            if self.frozen and self._process is not None:
                self._process.send_signal(signal.SIGCONT)
                self.frozen = False

    def revive(self) -> None:
        """Running and listening again, whatever happened."""
        self.thaw()
        with self._lock:
            if not self.running:
                self.kill()
                self.launch()
                self.wait_listening()

    def stop(self) -> None:
        """SIGTERM, as an operator would; remembers what was wrong with its end."""
        self.thaw()
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END)
            code = None
        if process.stdout is not None:
            process.stdout.close()
        if code != 0:
            self.stopped_badly = f"{self.name} ended with {code} after SIGTERM"

    def content_files(self) -> list[Path]:
        """The files in which its store keeps content."""
        found = (self.data / "content").rglob("*")
        return [path for path in found if path.is_file() and path.suffix != ".runs"]


class World:
    """A scheduler, seeds and peers of a plan."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.key = root / "cluster.key"
        made = subprocess.run(
            [sys.executable, "-m", "hawker", "cluster", "key", str(self.key)],
            capture_output=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        env = {"HAWKER_PEER__SCHEDULER_WAIT": "2"}
        common = ["--cluster-key", str(self.key)]
        self.scheduler = Daemon(root, "scheduler", ["scheduler", *common], env)
        link = ["--scheduler", self.scheduler.url]
        self.seeds = [
            Daemon(root, f"seed-{n}", ["peer", "--seed", *link, *common], env)
            for n in range(plan.seeds)
        ]
        self.peers = []
        for number in range(plan.peers):
            own = dict(env)
            if number == plan.small:
                own["HAWKER_STORAGE__QUOTA"] = str(SMALL_QUOTA)
            self.peers.append(Daemon(root, f"peer-{number}", ["peer", *link, *common], own))

    @property
    def daemons(self) -> list[Daemon]:
        return [self.scheduler, *self.seeds, *self.peers]

    def start(self) -> None:
        for daemon in self.daemons:
            daemon.launch()
        for daemon in self.daemons:
            daemon.wait_listening()
        for daemon in self.daemons[1:]:
            daemon.wait_ready()

    def heal(self) -> None:
        """Everything runs again and knows each other."""
        for daemon in self.daemons:
            daemon.revive()
        for daemon in self.daemons[1:]:
            daemon.wait_ready()

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.stop()

    def scheduler_views(self) -> str:
        """Everything the scheduler would tell, as text."""
        token = ClusterKey(read_key_file(self.key)).mint("", ["tasks"])
        headers = {"authorization": f"Bearer {token}"}
        texts = []
        for path in ("tasks", "hosts"):
            url = f"{self.scheduler.url}/scheduler/v1/{path}"
            texts.append(httpx.get(url, headers=headers, trust_env=False).text)
        return "\n".join(texts)

    def logs(self) -> dict[str, str]:
        return {d.name: d.log.read_text() for d in self.daemons if d.log.exists()}

    def leaks(self) -> list[str]:
        """Places where the request's secret is seen."""
        places = [name for name, text in self.logs().items() if SECRET in text]
        if SECRET in self.scheduler_views():
            places.append("the scheduler's views")
        return places


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
