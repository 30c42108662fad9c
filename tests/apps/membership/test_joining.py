"""A host joins as a whole or not at all, and leaves nothing behind when it leaves."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from hawker.apps.membership.joining import Wish
from hawker.apps.membership.joining import join as join_cluster
from hawker.core.errors import QuotaExceeded, Unauthenticated
from hawker.core.settings import load
from hawker.core.storage.directory import DirectoryLock
from hawker.core.storage.identity import load_host_key
from hawker.core.storage.membership import load_membership, underlay
from hawker.core.tls import client_context, server_context
from tests.apps.membership.standin import CLUSTER_KEY, StandIn


def hawker(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")}
    return subprocess.run(
        [sys.executable, "-m", "hawker", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        input=given,
        check=False,
    )


def join(manager: StandIn, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return hawker("join", manager.url, "--token", "hwe_good", "--data", str(data), *more)


def left_over(data: Path) -> set[str]:
    """What is in a data directory besides the host's own key and lock."""
    return {path.name for path in data.iterdir()} - {"host.key", "lock"} if data.exists() else set()


def test_a_host_that_joined_has_all_it_needs_for_its_owner_only(
    manager: StandIn, tmp_path: Path
) -> None:
    done = join(manager, tmp_path / "d", "--idc", "fra1", "--location", "eu|fra1")
    assert done.returncode == 0, done.stderr
    assert "joined the cluster eu as a peer: named by its token" in done.stdout
    assert f"hawker serve peer --data {tmp_path / 'd'}" in done.stdout
    folder = tmp_path / "d" / "membership"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    membership = load_membership(folder)
    assert membership is not None and membership.manager == manager.url
    assert membership.host == load_host_key(tmp_path / "d").host == manager.enrolled[0].host
    assert manager.members == {membership.token: membership.host}
    assert (folder / "cluster.key").read_text().strip() == CLUSTER_KEY
    settings = underlay(load({"storage.data": str(tmp_path / "d")}, environ={})).settings
    assert settings.peer.idc == "fra1" and settings.peer.location == "eu|fra1"
    assert server_context(settings.tls) is not None
    assert client_context(settings.tls).verify_mode == ssl.CERT_REQUIRED
    [sent] = manager.enrolled
    assert sent.addresses == ["127.0.0.1"] and sent.idc == "fra1"
    assert manager.members and membership.token not in done.stdout + done.stderr


def test_a_token_may_come_from_a_file_or_standard_input(manager: StandIn, tmp_path: Path) -> None:
    manager.tokens.add("hwe_other")
    (tmp_path / "token").write_text("hwe_good\n")
    command = ["join", manager.url + "/manager/", "--json", "--data"]
    first = hawker(*command, str(tmp_path / "a"), "--token-file", str(tmp_path / "token"))
    second = hawker(*command, str(tmp_path / "b"), "--token-file", "-", given="hwe_other\n")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert '"kind":"peer"' in first.stdout


def test_plain_takes_no_certificate(manager: StandIn, tmp_path: Path) -> None:
    assert join(manager, tmp_path / "d", "--plain").returncode == 0
    settings = underlay(load({"storage.data": str(tmp_path / "d")}, environ={})).settings
    assert settings.tls.certificate == ""
    assert not (tmp_path / "d" / "membership" / "host.pem").exists()


def test_what_was_set_stays_over_what_came_with_joining(manager: StandIn, tmp_path: Path) -> None:
    assert join(manager, tmp_path / "d", "--idc", "fra1").returncode == 0
    flags = {"storage.data": str(tmp_path / "d"), "peer.idc": "ams1", "tls.ca": "/ca.pem"}
    loaded = underlay(load(flags, environ={}))
    assert loaded.settings.peer.idc == "ams1"
    assert (loaded.settings.tls.ca, loaded.settings.tls.certificate) == ("/ca.pem", "")
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert origins["cluster.key_file"].endswith("membership.json")
    assert origins["peer.idc"] == "flag" and origins["listen.port"] == "default"


def test_a_data_directory_joins_once_until_it_leaves(manager: StandIn, tmp_path: Path) -> None:
    assert join(manager, tmp_path / "d").returncode == 0
    manager.tokens.add("hwe_good")
    again = join(manager, tmp_path / "d")
    assert again.returncode == 2 and "has joined a cluster already" in again.stderr
    assert "hawker leave" in again.stderr and len(manager.enrolled) == 1
    before = load_host_key(tmp_path / "d").host
    left = hawker("leave", "--data", str(tmp_path / "d"))
    assert (left.returncode, left.stdout) == (0, "left the cluster eu\n"), left.stderr
    assert not manager.members and left_over(tmp_path / "d") == set()
    assert join(manager, tmp_path / "d").returncode == 0
    assert load_host_key(tmp_path / "d").host == before, "the host is the same"


