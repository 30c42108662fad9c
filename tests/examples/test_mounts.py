"""Roles in other people's servers: each example is started as its page says, and gives content."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Origin, fetch

ROOT = Path(__file__).parents[2]
UVICORN = ("uvicorn", "--timeout-graceful-shutdown", "2", "--port", "{port}")
GRANIAN = ("granian", "--workers-kill-timeout", "2", "--interface", "asgi", "--port", "{port}")
HYPERCORN = ("hypercorn", "--bind", "127.0.0.1:{port}")
MOUNTS = [
    pytest.param(UVICORN, "examples.fastapi_uvicorn:app", "/hawker/peer", id="fastapi-uvicorn"),
    pytest.param(HYPERCORN, "examples.quart_hypercorn:app", "/hawker/peer", id="quart-hypercorn"),
    pytest.param(UVICORN, "examples.django_starlette:app", "/hawker/peer", id="django-starlette"),
    pytest.param(GRANIAN, "examples.role_alone:app", "", id="alone-granian"),
    pytest.param(UVICORN, "examples.role_alone:app", "", id="alone-uvicorn"),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _started(command: tuple[str, ...], app: str, data: Path, **settings: str) -> Iterator[str]:
    """The base URL of a server with this app; stopped as an operator would."""
    port = _free_port()
    program = [part.format(port=port) for part in command]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")},
        "HAWKER_STORAGE__DATA": str(data),
        "PORT": str(port),
        **settings,
    }
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / program[0]), *program[1:], app],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGINT, 130), told
    # uvicorn shows the cancellation of what it cut.
    cut = "timeout graceful shutdown exceeded" in told
    assert cut or "Traceback" not in told, told


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            httpx.get(url, trust_env=False)
            return
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "the server did not come up"
            time.sleep(0.1)


@pytest.mark.parametrize(("command", "app", "prefix"), MOUNTS)
def test_an_example_gives_content(
    command: tuple[str, ...], app: str, prefix: str, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(3 * 2**20 + 5)
    source = origin.put("/file", data)
    with _started(command, app, tmp_path / "data") as url:
        content = f"{url}{prefix}/v1/content"
        with httpx.Client(trust_env=False, timeout=30) as client:
            assert client.get(content, params={"url": source}).content == data
            part = client.get(content, params={"url": source}, headers={"range": "bytes=5-104"})
            assert (part.status_code, part.content) == (206, data[5:105])
            assert origin.requests == 1
            # The other app is served as before.
            if prefix:
                assert client.get(url).json() == {"app": "of ours"}
            # Problems are ours, and whoever is no local user of this machine is told so.
            wrong = client.get(content, params={"url": "nonsense"})
            assert wrong.headers["content-type"] == "application/problem+json"
            foreign = client.get(content, params={"url": source}, headers={"host": "evil.example"})
            assert foreign.status_code in (400, 403)
            # No listener of another's server is taken for the unix socket.
            assert client.get(content, params={"url": "file:///etc/hostname"}).status_code == 403


@pytest.mark.parametrize("command", [UVICORN, GRANIAN], ids=["uvicorn", "granian"])
def test_every_role_runs_under_another_server(
    command: tuple[str, ...], cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(3 * 2**20 + 5)
    source = origin.put("/file", data)
    cluster.make_key()
    settings = {"HAWKER_CLUSTER__KEY_FILE": str(cluster.key), "HAWKER_PEER__SEED": "true"}
    app = "examples.scheduler_and_seed:app"
    with _started(command, app, tmp_path / "data", **settings) as url:
        peers = [cluster.peer_of([url], f"peer-{number}") for number in range(2)]
        for number, peer in enumerate(peers):
            peer.wait_ready()
            assert fetch(peer, source, tmp_path / f"out-{number}", "--timeout", "30") == (0, "")
            assert (tmp_path / f"out-{number}").read_bytes() == data
        assert (origin.requests, origin.sent_bytes) == (1, len(data))
        assert httpx.get(f"{url}/readyz", trust_env=False).json()["ready"] is True
        assert "hawker_scheduler_hosts" in httpx.get(f"{url}/metrics", trust_env=False).text


def test_an_endless_answer_under_another_server_ends_with_its_client(
    origin: Origin, tmp_path: Path
) -> None:
    origin.delay = 0.2
    source = origin.put("/slow", os.urandom(8 * 2**20))
    with _started(UVICORN, "examples.role_alone:app", tmp_path / "data") as url:
        with httpx.Client(trust_env=False, timeout=30) as client:
            with client.stream("GET", f"{url}/v1/content", params={"url": source}) as answer:
                assert next(answer.iter_raw())
            # Nobody wants the rest: the origin is read no further.
            time.sleep(1.5)
            before = origin.sent_bytes
            time.sleep(1.5)
            assert origin.sent_bytes - before <= 2**20
