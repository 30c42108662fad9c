"""The commands and a real daemon; then the same data directory when it has died."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.apps.cli.conftest import Command, CommandLine

CONTENT = random.Random(10).randbytes(1_500_000)
NAME = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def peer(hawker: CommandLine) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A peer's URL and its process."""
    (hawker.home / "file").write_bytes(CONTENT)
    arguments = ("serve", "peer", "--port", "0", "--json", "--data", str(hawker.data))
    with hawker.start(*arguments) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
        process.kill()


def test_imported_content_can_be_had_also_when_the_daemon_has_died(
    hawker: CommandLine, command: Command, peer: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, process = peer
    done = command("import", "file")
    assert (done.returncode, done.stdout.decode()) == (0, f"{NAME}\n")
    assert command("get", NAME, "-O", "by-socket").returncode == 0
    assert command("get", NAME, "-O", "by-url", "-e", url).returncode == 0
    assert command("export", NAME, "-O", "-").stdout == CONTENT
    process.kill()
    process.wait(timeout=30)

    (stat,) = json.loads(command("ls", "--json").stdout)
    assert stat["complete"] and stat["total"] == len(CONTENT)
    assert command("export", stat["task"][:12], "-O", "-").stdout == CONTENT
    assert command("export", NAME, "-O", "alone", "--force-hard-link").returncode == 0
    for name in ("by-socket", "by-url", "alone"):
        assert (hawker.home / name).read_bytes() == CONTENT
    wrong = command("export", NAME, "-O", "wrong", "--digest", "sha256:" + "0" * 64)
    assert wrong.returncode == 5
    assert command("rm", NAME).returncode == 0
    assert command("stat", NAME).returncode == 3
    assert not os.path.exists(hawker.home / "wrong")


def test_file_is_read_for_its_own_user_and_then_kept(
    hawker: CommandLine, command: Command, peer: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url = f"file://{hawker.home}/file"
    first = json.loads(command("get", url, "-O", "first", "--json").stdout)
    second = json.loads(command("get", url, "-O", "second", "--json").stdout)
    assert (first["from_origin"], second["from_origin"]) == (len(CONTENT), 0)
    assert (first["through"], second["through"]) == ("daemon", "daemon")
    assert (hawker.home / "second").read_bytes() == CONTENT
    assert command("get", url, "-O", "-").stdout == CONTENT


def test_wrong_digest_and_absent_content_have_their_exit_codes(
    hawker: CommandLine, command: Command, peer: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url = f"file://{hawker.home}/file"
    assert command("get", url, "-O", "out", "--digest", "sha256:" + "0" * 64).returncode == 5
    assert command("get", url + "-none", "-O", "out").returncode == 3
    assert command("get", "http://127.0.0.1:4/x", "-O", "out").returncode == 6
    assert command("get", "sha256:" + "0" * 64, "-O", "out").returncode == 3
    assert sorted(os.listdir(hawker.home)) == ["data", "file"]


def test_daemon_that_requires_tokens_knows_who_holds_the_cluster_key(
    hawker: CommandLine, command: Command
) -> None:
    (hawker.home / "file").write_bytes(CONTENT)
    key = str(hawker.home / "cluster.key")
    assert command("cluster", "key", key).returncode == 0
    with hawker.start(
        *("serve", "peer", "--port", "0", "--json", "--data", str(hawker.data)),
        *("--cluster-key", key),
        environ={"HAWKER_AUTH__MODE": "required"},
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        for endpoint in ([], ["-e", url]):
            assert command("ls", *endpoint).returncode == 4
            assert command("ls", *endpoint, "--cluster-key", key).returncode == 0
            done = command("import", "file", *endpoint, "--cluster-key", key)
            assert done.returncode == 0, done.stderr
        assert command("rm", NAME, "--cluster-key", key).returncode == 0
        process.terminate()
        assert process.wait(timeout=30) == 0
