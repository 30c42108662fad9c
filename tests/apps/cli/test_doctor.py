"""`hawker doctor` finds what is wrong, says what to do, and takes no harm from it."""

from __future__ import annotations

import datetime
import email.utils
import http.server
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from hawker.core.version import version
from tests.e2e import small_disk
from tests.e2e.conftest import Cluster, Origin, cluster, hawker, origin
from tests.faults.world import free_port

__all__ = ["cluster", "origin"]

Found = dict[str, dict[str, str]]


def doctor(
    data: Path,
    *flags: str,
    expect: int | None = None,
    environ: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Found:
    """Findings by name; the exit code must be 1 exactly where one failed."""
    flags = flags if "--port" in flags else (*flags, "--port", "0")
    done = subprocess.run(
        [sys.executable, "-m", "hawker", "doctor", "--json", "--data", str(data), *flags],
        capture_output=True,
        timeout=90,
        env={**os.environ, **(environ or {})},
        preexec_fn=before,
        check=False,
    )
    assert done.stderr == b"", done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["version"] == version()
    found = {finding["name"]: finding for finding in told["findings"]}
    assert len(found) == len(told["findings"])
    failed = [finding for finding in found.values() if finding["state"] == "failed"]
    assert done.returncode == bool(failed)
    for finding in found.values():
        assert finding["found"]
        assert finding["hint"] or finding["state"] in ("ok", "skipped")
    if expect is not None:
        assert done.returncode == expect, failed
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


class Pretender(http.server.BaseHTTPRequestHandler):
    """Says that it is Hawker, and is late."""

    said: ClassVar[Any] = {"ready": True, "version": "0.0.1"}
    late: ClassVar[float] = 3600.0

    def do_GET(self) -> None:
        body = json.dumps(self.said).encode()
        self.send_response_only(200)
        self.send_header("date", email.utils.formatdate(time.time() - self.late, usegmt=True))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def pretender() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pretender)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_sound_machine_has_nothing_that_failed(data: Path) -> None:
    found = doctor(data, expect=0)
    assert set(found) == {
        "data directory",
        "keys and socket",
        "disk",
        "quota",
        "reflink",
        "open files",
        "membership",
        "TLS",
        "cluster key",
        "plugins",
        "port",
    }
    assert not data.exists(), "looking makes nothing"


def test_beside_a_cluster_it_sees_daemon_scheduler_and_origin(
    cluster: Cluster, origin: Origin
) -> None:
    scheduler, _, [peer] = cluster.swarm(1)
    url = origin.put("/x", os.urandom(1000))
    words = ("--cluster-key", str(cluster.key), "--scheduler", scheduler.url)
    found = doctor(peer.data, *words, "--port", peer.port, "--origin", url, expect=0)
    assert f"Hawker {version()} answers" in found["port"]["found"]
    assert "knows 2 hosts" in found[f"scheduler {scheduler.url}"]["found"]
    assert "0 s apart" in found[f"clock of {scheduler.url}"]["found"]
    assert "1000 bytes, a strong validator, parts can be read" in found["origin"]["found"]
    assert origin.sent_bytes == 1


def test_for_people_it_prints_a_line_each_and_what_to_do(data: Path) -> None:
    data.mkdir(mode=0o755)
    done = hawker("doctor", "--data", str(data), "--port", "0")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("warning  data directory: others may look into")
    assert lines[1] == f"         -> chmod 700 {data}"


# ---------------------------------------------------------------------------- the machine


def test_a_directory_that_others_may_write_to(data: Path) -> None:
    data.mkdir()
    data.chmod(0o777)
    found = doctor(data, expect=1)
    assert found["data directory"]["hint"] == f"chmod 700 {data}"
    served = hawker("serve", "scheduler", "--data", str(data), "--port", "0")
    assert served.returncode != 0
    assert b"others may write to" in served.stderr and b"Traceback" not in served.stderr
    assert list(data.iterdir()) == []


