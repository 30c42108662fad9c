"""A user's mistake is one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hawker.apps.cli import run

if TYPE_CHECKING:
    from tests.apps.cli.conftest import CommandLine, FakeDaemon

URL = "http://127.0.0.1:4/file"


def told(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr."""
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert text.startswith("hawker: ") and text.count("\n") == 1, text
    return text


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["gett", URL], 2, "No such command 'gett'"),
        (["get"], 2, "Missing argument 'URL'"),
        (["get", "--nonsense", URL], 2, "--nonsense"),
        (["config"], 2, "Missing command"),
        (["get", "not-a-url"], 2, "start it with a scheme"),
        (["get", "http://user:secret@host/f"], 2, "user name or password"),
        (["get", "http://host/"], 8, "-O"),
        (["get", "http://host/..%2fetc%2fpasswd"], 8, "-O"),
        (["get", URL, "--digest", "sha256:12"], 2, "64 lower-case hex digits"),
        (["get", URL, "--digest", "md5:12"], 2, "not a digest"),
        (["get", "sha256:12"], 2, "64 lower-case hex digits"),
        (["get", URL, "--timeout", "soon"], 2, "write 90, 90s, 15m, 2h"),
        (["get", URL, "--timeout", "0"], 2, "not a time"),
        (["get", URL, "-p", "7"], 2, "7"),
        (["get", URL, "-O", "-", "--json"], 2, "-O -"),
        (["get", URL, "-O", "no/such/directory/f"], 8, "does not exist"),
        (["get", URL, "-O", "/"], 8, "is a directory"),
        (["export", URL], 2, "--output"),
        (["export", "word", "-O", "x"], 2, "not a URL"),
        (["stat", "word"], 2, "not a URL"),
        (["import", "no-such-file"], 2, "no-such-file"),
        (["serve"], 2, "ROLE"),
        (["serve", "pear"], 2, "did you mean 'peer'"),
        (["serve", "peer", "--scheduler", "host:4000"], 2, "http://host:4000"),
        (["serve", "peer", "--port", "70000"], 2, "70000"),
        (["serve", "peer", "--config", "no-such.toml"], 2, "no-such.toml cannot be read"),
    ],
)
def test_mistake_has_its_exit_code_and_says_what_to_do(
    arguments: list[str],
    code: int,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    returned = run(arguments)
    out, err = capfd.readouterr()
    assert (returned, out) == (code, "")
    told(subprocess.CompletedProcess(arguments, returned, b"", err.encode()))
    assert part in err


def test_existing_output_is_refused_before_anything_is_fetched(
    hawker: CommandLine, daemon: FakeDaemon
) -> None:
    (hawker.home / "file").write_text("mine")
    done = hawker("get", URL, "--data", str(hawker.data))
    assert done.returncode == 8
    assert "--overwrite" in told(done)
    assert daemon.requests == []
    assert (hawker.home / "file").read_text() == "mine"


def test_control_characters_do_not_reach_the_terminal(hawker: CommandLine) -> None:
    done = hawker("get", "http://host/\x1b[2Jx\x07")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr and b"\x07" not in done.stderr


def test_no_daemon_at_the_named_endpoint_is_told(hawker: CommandLine) -> None:
    done = hawker("ls", "-e", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "no daemon answers" in told(done)
    done = hawker("get", URL, "-e", str(hawker.home / "no.sock"))
    assert done.returncode == 1
    assert "hawker up" in told(done)


def test_import_without_daemon_says_that_one_is_needed(hawker: CommandLine) -> None:
    (hawker.home / "file").write_text("x")
    done = hawker("import", "file", "--data", str(hawker.data))
    assert done.returncode == 1
    assert "hawker up" in told(done)


def test_daemon_that_breaks_the_connection_is_told(hawker: CommandLine, daemon: FakeDaemon) -> None:
    del daemon.stats
    done = hawker("ls", "--data", str(hawker.data))
    assert done.returncode == 1
    assert "hawker.sock failed" in told(done)
