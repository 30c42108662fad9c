"""`hawker get` and a daemon: what it asks, what it writes, and how it ends when things go badly."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.apps.cli.conftest import Command, CommandLine, FakeDaemon

URL = "http://origin.test/dir/file.bin?v=1"
CONTENT = random.Random(7).randbytes(3_000_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def read(pipe: IO[bytes] | None, size: int = -1) -> bytes:
    assert pipe is not None
    return pipe.read(size)


def leftovers(hawker: CommandLine) -> list[str]:
    return sorted(set(os.listdir(hawker.home)) - {"data"})


Get = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def get(command: Command) -> Get:
    return functools.partial(command, "get", URL)


def test_content_is_transferred_where_no_path_is_given(
    hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    done = get()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (hawker.home / "file.bin").read_bytes() == CONTENT
    assert leftovers(hawker) == ["file.bin"]
    assert daemon.requests[1][:2] == (
        "GET",
        f"/peer/v1/tasks/{'ab' * 32}/{'cd' * 8}/content",
    )


def test_stored_file_is_delivered_where_its_path_is_given(
    hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    stored = hawker.data / "stored"
    stored.write_bytes(CONTENT)
    daemon.steps[-1]["path"] = str(stored)
    done = get("-O", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert (hawker.home / "out").read_bytes() == CONTENT
    assert stored.read_bytes() == CONTENT
    result = json.loads(done.stdout)
    assert result["bytes"] == result["from_seeds"] == len(CONTENT)
    assert (result["path"], result["through"]) == ("out", "daemon")
    assert len(daemon.requests) == 1


def test_hard_link_is_one_file(hawker: CommandLine, get: Get, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    stored = hawker.data / "stored"
    stored.write_bytes(CONTENT)
    stored.chmod(0o444)
    daemon.steps[-1]["path"] = str(stored)
    done = get("-O", "out", "--force-hard-link")
    assert done.returncode == 0, done.stderr
    assert (hawker.home / "out").samefile(stored)
    assert json.loads(daemon.requests[0][3])["hard_link"] is True


def test_hard_link_without_a_path_is_an_output_failure(
    hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    done = get("-O", "out", "--force-hard-link")
    assert done.returncode == 8
    assert leftovers(hawker) == []


def test_request_carries_every_option(get: Get, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    arguments = "--tag t --application a -p 3 --timeout 15m --disable-back-to-source".split()
    filtered = "--filtered-query-param x --filtered-query-param y".split()
    done = get(*arguments, *filtered, "--digest", SHA256, "--token", "secret")
    assert done.returncode == 0, done.stderr
    assert json.loads(daemon.requests[0][3]) == {
        "url": URL,
        "tag": "t",
        "application": "a",
        "priority": 3,
        "timeout": 900.0,
        "disable_back_to_source": True,
        "filtered_query_params": ["x", "y"],
        "digest": SHA256,
        "pin": True,
    }
    assert daemon.headers[0]["authorization"] == "Bearer secret"


def test_content_named_by_its_digest_is_checked_by_it(command: Command, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    done = command("get", SHA256, "-O", "out")
    assert done.returncode == 0, done.stderr
    request = json.loads(daemon.requests[0][3])
    assert request["url"] == request["digest"] == SHA256


@pytest.mark.parametrize("overwrite", [False, True])
def test_truncated_content_never_appears(
    overwrite: bool, hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    daemon.promised = len(CONTENT) + 1
    if overwrite:
        (hawker.home / "file.bin").write_bytes(b"old")
    done = get(*(["--overwrite"] if overwrite else []))
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    if overwrite:
        assert (hawker.home / "file.bin").read_bytes() == b"old"
    assert leftovers(hawker) == (["file.bin"] if overwrite else [])


def test_content_of_another_length_than_told_never_appears(
    hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    daemon.steps[-1]["total"] = len(CONTENT) + 1
    done = get()
    assert done.returncode == 1
    assert leftovers(hawker) == []


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("digest-mismatch", 502, 5),
        ("not-found", 404, 3),
        ("forbidden", 403, 4),
        ("origin-refused", 403, 4),
        ("origin-failed", 502, 6),
        ("not-here-yet", 503, 7),
        ("quota", 507, 1),
    ],
)
def test_problem_at_the_end_has_its_exit_code(
    code: str, status: int, exit_code: int, hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    problem = {"type": f"urn:hawker:problem:{code}", "title": "t", "status": status}
    daemon.steps[-1] = {"task": "ab" * 32, "problem": problem | {"detail": "why it failed"}}
    done = get()
    assert (done.returncode, done.stdout) == (exit_code, b"")
    assert done.stderr == b"hawker: why it failed\n"
    assert leftovers(hawker) == []


def test_daemon_that_goes_away_is_told(hawker: CommandLine, get: Get, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    del daemon.steps[-1]
    done = get()
    assert done.returncode == 1
    assert b"it continues" in done.stderr
    assert leftovers(hawker) == []


def test_answer_of_something_else_is_no_usage_error(get: Get, daemon: FakeDaemon) -> None:
    daemon.steps = [{"nonsense": 1}]
    done = get()
    assert done.returncode == 1
    assert b"Hawker daemon" in done.stderr and done.stderr.count(b"\n") == 1


def test_deadline_ends_a_download_that_stands_still(
    hawker: CommandLine, get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    daemon.hold = threading.Event()
    done = get("--timeout", "0.3")
    assert done.returncode == 7
    assert leftovers(hawker) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_nothing_behind(
    number: signal.Signals, code: int, hawker: CommandLine, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    daemon.hold = threading.Event()
    with hawker.start("get", URL, "--data", str(hawker.data)) as process:
        assert daemon.half_sent.wait(30)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert b"Traceback" not in err
    assert leftovers(hawker) == []


def test_standard_output_gets_bytes_before_the_end(hawker: CommandLine, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    daemon.hold = threading.Event()
    with hawker.start("get", URL, "-O", "-", "--tag", "t", "--data", str(hawker.data)) as process:
        assert read(process.stdout, 1_000_000) == CONTENT[:1_000_000]
        daemon.hold.set()
        assert read(process.stdout) == CONTENT[1_000_000:]
        assert (process.wait(timeout=30), read(process.stderr)) == (0, b"")
    assert daemon.requests[0][1:3] == ("/peer/v1/content", {"url": [URL], "tag": ["t"]})
    assert daemon.headers[0]["prefer"] == "wait=7200"


@pytest.mark.parametrize(
    "option", [["--disable-back-to-source"], ["-p", "2"], ["--filtered-query-param", "v"]]
)
def test_options_that_a_plain_read_lacks_are_kept_for_standard_output(
    option: list[str], get: Get, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    done = get("-O", "-", *option)
    assert (done.returncode, done.stdout) == (0, CONTENT)
    assert daemon.requests[0][1] == "/peer/v1/downloads"
    assert json.loads(daemon.requests[0][3]).keys() > {"url", "pin"}


def test_truncated_standard_output_is_a_failure(get: Get, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    daemon.promised = len(CONTENT) + 1
    done = get("-O", "-")
    assert done.returncode == 1
    assert CONTENT.startswith(done.stdout)


def test_wrong_digest_on_standard_output_is_a_failure(get: Get, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    assert get("-O", "-", "--digest", SHA256).returncode == 0
    assert get("-O", "-", "--digest", "sha256:" + "0" * 64).returncode == 5


def test_interrupt_while_nobody_reads_standard_output(
    hawker: CommandLine, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    with hawker.start("get", URL, "-O", "-", "--data", str(hawker.data)) as process:
        assert read(process.stdout, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


def test_closed_standard_output_is_told(hawker: CommandLine, daemon: FakeDaemon) -> None:
    daemon.offer(CONTENT)
    with hawker.start("get", URL, "-O", "-", "--data", str(hawker.data)) as process:
        assert read(process.stdout, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 8
        assert read(process.stderr).count(b"\n") == 1


def test_cluster_key_in_the_data_directory_signs_for_the_local_socket(
    hawker: CommandLine, get: Get, command: Command, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    assert command("cluster", "key").returncode == 0
    assert get().returncode == 0
    from hawker.core.tokens import ClusterKey, read_key_file

    key = ClusterKey(read_key_file(hawker.data / "cluster.key"))
    token = daemon.headers[0]["authorization"].removeprefix("Bearer ")
    caller = key.check(token)
    assert caller.subject == "command-line"
    assert caller.may("downloads") and not caller.may("announce")


@pytest.mark.parametrize("quiet", [False, True])
def test_terminal_shows_progress_and_where_bytes_came_from(
    quiet: bool, hawker: CommandLine, daemon: FakeDaemon
) -> None:
    daemon.offer(CONTENT)
    daemon.steps.insert(1, daemon.steps[0] | {"valid_bytes": 1_000_000, "from_origin": 1_000_000})
    daemon.hold = threading.Event()
    terminal, theirs = os.openpty()
    flags = ["--no-progress"] if quiet else []
    with hawker.start(
        *("get", URL, "-O", "[bold]", "--data", str(hawker.data), *flags),
        stderr=theirs,
        environ={"TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        assert daemon.half_sent.wait(30)
        daemon.hold.set()
        shown = b""
        # A terminal whose other end is closed is an error to read, not an end.
        with contextlib.suppress(OSError):
            while part := os.read(terminal, 65536):
                shown += part
        assert process.wait(timeout=30) == 0
    os.close(terminal)
    last = shown.decode().splitlines()[-1]
    assert "saved [bold] (3.0 MB in " in last and "origin 0, seeds 3.0 MB, peers 0)" in last
    assert (b"\x1b" in shown) is not quiet
