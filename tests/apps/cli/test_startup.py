"""A command imports what it needs and no more: start-up time is part of every use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hawker.apps.cli import PLACES, hawker, run

HEAVY = {"httpx", "starlette", "hypercorn", "rich", "sqlite3", "joserfc", "hawker.core.transfer"}


def imported_by(*arguments: str) -> set[str]:
    script = "import sys; from hawker.apps.cli import run; run(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, check=True, timeout=60
    )
    return set(done.stdout.decode().splitlines()[-1].split())


def test_help_imports_no_command() -> None:
    modules = imported_by("--help")
    assert not modules & HEAVY
    assert not [name for name in modules if name.endswith(("_command", "_commands"))]


@pytest.mark.parametrize(
    "arguments", [["config", "show"], ["get", "--help"], ["serve", "--help"], ["get", "no-url"]]
)
def test_light_command_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not imported_by(*arguments) & HEAVY


@pytest.mark.parametrize("name", PLACES)
def test_every_command_of_the_table_can_be_imported(name: str) -> None:
    assert hawker.get_command(hawker.make_context("hawker", [name]), name) is not None


def test_without_a_command_help_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    out = capfd.readouterr().out
    assert all(f"  {name} " in out for name in PLACES)


def test_version_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capfd.readouterr().out.startswith("hawker 0.")
