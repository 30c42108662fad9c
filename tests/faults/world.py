"""The processes of one run, and what can be done to them."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from hawker.core.tokens import ClusterKey, create_key_file, read_key_file
from tests.faults.plan import SECRET, Plan
from tests.faults.proxy import Link, Links

READY = 40.0
END = 20.0
# What a daemon may leave in its data directory beside content and the index.
LASTING = {"lock", "host.key", "cluster.key", "index.sqlite", "scheduler.sqlite"}


class Daemon:
    """One `hawker serve`, that can be killed and started again on its port and data."""

    def __init__(
        self, root: Path, name: str, arguments: list[str], env: dict[str, str], port: int = 0
    ) -> None:
        self.name = name
        self.data = root / name
        self.log = root / f"{name}.log"
        self.frozen = False
        self.faults: list[str] = []
        self.port = port or free_port()
        self._arguments = [*arguments, "--port", str(self.port), "--data", str(self.data)]
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")} | env
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket = str(self.data / "hawker.sock")

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    @property
    def live(self) -> bool:
        """It can answer."""
        return self.running and not self.frozen

    @property
    def pid(self) -> int:
        process = self._process
        return 0 if process is None else process.pid

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
        if not line:
            raise RuntimeError(f"{self.name} did not start (exit {process.wait(END)}): {self.log}")

    def wait_ready(self) -> None:
        """Until its schedulers know it."""
        end = time.monotonic() + READY
        with self.client() as client:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/readyz").status_code == 200:
                        return
                # Another process: there is nothing to wait for but its answer.
                time.sleep(0.03)
        raise RuntimeError(f"{self.name} did not become ready: {self.log}")

    def client(self, timeout: float = 10.0) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.socket)
        return httpx.Client(transport=transport, base_url="http://daemon", timeout=timeout)

    def stored(self) -> list[dict[str, Any]]:
        """What it says it stores; nothing where it does not answer in time."""
        if not self.live:
            return []
        try:
            with self.client(2.0) as client:
                found: list[dict[str, Any]] = client.get("/peer/v1/tasks").json()
        except (httpx.HTTPError, ValueError):
            return []
        return found

    def kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            self.frozen = False
        if process is not None:
            process.kill()
            process.wait(END)
            _close(process)

    def freeze(self) -> None:
        with self._lock:
            if self.running:
                os.kill(self.pid, signal.SIGSTOP)
                self.frozen = True

    def thaw(self) -> None:
        with self._lock:
            if self.frozen:
                os.kill(self.pid, signal.SIGCONT)
                self.frozen = False

    def has_socket(self, inode: str) -> bool:
        """The socket is one of this process's (proc(5), /proc/PID/fd)."""
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{self.pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor.path) == f"socket:[{inode}]":
                        return True
        return False

    def limit_files(self, size: int) -> None:
        """No file of this process can grow beyond `size` bytes, as on a full disk; -1: no limit."""
        with self._lock:
            if self.running:
                hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))

    def revive(self) -> None:
        """Running and listening again, whatever happened."""
        self.thaw()
        with self._lock:
            if not self.running:
                if self._process is not None:
                    self.faults.append(f"{self.name} ended by itself ({self._process.returncode})")
                self.kill()
                self.launch()
                self.wait_listening()

    def terminate(self) -> None:
        """SIGTERM, as an operator would."""
        self.thaw()
        with self._lock:
            if self.running:
                os.kill(self.pid, signal.SIGTERM)

    def wait_end(self) -> None:
        """After SIGTERM; what is wrong with its end is noted."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        since = time.monotonic()
        try:
            code: int | None = process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END)
            code = None
        _close(process)
        if code is None:
            self.faults.append(f"{self.name} did not end within {END:g} s of SIGTERM")
        elif code:
            self.faults.append(f"{self.name} ended with {code} after SIGTERM")
        elif (seconds := time.monotonic() - since) > END / 2:
            self.faults.append(f"{self.name} took {seconds:.1f} s to end after SIGTERM")
        self.faults.extend(f"{self.name} left {path}" for path in self._leftovers())

    def _leftovers(self) -> list[str]:
        """Files that should not outlive the process."""
        if not self.data.exists():
            return []
        names = [path.name for path in self.data.iterdir() if path.is_file() or path.is_socket()]
        left = [name for name in names if name not in LASTING]
        contents = {path for path in (self.data / "content").rglob("*") if path.is_file()}
        # A content file and its digest runs come and go together.
        alone = [p.name for p in contents if p.suffix != ".runs" and _twin(p) not in contents]
        return left + alone

    def content_files(self) -> list[Path]:
        """The files in which its store keeps content."""
        found = (self.data / "content").rglob("*")
        return [path for path in found if path.is_file() and path.suffix != ".runs"]


class World:
    """A scheduler, seeds and peers of a plan; every peer is reached through a link."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.key = root / "cluster.key"
        create_key_file(self.key)
        self._links = Links()
        env = {"HAWKER_PEER__SCHEDULER_WAIT": f"{plan.scheduler_wait:g}"}
        common = ["--cluster-key", str(self.key)]
        limit = {"HAWKER_SCHEDULER__ORIGIN_RATE": str(plan.limit)}
        self.scheduler = Daemon(root, "scheduler", ["scheduler", *common], env | limit)
        common += ["--scheduler", self.scheduler.url]
        self.seeds = [
            Daemon(root, f"seed-{number}", ["peer", "--seed", *common], env)
            for number in range(plan.seeds)
        ]
        self.peers: list[Daemon] = []
        self.links: list[Link] = []
        for number in range(plan.peers):
            own = {"HAWKER_STORAGE__QUOTA": str(plan.quota)} if number == plan.small else {}
            port = free_port()
            link = self._links.add(port)
            flags = ["peer", *common, "--advertise", link.url]
            self.peers.append(Daemon(root, f"peer-{number}", flags, env | own, port))
            self.links.append(link)

    @property
    def daemons(self) -> list[Daemon]:
        return [self.scheduler, *self.hosts]

    @property
    def hosts(self) -> list[Daemon]:
        return [*self.seeds, *self.peers]

    def start(self) -> None:
        for daemon in self.daemons:
            daemon.launch()
        for daemon in self.daemons:
            daemon.wait_listening()
        for daemon in self.hosts:
            daemon.wait_ready()

    def heal(self) -> None:
        """Everything runs again and knows each other."""
        for daemon in self.daemons:
            daemon.revive()
        for daemon in self.hosts:
            daemon.limit_files(-1)
            daemon.wait_ready()

    def cut(self, link: Link) -> None:
        self._links.run(link.cut())

    def restart(self, daemons: list[Daemon]) -> None:
        """All of these are stopped as an operator would, then started again."""
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait_end()
            daemon.launch()
        for daemon in daemons:
            daemon.wait_listening()
        for daemon in self.hosts:
            daemon.wait_ready()

    def stop(self) -> None:
        """End every process: peers, then seeds, then the scheduler."""
        for group in (self.peers, self.seeds, [self.scheduler]):
            for daemon in group:
                daemon.terminate()
            for daemon in group:
                daemon.wait_end()
        self._links.close()

    def reader_of(self, port: int) -> str:
        """The daemon that has this local TCP port, empty where none has."""
        inode = inode_of(port)
        return next((daemon.name for daemon in self.hosts if daemon.has_socket(inode)), "")

    def leaks(self) -> list[str]:
        """Places where the requests' secret is seen: logs, and what the scheduler tells."""
        places = [daemon.name for daemon in self.daemons if SECRET in self.log_of(daemon)]
        token = ClusterKey(read_key_file(self.key)).mint("", ["tasks", "hosts"])
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(headers=headers, trust_env=False) as client:
            base = f"{self.scheduler.url}/scheduler/v1"
            tasks = client.get(f"{base}/tasks").raise_for_status()
            texts = [tasks.text, client.get(f"{base}/hosts").raise_for_status().text]
            names = {str(view["task"]) for view in tasks.json()}
            texts += [client.get(f"{base}/tasks/{name}").text for name in names]
        if any(SECRET in text for text in texts):
            places.append("the scheduler's views")
        stored = [path for path in self.scheduler.data.iterdir() if path.is_file()]
        places += [f"scheduler/{p.name}" for p in stored if SECRET.encode() in p.read_bytes()]
        return places

    @staticmethod
    def log_of(daemon: Daemon) -> str:
        return daemon.log.read_text(errors="replace") if daemon.log.exists() else ""


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdout is not None:
        process.stdout.close()


def _twin(path: Path) -> Path:
    return path.with_name(path.name + ".runs")


def inode_of(port: int) -> str:
    """The socket of a local port that is connected (proc(5), /proc/net/tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}":
            return fields[9]
    return ""


_given: set[int] = set()
_giving = threading.Lock()


def free_port() -> int:
    """A port that stays free while its daemon is away.

    It lies below the range from which the system takes ports for outgoing connections, and no other
    run of this process has it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 3, lowest)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            with _giving:
                if port not in _given:
                    _given.add(port)
                    return port