def test_a_token_that_is_not_good_leaves_nothing(manager: StandIn, tmp_path: Path) -> None:
    manager.tokens.clear()
    done = join(manager, tmp_path / "d")
    assert done.returncode == Unauthenticated.exit_code and "not good any more" in done.stderr
    assert left_over(tmp_path / "d") == set()


def test_a_manager_that_is_away_leaves_nothing(manager: StandIn, tmp_path: Path) -> None:
    manager.stop()
    done = join(manager, tmp_path / "d")
    manager.start()
    assert done.returncode == 1 and "does not answer" in done.stderr
    assert "Traceback" not in done.stderr and left_over(tmp_path / "d") == set()


def test_a_manager_that_gives_nonsense_leaves_nothing(manager: StandIn, tmp_path: Path) -> None:
    manager.kind = "wizard"
    done = join(manager, tmp_path / "d")
    assert done.returncode == 1 and "does not answer like a manager" in done.stderr
    assert left_over(tmp_path / "d") == set()


def test_a_directory_that_is_in_use_is_left_alone(manager: StandIn, tmp_path: Path) -> None:
    load_host_key(tmp_path / "d")
    lock = DirectoryLock(tmp_path / "d")
    done = join(manager, tmp_path / "d")
    lock.release()
    assert done.returncode == 1 and "is in use by process" in done.stderr
    assert manager.tokens == {"hwe_good"}, "the token was not used"


def test_one_that_a_member_serves_with_cannot_leave(manager: StandIn, tmp_path: Path) -> None:
    assert join(manager, tmp_path / "d").returncode == 0
    lock = DirectoryLock(tmp_path / "d" / "membership")
    done = hawker("leave", "--data", str(tmp_path / "d"))
    lock.release()
    assert done.returncode == 1 and "is in use by process" in done.stderr
    assert manager.members and load_membership(tmp_path / "d" / "membership")


def test_who_cannot_reach_the_manager_does_not_leave_by_half(
    manager: StandIn, tmp_path: Path
) -> None:
    assert join(manager, tmp_path / "d").returncode == 0
    manager.stop()
    done = hawker("leave", "--data", str(tmp_path / "d"))
    manager.start()
    assert done.returncode == 1 and "try again later" in done.stderr
    assert load_membership(tmp_path / "d" / "membership")


def test_a_manager_with_another_database_is_left_all_the_same(
    manager: StandIn, tmp_path: Path
) -> None:
    assert join(manager, tmp_path / "d").returncode == 0
    manager.members.clear()
    done = hawker("leave", "--data", str(tmp_path / "d"))
    assert done.returncode == 0 and "did not know this host any more" in done.stderr
    assert left_over(tmp_path / "d") == set()


def test_who_never_joined_cannot_leave(tmp_path: Path) -> None:
    done = hawker("leave", "--data", str(tmp_path))
    assert done.returncode == 2 and "has not joined a cluster" in done.stderr


def test_a_damaged_membership_is_told_and_not_taken(manager: StandIn, tmp_path: Path) -> None:
    assert join(manager, tmp_path / "d").returncode == 0
    (tmp_path / "d" / "membership" / "membership.json").write_bytes(b'{"manager": "http')
    done = hawker("serve", "peer", "--data", str(tmp_path / "d"), "--port", "0")
    assert done.returncode == 1 and "is no membership" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ftp://x", "--token", "hwe_a"], "is not a URL"),
        (["http://127.0.0.1:1"], "--token or --token-file"),
        (["http://127.0.0.1:1", "--token", "hwp_a"], "those begin with hwe_"),
        (["http://127.0.0.1:1", "--token", "hwe_a", "--address", "nowhere"], "addresses"),
        (["https://127.0.0.1:1", "--token", "hwe_a", "--ca", __file__], f"{__file__} holds no"),
        (["http://127.0.0.1:1", "--token", "hwe_a", "--ca", __file__], "an https URL"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = hawker("join", *arguments, "--data", str(tmp_path / "d"))
    assert done.returncode != 0 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and left_over(tmp_path / "d") == set()


def test_what_a_killed_attempt_left_is_removed(manager: StandIn, tmp_path: Path) -> None:
    left = tmp_path / "d" / ".membership.0123"
    left.mkdir(parents=True)
    (tmp_path / "d").chmod(0o700)
    (left / "membership.json").write_text("{}")
    assert join(manager, tmp_path / "d").returncode == 0
    assert left_over(tmp_path / "d") == {"membership"}


def test_what_cannot_be_written_after_all_is_no_member(
    manager: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_host_key(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    wish = Wish(manager.url, "hwe_good", "h1", [], plain=True)
    with pytest.raises(QuotaExceeded, match="No space left"):
        asyncio.run(join_cluster(tmp_path, wish))
    assert len(manager.enrolled) == 1 and not manager.members, "the manager was told"
    assert left_over(tmp_path) == set()
