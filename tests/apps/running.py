"""A process with all roles, its endpoints, and requests to it as they are written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hawker.core.digests import HostKey
from hawker.core.ids import TaskSpec
from hawker.core.tokens import ClusterKey, read_key_file

MIB = 2**20
CONTENT = os.urandom(MIB + 17)
SPEC = TaskSpec(url="http://origin.test/stored")
TASK = SPEC.task_id
# The scheduler looks at what hosts say of the quotas of tenants that have some.
QUOTAS = """
[tenants.acme]
stored_bytes = 1000000
bandwidth = 1000000
concurrent_downloads = 2
origin_bytes = 1000000
"""
REFUSALS = (400, 401, 403, 404, 405, 413, 415, 416, 422)


@dataclass(frozen=True)
class Endpoint:
    """A route, the verb its token needs, and whether an open side asks for one."""

    method: str
    path: str
    verb: str
    token: bool = False
    body: bytes = b""

    @property
    def limit(self) -> int:
        """Bytes of body it takes."""
        return 4 * MIB if self.path.endswith("reports") else MIB


GENERATION = "/peer/v1/tasks/{task}/{generation}"
HOSTS = "/scheduler/v1/hosts"
DOWNLOAD = json.dumps({"url": SPEC.url}).encode()
ROUTES = (
    Endpoint("GET", "/peer/v1/host", "tasks"),
    Endpoint("GET", GENERATION + "/pieces/{first}-{last}", "pieces", token=True),
    Endpoint("GET", GENERATION + "/availability", "pieces", token=True),
    Endpoint("GET", GENERATION + "/content", "content"),
    Endpoint("GET", "/peer/v1/content", "content"),
    Endpoint("POST", "/peer/v1/downloads", "downloads", body=DOWNLOAD),
    Endpoint("GET", "/peer/v1/tasks", "tasks"),
    Endpoint("POST", "/peer/v1/tasks/import", "tasks:import", body=b"x"),
    Endpoint("GET", "/peer/v1/tasks/{task}", "tasks"),
    Endpoint("DELETE", "/peer/v1/tasks/{task}", "tasks:delete"),
    Endpoint("GET", HOSTS, "hosts"),
    Endpoint("PUT", HOSTS + "/{host}", "announce", token=True, body=b"{}"),
    Endpoint("DELETE", HOSTS + "/{host}", "announce", token=True),
    Endpoint("GET", HOSTS + "/{host}/decisions", "decisions", token=True),
    Endpoint("POST", HOSTS + "/{host}/reports", "report", token=True, body=b"{}"),
    Endpoint("GET", "/scheduler/v1/leases", "leases", token=True),
    Endpoint("GET", "/scheduler/v1/overview", "tasks"),
    Endpoint("GET", "/scheduler/v1/tenants", "tasks"),
    Endpoint("GET", "/scheduler/v1/tasks", "tasks"),
    Endpoint("GET", "/scheduler/v1/tasks/{task}", "tasks"),
    Endpoint("GET", "/scheduler/v1/tasks/{task}/events", "tasks"),
    Endpoint("DELETE", "/scheduler/v1/tasks/{task}", "tasks:delete"),
)
WITH_BODY = [e for e in ROUTES if e.body and not e.path.endswith("import")]


class Running:
    """A process with all roles, and what an attacker needs to know of it."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.data = data
        self.log = data.with_suffix(".log")
        config = data.with_suffix(".toml")
        config.write_text(QUOTAS)
        command = [sys.executable, "-m", "hawker", "up", "--port", "0", "--json"]
        command += ["--config", str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--data", str(data), *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.url: str = json.loads(self.process.stdout.readline())["url"]
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        self.key = ClusterKey(read_key_file(data / "cluster.key"))
        self.host = HostKey.generate()
        self.own = ClusterKey(read_key_file(data / "cluster.key"), own=self.host)
        self.client = httpx.Client(base_url=self.url, timeout=20, trust_env=False)
        answer = self.send("POST", "/peer/v1/tasks/import", CONTENT, params={"url": SPEC.url})
        assert answer.status_code == 200, answer.text
        self.generation: str = answer.json()["generation"]
        self._read = 0

    def path(self, endpoint: Endpoint, **names: str) -> str:
        given = {"task": TASK, "generation": self.generation, "host": self.host.host}
        return endpoint.path.format(**{**given, "first": "0", "last": "0", **names})

    def send(
        self, method: str, path: str, body: bytes = b"", token: str = "*", **more: Any
    ) -> httpx.Response:
        """A request; `token` are the verbs of a good one, empty for none."""
        headers = dict(more.pop("headers", {}))
        if token:
            minted = self.own.mint(self.host.host, [token])
            headers.setdefault("authorization", f"Bearer {minted}")
        return self.client.request(method, path, content=body or None, headers=headers, **more)

    def check(self) -> None:
        """It serves as before, and its log tells of no fault."""
        assert self.process.poll() is None
        path = f"/peer/v1/tasks/{TASK}/{self.generation}/content"
        answer = self.send("GET", path, token="content")
        assert answer.status_code == 200 and answer.content == CONTENT
        assert self.client.get("/readyz").status_code == 200
        log = self.log.read_text()[self._read :]
        self._read += len(log)
        assert "Traceback" not in log and " ERROR " not in log, log

    @property
    def most_memory(self) -> int:
        """The most bytes the process ever had in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def raw_request(
    running: Running,
    method: str,
    path: str,
    body: bytes = b"",
    fields: str = "",
    *,
    signed: bool = True,
) -> tuple[int, str]:
    """The status and the head of an answer to a request as it is written here."""
    if signed:
        fields += f"authorization: Bearer {running.own.mint(running.host.host, ['*'])}\r\n"
    with socket.create_connection(running.address, 20) as connection:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-length: {len(body)}\r\n{fields}\r\n"
        connection.sendall(head.encode("latin-1") + body)
        answer = b""
        while b"\r\n\r\n" not in answer and (chunk := connection.recv(65536)):
            answer += chunk
    return int(answer.split(b" ", 2)[1]), answer.decode("latin-1")


def refused(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in (statuses or REFUSALS), (answer.request.url, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"].startswith("urn:hawker:problem:")
