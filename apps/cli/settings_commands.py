"""`hawker config` and `hawker cluster`: settings and the cluster's key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import msgspec

from hawker.apps.cli.options import (
    Session,
    common_options,
    json_option,
    pass_session,
    serving_options,
)
from hawker.apps.cli.text import table

MASK = "********"
_SECRET = re.compile(
    r"token|secret|password|passwd|credential|private|api_?key|access_?key|authorization|cookie",
    re.IGNORECASE,
)


@click.group(no_args_is_help=False)
def config() -> None:
    """Show the settings and where they come from."""


@config.command()
@json_option
@serving_options
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Print every setting, its value and its origin; secrets are masked.

    The origin is `default`, `flag`, the name of a variable or the configuration file. Flags are
    taken as by `serve`.
    """
    rows = [(key, _masked(key, value), origin) for key, value, origin in session.load().rows()]
    if as_json:
        named = [dict(zip(("key", "value", "origin"), row, strict=True)) for row in rows]
        click.echo(msgspec.json.encode(named))
    else:
        shown = [(key, msgspec.json.encode(value).decode(), origin) for key, value, origin in rows]
        click.echo(table(("KEY", "VALUE", "ORIGIN"), shown))


def _masked(key: str, value: Any) -> Any:
    """The value without secrets; plugins' options hold them under names of their own."""
    if isinstance(value, dict):
        return {name: _masked(str(name), inner) for name, inner in value.items()}
    name = key.rpartition(".")[2]
    return MASK if value and isinstance(value, str | list) and _SECRET.search(name) else value


@click.group(no_args_is_help=False)
def cluster() -> None:
    """Make the key that a cluster's hosts share."""


@cluster.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@common_options
@pass_session
def key(session: Session, file: Path | None) -> None:
    """Make a new cluster key in FILE and print its path.

    Hosts that hold the same key work together without a manager: copy the file to each of them
    and name it with --cluster-key. Without FILE it goes where `up` and `serve` look for it.
    """
    # joserfc comes with it; `config show` has no use for that.
    from hawker.core.tokens import create_key_file

    path = file or session.settings.cluster_key_file
    create_key_file(path)
    click.echo(path)
