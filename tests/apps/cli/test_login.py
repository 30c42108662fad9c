"""`hawker login`, `logout` and `whoami` against a real manager and a provider on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apps.manager.running import PASSWORD, Manager, add_user, created
from tests.plugins.identity_provider import AUDIENCE
from tests.plugins.signing_in import DEVICE_CLIENT, MACHINE, MACHINE_SECRET, SignInProvider

RULES = [
    {"claim": "groups", "value": "look", "role": "viewer"},
    {"claim": "sub", "value": MACHINE, "role": "operator"},
]


class Somebody:
    """A user of the command line, with a home of their own."""

    def __init__(self, home: Path, manager: str) -> None:
        self.manager = manager
        self.file = home / "config" / "hawker" / "logins.json"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")}
        self.environ |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}

    def run(
        self, *arguments: str, typed: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hawker", *arguments],
            input=typed,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def login(
        self, *arguments: str, typed: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("login", "--manager", self.manager, *arguments, typed=typed, **environ)

    def whoami(self, **environ: str) -> dict[str, Any]:
        ran = self.run("whoami", "--json", **environ)
        assert ran.returncode == 0, ran.stderr
        told: dict[str, Any] = json.loads(ran.stdout)
        return told

    @property
    def kept(self) -> dict[str, Any]:
        login: dict[str, Any] = json.loads(self.file.read_text())["logins"][self.manager]
        return login

    def age(self) -> None:
        """As if the access token had ended, by its own word."""
        content = json.loads(self.file.read_text())
        content["logins"][self.manager]["expires"] = time.time() - 1
        self.file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with Manager(tmp_path_factory.mktemp("manager") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def root(manager: Manager) -> Iterator[httpx.Client]:
    with manager.set_up() as client:
        yield client


@pytest.fixture(scope="module")
def provider(root: httpx.Client) -> Iterator[SignInProvider]:
    made = SignInProvider()
    made.granted = {"groups": ["look"]}
    body = {
        "name": "corp",
        "issuer": made.issuer,
        "audiences": [AUDIENCE],
        "device_client": DEVICE_CLIENT,
        "scopes": ["openid", "groups"],
        "resource": "urn:hawker",
        "rules": RULES,
    }
    created(root.post("/providers", json=body))
    yield made
    made.close()


@pytest.fixture
def somebody(tmp_path: Path, manager: Manager) -> Somebody:
    return Somebody(tmp_path, manager.url)


def test_a_built_in_user_signs_in_and_out(somebody: Somebody, root: httpx.Client) -> None:
    add_user(root, "ada", "viewer")
    ran = somebody.login("--name", "ada", typed=f"{PASSWORD}\n")
    assert (ran.returncode, ran.stdout) == (0, f"signed in to {somebody.manager} as ada\n")
    assert somebody.file.stat().st_mode & 0o777 == 0o600
    assert somebody.file.parent.stat().st_mode & 0o777 == 0o700
    assert PASSWORD not in somebody.file.read_text()
    # The others need not be told the manager.
    card = somebody.run("whoami").stdout
    assert "ada" in card and somebody.manager in card and "viewer everywhere" in card
    session = somebody.kept["access"]
    assert somebody.run("logout").returncode == 0
    assert session not in somebody.file.read_text()
    cookies = {"hawker_session": session}
    with httpx.Client(base_url=somebody.manager, cookies=cookies, trust_env=False) as stolen:
        assert stolen.get("/manager/api/v1/me").status_code == 401
    ran = somebody.run("whoami")
    assert ran.returncode == 4 and "hawker login" in ran.stderr
    # Name and password may both come from standard input.
    assert somebody.login(typed=f"ada\n{PASSWORD}\n").returncode == 0


def test_a_wrong_password_leaves_nothing(somebody: Somebody, root: httpx.Client) -> None:
    ran = somebody.login("--name", "nobody", typed="wrong\n")
    assert ran.returncode == 4 and "the name or the password is wrong" in ran.stderr
    assert "wrong\n" not in ran.stdout and not somebody.file.exists()


def test_somebody_signs_in_with_a_browser(somebody: Somebody, provider: SignInProvider) -> None:
    provider.pending = ["authorization_pending"]
    ran = somebody.login("--provider", "corp")
    assert ran.returncode == 0, ran.stderr
    assert "WDJB-MJHT" in ran.stderr and f"{provider.issuer}/enter" in ran.stderr
    assert ran.stdout == f"signed in to {somebody.manager} as corp:somebody\n"
    polled = [f for f in provider.forms if f.get("device_code") == "the-device"]
    assert len(polled) == 2
    [asked] = [f for f in provider.forms if "device_code" not in f and "scope" in f]
    assert asked["scope"] == "openid groups" and asked["resource"] == "urn:hawker"
    me = somebody.whoami()
    assert [one["role"] for one in me["mapped"]] == ["viewer"]
    assert "viewer everywhere" in somebody.run("whoami").stdout


def test_refresh_tokens_are_used_once_by_one_command(
    somebody: Somebody, provider: SignInProvider
) -> None:
    assert somebody.login("--device").returncode == 0
    first = somebody.kept
    somebody.age()
    asked = len(provider.forms)
    started = [threading.Thread(target=somebody.whoami) for _ in range(3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    grants = [form["grant_type"] for form in provider.forms[asked:]]
    assert grants == ["refresh_token"]
    kept = somebody.kept
    assert kept["refresh"] != first["refresh"] and kept["access"] != first["access"]
    assert somebody.file.stat().st_mode & 0o777 == 0o600
    # Signing out ends it at the provider, too.
    ran = somebody.run("logout")
    assert ran.returncode == 0 and ran.stderr == ""
    assert provider.revoked == [kept["refresh"]]


def test_a_refresh_token_that_is_no_good_is_said_to_be(
    somebody: Somebody, provider: SignInProvider
) -> None:
    assert somebody.login("--device").returncode == 0
    somebody.age()
    provider.refreshable.clear()
    ran = somebody.run("whoami")
    assert ran.returncode == 4, ran.stderr
    assert "cannot be renewed" in ran.stderr and "hawker login" in ran.stderr


@pytest.mark.parametrize("error", ["access_denied", "expired_token"])
def test_who_does_not_agree_is_not_signed_in(
    somebody: Somebody, provider: SignInProvider, error: str
) -> None:
    provider.pending = [error]
    ran = somebody.login("--device")
    assert ran.returncode == 4 and f"refuses: {error}" in ran.stderr
    assert not somebody.file.exists()


def test_a_program_signs_in_with_its_credentials(
    somebody: Somebody, provider: SignInProvider
) -> None:
    way = ("--client-credentials", "--client-id", MACHINE)
    ran = somebody.login(*way, HAWKER_CLIENT_SECRET=MACHINE_SECRET)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith(f" as corp:{MACHINE}\n")
    assert [one["role"] for one in somebody.whoami()["mapped"]] == ["viewer", "operator"]
    assert MACHINE_SECRET not in somebody.file.read_text()
    # Nobody is asked for openid for a program.
    [form] = [f for f in provider.forms if f.get("grant_type") == "client_credentials"]
    assert form["scope"] == "groups"
    somebody.age()
    ran = somebody.run("whoami")
    assert ran.returncode == 4 and "HAWKER_CLIENT_SECRET" in ran.stderr
    assert somebody.whoami(HAWKER_CLIENT_SECRET=MACHINE_SECRET)["user"]["subject"] == MACHINE
    ran = somebody.login(*way, typed="no secret of theirs\n")
    assert ran.returncode == 4 and "invalid_client" in ran.stderr


def test_a_token_that_the_manager_does_not_take_is_not_kept(
    somebody: Somebody, provider: SignInProvider
) -> None:
    provider.granted = {"aud": "somebody-else"}
    try:
        ran = somebody.login("--device")
    finally:
        provider.granted = {"groups": ["look"]}
    assert ran.returncode == 4 and "is for another aud" in ran.stderr
    assert not somebody.file.exists()


def test_what_is_kept_is_for_its_owner_alone(somebody: Somebody, root: httpx.Client) -> None:
    somebody.file.parent.mkdir(parents=True)
    somebody.file.write_text("{}")
    somebody.file.chmod(0o644)
    ran = somebody.run("whoami")
    assert ran.returncode == 2 and "others may read" in ran.stderr and "chmod 600" in ran.stderr
    somebody.file.chmod(0o600)
    somebody.file.write_text("no JSON")
    ran = somebody.run("whoami")
    assert ran.returncode == 2 and "is not understood" in ran.stderr


def test_signing_out_works_without_the_manager(somebody: Somebody, root: httpx.Client) -> None:
    somebody.file.parent.mkdir(parents=True)
    gone = "http://127.0.0.1:1"
    login = {"manager": gone, "how": "password", "access": "x"}
    somebody.file.write_text(json.dumps({"current": gone, "logins": {gone: login}}))
    somebody.file.chmod(0o600)
    ran = somebody.run("logout")
    assert ran.returncode == 0 and "may go on elsewhere" in ran.stderr
    assert json.loads(somebody.file.read_text())["logins"] == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--manager", "ftp://h"), "is not a URL"),
        (("--manager", "http://u:p@h"), "is not a URL"),
        (("--manager", "http://h/x"), "is not a URL"),
        (("--device", "--client-credentials", "--client-id", "x"), "choose one"),
        (("--client-credentials",), "belong together"),
        (("--client-id", "x"), "belong together"),
        (("--provider", "corp", "--name", "ada"), "no provider's"),
        (("--manager", "http://manager.example.com:4000"), "not encrypted"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = Somebody(tmp_path, "").run("login", *arguments)
    assert ran.returncode == 2 and words in ran.stderr


def test_a_provider_that_there_is_not_is_named(
    somebody: Somebody, provider: SignInProvider
) -> None:
    ran = somebody.login("--provider", "other")
    assert ran.returncode == 2 and "no provider other" in ran.stderr and "corp" in ran.stderr
