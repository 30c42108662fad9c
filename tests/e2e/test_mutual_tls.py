"""One swarm over mutual TLS with certificates of `hawker ca`; outsiders get nothing."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from hawker.core.settings import TlsSettings
from hawker.core.tls import client_context
from tests.e2e.conftest import Cluster, Origin, fetch, hawker, wait_for


def authority(directory: Path) -> Path:
    made = hawker("ca", "create", str(directory))
    assert made.returncode == 0, made.stderr
    return directory


def issue(ca: Path, into: Path, *names: str) -> list[str]:
    """The flags of a process with a certificate of these names."""
    made = hawker("ca", "issue", *names, "--ca", str(ca), "-O", str(into))
    assert made.returncode == 0, made.stderr
    certificate, key = made.stdout.decode().split()
    assert Path(key).stat().st_mode & 0o077 == 0
    return ["--tls-ca", str(ca / "ca.crt"), "--tls-certificate", certificate, "--tls-key", key]


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return authority(tmp_path / "ca")


def test_a_swarm_over_mutual_tls_and_nobody_else(
    cluster: Cluster, origin: Origin, pki: Path, tmp_path: Path
) -> None:
    data = os.urandom(6 * 2**20 + 3)
    url = origin.put("/file", data)
    own = [*issue(pki, tmp_path / "own", "127.0.0.1", "localhost"), "--mutual-tls"]
    scheduler, seed, peers = cluster.swarm(2, *own)
    assert scheduler.url.startswith("https://")
    for peer in peers:
        assert fetch(peer, url, tmp_path / f"out-{peer.port}", "--timeout", "30") == (0, "")
        assert (tmp_path / f"out-{peer.port}").read_bytes() == data
    assert (origin.requests, origin.sent_bytes) == (1, len(data))

    # Without a certificate, and with one of another authority, nothing is even answered.
    stranger = issue(authority(tmp_path / "other-ca"), tmp_path / "other", "127.0.0.1")
    trusting = TlsSettings(ca=str(pki / "ca.crt"))
    foreign = TlsSettings(ca=str(pki / "ca.crt"), certificate=stranger[3], key=stranger[5])
    for settings in (trusting, foreign):
        for daemon in (scheduler, seed, *peers):
            with httpx.Client(verify=client_context(settings), trust_env=False) as client:
                with pytest.raises(httpx.HTTPError):
                    client.get(f"{daemon.url}/healthy")
    for daemon in (scheduler, seed):
        with pytest.raises(httpx.HTTPError):
            httpx.get(daemon.url.replace("https", "http") + "/healthy", trust_env=False)
    # With a certificate and without the cluster's key it is answered, and gets nothing.
    hawker("cluster", "key", str(tmp_path / "other.key"))
    member = TlsSettings(ca=str(pki / "ca.crt"), certificate=own[3], key=own[5])
    with httpx.Client(verify=client_context(member), trust_env=False) as client:
        assert client.get(f"{scheduler.url}/healthy").status_code == 200
        for path in ("/scheduler/v1/hosts", "/scheduler/v1/tasks"):
            refused = client.get(
                f"{scheduler.url}{path}", headers={"authorization": "Bearer a.b.c"}
            )
            assert refused.status_code == 401
        pieces = f"{seed.url}/peer/v1/tasks/{'0' * 64}/{'0' * 16}/pieces/0-0"
        assert client.get(pieces).status_code == 401
    # Nor does a whole daemon that lacks one of the two.
    for name, flags in (
        ("no-certificate", ["--tls-ca", str(pki / "ca.crt"), "--cluster-key", str(cluster.key)]),
        ("other-key", [*own, "--cluster-key", str(tmp_path / "other.key")]),
    ):
        outsider = cluster.start(name, "serve", "peer", "--scheduler", scheduler.url, *flags)
        target = tmp_path / f"out-{name}"
        code, message = fetch(outsider, url, target, "--disable-back-to-source", "--timeout", "5")
        assert code != 0, message
        assert not target.exists()


def test_schedulers_and_the_command_line_talk_over_mutual_tls(
    cluster: Cluster, origin: Origin, pki: Path, tmp_path: Path
) -> None:
    data = os.urandom(2**20 + 7)
    url = origin.put("/file", data)
    flags = [*issue(pki, tmp_path / "own", "127.0.0.1", "localhost"), "--mutual-tls"]
    cluster.make_key()
    first = cluster.scheduler("first", *flags)
    config = tmp_path / "second.toml"
    config.write_text(f'[scheduler]\nothers = ["{first.url}"]\n')
    second = cluster.scheduler("second", "--config", str(config), *flags)
    peer = cluster.peer("peer", first, *flags)
    peer.wait_ready()
    member = flags[:6]
    shown = ["--cluster-key", str(cluster.key)]
    remote = ("-e", peer.url, "--timeout", "30")
    done = hawker("get", url, "-O", str(tmp_path / "out"), *remote, *member, *shown)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes() == data
    done = hawker("ls", "-e", peer.url, *member, *shown)
    assert done.returncode == 0 and url.encode() in done.stdout
    # Without a certificate of its own the command is not even answered.
    done = hawker("get", url, "-O", str(tmp_path / "none"), *remote, *member[:2], *shown)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
    # What the first scheduler granted is known at the second.
    settings = TlsSettings(ca=str(pki / "ca.crt"), certificate=flags[3], key=flags[5])
    with httpx.Client(verify=client_context(settings), trust_env=False) as client:
        name = "hawker_scheduler_lease_records 1.0"
        wait_for(lambda: name in client.get(f"{second.url}/metrics").text, "it follows the first")


def test_a_certificate_for_other_names_is_not_believed(
    cluster: Cluster, pki: Path, tmp_path: Path
) -> None:
    cluster.make_key()
    wrong = issue(pki, tmp_path / "wrong", "192.0.2.7", "somebody.test")
    scheduler = cluster.scheduler("scheduler", *wrong)
    host, _, port = scheduler.url.removeprefix("https://").rpartition(":")
    context = client_context(TlsSettings(ca=str(pki / "ca.crt")))
    with socket.create_connection((host, int(port))) as plain:
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            context.wrap_socket(plain, server_hostname=host)


def test_mistakes_are_told_before_anything_listens(pki: Path, tmp_path: Path) -> None:
    flags = issue(pki, tmp_path / "own", "127.0.0.1")
    certificate, key = flags[3], flags[5]

    def refused(*arguments: str) -> str:
        done = hawker("up", "--data", str(tmp_path / "data"), "--port", "0", *arguments)
        assert done.returncode == 2
        message = done.stderr.decode()
        assert "Traceback" not in message and message.count("\n") == 1
        return message

    assert "tls.certificate" in refused("--mutual-tls")
    assert "tls.ca" in refused("--tls-certificate", certificate, "--tls-key", key, "--mutual-tls")
    assert "cannot be read" in refused("--tls-certificate", certificate, "--tls-key", "none")
    other = issue(pki, tmp_path / "other", "127.0.0.1")[5]
    assert "are not a certificate" in refused("--tls-certificate", certificate, "--tls-key", other)
    os.chmod(key, 0o644)
    assert "others may read" in refused("--tls-certificate", certificate, "--tls-key", key)


def test_the_authority_refuses_what_is_no_name_and_never_overwrites(
    pki: Path, tmp_path: Path
) -> None:
    again = hawker("ca", "create", str(pki))
    assert again.returncode == 2 and b"exists already" in again.stderr
    for name in ("*", "a b", "", "-x-", "héé"):
        done = hawker("ca", "issue", "--ca", str(pki), "-O", str(tmp_path), "--", name)
        assert done.returncode == 2 and b"no host name" in done.stderr
    nowhere = hawker("ca", "issue", "h", "--ca", str(tmp_path / "none"), "-O", str(tmp_path))
    assert nowhere.returncode == 2 and b"is no authority" in nowhere.stderr
