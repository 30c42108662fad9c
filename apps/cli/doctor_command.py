"""`hawker doctor`: is this machine, with these settings, fit to run?"""

from __future__ import annotations

import click
import msgspec

from hawker.apps.cli.options import (
    Session,
    json_option,
    pass_session,
    run_async,
    serving_options,
)
from hawker.apps.cli.text import printable
from hawker.core.version import version


@click.command()
@click.option("--origin", default="", metavar="URL", help="Also read a byte of this origin.")
@json_option
@serving_options
@pass_session
def doctor(session: Session, origin: str, as_json: bool) -> int:
    """Check disk, ports, clocks, certificates, plugins and limits; exit 1 where a check failed.

    Takes the flags and settings that `hawker serve` takes. May run beside a daemon.
    """
    from hawker.apps.cli.doctor import examine

    findings = run_async(examine(session.settings, origin))
    if as_json:
        told = {"version": version(), "findings": findings}
        click.echo(msgspec.json.encode(told))
    else:
        for finding in findings:
            click.echo(f"{finding.state:8} {finding.name}: {printable(finding.found)}")
            if finding.hint:
                click.echo(f"{'':8} -> {printable(finding.hint)}")
    return int(any(finding.state == "failed" for finding in findings))
