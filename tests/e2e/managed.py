"""A manager, and hosts that join it: by plain HTTP, the setup link and the command line alone."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Sequence
from typing import Any

import httpx

from tests.e2e.conftest import Cluster, Daemon, hawker, logging_to, wait_for
from tests.e2e.test_schedulers import free_port

API = "/manager/api/v1"
_ROLE = {"seed": "peer"}
SCOPES = [
    "clusters:read",
    "clusters:update",
    "enrolments:create",
    "jobs:create",
    "jobs:read",
    "jobs:update",
    "members:read",
    "tasks:read",
    "members:update",
    "members:delete",
]


class Managed:
    """`hawker up` as a manager, and one cluster of it.

    Attributes:
        cluster: the cluster's id.
        api: a client with a token for that cluster.
    """

    def __init__(self, daemons: Cluster) -> None:
        self.daemons = daemons
        self._port = str(free_port())
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = daemons.root / "manager.err"
        self.daemon = self.start()
        self.cluster, token = self._set_up()
        self.api = httpx.Client(
            base_url=f"{self.url}{API}",
            headers={"authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )

    def start(self) -> Daemon:
        """The manager's process, anew with its database where there is one."""
        config = self.daemons.root / "manager.toml"
        # The port after its own may be another's.
        config.write_text("[proxy]\nport = 0\n")
        with logging_to(self.log):
            command = ("up", "--port", self._port, "--config", str(config))
            self.daemon = self.daemons.start("manager", *command)
        return self.daemon

    def _set_up(self) -> tuple[str, str]:
        """The first user by the setup link; by them a cluster, a tenant, a user and their token."""

        def link() -> re.Match[str] | None:
            return re.search(r"http://\S+setup\?token=\S+", self.log.read_text())

        wait_for(link, "the manager prints a setup link")
        found = link()
        assert found is not None
        first = {"name": "ada", "password": "correct horse battery"}
        with httpx.Client(base_url=f"{self.url}{API}", timeout=30, trust_env=False) as root:
            made(root.post(found[0], json=first))
            made(root.post("/session", json=first))
            cluster = made(root.post("/clusters", json={"name": "eu"}))["id"]
            made(root.post("/tenants", json={"name": "acme"}))
            second = {"name": "grace", "password": "a long enough password"}
            user = made(root.post("/users", json=second))["id"]
            binding = {"user": user, "role": "operator", "cluster": cluster}
            made(root.post("/bindings", json=binding))
            made(root.delete("/session"))
            made(root.post("/session", json=second))
            body = {"name": "ops", "scopes": SCOPES, "days": 1}
            return cluster, made(root.post("/tokens", json=body))["value"]

    # ------------------------------------------------------------------ hosts

    def enrol(self, kind: str, **more: Any) -> str:
        """The token of a new enrolment."""
        body = {"cluster": self.cluster, "kind": kind, **more}
        token: str = made(self.api.post("/enrolments", json=body))["token"]
        return token

    def join(
        self, kind: str, name: str, *flags: str, token: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        data = str(self.daemons.root / name)
        shown = token or self.enrol(kind)
        return hawker("join", self.url, "--token", shown, "--data", data, *flags)

    def host(self, kind: str, name: str, *flags: str, roles: Sequence[str] = ()) -> Host:
        """One that joined, and serves: what its kind is for, or these roles."""
        done = self.join(kind, name, *flags)
        assert done.returncode == 0, done.stderr
        return Host(self.daemons, name, *(roles or (_ROLE.get(kind, kind),)))

    def swarm(self, peers: int) -> tuple[Host, Host, list[Host]]:
        """A scheduler, a seed and peers that know each other."""
        scheduler = self.host("scheduler", "scheduler")
        hosts = [self.host("seed", "seed")]
        hosts += [self.host("peer", f"peer-{number}") for number in range(peers)]
        for host in hosts:
            host.daemon.wait_ready()
        return scheduler, hosts[0], hosts[1:]

    # ------------------------------------------------------------------ what it is told

    def change(self, **configurations: dict[str, int]) -> None:
        path = f"/clusters/{self.cluster}"
        tag = self.api.get(path).headers["etag"]
        made(self.api.patch(path, json=configurations, headers={"if-match": tag}))

    def member(self, host: Host) -> dict[str, Any]:
        rows: list[dict[str, Any]] = made(self.api.get("/members", params={"host": host.id}))
        [row] = rows
        return row

    def drain(self, host: Host, draining: bool = True) -> None:
        path = f"/members/{self.member(host)['id']}/draining"
        made(self.api.put(path, json={"draining": draining}))

    def remove(self, host: Host) -> None:
        made(self.api.delete(f"/members/{self.member(host)['id']}"))


class Host:
    """A member's process."""

    def __init__(self, daemons: Cluster, name: str, *roles: str) -> None:
        self._daemons, self._name, self._roles = daemons, name, roles
        self._port = str(free_port())
        self.log = daemons.root / f"{name}.err"
        self.folder = daemons.root / name / "membership"
        self.daemon = self.start()

    def start(self) -> Daemon:
        """Its process, again where it was stopped or killed."""
        with logging_to(self.log):
            command = ("serve", *self._roles, "--port", self._port)
            self.daemon = self._daemons.start(self._name, *command)
        return self.daemon

    @property
    def id(self) -> str:
        record: dict[str, Any] = self.record()
        return str(record["host"])

    def record(self) -> dict[str, Any]:
        """What it keeps of its membership."""
        kept: dict[str, Any] = httpx.Response(
            200, content=(self.folder / "membership.json").read_bytes()
        ).json()
        return kept

    def client(self) -> httpx.Client:
        """Over TLS, verified by the cluster's authority."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        return httpx.Client(base_url=self.daemon.url, verify=context, timeout=60, trust_env=False)

    def get(self, url: str) -> bytes:
        """Content, as any HTTP client asks for it."""
        with self.client() as client:
            answer = client.get("/peer/v1/content", params={"url": url})
            assert answer.status_code == 200, answer.text
            return answer.content

    def sees(self, what: str) -> Any:
        """What a scheduler tells people of its hosts or tasks."""
        verbs = ("--verb", "tasks", "--verb", "hosts")
        data = ("--data", str(self.daemon.data))
        token = hawker("cluster", "token", "--name", "test", *verbs, *data)
        headers = {"authorization": f"Bearer {token.stdout.decode().strip()}"}
        with self.client() as client:
            return made(client.get(f"/scheduler/v1/{what}", headers=headers))


def made(answer: httpx.Response) -> Any:
    """The body of an answer that is none of a failure."""
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None
