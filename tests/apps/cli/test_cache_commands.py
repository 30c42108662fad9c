"""`hawker ls`, `stat`, `rm`, `import` and `export`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from hawker.core.ids import TaskSpec, canonical_url

if TYPE_CHECKING:
    from tests.apps.cli.conftest import Command, CommandLine, FakeDaemon

URL = "HTTP://Origin.test:80/file?a=1&sig=2"
CONTENT = random.Random(8).randbytes(700_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def stat_of(url: str, **changes: Any) -> dict[str, Any]:
    spec = {"url": canonical_url(url)} | {
        name: changes.pop(name) for name in ("tag", "application") if name in changes
    }
    now = time.time()
    return {
        "task": TaskSpec(**spec).task_id,
        "generation": "cd" * 8,
        "spec": spec,
        "total": 700_000,
        "piece_length": 262_144,
        "valid_pieces": 3,
        "valid_bytes": 700_000,
        "complete": True,
        "in_use": False,
        "created": now - 7200,
        "used": now - 60,
    } | changes


def test_list_shows_what_is_stored(command: Command, daemon: FakeDaemon) -> None:
    half = stat_of("http://o/half", valid_pieces=1, valid_bytes=350_000, complete=False, used=0.0)
    daemon.stats = [half, stat_of(URL)]
    done = command("ls")
    assert done.returncode == 0, done.stderr
    head, first, second = done.stdout.decode().splitlines()
    assert head.split() == ["TASK", "SIZE", "PIECES", "COMPLETE", "USED", "URL"]
    assert "http://origin.test/file?a=1&sig=2" in first and " yes " in first
    assert "http://o/half" in second and " 50 % " in second
    done = command("ls", "--json")
    assert [stat["task"] for stat in json.loads(done.stdout)] == [
        daemon.stats[1]["task"],
        half["task"],
    ]


def test_task_is_found_by_url_by_id_and_by_the_beginning_of_its_id(
    command: Command, daemon: FakeDaemon
) -> None:
    daemon.stats = [stat_of(URL, tag="t")]
    task = daemon.stats[0]["task"]
    for name in (["--tag", "t", "http://origin.test/file?a=1&sig=2"], [task], [task[:12]]):
        done = command("stat", "--json", *name)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["task"] == task
    done = command("stat", task)
    assert b"3 of 3, 262.1 KB each" in done.stdout and b"2 h ago" in done.stdout


def test_unknown_task_is_not_found(command: Command, daemon: FakeDaemon) -> None:
    for verb, name in (("stat", "http://o/none"), ("rm", "ab" * 32), ("rm", "ab" * 6)):
        done = command(verb, name)
        assert (done.returncode, done.stdout) == (3, b"")


def test_beginning_of_two_tasks_is_refused(command: Command, daemon: FakeDaemon) -> None:
    daemon.stats = [stat_of(URL, task="ab" * 31 + "01"), stat_of(URL, task="ab" * 31 + "02")]
    done = command("stat", "ab" * 6)
    assert done.returncode == 2 and b"2 tasks begin" in done.stderr


def test_remove_names_the_task(command: Command, daemon: FakeDaemon) -> None:
    daemon.stats = [stat_of(URL)]
    done = command("rm", URL)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert daemon.requests[-1][:2] == ("DELETE", f"/peer/v1/tasks/{daemon.stats[0]['task']}")


def test_import_without_a_name_is_named_by_its_digest(
    hawker: CommandLine, command: Command, daemon: FakeDaemon
) -> None:
    (hawker.home / "file").write_bytes(CONTENT)
    daemon.stats = [stat_of(SHA256)]
    done = command("import", "file", "--tag", "t")
    assert (done.returncode, done.stdout.decode()) == (0, f"{SHA256}\n")
    assert daemon.requests == [
        ("POST", "/peer/v1/tasks/import", {"url": [SHA256], "tag": ["t"]}, CONTENT)
    ]
    assert daemon.headers[0]["content-length"] == str(len(CONTENT))
    assert "transfer-encoding" not in daemon.headers[0]


@pytest.mark.parametrize("content", [b"", b"x"])
def test_import_takes_a_name_and_any_size(
    content: bytes, hawker: CommandLine, command: Command, daemon: FakeDaemon
) -> None:
    (hawker.home / "file").write_bytes(content)
    daemon.stats = [stat_of(URL)]
    done = command("import", "file", "--url", URL, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == daemon.stats[0]["task"]
    assert daemon.requests[0][2:] == ({"url": [URL]}, content)


def test_export_of_a_url_never_asks_the_origin(
    hawker: CommandLine, command: Command, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    done = command("export", URL, "-O", "out", "--application", "a")
    assert done.returncode == 0, done.stderr
    assert (hawker.home / "out").read_bytes() == CONTENT
    assert json.loads(daemon.requests[0][3]) == {
        "url": URL,
        "application": "a",
        "disable_back_to_source": True,
        "pin": True,
    }


def test_export_of_a_task_uses_the_names_it_was_stored_under(
    command: Command, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    daemon.stats = [stat_of(URL, tag="t")]
    done = command("export", daemon.stats[0]["task"][:12], "-O", "-")
    assert (done.returncode, done.stdout) == (0, CONTENT)
    request = json.loads(daemon.requests[2][3])
    assert (request["url"], request["tag"]) == (canonical_url(URL), "t")


def test_export_refuses_an_existing_output(
    hawker: CommandLine, command: Command, daemon: FakeDaemon
) -> None:
    (hawker.home / "out").write_text("mine")
    done = command("export", URL, "-O", "out")
    assert done.returncode == 8
    assert daemon.requests == []


def test_empty_data_directory_lists_nothing_and_is_not_made(
    hawker: CommandLine, command: Command
) -> None:
    done = command("ls")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = command("ls", "--json")
    assert json.loads(done.stdout) == []
    assert command("stat", URL).returncode == 3
    assert command("rm", URL).returncode == 3
    assert command("export", URL, "-O", "out").returncode == 3
    assert os.listdir(hawker.home) == []


def test_left_over_socket_of_a_killed_daemon_counts_as_none(
    command: Command, daemon: FakeDaemon
) -> None:
    daemon.shutdown()
    daemon.server_close()
    done = command("ls")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
