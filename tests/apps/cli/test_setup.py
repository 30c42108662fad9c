"""`hawker setup`: what clients of registries are told, and that all of it can be taken back."""

from __future__ import annotations

import itertools
import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.apps.cli.client_texts import MIRRORS, with_mirror, without_mirror
from hawker.apps.cli.placing import RECORD
from tests.apps.cli.test_mistakes import told

if TYPE_CHECKING:
    from tests.apps.cli.conftest import Command

CLIENTS = ("containerd", "docker", "podman", "crio")
UPSTREAMS = {
    "docker.io": "https://registry-1.docker.io",
    "quay.io": "",
    "127.0.0.1:5001": "http://127.0.0.1:5001",
}
# Odd on purpose: what is taken back must be the same to the byte.
DAEMON = b'{"log-driver":  "local",\n\t"registry-mirrors": ["https://other.test"] ,"\xc3\xa9":1.50}'
CONTAINERD_CONFIG = b'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'

Tree = dict[str, tuple[int, bytes | None]]


def tree(root: Path) -> Tree:
    """Everything below a directory: mode, and bytes of files."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in root.rglob("*")
    }


def put(root: Path, path: str, data: bytes, mode: int = 0o644) -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.chmod(mode)
    return file


def furnish(root: Path) -> None:
    """A machine whose clients are configured already."""
    put(root, "/etc/docker/daemon.json", DAEMON, 0o640)
    put(root, "/etc/docker/certs.d/own.test:5000/ca.crt", b"certificate")
    put(root, "/etc/containerd/config.toml", CONTAINERD_CONFIG)
    put(root, "/etc/containerd/certs.d/own.test/hosts.toml", b'server = "https://own.test"\n')
    (root / "etc/containerd/certs.d/127.0.0.1_5001_").mkdir()
    put(root, "/etc/containers/registries.conf", b'unqualified-search-registries = ["quay.io"]\n')
    put(root, "/etc/containers/registries.conf.d/shortnames.conf", b"[aliases]\n")
    put(root, "/etc/hawker/cluster.key", b"key", 0o600)


class Machine:
    """Runs `hawker setup` for the tree below `root`."""

    def __init__(self, root: Path, command: Command) -> None:
        self.root = root
        self._command = command

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = self._command("setup", *arguments, "--root", str(self.root))
        if code:
            assert (done.returncode, done.stdout) == (code, b""), done
            return told(done)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def toml(self, path: str) -> dict[str, Any]:
        return tomllib.loads((self.root / path.lstrip("/")).read_text())

    def daemon(self) -> Any:
        return json.loads((self.root / "etc/docker/daemon.json").read_bytes())


@pytest.fixture
def machine(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps(UPSTREAMS))
    root = tmp_path / "root"
    root.mkdir()
    return Machine(root, command)


@pytest.mark.parametrize("furnished", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_written_is_taken_back_to_the_byte(
    client: str, furnished: bool, machine: Machine
) -> None:
    if furnished:
        furnish(machine.root)
    before = tree(machine.root)
    machine(client)
    assert tree(machine.root) == before, "printing changes nothing"
    machine(client, "--write")
    written = tree(machine.root)
    assert written != before
    said = machine(client, "--write")
    assert tree(machine.root) == written
    assert {line.split()[0] for line in said.splitlines()} == {"unchanged"}
    machine(client, "--undo")
    assert tree(machine.root) == before
    assert "is not set up" in machine(client, "--undo", code=3)


@pytest.mark.parametrize("order", list(itertools.permutations(CLIENTS)))
def test_clients_are_taken_back_in_any_order(order: tuple[str, ...], machine: Machine) -> None:
    before = tree(machine.root)
    for client in CLIENTS:
        machine(client, "--write")
    for client in order:
        machine(client, "--undo")
    assert tree(machine.root) == before


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_printed_is_what_is_written(client: str, machine: Machine) -> None:
    furnish(machine.root)
    before = tree(machine.root)
    printed = machine(client)
    machine(client, "--write")
    now = tree(machine.root)
    changed = [path for path in now if now[path] != before.get(path) and now[path][1] is not None]
    for path in set(changed) - {RECORD.lstrip("/")}:
        data = now[path][1]
        assert data is not None and f"{machine.root / path}:\n\n{data.decode()}" in printed


@pytest.mark.parametrize("client", CLIENTS)
def test_registries_and_mirror_may_change_between(client: str, machine: Machine) -> None:
    furnish(machine.root)
    before = tree(machine.root)
    machine(client, "--write", "--mirror", "http://10.0.0.1:4000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAWKER_REGISTRY__UPSTREAMS", '{"docker.io": "", "ghcr.io": ""}')
        assert "10.0.0.1" not in machine(client, "--mirror", "http://10.0.0.2:4000")
        machine(client, "--write", "--mirror", "http://10.0.0.2:4000")
    files = tree(machine.root)
    texts = b"".join(
        data for path, (_, data) in files.items() if data and path != RECORD.lstrip("/")
    )
    assert b"10.0.0.2" in texts and b"10.0.0.1" not in texts
    assert not any("5001/hosts" in path for path in files)
    machine(client, "--undo")
    assert tree(machine.root) == before


def test_containerd_is_told_of_each_registry(machine: Machine) -> None:
    furnish(machine.root)
    said = machine("containerd")
    assert "config_path" in said
    machine("containerd", "--write")
    for name, server in (
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        # This directory is there, and is the one that would be read.
        ("127.0.0.1_5001_", "http://127.0.0.1:5001"),
    ):
        assert machine.toml(f"/etc/containerd/certs.d/{name}/hosts.toml") == {
            "server": server,
            "host": {"http://127.0.0.1:4000": {"capabilities": ["pull", "resolve"]}},
        }
    assert (machine.root / "etc/containerd/config.toml").read_bytes() == CONTAINERD_CONFIG


def test_docker_keeps_its_other_settings(machine: Machine) -> None:
    furnish(machine.root)
    machine("docker", "--write")
    file = machine.root / "etc/docker/daemon.json"
    assert machine.daemon() == {
        "log-driver": "local",
        "registry-mirrors": ["http://127.0.0.1:4000", "https://other.test"],
        "é": 1.5,
    }
    assert file.stat().st_mode & 0o777 == 0o640
    assert (machine.root / RECORD.lstrip("/")).stat().st_mode & 0o777 == 0o600
    hosts = machine.toml("/etc/docker/certs.d/127.0.0.1:5001/hosts.toml")
    assert hosts["server"] == "http://127.0.0.1:5001"
    assert not (machine.root / "etc/docker/certs.d/docker.io").exists()


@pytest.mark.parametrize("client", ["podman", "crio"])
def test_podman_and_crio_are_told_of_each_registry(client: str, machine: Machine) -> None:
    machine(client, "--write")
    drop_in = machine.toml(f"/etc/containers/registries.conf.d/50-hawker-{client}.conf")
    mirrors = {
        name: [{"location": f"127.0.0.1:4000/{place}", "insecure": True}]
        for name, place in (
            ("docker.io", "docker.io"),
            ("quay.io", "quay.io"),
            ("127.0.0.1:5001", "127.0.0.1_5001"),
        )
    }
    assert drop_in["registry"] == [
        {"prefix": "docker.io", "location": "docker.io", "mirror": mirrors["docker.io"]},
        {"prefix": "quay.io", "location": "quay.io", "mirror": mirrors["quay.io"]},
        {
            "prefix": "127.0.0.1:5001",
            "location": "127.0.0.1:5001",
            "insecure": True,
            "mirror": mirrors["127.0.0.1:5001"],
        },
    ]


def test_what_was_added_to_daemon_json_since_stays(machine: Machine) -> None:
    machine("docker", "--write")
    file = machine.root / "etc/docker/daemon.json"
    file.write_text(json.dumps(machine.daemon() | {"debug": True}))
    added = file.read_bytes()
    machine("docker", "--write")
    assert file.read_bytes() == added
    machine("docker", "--write", "--mirror", "http://10.0.0.1:4000")
    assert machine.daemon() == {"debug": True, "registry-mirrors": ["http://10.0.0.1:4000"]}
    machine("docker", "--undo")
    assert machine.daemon() == {"debug": True}


def test_a_file_that_was_removed_since_stays_away(machine: Machine) -> None:
    before = tree(machine.root)
    machine("docker", "--write")
    (machine.root / "etc/docker/daemon.json").unlink()
    machine("docker", "--undo")
    assert tree(machine.root) == before


@pytest.mark.parametrize(
    ("client", "path"),
    [
        ("containerd", "/etc/containerd/certs.d/quay.io/hosts.toml"),
        ("docker", "/etc/docker/certs.d/quay.io/hosts.toml"),
        ("podman", "/etc/containers/registries.conf.d/50-hawker-podman.conf"),
        ("crio", "/etc/containers/registries.conf.d/50-hawker-crio.conf"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(client: str, path: str, machine: Machine) -> None:
    put(machine.root, path, b"# mine\n")
    before = tree(machine.root)
    assert "exists already" in machine(client, "--write", code=8)
    assert tree(machine.root) == before


@pytest.mark.parametrize("client", ["containerd", "podman"])
def test_a_file_that_was_changed_since_is_left_alone(client: str, machine: Machine) -> None:
    machine(client, "--write")
    files = (path for path in (machine.root / "etc").rglob("*") if path.is_file())
    # Of hawker's own is what it wrote down of them.
    file = next(path for path in files if "hawker" not in path.parts)
    with file.open("a") as out:
        out.write("# mine\n")
    before = tree(machine.root)
    for what in (["--undo"], ["--write", "--mirror", "http://10.0.0.1:4000"]):
        assert "was changed since" in machine(client, *what, code=8)
        assert tree(machine.root) == before


def test_certificates_stay_in_use(machine: Machine) -> None:
    put(machine.root, "/etc/containerd/certs.d/quay.io/ca.crt", b"certificate")
    assert "ca.crt, which is not read" in machine("containerd", "--write", code=8)


@pytest.mark.parametrize(
    "path", ["registries.conf", "registries.conf.d/one.conf", "registries.conf.d/99-two.conf"]
)
def test_a_registry_that_is_blocked_stays_blocked(path: str, machine: Machine) -> None:
    put(machine.root, f"/etc/containers/{path}", b'[[registry]]\nprefix="quay.io"\nblocked=true\n')
    before = tree(machine.root)
    assert "says already where images of quay.io" in machine("podman", "--write", code=8)
    assert tree(machine.root) == before


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"registry-mirrors": "x"}', b"\xff"])
def test_a_daemon_json_that_makes_no_sense_is_left_alone(text: bytes, machine: Machine) -> None:
    put(machine.root, "/etc/docker/daemon.json", text)
    before = tree(machine.root)
    for what in ([], ["--write"]):
        machine("docker", *what, code=2)
        assert tree(machine.root) == before


def test_links_are_not_followed(machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (machine.root / "etc").mkdir()
    (machine.root / "etc/docker").symlink_to(outside)
    assert "leads out of" in machine("docker", "--write", code=8)
    (machine.root / "etc/docker").unlink()
    put(machine.root, "/etc/docker/other.json", b"{}")
    (machine.root / "etc/docker/daemon.json").symlink_to("other.json")
    assert "is a symbolic link" in machine("docker", "--write", code=8)
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["rkt"], "rkt"),
        (["docker", "--write", "--undo"], "exclude each other"),
        (["docker", "--mirror", "127.0.0.1:4000"], "http://host:4000"),
        (["docker", "--mirror", "http://user:word@host:4000"], "http://host:4000"),
        (["docker", "--mirror", "http://host:4000/v2"], "http://host:4000"),
        (["containerd", "--mirror", "https://h", "--token", 'a"b'], "no token"),
        (["containerd", "--mirror", "https://h", "--tls-ca", "/none"], "/none cannot be used"),
        (["containerd", "--mirror", "https://h", "--tls-ca", "/dev/null"], "PEM certificates"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], part: str, machine: Machine) -> None:
    assert part in machine(*arguments, code=2)


@pytest.mark.parametrize("name", ["../../evil", "a/b", 'x"y', "[::1]:5000", ""])
def test_a_registry_s_name_that_would_lead_elsewhere_is_refused(
    name: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps({name: "https://quay.io"}))
    assert "is no host's name" in machine("containerd", "--write", code=2)


def test_a_record_that_leads_elsewhere_is_refused(machine: Machine, tmp_path: Path) -> None:
    victim = put(tmp_path, "victim", b"x")
    record = {"clients": {"docker": [{"path": "/../victim", "ours": [], "mirror": "http://x"}]}}
    put(machine.root, RECORD, json.dumps(record).encode())
    assert "names '/../victim'" in machine("docker", "--undo", code=2)
    file = put(machine.root, RECORD, b"{")
    assert "is not as `hawker setup` writes it" in machine("docker", "--undo", code=2)
    assert victim.read_bytes() == b"x"
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
        assert "belongs to another user" in machine("docker", "--undo", code=2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_told(machine: Machine) -> None:
    machine.root.chmod(0o555)
    try:
        assert "run it as root" in machine("docker", "--write", code=8)
    finally:
        machine.root.chmod(0o755)


def test_what_was_written_before_a_failure_is_taken_back(machine: Machine) -> None:
    put(machine.root, "/etc/docker/daemon.json", DAEMON)
    put(machine.root, "/etc/docker/certs.d", b"")
    before = tree(machine.root)
    assert "docker --undo" in machine("docker", "--write", code=8)
    assert tree(machine.root) != before
    machine("docker", "--undo")
    assert tree(machine.root) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.just("\ud800"),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON), st.none() | st.lists(st.sampled_from(["a", "b"])))
def test_docker_s_other_keys_and_mirrors_stay(
    others: dict[str, Any], mirrors: list[str] | None
) -> None:
    document = others | ({} if mirrors is None else {MIRRORS: mirrors})
    merged = with_mirror(json.dumps(document).encode(), "http://m")
    assert json.loads(merged) == document | {MIRRORS: ["http://m", *(mirrors or [])]}
    assert with_mirror(merged, "http://m") == merged
    back = json.loads(without_mirror(merged, "http://m"))
    assert back == (document if mirrors else {k: v for k, v in others.items() if k != MIRRORS})


def test_a_file_in_the_place_of_a_directory_is_told(machine: Machine) -> None:
    put(machine.root, "/etc/docker", b"")
    assert "etc/docker" in machine("docker", "--write", code=8)
    assert (machine.root / "etc/docker").read_bytes() == b""


def test_docker_is_no_client_of_a_mirror_whose_default_is_another(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", "quay.io")
    assert "daemon.json is left as it is" in machine("docker")
    machine("docker", "--write")
    assert not (machine.root / "etc/docker/daemon.json").exists()


def test_a_mirror_that_would_refuse_its_clients_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    assert "asks for tokens" in machine("podman")
    assert "asks for tokens" not in machine("podman", "--mirror", "http://127.0.0.1:4001")
