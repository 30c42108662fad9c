"""What no command foresees: one line that says so, the traceback only on request."""

from __future__ import annotations

import click
import pytest

from hawker.apps import cli
from hawker.apps.cli.options import Session, pass_session
from hawker.core.errors import NotFound


@click.command()
@pass_session
def broken(session: Session) -> None:
    session.load()
    raise RuntimeError("unforeseen")


@click.command()
def grouped() -> None:
    raise ExceptionGroup("tasks", [ExceptionGroup("inner", [NotFound("no such thing")])])


@click.command()
def full() -> None:
    raise OSError(28, "No space left on device", "/data/file")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("broken", "grouped", "full"):
        monkeypatch.setitem(cli.hawker.places, name, (f"{__name__}:{name}", ""))
    monkeypatch.setattr("hawker.apps.cli.lazy.import_module", lambda name: _Here)


class _Here:
    broken, grouped, full = broken, grouped, full


def test_unforeseen_failure_is_called_a_bug(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["broken"]) == 1
    err = capfd.readouterr().err
    assert err.startswith("hawker: RuntimeError: unforeseen (this is a bug; HAWKER_")
    assert "Traceback" not in err


def test_traceback_is_shown_at_log_level_debug(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_TELEMETRY__LOG_LEVEL", "debug")
    assert cli.run(["broken"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_failure_inside_groups_keeps_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["grouped"]) == 3
    assert capfd.readouterr().err == "hawker: no such thing\n"


def test_refusal_of_the_machine_is_no_bug(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["full"]) == 1
    assert capfd.readouterr().err == "hawker: /data/file: No space left on device\n"
