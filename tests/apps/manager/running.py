"""A manager as a process of its own, with a client for each of several users.

`HAWKER_TEST_POSTGRES` names a server on which each manager gets a new database; without it they use
SQLite.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

SERVER = os.environ.get("HAWKER_TEST_POSTGRES", "")
API = "/manager/api/v1"
PASSWORD = "correct horse battery staple"
DEADLINE = 30.0


def new_database() -> str:
    """The URL of an empty database on the server; empty where SQLite is tested."""
    if not SERVER:
        return ""
    import asyncpg

    name = f"m{secrets.token_hex(6)}"

    async def create() -> None:
        connection = await asyncpg.connect(SERVER)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    asyncio.run(create())
    return f"{SERVER.rpartition('/')[0]}/{name}"


class Manager:
    """`hawker serve manager` (or other roles, or `up`) on a free port."""

    def __init__(
        self, data: Path, *command: str, database: str | None = None, **environment: str
    ) -> None:
        self.data = data
        self.database = new_database() if database is None else database
        self.log = data.with_suffix(".log")
        self.command = command or ("serve", "manager")
        self.environment = {**os.environ, **environment, "HAWKER_MANAGER__DATABASE": self.database}
        self.start()

    def start(self) -> None:
        """Start it, again where it has ended."""
        command = [sys.executable, "-m", "hawker", *self.command, "--port", "0", "--json"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--data", str(self.data)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._gone()
            raise AssertionError(self.log.read_text())
        self.url: str = json.loads(line)["url"]

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url + API, timeout=DEADLINE, trust_env=False, **more)

    @property
    def link(self) -> str:
        """The setup link that this process printed."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            if found := re.search(r"http://\S+token=\S+(?=\n)", self.log.read_text()):
                return found.group()
            time.sleep(0.02)
        raise AssertionError(f"no link in {self.log.read_text()!r}")

    def set_up(self) -> httpx.Client:
        """Make the first user, and sign in as them."""
        answer = httpx.post(
            self.link,
            json={"name": "root", "password": PASSWORD},
            trust_env=False,
            timeout=DEADLINE,
        )
        assert answer.status_code == 201, answer.text
        return self.sign_in("root")

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Client:
        with self.client() as client:
            answer = client.post("/session", json={"name": name, "password": password})
            assert answer.status_code == 200, answer.text
            return self.client(cookies=client.cookies)

    def with_token(self, value: str) -> httpx.Client:
        return self.client(headers={"authorization": f"Bearer {value}"})

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        """It had no fault, and stops when it is asked to."""
        try:
            self.check()
        finally:
            assert self.close() == 0

    def kill(self) -> None:
        self.process.kill()
        self._gone()

    def close(self) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._gone()

    def _gone(self) -> int:
        code = self.process.wait(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def check(self) -> None:
        """It lives, and its log tells of no fault."""
        assert self.process.poll() is None
        log = self.log.read_text()
        assert "Traceback" not in log and " ERROR " not in log, log


def created(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def problem(answer: httpx.Response, status: int) -> str:
    """What a refusal says; asserts that it is one with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["type"].startswith("urn:hawker:problem:")
    detail: str = told.get("detail", "")
    return detail


def add_user(root: httpx.Client, name: str, role: str = "", **within: str) -> dict[str, Any]:
    """A user with a role."""
    user = created(root.post("/users", json={"name": name, "password": PASSWORD}))
    if role:
        created(root.post("/bindings", json={"user": user["id"], "role": role, **within}))
    return user


def add_token(client: httpx.Client, *scopes: str) -> str:
    made = created(client.post("/tokens", json={"name": "t", "scopes": scopes}))
    value: str = made["value"]
    return value
