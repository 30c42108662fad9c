"""Brokers' own servers, which are killed and come back."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

import httpx

from tests.outside.registry_programs import free_port

START_SECONDS = 30.0
PASSWORD = "opensesame"
"""Of each server: it is to be in no log and no answer."""


def figure(url: str, name: str) -> float:
    """The sum of a metric's values; -1 where it has none."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=30).text
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found)) if found else -1.0


class Server:
    """One on a free port of 127.0.0.1, with its data below `root`; `lasting`: what it was given
    is there again when it was killed."""

    name: ClassVar[str]

    def __init__(self, root: Path, *, lasting: bool, certificate: Path | None = None) -> None:
        """`certificate`: PEM, with its key; the server speaks TLS then."""
        self.port = free_port()
        self.lasting = lasting
        self.certificate = certificate
        self.data = root / f"data-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def carried(self) -> int:
        """How many messages it was asked for since its start."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        """What has a manager use it."""
        options = {self.name: {"url": self.url}}
        return {
            "HAWKER_MANAGER__JOB_BROKER": self.name,
            "HAWKER_PLUGINS__OPTIONS": json.dumps(options),
        }

    def start(self) -> None:
        if not self.lasting:
            shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(exist_ok=True)
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self.command(), stdout=quiet, stderr=quiet)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self._process.poll() is None, f"{self.name} has ended"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"{self.name} does not answer")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Redis(Server):
    name = "redis"

    @property
    def url(self) -> str:
        scheme = "rediss" if self.certificate else "redis"
        return f"{scheme}://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        ports = ["--port", str(self.port)]
        if self.certificate:
            pem = str(self.certificate)
            ports = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            ports += ["--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", pem]
        lasting = ["--appendonly", "yes", "--appendfsync", "always"]
        return [
            "redis-server", *ports, "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self.data), "--requirepass", PASSWORD, *(lasting if self.lasting else ()),
        ]  # fmt: skip

    def carried(self) -> int:
        command = ["redis-cli", "-p", str(self.port), "-a", PASSWORD, "--no-auth-warning"]
        told = subprocess.run([*command, "info", "commandstats"], capture_output=True, check=True)
        for line in told.stdout.decode().split():
            if line.startswith("cmdstat_xadd:"):
                return int(line.partition("calls=")[2].partition(",")[0])
        return 0


class Nats(Server):
    name = "nats"

    def __init__(self, root: Path, *, lasting: bool, certificate: Path | None = None) -> None:
        super().__init__(root, lasting=lasting, certificate=certificate)
        self.monitor = free_port()

    @property
    def url(self) -> str:
        scheme = "tls" if self.certificate else "nats"
        return f"{scheme}://hawker:{PASSWORD}@127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        pem = str(self.certificate)
        return [
            "nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.data),
            "-m", str(self.monitor), "--user", "hawker", "--pass", PASSWORD,
            *(["--tls", "--tlscert", pem, "--tlskey", pem] if self.certificate else ()),
        ]  # fmt: skip

    def carried(self) -> int:
        """Of each stream the number of its last message."""
        url = f"http://127.0.0.1:{self.monitor}/jsz?streams=true"
        told: dict[str, Any] = httpx.get(url, trust_env=False, timeout=10).json()
        streams = [
            one
            for account in told.get("account_details", ())
            for one in account.get("stream_detail", ())
        ]
        return sum(stream["state"]["last_seq"] for stream in streams)


SERVERS: tuple[type[Server], ...] = (Redis, Nats)