def test_a_directory_of_another_user(tmp_path: Path) -> None:
    # As root a directory that was given away; as anybody else the one of root.
    foreign = tmp_path / "foreign"
    if os.geteuid() == 0:
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)
    else:
        foreign = Path("/usr")
    found = doctor(foreign, expect=1)
    assert "is user" in found["data directory"]["found"]
    for roles in (["scheduler"], ["peer"]):
        served = hawker("serve", *roles, "--data", str(foreign), "--port", "0")
        assert served.returncode != 0
        assert b"is user" in served.stderr and b"Traceback" not in served.stderr


def test_a_link_to_a_directory(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    data.symlink_to(tmp_path / "elsewhere")
    assert "is a link to" in doctor(data, expect=0)["data directory"]["found"]


def test_keys_that_others_may_read(data: Path) -> None:
    data.mkdir(mode=0o700)
    (data / "host.key").write_bytes(b"x" * 32)
    (data / "host.key").chmod(0o644)
    assert doctor(data, expect=1)["keys and socket"]["hint"] == f"chmod 600 {data / 'host.key'}"


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    # Nobody, root included, writes there.
    found = doctor(Path("/proc/hawker"), expect=1)
    assert found["disk"]["state"] == "failed"
    assert found["reflink"]["state"] == "skipped"


def test_a_quota_above_the_disk(data: Path) -> None:
    environ = {"HAWKER_STORAGE__QUOTA": str(10**18)}
    assert "on a filesystem of" in doctor(data, expect=1, environ=environ)["quota"]["found"]


def test_a_quota_above_what_is_free(data: Path) -> None:
    room = os.statvfs(data.parent)
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if total - free < 2**30:
        pytest.skip("the disk is empty")
    # Others write to this disk, too.
    environ = {"HAWKER_STORAGE__QUOTA": str((free + total) // 2)}
    found = doctor(data, expect=0, environ=environ)["quota"]
    assert found["state"] == "warning" and "are free or ours" in found["found"]


@pytest.mark.skipif(
    small_disk.namespace() is None, reason="the kernel lets this user make no mount namespace"
)
def test_a_disk_with_little_room(data: Path) -> None:
    data.mkdir(mode=0o700)
    fill = 'head -c 62M /dev/zero >"$1/ballast"; shift; exec "$@"'
    command = small_disk.inside(
        64 << 20, data, "sh", "-c", fill, "sh", str(data),
        sys.executable, "-m", "hawker", "doctor", "--json", "--data", str(data), "--port", "0",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=90, check=False)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert (done.returncode, found["disk"]["state"]) == (0, "warning")
    assert re.match(r"2\.\d MB of 67\.1 MB free", found["disk"]["found"])
    assert "make room" in found["disk"]["hint"]


def test_few_descriptors(data: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    assert "at most 256" in doctor(data, expect=1, before=limit)["open files"]["found"]


def test_a_port_of_something_else(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = str(other.getsockname()[1])
        found = doctor(data, "--port", number, expect=1)
    assert "not Hawker" in found["port"]["found"]


# ---------------------------------------------------------------------------- the cluster


def test_a_scheduler_of_another_time_and_version(data: Path, pretender: str) -> None:
    found = doctor(data, "--scheduler", pretender, expect=1)
    told = found[f"clock of {pretender}"]["found"]
    assert re.fullmatch(r"(3599|3600) s apart; tokens break at 30 s", told)
    assert "Hawker 0.0.1 there" in found[f"version of {pretender}"]["found"]


@pytest.mark.parametrize(("late", "state"), [(0, "ok"), (12, "warning"), (40, "failed")])
def test_clocks_that_are_apart(
    late: float, state: str, data: Path, pretender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretender, "late", late)
    found = doctor(data, "--scheduler", pretender)[f"clock of {pretender}"]
    assert found["state"] == state
    assert re.fullmatch(rf"({late}|{late - 1}) s apart; tokens break at 30 s", found["found"])


def test_the_advertised_url_is_asked_as_others_would(cluster: Cluster, data: Path) -> None:
    number = str(free_port())
    url = f"http://127.0.0.1:{number}"
    words = ("--port", number, "--advertise", url)
    told = doctor(data, *words, expect=0)["advertised URL"]
    assert (told["state"], "no daemon runs here" in told["found"]) == ("skipped", True)
    peer = cluster.start("peer", "serve", "peer", *words)
    told = doctor(peer.data, *words, expect=0)["advertised URL"]
    assert (told["state"], told["found"]) == ("ok", f"Hawker {version()} answers at {url}")
    nobody = f"http://127.0.0.1:{free_port()}"
    told = doctor(peer.data, "--advertise", nobody, expect=1)["advertised URL"]
    assert told["found"].startswith(f"{nobody} cannot be reached")
    # Two hosts with one address.
    other = cluster.start("other", "serve", "peer")
    told = doctor(other.data, "--advertise", url, expect=1)["advertised URL"]
    assert "is another host's" in told["found"]


def test_a_scheduler_that_is_none(
    data: Path, pretender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretender, "said", ["hello"])
    found = doctor(data, "--scheduler", pretender, expect=1)
    assert "not Hawker" in found[f"scheduler {pretender}"]["found"]


def test_a_scheduler_that_is_not_there_or_of_another_cluster(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    cluster.make_key()
    scheduler = cluster.scheduler()
    hawker("cluster", "key", str(tmp_path / "other.key"))
    words = ("--scheduler", scheduler.url, "--cluster-key", str(tmp_path / "other.key"))
    found = doctor(data, *words, expect=1)[f"scheduler {scheduler.url}"]
    assert "does not take tokens" in found["found"]
    peer = cluster.start("alone", "serve", "peer")
    ours = ("--cluster-key", str(cluster.key))
    found = doctor(data, "--scheduler", peer.url, *ours, expect=1)[f"scheduler {peer.url}"]
    assert "no scheduler" in found["found"]
    scheduler.stop()
    found = doctor(data, *words, expect=1)[f"scheduler {scheduler.url}"]
    assert "cannot be reached" in found["found"]


def test_an_origin_that_may_not_be_read(data: Path) -> None:
    found = doctor(data, "--origin", "http://169.254.169.254/latest", expect=1)["origin"]
    assert "link-local, metadata" in found["found"] and "egress" in found["hint"]


# ---------------------------------------------------------------------------- trust


def issue(directory: Path, authority: trustme.CA, *, days: float = 90) -> tuple[str, ...]:
    """Flags for a certificate that is good for so many days."""
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    leaf = authority.issue_cert(
        "localhost", not_before=until - datetime.timedelta(days=100), not_after=until
    )
    certificate, key = directory / "leaf.pem", directory / "leaf.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    key.chmod(0o600)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    files = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    return (*files, "--tls-ca", str(directory / "ca.pem"))


@pytest.mark.parametrize(
    ("days", "state", "words"),
    [(90, "ok", "for localhost until"), (5, "warning", "until"), (-1, "failed", "expired on")],
)
def test_certificates_that_end(
    days: float, state: str, words: str, data: Path, tmp_path: Path
) -> None:
    found = doctor(data, *issue(tmp_path, trustme.CA(), days=days))["TLS"]
    assert found["state"] == state and words in found["found"]


def test_a_certificate_of_another_authority(data: Path, tmp_path: Path) -> None:
    flags = issue(tmp_path, trustme.CA())
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    found = doctor(data, *flags, expect=1)["TLS"]
    assert "is not believed" in found["found"]


def test_a_key_that_is_not_the_certificates(data: Path, tmp_path: Path) -> None:
    flags = issue(tmp_path, trustme.CA())
    other = trustme.CA().issue_cert("localhost")
    (tmp_path / "leaf.key").write_bytes(other.private_key_pem.bytes())
    assert "not a certificate and its key" in doctor(data, *flags, expect=1)["TLS"]["found"]


def test_a_broken_plugin(data: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    about = site / "broken-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hawker.sources]\ngopher = broken_gopher\n")
    (site / "broken_gopher.py").write_text("import there_is_no_such_module\n")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    found = doctor(data, expect=1, environ={"PYTHONPATH": path})["plugins"]
    assert "gopher" in found["found"] and "there_is_no_such_module" in found["found"]
