"""`hawker setup` for a mirror that speaks TLS and asks for tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apps.cli.test_setup import CLIENTS, Machine, furnish, machine, tree
from tests.e2e.conftest import hawker

__all__ = ["machine"]


@pytest.fixture
def authority(tmp_path: Path) -> str:
    """A private authority's file; beside its certificates a key that is nobody else's business."""
    assert hawker("ca", "create", str(tmp_path / "ca")).returncode == 0
    file = tmp_path / "ca" / "both.pem"
    parts = [(tmp_path / "ca" / name).read_bytes() for name in ("ca.key", "ca.crt")]
    file.write_bytes(b"".join(parts))
    return str(file)


TOKEN = "eyJh.eyJp-_.c2ln"
HTTPS = ("--mirror", "https://mirror.test:4000", "--token", TOKEN)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_https_mirror_with_a_token_is_taken_back_to_the_byte(
    client: str, machine: Machine, authority: str
) -> None:
    furnish(machine.root)
    before = tree(machine.root)
    # What was readable to all is not once it has a token.
    machine(client, "--write", "--mirror", "https://mirror.test:4000")
    machine(client, "--write", *HTTPS, "--tls-ca", authority)
    written = tree(machine.root)
    texts = {path: (mode, data) for path, (mode, data) in written.items() if data}
    certificates = [data for _, data in texts.values() if data and b"BEGIN CERTIFICATE" in data]
    assert certificates == [(Path(authority).parent / "ca.crt").read_bytes()]
    for path, (mode, data) in texts.items():
        assert data is not None and b"PRIVATE" not in data
        assert TOKEN.encode() not in data or mode & 0o077 == 0, path
    said = machine(client, "--write", *HTTPS, "--tls-ca", authority)
    assert tree(machine.root) == written
    assert TOKEN not in said
    # Without them again.
    machine(client, "--write", "--mirror", "http://10.0.0.1:4000")
    plain = b"".join(data for _, data in tree(machine.root).values() if data)
    assert b"BEGIN CERTIFICATE" not in plain and TOKEN.encode() not in plain
    machine(client, "--write", *HTTPS, "--tls-ca", authority)
    machine(client, "--undo")
    assert tree(machine.root) == before


@pytest.mark.parametrize("client", ["containerd", "docker"])
def test_hosts_toml_names_authority_and_token(
    client: str, machine: Machine, authority: str
) -> None:
    machine(client, "--write", *HTTPS, "--tls-ca", authority)
    root = f"/etc/{client}/certs.d"
    assert machine.toml(f"{root}/quay.io/hosts.toml")["host"] == {
        "https://mirror.test:4000": {
            "capabilities": ["pull", "resolve"],
            "ca": f"{root}/mirror.test:4000/ca.crt",
            "header": {"Authorization": f"Bearer {TOKEN}"},
        }
    }
    assert (machine.root / root.lstrip("/") / "mirror.test:4000/ca.crt").exists()
    # Docker has no way to show it to a mirror of Docker Hub.
    assert not (machine.root / "etc/docker/daemon.json").exists()


@pytest.mark.parametrize("client", ["podman", "crio"])
def test_podman_and_crio_have_the_authority_where_they_look_and_log_in(
    client: str, machine: Machine, authority: str
) -> None:
    said = machine(client, *HTTPS, "--tls-ca", authority)
    assert "--password-stdin mirror.test:4000" in said and TOKEN not in said
    for each in ("podman", "crio"):
        machine(each, "--write", *HTTPS, "--tls-ca", authority)
    place = machine.root / "etc/containers/certs.d/mirror.test:4000"
    assert len(list(place.glob("*.crt"))) == 2
    machine(client, "--undo")
    # The other still needs its own.
    assert len(list(place.glob("*.crt"))) == 1


def test_a_token_is_for_mirrors_that_ask_for_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TOKEN not in machine("containerd", "--token", TOKEN)
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    said = machine("containerd", "--token", TOKEN)
    assert f"Bearer {TOKEN}" in said and "asks for tokens" not in said
