"""The manager beside other roles: nobody waits for it, and they do without it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from hawker.core.settings import load
from tests.apps.manager.running import DEADLINE, Manager, created, problem


def test_up_has_a_manager(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "data", "up", HAWKER_PROXY__PORT="0")
    try:
        # At once: the request waits for the database.
        with manager.client() as client:
            problem(client.get("/clusters"), 401)
        with manager.set_up() as root:
            created(root.post("/clusters", json={"name": "here"}))
        answer = httpx.get(f"{manager.url}/metrics", trust_env=False)
        assert 'hawker_manager_passwords_total{outcome="ok"} 1.0' in answer.text
        assert httpx.get(f"{manager.url}/readyz", trust_env=False).status_code == 200
        manager.check()
    finally:
        assert manager.close() == 0


def test_other_roles_work_without_its_database(tmp_path: Path) -> None:
    """And the manager, and whoever asks whether the process is ready, are told why."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "manager.db").write_bytes(os.urandom(8192))
    manager = Manager(data, "up", database="", HAWKER_PROXY__PORT="0")
    try:
        with manager.client() as client:
            assert "manager.db" in problem(client.get("/clusters"), 503)
        hosts = httpx.get(f"{manager.url}/scheduler/v1/hosts", trust_env=False)
        assert hosts.status_code == 200
        assert httpx.get(f"{manager.url}/readyz", trust_env=False).status_code == 503
        assert manager.log.read_text().count("the manager does not work") == 1
    finally:
        assert manager.close() == 0


def test_a_database_that_comes_back_is_used(tmp_path: Path) -> None:
    """Here it is in use by another manager, which ends."""
    first = Manager(tmp_path / "data", database="")
    socket = str(tmp_path / "other.sock")
    second = Manager(
        first.data, "serve", "manager", "scheduler", database="", **_scheduler(tmp_path, socket)
    )
    try:
        with second.client() as client:
            assert "in use by process" in problem(client.get("/clusters"), 503)
            assert first.close() == 0
            until = time.monotonic() + DEADLINE
            while client.get("/clusters").status_code == 503 and time.monotonic() < until:
                time.sleep(0.1)
            problem(client.get("/clusters"), 401)
        assert httpx.get(f"{second.url}/readyz", trust_env=False).status_code == 200
    finally:
        first.close()
        assert second.close() == 0


def _scheduler(tmp_path: Path, socket: str) -> dict[str, str]:
    key = tmp_path / "cluster.key"
    key.write_text("cd" * 32)
    key.chmod(0o600)
    return {"HAWKER_CLUSTER__KEY_FILE": str(key), "HAWKER_LISTEN__UNIX_SOCKET": socket}


@pytest.mark.parametrize("role", ["peer", "scheduler", "registry"])
def test_roles_without_a_manager_do_not_load_its_database(role: str) -> None:
    code = (
        "import sys; from hawker.apps.runner import run; "
        f"import hawker.apps.{role}.app, hawker.apps.manager.app; "
        "print(*[m for m in sys.modules if m.split('.')[0] in ('tortoise', 'argon2', 'asyncpg')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_what_signs_people_in_elsewhere_is_loaded_when_it_is_needed() -> None:
    code = "import sys, hawker.apps.manager.service; print('authlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_settings_come_from_everywhere_and_show_no_password(tmp_path: Path) -> None:
    url = "postgres://hawker:hunter2@db.example.com/hawker"
    settings = load(environ={"HAWKER_MANAGER__DATABASE": url}).settings
    assert settings.manager.database == url
    assert settings.manager_key_file == settings.data / "manager.key"
    file = tmp_path / "hawker.toml"
    file.write_text('[manager]\nkey_file = "/etc/hawker/manager.key"\n')
    loaded = load(config_file=str(file), environ={})
    assert str(loaded.settings.manager_key_file) == "/etc/hawker/manager.key"
    shown = subprocess.run(
        [sys.executable, "-m", "hawker", "config", "show"],
        env={**os.environ, "HAWKER_MANAGER__DATABASE": url},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "manager.database" in shown and "manager.key_file" in shown
    assert "db.example.com" in shown and "hunter2" not in shown
