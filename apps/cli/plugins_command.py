"""`hawker plugins`: which plugins there are, and which of them work."""

from __future__ import annotations

import click
import msgspec

from hawker.apps.cli.options import Session, common_options, json_option, pass_session
from hawker.apps.cli.text import printable, table

HEAD = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "STATE", "REASON")


@click.command()
@json_option
@common_options
@pass_session
def plugins(session: Session, as_json: bool) -> None:
    """Try every installed plugin by itself and report its state.

    A plugin that cannot be used is left out when Hawker runs; the reason is shown.
    """
    from hawker.core.registry import PluginHost

    rows = PluginHost(session.load().settings).report()
    if as_json:
        click.echo(msgspec.json.encode(rows))
    else:
        click.echo(
            table(HEAD, [[printable(cell) for cell in msgspec.structs.astuple(r)] for r in rows])
        )
