"""The manager in other people's servers, wherever it is mounted there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.apps.manager.running import DEADLINE, PASSWORD, created, problem

ROOT = Path(__file__).parents[3]
APP = """
import os
from starlette.applications import Starlette
from starlette.routing import Mount
from hawker.apps.mount import mount

url = f"http://127.0.0.1:{os.environ['PORT']}" + "__BEFORE__"
manager = mount("manager", auth="open", advertise=url, path="__PATH__")
app = Starlette(routes=[Mount("__PATH__", app=manager)], lifespan=manager.lifespan)
"""
UVICORN = ("uvicorn", "--port", "{port}")
HYPERCORN = ("hypercorn", "--bind", "127.0.0.1:{port}")
BEFORE = (*UVICORN, "--root-path", "/before")
# The command; what the server is below; the path; what the role's paths begin with for others.
CASES = [
    pytest.param(UVICORN, "", "/admin", "/admin", id="below"),
    pytest.param(HYPERCORN, "", "/two/parts/", "/two/parts", id="hypercorn"),
    pytest.param(UVICORN, "", "/", "", id="root"),
    pytest.param(BEFORE, "/before", "/admin", "/before/admin", id="behind-a-prefix"),
]


@contextmanager
def _serving(command: tuple[str, ...], app: str, place: Path) -> Iterator[tuple[str, str]]:
    """The server's URL, and the setup link; stopped as an operator would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program, *arguments = (part.format(port=port) for part in command)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")},
        "HAWKER_STORAGE__DATA": str(place / "data"),
        "PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]),
    }
    log = place / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / program), *arguments, app],
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        until = time.monotonic() + DEADLINE
        while not (found := re.search(r"http://\S+token=\S+(?=\n)", log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", found.group()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    assert "Traceback" not in log.read_text(), log.read_text()


class _Proxy(httpx.HTTPTransport):
    """In front of a server that is below `before` for others: takes that away."""

    def __init__(self, before: str) -> None:
        super().__init__()
        self._before = before.encode()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(self._before))
        sent = httpx.Request(request.method, url, headers=request.headers, stream=request.stream)
        return super().handle_request(sent)


def _use(url: str, link: str, mounted: str, before: str = "") -> None:
    """Make the first user by the link, sign in, and follow what is answered."""
    api = f"{url}{mounted}/api/v1"
    assert link.startswith(f"{api}/setup?token=")
    with httpx.Client(transport=_Proxy(before), timeout=DEADLINE) as client:
        until = time.monotonic() + DEADLINE
        while True:
            try:
                made = client.post(link, json={"name": "root", "password": PASSWORD})
                break
            except httpx.ConnectError:
                assert time.monotonic() < until
                time.sleep(0.05)
        created(made)
        problem(client.get(f"{api}/clusters"), 401)
        signed_in = client.post(f"{api}/session", json={"name": "root", "password": PASSWORD})
        assert f"Path={mounted or '/'};" in signed_in.headers["set-cookie"] + ";"
        user = client.get(urljoin(url, made.headers["location"]))
        assert user.json() == made.json()
        for key in ({}, {"idempotency-key": "k"}, {"idempotency-key": "k"}):
            body = {"name": f"here-{len(key)}"}
            answer = client.post(f"{api}/clusters", json=body, headers=key)
            assert client.get(urljoin(url, answer.headers["location"])).json() == created(answer)
        token = client.post(f"{api}/tokens", json={"name": "t"})
        assert client.get(urljoin(url, token.headers["location"])).status_code == 200
        listed = client.get(f"{api}/clusters?per_page=1")
        following = client.get(urljoin(str(listed.url), listed.links["next"]["url"]))
        assert [row["name"] for row in following.json()] == ["here-1"]
        [server] = client.get(f"{api}/openapi.json").json()["servers"]
        assert urljoin(url, server["url"]) == api
        assert client.get(urljoin(f"{api}/docs", "docs.js")).status_code == 200
        assert client.delete(f"{api}/session").status_code == 204
        problem(client.get(f"{api}/me"), 401)


@pytest.mark.parametrize(("command", "before", "path", "mounted"), CASES)
def test_a_manager_is_mounted_anywhere(
    command: tuple[str, ...], before: str, path: str, mounted: str, tmp_path: Path
) -> None:
    text = APP.replace("__BEFORE__", before).replace("__PATH__", path)
    (tmp_path / "mounted_app.py").write_text(text)
    with _serving(command, "mounted_app:app", tmp_path) as (url, link):
        _use(url, link, mounted, before)


def test_the_example(tmp_path: Path) -> None:
    with _serving(UVICORN, "examples.manager_elsewhere:app", tmp_path) as (url, link):
        _use(url, link, "/admin")
